"""Both ways to find what a row keeps, against a plain reading that sorts in float64."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from worker.engine import cuts, rng
from worker.engine.sampler import Sampler
from worker.engine.sequence import Draw

torch.set_num_threads(1)
Floats = NDArray[np.float64]
_CPU = torch.device("cpu")
_KEY = rng.stream(77, 0)
_V = 4_999  # no multiple of anything
_ROUNDING = 3e-6  # of the distribution: float32 weights
_DRAWS = [
    Draw(_KEY, 1.0),
    Draw(_KEY, 0.7, top_p=0.9),
    Draw(_KEY, 1.0, top_p=1 - 1e-7),
    Draw(_KEY, 1.0, top_p=0.999),
    Draw(_KEY, 1.0, top_p=1e-12),
    Draw(_KEY, 1.0, top_k=1),
    Draw(_KEY, 1.0, top_k=63),
    Draw(_KEY, 1.0, top_k=64),
    Draw(_KEY, 1.0, top_k=700),
    Draw(_KEY, 1.0, top_k=_V),
    Draw(_KEY, 1.0, top_k=_V - 1, top_p=0.5),
    Draw(_KEY, 1.0, min_p=1.0),
    Draw(_KEY, 1.0, min_p=0.5),
    Draw(_KEY, 1.3, min_p=0.01, top_p=0.8),
    Draw(_KEY, 0.9, min_p=0.1, top_p=0.7, top_k=300),
    Draw(_KEY, 0.9, top_p=0.7, top_k=20),
    Draw(_KEY, 1e9, top_p=0.5),
    Draw(_KEY, 1e9, top_k=2_000, top_p=0.3),
    Draw(_KEY, 1e-3, top_p=0.9),
    Draw(_KEY, 1e-3, top_k=1_000, min_p=0.2),
]


def _logits(kind: str, seed: int = 0) -> torch.Tensor:
    """One row [1, V]."""
    generator = torch.Generator().manual_seed(seed)
    normal = torch.randn(1, _V, generator=generator)
    chance = torch.rand(1, _V, generator=generator)
    return {
        "flat": normal / 3,
        "peaked": 3 * normal + 12 * (chance < 0.004),
        "ties": (2 * normal).round() / 2,
        "half": normal.bfloat16().float(),
        "equal": torch.full((1, _V), -3.5),
        "rising": torch.linspace(-6, 6, _V)[None],  # the likeliest stand behind a peak that has not all its tokens
        "forbidden": normal.masked_fill(chance < 0.01, -torch.inf),
        "masked": normal.masked_fill(chance < 0.9, -torch.inf),
    }[kind]


_KINDS = ["flat", "peaked", "ties", "half", "equal", "rising", "forbidden", "masked"]


def _kept(logits: Floats, draw: Draw) -> Floats:
    """The distribution after temperature; min_p and top_k; top_p."""
    with np.errstate(under="ignore"):
        shares = np.exp((logits - logits.max()) / draw.temperature)
    allowed = shares >= draw.min_p
    if draw.top_k:
        allowed &= logits >= np.sort(logits)[::-1][min(draw.top_k, _V) - 1]
    shares = shares * allowed / (shares * allowed).sum()
    if draw.top_p < 1:
        falling = np.argsort(-logits, kind="stable")
        before = np.concatenate(([0.0], np.cumsum(shares[falling])))
        first = np.searchsorted(-logits[falling], -logits, side="left")  # the first of its equals
        shares = shares * (before[first] < draw.top_p)
    result: Floats = shares / shares.sum()
    return result


def _check(tokens: Sequence[int | None], shares: Floats, positions: Sequence[int]) -> None:
    """Each is where the uniform number falls in the running sum, in the order of the vocabulary."""
    ends = np.cumsum(shares)
    for token, position in zip(tokens, positions, strict=True):
        assert token is not None
        uniform = rng.uniform(_KEY, position)
        assert shares[token] > 0
        assert ends[token] - shares[token] - _ROUNDING <= uniform <= ends[token] + _ROUNDING


@pytest.mark.parametrize("kind", _KINDS)
@pytest.mark.parametrize("draw", _DRAWS, ids=str)
def test_each_draw_falls_where_the_plain_reading_says(kind: str, draw: Draw) -> None:
    logits = _logits(kind)

    tokens = Sampler(_CPU)(logits.expand(60, -1), [draw] * 60, torch.arange(60))

    _check(tokens, _kept(logits[0].double().numpy(), draw), range(60))


@pytest.mark.parametrize("kind", ["flat", "peaked", "ties"])
@pytest.mark.parametrize("draw", _DRAWS[1:], ids=str)
def test_tokens_come_in_their_shares(kind: str, draw: Draw) -> None:
    count, groups = 1_200, 8
    logits = _logits(kind, 9)
    shares = _kept(logits[0].double().numpy(), draw)

    tokens = Sampler(_CPU)(logits.expand(count, -1), [draw] * count, torch.arange(count))

    edges = np.searchsorted(np.cumsum(shares), np.arange(1, groups) / groups)  # parts of the vocabulary
    expected = np.bincount(np.searchsorted(edges, np.arange(_V)), shares, groups)
    often = np.bincount(np.searchsorted(edges, np.array(tokens)), minlength=groups) / count
    assert (np.abs(often - expected) < 4.5 * np.sqrt(expected * (1 - expected) / count) + 1e-6).all()
    assert (shares[np.array(tokens)] > 0).all()


def test_rows_that_differ_in_everything_do_not_mix() -> None:
    draws = [draw for draw in (*_DRAWS, Draw(0)) for _ in _KINDS]
    logits = torch.cat([_logits(kind) for _ in (*_DRAWS, None) for kind in _KINDS])
    order = torch.randperm(len(draws), generator=torch.Generator().manual_seed(1))
    sampler = Sampler(_CPU)

    tokens = sampler(logits[order], [draws[at] for at in order], order)

    alone = [sampler(logits[at : at + 1], [draws[at]], torch.tensor([at]))[0] for at in order.tolist()]
    assert tokens == alone


@pytest.mark.parametrize("kind", _KINDS)
def test_the_short_way_finds_what_the_long_one_finds_or_says_so(kind: str) -> None:
    logits = torch.cat([_logits(kind, seed) for seed in range(64)])
    high = cuts.peaks(logits)
    best, _ = cuts.best(logits, high)
    uniform = torch.rand(64, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    share = torch.linspace(0.01, 0.99, 64, dtype=torch.float64)[:, None]
    one = torch.ones(64, 1)
    asked = cuts.Asked(one, one.long() * _V, one.double() * 0, share)
    rows = cuts.Rows(logits, high, best, uniform, asked)

    quick = cuts.short(rows, slice(64), cuts.total(rows.weights()))
    thorough = cuts.long(rows, cuts.Needs(min_p=False, top_k=False, top_p=True), rows.weights())

    assert ((quick == thorough) | (quick == cuts.UNKNOWN)).all()


@pytest.mark.parametrize("apart", [1, 32, 70])  # neighbours hide behind one peak
@pytest.mark.parametrize("count", [62, 63, 64, 65, 66])
def test_a_nucleus_about_as_large_as_the_few_is_found(count: int, apart: int) -> None:
    logits = torch.full((1, _V), -20.0)
    logits[0, 5 + apart * torch.arange(count)] = torch.linspace(0, 1, count)
    draw = Draw(_KEY, 1.0, top_p=0.997)
    shares = _kept(logits[0].double().numpy(), draw)

    tokens = Sampler(_CPU)(logits.expand(400, -1), [draw] * 400, torch.arange(400))

    assert np.count_nonzero(shares) == count
    _check(tokens, shares, range(400))


def test_equals_of_the_last_of_the_few_stay_as_well() -> None:
    logits = torch.full((1, _V), -20.0)
    logits[0, 5 + 70 * torch.arange(70)] = 0.0
    draw = Draw(_KEY, 1.0, top_p=63.5 / 70)  # sixty-four would do
    shares = _kept(logits[0].double().numpy(), draw)

    tokens = Sampler(_CPU)(logits.expand(100, -1), [draw] * 100, torch.arange(100))

    assert np.count_nonzero(shares) == 70
    _check(tokens, shares, range(100))


@pytest.mark.parametrize("scale", [0.5, 2.0, 4.0, 8.0])
@pytest.mark.parametrize("draw", [Draw(_KEY, 0.7, top_p=0.9), Draw(_KEY, 0.7, top_k=200), Draw(_KEY, 0.7)], ids=str)
def test_a_wide_vocabulary_of_coarse_logits_is_drawn_as_the_plain_reading_says(scale: float, draw: Draw) -> None:
    rows = scale * torch.randn(2, 151_936 + 3, generator=torch.Generator().manual_seed(5))
    logits = torch.stack((rows[0], rows[1].bfloat16().float())).repeat(4, 1)  # 8 rows: a few at once

    tokens = Sampler(_CPU)(logits, [draw] * 8, torch.arange(8))

    for kind in range(2):
        _check(tokens[kind::2], _kept(logits[kind].double().numpy(), draw), range(kind, 8, 2))


def test_sums_in_single_precision_move_no_draw() -> None:
    weight = torch.rand(16, 100_003, generator=torch.Generator().manual_seed(6)) ** 8
    uniform = torch.rand(16, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(7))
    uniform[0], uniform[1] = 0.0, 1 - 2.0**-53

    places = cuts.drawn(weight, uniform)

    ends = weight.double().cumsum(dim=1) / weight.double().sum(dim=1, keepdim=True)
    after = ends.gather(1, places)
    before = after - weight.gather(1, places) / weight.double().sum(dim=1, keepdim=True)
    assert ((before - 3e-8 <= uniform) & (uniform <= after + 3e-8)).all()


def test_columns_without_weight_at_both_ends_are_never_drawn() -> None:
    weight = torch.zeros(2, 1_000)
    weight[:, 300:600] = 0.1

    places = cuts.drawn(weight, torch.tensor([[0.0], [1 - 2.0**-53]], dtype=torch.float64))

    assert places[:, 0].tolist() == [300, 599]


def test_a_sum_that_was_rounded_up_carries_no_draw_past_the_end() -> None:
    weight = torch.zeros(1, 130)
    weight[0, 128:] = torch.tensor([1.0, 0.75 * 2.0**-23])

    assert cuts.drawn(weight, torch.full((1, 1), 1 - 2.0**-53, dtype=torch.float64)).item() == 129


@pytest.mark.parametrize("vocabulary", [1, 31, 32, 33, 2_048, 2_049, 4_999])
def test_the_best_is_the_first_of_the_highest(vocabulary: int) -> None:
    logits = torch.randn(50, vocabulary, generator=torch.Generator().manual_seed(vocabulary)).round()
    logits[0, -1], logits[1, 0] = 9.0, 9.0

    value, place = cuts.best(logits, cuts.peaks(logits))

    assert torch.equal(value, logits.amax(dim=1, keepdim=True))
    assert place[:, 0].tolist() == logits.numpy().argmax(axis=1).tolist()


@pytest.mark.parametrize("draw", _DRAWS, ids=str)
def test_a_row_that_is_not_finite_is_found_on_every_way(draw: Draw) -> None:
    logits = torch.cat([_logits("flat", seed) for seed in range(6)])
    whole = Sampler(_CPU)(logits, [draw] * 6, torch.arange(6))
    logits[1, 3] = torch.nan
    logits[3, -1] = torch.inf
    logits[5] = -torch.inf

    tokens = Sampler(_CPU)(logits, [draw] * 6, torch.arange(6))

    assert tokens == [whole[0], None, whole[2], None, whole[4], None]
