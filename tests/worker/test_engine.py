import threading
from collections.abc import Sequence

from common.errors import CancelledError
from common.jobs import Class, Delta, Done, Failed, Sampling, Usage
from tests.worker.claims import (
    Marks,
    Notes,
    Watched,
    a_claim,
    alone,
    an_engine,
    answers,
    counting,
    finish,
    keys,
    read,
    spelled,
)
from worker.engine.engine import Engine, Output
from worker.engine.model import Feed

_CANCELLED = Failed.of(CancelledError("The request was cancelled."))
_WAIT_S = 20.0


def _asked(step: Sequence[Feed]) -> set[int]:
    """Whose draws a step was to make."""
    return {feed.draw.key for feed in step}


def test_a_job_says_its_tokens_then_its_finish_then_its_usage() -> None:
    job = counting("7 ", 3)

    notes = answers(Watched(), a_claim(job))

    eight, space, nine = spelled("8 9")
    assert notes.events[job.id] == [
        Delta("8", (eight,)),
        Delta(" ", (space,)),
        Delta("9", (nine,)),
        Delta("", (), 0, "length"),
        Done(Usage(2, 3)),
    ]


def test_a_step_is_told_at_once_and_as_one() -> None:
    first, second = counting("1 "), counting("5 ")
    engine, notes = an_engine(Watched(), first, second)

    engine.step()

    assert notes.outputs == [
        Output(first.id, 1, (Delta("2", spelled("2")),)),
        Output(second.id, 1, (Delta("6", spelled("6")),)),
    ]


def test_jobs_come_and_go_while_others_run() -> None:
    jobs = [counting(f"{at} ", 4 + 5 * (at % 4), seed=at) for at in range(1, 12)]
    engine, notes = an_engine(Watched(3))

    for at, job in enumerate(jobs):
        engine.add(a_claim(job))
        for _ in range(at % 3):
            engine.step()
    finish(engine)

    assert {job.id: notes.text(job) for job in jobs} == {job.id: alone(job) for job in jobs}


def test_no_more_sequences_run_than_there_are_slots() -> None:
    model = Watched(3)
    engine, notes = an_engine(model, *(counting("1 ", 5, n=4, seed=seed) for seed in (1, 2)))

    finish(engine)

    assert max(len(step) for step in model.steps) == 3
    assert all(len({feed.slot for feed in step}) == len(step) for step in model.steps)
    assert [type(events[-1]) for events in notes.events.values()] == [Done, Done]


def test_a_prompt_is_read_once_and_then_a_token_a_step() -> None:
    model = Watched()

    answers(model, a_claim(counting("12 ", 3)))

    fed = [(read(step[0].tokens), step[0].position) for step in model.steps]
    assert fed == [("12 ", 0), ("1", 3), ("3", 4)]


def test_a_slot_is_free_before_the_next_step_when_its_job_was_cancelled() -> None:
    model = Watched(1)
    first, second = counting("1 ", 50), counting("5 ", 3)
    engine, notes = an_engine(model, first, second)
    engine.step()

    engine.end(first.id, _CANCELLED)
    engine.step()

    assert model.freed == [0]
    assert notes.events[first.id] == [Delta("2", spelled("2")), _CANCELLED]
    assert notes.text(second) == "6"


def test_a_job_that_is_over_cannot_be_ended_again() -> None:
    job = counting("1 ", 2)
    engine, notes = an_engine(Watched(), job)
    finish(engine)
    said = list(notes.events[job.id])

    engine.end(job.id, _CANCELLED)
    engine.drop([job.id])
    engine.step()

    assert notes.events[job.id] == said


def test_a_job_lost_to_another_worker_is_forgotten_silently() -> None:
    job, mate = counting("1 ", 50), counting("5 ", 4)
    engine, notes = an_engine(Watched(2), job, mate)
    engine.step()

    engine.drop([job.id])
    finish(engine)

    assert notes.events[job.id] == [Delta("2", spelled("2"))]
    assert notes.text(mate) == alone(mate)


def test_a_newer_claim_of_a_job_takes_the_place_of_the_older_one() -> None:
    job = counting("1 ", 6)
    engine, notes = an_engine(Watched(2), job)
    engine.step()

    engine.add(a_claim(job, notes.events[job.id], epoch=2))
    finish(engine)

    assert notes.text(job) == alone(job)
    assert [output.epoch for output in notes.outputs] == [1] + [2] * 5


