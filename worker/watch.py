"""Who lives: beats of our own, and the judgement over beats that stopped."""

import os
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace

from common import telemetry
from common.errors import StorageError
from common.ledger.ledger import Ledger
from common.ledger.replies import Beat, BeatReply, WorkerInfo
from worker.engine.engine import Engine
from worker.hot import HotFile
from worker.publisher import Publisher, end_all
from worker.tickets import Intake

_READ_S = 0.4
_LATE_S = 1.0  # a reader that was away longer knows nothing
_PARKED_S = 5.0
_STALLED = 70  # exit status: the parent starts a new engine
log = telemetry.logger("watch")


class Periodic:
    """A thread that does one thing at an interval until it is stopped."""

    def __init__(self, name: str, interval_s: float, work: Callable[[], None]) -> None:
        self._interval_s, self._work = interval_s, work
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Begin at once."""
        self._thread.start()

    def stop(self) -> None:
        """End after the work under way."""
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while True:
            try:
                self._work()
            except StorageError:
                log.warning("redis does not answer", part=self._thread.name)
            if self._stop.wait(self._interval_s):
                return


class Lapses:
    """Beats that this process has itself seen unchanged for longer than the lease.

    Counted from readings on our own monotonic clock; a failed or late reading starts all over, so an outage of Redis
    or of this process condemns nobody.
    """

    def __init__(self, lease_s: float) -> None:
        self._lease_s = lease_s
        self._since: dict[str, tuple[str, float]] = {}
        self._read_at = float("-inf")

    def read(self, beats: Iterable[Beat], now: float) -> list[Beat]:
        """The beats that have lapsed, given those that stand in Redis now."""
        if now - self._read_at > _LATE_S:
            self._since.clear()
        self._read_at = now
        beats = tuple(beats)
        self._since = {beat.who: self._first(beat, now) for beat in beats}
        return [beat for beat in beats if now - self._since[beat.who][1] >= self._lease_s]

    def _first(self, beat: Beat, now: float) -> tuple[str, float]:
        at, since = self._since.get(beat.who, ("", now))
        return (beat.at, since if at == beat.at else now)


class Reaper:
    """Gives back the jobs of workers whose beat stopped; any process may run one."""

    def __init__(self, ledger: Ledger, lease_s: float) -> None:
        self._ledger = ledger
        self._lapses = Lapses(lease_s)

    def __call__(self) -> None:
        """One reading."""
        beats = self._ledger.worker_beats()
        for beat in self._lapses.read(beats, time.monotonic()):
            jobs = self._ledger.reap(beat.who, beat=beat)
            log.warning("worker reaped: its beat stopped", worker=beat.who, jobs=len(jobs))


@dataclass(frozen=True, slots=True)
class Parts:
    """A worker's moving parts, as the heart sees them."""

    ledger: Ledger
    engine: Engine
    publisher: Publisher
    intake: Intake
    hot: HotFile


class Heart:
    """Beats for this worker, and does what the reply says; an engine that hangs gets no beat but an end."""

    def __init__(self, parts: Parts, info: WorkerInfo, stall_s: float) -> None:
        self._parts, self._info, self._stall_s = parts, info, stall_s
        self._told: Mapping[str, float] = {}

    def drain(self) -> None:
        """Say from now on that we take nothing more."""
        self._info = replace(self._info, state="draining")

    def __call__(self) -> None:
        """One beat."""
        self._end_if_stalled()
        engine = self._parts.engine
        room = engine.room()
        counters = dict(engine.counters)
        new = {name: value - self._told.get(name, 0.0) for name, value in counters.items()}
        info = replace(self._info, free=max(0, room.free), tokens_per_s=engine.tokens_per_s)
        reply = self._parts.ledger.beat(info, {name: value for name, value in new.items() if value})
        self._told = counters
        self._obey(reply)

    def _obey(self, reply: BeatReply) -> None:
        parts = self._parts
        end_all(parts.engine, reply.cancelled, reply.expired)
        parked = parts.engine.release_parked(_PARKED_S)
        if parked:
            parts.publisher.release(parked)
        if self._info.state == "ready":
            parts.intake.heard(reply.waiting)

    def _end_if_stalled(self) -> None:
        stalled_s = self._parts.engine.stalled_s()
        if stalled_s is None or stalled_s < self._stall_s or self._parts.publisher.is_blocked:
            return
        log.error("the engine hangs; this process ends and its jobs go elsewhere", stalled_s=round(stalled_s, 1))
        try:
            self._parts.ledger.reap(self._info.worker, self._parts.hot.read())
        finally:
            os._exit(_STALLED)


def reaper(ledger: Ledger, lease_s: float) -> Periodic:
    """The thread that reads all beats."""
    return Periodic("reaper", _READ_S, Reaper(ledger, lease_s))
