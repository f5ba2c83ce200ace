"""Batch rows wait for a person's prompt, in a step that begins and in one that is under way, and lose nothing by it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from common.jobs import Delta, Job
from tests.worker import tiny
from tests.worker.asked import asked, is_what_generate_says
from tests.worker.claims import Marks, Watched, a_claim, alone, an_engine, counting, finish, keys, spelled
from worker.engine.model import Drawn, Feed


def _read(step: Sequence[Feed], job: Job) -> bool:
    return any(feed.draw.key in keys(job) for feed in step)


def _who(model: Watched, *jobs: Job) -> list[str]:
    """Of each step, the places of the jobs that read in it."""
    return ["".join(str(at) for at, job in enumerate(jobs) if _read(step, job)) for step in model.steps]


class _Visited(Watched):
    """Somebody comes in the middle of some steps."""

    def __init__(self, *, slots: int = 4) -> None:
        super().__init__(slots)
        self.visits: dict[int, Callable[[], None]] = {}

    def step(self, feeds: Sequence[Feed]) -> Mapping[int, Drawn]:
        self.visits.get(len(self.steps), lambda: None)()
        return super().step(feeds)


def test_batch_rows_are_left_out_of_the_step_that_reads_a_persons_prompt() -> None:
    batch, person = counting("1 ", 9, seed=1, cls="batch"), counting("5 ", 9, seed=2, cls="interactive")
    model = Watched()
    engine, notes = an_engine(model, batch)
    engine.step()

    engine.add(a_claim(person))
    for _ in range(2):
        engine.step()

    assert _who(model, batch, person) == ["0", "1", "01"]
    finish(engine)
    assert [notes.text(job) for job in (batch, person)] == [alone(batch), alone(person)]


def test_nobody_waits_in_a_step_that_reads_no_prompt_of_a_higher_class() -> None:
    first, second = (counting("1 ", 9, seed=seed, cls="batch") for seed in (1, 2))
    person = counting("5 ", 9, seed=3, cls="normal")
    model = Watched()
    engine, _ = an_engine(model, first, person)
    engine.step()
    engine.step()

    engine.add(a_claim(second))
    engine.step()

    assert _who(model, first, second, person) == ["2", "02", "012"]


def test_batch_rows_are_in_every_third_step_however_many_come() -> None:
    batch = counting("1 ", 20, seed=99, cls="batch")
    model = Watched(8)
    engine, notes = an_engine(model, batch)

    for seed in range(12):
        engine.add(a_claim(counting("5 ", 3, seed=seed, cls="interactive")))
        engine.step()
    finish(engine)

    are_in = [_read(step, batch) for step in model.steps[:12]]
    assert are_in == [False, False, True] * 4
    assert notes.text(batch) == alone(batch)


def test_a_step_of_batch_rows_alone_is_broken_off_for_whoever_comes() -> None:
    batch, person = counting("1 ", 9, seed=1, cls="batch"), counting("5 ", 9, seed=2, cls="normal")
    model = _Visited()
    engine, notes = an_engine(model, batch)
    model.visits[1] = lambda: engine.add(a_claim(person))

    for _ in range(4):
        engine.step()

    assert _who(model, batch, person) == ["0", "0", "1", "01"]
    assert len(notes.outputs) == 4  # one of the first step, none of the second, one, two
    finish(engine)
    assert [notes.text(job) for job in (batch, person)] == [alone(batch), alone(person)]


def test_a_step_is_not_broken_off_for_more_batch_rows_or_where_others_are_in_it() -> None:
    for mate, comes in (("batch", "batch"), ("normal", "interactive")):
        jobs = [
            counting("1 ", 9, seed=seed, cls=cls) for seed, cls in ((1, "batch"), (2, mate), (3, comes))
        ]  # the first two run
        model = _Visited()
        engine, notes = an_engine(model, *jobs[:2])
        late = a_claim(jobs[2])
        model.visits[3] = lambda engine=engine, late=late: engine.add(late)  # type: ignore[misc]

        for _ in range(4):
            engine.step()

        assert _who(model, *jobs)[3] == "01"
        assert len(notes.deltas(jobs[0])) + len(notes.deltas(jobs[1])) == 7 + (mate == "batch")
        finish(engine)
        assert [notes.text(job) for job in jobs] == [alone(job) for job in jobs]


def test_a_step_that_follows_one_that_was_broken_off_comes_to_its_end() -> None:
    batch = counting("1 ", 20, seed=99, cls="batch")
    people = [counting("5 ", 1, seed=seed, cls="interactive") for seed in range(4)]
    model = _Visited()
    engine, notes = an_engine(model, batch)
    model.visits = {at: lambda one=one: engine.add(a_claim(one)) for at, one in zip((1, 3, 5, 7), people, strict=True)}  # type: ignore[misc]

    for _ in range(9):
        engine.step()

    # broken off, a person's, one that comes to its end although the next is there, that one's, and so on
    assert _who(model, batch, *people)[1:5] == ["0", "1", "0", "2"]
    assert len(notes.deltas(batch)) >= 3
    finish(engine)
    assert notes.text(batch) == alone(batch)


def test_a_suspects_step_is_its_own_however_many_come() -> None:
    batch, suspect = counting("1 ", 9, seed=98, cls="batch"), counting("5 ", 9, seed=99, cls="batch")
    people = [counting("5 ", 1, seed=seed, cls="interactive") for seed in range(4)]
    model = _Visited(slots=8)
    engine, notes = an_engine(model, batch)
    engine.step()
    engine.step()

    engine.add(a_claim(suspect, attempts=1))
    model.visits = {at: lambda one=one: engine.add(a_claim(one)) for at, one in enumerate(people, 2)}  # type: ignore[misc]
    finish(engine)

    assert _who(model, suspect, *people)[2:4] == ["0", "1"]
    assert notes.text(suspect) == alone(suspect)


def test_nobody_is_hot_after_a_step_that_was_broken_off() -> None:
    batch, person = counting("1 ", 9, seed=1, cls="batch"), counting("5 ", 9, seed=2, cls="normal")
    model, marks = _Visited(), Marks()
    engine, _ = an_engine(model, batch, hot=marks)
    model.visits[1] = lambda: engine.add(a_claim(person))

    engine.step()
    engine.step()

    assert marks.told == [{batch.id}, set(), {batch.id}, set()]


def test_one_who_ends_at_once_breaks_nothing_off() -> None:
    batch, person = counting("1 ", 9, seed=1, cls="batch"), counting("5 ", 9, seed=2, cls="normal")
    said = (Delta("6", spelled("6"), 0, "stop"),)
    model = _Visited()
    engine, notes = an_engine(model, batch)
    model.visits[1] = lambda: engine.add(a_claim(person, said))

    engine.step()
    engine.step()

    assert len(notes.deltas(batch)) == 2


def test_a_forward_that_was_broken_off_between_layers_says_the_same_when_it_is_done_again() -> None:
    name = "llama"
    lengths = ((5, 20), (40, 30), (9, 13))
    jobs = [replace(asked(length, most), cls="batch") for length, most in lengths]
    people = [asked(length, 3) for length in (7, 33, 12)]
    model = tiny.packed(name, slots=8)
    engine, notes = an_engine(model, *jobs)
    layers, seen = model._model.model.layers, [0]

    def come(*_: Any) -> None:
        seen[0] += 1
        if seen[0] in (4, 9, 15):
            engine.add(a_claim(people[len(came)]))
            came.append(model.way.is_set())

    came: list[bool] = []
    hook = layers[-1].register_forward_pre_hook(come)
    try:
        finish(engine)
    finally:
        hook.remove()

    assert came == [True] * 3
    assert is_what_generate_says(tiny.network(name), notes, [*jobs, *people])
