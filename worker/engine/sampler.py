"""Logits to tokens, for rows that each ask for something else.

The order: temperature; min_p and top_k; top_p over what these two left; the draw. Tokens that are equally likely stay
or go together. The draw is the inverse of the cumulative distribution in the order of the vocabulary, so that tiny
differences between two runs of a model (other mates, other kernels) move a draw by as little.

A batch of greedy rows pays for one pass over the logits. Rows that keep some tokens only go the short way of ``cuts``
where it may do, else the long one; nothing sorts the vocabulary. A step syncs once, twice with top_p alone, and some
times more for the rows that go the long way.
"""

import math
from collections.abc import Collection, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

import torch
from torch import Tensor

from worker.engine import cuts, rng
from worker.engine.cuts import Asked, Index, Needs, Rows
from worker.engine.sequence import Draw

_SHARPEST = 1e30  # one over the lowest temperature: any gap between float32 logits is then certain
_LOG2_E = 1 / math.log(2)
_BROKEN = -1  # no token: logits not finite
_SHARE = Needs(min_p=False, top_k=False, top_p=True)  # of the whole vocabulary
_AT_ONCE, _ROWS = 2**17, 3  # logits that a CPU can keep near; but for one row alone the small steps cost too much


@dataclass(frozen=True, slots=True)
class _Batch:
    """The rows of a batch that are not greedy; built when the batch changes."""

    keys: Tensor
    asked: Asked
    needs: Sequence[Needs]
    plain: Sequence[int]  # drawn from the whole vocabulary
    limited: list[int]  # top_k within the short way, or min_p
    shares: Sequence[int]  # top_p alone
    beyond: AbstractSet[int]  # top_k beyond the short way


class Sampler:
    """Draws the next token of each row."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._draws: list[Draw] = []
        self._batch: _Batch | None = None  # None: all are greedy

    def __call__(self, logits: Tensor, draws: Sequence[Draw], positions: Tensor) -> list[int | None]:
        """``logits`` [R, V], ``positions`` [R] of the tokens to be drawn; None where a row's logits are not finite."""
        batch = self._known(list(draws), logits)
        logits = logits.float()
        peaks = cuts.peaks(logits)
        best, tokens = cuts.best(logits, peaks)  # [R, 1] each
        if batch is None:
            return _ids(tokens, best)
        uniform = rng.bits(batch.keys, positions[:, None]).double() * rng.UNIT  # [R, 1]
        rows = Rows(logits, peaks, best, uniform, batch.asked)
        for part in _parts(batch.plain, logits):
            at = _index(part, logits.device)
            some = rows.at(at)
            tokens[at] = cuts.drawn(some.weights(), some.uniform)
        whole = torch.zeros_like(uniform)
        near = batch.limited + _shared(rows, batch.shares, tokens, whole)
        if near:
            at = _index(sorted(near), logits.device)
            tokens[at] = cuts.short(rows, at, whole[at])
        ids = _ids(tokens, best)
        far = {
            row for row, token in enumerate(ids) if token == cuts.UNKNOWN or (row in batch.beyond and token is not None)
        }
        if not far:
            return ids
        for needs in {batch.needs[row] for row in far}:
            for part in _parts([row for row in far if batch.needs[row] == needs], logits):
                at = _index(part, logits.device)
                some = rows.at(at)
                tokens[at] = cuts.long(some, needs, some.weights())
        return _ids(tokens, best)

    def _known(self, draws: list[Draw], logits: Tensor) -> _Batch | None:
        if draws != self._draws:
            self._draws = draws
            self._batch = _batch(draws, logits)
        return self._batch


def _ids(tokens: Tensor, best: Tensor) -> list[int | None]:
    """Syncs."""
    found = tokens.masked_fill(~best.isfinite(), _BROKEN)[:, 0].tolist()
    return [None if token == _BROKEN else token for token in found]


def _shared(rows: Rows, shares: Sequence[int], tokens: Tensor, whole: Tensor) -> list[int]:
    """Rows with top_p alone: what each weighs, the tokens of those that keep many, and which others remain; syncs."""
    near = []
    for part in _parts(shares, rows.logits):
        at = _index(part, tokens.device)
        some = rows.at(at)
        weight = some.weights()
        whole[at] = total = cuts.total(weight)
        is_long: list[bool] = some.seem_long(total)[:, 0].tolist()
        near += [row for row, is_far in zip(part, is_long, strict=True) if not is_far]
        if far := [place for place, is_far in enumerate(is_long) if is_far]:
            within, at = _index(far, tokens.device), _index([part[place] for place in far], tokens.device)
            tokens[at] = cuts.long(some.at(within), _SHARE, cuts.taken(weight, within))
    return near


def _batch(draws: Sequence[Draw], logits: Tensor) -> _Batch | None:
    """None when all are greedy."""
    sampled = [row for row, draw in enumerate(draws) if draw.temperature > 0]
    if not sampled:
        return None
    width, device = logits.shape[1], logits.device
    needs = [Needs(draw.min_p > 0, 0 < draw.top_k < width, draw.top_p < 1) for draw in draws]
    plain = [row for row in sampled if not any(needs[row])]
    shares = [row for row in sampled if needs[row] == _SHARE]
    beyond = {row for row in sampled if needs[row].top_k and draws[row].top_k >= cuts.FEW}
    limited = sorted(set(sampled) - set(plain) - set(shares) - beyond)

    def column(values: Sequence[float], dtype: torch.dtype) -> Tensor:
        return torch.tensor(values, dtype=dtype, device=device)[:, None]

    asked = Asked(
        column([min(_LOG2_E / (draw.temperature or 1.0), _SHARPEST) for draw in draws], torch.float32),
        column([draw.top_k or width for draw in draws], torch.int64),
        column([draw.min_p for draw in draws], torch.float64),
        column([draw.top_p for draw in draws], torch.float64),
    )
    keys = column([draw.key for draw in draws], torch.int64)
    return _Batch(keys, asked, needs, plain, limited, shares, beyond)


def _parts(rows: Collection[int], logits: Tensor) -> list[Sequence[int]]:
    """So many rows at once as stay near a CPU."""
    size = max(_ROWS, _AT_ONCE // logits.shape[1]) if logits.device.type == "cpu" else max(1, len(rows))
    order = sorted(rows)
    return [order[at : at + size] for at in range(0, len(order), size)]


def _index(rows: Sequence[int], device: torch.device) -> Index:
    """Views where rows are neighbours."""
    if rows[-1] - rows[0] == len(rows) - 1:
        return slice(rows[0], rows[-1] + 1)
    return torch.tensor(rows, device=device)
