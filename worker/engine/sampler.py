"""Logits to tokens, for rows that each ask for something else.

The order: temperature; min_p and top_k; top_p over what these two left; the draw. Tokens that are equally likely stay
or go together. The draw is the inverse of the cumulative distribution in the order of the vocabulary, so that tiny
differences between two runs of a model (other mates, other kernels) move a draw by as little.

A batch of greedy rows pays for one pass over the logits. Cuts look at the likeliest ``_CANDIDATES`` tokens only, and at
more where a row keeps more; what nobody needs is not sorted.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from worker.engine import rng
from worker.engine.sequence import Draw

_CANDIDATES = (128, 2048, 16384)  # after these, the whole vocabulary
_BLOCK = 128  # tokens summed together before the draw looks closer
_SHARPEST = 1e30  # one over the lowest temperature: any gap between float32 logits is then certain
_BROKEN, _WIDE = -1, -2  # no token: logits not finite; more candidates needed


Index = Tensor | slice


@dataclass(frozen=True, slots=True)
class _Asked:
    """What rows ask for, a column [r, 1] each."""

    keys: Tensor
    sharpness: Tensor  # one over the temperature
    top_k: Tensor  # the vocabulary's width where it is off
    min_p: Tensor
    top_p: Tensor
    is_whole: Tensor  # neither top_k nor min_p: top_p is a share of the whole vocabulary

    def at(self, rows: Index) -> "_Asked":
        """The same for some of the rows."""
        return _Asked(*(getattr(self, name)[rows] for name in self.__slots__))


@dataclass(frozen=True, slots=True)
class _Batch:
    """The rows of a batch that are not greedy; built when the batch changes."""

    asked: _Asked
    plain: Index | None  # rows that are drawn from the whole vocabulary
    cut: Index | None  # rows that keep only some of it


class Sampler:
    """Draws the next token of each row."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._draws: list[Draw] = []
        self._batch: _Batch | None = None  # None: all are greedy

    def __call__(self, logits: Tensor, draws: Sequence[Draw], positions: Tensor) -> list[int | None]:
        """``logits`` [R, V], ``positions`` [R] of the tokens to be drawn; None where a row's logits are not finite."""
        batch = self._known(list(draws), logits.shape[1])
        logits = logits.float()
        best, tokens = logits.max(dim=1, keepdim=True)  # [R, 1] each
        is_broken = ~best.isfinite()
        if batch is None:
            return _ids(tokens.masked_fill_(is_broken, _BROKEN))
        uniform = rng.bits(batch.asked.keys, positions[:, None]).double() * rng.UNIT  # [R, 1]
        if (at := batch.plain) is not None:
            weights = ((logits[at] - best[at]) * batch.asked.sharpness[at]).exp_()
            tokens[at] = _drawn(weights, uniform[at])
        if (at := batch.cut) is not None:
            tokens[at] = _cut(logits[at], batch.asked.at(at), uniform[at], _CANDIDATES[0])
        ids = _ids(tokens.masked_fill_(is_broken, _BROKEN))
        for candidates in (*_CANDIDATES[1:], logits.shape[1]):
            if not (wide := [row for row, token in enumerate(ids) if token == _WIDE]):
                break
            at = torch.tensor(wide, device=self._device)
            again = _ids(_cut(logits[at], batch.asked.at(at), uniform[at], candidates))
            for row, token in zip(wide, again, strict=True):
                ids[row] = token
        return ids

    def _known(self, draws: list[Draw], vocabulary: int) -> _Batch | None:
        if draws != self._draws:
            self._draws = draws
            self._batch = _batch(draws, vocabulary, self._device)
        return self._batch


def _ids(tokens: Tensor) -> list[int | None]:
    """The one sync of a step."""
    return [None if token == _BROKEN else token for token in tokens[:, 0].tolist()]


