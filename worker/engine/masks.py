"""Bits of tokens that may come, filled while the forward runs, and what they do to logits.

On a CPU they are filled at once: to fill them beside the forward, on another core, took twice the CPU time and won
nothing by the clock.
"""

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from functools import cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from worker.engine import native
from worker.engine.sequence import BrokenConstraintError, Row

_WORD, _BYTE = 32, 8  # tokens in one number
_MOST = np.where(np.arange(256)[:, None] >> np.arange(_BYTE) & 1, np.inf, -np.inf).astype(np.float32)  # of each byte's
_Floats = NDArray[np.float32]


@cache
def _filler() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(1, "masks")


class Masks:
    """The masks of those rows of a step that are under a constraint."""

    def __init__(self, vocabulary: int, rows: Sequence[Row | None], device: str = "cpu") -> None:
        """``rows``: a sequence's place in its constraint each, None for those without; ``device``: of the forward."""
        held = [(at, row) for at, row in enumerate(rows) if row is not None]
        self._at = [at for at, _ in held]
        self._bits = np.zeros((len(self._at), -(-vocabulary // _WORD)), np.int32)
        self._filled: Future[None] | None = None
        if self._at and device == "cpu":
            self._fill([row for _, row in held])
        elif self._at:
            self._filled = _filler().submit(self._fill, [row for _, row in held])

    def _fill(self, rows: Sequence[Row]) -> None:
        for row, bits in zip(rows, self._bits, strict=True):
            with suppress(BrokenConstraintError):  # nothing may come then, so nothing is drawn
                row.fill(bits)

    def apply(self, logits: Tensor) -> None:
        """In ``logits`` [R, V], what may not come becomes minus infinity."""
        if self._filled is not None:
            self._filled.result()
        if self._at:
            lower(logits, self._at, self._bits, native.library())


def lower(logits: Tensor, at: Sequence[int], bits: NDArray[np.int32], built: Any) -> None:
    """Rows ``at`` of ``logits`` [R, V] by their ``bits`` [r, ceil(V / 32)]; ``built``: ``native.library``, or None."""
    if logits.device.type != "cpu" or logits.dtype != torch.float32 or logits.stride(1) != 1:
        _lower_elsewhere(logits, at, bits.view(np.uint8))
    elif built and bits.shape[1] == -(-logits.shape[1] // _WORD):
        rows = np.array(at, np.int64)
        shape = (logits.stride(0), logits.shape[1], rows.ctypes.data, len(at))
        built.lower(logits.data_ptr(), *shape, bits.ctypes.data)
    else:
        _lower_slowly(logits.detach().numpy(), at, bits.view(np.uint8))


def _lower_slowly(logits: _Floats, at: Sequence[int], eighths: NDArray[np.uint8]) -> None:
    """Row by row, so that it stays near; torch has nothing for bits, and fills scattered places slowly."""
    most = np.empty((eighths.shape[1], _BYTE), np.float32)
    for row, bits in zip(at, eighths, strict=True):
        _MOST.take(bits, axis=0, out=most, mode="clip")
        np.minimum(logits[row], most.reshape(-1)[: logits.shape[1]], out=logits[row])


def _lower_elsewhere(logits: Tensor, at: Sequence[int], eighths: NDArray[np.uint8]) -> None:
    """On a device that is sent bits, and in any precision."""
    bits = torch.from_numpy(eighths).to(logits.device).int()
    most = torch.from_numpy(_MOST).to(logits)[bits].view(len(at), -1)[:, : logits.shape[1]]  # [r, V]
    rows = torch.tensor(at, device=logits.device)
    logits[rows] = torch.minimum(logits[rows], most)
