"""The thread that turns the engine's steps into EMIT calls: the engine never waits for the network.

At most one EMIT is under way, so items keep their order. What was sent stays in memory until the job ends: a Redis that
comes back with a shorter log is told the rest again.

Locks: ``_owning`` before ``_changed``, and neither is held by anyone who holds the engine's.
"""

import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from common import telemetry
from common.errors import StorageError
from common.jobs import Class, Delta, Done, Event, Failed
from common.ledger.ledger import Ledger
from common.ledger.replies import Claim, Emission, EmitReply, End, Released
from common.ledger.wire import CANCELLED, EXPIRED
from worker.engine.engine import Output
from worker.items import Said, merged, tokens_in

_MOST_JOBS = 256  # in one EMIT: more would stall the front ends' dispatch
_MOST_AHEAD = 512  # tokens of one job that Redis does not have, before the engine waits
_RETRY_S = (0.02, 0.25)
_OUT = 3  # a call that breaks so often is given up, and this process with it
_ENDS: Mapping[Event, End] = {CANCELLED: "cancelled", EXPIRED: "expired"}
T = TypeVar("T")
log = telemetry.logger("publisher")


class Listener(Protocol):
    """The engine, as claims and replies reach it."""

    def add(self, claim: Claim) -> None:
        """This job is ours."""

    def drop(self, job_ids: Sequence[str]) -> None:
        """These jobs are no longer ours."""

    def end(self, job_id: str, failed: Failed) -> None:
        """This one is to end now."""


@dataclass(slots=True)
class _Open:
    """One claimed job: what it said, and how much of that Redis has."""

    epoch: int
    stored: int
    said: Said = field(default_factory=Said)
    pending: Sequence[Event] = ()  # few, however much that is: while Redis is away all of it stays here
    tokens: int = 0  # of all, those that wait among them
    is_fresh: bool = True  # nothing of this claim was sent yet
    end: End | None = None

    def take(self, events: Sequence[Event]) -> None:
        """What is to be said next."""
        self.tokens += sum(map(tokens_in, events))
        self.pending = merged((*self.pending, *events))

    def say(self) -> None:
        """What waits becomes items."""
        self.said.add(self.pending)
        self.pending = ()

    @property
    def ahead(self) -> int:
        """Tokens that Redis does not have."""
        return self.tokens - self.said.tokens(self.stored)


