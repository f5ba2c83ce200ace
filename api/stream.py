"""A feed to SSE, or gathered into one answer.

Comment lines end in one newline and never make a block of their own: SDKs that saw an ``id:`` choke on such blocks.
"""

import time
from collections.abc import Callable, Generator, Sequence
from typing import Any, Protocol

from api.feed import Feed, HangUp
from common import telemetry
from common.errors import ApiError, InternalError, StorageError
from common.jobs import Delta, Done, Entry, Event, Failed, Usage
from common.ledger.replies import Place
from common.render.frames import Frames, Shape, failed

KEEP_ALIVE = b": keep-alive\n"
_QUEUED = 2 / 3  # of the heartbeat: who waits hears more often
log = telemetry.logger("stream")


class JobFailedError(Exception):
    """The job's own end, as its log tells it."""

    def __init__(self, end: Failed) -> None:
        super().__init__(end.message)
        self.end = end


def queued(place: Place | None) -> bytes:
    """A line for those who wait."""
    if place is None or place.position < 1:
        return KEEP_ALIVE
    eta = f" eta={place.eta_s:.1f}s" if place.eta_s is not None else ""
    return f": queue position={place.position}{eta}\n".encode()


class Sink(Protocol):
    """Where a stream's blocks go without its turn: beside what the server asks of it."""

    def offer(self, block: bytes) -> bool:
        """Write it without waiting; False when there is no room for more, and the rest waits for ``flush``."""

    def flush(self) -> None:
        """Write what is left, however long it takes."""


class Sse:
    """One job as server-sent events, from its place in the queue to ``[DONE]``."""

    def __init__(
        self,
        feed: Feed,
        frames: Frames,
        ask: Callable[[str, str], Place | None],
        heartbeat_s: float,
        sink: Sink | None = None,
    ) -> None:
        """``ask`` tells where an owner's job stands in the queue; what comes while we wait goes to ``sink`` at once."""
        self._feed, self._frames, self._ask, self._heartbeat_s, self._sink = feed, frames, ask, heartbeat_s, sink
        feed.is_shown = True
        self._has_begun = feed.seen > 0
        self._spoke = 0.0  # on the monotonic clock

    def __iter__(self) -> Generator[bytes]:
        """Blocks and comment lines; a failure after the headers is a block of its own and the end."""
        telemetry.STREAMS.inc()
        try:
            yield queued(self._feed.place)
            self._spoke = time.monotonic()
            while not self._feed.is_over:
                if block := self._next():  # no generator of its own: what is nested here waits in every stream's stack
                    yield block
        except HangUp:
            return
        except OSError:  # of what was offered: the server knows what to do when a client has gone
            raise
        except ApiError as error:
            self._feed.is_answered = True
            yield failed(Failed.of(error))
        except Exception:  # the headers are out: only the stream itself can say so
            log.exception("stream failed", job=self._feed.job.id)
            self._feed.is_answered = True
            yield failed(Failed.of(InternalError(f"Something went wrong here; the job is {self._feed.job.id}.")))
        finally:
            telemetry.STREAMS.dec()
            telemetry.DURATION.observe(time.monotonic() - self._feed.began)

    def _next(self) -> bytes:
        """What there is to say after the next look at the feed; may be nothing."""
        wait_s = self._heartbeat_s if self._has_begun else self._heartbeat_s * _QUEUED
        push = self._push if self._sink is not None and self._has_begun else None
        block = self._block(self._feed.read(max(0.0, self._spoke + wait_s - time.monotonic()), push))
        if self._sink is not None and not block:
            self._sink.flush()
        if not block and time.monotonic() - self._spoke >= wait_s:
            block = self._comment()
        if block:
            self._spoke = time.monotonic()
        return block

    def _push(self, entries: Sequence[Entry]) -> bool:
        block = b"".join(map(self._frame, entries))
        if not block:
            return True
        self._spoke = time.monotonic()
        return self._sink is not None and self._sink.offer(block)

    def _block(self, entries: Sequence[Entry]) -> bytes:
        """The frames of new entries, as one piece for the socket."""
        frames = [self._frame(entry) for entry in entries]
        if frames and not self._has_begun and not isinstance(entries[0].event, Failed):
            self._has_begun = True
            telemetry.FIRST_TOKEN.observe(time.monotonic() - self._feed.began)
            frames.insert(0, self._frames.opening)
        return b"".join(frames)

    def _frame(self, entry: Entry) -> bytes:
        match entry.event:
            case Delta():
                return self._frames.item(entry)
            case Done(usage):
                return self._frames.closing(usage)
            case Failed() as end:
                return failed(end)

    def _comment(self) -> bytes:
        if self._has_begun:
            return KEEP_ALIVE
        try:
            place = self._ask(self._feed.job.owner, self._feed.job.id)
        except StorageError:  # it says nothing; the stream waits for it
            place = None
        return queued(place)


def gather(feed: Feed, shape: Shape, heartbeat_s: float) -> dict[str, Any]:
    """The whole answer, when it is there. Raises JobFailedError, HangUp and ApiError."""
    log_: list[Event] = []
    while not feed.is_over:
        for entry in feed.read(heartbeat_s):
            del log_[entry.seq - 1 :]  # a log that Redis forgot begins anew
            log_.append(entry.event)
    telemetry.DURATION.observe(time.monotonic() - feed.began)
    end = log_.pop()
    if isinstance(end, Failed):
        raise JobFailedError(end)
    return shape.whole(feed.job, (event for event in log_ if isinstance(event, Delta)), _usage(end))


def _usage(end: Event) -> Usage:
    if not isinstance(end, Done):
        raise InternalError("The log has no end.")
    return end.usage
