from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from common.jobs import Class
from tests.builders import a_job
from tests.worker.claims import a_claim
from worker.engine import sequence
from worker.engine.scheduler import Room, Scheduler
from worker.engine.sequence import Bounds
from worker.engine.work import Work, work_of

_MUCH = 10**6


class _Desk:
    """A scheduler, and works by name."""

    def __init__(self, slots: int) -> None:
        self.now = 0.0
        self.scheduler = Scheduler(slots)
        self.works: dict[str, Work] = {}

    def add(self, name: str, cls: Class = "normal", n: int = 1, *, prompt: int = 3, **claim: Any) -> None:
        job = a_job(cls=cls, n=n, prompts=((1,) * prompt,))
        work = work_of(replace(a_claim(job), **claim), len(self.works), Bounds(_MUCH, ()))
        self.works[name] = work
        self.scheduler.add(work, self.now)

    def remove(self, name: str) -> None:
        self.scheduler.remove(self.works[name].claim.job.id)

    def admit(self, tokens: int = _MUCH) -> list[str]:
        """After a step in which all who run have read what there was."""
        for one in self.scheduler.running:
            one.has_read(one.left)
        self.scheduler.vacated()
        return self._names(self.scheduler.admit(tokens, self.now))

    @property
    def running(self) -> list[str]:
        return self._names(self.scheduler.running)

    def _names(self, sequences: Sequence[sequence.Sequence]) -> list[str]:
        ids = {work.claim.job.id: name for name, work in self.works.items()}
        return [ids[one.job_id] for one in sequences]


def test_a_higher_class_enters_first_and_within_a_class_who_came_first() -> None:
    desk = _Desk(5)
    for name, cls in (
        ("b1", "batch"),
        ("n1", "normal"),
        ("i1", "interactive"),
        ("n2", "normal"),
        ("i2", "interactive"),
    ):
        desk.add(name, cls)  # type: ignore[arg-type]  # mypy widens the names of classes

    assert desk.admit() == ["i1", "i2", "n1", "n2", "b1"]


def test_the_sequences_of_a_job_enter_one_by_one_as_slots_free() -> None:
    desk = _Desk(3)
    desk.add("one")
    desk.add("many", n=4)

    assert desk.admit() == ["one", "many", "many"]
    assert desk.admit() == []
    desk.remove("one")
    assert desk.admit() == ["many"]
    desk.scheduler.leave(desk.scheduler.running[0], 0.0)
    assert desk.admit() == ["many"]


def test_slots_are_never_given_twice() -> None:
    desk = _Desk(4)
    for name in "abcdef":
        desk.add(name)
    desk.admit()
    desk.remove("b")
    desk.remove("d")

    assert desk.admit() == ["e", "f"]
    assert sorted(one.slot for one in desk.scheduler.running if one.slot is not None) == [0, 1, 2, 3]


def test_a_slot_that_was_given_up_is_free_only_when_the_model_knows() -> None:
    desk = _Desk(1)
    desk.add("a")
    desk.add("b")
    desk.admit()
    desk.remove("a")

    assert desk.scheduler.admit(_MUCH, 0.0) == []
    assert desk.scheduler.vacated() == [0]
    assert desk.scheduler.vacated() == []
    assert len(desk.scheduler.admit(_MUCH, 0.0)) == 1


def test_only_so_many_prompt_tokens_are_read_in_a_step_but_one_prompt_always() -> None:
    desk = _Desk(8)
    for name, length in (("long", 900), ("a", 40), ("b", 40), ("c", 40)):
        desk.add(name, prompt=length)

    assert desk.admit(100) == ["long"]
    assert desk.admit(50) == ["a", "b"]
    assert desk.admit(0) == ["c"]


def test_a_suspect_enters_alone_and_in_its_turn() -> None:
    desk = _Desk(8)
    desk.add("a")
    desk.add("suspect", n=2, attempts=1)
    desk.add("b")

    assert [desk.admit() for _ in range(5)] == [["a"], ["suspect"], ["suspect"], ["b"], []]


def test_one_slot_in_ten_is_kept_for_a_class_turn_and_ten_seconds() -> None:
    desk = _Desk(20)
    for name in ("b1", "b2", "b3"):
        desk.add(name, "batch", is_kept=True)
    desk.admit()

    assert desk.scheduler.park(20, "interactive", 0.0) == 1
    assert desk.running == ["b1", "b2"]
    desk.now = 10.0
    desk.admit()
    assert desk.scheduler.park(20, "interactive", 10.0) == 3


def test_a_job_of_many_choices_is_kept_where_none_is() -> None:
    desk = _Desk(4)
    desk.add("many", "normal", n=3, is_kept=True)
    desk.add("b", "batch", is_kept=True)
    desk.admit()

    assert desk.scheduler.park(4, "interactive", 0.0) == 1
    assert desk.running == ["many", "many", "many"]


@pytest.mark.parametrize(
    ("slots", "parked", "left"),
    [(1, 0, ["b1", "b2", "b2", "n1", "n2"]), (2, 1, ["b1", "n1", "n2"]), (4, 2, ["n1", "n2"]), (5, 3, ["n1"])],
)
def test_the_newest_whole_jobs_of_the_lowest_class_give_way(slots: int, parked: int, left: list[str]) -> None:
    desk = _Desk(6)
    desk.add("b1", "batch")
    desk.add("b2", "batch", n=2)
    desk.admit()
    desk.add("n1", "normal")
    desk.add("n2", "normal")
    desk.admit()

    assert desk.scheduler.park(slots, "interactive", 0.0) == parked
    assert desk.running == left


