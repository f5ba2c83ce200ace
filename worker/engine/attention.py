"""Attention over a packed row: every sequence sees itself only, its keys and values lie in blocks of one pool.

transformers calls ``attend`` in each layer under the name that ``NAME`` registers; what it must know of the step under
way stands in a ``Step``. Honours sliding windows, soft-capping, sinks and grouped heads.
"""

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from worker.engine.memory import in_large_pages
from worker.engine.model import GaveWayError

NAME = "penstock"
_FIRST = 2  # blocks before anybody knows how large a layer's are


@dataclass(slots=True)
class Store:
    """One layer's keys and values, [heads, blocks, size, width] each."""

    keys: Tensor
    values: Tensor

    @classmethod
    def like(cls, keys: Tensor, values: Tensor, blocks: int, size: int) -> "Store":
        """Room for tokens of this kind, [heads, T, width]."""
        shapes = [(one.shape[0], blocks, size, one.shape[-1]) for one in (keys, values)]
        return cls(keys.new_zeros(shapes[0]), values.new_zeros(shapes[1]))

    @property
    def bytes_per_token(self) -> int:
        """Of this layer."""
        each = (one.shape[0] * one.shape[3] * one.element_size() for one in (self.keys, self.values))
        return sum(each)

    def resize(self, blocks: int) -> None:
        """So many blocks, all empty."""
        self.keys, self.values = (
            in_large_pages(one.new_empty((one.shape[0], blocks, *one.shape[2:]))).zero_()
            for one in (self.keys, self.values)
        )

    def wipe(self, block: int) -> None:
        """It holds nothing."""
        self.keys[:, block] = 0
        self.values[:, block] = 0

    def write(self, at: Tensor, keys: Tensor, values: Tensor) -> None:
        """``keys`` and ``values`` [heads, T, width] to the places [T] of the pool."""
        self.keys.flatten(1, 2).index_copy_(1, at, keys)
        self.values.flatten(1, 2).index_copy_(1, at, values)

    def read(self, blocks: Tensor) -> tuple[Tensor, Tensor]:
        """What these blocks [N] hold, [heads, N * size, width] each."""
        return self.keys.index_select(1, blocks).flatten(1, 2), self.values.index_select(1, blocks).flatten(1, 2)


@dataclass(frozen=True, slots=True)
class How:
    """What a layer asks of attention."""

    scaling: float
    window: int | None = None
    softcap: float | None = None
    sinks: Tensor | None = None  # [H]


class Singles(Protocol):
    """Tokens that are read one by one, at the places ``start`` to ``start + count`` of the row."""

    start: int

    @property
    def count(self) -> int:
        """How many."""

    def attend(self, query: Tensor, store: Store, how: How) -> Tensor:
        """``query`` [H, n, D] to [n, H, D]; their own keys and values are stored already."""


