"""The row path: every sequence is a row of one cache, and a step decodes one token of all rows at once.

Runs whatever speaks transformers' ``Cache`` interface with full or sliding attention. Each prompt is read alone, as
``generate`` would read it, straight into its row; rows are kept dense, so a step computes nobody who is not there.
"""

import inspect
import threading
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache

from worker.engine.blocks import Blocks
from worker.engine.edits import Editor
from worker.engine.kv import Place, SlotLayer, StateLayer
from worker.engine.likely import Asked, Score
from worker.engine.masks import Masks
from worker.engine.model import Drawn, Feed, Network
from worker.engine.sampler import Sampler
from worker.engine.scores import scored
from worker.engine.sequence import Bounds, Draw
from worker.engine.text import Speech

BUCKET = 32  # the cache is read in multiples of so many tokens
_FINE, _COARSE = 1e-3, 0.1  # of the largest logit: what other kernels may change, in full and in less precision
LAYER_TYPES = ("full_attention", "sliding_attention")
STATE_TYPES = ("conv", "linear_attention")  # a state of fixed size instead of keys and values


# Whatever an unsuitable forward raises becomes one sentence.
UNFIT = (AttributeError, IndexError, KeyError, NotImplementedError, RuntimeError, TypeError, ValueError)


class UnsupportedModelError(Exception):
    """A sentence: why this model cannot run as rows."""


class RowModel(Network):
    """A causal language model as the engine knows it."""

    blocks: Blocks | None = None

    def __init__(self, model: Any, speech: Speech, bounds: Bounds, slots: int) -> None:
        """Raises UnsupportedModelError for what would go wrong on this path."""
        self.slots, self.bounds = 1 if bounds.is_deterministic else slots, bounds
        self.decode, self.spell = speech.decode, speech.spell
        self.way = threading.Event()
        self._model = model
        self._device: torch.device = model.device
        config = model.config.get_text_config(decoder=True)
        self._vocabulary = config.vocab_size
        self._windows = _windows(config)
        kinds = getattr(config, "layer_types", None) or [None] * config.num_hidden_layers
        self._states = {kind for kind in kinds if kind in STATE_TYPES}
        self._is_additive = config._attn_implementation == "eager"  # noqa: SLF001  the only place that says it
        self._can_keep = _can_keep(model)
        self._place = Place()
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
    def step(self, feeds: Sequence[Feed]) -> Mapping[int, Drawn]:
        """The next token of each slot."""
        entering = [feed for feed in feeds if not feed.position]
        running = self._dense([feed for feed in feeds if feed.position])
        order = entering + running
        masks = Masks(self._vocabulary, [feed.row if feed.draws else None for feed in order], self._device.type)
        prompts = {feed.slot: self._read(feed) for feed in entering}
        logits = [prompt[-1:] for prompt in prompts.values()]
        if running:
            logits.append(self._decode(running))
        ends = torch.tensor([feed.position + len(feed.tokens) for feed in order], device=self._device)
        joined = torch.cat(logits).float()
        asking = [(row, feed, feed.asked) for row, feed in enumerate(order) if feed.asked and _reaches(feed)]
        alone = joined[[row for row, _, _ in asking]] if asking else joined  # a copy: what follows changes them
        self._editor(joined, order)
        masks.apply(joined)
        ids = self._sampler(joined, [feed.draw for feed in order], ends)
        self._poisoned.update(feed.slot for feed, token in zip(order, ids, strict=True) if token is None)
        if self._states and running:
            self._each("keep")
        told = [token if feed.draws else None for feed, token in zip(order, ids, strict=True)]
        drawn = {feed.slot: Drawn(token) for feed, token in zip(order, told, strict=True)}
        if asking:
            after = [(ids[row] if feed.draws else feed.follows) or 0 for row, feed, _ in asking]
            scores = scored(alone, after, [asked.top for _, _, asked in asking])
            for (row, feed, asked), score in zip(asking, scores, strict=True):
                drawn[feed.slot] = Drawn(told[row], (*_before(feed, asked, prompts), score))
        return drawn

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
        except UNFIT as error:
            raise UnsupportedModelError(f"its forward does not work with rows ({error})") from error
        finally:
            for feed in feeds:
                self.free(feed.slot)
        refuse_difference(ours, plain, self._model)

    def _read(self, feed: Feed) -> Tensor:
        """Read a prompt into its row; the logits after it, [1, V], and before it those of the tokens to be scored."""
        place = self._place
        place.row = self._row_of.setdefault(feed.slot, len(self._row_of))
        place.length = _bucket(len(feed.tokens))
        ids = torch.tensor([feed.tokens], device=self._device)
        positions = torch.arange(len(feed.tokens), device=self._device)[None]
        keep = 1 if feed.asked is None else max(1, len(feed.tokens) + 1 - feed.asked.since)
        return self._forward(ids, positions, None, keep)[0]

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
        return self._forward(new[0, :, None], place.positions[:, None], self._mask(place.positions, place.length))[:, 0]

    def _forward(self, ids: Tensor, positions: Tensor, mask: Any, keep: int = 1) -> Tensor:
        """The logits of the last positions, [B, keep, V]."""
        output = self._model(
            input_ids=ids,
            position_ids=positions,
            attention_mask=mask,
            past_key_values=self._cache,
            use_cache=True,
            **({"logits_to_keep": keep} if self._can_keep else {}),
        )
        logits: Tensor = output.logits[:, -keep:]
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


def refuse_difference(ours: Tensor, plain: Tensor, model: Any) -> None:
    """Raises UnsupportedModelError where other kernels cannot be the reason."""
    is_full = model.dtype == torch.float32 and not getattr(model, "is_quantized", False)
    allowed = (_FINE if is_full else _COARSE) * plain.abs().max()
    if not bool((ours - plain).abs().max() <= allowed):
        raise UnsupportedModelError("decoding sequences together does not give what its plain forward gives")


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


def _can_keep(model: Any) -> bool:
    """Whether it can be asked for the last positions' logits only."""
    known = inspect.signature(model.forward).parameters
    missing = {"position_ids", "past_key_values"} - set(known)
    if missing:
        raise UnsupportedModelError(f"its forward does not take {', '.join(sorted(missing))}")
    return "logits_to_keep" in known


def _reaches(feed: Feed) -> bool:
    """Whether the token behind it is to be scored."""
    return feed.asked is not None and feed.position + len(feed.tokens) >= feed.asked.since


def _before(feed: Feed, asked: Asked, prompts: Mapping[int, Tensor]) -> Sequence[Score]:
    """The scores of what this feed reads, as far as they are asked for."""
    if feed.position:
        return ()
    tokens = feed.tokens[asked.since :]
    return scored(prompts[feed.slot][:-1], tokens, [asked.top] * len(tokens))
