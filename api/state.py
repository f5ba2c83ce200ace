"""Everything a front-end process holds, in one frozen object."""

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol, TypeVar, cast

from flask import current_app

from api.auth import Gate
from api.feed import Feed
from api.hangup import Sweeper
from api.hub import Hub, partition_of
from common import telemetry
from common.broker import Tickets
from common.door.fetch import Fetcher
from common.errors import DrainingError, StorageError, UnavailableError
from common.files import Files
from common.identity import Principal
from common.jobs import Job
from common.ledger.batches import Batches
from common.ledger.ledger import Ledger
from common.ledger.replies import NEVER_AGAIN, KnownJobError, Once, Place
from common.ledger.webhooks import Webhooks
from common.protocol.chat import ChatRequest
from common.protocol.completions import CompletionRequest
from common.protocol.generation import Headers
from common.settings import Settings

_PATIENCE_S = 5.0  # a new request waits so long for Redis
_RETRY_S = 0.1
_PULSE_S = 1.0
_BUSY_RETRY_S = 2
Ask = ChatRequest | CompletionRequest
T = TypeVar("T")
log = telemetry.logger("pulse")


class Door(Protocol):
    """What turns a request into a job."""

    def admit(self, ask: Ask, who: Principal, headers: Headers) -> Job:
        """Refuse it, or say what must be done."""

    def refuse_if_gone(self, model: str) -> None:
        """Refuse what was read for a model that nobody serves any more."""

    def close(self) -> None:
        """Leave no child."""


class Pulse:
    """Once a second: say that we live, leave what nobody reads, see how full the storage is and how long the queues."""

    def __init__(self, hub: Hub, ledger: Ledger, models: Sequence[str]) -> None:
        self.memory_fraction, self.waiting = 0.0, 0
        self._hub, self._ledger, self._models = hub, ledger, models
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="pulse", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def close(self) -> None:
        """End soon."""
        self._stopping.set()
        self._thread.join()

    def _run(self) -> None:
        while True:
            try:
                self._hub.beat()
                self._hub.leave_unheard()
                self.memory_fraction = self._ledger.memory_fraction()
                self.waiting = max(max(self._ledger.waiting(model).values()) for model in self._models)
            except StorageError:
                self.memory_fraction = 0.0  # unknown; a write will say
            except Exception:  # the next round may not fail, and a silent front end is forgotten
                log.exception("this round failed")
            if self._stopping.wait(_PULSE_S):
                return


