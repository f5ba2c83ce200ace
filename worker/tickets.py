"""Wake and claim: one thread takes jobs from the ledger whenever there is room for them.

It is woken by tickets, by the waiting counts in the replies of EMIT and BEAT, and by freed slots.
"""

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from celery import Celery
from celery.concurrency import get_implementation
from celery.worker import WorkController, state

from common import broker, telemetry
from common.errors import StorageError
from common.jobs import CLASSES, Class
from common.ledger.ledger import Ledger
from common.ledger.replies import Claim
from common.settings import Settings
from worker.engine.engine import Engine, Room
from worker.publisher import Publisher

_HOLD_S = 60.0  # a full worker keeps its ticket no longer
log = telemetry.logger("tickets")


class Intake:
    """Claims while there is room; for a higher class also when there is none."""

    def __init__(self, ledger: Ledger, engine: Engine, publisher: Publisher, worker: str, model: str) -> None:
        self._ledger, self._engine, self._publisher = ledger, engine, publisher
        self._worker, self._model = worker, model
        self._changed = threading.Condition()
        self._asked = 1  # rounds asked for, and rounds done
        self._done = 0
        self._waiting: dict[Class, int] = {}
        self._open = True
        self._thread = threading.Thread(target=self._run, name="intake", daemon=True)

    def start(self) -> None:
        """Begin with a first round: jobs may wait already."""
        self._thread.start()

    def heard(self, waiting: Mapping[Class, int]) -> None:
        """EMIT or BEAT said how many jobs wait."""
        with self._changed:
            self._waiting = dict(waiting)
        if any(waiting.values()):
            self.poke()

    def poke(self) -> int:
        """Ask for a round; returns its number."""
        with self._changed:
            self._asked += 1
            self._changed.notify_all()
            return self._asked

    def ticket(self) -> None:
        """What a ticket does: a round of claims, once there is room for one."""
        with self._changed:
            self._changed.wait_for(lambda: not self._open or self._engine.room().free > 0, _HOLD_S)
        number = self.poke()
        with self._changed:
            self._changed.wait_for(lambda: not self._open or self._done >= number, _HOLD_S)

    def close(self) -> None:
        """Claim nothing more; returns when no claim is under way."""
        with self._changed:
            self._open = False
            self._changed.notify_all()
        self._thread.join()

    def _run(self) -> None:
        while (number := self._wait()) is not None:
            try:
                while self._open and self._claim():
                    pass
            except StorageError:
                log.warning("claim failed; the next beat asks again")
            with self._changed:
                self._done = number
                self._changed.notify_all()

    def _wait(self) -> int | None:
        with self._changed:
            self._changed.wait_for(lambda: not self._open or self._asked > self._done)
            return self._asked if self._open else None

    def _claim(self) -> bool:
        room = self._engine.room()
        classes = claimable(room, self._waiting)
        if not classes:
            return False
        claim = self._ledger.claim(self._worker, self._model, classes)
        if claim is None:
            return False
        self._accept(claim, room)
        return True

    def _accept(self, claim: Claim, room: Room) -> None:
        job = claim.job
        log.debug("claimed", job=job.id, cls=job.cls, epoch=claim.epoch, said=claim.seq)
        if room.free < job.choices:
            self._engine.park(job.choices, job.cls)
        self._publisher.open(claim)
        self._engine.add(claim)


def claimable(room: Room, waiting: Mapping[Class, int]) -> Sequence[Class]:
    """The classes a worker may claim from: all with a free slot, else those above the lowest that runs.

    A class that still has a claimed job in front of the slots gets nothing more.
    """
    classes = [cls for cls in CLASSES if cls not in room.entering]
    if room.free > 0:
        return classes
    if room.lowest is None:
        return ()
    above = CLASSES[: CLASSES.index(room.lowest)]
    return [cls for cls in classes if cls in above and waiting.get(cls)]


class Waker:
    """Celery's worker in a thread: its stock threads pool with one thread runs one task, the ticket."""

    def __init__(self, settings: Settings, model: str, on_ticket: Callable[[], None]) -> None:
        app = broker.celery_app(settings)
        app.task(name=broker.TICKET, bind=False)(_ticket(on_ticket))
        app.finalize()
        self._controller = _controller(app, model)
        self._app: Celery = app
        self._thread = threading.Thread(target=self._controller.start, name="celery", daemon=True)

    def start(self) -> None:
        """Listen to the queue."""
        self._thread.start()

    def stop(self, timeout_s: float) -> None:
        """Stop listening; what is unread stays in the queue."""
        state.should_stop = 0
        self._thread.join(timeout_s)
        self._app.close()


def _ticket(on_ticket: Callable[[], None]) -> Callable[..., None]:
    def ticket(**_: Any) -> None:
        on_ticket()

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
