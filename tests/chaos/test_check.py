"""A check that cannot fail proves nothing: each kind of wrong is planted and found."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from common.errors import CancelledError
from common.jobs import Delta, Done, Failed, Usage
from tests.chaos.check import Check, Stored, Verdict
from tests.chaos.history import History, Question, Reading, Whole

ASKED = Question("q", "stream", "count on: 7 ", 8)
DONE = Done(Usage(12, 8))
LOG = (Delta("8 9", (1, 2, 3)), Delta(" 10", (1, 2, 3)), Delta(" 1", (1, 2)), Delta("", (), finish="length"), DONE)
FRAMES = [(1, 0, "8 9"), (2, 0, " 10"), (3, 0, " 1"), (4, 0, "")]
JOB = Stored("j", "q", "done", LOG)


def _verdict(*jobs: Stored, question: Question = ASKED, **told: object) -> Verdict:
    history = History(question, end="done")
    for name, value in told.items():
        setattr(history, name, value)
    return Check([history], {job.job_id: job for job in jobs}, Question.answer).run()


def _read(*frames: tuple[int, int, str], after: int = 0, end: str = "done") -> Reading:
    return Reading("j", after, list(frames), end=end)


def test_the_answer_is_known_before() -> None:
    assert ASKED.answer() == ["8 9 10 1"]


def test_a_stream_that_was_cut_and_followed_is_right() -> None:
    readings = [_read(*FRAMES[:2], end="cut"), _read(end="cut", after=2), _read(*FRAMES[2:], after=2)]

    assert _verdict(JOB, readings=readings).is_good()


@pytest.mark.parametrize(
    ("kind", "verdict"),
    [
        ("gaps", lambda: _verdict(JOB, readings=[_read(FRAMES[0], *FRAMES[2:])])),
        ("gaps", lambda: _verdict(JOB, readings=[_read(*FRAMES[:3])])),
        ("gaps", lambda: _verdict(JOB, readings=[_read(*FRAMES[:1], end="cut"), _read(*FRAMES[2:], after=1)])),
        ("repeats", lambda: _verdict(JOB, readings=[_read(FRAMES[0], *FRAMES)])),
        ("repeats", lambda: _verdict(JOB, readings=[_read(*FRAMES[:2], end="cut"), _read(*FRAMES[1:], after=2)])),
        ("changed", lambda: _verdict(JOB, readings=[_read((1, 0, "8 8"), *FRAMES[1:])])),
        ("changed", lambda: _verdict(replace(JOB, log=(Delta("8 8", (1, 2, 3)), *LOG[1:])))),
        ("changed", lambda: _verdict(replace(JOB, log=(*LOG[:2], *LOG[3:])))),
        ("changed", lambda: _verdict(JOB, readings=[_read((1, 1, "8 9"), *FRAMES[1:])])),
        ("changed", lambda: _verdict(JOB, wholes=[Whole("j", ["8 9 10 "], 8)])),
        ("doubled", lambda: _verdict(replace(JOB, log=(*LOG, DONE)))),
        ("doubled", lambda: _verdict(replace(JOB, log=(*LOG[:3], *LOG)))),
        ("doubled", lambda: _verdict(JOB, replace(JOB, job_id="k"))),
        ("doubled", lambda: _verdict(JOB, wholes=[Whole("j", ["8 9 10 1"], 8), Whole("k", ["8 9 10 1"], 8)])),
        ("lost", lambda: _verdict(readings=[_read(*FRAMES)])),
        ("lost", lambda: _verdict(replace(JOB, state="running"))),
        ("lost", lambda: _verdict(JOB, readings=[_read(*FRAMES[:1], end="cut")], end="late")),
    ],
)
def test_what_is_wrong_is_found(kind: str, verdict: Callable[[], Verdict]) -> None:
    assert verdict().counts()[kind] == 1


def test_each_choice_is_looked_at() -> None:
    both = replace(ASKED, n=2)
    second = tuple(event._replace(choice=1) for event in LOG if isinstance(event, Delta))
    right = replace(JOB, log=(*LOG[:-1], *second, Done(Usage(12, 16))))
    changed = replace(right, log=(*LOG[:-1], second[0]._replace(text="8 8"), *right.log[len(LOG) :]))

    assert _verdict(right, question=both).is_good()
    assert _verdict(changed, question=both).counts()["changed"] == 1


@pytest.mark.parametrize(("kind", "lost"), [("hang up", 0), ("cancel", 0), ("stream", 1), ("forget", 1)])
def test_only_who_wanted_it_may_be_cancelled(kind: str, lost: int) -> None:
    cancelled = (LOG[0], Failed.of(CancelledError("The request was cancelled.")))
    job = replace(JOB, state="cancelled", log=cancelled)
    question = replace(ASKED, kind=kind)  # type: ignore[arg-type]  # one of them

    verdict = _verdict(job, question=question, readings=[_read(FRAMES[0], end="cut by us")], end="left")

    assert verdict.counts()["lost"] == lost
