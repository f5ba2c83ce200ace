"""Bits of tokens that may come, filled while the forward runs, and what they do to logits."""

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from functools import cache

import numpy as np
import torch
from torch import Tensor

from worker.engine.sequence import BrokenConstraintError, Row

_WORD = 32  # tokens in one number


@cache
def _filler() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(1, "masks")


class Masks:
    """The masks of those rows of a step that are under a constraint."""

    def __init__(self, vocabulary: int, rows: Sequence[Row | None]) -> None:
        """``rows``: a sequence's place in its constraint each, None for those without; begins to fill at once."""
        held = [(at, row) for at, row in enumerate(rows) if row is not None]
        self._at = [at for at, _ in held]
        self._bits = np.zeros((len(self._at), -(-vocabulary // _WORD)), np.int32)
        self._filled: Future[None] | None = None
        if self._at:
            self._filled = _filler().submit(self._fill, [row for _, row in held])

    def _fill(self, rows: Sequence[Row]) -> None:
        for row, bits in zip(rows, self._bits, strict=True):
            with suppress(BrokenConstraintError):  # nothing may come then, so nothing is drawn
                row.fill(bits)

    def apply(self, logits: Tensor) -> None:
        """In ``logits`` [R, V], what may not come becomes minus infinity."""
        if self._filled is None:
            return
        self._filled.result()
        allowed = np.unpackbits(self._bits.view(np.uint8), axis=1, bitorder="little")  # [r, 32 * words]
        hidden = torch.from_numpy(allowed[:, : logits.shape[1]] == 0).to(logits.device)
        for at, row in zip(self._at, hidden, strict=True):
            logits[at].masked_fill_(row, -torch.inf)
