"""The packed path: all that is read in a step, new tokens and pieces of prompts, is one row of one forward.

Keys and values lie in blocks of one pool (``attention.py`` reads them, ``blocks.py`` counts them), so a prompt may come
in pieces, behind blocks that somebody else has filled.
"""

import inspect
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import accumulate, islice
from typing import Any

import torch
from torch import Tensor

from worker.engine import attention, memory, native
from worker.engine.attention import Group, Piece, Singles, Step, Store
from worker.engine.blocks import Blocks
from worker.engine.edits import Editor
from worker.engine.masks import Masks
from worker.engine.model import Drawn, Feed, Network
from worker.engine.rowbatch import UNFIT, UnsupportedModelError, refuse_difference
from worker.engine.sampler import Sampler
from worker.engine.scores import scored
from worker.engine.sequence import Bounds, Draw
from worker.engine.text import Speech

SIZE = 16  # tokens of a block
_SPREAD = 2  # feeds of one token whose lengths differ by more are read apart
_SHORT = 8  # tokens of one sequence that are better read as if each were another's
_REHEARSED = {"cuda": 512, "cpu": 64}  # tokens of a prompt in the step that is measured: a CPU takes its time
_KEPT = 2  # times what those who run can use at most: the rest is kept for those who read the same
_LAYERS = {"full_attention", "sliding_attention"}
_ASKED = {"position_ids", "logits_to_keep"}  # what a forward must take


