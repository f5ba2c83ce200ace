"""The one subscriber of this process: it hears what workers say and hands it to the streams that wait for it.

A thread listens to each partition. The bell is quick but may lose a ring; whoever misses a number reads the log.
Only stdlib threading primitives: the same code runs on greenlets and on threads.
"""

import contextlib
import secrets
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol

from common import telemetry
from common.errors import StorageError
from common.jobs import Job
from common.ledger.bell import Line
from common.ledger.ledger import Ledger
from common.ledger.replies import Ring

_TICK_S = 0.1
_SILENT_S = 15.0  # without a beat: the sweep forgets a front end after twice that
log = telemetry.logger("hub")


class Listener(Protocol):
    """A stream, as the hub sees it."""

    job: Job
    wake_at: float  # on the monotonic clock
    is_gone: bool  # nobody reads it any more

    def ring(self, ring: Ring) -> None:
        """New items of its job."""

    def wake(self) -> None:
        """``wake_at`` has come."""

    def renew(self) -> None:
        """Rings may have been lost: read the log."""

    def drain(self) -> None:
        """This process is about to end."""


def boot_s() -> float:
    """Seconds since some start; where the machine counts them, also those for which it was suspended."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


def partition_of(job: Job) -> int:
    """Where it lives, as its id says."""
    return int(job.id[-2:], 16)


class Hub:
    """All streams of this process, and the lines on which their items come in."""

    def __init__(self, ledger: Ledger, clock: Callable[[], float] = boot_s) -> None:
        """Lines are opened by ``start``. ``clock``: of the beats."""
        self.front_end = secrets.token_hex(8)
        self._ledger, self._now = ledger, clock
        self._beat_at = clock()
        self._lock = threading.Lock()
        self._listeners: dict[str, tuple[Listener, ...]] = {}  # by job id; tuples are replaced, never changed
        self._count = 0
        self._unheard: set[str] = set()  # ids of jobs that rang lately, and nobody here was listening
        self._stopping = threading.Event()
        self._clock = threading.Thread(target=self._tick, name="hub-clock", daemon=True)
        self._lines = tuple(
            Line(bell, self.dispatch, partial(self.renew, bell.partition)) for bell in ledger.bells(self.front_end)
        )

    def start(self) -> None:
        """Listen from now on."""
        self.beat()
        self._clock.start()
        for line in self._lines:
            line.start()

    def close(self) -> None:
        """End the threads and give the connections back."""
        self._stopping.set()
        self._clock.join()
        for line in self._lines:
            line.stop()

    def wait_heard(self, partition: int, timeout_s: float) -> None:
        """Until the subscription is confirmed. Raises StorageError."""
        if not self._lines[partition].hears.wait(timeout_s):
            raise StorageError("The storage does not answer; try again.", retry_after_s=5)

    def add(self, listener: Listener) -> None:
        """Hand it all rings of its job, from now on."""
        with self._lock:
            self._listeners[listener.job.id] = (*self._listeners.get(listener.job.id, ()), listener)
            self._count += 1

    def remove(self, listener: Listener) -> bool:
        """No more of them; True when it was the job's last listener here."""
        with self._lock:
            there = self._listeners.pop(listener.job.id, ())
            left = tuple(other for other in there if other is not listener)
            self._count -= len(there) - len(left)
            if left:
                self._listeners[listener.job.id] = left
            return not left

    def has_others(self, listener: Listener) -> bool:
        """Whether somebody else reads the same job here."""
        return any(not other.is_gone for other in self._listeners.get(listener.job.id, ()) if other is not listener)

    def listeners(self) -> Sequence[Listener]:
        """All of them, now."""
        with self._lock:
            return [listener for listeners in self._listeners.values() for listener in listeners]

    def count(self) -> int:
        """How many there are: several may listen for one job."""
        return self._count

    def dispatch(self, ring: Ring) -> None:
        """Hand new items to whoever waits for them."""
        listeners = self._listeners.get(ring.job_id, ())
        for listener in listeners:
            listener.ring(ring)
        if not (listeners or ring.ended):
            with self._lock:
                self._unheard.add(ring.job_id)

    def unwatch(self, job_id: str) -> None:
        """Its last listener here has gone. Raises StorageError."""
        try:
            self._ledger.unwatch(job_id, self.front_end)
        finally:  # also where only the reply was lost
            for listener in self._listeners.get(job_id, ()):  # its WATCH may have come first
                listener.renew()

    def leave_unheard(self) -> None:
        """Unwatch what rings here for nobody: its request failed although it had arrived, or UNWATCH never did."""
        with self._lock:
            unheard, self._unheard = self._unheard - self._listeners.keys(), set()
        with contextlib.suppress(StorageError):  # what goes on rings again
            for job_id in unheard:
                self.unwatch(job_id)

    def renew(self, partition: int) -> None:
        """A line was cut and is heard again: all its listeners read the log."""
        for listener in self.listeners():
            if partition_of(listener.job) == partition:
                listener.renew()

    def beat(self) -> None:
        """Say that this front end lives; when Redis is away nobody judges beats.

        One that was silent for long, as after a sleep, may have been forgotten: all its streams watch again.
        """
        try:
            self._ledger.beat_front_end(self.front_end)
        except StorageError:
            log.debug("beat not sent")
            return
        last, self._beat_at = self._beat_at, self._now()
        if self._beat_at - last > _SILENT_S:
            for listener in self.listeners():
                listener.renew()

    def _tick(self) -> None:
        """One clock for all streams: a quiet one is woken when its time is up."""
        while not self._stopping.wait(_TICK_S):
            now = time.monotonic()
            for listener in self.listeners():
                if listener.wake_at <= now:
                    listener.wake()
