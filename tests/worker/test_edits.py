"""Penalties and biases, against a plain reading of what they mean."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch

from common.jobs import Job, Sampling
from tests.builders import a_job
from tests.worker import tiny
from tests.worker.claims import an_engine, finish
from worker.engine import rng
from worker.engine.edits import Editor
from worker.engine.model import Feed
from worker.engine.sequence import Draw, Edits

torch.set_num_threads(1)
_CPU = torch.device("cpu")
_VOCABULARY = 50
_PROMPT = (3, 4, 4, 5)
_ANSWER = (4, 9, 9, 9, 30)


def _logits(rows: int = 1, seed: int = 0) -> torch.Tensor:
    return 2 * torch.randn(rows, _VOCABULARY, generator=torch.Generator().manual_seed(seed))


def _feeds(edits: Edits | None, tokens: Sequence[int] = (*_PROMPT, *_ANSWER), slot: int = 0) -> list[Feed]:
    """A prompt, then token by token."""
    draw = Draw(0, edits=edits)
    first = Feed(slot, tokens[: len(_PROMPT)], 0, draw)
    return [first, *(Feed(slot, (tokens[at],), at, draw) for at in range(len(_PROMPT), len(tokens)))]


def _plain(logits: torch.Tensor, edits: Edits, tokens: Sequence[int]) -> np.ndarray[Any, Any]:
    """As the words say it, one token after the other."""
    row = logits.double().numpy().copy()
    answer = Counter(tokens[edits.prompt :])
    for token in set(tokens):
        row[token] = row[token] / edits.repetition if row[token] > 0 else row[token] * edits.repetition
    for token, count in answer.items():
        row[token] -= edits.frequency * count + edits.presence
    for token, value in edits.bias:
        row[token] += value
    if len(tokens) - edits.prompt < edits.min_tokens:
        row[list(edits.ends)] = -np.inf
    return row


_EDITS = [
    Edits(4, presence=1.5),
    Edits(4, frequency=0.5),
    Edits(4, repetition=1.7),
    Edits(4, repetition=0.5),
    Edits(4, presence=-2, frequency=-2, repetition=1.2),
    Edits(4, bias=((7, -100.0), (9, 3.5))),
    Edits(4, min_tokens=3, ends=(1, 2)),
    Edits(4, presence=0.3, frequency=0.2, repetition=1.1, bias=((1, 50.0), (9, 1.0)), min_tokens=5, ends=(1,)),
]


@pytest.mark.parametrize("edits", _EDITS, ids=str)
def test_every_step_is_what_the_words_say(edits: Edits) -> None:
    editor, tokens = Editor(_CPU), (*_PROMPT, *_ANSWER)

    for step, feed in enumerate(_feeds(edits)):
        logits = _logits(seed=step)
        expected = _plain(logits[0], edits, tokens[: len(_PROMPT) + step])
        editor(logits, [feed])
        np.testing.assert_allclose(logits[0].numpy(), expected, rtol=1e-5, atol=1e-5)


def test_rows_that_ask_for_nothing_keep_their_numbers_and_mates_do_not_mix() -> None:
    editor = Editor(_CPU)
    asked: list[Edits | None] = [None, *_EDITS, None]
    told = [_feeds(edits, slot=slot) for slot, edits in enumerate(asked)]

    for step in range(1 + len(_ANSWER)):
        logits = _logits(len(asked), seed=step)
        before = logits.clone()
        editor(logits, [feeds[step] for feeds in told])
        for row, edits in enumerate(asked):
            tokens = (*_PROMPT, *_ANSWER)[: len(_PROMPT) + step]
            expected = before[row].numpy() if edits is None else _plain(before[row], edits, tokens)
            np.testing.assert_allclose(logits[row].numpy(), expected, rtol=1e-5, atol=1e-5)


def test_a_step_that_is_done_again_counts_nothing_twice() -> None:
    editor, edits = Editor(_CPU), Edits(4, frequency=1.0)
    for feed in _feeds(edits):
        first, again = _logits(), _logits()
        editor(first, [feed])
        editor(again, [feed])
        assert torch.equal(first, again)


def test_who_comes_back_with_all_his_tokens_is_told_the_same() -> None:
    edits = _EDITS[-1]
    steady, back = Editor(_CPU), Editor(_CPU)
    for feed in _feeds(edits):
        steady(whole := _logits(), [feed])
    tokens = (*_PROMPT, *_ANSWER)

    back(resumed := _logits(), [Feed(3, tokens, 0, Draw(0, edits=edits))])

    assert torch.equal(whole, resumed)


def test_a_slot_that_was_freed_remembers_nothing() -> None:
    editor, edits = Editor(_CPU), Edits(0, frequency=1.0)
    editor(_logits(), [Feed(0, (5, 5, 5), 0, Draw(0, edits=edits))])
    editor.free(0)

    editor(logits := _logits(), [Feed(0, (6,), 0, Draw(0, edits=edits))])

    assert torch.equal(logits[0, 5], _logits()[0, 5])


def test_more_different_tokens_than_there_was_room_for() -> None:
    edits = Edits(0, frequency=0.25)
    tokens = tuple(range(500)) * 2
    logits = torch.zeros(1, 600)

    Editor(_CPU)(logits, [Feed(0, tokens, 0, Draw(0, edits=edits))])

    assert logits[0, :500].eq(-0.5).all()
    assert logits[0, 500:].eq(0).all()


def _job(sampling: Sampling) -> Job:
    drawn = [int(300 * rng.uniform(1, at)) + 1 for at in range(12)]
    return a_job(prompts=(tuple(drawn),), sampling=sampling)


@pytest.mark.parametrize(
    "told", [{"repetition_penalty": 1.4}, {"repetition_penalty": 0.7}, {"repetition_penalty": 30.0}]
)
def test_a_repetition_penalty_gives_what_generate_gives(told: dict[str, Any]) -> None:
    network = tiny.network()
    job = _job(Sampling(40, 0.0, repetition=told["repetition_penalty"]))
    engine, notes = an_engine(tiny.rows(network), job, _job(Sampling(40, 0.0)))

    finish(engine)

    expected = tiny.generated(network, job.prompts[0], 40, **told)
    assert len(expected) > 20
    assert notes.tokens(job)[: len(expected)] == expected


def test_an_end_cannot_come_too_early_and_comes_then() -> None:
    network = tiny.network()
    plain = _job(Sampling(40, 0.0))
    engine, notes = an_engine(tiny.rows(network), plain)
    finish(engine)
    second = notes.tokens(plain)[1]

    def ended(most: int) -> list[int]:
        job = _job(Sampling(40, 0.0, min_tokens=most, stop_ids=(second,)))
        engine, notes = an_engine(tiny.rows(network), job)
        finish(engine)
        return notes.tokens(job)

    assert ended(0) == notes.tokens(plain)[:2]
    assert second not in ended(10)[:10]
    assert len(ended(10)) >= 10
