import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence

import pytest
import torch

from common.jobs import Delta, Done, Failed, Job
from tests.builders import a_job
from tests.waiting import until
from tests.worker.claims import (
    Marks,
    Notes,
    Watched,
    a_claim,
    an_engine,
    answers,
    counting,
    finish,
    is_failed,
    keys,
    spelled,
)
from worker.engine.engine import Engine, Output
from worker.engine.model import Drawn, Feed
from worker.models.counting import CONTEXT

_WAIT_S = 20.0


def _breaks_at(job: Job, said: str = "") -> Callable[[Feed], bool]:
    """The steps after this job has said so much."""
    position = len(job.prompts[0]) + len(spelled(said))
    return lambda feed: feed.draw.key in keys(job) and feed.position + len(feed.tokens) >= position


@pytest.mark.parametrize("culprit", [0, 1, 2, 3, 4])
@pytest.mark.parametrize("said", ["", "2", "2 3"])
def test_whoever_breaks_a_step_fails_alone(culprit: int, said: str) -> None:
    jobs = [counting("1 ", 10, seed=seed) for seed in range(1, 6)]
    engine, notes = an_engine(Watched(5, breaks=_breaks_at(jobs[culprit], said)), *jobs)

    finish(engine)

    assert [is_failed(notes, job) for job in jobs] == [at == culprit for at in range(5)]
    assert [notes.text(job) for job in jobs] == [said if at == culprit else "2 3 4 5 6 " for at in range(5)]
    assert engine.counters["failed"] == 1


def test_the_search_for_whoever_broke_a_step_is_not_taken_for_one_that_hangs() -> None:
    jobs = [counting("1 ", 10, seed=seed) for seed in range(1, 9)]
    stalled = list[float]()

    class Slow(Watched):
        def step(self, feeds: Sequence[Feed]) -> Mapping[int, Drawn]:
            stalled.append(engine.stalled_s() or 0.0)
            time.sleep(0.1)  # what a forward takes
            return super().step(feeds)

    engine, _ = an_engine(Slow(8, breaks=_breaks_at(jobs[5])), *jobs)
    engine.step()

    assert len(stalled) > 5
    assert max(stalled) < 0.1


def test_two_that_break_a_step_fail_and_the_others_go_on() -> None:
    jobs = [counting("1 ", 10, seed=seed) for seed in range(1, 7)]
    first, second = _breaks_at(jobs[1], "2 "), _breaks_at(jobs[2], "2 ")
    engine, notes = an_engine(Watched(6, breaks=lambda feed: first(feed) or second(feed)), *jobs)

    finish(engine)

    assert [is_failed(notes, job) for job in jobs] == [False, True, True, False, False, False]
    assert {notes.text(job) for job in jobs if not is_failed(notes, job)} == {"2 3 4 5 6 "}


def test_a_newcomer_that_breaks_the_step_it_enters_disturbs_nobody() -> None:
    old, bad, good = (counting("1 ", 10, seed=seed) for seed in (1, 2, 3))
    engine, notes = an_engine(Watched(4, breaks=_breaks_at(bad)), old)
    engine.step()

    engine.add(a_claim(bad))
    engine.add(a_claim(good))
    finish(engine)

    assert [is_failed(notes, job) for job in (old, bad, good)] == [False, True, False]
    assert (notes.text(old), notes.text(good)) == ("2 3 4 5 6 ", "2 3 4 5 6 ")


class _Silent(Watched):
    """Has no token where it should break."""

    def step(self, feeds: Sequence[Feed]) -> Mapping[int, Drawn]:
        told = dict(super(Watched, self).step(feeds))
        return told | {feed.slot: Drawn(None) for feed in feeds if self._breaks(feed)}


def test_a_sequence_without_a_token_fails_and_takes_its_job_along() -> None:
    bad, mate = counting("1 ", 6, n=2, seed=3), counting("1 ", 6, seed=4)
    second = keys(bad)[1]
    engine, notes = an_engine(_Silent(3, breaks=lambda feed: feed.draw.key == second and feed.position > 2), bad, mate)

    finish(engine)

    assert is_failed(notes, bad)
    assert [event for event in notes.events[bad.id] if not isinstance(event, Delta)] == notes.events[bad.id][-1:]
    assert notes.text(mate) == "2 3 4 "


