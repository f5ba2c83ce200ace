"""Logits to tokens, for rows that each ask for something else.

The order: temperature; min_p and top_k; top_p over what these two left; the draw. Tokens that are equally likely stay
or go together. The draw is the inverse of the cumulative distribution in the order of the vocabulary, so that tiny
differences between two runs of a model (other mates, other kernels) move a draw by as little.

Nothing is sorted: where a cut falls is found digit by digit, as a radix sort would, but following the one bucket that
holds it. A batch of greedy rows pays for one pass over the logits. Rows are taken a few at a time, by what they need,
so that what one pass leaves the next finds in the processor's cache.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from worker.engine import rng
from worker.engine.sequence import Draw

_TOGETHER = 2**17  # logits of the rows that are taken together on a CPU
_BLOCK = 128  # tokens summed together before the draw looks closer
_SHARPEST = 1e30  # one over the lowest temperature: any gap between float32 logits is then certain
_BROKEN = -1  # no token: logits not finite
_DIGITS = ((20, 2048), (10, 1024), (0, 1024))  # of a float that is not negative: how far to shift, how many there are

Needs = tuple[bool, bool, bool]  # min_p, top_k, top_p


@dataclass(frozen=True, slots=True)
class _Part:
    """Rows that need the same, and what each asks for: a column [r, 1] each."""

    rows: Tensor | slice
    needs: Needs
    keys: Tensor
    sharpness: Tensor  # one over the temperature
    top_k: Tensor
    min_p: Tensor
    top_p: Tensor


class Sampler:
    """Draws the next token of each row."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._draws: list[Draw] = []
        self._parts: tuple[_Part, ...] = ()  # of the rows that are not greedy

    def __call__(self, logits: Tensor, draws: Sequence[Draw], positions: Tensor) -> list[int | None]:
        """``logits`` [R, V], ``positions`` [R] of the tokens to be drawn; None where a row's logits are not finite."""
        self._know(list(draws), logits.shape[1])
        logits = logits.float()
        best, tokens = logits.max(dim=1, keepdim=True)  # [R, 1] each
        is_broken = ~best.isfinite()
        for part in self._parts:
            uniform = rng.bits(part.keys, positions[part.rows, None]).double() * rng.UNIT  # [r, 1]
            tokens[part.rows] = _sampled(best[part.rows] - logits[part.rows], part, uniform)
        ids: list[int] = tokens.masked_fill_(is_broken, _BROKEN)[:, 0].tolist()  # the one sync of a step
        return [None if token == _BROKEN else token for token in ids]

    def _know(self, draws: list[Draw], vocabulary: int) -> None:
        if draws != self._draws:
            self._draws = draws
            self._parts = tuple(_parts(draws, vocabulary, self._device))