class Publisher:
    """Collects what the engine says, and says it to the ledger."""

    def __init__(self, ledger: Ledger, worker: str, model: str, flush_s: float) -> None:
        self._ledger, self._worker, self._model = ledger, worker, model
        self._may_block = len(ledger.partitions) == 1  # else those whose Redis answers would wait as well
        self._flush_s = flush_s
        self._owning = threading.Lock()  # which jobs are ours changes here and in the engine together
        self._changed = threading.Condition()  # guards all below
        self._open: dict[str, _Open] = {}
        self._ready: dict[str, None] = {}  # jobs with something to send, oldest first
        self._releases: list[Released] = []
        self._is_urgent = False
        self._is_sending = False
        self._is_running = True
        self._sent_at = -math.inf
        self._blocked_until = -math.inf

    def start(self, listener: Listener, on_waiting: Callable[[Mapping[Class, int]], None]) -> None:
        """Begin; ``listener`` and ``on_waiting`` hear what the replies say."""
        self._listener, self._on_waiting = listener, on_waiting
        self._thread = threading.Thread(target=self._run, name="publisher", daemon=True)
        self._thread.start()

    def begin(self, claim: Claim) -> None:
        """A claimed job is the engine's, and may speak after what was already said.

        One that we hold under this very epoch stays as it is: Redis forgot the claim, and hears all from memory again.
        """
        job_id, job = claim.job.id, _Open(claim.epoch, claim.seq)
        job.tokens = job.said.add(claim.said)
        with self._owning:
            with self._changed:
                held = self._open.get(job_id)
                if held is not None and held.epoch == claim.epoch:
                    return
                self._open[job_id] = job
                self._ready.pop(job_id, None)
            self._listener.add(claim)

    def held(self) -> tuple[str, ...]:
        """The jobs that are ours."""
        with self._changed:
            return tuple(self._open)

    def __call__(self, outputs: Sequence[Output]) -> None:
        """Take a step's events (engine thread); a job too far ahead of Redis is waited for, or given up."""
        with self._changed:
            for output in outputs:
                self._take(output)
            self._changed.notify_all()
            is_flooded = bool(self._flooded(outputs))
            if is_flooded and self._may_block:
                self._blocked_until = math.inf
                self._changed.wait_for(lambda: not self._is_running or not self._flooded(outputs))
                self._blocked_until = time.monotonic()
        if is_flooded and not self._may_block:
            self._give_up(outputs)

    def unblocked_s(self) -> float:
        """Seconds since the engine last waited for us; below 0 while it does."""
        return time.monotonic() - self._blocked_until

    @property
    def is_lost(self) -> bool:
        """Whether the thread died of something that nobody foresaw."""
        return self._is_running and not self._thread.is_alive()

    def release(self, jobs: Sequence[Released]) -> None:
        """Give jobs back, behind their last items."""
        with self._changed:
            self._releases += jobs
            self._is_urgent = True
            self._changed.notify_all()

    def flush(self, timeout_s: float) -> bool:
        """Wait until everything was said and heard; False when that took too long."""
        with self._changed:
            self._is_urgent = True
            self._changed.notify_all()
            return self._changed.wait_for(lambda: not (self._ready or self._releases or self._is_sending), timeout_s)

    def stop(self, timeout_s: float) -> None:
        """Say what is left, then end the thread."""
        if not self.flush(timeout_s):
            log.warning("what was left could not be said")
        with self._changed:
            self._is_running = False
            self._changed.notify_all()
        self._thread.join(timeout_s)

    def _take(self, output: Output) -> None:
        job = self._open.get(output.job_id)
        if job is None or job.epoch != output.epoch:
            return  # fenced or given back meanwhile
        job.take(output.events)
        for event in output.events:
            if not isinstance(event, Delta):
                job.end = "done" if isinstance(event, Done) else _ENDS.get(event, "failed")
        self._ready[output.job_id] = None
        self._is_urgent = self._is_urgent or job.is_fresh or job.end is not None

    def _flooded(self, outputs: Sequence[Output]) -> list[str]:
        jobs = ((output.job_id, self._open.get(output.job_id)) for output in outputs)
        return [job_id for job_id, job in jobs if job is not None and job.ahead > _MOST_AHEAD]

    def _give_up(self, outputs: Sequence[Output]) -> None:
        """Forget the jobs that are too far ahead: when their Redis is back, a beat hands them back to go on."""
        with self._owning:
            with self._changed:
                flooded = self._flooded(outputs)
                for job_id in flooded:
                    self._close(job_id)
            if flooded:
                log.warning("jobs given up until their redis is back", jobs=len(flooded))
                self._listener.drop(flooded)

    def _run(self) -> None:
        while self._wait():
            self._emit(self._collect())
            self._give_back()
            with self._changed:
                self._is_sending = False
                self._changed.notify_all()

    def _wait(self) -> bool:
        """Until there is something to say and the flush interval is over."""
        with self._changed:
            self._changed.wait_for(lambda: self._ready or self._releases or not self._is_running)
            rest = self._sent_at + self._flush_s - time.monotonic()
            if rest > 0:
                self._changed.wait_for(lambda: self._is_urgent or not self._is_running, rest)
            return self._is_running

    def _collect(self) -> list[Emission]:
        with self._changed:
            ids = list(self._ready)[:_MOST_JOBS]
            for job_id in ids:
                del self._ready[job_id]
            self._is_urgent = bool(self._ready)
            self._is_sending = True
            self._sent_at = time.monotonic()
            return [self._emission(job_id, self._open[job_id]) for job_id in ids]

    @staticmethod
    def _emission(job_id: str, job: _Open) -> Emission:
        job.say()
        job.is_fresh = False
        return Emission(job_id, job.epoch, job.stored, tuple(job.said.behind(job.stored)), job.tokens, job.end)

    def _emit(self, emissions: Sequence[Emission]) -> None:
        if not emissions:
            return
        reply = self._insist(lambda: self._ledger.emit(self._worker, self._model, emissions), len(emissions))
        if reply is not None:
            self._apply(emissions, reply)

    def _insist(self, call: Callable[[], T], jobs: int) -> T | None:
        """The same call until it is answered (the ledger knows a repeat when it sees one); None when we are to stop."""
        delay, most = _RETRY_S
        strikes = 0
        while True:
            try:
                return call()
            except StorageError:
                log.warning("redis does not answer; trying again", jobs=jobs)
            except Exception as error:  # a restart of Redis has odd moments; what stays wrong is raised
                strikes += 1
                if strikes >= _OUT:
                    raise
                log.warning("redis gave an odd answer; trying again", jobs=jobs, error=repr(error))
            with self._changed:
                if self._changed.wait_for(lambda: not self._is_running, delay):
                    return None
            delay = min(2 * delay, most)

    def _apply(self, emissions: Sequence[Emission], reply: EmitReply) -> None:
        with self._owning:
            with self._changed:
                lost = self._forget(emissions, {*reply.fenced, *reply.gone})
                for emission in emissions:
                    self._account(emission, reply.behind.get(emission.job_id))
                self._changed.notify_all()
            if lost:
                log.warning("jobs lost: another worker has them, they ended, or redis forgot them", jobs=len(lost))
                self._listener.drop(lost)
        end_all(self._listener, reply.cancelled, reply.expired)
        self._on_waiting(reply.waiting)

    def _forget(self, emissions: Sequence[Emission], refused: set[str]) -> list[str]:
        """The refused jobs that are still held under the refused epoch; a newer claim of ours stays."""
        lost = [one.job_id for one in emissions if one.job_id in refused and self._holds(one.job_id, one.epoch)]
        for job_id in lost:
            self._close(job_id)
        return lost

    def _holds(self, job_id: str, epoch: int) -> bool:
        job = self._open.get(job_id)
        return job is not None and job.epoch == epoch

    def _close(self, job_id: str) -> None:
        del self._open[job_id]
        self._ready.pop(job_id, None)

    def _account(self, emission: Emission, behind: int | None) -> None:
        """What Redis has of a job now."""
        if not self._holds(emission.job_id, emission.epoch):
            return
        job = self._open[emission.job_id]
        if behind is not None:
            job.stored = behind
            self._ready[emission.job_id] = None
            self._is_urgent = True
        elif emission.end:
            self._close(emission.job_id)
        else:
            job.stored = emission.after + len(emission.items)

    def _give_back(self) -> None:
        """RELEASE what nothing more is to be said of."""
        with self._changed:
            due = [one for one in self._releases if not (one[0] in self._ready and self._holds(*one[:2]))]
        if not due or not self._insist(lambda: self._released(due), len(due)):
            return
        with self._changed:
            for one in due:
                self._releases.remove(one)
                if self._holds(*one[:2]):  # not a newer claim of ours
                    self._close(one[0])

    def _released(self, due: Sequence[Released]) -> bool:
        self._ledger.release(self._worker, due)
        return True