class _Illiterate(Watched):
    """Cannot read what comes to a nine."""

    def decode(self, tokens: Sequence[int]) -> str:
        if "9" in (text := super().decode(tokens)):
            raise UnicodeError(text)
        return text


def test_a_text_that_cannot_be_decoded_fails_alone() -> None:
    bad, mate = counting("7 ", 8), counting("1 ", 8)
    engine, notes = an_engine(_Illiterate(), bad, mate)

    finish(engine)

    assert (notes.text(bad), is_failed(notes, bad)) == ("8 ", True)
    assert notes.text(mate) == "2 3 4 5 "


def test_a_log_that_cannot_be_taken_up_fails_alone() -> None:
    bad, mate = counting("7 ", 8), counting("1 ", 8)
    engine, notes = an_engine(_Illiterate(), mate)

    engine.add(a_claim(bad, [Delta("8 9", spelled("8 9"))]))
    finish(engine)

    assert is_failed(notes, bad)
    assert notes.text(mate) == "2 3 4 5 "


@pytest.mark.parametrize("length", [0, CONTEXT])
def test_a_prompt_that_leaves_no_room_fails_at_once(length: int) -> None:
    job = a_job(prompts=((1,) * length, (1,)))

    notes = answers(model := Watched(), a_claim(job))

    assert is_failed(notes, job)
    assert model.steps == []


def test_while_a_cause_is_looked_for_only_the_tried_are_hot() -> None:
    jobs = [counting("1 ", 3, seed=seed) for seed in range(1, 5)]
    engine, _ = an_engine(Watched(breaks=_breaks_at(jobs[0], "2")), *jobs, hot=(marks := Marks()))

    engine.step()
    engine.step()

    ids = [job.id for job in jobs]
    assert marks.told[2:] == [{*ids}, {*ids}, {*ids[:2]}, {ids[0]}, {ids[1]}, {*ids[2:]}, set()]


class _Deaf(Notes):
    """Does not take what it is told some of the times."""

    def __init__(self, refuses: Callable[[int], bool]) -> None:
        """``refuses``: whether it refuses the nth call, from 1."""
        super().__init__()
        self.calls = 0
        self.is_called_twice = threading.Event()
        self._refuses = refuses

    def __call__(self, outputs: Sequence[Output]) -> None:
        self.calls += 1
        if self.calls > 1:
            self.is_called_twice.set()
        if self._refuses(self.calls):
            raise OSError("nobody listens")
        super().__call__(outputs)


def test_a_loop_that_breaks_now_and_then_fails_those_who_ran_and_goes_on() -> None:
    engine = Engine(Watched(), notes := _Deaf(lambda call: call in {1, 4}))
    jobs = [counting("1 ", 9) for _ in range(3)]
    engine.start()

    idle = []
    for job in jobs:
        engine.add(a_claim(job))
        idle.append(engine.wait_idle(_WAIT_S))
    engine.stop(_WAIT_S)

    assert idle == [True] * 3
    assert [is_failed(notes, job) for job in jobs] == [True, True, False]
    assert [notes.text(job) for job in jobs] == ["2", "2 ", "2 3 4 5 6"]
    assert engine.stalled_s() is None


def test_a_loop_that_breaks_twice_in_a_row_is_given_up() -> None:
    engine = Engine(Watched(), sink := _Deaf(lambda _: True))
    engine.add(a_claim(counting("1 ", 9)))
    engine.start()

    told = sink.is_called_twice.wait(_WAIT_S)
    engine._thread.join(_WAIT_S)

    assert told
    assert not engine._thread.is_alive()
    assert (sink.calls, engine.stalled_s()) == (2, math.inf)


