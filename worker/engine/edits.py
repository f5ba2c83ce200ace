"""What rows change in their logits: penalties, biases, and ends that may not come yet; in place, before any draw.

The order: repetition penalty (transformers' meaning: of prompt and answer), frequency and presence penalty (OpenAI's
meaning: of the answer), bias, ends. Only a row's own tokens are touched, so a batch costs what its rows have said, not
the vocabulary.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from worker.engine.model import Feed
from worker.engine.sequence import Edits

_FIRST = 64  # places of a new history
Ids = np.ndarray[Any, np.dtype[np.int64]]
Numbers = np.ndarray[Any, np.dtype[np.float32]]


class _History:
    """What one sequence asks for, its different tokens, and how often each was generated."""

    def __init__(self, edits: Edits) -> None:
        self.edits = edits
        self.penalises = (edits.presence, edits.frequency, edits.repetition) != (0, 0, 1)
        self.bias_ids: Ids = np.array([token for token, _ in edits.bias], np.int64)
        self.bias: Numbers = np.array([value for _, value in edits.bias], np.float32)
        self.ends: Ids = np.array(edits.ends, np.int64)
        self.read = 0  # tokens of prompt and answer
        self._places: dict[int, int] = {}
        self._ids: Ids = np.empty(_FIRST, np.int64)
        self._counts: Numbers = np.empty(_FIRST, np.float32)

    @property
    def ids(self) -> Ids:
        """All different ones."""
        return self._ids[: len(self._places)]

    @property
    def counts(self) -> Numbers:
        """How often each of them was generated."""
        return self._counts[: len(self._places)]

    @property
    def is_early(self) -> bool:
        """Whether the next token may not end the answer."""
        return self.read - self.edits.prompt < self.edits.min_tokens

    def take(self, tokens: Sequence[int]) -> None:
        """The next ones."""
        for token in tokens:
            is_generated = self.read >= self.edits.prompt
            self.read += 1
            if self.penalises and (is_generated or self.edits.repetition != 1):
                place = self._place(token)  # may make room
                self._counts[place] += is_generated

    def _place(self, token: int) -> int:
        place = self._places.get(token)
        if place is None:
            place = self._places[token] = len(self._places)
            if place == len(self._ids):
                self._ids = np.concatenate((self._ids, np.empty_like(self._ids)))
                self._counts = np.concatenate((self._counts, np.empty_like(self._counts)))
            self._ids[place], self._counts[place] = token, 0
        return place


Rows = Sequence[tuple[int, _History]]


class Editor:
    """Knows what the sequences in their slots have said, as far as they want that."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._histories: dict[int, _History] = {}

    def free(self, slot: int) -> None:
        """Forget it."""
        self._histories.pop(slot, None)

    def __call__(self, logits: Tensor, feeds: Sequence[Feed]) -> None:
        """``logits`` [R, V] of these feeds' next tokens. A step that is done again changes nothing twice."""
        asked = [(row, self._read(feed, edits)) for row, feed in enumerate(feeds) if (edits := feed.draw.edits)]
        if penalised := [(row, history) for row, history in asked if history.penalises]:
            self._penalise(logits, penalised)
        if biased := [(row, history) for row, history in asked if len(history.bias)]:
            at = self._places(biased, [history.bias_ids for _, history in biased])
            logits[at] += self._joined([history.bias for _, history in biased])
        if early := [(row, history) for row, history in asked if history.is_early]:
            logits[self._places(early, [history.ends for _, history in early])] = -torch.inf

    def read(self, feed: Feed) -> None:
        """Tokens after which nothing is drawn yet."""
        if feed.draw.edits:
            self._read(feed, feed.draw.edits)

    def _read(self, feed: Feed, edits: Edits) -> _History:
        history = self._histories.get(feed.slot)
        if history is None or not feed.position or feed.past:
            history = self._histories[feed.slot] = _History(edits)
            history.take(feed.past)
        history.take(feed.tokens[history.read - feed.position :])
        return history

    def _penalise(self, logits: Tensor, rows: Rows) -> None:
        at = self._places(rows, [history.ids for _, history in rows])
        counts = self._joined([history.counts for _, history in rows])  # [K]
        asked = np.array(
            [(one.edits.repetition, one.edits.frequency, one.edits.presence) for _, one in rows], np.float32
        )
        spread = torch.from_numpy(asked.repeat([len(one.ids) for _, one in rows], axis=0)).to(self._device)  # [K, 3]
        repetition, frequency, presence = spread.unbind(1)
        values = logits[at]
        values = torch.where(values > 0, values / repetition, values * repetition)
        logits[at] = values - frequency * counts - presence * (counts > 0)

    def _places(self, rows: Rows, ids: Sequence[Ids]) -> tuple[Tensor, Tensor]:
        """Row and column of each token, no pair twice."""
        sizes = [len(one) for one in ids]
        at = np.repeat(np.array([row for row, _ in rows], np.int64), sizes)
        return torch.from_numpy(at).to(self._device), self._joined(ids)

    def _joined(self, parts: Sequence[np.ndarray[Any, Any]]) -> Tensor:
        return torch.from_numpy(np.concatenate(parts)).to(self._device)
