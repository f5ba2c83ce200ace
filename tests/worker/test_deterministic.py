"""A deterministic model gives the same bits, whoever runs beside a sequence and whoever took it over."""

from collections.abc import Callable, Sequence

import pytest

from common.jobs import Delta, Echo, Event, Job, Logprob, Sampling
from tests.worker import tiny
from tests.worker.asked import asked, is_what_generate_says
from tests.worker.claims import a_claim, an_engine, answers, finish
from worker.engine.model import Model

MAKERS: dict[str, Callable[[], Model]] = {
    "packed": lambda: tiny.packed(is_deterministic=True),
    "rows": lambda: tiny.rows(tiny.network(), is_deterministic=True),
    "states": lambda: tiny.rows(tiny.network("lfm2, convolutions"), is_deterministic=True),
}


def _job(**changes: object) -> Job:
    """Sampled, with the scores of its prompt and of all it says: every bit of the logits shows."""
    told = {"sampling": Sampling(24, 1.0, logprobs=3), "seed": 9, "echo": (Echo("x" * 20, tuple(range(20))),)}
    return asked(20, 24, **(told | changes))


def _entries(events: Sequence[Event]) -> list[Logprob]:
    return [one for event in events if isinstance(event, Delta) for one in event.logprobs]


@pytest.mark.parametrize("name", MAKERS)
def test_an_answer_taken_over_anywhere_has_the_same_bits(name: str) -> None:
    job = _job()
    whole = answers(MAKERS[name](), a_claim(job)).events[job.id]

    for cut in range(0, len(whole), 5):
        said = [event for event in whole[:cut] if isinstance(event, Delta)]
        mates = [asked(length, 9, sampling=Sampling(9, 0.0, stop=("x",))) for length in (5, 33, 70)]
        rest = answers(MAKERS[name](), *map(a_claim, mates), a_claim(job, said)).events[job.id]

        assert _entries([*said, *rest]) == _entries(whole)
    assert len(_entries(whole)) == 44


def test_scores_that_the_log_lacks_have_the_same_bits() -> None:
    """A stop string that does not come holds text, and with it scores, back."""
    letters = "".join(tiny.LETTERS.decode([token]) for token in range(300))
    job = _job(sampling=Sampling(24, 1.0, logprobs=3, stop=tuple(f"{letter}#" for letter in letters)))
    whole = answers(tiny.packed(is_deterministic=True), a_claim(job)).events[job.id]

    for cut in range(0, len(whole), 5):
        said = [event for event in whole[:cut] if isinstance(event, Delta)]
        rest = answers(tiny.packed(is_deterministic=True), a_claim(job, said)).events[job.id]

        assert _entries([*said, *rest]) == _entries(whole)


@pytest.mark.parametrize("name", ["packed", "rows"])
def test_answers_are_those_of_generate(name: str) -> None:
    jobs = [asked(length, most) for length, most in ((1, 20), (40, 30), (9, 3), (64, 9))]

    notes = answers(MAKERS[name](), *map(a_claim, jobs))

    assert is_what_generate_says(tiny.network(), notes, jobs)


def test_nothing_is_found_computed_and_nothing_is_guessed() -> None:
    first, again = (asked(0, 12, prompts=((1, 2, 3, 4) * 16,)) for _ in range(2))
    engine, notes = an_engine(tiny.packed(is_deterministic=True), first)
    finish(engine)
    engine.add(a_claim(again))
    finish(engine)

    assert notes.tokens(first) == notes.tokens(again)
    assert [engine.counters[name] for name in ("cached_tokens", "guessed_tokens")] == [0, 0]
