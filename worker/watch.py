"""Who lives: beats of our own, and the judgement over beats that stopped."""

import math
import os
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import NoReturn

from common import telemetry
from common.errors import StorageError
from common.ledger.ledger import Ledger
from common.ledger.replies import Beat, BeatReply, WorkerInfo
from worker.engine.engine import Engine
from worker.hot import HotFile
from worker.publisher import Publisher, Publishers, end_all
from worker.tickets import Intake

_READ_S = 0.4
_LATE_S = 1.0  # a reader that was away longer knows nothing
_PARKED_S = 5.0
_STALLED = 70  # exit status: the parent starts a new engine
log = telemetry.logger("watch")


class Periodic:
    """A thread that does one thing at an interval until it is stopped."""

    def __init__(self, name: str, interval_s: float, work: Callable[[], object]) -> None:
        """``work``: True where there is more to do at once."""
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
            has_more = False
            try:
                has_more = self._work() is True
            except StorageError:
                log.warning("redis does not answer", thread=self._thread.name)
            except Exception:  # the next round may not fail, and all hangs on it
                log.exception("this round failed", thread=self._thread.name)
            if self._stop.wait(0 if has_more else self._interval_s):
                return


class Lapses:
    """Beats that this process has itself seen unchanged for longer than the lease.

    Counted from readings on our own monotonic clock; a failed or late reading starts all over, so an outage of Redis
    or of this process condemns nobody.
    """

    def __init__(self, lease_s: float) -> None:
        self._lease_s = lease_s
        self._since: dict[tuple[int, str], tuple[str, float]] = {}
        self._read_at = -math.inf

    def judged(self, read: Callable[[], Iterable[Beat]]) -> list[Beat]:
        """The beats that have lapsed, after one more reading. Raises StorageError."""
        try:
            beats = read()
        except StorageError:
            self._since.clear()
            raise
        return self.read(beats, time.monotonic())

    def read(self, beats: Iterable[Beat], now: float) -> list[Beat]:
        """The same, given the beats that stand in Redis now."""
        if now - self._read_at > _LATE_S:
            self._since.clear()
        self._read_at = now
        beats = tuple(beats)
        self._since = {_place(beat): self._first(beat, now) for beat in beats}
        return [beat for beat in beats if now - self._since[_place(beat)][1] >= self._lease_s]

    def _first(self, beat: Beat, now: float) -> tuple[str, float]:
        at, since = self._since.get(_place(beat), ("", now))
        return (beat.at, since if at == beat.at else now)


def _place(beat: Beat) -> tuple[int, str]:
    """A worker beats in every partition, each time with that partition's clock."""
    return beat.partition, beat.who


class Reaper:
    """Gives back one partition's jobs of workers whose beat stopped; any process may run one."""

    def __init__(self, ledger: Ledger, lease_s: float, partition: int = 0) -> None:
        self._ledger, self._partition = ledger, partition
        self._lapses = Lapses(lease_s)

    def __call__(self) -> None:
        """One reading."""
        for beat in self._lapses.judged(lambda: self._ledger.worker_beats(self._partition)):
            jobs = self._ledger.reap(beat.who, beat=beat)
            log.warning("worker reaped: its beat stopped", worker=beat.who, jobs=len(jobs))


@dataclass(frozen=True, slots=True)
class Parts:
    """A worker's moving parts, as the heart sees them."""

    ledger: Ledger
    engine: Engine
    publisher: Publisher | Publishers
    intake: Intake
    hot: HotFile


class Heart:
    """Beats for this worker, and does what the reply says; an engine that hangs gets no beat but an end."""

    def __init__(self, parts: Parts, info: WorkerInfo, stall_s: float, parked_s: float = _PARKED_S) -> None:
        self._parts, self._info = parts, info
        self._stall_s, self._parked_s = stall_s, parked_s
        self._beating = [threading.Lock() for _ in parts.ledger.partitions]
        self._told: Mapping[str, float] = {}  # counters that the ledger has

    def drain(self) -> None:
        """Say at once, and from now on, that we take nothing more."""
        self._info = replace(self._info, state="draining")
        for partition in range(len(self._parts.ledger.partitions)):
            try:
                self(partition)
            except StorageError:
                log.warning("nobody could be told that this worker drains", partition=partition)

    def __call__(self, partition: int = 0) -> None:
        """One beat in one partition. Raises StorageError; what was counted is then told with a later one."""
        with self._beating[partition]:
            if why := self._why_lost():
                self._end(why)
            engine = self._parts.engine
            held = self._parts.intake.held()  # first: what comes in later is too young to be missed
            free, rate = max(0, engine.room().free), engine.tokens_per_s
            info = replace(self._info, free=free, tokens_per_s=rate, gauges=engine.gauges())
            counters = dict(engine.counters)
            new = {name: value - self._told.get(name, 0.0) for name, value in counters.items()}
            told = {name: value for name, value in new.items() if value and partition == 0}
            reply = self._parts.ledger.beat(info, told, held, partition=partition)
            if partition == 0:
                self._told = counters
        self._obey(reply)

    def _obey(self, reply: BeatReply) -> None:
        parts = self._parts
        end_all(parts.engine, reply.cancelled, reply.expired)
        parked = parts.engine.release_parked(self._parked_s)
        if parked:
            parts.publisher.release(parked)
        parts.intake.heard(reply.waiting)

    def _why_lost(self) -> str | None:
        """Why this process is of no use any more. An engine that waited for Redis did not hang."""
        if self._parts.publisher.is_lost:
            return "the publisher died"
        stalled_s = self._parts.engine.stalled_s()
        if stalled_s is None:
            return None
        if math.isinf(stalled_s):
            return "the engine died"
        is_stalled = min(stalled_s, self._parts.publisher.unblocked_s()) >= self._stall_s
        return "the engine hangs" if is_stalled else None

    def _end(self, why: str) -> NoReturn:
        """Nothing in this process can be trusted to end in order."""
        log.error("this process ends and its jobs go elsewhere", why=why)
        try:
            self._parts.ledger.reap(self._info.worker, self._parts.hot.read())
        finally:
            os._exit(_STALLED)


def hearts(heart: Heart, ledger: Ledger, beat_s: float) -> list[Periodic]:
    """The threads that beat: one a partition, so that none waits for another."""
    return [Periodic("heart", beat_s, partial(heart, part.number)) for part in ledger.partitions]


def reapers(ledger: Ledger, lease_s: float) -> list[Periodic]:
    """The threads that read all beats, likewise."""
    return [Periodic("reaper", _READ_S, Reaper(ledger, lease_s, part.number)) for part in ledger.partitions]
