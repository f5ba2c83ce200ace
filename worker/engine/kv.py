"""What the layers of a row batch remember: keys and values, or a state of fixed size; one row a sequence."""

from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import DynamicLayer, LinearAttentionLayer

_FIRST_LENGTH = 256  # tokens a new cache has room for


class Place:
    """Where the forward under way reads and writes; all layers look here."""

    row: int | None = None  # a prompt is read into this row; None: rows are decoded
    rows: Tensor  # [B], 0 to B - 1
    positions: Tensor  # [B], of the new tokens
    length: int = 0  # of the cache that is read


class SlotLayer(DynamicLayer):  # type: ignore[misc]  # transformers is untyped here
    """Keys and values of one layer, [rows, heads, length, width], of which only a part is in use."""

    keys: Any  # Tensor, or None before the first use
    values: Any

    def __init__(self, place: Place, most_length: int) -> None:
        super().__init__()
        self._place, self._most_length = place, most_length

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Store the new ones; what attention shall read."""
        place = self._place
        if place.row is not None:
            self._room(place.row + 1, place.length, key_states, value_states)
            self.keys[place.row, :, : key_states.shape[2]] = key_states[0]
            self.values[place.row, :, : value_states.shape[2]] = value_states[0]
            return key_states, value_states
        count = len(place.rows)
        self._room(count, place.length, key_states, value_states)
        self.keys[place.rows, :, place.positions] = key_states[:, :, 0]
        self.values[place.rows, :, place.positions] = value_states[:, :, 0]
        return self.keys[:count, :, : place.length], self.values[:count, :, : place.length]

    def get_seq_length(self) -> int:
        """Tokens before the new ones, of the longest row."""
        return 0 if self._place.row is not None else self._place.length - 1

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """A prompt sees itself; decoding brings a mask of its own."""
        return query_length if self._place.row is not None else self._place.length, 0

    def move(self, row: int, to: int) -> None:
        """One row takes another's place."""
        if self.keys is not None:
            self.keys[to] = self.keys[row]
            self.values[to] = self.values[row]

    def swap(self, row: int, other: int) -> None:
        """Two rows change places."""
        if self.keys is not None:
            self.keys[[row, other]] = self.keys[[other, row]]
            self.values[[row, other]] = self.values[[other, row]]

    def forget(self) -> None:
        """A place that is written twice holds the same."""

    keep = forget

    def wipe(self, row: int) -> None:
        """Nothing that is not finite may stay: hidden positions are multiplied by zero, not left out."""
        if self.keys is not None:
            self.keys[row] = 0
            self.values[row] = 0

    def _room(self, rows: int, length: int, keys: Tensor, values: Tensor) -> None:
        """Grow by doubling; new places hold zeros."""
        had_rows, had_length = (self.keys.shape[0], self.keys.shape[2]) if self.keys is not None else (0, 0)
        if rows <= had_rows and length <= had_length:
            return
        most_rows = had_rows if rows <= had_rows else max(rows, 2 * had_rows)
        longer = had_length if length <= had_length else max(length, 2 * had_length, _FIRST_LENGTH)
        most_length = max(length, min(longer, self._most_length))
        self.keys = _grown(self.keys, keys, most_rows, most_length)
        self.values = _grown(self.values, values, most_rows, most_length)
        self.dtype, self.device, self.is_initialized = keys.dtype, keys.device, True


class StateLayer(LinearAttentionLayer):  # type: ignore[misc]  # transformers is untyped here
    """What a convolution or a linear attention remembers of each row, [rows, ...].

    A decode works on copies, which are kept when the whole step went well: a state that was moved on cannot be moved
    back, and a step may be done again.
    """

    def __init__(self, place: Place) -> None:
        super().__init__()
        self._place = place
        self._kept: dict[str, Tensor] = {}  # "conv" and "recurrent", of all rows
        self._new: dict[str, Tensor] = {}  # of the decode under way

    @property
    def has_previous_state(self) -> dict[int, bool]:
        """A prompt begins without one."""
        return {0: self._place.row is None}

    @has_previous_state.setter
    def has_previous_state(self, _: dict[int, bool]) -> None:
        """Asked of the place, never told."""

    @property
    def conv_states(self) -> dict[int, Tensor | None]:
        """The decoded rows', to be changed in place."""
        return {0: self._of("conv")}

    @conv_states.setter
    def conv_states(self, _: dict[int, Tensor | None]) -> None:
        """Kept here."""

    @property
    def recurrent_states(self) -> dict[int, Tensor | None]:
        """The decoded rows'."""
        return {0: self._of("recurrent")}

    @recurrent_states.setter
    def recurrent_states(self, _: dict[int, Tensor | None]) -> None:
        """Kept here."""

    def update_conv_state(self, conv_states: Tensor, *_: Any, conv_kernel_size: int | None = None, **__: Any) -> Tensor:
        """A prompt's last columns, [1, channels, length]; what the convolution shall see."""
        size = conv_states.shape[-1] if conv_kernel_size is None else conv_kernel_size
        padded = torch.nn.functional.pad(conv_states, (max(0, size - conv_states.shape[-1]), 0))
        self._write("conv", padded[..., padded.shape[-1] - size :])
        return padded

    def update_recurrent_state(self, recurrent_states: Tensor, *_: Any, **__: Any) -> Tensor:
        """A prompt's, or the decoded rows' new ones."""
        self._write("recurrent", recurrent_states)
        return recurrent_states

    def forget(self) -> None:
        """A decode begins; the last one may have broken."""
        self._new.clear()

    def keep(self) -> None:
        """The step went well."""
        for name, states in self._new.items():
            self._kept[name][: len(states)] = states
        self._new.clear()

    def move(self, row: int, to: int) -> None:
        """One row takes another's place."""
        for states in self._kept.values():
            states[to] = states[row]

    def swap(self, row: int, other: int) -> None:
        """Two rows change places."""
        for states in self._kept.values():
            states[[row, other]] = states[[other, row]]

    def wipe(self, row: int) -> None:
        """A prompt begins anew anyway."""

    def _of(self, name: str) -> Tensor | None:
        if name not in self._kept:
            return None
        if self._place.row is None and name not in self._new:
            self._new[name] = self._kept[name][: len(self._place.rows)].clone()
        return self._new.get(name)

    def _write(self, name: str, states: Tensor) -> None:
        row = self._place.row
        if row is None:
            self._new[name] = states
            return
        had = self._kept.get(name)
        if had is None or row >= len(had):
            grown = states.new_zeros(max(row + 1, 2 * (0 if had is None else len(had))), *states.shape[1:])
            if had is not None:
                grown[: len(had)] = had
            self._kept[name] = grown
        self._kept[name][row] = states[0]


def _grown(old: Tensor | None, like: Tensor, rows: int, length: int) -> Tensor:
    new = like.new_zeros(rows, like.shape[1], length, like.shape[3])
    if old is not None:
        new[: old.shape[0], :, : old.shape[2]] = old
    return new
