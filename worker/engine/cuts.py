"""Which tokens of a row may be drawn, and the draw.

Two ways find the same tokens. ``short`` looks at the likeliest few, which is all that most rows keep. ``long`` knows no
limit: it sums the vocabulary in bins of falling logits, sees in which bin the cut lies, and sorts that bin alone. One
rule serves every cut: a token stays while those above it do not reach a target, so equals stay or go together.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

FEW = 64  # candidates of the short way
UNKNOWN = -2  # no token: the few may not be all that are kept
_PEAK = 32  # tokens that share a peak
_BLOCK = 128  # tokens summed together before the draw looks closer
_BINS = 2048
_FAR = 87.0  # 2 ** -87: whatever lies lower has no weight beside the best
_FLAT = 1e-30  # less than any gap between logits that could matter
_SHY = 1 - 2.0**-52  # so much of a sum is less than it: rounding must not carry a draw past the last column
_SAMPLE = 512  # tokens looked at for a guess

Index = Tensor | slice


class Needs(NamedTuple):
    """Which cuts a row asks for."""

    min_p: bool
    top_k: bool
    top_p: bool


@dataclass(frozen=True, slots=True)
class Asked:
    """What rows ask for, a column [r, 1] each."""

    sharpness: Tensor  # one over the temperature, for powers of two
    top_k: Tensor  # the vocabulary's width where it is off
    min_p: Tensor
    top_p: Tensor

    def at(self, index: Index) -> "Asked":
        """The same for some of the rows."""
        return Asked(*(taken(getattr(self, name), index) for name in self.__slots__))


@dataclass(frozen=True, slots=True)
class Rows:
    """Some rows of a step."""

    logits: Tensor  # [r, V]
    peaks: Tensor  # [r, ceil(V / _PEAK)]
    best: Tensor  # [r, 1]
    uniform: Tensor  # [r, 1]
    asked: Asked

    def at(self, index: Index) -> "Rows":
        """Some of them."""
        logits, peaks, best, uniform = (
            taken(column, index) for column in (self.logits, self.peaks, self.best, self.uniform)
        )
        return Rows(logits, peaks, best, uniform, self.asked.at(index))

    def weights(self) -> Tensor:
        """Beside the best, whose weight is one; [r, V]."""
        return (self.logits - self.best).mul_(self.asked.sharpness).exp2_()

    def seem_long(self, whole: Tensor) -> Tensor:
        """Whether more than a few tokens make up top_p of the whole, [r, 1]; decides about nothing but the way."""
        high = self.peaks.topk(min(FEW, self.peaks.shape[1]), dim=1, sorted=False).values
        few = (high - self.best).mul_(self.asked.sharpness).exp2_().sum(dim=1, keepdim=True)
        return few < self.asked.top_p * whole


def taken(columns: Tensor, index: Index) -> Tensor:
    """Some rows of it."""
    return columns[index] if isinstance(index, slice) else columns.index_select(0, index)


def peaks(logits: Tensor) -> Tensor:
    """The highest of every ``_PEAK`` neighbours, [R, ceil(V / _PEAK)]; NaN where one is."""
    full = logits.shape[1] // _PEAK
    found = logits[:, : full * _PEAK].reshape(len(logits), full, _PEAK).amax(dim=2)
    rest = logits[:, full * _PEAK :]
    return torch.cat((found, rest.amax(dim=1, keepdim=True)), dim=1) if rest.shape[1] else found


def best(logits: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """The highest logit of each row and its first place, [R, 1] each; ``high`` are the peaks."""
    value, block = high.max(dim=1, keepdim=True)
    near = _neighbours(block, logits)
    place = logits.gather(1, near).argmax(dim=1, keepdim=True)
    return value, near.gather(1, place)


def drawn(weight: Tensor, uniform: Tensor) -> Tensor:
    """One of each row's columns [r, 1], drawn by weight [r, V]; sums of blocks first, then inside one block."""
    sums = _sums(weight)
    block, before = _passed(sums, (target := uniform * sums[:, -1:] * _SHY) >= sums)  # [r, 1] each
    place = block * _BLOCK + torch.arange(_BLOCK, device=weight.device)  # [r, _BLOCK]
    last = weight.shape[1] - 1
    inside = weight.gather(1, place.clamp(max=last)).mul_(place <= last).double().cumsum(dim=1)
    within = (inside <= (target - before).minimum(inside[:, -1:] * _SHY)).sum(dim=1, keepdim=True)
    return block * _BLOCK + within


