"""``native.c``: attention of one new token each, with exact lengths and nothing gathered, and masks. On a CPU.

``make`` builds it where there is a C compiler; without it ``attention.Group`` and ``masks`` do the same, slower.
"""

import ctypes
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from worker.engine.attention import How, Store

_LIBRARY = Path(__file__).with_name("libnative.so")
DTYPES = (torch.float32, torch.bfloat16)
_PART = 2**17  # numbers of keys and values that are worth a thread
_POINTERS = ("query", "out", "keys", "values", "sinks", "table", "ends")
_NUMBERS = (
    *("columns", "query_row", "query_head", "heads", "each", "blocks", "size", "width", "value_width"),
    *("window", "is_half"),
)


class _Call(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_void_p) for name in _POINTERS),
        *((name, ctypes.c_int64) for name in _NUMBERS),
        *((name, ctypes.c_float) for name in ("scaling", "softcap")),
    )


@cache
def library(path: Path = _LIBRARY) -> Any:
    """The functions, or None where they were not built."""
    try:
        built = ctypes.CDLL(str(path))
    except OSError:
        return None
    built.attend.argtypes = (ctypes.POINTER(_Call), ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64)
    built.lower.argtypes = (ctypes.c_void_p, *2 * (ctypes.c_int64,), ctypes.c_void_p, ctypes.c_int64, ctypes.c_void_p)
    built.attend.restype = built.lower.restype = None
    return built


@cache
def pool(threads: int) -> ThreadPoolExecutor:
    """Who computes parts of a step."""
    return ThreadPoolExecutor(threads, "attention")


class Rows:
    """Tokens that see so much each of their sequences, at the places ``start`` to ``start + count`` of the row."""

    def __init__(self, attend: Any, start: int, tables: Sequence[Sequence[int]], ends: Sequence[int]) -> None:
        """``attend``: of the ``library``; then the blocks of each sequence, and how many of its tokens are seen."""
        self._attend = attend
        self.start, self.count = start, len(ends)
        self._most, self._sum = max(ends), sum(ends)
        columns = max(map(len, tables))
        self._table = torch.tensor([(*table, *(columns - len(table)) * (0,)) for table in tables])
        self._ends = torch.tensor(ends)

    def attend(self, query: Tensor, store: Store, how: How) -> Tensor:
        """``query`` [H, n, D] to [n, H, D]."""
        heads, blocks, size, width = store.keys.shape
        value_width = store.values.shape[-1]
        asked = query.float()
        asked = asked if asked.stride(-1) == 1 else asked.contiguous()
        out = asked.new_empty(self.count, len(query), value_width)
        sinks = None if how.sinks is None else how.sinks.float().contiguous()
        call = _Call(
            *(asked.data_ptr(), out.data_ptr(), store.keys.data_ptr(), store.values.data_ptr()),
            *(None if sinks is None else sinks.data_ptr(), self._table.data_ptr(), self._ends.data_ptr()),
            *(self._table.shape[1], asked.stride(1), asked.stride(0), heads, len(query) // heads),
            *(blocks, size, width, value_width, how.window or 0, store.keys.dtype == torch.bfloat16),
            *(how.scaling, how.softcap or 0.0),
        )
        self._run(call, asked.new_empty, heads)
        return out.to(query.dtype)

    def _run(self, call: _Call, room: Any, heads: int) -> None:
        """In as many threads as torch has, if that is worth it."""
        items = self.count * heads
        parts = max(1, min(torch.get_num_threads(), self._sum * heads * call.width // _PART, items))
        borders = [items * part // parts for part in range(parts + 1)]

        def run(part: tuple[int, int]) -> None:
            scores: Tensor = room(call.each * self._most)
            self._attend(call, scores.data_ptr(), *part)

        if parts == 1:
            run((0, items))
        else:
            list(pool(torch.get_num_threads()).map(run, pairwise(borders)))
