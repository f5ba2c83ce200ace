"""The row path: every sequence is a row of one cache, and a step decodes one token of all rows at once.

Runs whatever speaks transformers' ``Cache`` interface with full or sliding attention. Each prompt is read alone, as
``generate`` would read it, straight into its row; rows are kept dense, so a step computes nobody who is not there.
"""

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer, LinearAttentionLayer

from worker.engine.edits import Editor
from worker.engine.engine import Feed
from worker.engine.sampler import Sampler
from worker.engine.sequence import Bounds, Draw
from worker.engine.text import Decode

BUCKET = 32  # the cache is read in multiples of so many tokens
_FIRST_LENGTH = 256  # tokens a new cache has room for
_FINE, _COARSE = 1e-3, 0.1  # of the largest logit: what other kernels may change, in full and in less precision
LAYER_TYPES = ("full_attention", "sliding_attention")
STATE_TYPES = ("conv", "linear_attention")  # a state of fixed size instead of keys and values


class UnsupportedModelError(Exception):
    """A sentence: why this model cannot run as rows."""


class _Place:
    """Where the forward under way reads and writes; all layers look here."""

    row: int | None = None  # a prompt is read into this row; None: rows are decoded
    rows: Tensor  # [B], 0 to B - 1
    positions: Tensor  # [B], of the new tokens
    length: int = 0  # of the cache that is read


class SlotLayer(DynamicLayer):  # type: ignore[misc]  # transformers is untyped here
    """Keys and values of one layer, [rows, heads, length, width], of which only a part is in use."""

    keys: Any  # Tensor, or None before the first use
    values: Any

    def __init__(self, place: _Place, most_length: int) -> None:
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

    def __init__(self, place: _Place) -> None:
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