def test_a_model_that_drops_a_job_between_two_steps_does_not_look_stalled() -> None:
    engine, _ = an_engine(Watched())
    engine.start()

    engine.add(a_claim(counting("1 ", 5)))
    assert engine.wait_idle(_WAIT_S)
    engine.add(a_claim(job := counting("1 ", 8_000)))
    engine.drop([job.id])
    idle = engine.wait_idle(_WAIT_S)
    engine.stop(_WAIT_S)

    assert idle
    assert engine.stalled_s() is None


def test_a_job_that_had_said_everything_is_only_closed() -> None:
    job = counting("1 ", 6)
    said = answers(Watched(), a_claim(job)).events[job.id][:-1]

    notes = answers(model := Watched(), a_claim(job, said))

    assert notes.events[job.id] == [Done(Usage(2, 6))]
    assert model.steps == []


def test_a_suspect_is_read_in_a_step_of_its_own() -> None:
    model = Watched(4)
    mates = [counting("1 ", 20, seed=seed) for seed in (1, 2)]
    suspect = counting("5 ", 20, n=2, seed=3)
    engine, notes = an_engine(model, mates[0])
    engine.step()

    engine.add(a_claim(suspect, attempts=1))
    engine.add(a_claim(mates[1]))
    finish(engine)

    first, second = keys(suspect)
    assert [_asked(step) for step in model.steps[1:3]] == [{first}, {second}]
    assert len(model.steps[3]) == 4
    assert [notes.text(job) for job in (*mates, suspect)] == [alone(job) for job in (*mates, suspect)]


def test_only_the_jobs_being_read_are_hot_and_all_of_them_when_none_is() -> None:
    first, second = (counting("1 ", 3, seed=seed) for seed in (1, 2))
    engine, _ = an_engine(Watched(), first, hot=(marks := Marks()))

    engine.step()
    engine.add(a_claim(second))
    finish(engine)

    assert marks.told == [{first.id}, set(), {second.id}, set(), {first.id, second.id}, set(), {second.id}, set()]


def test_a_parked_job_comes_back_with_the_same_text() -> None:
    for temperature in (0.0, 0.9):
        jobs = [counting("1 ", 20, n=2, seed=seed, sampling=Sampling(20, temperature), cls="batch") for seed in (1, 2)]
        engine, notes = an_engine(Watched(4), *jobs)
        for slots in (1, 2, 3, 4):
            engine.step()
            engine.add(a_claim(counting("5 ", 1, n=slots)))
        finish(engine)

        plain = answers(Watched(4), *map(a_claim, jobs))
        assert engine.counters["preemptions"] >= 4
        for job in jobs:
            assert [notes.text(job, choice) for choice in (0, 1)] == [plain.text(job, choice) for choice in (0, 1)]
            assert notes.events[job.id][-1] == plain.events[job.id][-1]


def test_a_higher_class_takes_the_slots_of_lower_ones_at_once() -> None:
    classes: tuple[Class, ...] = ("batch", "normal", "batch")
    low = [counting("1 ", 9, cls=cls, seed=seed) for seed, cls in enumerate(classes, 1)]
    engine, notes = an_engine(model := Watched(3), *low)
    engine.step()

    engine.add(a_claim(high := counting("5 ", 4, n=2)))
    engine.step()

    assert _asked(model.steps[1]) == {*keys(high), *keys(low[1])}
    finish(engine)
    assert {notes.text(job) for job in low} == {"2 3 4 5 6"}


def test_jobs_parked_for_long_are_given_back() -> None:
    job, mate = counting("1 ", 9, cls="batch"), counting("5 ", 9)
    engine, notes = an_engine(Watched(1), job)
    engine.step()
    engine.add(a_claim(mate))
    engine.step()

    assert engine.release_parked(3600) == ()
    assert [told[:2] for told in engine.release_parked(0)] == [(job.id, 1)]
    finish(engine)
    assert notes.events[job.id] == [Delta("2", spelled("2"))]


def test_a_worker_that_leaves_gives_back_what_is_unfinished() -> None:
    done, running, waiting = counting("1 ", 1), counting("1 ", 9, seed=2), counting("1 ", 9, seed=3)
    engine, notes = an_engine(Watched(2), done, running, waiting)
    engine.step()

    released = engine.release()
    finish(engine)

    assert [told[:2] for told in released] == [(running.id, 1), (waiting.id, 1)]
    assert released[0][2] > released[1][2] == 0  # seconds in a slot
    assert isinstance(notes.events[done.id][-1], Done)
    assert notes.text(running) == "2"
    assert engine.room().free == 2