@dataclass(slots=True)
class Group:
    """One token each of some sequences, whose blocks are gathered."""

    start: int
    positions: Tensor  # [n]
    table: Tensor  # [n, B] blocks, padded with any
    size: int
    _views: dict[int | None, tuple[Tensor, Tensor]] = field(default_factory=dict)

    @property
    def count(self) -> int:
        """How many."""
        return len(self.positions)

    def attend(self, query: Tensor, store: Store, how: How) -> Tensor:
        """As ``Singles`` has it."""
        blocks, hidden = self._view(how.window, query.dtype)
        keys, values = store.read(blocks)  # [h, n * L, D]
        heads, count = keys.shape[0], self.count
        each = query.shape[0] // heads
        asked = query.view(heads, each, count, -1).transpose(1, 2).reshape(heads * count, each, -1)
        scores = torch.bmm(asked * how.scaling, keys.view(heads * count, -1, keys.shape[-1]).transpose(1, 2))
        if how.softcap:
            scores = how.softcap * torch.tanh(scores / how.softcap)
        scores = scores.view(heads, count, each, -1).add_(hidden[:, None])
        shares = _shares(scores, None if how.sinks is None else how.sinks.view(heads, 1, each, 1))
        told = torch.bmm(shares.view(heads * count, each, -1), values.view(heads * count, -1, values.shape[-1]))
        return told.view(heads, count, each, -1).transpose(0, 1).reshape(count, heads * each, -1)

    def _view(self, window: int | None, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """The blocks that are read, [n * B'], and what hides the rest of them, [n, B' * size] to be added."""
        if window not in self._views:
            first = 0
            if window is not None:  # what lies before everybody's window is not read
                first = max(0, int(self.positions.min()) + 1 - window) // self.size
            table = self.table[:, first:]
            places = torch.arange(first * self.size, self.table.shape[1] * self.size, device=table.device)
            distance = self.positions[:, None] - places  # [n, L], 0 is the new token itself
            seen = distance >= 0 if window is None else (distance >= 0) & (distance < window)
            hidden = torch.zeros(seen.shape, dtype=dtype, device=table.device).masked_fill_(~seen, -torch.inf)
            self._views[window] = table.reshape(-1), hidden
        return self._views[window]


@dataclass(frozen=True, slots=True)
class Piece:
    """A run of one sequence's tokens, at the places ``start`` to ``start + count`` of the row."""

    start: int
    count: int
    position: int  # of the first
    blocks: Tensor  # [B], of all tokens up to the last


@dataclass(slots=True)
class Step:
    """What is read in one forward."""

    stores: dict[int, Store]
    at: Tensor  # [T], where each token's keys and values go
    singles: Sequence[Singles]
    pieces: Sequence[Piece]
    size: int  # tokens of a block
    way: threading.Event  # set: this step gives way


class _Current:
    """The step under way; one engine thread a process."""

    step: Step | None = None


def begin(step: Step) -> None:
    """The forward that follows is this step's."""
    _Current.step = step


def end() -> None:
    """There is none under way."""
    _Current.step = None


def attend(  # noqa: PLR0913  transformers calls it so
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    _mask: Tensor | None = None,
    *,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """``query`` [1, H, T, D], ``key`` and ``value`` [1, h, T, D]; the attended values [1, T, H, D].

    Raises GaveWayError where the step is to be broken off.
    """
    step = _Current.step
    if step is None:
        raise RuntimeError("no step is under way")
    if step.way.is_set():
        raise GaveWayError
    keys, values = key[0], value[0]
    store = step.stores.get(module.layer_idx)
    if store is None:  # the first step of all is a test, in a few blocks
        store = step.stores[module.layer_idx] = Store.like(keys, values, _FIRST, step.size)
    store.write(step.at, keys, values)
    how = How(scaling or query.shape[-1] ** -0.5, sliding_window, softcap, s_aux)
    attended = [one.attend(query[0, :, one.start : one.start + one.count], store, how) for one in step.singles]
    for piece in step.pieces:
        part = slice(piece.start, piece.start + piece.count)
        seen = store.read(piece.blocks) if piece.position else (keys[:, part], values[:, part])
        attended.append(_piece(query[0, :, part], *seen, piece, how))
    return (attended[0] if len(attended) == 1 else torch.cat(attended))[None], None


def _piece(query: Tensor, keys: Tensor, values: Tensor, piece: Piece, how: How) -> Tensor:
    """A run of tokens; ``query`` [H, t, D], ``keys`` [h, L or more, D] to [t, H, D]."""
    length = piece.position + piece.count
    keys, values = keys[:, :length], values[:, :length]
    mask = _band(piece, how.window, query.device)
    if how.softcap or how.sinks is not None:
        told = _plain(query, keys, values, mask, how)
    else:
        told = functional.scaled_dot_product_attention(
            query[None],
            keys[None],
            values[None],
            attn_mask=mask,
            is_causal=mask is None and piece.count > 1,
            scale=how.scaling,
            enable_gqa=query.shape[0] != keys.shape[0],
        )[0]
    return told.transpose(0, 1)


def _band(piece: Piece, window: int | None, device: torch.device) -> Tensor | None:
    """Who sees whom, [t, L]; None where each sees all before it, and the first sees itself alone."""
    length = piece.position + piece.count
    if not piece.position and (window is None or length <= window):
        return None
    places = torch.arange(length, device=device)
    distance = places[piece.position :, None] - places
    return distance >= 0 if window is None else (distance >= 0) & (distance < window)


def _plain(query: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None, how: How) -> Tensor:
    """Step by step, for what the fused kernels lack."""
    each = query.shape[0] // keys.shape[0]
    keys, values = keys.repeat_interleave(each, 0), values.repeat_interleave(each, 0)
    scores = query * how.scaling @ keys.transpose(1, 2)  # [H, t, L]
    if how.softcap:
        scores = how.softcap * torch.tanh(scores / how.softcap)
    if mask is None:
        mask = torch.ones(scores.shape[1:], dtype=torch.bool, device=scores.device).tril_()
    scores = scores.masked_fill_(~mask, -torch.inf)
    return _shares(scores, None if how.sinks is None else how.sinks.view(-1, 1, 1)) @ values


def _shares(scores: Tensor, sinks: Tensor | None) -> Tensor:
    """Softmax over the last dimension; sinks take a share and give nothing."""
    if sinks is None:
        return torch.softmax(scores, dim=-1, dtype=torch.float32).to(scores.dtype)
    sunk = torch.cat((scores, sinks.to(scores.dtype).expand(*scores.shape[:-1], 1)), dim=-1)
    return torch.softmax(sunk, dim=-1, dtype=torch.float32).to(scores.dtype)[..., :-1]


ALL_ATTENTION_FUNCTIONS.register(NAME, attend)
