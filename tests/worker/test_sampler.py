from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from worker.engine import rng
from worker.engine.sampler import Sampler
from worker.engine.sequence import Draw

torch.set_num_threads(1)  # more would wait for each other, and for other processes
Floats = NDArray[np.float64]
_CPU = torch.device("cpu")
_KEY = rng.stream(2024, 0)
_ASKED = [
    Draw(_KEY, 1.0),
    Draw(_KEY, 0.3),
    Draw(_KEY, 2.0),
    Draw(_KEY, 1.0, top_k=7),
    Draw(_KEY, 0.8, min_p=0.05),
    Draw(_KEY, 1.0, top_p=0.9),
    Draw(_KEY, 1.0, top_p=0.05),
    Draw(_KEY, 1.3, top_p=0.7, top_k=20),
    Draw(_KEY, 1.3, top_p=0.8, min_p=0.02),
    Draw(_KEY, 0.7, top_p=0.6, top_k=12, min_p=0.01),
    Draw(_KEY, 3.0, top_p=0.5, top_k=250),  # more than the first candidates count in the share
]


def _textbook(logits: Floats, draw: Draw) -> Floats:
    """Temperature; min_p and top_k; top_p over what is left. Equals stay or go together."""
    shares = np.exp((logits - logits.max()) / draw.temperature)
    shares /= shares.sum()
    kept = shares >= draw.min_p * shares.max()
    if draw.top_k:
        kept &= logits >= np.sort(logits)[::-1][min(draw.top_k, len(logits)) - 1]
    shares = shares * kept / (shares * kept).sum()
    if draw.top_p < 1:
        above = np.array([shares[shares > share].sum() for share in shares])
        shares = shares * (above < draw.top_p)
    result: Floats = shares / shares.sum()
    return result


def _drawn(shares: Floats, key: int, positions: Sequence[int]) -> list[int]:
    """The inverse of the cumulative distribution, in the order of the vocabulary."""
    uniforms = [rng.uniform(key, position) for position in positions]
    return [int(at) for at in np.searchsorted(np.cumsum(shares), uniforms, side="right")]


