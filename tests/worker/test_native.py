"""Attention and masks in C: what torch says of each row alone, whatever a layer asks for."""

import shutil
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from common.settings import REPOSITORY
from tests.worker import tiny
from tests.worker.asked import asked, is_what_generate_says
from tests.worker.claims import a_claim, answers
from worker.engine import masks, native
from worker.engine.attention import How, Store

SIZE, BLOCKS = 16, 40

pytestmark = pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """As make builds it."""
    path = tmp_path_factory.mktemp("native") / "libnative.so"
    subprocess.run(["make", "-s", "-C", str(REPOSITORY), f"NATIVE={path}", str(path)], check=True)  # noqa: S607
    return native.library(path)


@pytest.fixture(scope="module")
def attend(built: Any) -> Any:
    """The function."""
    return built.attend


def _pool(heads: int, width: int, value_width: int, dtype: torch.dtype = torch.float32) -> Store:
    drawn = torch.Generator().manual_seed(0)
    keys, values = (torch.randn(heads, BLOCKS, SIZE, each, generator=drawn) for each in (width, value_width))
    return Store(keys.to(dtype), values.to(dtype))


def _query(heads: int, rows: int, width: int) -> Tensor:
    """As a model has it: [H, n, D], rows of heads in memory."""
    return torch.randn(rows, heads, width, generator=torch.Generator().manual_seed(1)).transpose(0, 1)


