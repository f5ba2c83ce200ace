"""The thread that turns the engine's steps into EMIT calls: the engine never waits for the network.

At most one EMIT is under way, so items keep their order. What was sent stays in memory until the job ends: a Redis that
comes back with a shorter log is told the rest again.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from common import telemetry
from common.errors import CancelledError, ExpiredError, StorageError
from common.jobs import Class, Delta, Done, Event, Failed
from common.ledger.ledger import Ledger
from common.ledger.replies import Claim, Emission, EmitReply, End
from worker.engine.engine import Output

_MOST_JOBS = 256  # in one EMIT: more would stall the front ends' dispatch
_MOST_UNSENT = 512  # tokens of one job before the engine waits
_RETRY_S = (0.02, 1.0)
log = telemetry.logger("publisher")


class Listener(Protocol):
    """What EMIT's replies mean to the engine."""

    def drop(self, job_ids: Sequence[str]) -> None:
        """These jobs are no longer ours."""

    def end(self, job_id: str, failed: Failed) -> None:
        """This one is to end now."""


@dataclass(slots=True)
class _Open:
    """One claimed job: all its items, and how many Redis has."""

    epoch: int
    items: list[str]
    stored: int
    pending: list[Event] = field(default_factory=list)
    unsent: int = 0  # tokens in pending
    first: bool = True  # nothing of this claim was sent yet
    end: End | None = None


