"""Wake and claim: one thread takes jobs from the ledger whenever there is room for them.

It is woken by tickets, by the waiting counts in the replies of EMIT (so by every end of a job) and BEAT, and where
there is no room by the arrival of a job above the lowest class.
"""

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

from celery import Celery
from celery.concurrency import get_implementation
from celery.worker import WorkController, state
from kombu.asynchronous import set_event_loop
from kombu.exceptions import KombuError

from common import broker, telemetry
from common.errors import StorageError
from common.jobs import CLASSES, Class
from common.ledger.ledger import Ledger
from common.ledger.replies import Ring
from common.settings import Settings
from worker.engine.engine import Engine, Room
from worker.publisher import Publisher, Publishers

_HOLD_S = 60.0  # a full worker keeps its ticket no longer
_STOP_S = 5.0
log = telemetry.logger("tickets")


class Intake:
    """Claims while there is room; for a higher class also when there is none."""

    def __init__(
        self, ledger: Ledger, engine: Engine, publisher: Publisher | Publishers, worker: str, model: str
    ) -> None:
        self._ledger, self._engine, self._publisher = ledger, engine, publisher
        self._worker, self._model = worker, model
        self._changed = threading.Condition()  # guards all below; the engine's lock may be taken inside it
        self._asked = 1  # rounds asked for, and rounds done
        self._done = 0
        self._waiting: Mapping[Class, int] = {}
        self._is_claiming = False
        self._is_open = True
        self._thread = threading.Thread(target=self._run, name="intake", daemon=True)

    def start(self) -> None:
        """Begin with a first round: jobs may wait already."""
        self._thread.start()

    def heard(self, waiting: Mapping[Class, int]) -> None:
        """EMIT or BEAT said how many jobs wait; perhaps a slot is free as well."""
        with self._changed:
            self._waiting = waiting
            self._asked += any(waiting.values())
            self._changed.notify_all()

    def ticket(self) -> None:
        """What a ticket does: a round of claims, once there is room for one."""
        with self._changed:
            self._changed.wait_for(lambda: not self._is_open or self._engine.room().free > 0, _HOLD_S)
            self._asked += 1
            number = self._asked
            self._changed.notify_all()
            self._changed.wait_for(lambda: not self._is_open or self._done >= number, _HOLD_S)

    def arrived(self, ring: Ring) -> None:
        """A job above the lowest class waits: for whoever has room there are tickets, which wait for room."""
        if self._engine.room().free <= 0:
            cls = cast("Class", ring.items[0].decode())
            with self._changed:
                self.heard({**self._waiting, cls: self._waiting.get(cls, 0) + 1})

    def held(self) -> tuple[str, ...] | None:
        """The jobs that are ours; None while a claim is under way, which may bring one more."""
        with self._changed:
            return None if self._is_claiming else self._publisher.held()

    def close(self) -> None:
        """Claim nothing more; returns when no claim is under way."""
        with self._changed:
            self._is_open = False
            self._changed.notify_all()
        self._thread.join()

    def _run(self) -> None:
        while (number := self._wait()) is not None:
            try:
                while self._is_open and self._claim():
                    pass
            except StorageError:
                log.warning("claim failed; the next beat asks again")
            except Exception:  # a job that cannot be read must not keep all others from us
                log.exception("claim failed")
            with self._changed:
                self._done = number
                self._is_claiming = False
                self._changed.notify_all()

    def _wait(self) -> int | None:
        with self._changed:
            self._changed.wait_for(lambda: not self._is_open or self._asked > self._done)
            return self._asked if self._is_open else None

    def _claim(self) -> bool:
        room = self._engine.room()
        with self._changed:
            classes = claimable(room, self._waiting)
            self._is_claiming = bool(classes)
        if not classes:
            return False
        claim = self._ledger.claim(self._worker, self._model, classes, has_room=room.free > 0, keeps=room.keeps)
        if claim is None:
            return False
        job = claim.job
        log.debug("claimed", job=job.id, cls=job.cls, epoch=claim.epoch, said=claim.seq)
        self._publisher.begin(claim)
        return True


def claimable(room: Room, waiting: Mapping[Class, int]) -> Sequence[Class]:
    """The classes a worker may claim from: all with a free slot, else those above the lowest that runs.

    Without a free slot a class that still has a claimed job in front of the slots gets nothing more. Where only the
    lowest class wants anything, and much of it, its jobs are claimed for the slots that will be free soon.
    """
    if room.free > 0:
        return CLASSES
    above = CLASSES[: CLASSES.index(room.lowest)] if room.lowest else ()
    *higher, lowest = CLASSES
    if room.lowest == lowest and not any(map(waiting.get, higher)) and waiting.get(lowest, 0) > room.slots:
        return (lowest,) if room.free > -room.soon else ()
    return tuple(cls for cls in above if cls not in room.entering and waiting.get(cls))


class Waker:
    """Celery's worker in a thread: its stock threads pool with one thread runs one task, the ticket."""

    def __init__(self, settings: Settings, model: str, on_ticket: Callable[[], None]) -> None:
        self._model, self._on_ticket = model, on_ticket
        self._app: Celery = broker.celery_app(settings)
        self._app.task(name=broker.TICKET, shared=False)(_task(self._ticket))
        self._app.finalize()
        self._app.set_default()  # the pool's thread looks for its task there
        self._taken = 0
        self._in_hand = 0
        self._seen = -1  # tickets taken at a look that found one waiting

    def start(self) -> None:
        """Listen to the queue."""
        self._controller = _controller(self._app, self._model)
        self._thread = threading.Thread(target=self._controller.start, name="celery", daemon=True)
        self._thread.start()

    def look(self) -> None:
        """Replace a consumer that let a ticket lie since the last look: Celery's have gone deaf after resets.

        It costs a beat for each job, as the beats claim too; so this is no reason to end the process.
        """
        try:
            is_waiting = broker.length(self._app, self._model) > 0
        except KombuError:
            return  # the broker is away; Celery goes on asking for it
        if not is_waiting or self._in_hand:
            self._seen = -1
        elif self._seen == self._taken:
            log.warning("tickets are not consumed; starting another consumer", model=self._model)
            self._end()
            self.start()
            self._seen = -1
        else:
            self._seen = self._taken

    def stop(self) -> None:
        """Stop listening; what is unread stays in the queue."""
        self._end()
        self._app.close()

    def _end(self) -> None:
        state.should_stop = 0
        if self._controller.hub:  # asleep for seconds, if nobody wakes it
            self._controller.hub.call_soon(lambda: None)
        self._thread.join(_STOP_S)
        state.should_stop = None
        set_event_loop(None)  # the next consumer makes its own

    def _ticket(self) -> None:
        self._taken += 1
        self._in_hand += 1
        try:
            self._on_ticket()
        finally:
            self._in_hand -= 1


def _task(do: Callable[[], None]) -> Callable[..., None]:
    """As Celery wants it: a function, whatever the message says."""

    def ticket(**_: Any) -> None:
        do()

    return ticket


def _controller(app: Celery, model: str) -> Any:
    return WorkController(
        app=app,
        pool_cls=get_implementation("threads"),
        concurrency=1,
        queues=[broker.queue(model).name],
        without_gossip=True,
        without_mingle=True,
        without_heartbeat=True,
        quiet=True,
        loglevel="WARNING",
    )