def test_time_that_is_up_ends_a_job_with_its_length() -> None:
    job = counting("1 ", 50, max_time_s=1e-9)

    notes = answers(Watched(), a_claim(job))

    assert (notes.text(job), notes.finish(job)) == ("2", "length")


def test_choices_that_have_no_slot_when_the_time_is_up_end_without_one() -> None:
    job = counting("1 ", 50, n=6, max_time_s=1e-9)
    model = Watched(4)

    notes = answers(model, a_claim(job))

    late = [Delta("", (), choice, "length", why="max_time") for choice in range(6)]
    assert [notes.deltas(job, choice) for choice in range(4)] == [
        [Delta("2", spelled("2"), choice), late[choice]] for choice in range(4)
    ]
    assert [notes.deltas(job, choice) for choice in (4, 5)] == [[late[4]], [late[5]]]
    assert notes.events[job.id][-1] == Done(Usage(2, 4))
    assert len(model.steps) == 1


def test_time_that_a_worker_before_used_up_ends_a_job_behind_all_that_it_has_said() -> None:
    job = counting("1 ", 50, sampling=Sampling(50, 0.0, stop=("4 5 no",)), max_time_s=3)
    said = [Delta("2 3 ", spelled("2 3 ")), Delta("", spelled("4 5"))]
    model = Watched()

    notes = answers(model, a_claim(job, said, since_s=3.5))

    late = Delta("", (), 0, "length", why="max_time")
    assert notes.events[job.id] == [Delta("4 5", ()), late, Done(Usage(2, 7))]
    assert model.steps == []


def test_a_job_whose_time_is_up_waits_for_nobody() -> None:
    running, late = counting("1 ", 3), counting("5 ", 3, max_time_s=1)
    engine, notes = an_engine(Watched(1), running)
    engine.step()

    engine.add(a_claim(late, since_s=2))
    engine.step()

    assert notes.events[late.id][-1] == Done(Usage(2, 0))
    assert notes.text(running) == "2 "


def test_an_idle_engine_is_not_stalled_and_one_with_work_says_since_when() -> None:
    engine, _ = an_engine(Watched())
    before = engine.stalled_s()
    engine.add(a_claim(counting("1 ", 2)))
    during = engine.stalled_s()
    finish(engine)

    assert (before, engine.stalled_s()) == (None, None)
    assert during is not None
    assert 0 <= during < _WAIT_S


def test_steps_and_tokens_are_counted() -> None:
    engine, _ = an_engine(Watched(), counting("1 ", 3), counting("12 ", 5, n=2))

    finish(engine)

    told = {"steps": 5, "prompt_tokens": 5, "prefilled_tokens": 8, "generation_tokens": 13}
    assert {name: value for name, value in engine.counters.items() if value and not name.endswith("_s")} == told
    assert engine.tokens_per_s is not None


def test_a_cancellation_during_a_step_comes_after_what_was_said_before_it() -> None:
    job, mate = counting("1 ", 9), counting("5 ", 9)
    cancel: list[Engine] = []

    def breaks(feed: Feed) -> bool:
        if cancel and feed.position:
            cancel.pop().end(job.id, _CANCELLED)  # as another thread would, in the middle of the forward
        return False

    engine, notes = an_engine(Watched(breaks=breaks), job, mate)
    engine.step()
    cancel.append(engine)
    finish(engine)

    assert notes.events[job.id] == [Delta("2", spelled("2")), _CANCELLED]
    assert notes.text(mate) == alone(mate)


class _Hasty(Notes):
    """Cancels a job while it is told of it, as another thread would."""

    engine: Engine

    def __call__(self, outputs: Sequence[Output]) -> None:
        super().__call__(outputs)
        self.engine.end(outputs[0].job_id, _CANCELLED)


def test_what_happens_while_the_sink_is_told_is_told_next() -> None:
    notes = _Hasty()
    notes.engine = Engine(Watched(), notes)
    notes.engine.add(a_claim(job := counting("1 ", 9)))

    finish(notes.engine)

    assert notes.events[job.id] == [Delta("2", spelled("2")), _CANCELLED]


def test_an_engine_on_its_thread_works_until_it_is_told_to_stop() -> None:
    jobs = [counting("1 ", 20, seed=seed) for seed in range(1, 9)]
    engine, notes = an_engine(Watched(3))
    engine.start()

    for job in jobs:
        engine.add(a_claim(job))
    idle = engine.wait_idle(_WAIT_S)
    engine.stop(_WAIT_S)

    assert idle
    assert {notes.text(job) for job in jobs} == {alone(jobs[0])}
    assert "engine" not in [thread.name for thread in threading.enumerate()]
