"""One reader of one job's log: every entry once, in order, whatever happens to Redis meanwhile.

Two positions: what stands in the buffer, and what was handed on (``seen``). Only the second one counts; rings are taken
by their numbers, so old ones fall away and a gap sends us to the log.

A number alone says too little after Redis lost items: another claim cuts the same text differently. So we keep whose
items we handed on; a claim that began before ``seen`` and is not that one has said something else under these numbers.
"""

import contextlib
import math
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from api.hub import Hub
from common.errors import DrainingError, StorageError
from common.jobs import Delta, Entry, Job, decode_event
from common.ledger.ledger import Ledger
from common.ledger.replies import KnownJobError, Place, Ring, Watched

Push = Callable[[Sequence[Entry]], bool]
MOST_BUFFERED = 256  # items: a client that reads more slowly is served from the log
_PAGE = 512
_AWAY_S = 0.5  # between two looks while Redis is away or heals, or nobody rings for us


class HangUp(Exception):  # noqa: N818  an event, not an error: nobody is left to read of it
    """The client has gone."""


class Feed:
    """What a stream, or an answer that waits for its end, reads from."""

    def __init__(
        self,
        hub: Hub,
        ledger: Ledger,
        job: Job,
        *,
        submit: Callable[[Job], Place] | None = None,
        after: int = 0,
        began: float | None = None,
    ) -> None:
        """``submit`` is called by ``open``, and again if Redis forgets the job before anything was shown.

        Without it the job is there already, and its client has seen the items up to ``after``. ``began``: when its
        request came in, on the monotonic clock.
        """
        self.job = job
        self.seen = after
        self.place: Place | None = None
        self.began = time.monotonic() if began is None else began
        self.is_gone = False  # the client hung up
        self.is_over = False  # its last entry was handed on
        self.is_answered = False  # the client was told of another end
        self.is_replayed = submit is None  # another request made it
        self.asker = "" if submit is None else job.id  # whose business the job's end is, should this client go
        self.orphan = ""  # the name under which the same request may take its job over, if this client goes
        self._hub, self._ledger, self._submit = hub, ledger, submit
        self.is_shown = False  # as it comes: then nothing can be said anew
        self.wake_at = math.inf
        self._rings: list[Ring] = []  # no queue: an empty one is two kilobytes, here two hundred bytes
        self._bell = threading.Event()  # look at the rings, the flags and the clock
        self._put = self._taken = 0  # items, each counted by one side only
        self._is_stale = submit is None  # the log knows more than the buffer
        self._is_heard = True  # False: too many watch it already, nobody rings for us
        self._claim: str | None = None if after else ""  # whose items were handed on last; None: we were not told
        self.is_draining = False  # the client is sent away
        self._push: Push | None = None  # where its reader wants what comes, while it waits

    def open(self) -> None:
        """Listen, then submit: no ring can be missed."""
        self._hub.add(self)
        if self._submit is None:
            return
        try:
            self.place = self._submit(self.job)
        except BaseException:  # whatever it is goes on from here
            self._hub.remove(self)
            raise

    def close(self) -> None:
        """Stop listening; a job that goes on without us is told so."""
        if not self._hub.remove(self) or self.is_over:
            return
        with contextlib.suppress(StorageError):  # the hub does it when the job rings again
            self._hub.unwatch(self.job.id)

    # the hub's side --------------------------------------------------------------------------------------------------
    def ring(self, ring: Ring) -> None:
        """Hand the items on where the reader waits for them, else keep them for it, if there is room."""
        if self._push is not None and self._is_pushed(ring, self._push):
            return
        if self.buffered() > MOST_BUFFERED:
            self._is_stale = True
            return
        self._put += len(ring.items)
        self._rings.append(ring)
        self._bell.set()

    def _is_pushed(self, ring: Ring, push: Push) -> bool:
        """Whether that was all: the end, what does not follow, and what there is no room for are the reader's."""
        if ring.ended or ring.claim != self._claim or ring.first != self.seen + 1 or self._rings or self._is_stale:
            return False
        try:
            has_room = push(self._entries(ring))
        except Exception:  # noqa: BLE001  the reader meets it again, and tells its client
            return False
        self.seen += len(ring.items)
        if not has_room:
            self._push = None
            self.wake()
        return True

    def buffered(self) -> int:
        """Items that wait for the reader."""
        return self._put - self._taken

    def wake(self) -> None:
        """Time is up, or something has changed."""
        self._bell.set()

    def renew(self) -> None:
        """Read the log next, whatever was heard."""
        self._is_stale = True
        self.wake()

    def hang_up(self) -> None:
        """The client has gone."""
        self.is_gone = True
        self.wake()

    def drain(self) -> None:
        """This process is about to end."""
        self.is_draining = True
        self.wake()

    # the reader's side -----------------------------------------------------------------------------------------------
    def read(self, timeout_s: float, push: Push | None = None) -> Sequence[Entry]:
        """What is new; empty when nothing came in time, or only a wake-up. Raises HangUp and ApiError.

        ``push`` takes what comes meanwhile and says whether there is room for more; where not, this returns. The one
        who hears for all streams calls it: it must not wait.
        """
        if self.is_gone:
            raise HangUp
        if self.is_draining:
            raise DrainingError("This server is going down; ask again.", retry_after_s=1)
        quiet_s = timeout_s if self._is_heard else min(timeout_s, _AWAY_S)
        entries = self._look(timeout_s) if self._is_stale else self._listen(quiet_s, push)
        if entries and not isinstance(entries[-1].event, Delta):
            self.is_over = True
        if self.is_shown and self.job.prompts and (entries or self._submit is None):
            self._forget_prompt()
        return entries

    def _forget_prompt(self) -> None:
        """Nobody submits it again; a long one is larger than all else of a stream."""
        self._submit = None
        self.job = replace(self.job, prompts=(), echo=())

    def _listen(self, timeout_s: float, push: Push | None) -> Sequence[Entry]:
        until, before = time.monotonic() + timeout_s, self.seen
        self._push = push
        self.wake_at = until  # the hub's clock wakes us: a timer of our own costs more than a ring
        try:
            self._bell.wait()
        finally:
            self._push, self.wake_at = None, math.inf
        self._bell.clear()  # before looking: whoever rings meanwhile is heard next
        if not self._rings and self.seen == before and time.monotonic() >= until:
            return self._look(timeout_s)  # rings may be lost without a trace: a quiet while is a reason to look
        entries: list[Entry] = []
        while self._rings:
            ring = self._take()
            if ring.first > self.seen + 1 or (self.seen and ring.claim != self._claim):
                self._is_stale = True
            if not self._is_stale:  # the log, which is read next, has all that is heard here
                entries += self._fresh(ring)
        return entries

    def _take(self) -> Ring:
        ring = self._rings.pop(0)
        self._taken += len(ring.items)
        return ring

    def _fresh(self, ring: Ring) -> list[Entry]:
        """What of it was not handed on yet."""
        fresh = self._entries(ring)
        self.seen += len(fresh)
        self._claim = ring.claim
        return fresh

    def _entries(self, ring: Ring) -> list[Entry]:
        skip = self.seen + 1 - ring.first
        return [Entry(ring.first + at, decode_event(ring.items[at])) for at in range(skip, len(ring.items))]

    def _look(self, timeout_s: float) -> Sequence[Entry]:
        """Register once more, and read the log from where we are."""
        self._is_stale = False  # before reading: whoever sets it meanwhile is right
        try:
            watched = self._ledger.watch(self.job.owner, self.job.id, self._hub.front_end, self.seen, _PAGE)
            if watched is None and self._submit is not None and not (self.is_shown and self.seen):
                return self._resubmit(self._submit)
        except StorageError:
            return self._pause(timeout_s)
        except KnownJobError:  # its key stands for another job now, under another id than we told
            raise StorageError("The storage lost this answer in mid-way; ask again.", retry_after_s=1) from None
        if watched is None:
            raise StorageError("The storage lost this answer in mid-way; ask again.", retry_after_s=1)
        is_ours = self._claim in {None, watched.claim} or watched.claim_seq >= self.seen
        if watched.seq < self.seen or not is_ours:
            return self._heal(watched, timeout_s, is_ours=is_ours)
        return self._new(watched)

    def _new(self, watched: Watched) -> Sequence[Entry]:
        if watched.seq == self.seen and watched.state not in {"queued", "running"}:
            self.seen -= 1  # its client knows the end already: it is told again, for it is what ends a stream
            self._is_stale = True
            return ()
        self.seen += len(watched.entries)
        self._claim, self._is_heard = watched.claim, watched.is_heard
        if watched.seq > self.seen:
            self._is_stale = True
        return watched.entries

    def _resubmit(self, submit: Callable[[Job], Place]) -> Sequence[Entry]:
        """Redis forgot the job, and the client has seen nothing: the same one again."""
        self.seen = 0
        self.place = submit(self.job)
        return ()

    def _heal(self, watched: Watched, timeout_s: float, *, is_ours: bool) -> Sequence[Entry]:
        """Redis lost items that were handed on: they come again from the same claim's memory, or never."""
        if not self.is_shown:
            self.seen = 0
            self._is_stale = True
            return ()
        if watched.state != "running" or not is_ours:
            raise StorageError("The storage lost a part of this answer; ask again.", retry_after_s=1)
        return self._pause(timeout_s)

    def _pause(self, timeout_s: float) -> Sequence[Entry]:
        """Look again when something rings, or after a while."""
        self._is_stale = True
        self._bell.clear()
        while self._rings:
            self._take()
        self._bell.wait(min(timeout_s, _AWAY_S))
        return ()
