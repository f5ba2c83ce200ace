"""One forward for all who run, and if it breaks, the search for whoever breaks it."""

import math
import time
from collections.abc import Collection
from typing import Protocol

from common import telemetry
from worker.engine.model import Drawn, Feed, GaveWayError, Model
from worker.engine.sequence import Sequence

Feeds = dict[Sequence, Feed]
Tokens = dict[Sequence, Drawn]
log = telemetry.logger("engine")


class Hot(Protocol):
    """Where the supervising parent can read what a step was working on."""

    def mark(self, job_ids: Collection[str]) -> None:
        """These jobs are in the step that begins."""

    def clear(self) -> None:
        """No step is running."""


class LostModelError(Exception):
    """Not one of several sequences can be computed: it is not theirs that something broke."""


class ShortOfMemoryError(Exception):
    """A step needs more memory than there is; nothing of it has happened."""


class Forward:
    """A model, and where the supervising parent can read what it is working on."""

    def __init__(self, model: Model, hot: Hot | None) -> None:
        self._model, self._hot = model, hot
        self.began = -math.inf  # the last call of the model, on the monotonic clock

    def read(self, feeds: Feeds, *, is_last: bool = False) -> Tokens:
        """The next tokens, but for the sequences that cannot have one.

        Raises GaveWayError where it was broken off, and nothing was read. Raises ShortOfMemoryError where a smaller
        step might fit, unless this ``is_last`` that can be tried. Any other step that raises is done again in parts:
        each new sequence alone, the others together, and if that raises as well, in halves. Who raises alone fails
        alone. Raises LostModelError when all of several do.
        """
        try:
            return self._read(feeds)
        except GaveWayError:
            raise
        except Exception as error:  # a model may raise anything
            if len(feeds) > 1 and not is_last and _is_short(error):
                raise ShortOfMemoryError from error
            log.exception("a step failed; looking for the cause", sequences=len(feeds))
        prompts = entering(feeds)
        tokens = self._tried({sequence: feed for sequence, feed in feeds.items() if sequence not in prompts})
        for sequence, feed in prompts.items():
            tokens |= self._tried({sequence: feed})
        if len(feeds) > 1 and not tokens:
            if self._hot:
                self._hot.mark({sequence.job_id for sequence in feeds})
            raise LostModelError
        return tokens

    def _tried(self, feeds: Feeds) -> Tokens:
        """A part of a failed step, in halves when it fails as well, without who fails alone."""
        try:
            return self._read(feeds)
        except GaveWayError:  # not in the middle of this
            self._model.way.clear()
            return self._tried(feeds)
        except Exception:  # noqa: BLE001  the whole step's exception is in the log
            if len(feeds) == 1:
                return {}
        parts, middle = tuple(feeds.items()), len(feeds) // 2
        return self._tried(dict(parts[:middle])) | self._tried(dict(parts[middle:]))

    def _read(self, feeds: Feeds) -> Tokens:
        if not feeds:
            return {}
        if self._hot:
            self._hot.mark({sequence.job_id for sequence in entering(feeds) or feeds})
        self.began = time.monotonic()
        tokens = self._model.step(tuple(feeds.values()))
        return {sequence: tokens[feed.slot] for sequence, feed in feeds.items()}


def _is_short(error: Exception) -> bool:
    """Of memory: torch has an error of its own for a GPU, and only words for a CPU."""
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or "DefaultCPUAllocator" in str(error)
    )


def entering(feeds: Feeds) -> Feeds:
    """Those that read their prompt."""
    return {sequence: feed for sequence, feed in feeds.items() if feed.enters}