def test_a_step_in_which_somebody_fails_says_nothing_of_what_prompts_cost() -> None:
    broken = counting("5 ", 6, seed=2)
    engine, notes = an_engine(Watched(breaks=lambda feed: feed.draw.key in keys(broken)), broken)
    before = engine._pace.prefill_tokens

    finish(engine)

    assert is_failed(notes, broken)
    assert engine._pace.prefill_tokens == before


class _Small(Watched):
    """Has memory for steps of so many sequences."""

    def __init__(self, most: int, error: Exception) -> None:
        super().__init__(4)
        self._most, self._error = most, error
        self.relieved = 0

    def step(self, feeds: Sequence[Feed]) -> Mapping[int, Drawn]:
        if len(feeds) > self._most:
            raise self._error
        return super().step(feeds)

    def relieve(self) -> None:
        self.relieved += 1


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        RuntimeError("[enforce fail at alloc_cpu.cpp:127] . DefaultCPUAllocator: can't allocate memory"),
    ],
)
def test_where_memory_is_short_the_newest_wait_and_nobody_fails(error: Exception) -> None:
    jobs = [counting("1 ", 6, seed=seed) for seed in (1, 2, 3)]
    late = counting("1 ", 6, seed=4, cls="batch")
    model = _Small(3, error)
    engine, notes = an_engine(model, late, *jobs)

    finish(engine)

    assert [notes.text(job) for job in (*jobs, late)] == ["2 3 4 "] * 4
    assert not any(is_failed(notes, job) for job in (*jobs, late))
    assert [engine.counters[name] for name in ("out_of_memory", "preemptions", "failed")] == [1, 1, 0]
    assert model.relieved == 1
    assert all(feed.draw.key not in keys(late) for feed in model.steps[0])


def test_one_for_whom_memory_is_never_enough_fails_alone() -> None:
    jobs = [counting("1 ", 6, seed=seed) for seed in (1, 2, 3)]

    class _Never(_Small):
        def step(self, feeds: Sequence[Feed]) -> Mapping[int, Drawn]:
            if any(feed.draw.key in keys(jobs[1]) for feed in feeds):
                raise self._error
            return super().step(feeds)

    engine, notes = an_engine(_Never(4, MemoryError()), *jobs)

    finish(engine)

    assert [is_failed(notes, job) for job in jobs] == [False, True, False]
    assert [notes.text(job) for job in jobs] == ["2 3 4 ", "", "2 3 4 "]


def test_a_device_that_is_lost_fails_nobody_and_gives_the_process_up() -> None:
    """As after an error that a GPU does not recover from: the watch ends the process, others take the jobs."""
    lost = threading.Event()
    jobs = [counting("1 ", 400, seed=seed) for seed in (1, 2, 3)]
    model = Watched(query="step_ms=1", breaks=lambda _: lost.is_set())
    engine, notes = an_engine(model, *jobs, hot=(marks := Marks()))
    engine.start()
    until(lambda: len(model.steps) > 5)

    lost.set()
    until(lambda: engine.stalled_s() == math.inf)
    engine.stop(5)

    assert not any(isinstance(event, Failed | Done) for job in jobs for event in notes.events[job.id])
    assert marks.told[-1] == {job.id for job in jobs}
    assert {job_id for job_id, *_ in engine.release()} == {job.id for job in jobs}


def test_one_that_breaks_alone_fails_alone_also_where_it_is_the_only_one() -> None:
    bad, later = counting("1 ", 30), counting("5 ", 4, seed=9)
    engine, notes = an_engine(Watched(breaks=_breaks_at(bad)), bad)
    finish(engine)

    engine.add(a_claim(later))
    finish(engine)

    assert is_failed(notes, bad)
    assert notes.text(later) == "6 7 "


def test_what_the_sink_did_not_take_is_told_again() -> None:
    engine = Engine(Watched(), notes := _Deaf(lambda call: call == 1))
    engine.add(a_claim(job := counting("1 ", 2)))
    with pytest.raises(OSError, match="nobody listens"):
        engine.step()

    finish(engine)

    assert notes.text(job) == "2 "
    assert isinstance(notes.events[job.id][-1], Done)