@dataclass(frozen=True, slots=True)
class State:
    """The parts of this process, from its start to its drain."""

    settings: Settings
    ledger: Ledger
    hub: Hub
    sweeper: Sweeper
    pulse: Pulse
    gate: Gate
    door: Door
    tickets: Tickets
    files: Files
    batches: Batches
    webhooks: Webhooks
    fetcher: Fetcher
    draining: threading.Event = field(default_factory=threading.Event)
    coming: Counter[str] = field(default_factory=Counter)  # by share: requests that are at the door
    drained: threading.Event = field(default_factory=threading.Event)  # whoever still reads is told

    def start(self) -> None:
        """Open the lines."""
        self.hub.start()
        self.sweeper.start()
        self.pulse.start()

    def close(self) -> None:
        """End threads and children, give connections back."""
        self.sweeper.close()
        self.pulse.close()
        self.hub.close()
        self.door.close()
        self.tickets.close()
        self.ledger.close()

    def drain(self) -> None:
        """Take nothing more; end what is still open after a while. Returns at once."""
        if not self.draining.is_set():
            self.draining.set()
            timer = threading.Timer(self.settings.drain_s, self._end_feeds)
            timer.daemon = True
            timer.start()

    def _end_feeds(self) -> None:
        self.drained.set()
        for listener in self.hub.listeners():
            listener.drain()

    def open_feed(self, ask: Ask, who: Principal, headers: Headers, once: Once) -> Feed:
        """The job that ``ask`` becomes, submitted, and what is read of it. Raises ApiError.

        Where ``once`` names a job that is the same request, that is read.
        """
        self.refuse_if_unable()
        began = time.monotonic()
        until = began + _PATIENCE_S
        if not (once.key or once.orphan):  # what is known already may be read however many wait
            self._refuse_if_full(ask, who)
        with self._at_door(who.share(ask.label)):
            job = self._patiently(until, lambda: self.door.admit(ask, who, headers))
            self._refuse_if_draining()  # it may have begun while the door looked
            self.hub.wait_heard(partition_of(job), max(0.0, until - time.monotonic()))
            feed = Feed(self.hub, self.ledger, job, submit=partial(self.submit, once=once), began=began)
            try:
                self._patiently(until, feed.open)
            except KnownJobError as known:
                return self._of_known(who, known.job_id, until, asker=job.id)
            except StorageError:
                self.sweeper.lost(feed)  # it may have been stored although we never heard so
                raise
        return self._opened(feed)

    def follow(self, job: Job, after: int = 0) -> Feed:
        """What is read of a job that is there, behind so many items. Raises ApiError."""
        self._refuse_if_busy()
        self.hub.wait_heard(partition_of(job), _PATIENCE_S)
        feed = Feed(self.hub, self.ledger, job, after=after)
        feed.open()
        return self._opened(feed)

    def _opened(self, feed: Feed) -> Feed:
        if self.drained.is_set():  # it came too late to be among those that were told
            feed.drain()
        return feed

    def _of_known(self, who: Principal, job_id: str, until: float, *, asker: str) -> Feed:
        job = self._patiently(until, lambda: self.ledger.job(who.owner, job_id))
        if job is None:
            raise StorageError("The first answer to this request has just expired; ask again.", retry_after_s=1)
        feed = self.follow(job)
        feed.asker = asker
        return feed

    def end_feed(self, feed: Feed) -> None:
        """Its reader reads no more; unless it knows the end, its client has gone."""
        self.sweeper.forget(feed)
        if not (feed.is_over or feed.is_answered or feed.is_gone):
            self.sweeper.lost(feed)
        feed.close()

    def submit(self, job: Job, once: Once = NEVER_AGAIN, *, is_heard: bool = True) -> Place:
        """Store it, and wake a worker. ``is_heard``: somebody here listens. Raises KnownJobError and ApiError."""
        place = self.ledger.submit(job, self.settings.limits, self.hub.front_end if is_heard else None, once)
        self.pulse.waiting = max(self.pulse.waiting, place.position)
        self.tickets.send(job.model)
        return place

    def refuse_if_unable(self) -> None:
        """Raises DrainingError, UnavailableError and StorageError where nothing new is taken."""
        self._refuse_if_busy()
        if self.pulse.memory_fraction > self.settings.limits.memory_fraction:
            raise StorageError("The storage is full; try again later.", retry_after_s=10)

    def _refuse_if_busy(self) -> None:
        self._refuse_if_draining()
        if self.hub.count() >= self.settings.limits.streams:
            raise UnavailableError("Too many answers are open here; ask again.", retry_after_s=_BUSY_RETRY_S)

    @contextmanager
    def _at_door(self, share: str) -> Iterator[None]:
        """Who is read now will wait next: the places that are left are theirs."""
        self.coming[share] += 1
        try:
            yield
        finally:
            self.coming[share] -= 1
            if not self.coming[share]:
                del self.coming[share]

    def _refuse_if_full(self, ask: Ask, who: Principal) -> None:
        """While many wait, before anybody reads the prompt: a refusal costs one question to the ledger."""
        limits, model, coming = self.settings.limits, self.settings.model(ask.model or "0"), self.coming.total()
        if model is not None and self.pulse.waiting + coming >= min(limits.waiting_class, limits.waiting_share):
            own = self.coming[who.share(ask.label)]
            left = {"waiting_class": limits.waiting_class - coming, "waiting_share": limits.waiting_share - own}
            self.ledger.refuse_if_full(model.name, ask.cls, who, ask.label, limits.model_copy(update=left))

    def _refuse_if_draining(self) -> None:
        if self.draining.is_set():
            raise DrainingError("This server is going down; ask again.", retry_after_s=1)

    def _patiently(self, until: float, work: Callable[[], T]) -> T:
        """Do it, again while Redis is away, until then; safe because a job is stored once however often it is sent."""
        while True:
            try:
                return work()
            except StorageError:
                if time.monotonic() + _RETRY_S >= until or self.draining.wait(_RETRY_S):
                    raise


def state() -> State:
    """This application's."""
    return cast("State", current_app.extensions["penstock"])