def _logits(vocabulary: int, seed: int = 0, rows: int = 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 2 * torch.randn(rows, vocabulary, generator=generator)


def _ask(logits: torch.Tensor, draws: Sequence[Draw], first: int = 0) -> list[int | None]:
    return Sampler(_CPU)(logits, draws, torch.arange(first, first + len(draws)))


@pytest.mark.parametrize("vocabulary", [1, 5, 127, 128, 129, 300])
@pytest.mark.parametrize("draw", _ASKED, ids=str)
def test_tokens_are_drawn_as_the_textbook_says(draw: Draw, vocabulary: int) -> None:
    count = 300
    logits = _logits(vocabulary, seed=vocabulary)
    shares = _textbook(logits[0].double().numpy(), draw)

    tokens = _ask(logits.expand(count, -1), [draw] * count)

    assert tokens == _drawn(shares, _KEY, range(count))


@pytest.mark.parametrize("draw", _ASKED, ids=str)
def test_each_token_comes_as_often_as_it_should(draw: Draw) -> None:
    count = 20_000
    logits = _logits(60, seed=3)
    shares = _textbook(logits[0].double().numpy(), draw)

    tokens = _ask(logits.expand(count, -1), [draw] * count, first=1_000)

    often = np.bincount(np.array(tokens), minlength=60) / count
    assert (np.abs(often - shares) < 4.5 * np.sqrt(shares * (1 - shares) / count) + 1e-4).all()
    assert (often[shares == 0] == 0).all()


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_nothing_is_drawn_that_was_cut(data: st.DataObject) -> None:
    vocabulary = data.draw(st.integers(1, 200))
    few = st.integers(-6, 6).map(float)  # many ties
    logits = torch.tensor([data.draw(st.lists(few, min_size=vocabulary, max_size=vocabulary))])
    draw = Draw(
        data.draw(st.integers(-(2**63), 2**63 - 1)),
        data.draw(st.sampled_from([0.1, 0.7, 1.0, 1.9])),
        data.draw(st.sampled_from([1.0, 0.937, 0.512, 0.0131])),
        data.draw(st.sampled_from([0, 1, 3, 50, 500])),
        data.draw(st.sampled_from([0.0, 0.0107, 0.303, 0.97])),
    )

    tokens = _ask(logits.expand(64, -1), [draw] * 64)

    assert tokens == _drawn(_textbook(logits[0].double().numpy(), draw), draw.key, range(64))


@pytest.mark.parametrize(
    ("draw", "support"),
    [
        (Draw(_KEY, 1.0, top_k=1), {1, 4}),
        (Draw(_KEY, 1.0, top_k=2), {1, 4}),
        (Draw(_KEY, 1.0, top_k=3), {0, 1, 3, 4}),
        (Draw(_KEY, 1.0, top_p=0.01), {1, 4}),
        (Draw(_KEY, 1.0, top_p=0.8), {0, 1, 3, 4}),
        (Draw(_KEY, 1.0, min_p=0.3), {0, 1, 3, 4}),
        (Draw(_KEY, 1.0, min_p=1.0), {1, 4}),
    ],
    ids=str,
)
def test_tokens_that_are_equally_likely_stay_or_go_together(draw: Draw, support: set[int]) -> None:
    logits = torch.tensor([[2.0, 3.0, 1.0, 2.0, 3.0]])

    assert set(_ask(logits.expand(500, -1), [draw] * 500)) == support


def test_top_p_is_a_share_of_what_top_k_and_min_p_left() -> None:
    logits = torch.tensor([0.4, 0.3, 0.2, 0.1]).log()[None].expand(500, -1)

    alone = set(_ask(logits, [Draw(_KEY, 1.0, top_p=0.55)] * 500))
    after_top_k = set(_ask(logits, [Draw(_KEY, 1.0, top_p=0.55, top_k=2)] * 500))
    untouched = set(_ask(logits, [Draw(_KEY, 1.0, top_p=0.42)] * 500))
    after_min_p = set(_ask(logits, [Draw(_KEY, 1.0, top_p=0.42, min_p=0.6)] * 500))

    assert (alone, after_top_k, untouched, after_min_p) == ({0, 1}, {0}, {0, 1}, {0})


def test_temperature_comes_before_the_cuts() -> None:
    logits = torch.tensor([0.6, 0.3, 0.1]).log()[None].expand(500, -1)

    assert set(_ask(logits, [Draw(_KEY, 1.0, min_p=0.3)] * 500)) == {0, 1}
    assert set(_ask(logits, [Draw(_KEY, 2.0, min_p=0.3)] * 500)) == {0, 1, 2}
    assert set(_ask(logits, [Draw(_KEY, 0.5, min_p=0.3)] * 500)) == {0}


def test_a_tiny_temperature_is_greedy_and_a_huge_one_is_even() -> None:
    logits = _logits(50, seed=5, rows=200)
    best: list[int] = logits.argmax(dim=1).tolist()

    for temperature in (1e-6, 1e-30, 5e-324):
        assert _ask(logits, [Draw(_KEY, temperature)] * 200) == best
        assert _ask(logits, [Draw(_KEY, temperature, top_p=0.9, top_k=40)] * 200) == best
    even = _ask(logits[:1].expand(5_000, -1), [Draw(_KEY, 1e9)] * 5_000)
    assert np.abs(np.bincount(np.array(even), minlength=50) - 100).max() < 45


def test_a_row_draws_the_same_whoever_its_mates_are() -> None:
    draws = [Draw(0), *_ASKED, Draw(rng.stream(1, 1), 0.5), Draw(0)]
    logits = _logits(3_000, seed=8, rows=len(draws))
    sampler = Sampler(_CPU)

    together = sampler(logits, draws, torch.arange(len(draws)))
    alone = [sampler(logits[at : at + 1], [draw], torch.tensor([at])) for at, draw in enumerate(draws)]
    backwards = sampler(logits.flip(0), draws[::-1], torch.arange(len(draws)).flip(0))

    assert together == [token for tokens in alone for token in tokens]
    assert together == backwards[::-1]
    assert (together[0], together[-1]) == (logits[0].argmax().item(), logits[-1].argmax().item())


def test_a_batch_that_changes_is_sampled_as_it_now_is() -> None:
    logits = _logits(100, seed=9, rows=2)
    sampler = Sampler(_CPU)
    best: list[int] = logits.argmax(dim=1).tolist()
    hot = Draw(_KEY, 5.0)

    for position in range(5):
        assert sampler(logits, [Draw(0), Draw(0)], torch.tensor([position, position])) == best
        greedy, drawn = sampler(logits, [Draw(0), hot], torch.tensor([position, position]))
        assert greedy == best[0]
        assert [drawn] == _drawn(_textbook(logits[1].double().numpy(), hot), _KEY, [position])


@pytest.mark.parametrize("kept", [100, 128, 129, 2_048, 3_000, 16_384, 16_385, 20_000])
def test_rows_that_keep_many_tokens_may_draw_all_of_them(kept: int) -> None:
    vocabulary, count = 20_003, 40
    order = torch.randperm(vocabulary, generator=torch.Generator().manual_seed(kept))
    logits = torch.empty(1, vocabulary)
    logits[0, order] = torch.linspace(1, 0, vocabulary)
    allowed = order[:kept]
    shares = np.zeros(vocabulary)
    shares[allowed] = np.exp(logits[0, allowed].double().numpy())
    shares /= shares.sum()
    expected = _drawn(shares, _KEY, range(count))

    assert _ask(logits.expand(count, -1), [Draw(_KEY, 1.0, top_k=kept)] * count) == expected


def test_a_wide_nucleus_is_found_beside_narrow_ones() -> None:
    vocabulary = 20_003
    logits = torch.cat([_logits(vocabulary, seed=1) / 20, 6 * _logits(vocabulary, seed=2)]).repeat(3, 1)
    draw = Draw(_KEY, 1.0, top_p=0.95)
    flat, steep = (_textbook_nucleus(row.double().numpy(), 0.95) for row in logits[:2])

    tokens = _ask(logits, [draw] * 6)

    assert np.count_nonzero(flat) > 16_384
    assert np.count_nonzero(steep) < 128
    assert tokens == [_drawn((flat, steep)[at % 2], _KEY, [at])[0] for at in range(6)]


def _textbook_nucleus(logits: Floats, top_p: float) -> Floats:
    """For a vocabulary without ties."""
    order = np.argsort(-logits)
    shares = np.exp(logits - logits.max())
    shares /= shares.sum()
    falling = np.cumsum(shares[order])
    shares[order[1:][falling[:-1] >= top_p]] = 0
    result: Floats = shares / shares.sum()
    return result


@pytest.mark.parametrize("vocabulary", [5, 300, 3_000])
@pytest.mark.parametrize("draw", [Draw(0), *_ASKED], ids=str)
def test_a_row_that_is_not_finite_has_no_token_and_disturbs_nobody(draw: Draw, vocabulary: int) -> None:
    logits = _logits(vocabulary, seed=11, rows=7)
    whole = _ask(logits, [draw] * 7)
    logits[1, 3] = torch.nan
    logits[3, 0] = torch.inf
    logits[5] = -torch.inf

    tokens = _ask(logits, [draw] * 7)

    assert tokens == [None if at in {1, 3, 5} else token for at, token in enumerate(whole)]


def test_tokens_forbidden_by_an_infinite_logit_are_never_drawn() -> None:
    logits = torch.full((1, 300), -torch.inf)
    logits[0, [4, 200, 299]] = torch.tensor([1.0, 2.0, 0.5])

    for draw in (Draw(0), Draw(_KEY, 50.0), Draw(_KEY, 50.0, top_k=100), Draw(_KEY, 50.0, top_p=0.999)):
        assert set(_ask(logits.expand(300, -1), [draw] * 300)) <= {4, 200, 299}


def test_half_precision_logits_are_sampled_in_full_precision() -> None:
    logits = _logits(500, seed=12, rows=50).bfloat16()

    tokens = _ask(logits, [Draw(_KEY, 1.0)] * 50)

    rows = logits.double().numpy()
    expected = [_drawn(_textbook(row, Draw(_KEY, 1.0)), _KEY, [at])[0] for at, row in enumerate(rows)]
    assert tokens == expected
