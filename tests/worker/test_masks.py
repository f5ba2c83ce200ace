"""What may not come becomes minus infinity, and nothing else changes."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from worker.engine.masks import Masks
from worker.engine.sequence import BrokenConstraintError


class _Row:
    """Tokens that may come, from a list."""

    is_done = False

    def __init__(self, *allowed: int) -> None:
        self._allowed = allowed

    def clone(self) -> "_Row":
        return self

    def advance(self, token: int) -> None:
        raise NotImplementedError

    def forced(self) -> list[int]:
        return []

    def check(self) -> None:
        if not self._allowed:
            raise BrokenConstraintError("nothing")

    def fill(self, mask: Any) -> None:
        self.check()
        bits = np.zeros(32 * len(mask), np.uint8)
        bits[list(self._allowed)] = 1
        mask[:] = np.packbits(bits, bitorder="little").view(np.int32)


def _masked(logits: Tensor, *rows: _Row | None, device: str = "cpu") -> Tensor:
    Masks(logits.shape[1], rows, device).apply(logits)
    return logits


@pytest.mark.parametrize("device", ["cpu", "cuda"])  # beside the forward, or at once; the logits lie here either way
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("vocabulary", [7, 8, 32, 33, 1001])
def test_only_what_may_come_is_left_in_the_rows_under_a_constraint(
    device: str, dtype: torch.dtype, vocabulary: int
) -> None:
    logits = torch.randn(4, vocabulary, generator=torch.Generator().manual_seed(0)).to(dtype)
    expected = logits.clone()
    for row, allowed in ((1, [0, 2, vocabulary - 1]), (3, [5])):
        hidden = torch.ones(vocabulary, dtype=torch.bool)
        hidden[allowed] = False
        expected[row, hidden] = -torch.inf

    assert torch.equal(_masked(logits, None, _Row(0, 2, vocabulary - 1), None, _Row(5), device=device), expected)


def test_logits_without_a_constraint_are_left_alone() -> None:
    assert torch.equal(_masked(torch.ones(2, 40), None, None), torch.ones(2, 40))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_row_whose_constraint_is_given_up_has_nothing_left(dtype: torch.dtype) -> None:
    told = _masked(torch.ones(2, 40, dtype=dtype), _Row(), _Row(3))

    assert bool((told[0] == -torch.inf).all())
    assert told[1].isfinite().nonzero().flatten().tolist() == [3]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_number_that_is_none_stays_one_where_it_may_come(dtype: torch.dtype) -> None:
    told = _masked(torch.full((1, 40), torch.nan, dtype=dtype), _Row(3))

    assert bool(told[0, 3].isnan())