class PackedModel(Network):
    """A causal language model as the engine knows it."""

    def __init__(self, model: Any, speech: Speech, bounds: Bounds, slots: int, room: Callable[[int], int]) -> None:
        """``room``: bytes for keys and values, given those that a step needs.

        Raises UnsupportedModelError for what would go wrong on this path.
        """
        _refuse(model)
        self.slots, self.bounds = slots, bounds
        self.decode, self.spell = speech.decode, speech.spell
        self.way = threading.Event()
        self._model, self._device = model, model.device
        self._vocabulary = model.config.get_text_config(decoder=True).vocab_size
        can_attend = model.device.type == "cpu" and model.dtype in native.DTYPES
        built = native.library() if can_attend else None
        self._attend = built and built.attend
        self._editor, self._sampler = Editor(model.device), Sampler(model.device)
        self._poisoned: dict[int, Sequence[int]] = {}  # slots whose logits were not finite, and their blocks
        self._stores: dict[int, Store] = {}
        self.test()
        self.step_tokens, self.step_bytes = self._rehearse()
        self.bytes_per_token = sum(store.bytes_per_token for store in self._stores.values())
        most = _KEPT * slots * -(-(bounds.context + 1) // SIZE)
        self.blocks = Blocks(max(2, min(room(self.step_bytes) // (self.bytes_per_token * SIZE), most)), SIZE)
        self.bounds = replace(bounds, context=min(bounds.context, self.blocks.count * SIZE - 1))
        for store in self._stores.values():
            store.resize(self.blocks.count)

    @torch.inference_mode()
    def step(self, feeds: Sequence[Feed]) -> Mapping[int, Drawn]:
        """What each slot draws."""
        if self.bounds.is_deterministic and len(feeds) > 1:
            return {slot: drawn for feed in feeds for slot, drawn in self.step((feed,)).items()}
        drawing = [feed for feed in feeds if feed.draws]
        rows = [feed for feed in drawing for _ in range(feed.draws)]
        masks = Masks(self._vocabulary, [feed.row for feed in rows], self._device.type)  # who guesses has no constraint
        parts = self._read(feeds)
        drawn = {feed.slot: _scored(feed, parts[feed.slot], feed.follows) for feed in feeds if not feed.draws}
        for feed in feeds:
            if not feed.draws:
                self._editor.read(feed)
        if not drawing:
            memory.wait(self._device)  # what it took is measured
            return drawn
        logits = torch.cat([parts[feed.slot][-feed.draws :] for feed in drawing]).float()
        asking = [feed for feed in drawing if feed.asked]
        self._editor(logits, rows)  # who guesses has no edits
        masks.apply(logits)
        ends = [end for feed in drawing for end in range(_end(feed) + 1 - feed.draws, _end(feed) + 1)]
        ids = iter(self._sampler(logits, [feed.draw for feed in rows], torch.tensor(ends, device=self._device)))
        for feed in drawing:
            told = [token for token in islice(ids, feed.draws) if token is not None]
            is_sound = len(told) == feed.draws
            drawn[feed.slot] = Drawn(told[0], (), tuple(told[1:])) if is_sound else Drawn()
            if not is_sound:
                self._poisoned[feed.slot] = feed.blocks
        for feed in asking:
            token = drawn[feed.slot].token
            drawn[feed.slot] = _scored(feed, parts[feed.slot], token)._replace(token=token)
        return drawn

    @torch.inference_mode()
    def free(self, slot: int) -> None:
        """Nothing that is not finite may stay: hidden places are multiplied by zero, not left out."""
        self._editor.free(slot)
        for block in self._poisoned.pop(slot, ()):
            if not self.blocks.users(block):
                for store in self._stores.values():
                    store.wipe(block)

    @torch.inference_mode()
    def test(self) -> None:
        """Two prompts read together, one of them in two pieces, then decoded together: as the plain model does it."""
        long, short = [at % 7 + 1 for at in range(9)], [1, 2, 3, 4, 5, 7]

        def feed(slot: int, tokens: list[int], start: int, end: int) -> Feed:
            return Feed(slot, tokens[start:end], start, Draw(0), blocks=(slot,))

        steps = [(feed(0, long, 0, 4), feed(1, short, 0, 4)), (feed(0, long, 4, 8), feed(1, short, 4, 5))]
        try:
            plain = [self._plain(one) for one in (long, short)]
            self._model.set_attn_implementation(attention.NAME)
            for step in steps:
                self._read(step)
            told = self._read((feed(0, long, 8, 9), feed(1, short, 5, 6)))
        except UNFIT as error:
            raise UnsupportedModelError(f"its forward does not work packed ({error})") from error
        refuse_difference(torch.cat([told[0][-1:], told[1][-1:]]).float(), torch.stack(plain), self._model)

    def _rehearse(self) -> tuple[int, int]:
        """A large step: its tokens, and the bytes it needed beside weights, keys and values."""
        tokens = min(_REHEARSED.get(self._device.type, 64), self.bounds.context - 1)
        draw, each = Draw(0, 1.0, 0.9), -(-tokens // SIZE)
        feeds = [Feed(0, (1,) * tokens, 0, draw, blocks=range(each))]
        feeds += [Feed(slot, (1,), 0, draw, blocks=(each + slot - 1,)) for slot in range(1, self.slots)]
        for store in self._stores.values():
            store.resize(each + self.slots - 1)
        needed = memory.peak(self._device, lambda: self.step(feeds))
        self._poisoned.clear()
        return tokens + self.slots - 1, needed

    def _plain(self, tokens: Sequence[int]) -> Tensor:
        ids = torch.tensor([tokens], device=self._device)
        logits: Tensor = self._model(input_ids=ids, use_cache=False).logits[0, -1]
        return logits.float()

    def _read(self, feeds: Sequence[Feed]) -> dict[int, Tensor]:
        """One forward; the logits of each slot's last places, [k, V]: as many as it asks for, at least one."""
        short = _SHORT if self._attend else 1
        single = [feed for feed in feeds if len(feed.tokens) <= short]
        longer = [feed for feed in feeds if len(feed.tokens) > short]
        singles, order = self._read_singly(single)
        order = [*order, *longer]
        starts = [0, *accumulate(len(feed.tokens) for feed in order)]
        pieces = [
            Piece(start, len(feed.tokens), feed.position, self._table(feed))
            for feed, start in zip(longer, starts[len(single) :], strict=False)
        ]
        ids = [token for feed in order for token in feed.tokens]
        positions = [at for feed in order for at in _span(feed)]
        places = [feed.blocks[at // SIZE] * SIZE + at % SIZE for feed in order for at in _span(feed)]
        wanted = [_wanted(feed) for feed in order]
        keep = [at for end, count in zip(starts[1:], wanted, strict=True) for at in range(end - count, end)]
        row = torch.tensor([ids, positions, places], device=self._device)  # one transfer for all
        attention.begin(Step(self._stores, row[2], singles, pieces, SIZE, self.way))
        try:
            output = self._model(
                input_ids=row[:1],
                position_ids=row[1:2],
                use_cache=False,
                logits_to_keep=torch.tensor(keep, device=self._device),
            )
        finally:
            attention.end()
        logits: Tensor = output.logits[0]
        return {feed.slot: part for feed, part in zip(order, torch.split(logits, wanted), strict=True)}

    def _read_singly(self, feeds: Sequence[Feed]) -> tuple[Sequence[Singles], Sequence[Feed]]:
        """Who reads single tokens, and in which order."""
        if self._attend and feeds:
            tables = [feed.blocks[: -(-_end(feed) // SIZE)] for feed in feeds for _ in feed.tokens]
            return [native.Rows(self._attend, 0, tables, [at + 1 for feed in feeds for at in _span(feed)])], feeds
        groups: list[Singles] = []
        order: list[Feed] = []
        for some in _alike(feeds):
            groups.append(_grouped(len(order), some, self._device))
            order += some
        return groups, order

    def _table(self, feed: Feed) -> Tensor:
        count = -(-_end(feed) // SIZE)
        return torch.tensor(feed.blocks[:count], device=self._device)


def _end(feed: Feed) -> int:
    """Where the first token stands that it does not have."""
    return feed.position + len(feed.tokens)


def _span(feed: Feed) -> range:
    return range(feed.position, _end(feed))


def _wanted(feed: Feed) -> int:
    """The last places whose logits are needed."""
    if feed.asked is None:
        return max(1, feed.draws)
    return max(1, _end(feed) + 1 - max(feed.asked.since, feed.position + 1))


def _scored(feed: Feed, logits: Tensor, token: int | None) -> Drawn:
    """The scores of tokens that were read and of the one behind them; ``logits`` [k, V]."""
    if feed.asked is None or token is None or _end(feed) < feed.asked.since:
        return Drawn()
    tokens = (*feed.tokens[len(feed.tokens) + 1 - len(logits) :], token)
    return Drawn(None, tuple(scored(logits, tokens, [feed.asked.top] * len(tokens))))


def _alike(feeds: Sequence[Feed]) -> Iterator[list[Feed]]:
    """Feeds of one token in groups of like length, the shortest first."""
    group: list[Feed] = []
    for feed in sorted(feeds, key=lambda feed: feed.position):
        if group and feed.position // SIZE > _SPREAD * (group[0].position // SIZE + 1):
            yield group
            group = []
        group.append(feed)
    if group:
        yield group


def _grouped(start: int, feeds: Sequence[Feed], device: torch.device) -> Group:
    counts = [feed.position // SIZE + 1 for feed in feeds]
    most = max(counts)
    table = [
        [*feed.blocks[:count], *[feed.blocks[0]] * (most - count)] for feed, count in zip(feeds, counts, strict=True)
    ]
    positions = torch.tensor([feed.position for feed in feeds], device=device)
    return Group(start, positions, torch.tensor(table, device=device), SIZE)


def _refuse(model: Any) -> None:
    """What is known not to work here. Raises UnsupportedModelError."""
    config = model.config.get_text_config(decoder=True)
    kinds = set(getattr(config, "layer_types", None) or ())
    if strange := sorted(kinds - _LAYERS):
        raise UnsupportedModelError(f"it has layers of type {', '.join(strange)}")
    if getattr(config, "attention_chunk_size", None):
        raise UnsupportedModelError("its attention is chunked")
    if getattr(model, "is_loaded_in_8bit", False):
        raise UnsupportedModelError("its int8 layers round by all that is computed together")
    if not getattr(model, "_supports_attention_backend", False):
        raise UnsupportedModelError("its attention cannot be replaced")
    if missing := _ASKED - set(inspect.signature(model.forward).parameters):
        raise UnsupportedModelError(f"its forward does not take {', '.join(sorted(missing))}")