class RowModel:
    """A causal language model as the engine knows it."""

    def __init__(self, model: Any, decode: Decode, bounds: Bounds, slots: int) -> None:
        """Raises UnsupportedModelError for what would go wrong on this path."""
        self.slots, self.bounds, self.decode = slots, bounds, decode
        self._model = model
        self._device: torch.device = model.device
        config = model.config.get_text_config(decoder=True)
        self._windows = _windows(config)
        kinds = getattr(config, "layer_types", None) or [None] * config.num_hidden_layers
        self._states = {kind for kind in kinds if kind in STATE_TYPES}
        self._is_additive = config._attn_implementation == "eager"  # noqa: SLF001  the only place that says it
        self._last_only = _keeps_last(model)
        self._place = _Place()
        longest = _bucket(bounds.context)
        self._cache = Cache(
            layers=[
                StateLayer(self._place) if kind in STATE_TYPES else SlotLayer(self._place, longest) for kind in kinds
            ]
        )
        self._editor = Editor(self._device)
        self._sampler = Sampler(self._device)
        self._row_of: dict[int, int] = {}  # slot -> row; rows are dense
        self._poisoned: set[int] = set()  # slots whose logits were not finite

    @torch.inference_mode()
    def step(self, feeds: Sequence[Feed]) -> Mapping[int, int | None]:
        """The next token of each slot; None where the logits are not finite."""
        entering = [feed for feed in feeds if not feed.position]
        running = self._dense([feed for feed in feeds if feed.position])
        logits = [self._read(feed) for feed in entering]
        if running:
            logits.append(self._decode(running))
        order = entering + running
        ends = torch.tensor([feed.position + len(feed.tokens) for feed in order], device=self._device)
        joined = torch.cat(logits).float()
        self._editor(joined, order)
        ids = self._sampler(joined, [feed.draw for feed in order], ends)
        tokens = {feed.slot: token for feed, token in zip(order, ids, strict=True)}
        self._poisoned.update(slot for slot, token in tokens.items() if token is None)
        if self._states and running:
            self._each("keep")
        return tokens

    @torch.inference_mode()
    def free(self, slot: int) -> None:
        """The last row takes the free one's place."""
        self._editor.free(slot)
        row = self._row_of.pop(slot, None)
        if row is None:
            return
        last = len(self._row_of)
        mover = next((other for other, at in self._row_of.items() if at == last), slot)
        if row != last:
            self._each("move", last, row)
            self._row_of[mover] = row
        if mover in self._poisoned:
            self._each("wipe", last)  # also of one that moved: what it leaves behind is read by the row's next sequence
        self._poisoned.discard(slot)

    @torch.inference_mode()
    def test(self) -> None:
        """Two prompts of different length, read and then decoded together, must give what the plain model gives."""
        prompts = [[at % 7 + 1 for at in range(length)] for length in (5, 9)]
        feeds = [Feed(slot, prompt[:-1], 0, Draw(0)) for slot, prompt in enumerate(prompts)]
        try:
            for feed in feeds:
                self._read(feed)
            ours = self._decode([Feed(feed.slot, [7], len(feed.tokens), feed.draw) for feed in feeds]).float()
            ids = [torch.tensor([[*feed.tokens, 7]], device=self._device) for feed in feeds]
            plain = torch.cat([self._model(input_ids=one, use_cache=False).logits[:, -1] for one in ids]).float()
        except (AttributeError, IndexError, NotImplementedError, RuntimeError, TypeError, ValueError) as error:
            raise UnsupportedModelError(f"its forward does not work with rows ({error})") from error
        finally:
            for feed in feeds:
                self.free(feed.slot)
        is_full = self._model.dtype == torch.float32 and not getattr(self._model, "is_quantized", False)
        allowed = (_FINE if is_full else _COARSE) * plain.abs().max()
        if not bool((ours - plain).abs().max() <= allowed):
            raise UnsupportedModelError("decoding rows together does not give what its plain forward gives")

    def _read(self, feed: Feed) -> Tensor:
        """Read a prompt into its row; the logits after it, [1, V]."""
        place = self._place
        place.row = self._row_of.setdefault(feed.slot, len(self._row_of))
        place.length = _bucket(len(feed.tokens))
        ids = torch.tensor([feed.tokens], device=self._device)
        positions = torch.arange(len(feed.tokens), device=self._device)[None]
        return self._forward(ids, positions, None)

    def _decode(self, feeds: Sequence[Feed]) -> Tensor:
        """One token of each row; the logits after them, [B, V]."""
        place = self._place
        place.row = None
        if self._states:
            self._each("forget")
        place.length = _bucket(1 + max(feed.position for feed in feeds))
        place.rows = torch.arange(len(feeds), device=self._device)
        # [2, B]: one transfer for both
        new = torch.tensor([[feed.tokens[0] for feed in feeds], [feed.position for feed in feeds]], device=self._device)
        place.positions = new[1]
        return self._forward(new[0, :, None], place.positions[:, None], self._mask(place.positions, place.length))

    def _forward(self, ids: Tensor, positions: Tensor, mask: Any) -> Tensor:
        output = self._model(
            input_ids=ids,
            position_ids=positions,
            attention_mask=mask,
            past_key_values=self._cache,
            use_cache=True,
            **self._last_only,
        )
        logits: Tensor = output.logits[:, -1]
        return logits

    def _mask(self, positions: Tensor, length: int) -> Any:
        """Who sees what, [B, 1, 1, L]; one mask for each kind of layer when there are several."""
        distance = positions[:, None] - torch.arange(length, device=self._device)  # [B, L], 0 is the new token itself
        seen = distance >= 0
        masks = {kind: self._shaped(seen & (distance < window) if window else seen) for kind, window in self._windows}
        if self._states:
            return masks | dict.fromkeys(self._states)  # a state needs no mask
        return masks if len(masks) > 1 else next(iter(masks.values()))

    def _shaped(self, seen: Tensor) -> Tensor:
        if not self._is_additive:
            return seen[:, None, None]
        dtype = self._model.dtype
        return torch.zeros(seen.shape, dtype=dtype, device=self._device).masked_fill_(~seen, torch.finfo(dtype).min)[
            :, None, None
        ]

    def _dense(self, feeds: Sequence[Feed]) -> list[Feed]:
        """In order of their rows, which are 0 to B - 1; only a step that is repeated in parts has to swap some."""
        order = sorted(feeds, key=lambda feed: self._row_of[feed.slot])
        for row, feed in enumerate(order):
            at = self._row_of[feed.slot]
            if at != row:
                other = next(slot for slot, place in self._row_of.items() if place == row)
                self._each("swap", row, at)
                self._row_of[feed.slot], self._row_of[other] = row, at
        return order

    def _each(self, deed: str, *rows: int) -> None:
        for layer in self._cache.layers:
            getattr(layer, deed)(*rows)


def _bucket(length: int) -> int:
    return -(-length // BUCKET) * BUCKET


def _windows(config: Any) -> tuple[tuple[str, int | None], ...]:
    """Each kind of layer and how far back it sees; None is to the start."""
    window = getattr(config, "sliding_window", None)
    kinds = getattr(config, "layer_types", None)
    if kinds is None:
        if getattr(config, "attention_chunk_size", None):
            raise UnsupportedModelError("its attention is chunked")
        return (("sliding_attention", window),) if window else (("full_attention", None),)
    strange = sorted(set(kinds) - {*LAYER_TYPES, *STATE_TYPES})
    if strange:
        raise UnsupportedModelError(f"it has layers of type {', '.join(strange)}")
    attention = dict.fromkeys(kind for kind in kinds if kind in LAYER_TYPES)
    return tuple((kind, window if kind == "sliding_attention" else None) for kind in attention)


def _keeps_last(model: Any) -> dict[str, int]:
    """How to ask for the last position's logits only."""
    known = inspect.signature(model.forward).parameters
    missing = {"position_ids", "past_key_values"} - set(known)
    if missing:
        raise UnsupportedModelError(f"its forward does not take {', '.join(sorted(missing))}")
    return {"logits_to_keep": 1} if "logits_to_keep" in known else {}
