"""Guessed tokens: what is said is the same with and without them."""

import random
from collections.abc import Sequence
from typing import Any

import pytest

from common.jobs import Job, Sampling
from tests.builders import a_job
from tests.worker import tiny
from tests.worker.claims import Notes, a_claim, an_engine, answers, finish
from worker.engine.engine import Engine
from worker.engine.lookup import Lookup

_LOOP = (7, 8, 9, 10, 11, 12) * 6


def _network() -> Any:
    """Each token follows from the one before it alone, so it soon goes round in circles."""
    network = tiny.network()
    for layer in network.model.layers:
        layer.self_attn.o_proj.weight.zero_()
        layer.mlp.down_proj.weight.zero_()
    return network


_LLAMA = _network()


def _job(most: int = 80, prompt: Sequence[int] = _LOOP, **changes: Any) -> Job:
    told = {"sampling": Sampling(most, 0.0), "prompts": (tuple(prompt),)} | changes
    return a_job(**told)


def _guessing(*jobs: Job, **how: Any) -> tuple[Engine, Notes]:
    engine, notes = an_engine(tiny.packed(damaged=_network(), **how), *jobs)
    finish(engine)
    return engine, notes


@pytest.mark.parametrize("sampling", [Sampling(100, 0.0), Sampling(100, 0.05), Sampling(100, 0.02, top_p=0.9)], ids=str)
def test_an_answer_is_the_same_with_guesses_and_takes_fewer_steps(sampling: Sampling) -> None:
    jobs = [_job(sampling=sampling, seed=seed, prompt=_LOOP[seed:]) for seed in (1, 2)]

    engine, notes = _guessing(*jobs)
    plain = answers(tiny.rows(_LLAMA), *map(a_claim, jobs))

    assert engine.counters["guessed_right"] > 40
    assert engine.counters["steps"] < 100 - 10
    for job in jobs:
        assert notes.tokens(job) == plain.tokens(job)
        assert notes.text(job) == plain.text(job)
        assert notes.finish(job) == plain.finish(job)
    assert engine.counters["generation_tokens"] == sum(len(plain.tokens(job)) for job in jobs)


def test_wrong_guesses_change_nothing() -> None:
    drawn = random.Random(1)
    prompt = [drawn.randrange(1, 300) for _ in range(60)] * 2
    jobs = [_job(100, prompt, sampling=Sampling(100, 0.25), seed=seed) for seed in (3, 4)]

    engine, notes = _guessing(*jobs)
    plain = answers(tiny.rows(_LLAMA), *map(a_claim, jobs))

    assert engine.counters["guessed_tokens"] > engine.counters["guessed_right"]
    assert [notes.tokens(job) for job in jobs] == [plain.tokens(job) for job in jobs]


@pytest.mark.parametrize("most", range(1, 40))
def test_the_end_comes_where_it_would_without_guesses(most: int) -> None:
    job = _job(most)

    _, notes = _guessing(job)
    plain = answers(tiny.rows(_LLAMA), a_claim(job))

    assert notes.deltas(job)[-1].finish == "length"
    assert notes.tokens(job) == plain.tokens(job)
    assert len(notes.tokens(job)) == most


def test_an_end_token_or_a_stop_string_in_the_middle_of_a_guess_ends_the_answer() -> None:
    said = tiny.generated(_LLAMA, _LOOP, 100)
    assert len(set(said[60:])) < 30  # it repeats itself

    for at in (30, 31, 33, 50):
        plain_end = said.index(said[at])
        _, by_token = _guessing(job := _job(100), end_ids=(said[at],))
        _, by_text = _guessing(other := _job(sampling=Sampling(100, 0.0, stop=(tiny.letters(said[at : at + 2]),))))
        assert by_token.tokens(job) == said[: plain_end + 1]
        expected = tiny.letters(said)
        assert by_text.text(other) == expected[: expected.index(tiny.letters(said[at : at + 2]))]


def test_an_answer_may_fill_the_context_with_guesses() -> None:
    job = _job(1000)

    _, notes = _guessing(job)

    assert len(notes.tokens(job)) == tiny.CONTEXT - len(_LOOP)
    assert notes.tokens(job) == answers(tiny.rows(_LLAMA), a_claim(job)).tokens(job)


def test_what_was_guessed_wrongly_is_not_found_by_others() -> None:
    job = _job(60, sampling=Sampling(60, 0.25), seed=8)
    engine, notes = _guessing(job)
    longer = _job(20, (*_LOOP, *notes.tokens(job)))

    engine.add(a_claim(longer))
    finish(engine)

    assert engine.counters["guessed_tokens"] > engine.counters["guessed_right"]
    assert engine.counters["cached_tokens"] > 48
    expected = tiny.generated(_LLAMA, longer.prompts[0], 20)
    assert notes.tokens(longer)[: len(expected)] == expected


def test_nobody_guesses_where_many_run_or_where_a_draw_depends_on_what_was_said() -> None:
    many, _ = _guessing(*(_job(30) for _ in range(5)), slots=5)
    edited, _ = _guessing(_job(sampling=Sampling(40, 0.0, presence=0.1)))
    scored, _ = _guessing(_job(sampling=Sampling(40, 0.0, logprobs=0)))

    assert (
        many.counters["guessed_tokens"] == edited.counters["guessed_tokens"] == scored.counters["guessed_tokens"] == 0
    )


def test_a_guess_takes_no_blocks_from_anybody() -> None:
    jobs = [_job(40, cls="batch"), _job(40)]
    model = tiny.packed(damaged=_network(), blocks=10)
    engine, notes = an_engine(model, *jobs)
    finish(engine)

    plain = answers(tiny.rows(_LLAMA), *map(a_claim, jobs))
    assert [notes.tokens(job) for job in jobs] == [plain.tokens(job) for job in jobs]
    assert model.blocks.available == model.blocks.count


def test_the_newest_time_that_the_last_tokens_came_is_what_counts() -> None:
    lookup = Lookup()
    lookup.add((1, 2, 3, 4, 5, 1, 2, 3, 9, 8, 1, 2, 3))

    assert lookup.guess(4) == (9, 8, 1, 2)
    assert lookup.guess(1) == (9,)
    lookup.add((7,))
    assert lookup.guess(4) == ()


def test_guessing_rests_when_it_does_not_pay_and_is_tried_again() -> None:
    lookup = Lookup()
    lookup.add((1, 2, 3, 4) * 3)
    for _ in range(10):
        lookup.was(0, 4)

    quiet = 0
    while not lookup.guess(4):
        quiet += 1

    assert 8 < quiet < 100
    lookup.was(4, 4)
    assert lookup.guess(4) == (1, 2, 3, 4)