def _parts(draws: Sequence[Draw], vocabulary: int, device: torch.device) -> Iterator[_Part]:
    """The rows that are not greedy, sorted by what they need."""
    kinds: dict[Needs, list[int]] = {}
    for row, draw in enumerate(draws):
        if draw.temperature > 0:
            needs = (draw.min_p > 0, 0 < draw.top_k < vocabulary, draw.top_p < 1)
            kinds.setdefault(needs, []).append(row)
    most = max(1, _TOGETHER // vocabulary) if device.type == "cpu" else len(draws)
    for needs, rows in kinds.items():
        for at in range(0, len(rows), most):
            yield _part(rows[at : at + most], needs, draws, device)


def _part(rows: list[int], needs: Needs, draws: Sequence[Draw], device: torch.device) -> _Part:
    mine = [draws[row] for row in rows]

    def column(values: Sequence[float], dtype: torch.dtype) -> Tensor:
        return torch.tensor(values, dtype=dtype, device=device)[:, None]

    is_run = rows == list(range(rows[0], rows[0] + len(rows)))
    return _Part(
        slice(rows[0], rows[0] + len(rows)) if is_run else torch.tensor(rows, device=device),  # a slice is a view
        needs,
        column([draw.key for draw in mine], torch.int64),
        column([min(1 / draw.temperature, _SHARPEST) for draw in mine], torch.float32),
        column([draw.top_k for draw in mine], torch.float64),
        column([draw.min_p for draw in mine], torch.float32),
        column([draw.top_p for draw in mine], torch.float64),
    )


def _sampled(below: Tensor, part: _Part, uniform: Tensor) -> Tensor:
    """A token of each row [r, 1]; ``below`` [r, V]: how far each logit lies below the row's best."""
    has_min_p, has_top_k, has_top_p = part.needs
    weights = (below * -part.sharpness).exp_()
    order = below.view(torch.int32)  # floats that are not negative are in the order of their bits
    if has_min_p:
        weights.masked_fill_(weights < part.min_p, 0)
    if has_top_k:
        weights.masked_fill_(order > _limit(order, None, part.top_k), 0)
    if has_top_p:
        mass = weights.double()
        weights.masked_fill_(order > _limit(order, mass, part.top_p * mass.sum(dim=1, keepdim=True)), 0)
    return _drawn(weights, uniform)


def _limit(order: Tensor, mass: Tensor | None, target: Tensor) -> Tensor:
    """The least number [r, 1] such that all that are not above it in ``order`` [r, V] have the ``target`` [r, 1] mass.

    Without ``mass`` each has one. Where all together have less, by rounding, the number is above them all.
    """
    rows, columns = order.shape
    first, *others = _DIGITS
    digits = order >> first[0]
    starts = torch.arange(rows, device=order.device, dtype=torch.int32)[:, None]
    bucket = _Bucket(torch.zeros_like(target), torch.zeros_like(target, dtype=torch.int32))
    bucket.narrow(digits + starts * first[1] if rows > 1 else digits, mass, target, first)
    inside = (digits == bucket.digit).view(-1).nonzero()[:, 0]
    row = inside // columns
    bits, masses = order.view(-1)[inside], None if mass is None else mass.view(-1)[inside]
    for shift, count in others:
        digits = (bits >> shift) & (count - 1)
        bucket.narrow(digits + row * count, masses, target, (shift, count))
        if shift:
            inside = (digits == bucket.digit[:, 0][row]).nonzero()[:, 0]
            bits, row, masses = bits[inside], row[inside], None if masses is None else masses[inside]
    return bucket.found


@dataclass(slots=True)
class _Bucket:
    """Where the limit lies, as far as it is known."""

    before: Tensor  # [r, 1] mass of what lies below
    found: Tensor  # [r, 1] the digits so far
    digit: Tensor = field(default_factory=lambda: torch.empty(0))  # [r, 1] the last of them

    def narrow(self, places: Tensor, mass: Tensor | None, target: Tensor, how: tuple[int, int]) -> None:
        """By one more digit; ``places`` of all that lie in the bucket: row times count plus digit."""
        shift, count = how
        rows = len(target)
        weights = None if mass is None else mass.view(-1)
        sums = torch.bincount(places.view(-1), weights, minlength=rows * count).view(rows, count)
        sums = sums.cumsum(dim=1, dtype=torch.float64) + self.before
        at = (sums < target).sum(dim=1, keepdim=True).clamp_(max=count - 1)
        self.before = torch.where(at > 0, sums.gather(1, (at - 1).clamp_(min=0)), self.before)
        self.digit = at.int()
        self.found |= self.digit << shift


def _drawn(weights: Tensor, uniform: Tensor) -> Tensor:
    """One of each row's columns [r, 1], drawn by weight [r, V]; sums of blocks first, then inside one block."""
    rows, columns = weights.shape
    blocks = -(-columns // _BLOCK)
    if columns % _BLOCK:
        weights = torch.nn.functional.pad(weights, (0, blocks * _BLOCK - columns))
    padded = weights.view(rows, blocks, _BLOCK)
    sums = padded.sum(dim=2, dtype=torch.float64).cumsum(dim=1)  # [r, blocks]
    target = _below(uniform * sums[:, -1:], sums[:, -1:])
    block = (sums <= target).sum(dim=1, keepdim=True).clamp_(max=blocks - 1)  # [r, 1]; no number has no place
    before = torch.where(block > 0, sums.gather(1, (block - 1).clamp(min=0)), 0.0)
    inside = padded.gather(1, block[:, :, None].expand(rows, 1, _BLOCK))[:, 0].double().cumsum(dim=1)  # [r, _BLOCK]
    within = (inside <= _below(target - before, inside[:, -1:])).sum(dim=1, keepdim=True)
    return block * _BLOCK + within


def _below(target: Tensor, total: Tensor) -> Tensor:
    """Rounding must not carry a draw past the last column."""
    return target.minimum(torch.nextafter(total, torch.zeros_like(total)))
