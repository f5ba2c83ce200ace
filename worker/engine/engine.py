"""The loop: admit, forward, text, tell. One thread, all sequences together; it never waits for the network.

The model is behind a small Protocol, so that everything here runs without torch.
"""

import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from common import telemetry
from common.errors import InternalError
from common.jobs import Delta, Done, Event, Failed, Job, Usage
from common.ledger.replies import Claim, Released
from worker.engine import sequence as sequences
from worker.engine.forward import Feeds, Forward, Hot, LostModelError, ShortOfMemoryError, Tokens, entering
from worker.engine.model import Drawn, Feed, GaveWayError, Model
from worker.engine.pace import Pace
from worker.engine.scheduler import Room, Scheduler
from worker.engine.work import Work, work_of

__all__ = ["Engine", "Hot", "Output", "Room", "Sink"]

_OUT = 2  # a loop that breaks twice in a row is given up
_COUNTED = (
    *("steps", "prompt_tokens", "generation_tokens", "prefilled_tokens", "cached_tokens", "preemptions"),
    *("guessed_tokens", "guessed_right", "forced_tokens", "out_of_memory", "failed"),
)
_BROKEN = Failed.of(InternalError("The constraint could not be kept up to the end.", code="constraint_failed"))
_FAILED = Failed.of(InternalError("The server failed while it worked on this request."))
log = telemetry.logger("engine")


@dataclass(frozen=True, slots=True)
class Output:
    """New events of one job after a step, in order; the last one is Done or Failed when the job ended."""

    job_id: str
    epoch: int
    events: tuple[Event, ...]


class Sink(Protocol):
    """Where outputs go."""

    def __call__(self, outputs: Sequence[Output]) -> None:
        """Take a step's events; on the engine's thread, so it may wait briefly and never for the network."""


