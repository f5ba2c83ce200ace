import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from worker.engine import rng

_WORDS = st.integers(-(2**63), 2**63 - 1)
_POSITIONS = st.integers(0, 2**40)
# splitmix64 of 1234567, as its author's C program prints it
_KNOWN = (6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431, 16408922859458223821)


@given(st.lists(st.tuples(_WORDS, _POSITIONS), min_size=1, max_size=8))
@settings(max_examples=200, deadline=None)
def test_a_tensor_draws_what_integers_draw(pairs: list[tuple[int, int]]) -> None:
    keys, positions = (torch.tensor(column, dtype=torch.int64) for column in zip(*pairs, strict=True))

    drawn = rng.bits(keys, positions)

    assert drawn.dtype == torch.int64
    assert drawn.tolist() == [rng.bits(key, position) for key, position in pairs]


@given(st.integers(1, 2**63 - 1), st.integers(0, 2047))
@settings(max_examples=100, deadline=None)
def test_every_key_fits_a_tensor_and_every_draw_lies_in_the_unit_interval(seed: int, choice: int) -> None:
    key = rng.stream(seed, choice)

    assert torch.tensor(key, dtype=torch.int64).item() == key
    assert all(0 <= rng.uniform(key, position) < 1 for position in range(16))


def test_the_draws_are_those_of_splitmix64() -> None:
    assert [rng.bits(1234567, position) for position in range(5)] == [word >> 11 for word in _KNOWN]


def test_draws_are_spread_evenly() -> None:
    positions = torch.arange(100_000)

    for choice in range(3):
        draws = rng.bits(torch.tensor(rng.stream(7, choice)), positions).double() * rng.UNIT
        counts = torch.histc(draws, 20, 0, 1)

        assert (counts - 5_000).abs().max() < 350  # five standard deviations
        assert abs(torch.corrcoef(torch.stack([draws[1:], draws[:-1]]))[0, 1].item()) < 0.016


def test_other_seeds_and_other_choices_draw_otherwise() -> None:
    keys = [rng.stream(seed, choice) for seed in range(1, 65) for choice in range(64)]
    draws = [rng.bits(key, 5) for key in keys]

    assert len(set(keys)) == len(keys)
    assert len(set(draws)) == len(draws)


def test_a_draw_never_changes_between_versions() -> None:
    assert (rng.stream(42, 1), rng.bits(rng.stream(42, 1), 17)) == (-409945945691060918, 5728266331383805)