def _batch(draws: Sequence[Draw], vocabulary: int, device: torch.device) -> _Batch | None:
    """None when all are greedy."""
    sampled = {row for row, draw in enumerate(draws) if draw.temperature > 0}
    if not sampled:
        return None
    cut = {row for row in sampled if draws[row].top_p < 1 or draws[row].top_k or draws[row].min_p}

    def column(values: Sequence[float], dtype: torch.dtype) -> Tensor:
        return torch.tensor(values, dtype=dtype, device=device)[:, None]

    asked = _Asked(
        column([draw.key for draw in draws], torch.int64),
        column([min(1 / (draw.temperature or 1.0), _SHARPEST) for draw in draws], torch.float32),
        column([draw.top_k or vocabulary for draw in draws], torch.int64),
        column([draw.min_p for draw in draws], torch.float64),
        column([draw.top_p for draw in draws], torch.float64),
        column([not draw.top_k and not draw.min_p for draw in draws], torch.bool),
    )
    return _Batch(asked, _places(sampled - cut, len(draws), device), _places(cut, len(draws), device))


def _places(rows: Collection[int], count: int, device: torch.device) -> Index | None:
    """An index of these rows; a view when it is all of them."""
    if len(rows) == count:
        return slice(None)
    return torch.tensor(sorted(rows), device=device) if rows else None


def _drawn(weights: Tensor, uniform: Tensor) -> Tensor:
    """One of each row's columns [r, 1], drawn by weight [r, V]; sums of blocks first, then inside one block."""
    rows, columns = weights.shape
    blocks = -(-columns // _BLOCK)
    if columns % _BLOCK:
        weights = torch.nn.functional.pad(weights, (0, blocks * _BLOCK - columns))
    padded = weights.view(rows, blocks, _BLOCK)
    sums = padded.sum(dim=2, dtype=torch.float64).cumsum(dim=1)  # [r, blocks]
    target = _below(uniform * sums[:, -1:], sums[:, -1:])
    block = (sums <= target).sum(dim=1, keepdim=True)  # [r, 1]
    before = torch.where(block > 0, sums.gather(1, (block - 1).clamp(min=0)), 0.0)
    inside = padded.gather(1, block[:, :, None].expand(rows, 1, _BLOCK))[:, 0].double().cumsum(dim=1)  # [r, _BLOCK]
    within = (inside <= _below(target - before, inside[:, -1:])).sum(dim=1, keepdim=True)
    return block * _BLOCK + within


def _cut(logits: Tensor, asked: _Asked, uniform: Tensor, candidates: int) -> Tensor:
    """A token of each row [c, 1] after the cuts; _WIDE where the candidates may not be all that are kept."""
    candidates = min(candidates, logits.shape[1])
    values, ids = logits.topk(candidates, dim=1)  # [c, K], falling
    weights = ((values - values[:, :1]) * asked.sharpness).double().exp()
    last = (asked.top_k - 1).clamp(max=candidates - 1)
    kept = (values >= values.gather(1, last)) & (weights >= asked.min_p)  # both are a run from the left
    weights = weights * kept
    sums = weights.cumsum(dim=1)
    total = torch.where(asked.is_whole, _whole(logits, values, asked.sharpness), sums[:, -1:])
    nucleus = (sums - weights < asked.top_p * total) & kept  # a token stays while those above it do not reach top_p
    nucleus[:, 0] = True
    least = values.masked_fill(~nucleus, torch.inf).amin(dim=1, keepdim=True)
    nucleus = (values >= least) & kept
    weights = weights * nucleus
    in_order, order = ids.sort(dim=1)
    sums = weights.gather(1, order).cumsum(dim=1)
    chosen = (sums <= _below(uniform * sums[:, -1:], sums[:, -1:])).sum(dim=1, keepdim=True)
    tokens = in_order.gather(1, chosen.clamp(max=candidates - 1))
    if candidates < logits.shape[1]:
        is_open = kept[:, -1:] & ~asked.is_whole  # the total is not known
        tokens = tokens.masked_fill(nucleus[:, -1:] | is_open, _WIDE)
    return tokens


def _whole(logits: Tensor, values: Tensor, sharpness: Tensor) -> Tensor:
    """The weight of the whole vocabulary, [c, 1]."""
    return ((logits - values[:, :1]) * sharpness).exp_().sum(dim=1, keepdim=True, dtype=torch.float64)


def _below(target: Tensor, total: Tensor) -> Tensor:
    """Rounding must not carry a draw past the last column."""
    return target.minimum(torch.nextafter(total, torch.zeros_like(total)))