def test_no_class_gives_way_to_itself_or_to_a_lower_one() -> None:
    desk = _Desk(2)
    desk.add("n", "normal")
    desk.add("i", "interactive")
    desk.admit()

    assert desk.scheduler.park(1, "normal", 0.0) == 0
    assert desk.scheduler.park(1, "batch", 0.0) == 0
    assert desk.running == ["i", "n"]


def test_a_parked_job_comes_back_before_later_ones_of_its_class() -> None:
    desk = _Desk(1)
    desk.add("old", "batch")
    desk.admit()
    desk.add("new", "batch")
    desk.add("urgent", "interactive")

    desk.scheduler.park(1, "interactive", 0.0)

    assert desk.admit() == ["urgent"]
    desk.remove("urgent")
    assert desk.admit() == ["old"]


def test_jobs_that_have_been_parked_for_long_can_be_named() -> None:
    desk = _Desk(2)
    desk.add("a", "batch")
    desk.add("b", "batch")
    desk.admit()
    desk.scheduler.park(1, "interactive", 10.0)
    desk.scheduler.park(2, "interactive", 20.0)

    assert desk.scheduler.parked_before(9.9) == []
    assert desk.scheduler.parked_before(10.0) == [desk.works["b"]]
    desk.admit()
    assert desk.scheduler.parked_before(99.0) == []
    desk.add("c", "batch")  # there before its slot
    desk.add("d", "normal")
    assert desk.scheduler.parked_before(99.0) == [desk.works["c"]]


def test_the_room_says_what_is_left_and_for_whom() -> None:
    desk = _Desk(4)
    assert desk.scheduler.room(None) == Room(4, 4, frozenset(), None)

    desk.add("n", "normal")
    desk.add("b", "batch", n=2)
    desk.admit()
    desk.add("i", "interactive", n=3)

    assert desk.scheduler.room(None) == Room(4, -2, frozenset({"interactive"}), "batch")
    desk.remove("b")
    assert desk.scheduler.room(None) == Room(4, 0, frozenset({"interactive"}), "normal")
    desk.admit()
    assert desk.scheduler.room(None) == Room(4, 0, frozenset(), "normal")
    assert [desk.scheduler.room(ends).soon for ends in (5.0, 40.0, 9999.0)] == [0, 2, 4]


def test_where_memory_is_short_fewer_run_until_nothing_is_left_to_do() -> None:
    desk = _Desk(4)
    desk.add("n", "normal")
    desk.add("b1", "batch", n=2)
    desk.add("b2", "batch")
    desk.admit()
    assert desk.running == ["n", "b1", "b1", "b2"]

    desk.scheduler.shrink(0.0)

    assert (desk.running, desk.admit()) == (["n", "b1", "b1"], [])
    assert desk.scheduler.room(None).free == -1
    desk.scheduler.shrink(0.0)
    desk.scheduler.shrink(0.0)  # who is alone stays
    assert (desk.running, desk.admit(), desk.scheduler.parked) == (["n"], [], 2)
    desk.remove("n")
    assert [desk.admit() for _ in range(2)] == [["b1"], []]
    for name in ("b1", "b2"):
        desk.remove(name)
    assert desk.scheduler.room(None) == Room(4, 4, frozenset(), None)


# the job's time ----------------------------------------------------------------------------------------------------
def test_a_parked_jobs_time_stands_still() -> None:
    scheduler = Scheduler(2)
    work = work_of(a_claim(a_job(n=2, cls="batch", max_time_s=20.0), since_s=5.0), 0, Bounds(_MUCH, ()))
    scheduler.add(work, 0.0)
    assert work.clock.spent_s(10.0) == 5
    scheduler.admit(_MUCH, 10.0)

    scheduler.park(2, "normal", 15.0)
    scheduler.vacated()

    assert (work.clock.spent_s(100.0), [*scheduler.late(100.0)]) == (10, [])
    scheduler.admit(_MUCH, 100.0)
    assert (work.clock.is_up(109.9), work.clock.is_up(110.0)) == (False, True)
    scheduler.park(2, "normal", 110.0)
    assert [*scheduler.late(110.0)] == [*work.sequences]


def test_choices_that_take_turns_in_few_slots_share_one_time() -> None:
    scheduler = Scheduler(2)
    work = work_of(a_claim(a_job(n=4, max_time_s=20.0)), 0, Bounds(_MUCH, ()))
    scheduler.add(work, 0.0)
    first, second = scheduler.admit(_MUCH, 10.0)
    first.is_finished = second.is_finished = True

    scheduler.leave(first, 15.0)
    assert work.clock.spent_s(17.0) == 7
    scheduler.leave(second, 18.0)
    assert work.clock.spent_s(50.0) == 8

    scheduler.vacated()
    scheduler.admit(_MUCH, 50.0)
    assert (work.clock.is_up(61.9), work.clock.is_up(62.0)) == (False, True)