def total(weight: Tensor) -> Tensor:
    """Of each row, [r, 1]."""
    return _sums(weight)[:, -1:]


def short(rows: Rows, at: Index, whole: Tensor) -> Tensor:
    """A token of each of some rows [r, 1] after the cuts; UNKNOWN where the few likeliest may not be all that are kept.

    ``whole`` [r, 1]: the total of rows with top_p alone, which is a share of the whole vocabulary; zero for others.
    """
    values, ids = _likeliest(rows, at)  # [r, FEW], falling
    asked = rows.asked.at(at)
    weight = ((values - values[:, :1]) * asked.sharpness).double().exp2()
    last = (asked.top_k - 1).clamp(max=values.shape[1] - 1)
    kept = (values >= values.gather(1, last)) & (weight >= asked.min_p)  # both are a run from the left
    weight = weight * kept
    sums = weight.cumsum(dim=1)
    nucleus = (sums - weight < asked.top_p * whole.maximum(sums[:, -1:])) & kept
    nucleus[:, 0] = True
    least = values.masked_fill(~nucleus, torch.inf).amin(dim=1, keepdim=True)
    nucleus = (values >= least) & kept
    in_order, order = ids.sort(dim=1)
    sums = (weight * nucleus).gather(1, order).cumsum(dim=1)
    chosen = (sums <= taken(rows.uniform, at) * sums[:, -1:] * _SHY).sum(dim=1, keepdim=True)
    tokens = in_order.gather(1, chosen.clamp(max=values.shape[1] - 1))
    if values.shape[1] == rows.logits.shape[1]:
        return tokens
    return tokens.masked_fill(torch.where(whole > 0, nucleus, kept)[:, -1:], UNKNOWN)


def long(rows: Rows, needs: Needs, weight: Tensor) -> Tensor:
    """A token of each row [r, 1] after the cuts, however many are kept; the best must be finite.

    ``weight`` is the rows' own; what is cut loses it.
    """
    logits, asked = rows.logits, rows.asked
    least = torch.full_like(rows.best, -torch.inf)
    bins = _bins(rows) if needs.top_k or needs.top_p else torch.empty(0)
    if needs.top_k:
        one = torch.ones((), dtype=torch.float64, device=logits.device).expand_as(logits)
        least = _least(logits, bins, one, _histogram(bins, one), asked.top_k.double())
        _keep(weight, logits, least.minimum(rows.best))
    if needs.min_p:
        _keep(weight, weight, asked.min_p.float())
    if needs.top_p:
        mass = weight.double()
        sums = _histogram(bins, mass)
        least = least.maximum(_least(logits, bins, mass, sums, asked.top_p * sums[:, -1:]))
        _keep(weight, logits, least.minimum(rows.best))
    return drawn(weight, rows.uniform)


def _keep(weight: Tensor, values: Tensor, least: Tensor) -> None:
    """Nothing else weighs. The mask is of numbers: to write truths takes a CPU five times as long."""
    weight.mul_(torch.ge(values, least, out=torch.empty_like(values)))


def _sums(weight: Tensor) -> Tensor:
    """Running sums of blocks, [r, ceil(V / _BLOCK)]; within a block float32 is good for some 1e-7 of its sum."""
    full = weight.shape[1] // _BLOCK * _BLOCK
    sums = weight[:, :full].reshape(len(weight), -1, _BLOCK).sum(dim=2)
    if full < weight.shape[1]:
        sums = torch.cat((sums, weight[:, full:].sum(dim=1, keepdim=True)), dim=1)
    return sums.cumsum(dim=1, dtype=torch.float64)