class Publishers:
    """One publisher a partition, as if they were one: a partition that is away delays only its own jobs."""

    def __init__(self, ledger: Ledger, worker: str, model: str, flush_s: float) -> None:
        self._each = tuple(Publisher(ledger, worker, model, flush_s) for _ in ledger.partitions)

    def start(self, listener: Listener, on_waiting: Callable[[Mapping[Class, int]], None]) -> None:
        """Begin."""
        for one in self._each:
            one.start(listener, on_waiting)

    def begin(self, claim: Claim) -> None:
        """A claimed job is the engine's."""
        self._of(claim.job.id).begin(claim)

    def held(self) -> tuple[str, ...]:
        """The jobs that are ours."""
        return tuple(job_id for one in self._each for job_id in one.held())

    def __call__(self, outputs: Sequence[Output]) -> None:
        """Take a step's events (engine thread)."""
        for one in self._each:
            if mine := [output for output in outputs if self._of(output.job_id) is one]:
                one(mine)

    def unblocked_s(self) -> float:
        """Seconds since the engine last waited for one of us; below 0 while it does."""
        return min(one.unblocked_s() for one in self._each)

    @property
    def is_lost(self) -> bool:
        """Whether a thread died of something that nobody foresaw."""
        return any(one.is_lost for one in self._each)

    def release(self, jobs: Sequence[Released]) -> None:
        """Give jobs back, behind their last items."""
        for one in self._each:
            if mine := [job for job in jobs if self._of(job[0]) is one]:
                one.release(mine)

    def stop(self, timeout_s: float) -> None:
        """Say what is left, then end the threads."""
        for one in self._each:
            one.stop(timeout_s)

    def _of(self, job_id: str) -> Publisher:
        return self._each[int(job_id[-2:], 16)]


def end_all(listener: Listener, cancelled: Sequence[str], expired: Sequence[str]) -> None:
    """End what was cancelled, and what ran out of time."""
    for job_id in cancelled:
        listener.end(job_id, CANCELLED)
    for job_id in expired:
        listener.end(job_id, EXPIRED)