class Engine:
    """All claimed jobs of one model."""

    def __init__(self, model: Model, sink: Sink, *, hot: Hot | None = None) -> None:
        self._model, self._sink, self._hot = model, sink, hot
        self._forward = Forward(model, hot)
        self._changed = threading.Condition()  # guards all below; never held during a forward or in the sink
        self._scheduler = Scheduler(model.slots, model.blocks)
        self._spoken: dict[str, list[Event]] = {}  # in the step under way
        self._outputs: list[Output] = []  # made, not yet told
        self._arrivals = 0
        self._is_open = True
        self._strikes = 0  # steps in a row that broke the loop itself
        self._began: float | None = None  # the last step; None while there is nothing to do
        self._pace = Pace()
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self.counters = dict.fromkeys(_COUNTED, 0.0)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self, timeout_s: float) -> None:
        """End after the running step."""
        with self._changed:
            self._is_open = False
            self._changed.notify_all()
        self._thread.join(timeout_s)

    def add(self, claim: Claim) -> None:
        """A claimed job; an older claim of the same job is forgotten. Lower classes give way if it does not fit."""
        row, broken = self._row(claim.job)
        with self._changed:
            self._forget(claim.job.id)
            self._arrivals += 1
            work = work_of(claim, self._arrivals, self._model.bounds, row)
            self._scheduler.add(work, time.monotonic())
            self.counters["prompt_tokens"] += claim.job.prompt_tokens
            if self._began is None:
                self._began = time.monotonic()
            if broken:
                self._end(work, broken)
            elif not all(0 < len(prompt) < self._model.bounds.context for prompt in claim.job.prompts):
                self._end(work, _FAILED)  # the door refuses these
            elif work.is_finished:
                self._end(work, _done(work))
            else:  # parked ahead of the claim alone, they could be back before it came
                if self._scheduler.gives_way(work.cls):
                    self._model.way.set()
                self._scheduler.park(0, work.cls, time.monotonic())
            self._changed.notify_all()

    def _row(self, job: Job) -> tuple[sequences.Row | None, Failed | None]:
        """A job's constraint, compiled before anybody waits for it, or why it could not be."""
        try:
            return (None if job.constraint is None else self._model.row(job.constraint)), None
        except sequences.BrokenConstraintError as error:
            log.warning("a constraint could not be compiled", job=job.id, reason=str(error))
            return None, _BROKEN

    def end(self, job_id: str, failed: Failed) -> None:
        """Cancelled or expired: this is the job's last event; its slots are free before the next step."""
        with self._changed:
            if job_id in self._scheduler:
                self._end(self._scheduler[job_id], failed)
                self._changed.notify_all()

    def drop(self, job_ids: Collection[str]) -> None:
        """No longer ours: forget them silently."""
        with self._changed:
            for job_id in job_ids:
                self._forget(job_id)
            self._changed.notify_all()

    def release(self) -> tuple[Released, ...]:
        """Stop all jobs; the unfinished ones, to be given back."""
        with self._changed:
            return self._release(tuple(self._scheduler))

    def release_parked(self, older_than_s: float) -> tuple[Released, ...]:
        """The same for jobs that have been parked for so long."""
        with self._changed:
            return self._release(self._scheduler.parked_before(time.monotonic() - older_than_s))

    def wait_idle(self, timeout_s: float) -> bool:
        """Until every job has ended and was told; False when that takes too long."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._has_work(), timeout_s)

    def room(self) -> Room:
        """What is left, and for whom."""
        with self._changed:
            return self._scheduler.room(self._pace.ends_per_s)

    def gauges(self) -> dict[str, int]:
        """What is in use."""
        with self._changed:
            return self._scheduler.gauges()

    def stalled_s(self) -> float | None:
        """Seconds since the last step began, or a part of a failed one; None when there is nothing to do."""
        if self._strikes >= _OUT:
            return float("inf")
        began = self._began
        return None if began is None else time.monotonic() - max(began, self._forward.began)

    @property
    def tokens_per_s(self) -> float | None:
        """Generated tokens a second while there was work, lately."""
        return self._pace.tokens_per_s

    def step(self) -> None:
        """One forward for all who run, and what it leads to."""
        began = time.monotonic()
        with self._changed:
            self._began = began
            self._model.way.clear()
            feeds = self._plan(began)
        try:
            feeds, tokens = self._read(feeds, began)
        except GaveWayError:
            self._scheduler.gave_way()
            if self._hot:
                self._hot.clear()
            return
        with self._changed:
            before = dict(self.counters)
            self._apply(feeds, tokens)
            self._count(feeds, before, time.monotonic() - began)
        if self._hot:
            self._hot.clear()
        self._tell()

    def _read(self, feeds: Feeds, began: float) -> tuple[Feeds, Tokens]:
        try:
            return feeds, self._forward.read(feeds)
        except ShortOfMemoryError:
            feeds = self._smaller(began)
            return feeds, self._forward.read(feeds, is_last=True)

    def _plan(self, now: float) -> Feeds:
        """Who reads what in this step; the slots that were given up are free from here on."""
        self._vacate()
        for sequence in self._scheduler.late(now):
            self._try(sequence, partial(sequence.run_out, self._model), now)
        for sequence in self._scheduler.admit(self._pace.prefill_tokens, now):
            self.counters["cached_tokens"] += sequence.read
            if sequence.slot is not None:  # a mate of the same job may have failed before it
                self._try(sequence, partial(sequence.begin, self._model), now)
        return self._feeds(now)

    def _smaller(self, now: float) -> Feeds:
        """The same when there was too little memory for it."""
        with self._changed:
            log.warning("out of memory; the step is done again with less", running=len(self._scheduler.running))
            self.counters["out_of_memory"] += 1
            self._scheduler.shrink(now)
            self._pace.shrink()
            self._vacate()
            self._model.relieve()
            self._scheduler.stays()
            return self._feeds(now)

    def _vacate(self) -> None:
        for slot in self._scheduler.vacated():
            self._model.free(slot)

    def _feeds(self, now: float) -> Feeds:
        feeds: Feeds = {}
        budget = self._pace.prefill_tokens
        for sequence in self._scheduler.due():
            count = sequence.next(budget if self._model.blocks is not None else len(sequence))
            if count and sequence.slot is not None and self._scheduler.grow(sequence, sequence.read + count, now):
                budget -= count * sequence.is_reading
                feeds[sequence] = self._feed(sequence, count, now)
        return {sequence: feed for sequence, feed in feeds.items() if sequence.slot is not None}

    def _feed(self, sequence: sequences.Sequence, count: int, now: float) -> Feed:
        guess = self._scheduler.guess(sequence, now)
        return Feed(
            sequence.slot or 0,
            (*sequence.unread(count), *guess),
            sequence.read,
            sequence.draw,
            sequence.asked(),
            (1 + len(guess)) * (count == sequence.left),
            tuple(sequence.blocks),
            sequence.past(),
            sequence.is_reading,
            sequence.follows(count),
            sequence.row,
        )

    def _count(self, feeds: Feeds, before: Mapping[str, float], seconds: float) -> None:
        """What the step was; where somebody failed, it says nothing of the next."""
        reading = entering(feeds)
        prefilled = sum(len(feed.tokens) for feed in reading.values())
        said = int(self.counters["generation_tokens"] - before["generation_tokens"])
        told = (prefilled, said, sum(one.slot is None for one in feeds))
        if self.counters["failed"] == before["failed"]:
            rows, full = len(feeds) - len(reading), len(feeds) / self._model.slots
            self.counters |= self._pace.note(seconds, told, rows, full)
        self.counters["steps"] += bool(feeds)
        self.counters["prefilled_tokens"] += prefilled
        self.counters["preemptions"] = self._scheduler.parked

    def _apply(self, feeds: Feeds, tokens: Tokens) -> None:
        """Tokens to events; a sequence that was parked or ended meanwhile loses its token."""
        now = time.monotonic()
        for sequence, feed in feeds.items():
            if sequence.slot is None:
                continue
            self._try(sequence, partial(self._take, sequence, feed, tokens.get(sequence), now), now)
        self._outputs += [
            Output(job_id, self._scheduler[job_id].claim.epoch, tuple(events))
            for job_id, events in self._spoken.items()
        ]
        self._spoken.clear()

    def _try(self, sequence: sequences.Sequence, say: Callable[[], Sequence[Delta]], now: float) -> None:
        """What it says now, and what must follow."""
        try:
            self._say(sequence, (*say(), *self._forced(sequence, now)), now)
        except sequences.BrokenConstraintError as error:
            log.warning("a constraint broke", job=sequence.job_id, reason=str(error))
            self._fail(sequence.job_id, _BROKEN)
        except Exception:  # whatever its text does, it fails alone
            log.exception("a sequence failed", job=sequence.job_id)
            self._fail(sequence.job_id)

    def _take(self, sequence: sequences.Sequence, feed: Feed, drawn: Drawn | None, now: float) -> Sequence[Delta]:
        """What a sequence says after it has read this. Raises ValueError where the model had nothing for it."""
        if drawn is None or (feed.draws and drawn.token is None):
            if feed.row is not None:
                feed.row.check()
            raise ValueError("the model gave no token")
        if not feed.draws:
            sequence.score(drawn.scores)
        guessed = feed.tokens[len(feed.tokens) + 1 - feed.draws :] if feed.draws > 1 else ()
        events: list[Delta] = []
        said = 0
        for token in (drawn.token, *drawn.more) if drawn.token is not None else ():
            events += sequence.take(token, now, drawn.scores)
            said += 1
            if sequence.is_finished or guessed[said - 1 : said] != (token,):
                break
        if guessed:
            sequence.was_guessed(said - 1, len(guessed))
            self.counters["guessed_tokens"] += len(guessed)
            self.counters["guessed_right"] += said - 1
        self.counters["generation_tokens"] += said
        sequence.has_read(len(feed.tokens) - len(guessed) + max(0, said - 1))
        self._scheduler.note(sequence)
        return events

    def _forced(self, sequence: sequences.Sequence, now: float) -> Sequence[Delta]:
        """What must follow, and need not be drawn; a model without blocks reads one token a step."""
        events = sequence.force(now) if self._model.blocks is not None else ()
        forced = sum(len(event.tokens) for event in events)
        self.counters["generation_tokens"] += forced
        self.counters["forced_tokens"] += forced
        return events

    def _say(self, sequence: sequences.Sequence, events: Sequence[Delta], now: float) -> None:
        if events:
            self._spoken.setdefault(sequence.job_id, []).extend(events)
        if sequence.is_finished:
            self._scheduler.leave(sequence, now)
            work = self._scheduler[sequence.job_id]
            if work.is_finished:
                self._end(work, _done(work))

    def _end(self, work: Work, last: Done | Failed) -> None:
        """The job's last event, behind what the running step has already said."""
        job_id = work.claim.job.id
        self._outputs.append(Output(job_id, work.claim.epoch, (*self._spoken.pop(job_id, ()), last)))
        self._scheduler.remove(job_id, is_sound=last is not _FAILED)

    def _fail(self, job_id: str, failed: Failed = _FAILED) -> None:
        self.counters["failed"] += 1
        self._end(self._scheduler[job_id], failed)

    def _forget(self, job_id: str) -> None:
        self._spoken.pop(job_id, None)
        if job_id in self._scheduler:
            self._scheduler.remove(job_id)

    def _release(self, works: Sequence[Work]) -> tuple[Released, ...]:
        now = time.monotonic()
        for work in works:
            self._forget(work.claim.job.id)
        self._changed.notify_all()
        return tuple((work.claim.job.id, work.claim.epoch, work.clock.spent_s(now)) for work in works)

    def _tell(self) -> None:
        """Hand the outputs over; they are kept until the sink has them."""
        with self._changed:
            outputs = tuple(self._outputs)
        if outputs:
            self._sink(outputs)
        with self._changed:
            del self._outputs[: len(outputs)]
            if not self._has_work():
                self._began = None
                self._pace.recover()
                self._changed.notify_all()

    def _has_work(self) -> bool:
        return bool(self._scheduler) or bool(self._outputs)

    def _run(self) -> None:
        while self._wait():
            try:
                self.step()
            except LostModelError:
                log.exception("nothing can be computed here any more; the jobs go on elsewhere")
                self._strikes = _OUT
                return
            except Exception:  # one bad step must not end the thread
                log.exception("the loop itself failed")
                if not self._survive():
                    return
            else:
                self._strikes = 0

    def _wait(self) -> bool:
        with self._changed:
            self._changed.wait_for(self._is_due)
            return self._is_open

    def _is_due(self) -> bool:
        """Between two steps: is there anything to do? The last job may have been dropped just now."""
        if not self._has_work():
            self._began = None
        return not self._is_open or self._has_work()

    def _survive(self) -> bool:
        """Fail all who ran, once; the second time in a row ``stalled_s`` tells the watch that this process is lost."""
        with self._changed:
            self._strikes += 1
            for sequence in self._scheduler.running:
                if sequence.job_id in self._scheduler:
                    self._fail(sequence.job_id)
            return self._strikes < _OUT


def _done(work: Work) -> Done:
    return Done(Usage(work.claim.job.prompt_tokens, work.tokens, work.cached))