def _sample(logits: Tensor) -> Tensor:
    """Some hundreds of each row."""
    return logits[:, :: max(1, logits.shape[1] // _SAMPLE)]


def _neighbours(blocks: Tensor, logits: Tensor) -> Tensor:
    """The places behind some peaks, [r, n * _PEAK]; past the end the last one again."""
    within = torch.arange(_PEAK, device=logits.device)
    return (blocks[:, :, None] * _PEAK + within).flatten(1).clamp_(max=logits.shape[1] - 1)


def _likeliest(rows: Rows, at: Index) -> tuple[Tensor, Tensor]:
    """The few highest logits, falling, and their places: each stands behind one of the few highest peaks."""
    logits = rows.logits
    if logits.shape[1] <= FEW * _PEAK:
        return taken(logits, at).topk(min(FEW, logits.shape[1]), dim=1)
    places = _neighbours(taken(rows.peaks, at).topk(FEW, dim=1, sorted=False).indices, logits)
    values = logits[at].gather(1, places) if isinstance(at, slice) else logits[at[:, None], places]
    if logits.shape[1] % _PEAK:  # the last one must not count again
        values.masked_fill_(places == places.roll(1, dims=1), -torch.inf)
    values, order = values.topk(FEW, dim=1)
    return values, places.gather(1, order)


def _bins(rows: Rows) -> Tensor:
    """A number for each token [r, V]: 0 for the best, the last for all that lie far below. Equals share a bin."""
    some = _sample(rows.logits)
    low = some.kthvalue(1 + some.shape[1] // 64, dim=1, keepdim=True).values  # outliers must not stretch the bins
    depth = torch.where(low > -torch.inf, rows.best - low, _FAR / rows.asked.sharpness)
    scale = _BINS / depth.clamp(min=_FLAT)
    return (rows.best - rows.logits).mul_(scale).clamp_(max=_BINS - 1).short()


def _histogram(bins: Tensor, mass: Tensor) -> Tensor:
    """Running sums of the bins, [r, _BINS]."""
    return mass.new_zeros(len(bins), _BINS).scatter_add_(1, bins.long(), mass).cumsum_(dim=1)


def _least(logits: Tensor, bins: Tensor, mass: Tensor, sums: Tensor, target: Tensor) -> Tensor:
    """The lowest logit that stays, [r, 1]: the mass above it does not reach the target."""
    rows = len(logits)
    cut, before = _passed(sums, sums < target)  # the bin where it lies; past the last one all stay
    row, place = _inside(bins, cut)  # [n]
    values, weighed = logits[row, place], mass[row, place]
    none = torch.where(cut < _BINS, torch.inf, -torch.inf)[:, 0].to(values.dtype)  # [r]
    lowest = none.scatter_reduce(0, row, values, "amin")
    if bool((lowest[row] == values).all()):  # equals, which may be many
        return lowest[:, None]
    order = values.argsort(descending=True)
    order = order[row[order].argsort(stable=True)]  # row by row, falling
    row, values, weighed = row[order], values[order], weighed[order]
    above = weighed.cumsum(dim=0) - weighed  # of all rows so far
    sizes = torch.bincount(row, minlength=rows)
    first = (sizes.cumsum(dim=0) - sizes)[row]
    stays = before[row, 0] + (above - above[first]) < target[row, 0]
    return none.scatter_reduce(0, row, values.masked_fill(~stays, torch.inf), "amin")[:, None]


def _inside(bins: Tensor, cut: Tensor) -> tuple[Tensor, Tensor]:
    """Row and place of what lies in a bin [r, 1]; blocks where something does come first, they are mostly few."""
    hits = peaks(bins.float().eq_(cut))
    row, block = hits.nonzero(as_tuple=True)
    place = block[:, None] * _PEAK + torch.arange(_PEAK, device=bins.device)  # [blocks, _PEAK]
    last = bins.shape[1] - 1
    is_hit = (bins[row[:, None], place.clamp(max=last)] == cut[row]) & (place <= last)
    block, within = is_hit.nonzero(as_tuple=True)
    return row[block], place[block, within]


def _passed(sums: Tensor, is_passed: Tensor) -> tuple[Tensor, Tensor]:
    """How many columns of a running sum are passed, and the sum there, [r, 1] each."""
    return is_passed.sum(dim=1, keepdim=True), (sums * is_passed).amax(dim=1, keepdim=True)