class Publisher:
    """Collects what the engine says, and says it to the ledger."""

    def __init__(
        self, ledger: Ledger, worker: str, model: str, flush_s: float, on_waiting: Callable[[Mapping[Class, int]], None]
    ) -> None:
        self._ledger, self._worker, self._model = ledger, worker, model
        self._flush_s = flush_s
        self._on_waiting = on_waiting
        self._listener: Listener | None = None
        self._changed = threading.Condition()
        self._open: dict[str, _Open] = {}
        self._ready: dict[str, None] = {}  # jobs with something to send, oldest first
        self._urgent = False
        self._releases: deque[tuple[str, int]] = deque()
        self._running = True
        self.is_blocked = False  # the engine waits for us, not for the device
        self._sent_at = 0.0
        self._thread = threading.Thread(target=self._run, name="publisher", daemon=True)

    def start(self, listener: Listener) -> None:
        """Begin; ``listener`` hears what the replies say."""
        self._listener = listener
        self._thread.start()

    def open(self, claim: Claim) -> None:
        """A claimed job may speak from now on, after what was already said."""
        items = [delta.encode() for delta in claim.said]
        with self._changed:
            self._open[claim.job.id] = _Open(claim.epoch, items, claim.seq)

    def __call__(self, outputs: Sequence[Output]) -> None:
        """Take a step's events (engine thread); waits only while a job has too much unsent."""
        with self._changed:
            for output in outputs:
                self._take(output)
            self._changed.notify_all()
            self.is_blocked = True
            self._changed.wait_for(lambda: not self._running or not self._flooded(outputs))
            self.is_blocked = False

    def release(self, jobs: Sequence[tuple[str, int]]) -> None:
        """Give jobs back, behind their last items."""
        with self._changed:
            self._releases.extend(jobs)
            self._urgent = True
            self._changed.notify_all()

    def flush(self, timeout_s: float) -> bool:
        """Wait until everything was said; False when that took too long."""
        with self._changed:
            self._urgent = True
            self._changed.notify_all()
            return self._changed.wait_for(lambda: not self._ready and not self._releases, timeout_s)

    def stop(self, timeout_s: float) -> None:
        """Say what is left, then end the thread."""
        self.flush(timeout_s)
        with self._changed:
            self._running = False
            self._changed.notify_all()
        self._thread.join(timeout_s)

    def _take(self, output: Output) -> None:
        job = self._open.get(output.job_id)
        if job is None or job.epoch != output.epoch:
            return  # fenced meanwhile
        for event in output.events:
            job.pending.append(event)
            if isinstance(event, Delta):
                job.unsent += len(event.tokens)
            else:
                job.end = "done" if isinstance(event, Done) else _end(event)
        self._ready[output.job_id] = None
        self._urgent = self._urgent or job.first or job.end is not None

    def _flooded(self, outputs: Sequence[Output]) -> bool:
        jobs = (self._open.get(output.job_id) for output in outputs)
        return any(job is not None and job.unsent > _MOST_UNSENT for job in jobs)

    def _run(self) -> None:
        while self._wait():
            emissions = self._collect()
            if emissions:
                self._apply(emissions, self._send(emissions))
            self._give_back()

    def _wait(self) -> bool:
        """Until there is something to say and the flush interval is over."""
        with self._changed:
            self._changed.wait_for(lambda: self._ready or self._releases or not self._running)
            rest = self._sent_at + self._flush_s - time.monotonic()
            if rest > 0:
                self._changed.wait_for(lambda: self._urgent or not self._running, rest)
            return self._running or bool(self._ready)

    def _collect(self) -> list[Emission]:
        with self._changed:
            ids = list(self._ready)[:_MOST_JOBS]
            for job_id in ids:
                del self._ready[job_id]
            self._urgent = bool(self._ready) or bool(self._releases)
            emissions = [self._emission(job_id, self._open[job_id]) for job_id in ids if job_id in self._open]
            self._sent_at = time.monotonic()
            self._changed.notify_all()
            return emissions

    @staticmethod
    def _emission(job_id: str, job: _Open) -> Emission:
        job.items.extend(event.encode() for event in _merged(job.pending))
        job.pending.clear()
        job.unsent, job.first = 0, False
        return Emission(job_id, job.epoch, job.stored, tuple(job.items[job.stored :]), job.end)

    def _send(self, emissions: Sequence[Emission]) -> EmitReply | None:
        """The same call until it is answered: the ledger knows a repeat when it sees one."""
        delay, most = _RETRY_S
        while True:
            try:
                return self._ledger.emit(self._worker, self._model, emissions)
            except StorageError:
                log.warning("emit failed; trying again", jobs=len(emissions))
            with self._changed:
                if self._changed.wait_for(lambda: not self._running, delay):
                    return None
            delay = min(2 * delay, most)

    def _apply(self, emissions: Sequence[Emission], reply: EmitReply | None) -> None:
        if reply is None:
            return
        with self._changed:
            lost = self._forget(emissions, {*reply.fenced, *reply.gone})
            for emission in emissions:
                self._account(emission, reply)
            self._changed.notify_all()
        self._tell(lost, reply)

    def _forget(self, emissions: Sequence[Emission], refused: set[str]) -> list[str]:
        """The refused jobs that are still held under the refused epoch; a newer claim of ours stays."""
        lost = [emission.job_id for emission in emissions if emission.job_id in refused and self._holds(emission)]
        for job_id in lost:
            del self._open[job_id]
            self._ready.pop(job_id, None)
        return lost

    def _holds(self, emission: Emission) -> bool:
        job = self._open.get(emission.job_id)
        return job is not None and job.epoch == emission.epoch

    def _account(self, emission: Emission, reply: EmitReply) -> None:
        if not self._holds(emission):
            return
        job = self._open[emission.job_id]
        if emission.job_id in reply.behind:
            job.stored = reply.behind[emission.job_id]
            self._ready[emission.job_id] = None
            self._urgent = True
            return
        job.stored = emission.after + len(emission.items)
        if emission.end:
            del self._open[emission.job_id]

    def _tell(self, lost: Sequence[str], reply: EmitReply) -> None:
        if self._listener is None:
            return
        if lost:
            log.warning("jobs lost to another worker", jobs=len(lost))
            self._listener.drop(lost)
        end_all(self._listener, reply.cancelled, reply.expired)
        self._on_waiting(reply.waiting)

    def _give_back(self) -> None:
        """RELEASE what nothing more is to be said of."""
        with self._changed:
            due = [pair for pair in self._releases if pair[0] not in self._ready]
        if not due:
            return
        try:
            self._ledger.release(self._worker, due)
        except StorageError:
            log.warning("release failed; trying again", jobs=len(due))
            with self._changed:
                self._changed.wait_for(lambda: not self._running, _RETRY_S[0])
            return
        with self._changed:
            for pair in due:
                self._releases.remove(pair)
                self._open.pop(pair[0], None)
            self._changed.notify_all()


def end_all(listener: Listener, cancelled: Sequence[str], expired: Sequence[str]) -> None:
    """End what was cancelled, and what ran out of time."""
    for job_id in cancelled:
        listener.end(job_id, Failed.of(CancelledError("The request was cancelled.")))
    for job_id in expired:
        listener.end(job_id, Failed.of(ExpiredError("The request did not end within its time.")))


def _end(failed: Event) -> End:
    code = failed.code if isinstance(failed, Failed) else None
    return {"cancelled": "cancelled", "expired": "expired"}.get(code or "", "failed")  # type: ignore[return-value]


def _merged(events: Sequence[Event]) -> Sequence[Event]:
    """Neighbouring deltas of one choice as one; a finish stays an item of its own."""
    merged: list[Event] = []
    last: dict[int, int] = {}  # choice -> where its newest delta stands
    for event in events:
        if not isinstance(event, Delta):
            merged.append(event)
            continue
        at = last.get(event.choice)
        before = merged[at] if at is not None else None
        if at is not None and isinstance(before, Delta) and event.finish is None and before.finish is None:
            merged[at] = Delta(before.text + event.text, before.tokens + event.tokens, event.choice)
        else:
            last[event.choice] = len(merged)
            merged.append(event)
    return merged
