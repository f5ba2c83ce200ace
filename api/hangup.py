"""Who has hung up: WSGI has no event for it, so one thread asks the kernel about all client sockets at once.

A socket that its client has closed, or half closed, counts. What we close ourselves is forgotten first.
"""

import select
import threading
import time
from collections import Counter
from typing import Any

from gevent import monkey

from api.feed import Feed
from api.hub import Hub, partition_of
from common import telemetry
from common.errors import StorageError
from common.ledger.ledger import Ledger

_SWEEP_S = 0.25
log = telemetry.logger("hangup")


class Sweeper:
    """Tells streams that nobody listens, and cancels their jobs after their grace."""

    def __init__(self, ledger: Ledger, hub: Hub) -> None:
        """``start`` begins."""
        self._ledger, self._hub = ledger, hub
        self._lock = threading.Lock()
        # gevent has no poll of its own, and poll(0) waits for nothing: the original does under greenlets, too
        self._poll: select.poll = monkey.get_original("select", "poll")()
        self._feeds: dict[int, Feed] = {}  # by file descriptor
        self._filenos: dict[Feed, int] = {}
        self._due: dict[Feed, float] = {}  # when to cancel
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="hangups", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def close(self) -> None:
        """End soon."""
        self._stopping.set()
        self._thread.join()

    def watch(self, feed: Feed, socket: Any) -> None:
        """Look after this client."""
        fileno = socket.fileno()
        with self._lock:
            self._feeds[fileno], self._filenos[feed] = feed, fileno
            self._poll.register(fileno, select.POLLRDHUP)

    def forget(self, feed: Feed) -> None:
        """Its connection is no longer of interest; must come before the connection is closed.

        Where a drain sent its client away, the job waits for that one, whoever else had hung up before.
        """
        with self._lock:
            if feed in self._filenos:
                self._drop(self._filenos[feed])
            if feed.is_draining:
                self._due = {due: at for due, at in self._due.items() if due.job.id != feed.job.id}

    def lost(self, feed: Feed) -> None:
        """The client has gone; its job is cancelled after its grace, if it is one of those and nobody else reads it.

        Whom a drain sends away is to come back: the job waits for that as long as any without a reader.
        """
        is_new = not feed.is_gone
        feed.hang_up()  # its reader need not wait for the storage
        if is_new and feed.orphan and not self._is_away(feed):
            self._orphan(feed)
        if feed.job.on_disconnect == "cancel" and not (feed.is_over or feed.is_draining):
            with self._lock:
                self._due.setdefault(feed, time.monotonic() + feed.job.grace_s)

    def _is_away(self, feed: Feed) -> bool:
        """Whether its partition is not to be waited for: the others' clients would wait too. A beat finds it again."""
        return self._ledger.partitions[partition_of(feed.job)].is_away

    def _orphan(self, feed: Feed) -> None:
        try:
            self._ledger.orphan(feed.job, feed.orphan)
        except StorageError:
            log.debug("orphan not named")  # the same request is another job
        except Exception:  # whoever else hung up is next
            log.exception("orphan not named", job=feed.job.id)

    def _run(self) -> None:
        while not self._stopping.wait(_SWEEP_S):
            try:
                for feed in self._hung_up():
                    self.lost(feed)
                self._cancel_due()
            except Exception:  # the next round may not fail, and nobody else sees who hangs up
                log.exception("this round failed")

    def _hung_up(self) -> list[Feed]:
        with self._lock:
            gone = [fileno for fileno, _event in self._poll.poll(0)]
            return [self._drop(fileno) for fileno in gone]

    def _drop(self, fileno: int) -> Feed:
        self._poll.unregister(fileno)
        feed = self._feeds.pop(fileno)
        del self._filenos[feed]
        return feed

    def _cancel_due(self) -> None:
        now = time.monotonic()
        with self._lock:
            due = [feed for feed, at in self._due.items() if at <= now]
            left = Counter(feed.job.id for feed in self._due)
        unwilling: set[int] = set()  # partitions: the next sweep tries again
        for feed in due:
            if feed not in self._due or partition_of(feed.job) in unwilling or self._is_away(feed):
                continue
            is_read = left[feed.job.id] > 1 or self._hub.has_others(feed)  # who left after it has a grace of its own
            try:
                if not feed.is_over:
                    self._ledger.leave(feed.job, self._hub.front_end, feed.asker, is_read=is_read)
            except StorageError:
                unwilling.add(partition_of(feed.job))
                continue
            except Exception:  # it would fail for ever: the job ends as any that nobody reads
                log.exception("job not cancelled", job=feed.job.id)
            left[feed.job.id] -= 1
            with self._lock:
                self._due.pop(feed, None)