def _tables(ends: Sequence[int]) -> list[list[int]]:
    order = torch.randperm(BLOCKS, generator=torch.Generator().manual_seed(2)).tolist()
    return [order[at : at + -(-end // SIZE)] for at, end in enumerate(ends)]


def _expected(query: Tensor, store: Store, table: Sequence[int], end: int, how: How) -> Tensor:
    """One row by the definition, in double precision; ``query`` [H, D]."""
    first = max(0, end - how.window) if how.window else 0
    keys, values = (one[:, list(table)].flatten(1, 2)[:, first:end].double() for one in (store.keys, store.values))
    each = len(query) // len(keys)
    keys, values = keys.repeat_interleave(each, 0), values.repeat_interleave(each, 0)
    scores = (query.double()[:, None] @ keys.transpose(1, 2))[:, 0] * how.scaling  # [H, L]
    if how.softcap:
        scores = how.softcap * torch.tanh(scores / how.softcap)
    if how.sinks is not None:
        scores = torch.cat((scores, how.sinks.double()[:, None]), dim=1)
    return (scores.softmax(dim=1)[:, : end - first, None] * values).sum(dim=1)


@pytest.mark.parametrize(
    "how",
    [
        How(0.125),
        How(0.3, window=20),
        How(0.3, softcap=3.0),
        How(0.3, sinks=torch.tensor([0.5, -2.0, 9.0, 0.0, 1.0, -30.0, 4.0, 2.0])),
        How(8.0),  # one token takes nearly all
        How(0.3, window=1),
    ],
)
@pytest.mark.parametrize(("heads", "width", "value_width"), [(4, 64, 64), (2, 128, 128), (8, 40, 24), (1, 7, 64)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_each_row_is_what_the_definition_says(
    attend: Any, how: How, heads: int, width: int, value_width: int, dtype: torch.dtype
) -> None:
    ends = [1, 15, 16, 17, 100, 33]
    store, query, tables = _pool(heads, width, value_width, dtype), _query(8, len(ends), width), _tables(ends)

    told = native.Rows(attend, 0, tables, ends).attend(query, store, how)

    assert told.shape == (len(ends), 8, value_width)
    for row, (table, end) in enumerate(zip(tables, ends, strict=True)):
        expected = _expected(query[:, row], store, table, end, how)
        assert torch.allclose(told[row].double(), expected, atol=2e-5), (row, (told[row] - expected).abs().max())


def test_half_precision_is_answered_in_half_precision(attend: Any) -> None:
    store, query = _pool(4, 64, 64, torch.bfloat16), _query(8, 2, 64).bfloat16()
    tables = _tables([20, 50])

    told = native.Rows(attend, 0, tables, [20, 50]).attend(query, store, How(0.125))

    assert told.dtype == torch.bfloat16
    expected = _expected(query[:, 1], store, tables[1], 50, How(0.125))
    assert torch.allclose(told[1].double(), expected, atol=0.01)


@pytest.fixture(params=[1, 3])
def _threads(request: pytest.FixtureRequest) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield
    torch.set_num_threads(before)
    native.pool.cache_clear()


@pytest.mark.usefixtures("_threads")
def test_a_row_is_the_same_bits_alone_and_in_company(attend: Any) -> None:
    ends = [70, 3, 600, 16, 240, 630, 620, 610]
    store, query = _pool(4, 64, 64), _query(8, len(ends), 64)
    tables = [_tables([end])[0] for end in ends]

    together = native.Rows(attend, 0, tables, ends).attend(query, store, How(0.125))

    for row, end in enumerate(ends):
        alone = native.Rows(attend, 0, [tables[row]], [end]).attend(query[:, row : row + 1], store, How(0.125))
        assert torch.equal(alone[0], together[row])


@pytest.mark.parametrize("which", ["keys", "values"])
def test_what_is_no_number_stays_with_its_sequence(attend: Any, which: str) -> None:
    store, query = _pool(4, 64, 64), _query(8, 2, 64)
    getattr(store, which)[:, 7, 3] = torch.nan

    told = native.Rows(attend, 0, [[5, 7], [1, 2]], [20, 32]).attend(query, store, How(0.125))

    assert told[0].isnan().any(dim=1).all()
    assert told[1].isfinite().all()


def test_what_lies_behind_the_end_is_not_read(attend: Any) -> None:
    store, query = _pool(4, 64, 64), _query(8, 1, 64)
    before = native.Rows(attend, 0, [[5, 7]], [20]).attend(query, store, How(0.125))
    store.keys[:, 7, 4:], store.values[:, 7, 4:] = torch.nan, torch.inf

    assert torch.equal(native.Rows(attend, 0, [[5, 7]], [20]).attend(query, store, How(0.125)), before)


@pytest.mark.parametrize("is_there", ["there", "missing"])
def test_a_model_says_the_same_with_it_and_without(attend: Any, is_there: str) -> None:
    called: list[Any] = []

    def noted(*given: Any) -> None:
        called.append(given)
        attend(*given)

    model = tiny.packed("gemma3, sliding and full", slots=3)
    model._attend = noted if is_there == "there" else None
    jobs = [asked(length, most) for length, most in ((1, 20), (40, 30), (9, 3), (64, 9))]

    notes = answers(model, *map(a_claim, jobs))

    assert is_what_generate_says(tiny.network("gemma3, sliding and full"), notes, jobs)
    assert bool(called) is (is_there == "there")


def test_a_library_that_was_not_built_is_none() -> None:
    assert native.library(Path("nothing.so")) is None


def test_a_mask_that_is_wider_than_the_logits_is_read_as_it_is_meant(built: Any) -> None:
    bits = np.zeros((2, 4), np.int32)
    bits[:, 0] = 1, 2
    logits = torch.zeros(2, 64)

    masks.lower(logits, [0, 1], bits, built)

    assert logits.isfinite().nonzero().tolist() == [[0, 0], [1, 1]]


@pytest.mark.parametrize("width", [7, 32, 1001])
def test_masks_in_c_lower_what_numpy_lowers(built: Any, width: int) -> None:
    drawn = np.random.default_rng(0)
    logits = torch.from_numpy(drawn.normal(size=(5, width + 3)).astype(np.float32))
    logits[2, 3] = logits[4, 0] = torch.nan
    logits[0, 5] = torch.inf
    bits = drawn.integers(-(2**31), 2**31, (3, -(-width // 32)), np.int32)

    told, expected = logits[:, :width].clone(), logits[:, :width].clone()
    masks.lower(told, [0, 2, 4], bits, built)
    masks.lower(expected, [0, 2, 4], bits, None)
    beside = logits.clone()
    masks.lower(beside[:, :width], [0, 2, 4], bits, built)

    assert torch.equal(told.nan_to_num(), expected.nan_to_num())
    assert torch.equal(told.isnan(), expected.isnan())
    assert torch.equal(told[[1, 3]], logits[[1, 3], :width])
    assert torch.equal(beside[:, :width].nan_to_num(), expected.nan_to_num())
    assert torch.equal(beside[:, width:], logits[:, width:])
