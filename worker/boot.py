"""The engine process: load the model, write its card, wire the threads, drain on SIGTERM.

Started by ``worker/main.py``, never by hand.
"""

import argparse
import signal
import sys
import time
from queue import SimpleQueue
from typing import BinaryIO

from common import telemetry
from common.errors import StorageError
from common.ledger.bell import Line
from common.ledger.ledger import Ledger
from common.ledger.replies import WorkerInfo
from common.processes import UNUSABLE, die_with_parent, settle
from common.settings import Model, Settings, SettingsError, load
from worker.engine import memory
from worker.engine.engine import Engine
from worker.hot import HotFile
from worker.models import loader
from worker.publisher import Publishers
from worker.tickets import Intake, Waker
from worker.watch import Heart, Parts, Periodic, hearts, reapers

_FLUSH_S = 5.0
_CARD_S = 2.0
_CONSUMER_S = 5.0
log = telemetry.logger("worker")


class Worker:
    """One model replica: its threads, from load to drain."""

    def __init__(self, settings: Settings, model: Model, worker: str, hot: HotFile) -> None:
        """Load the model; raises LoadError."""
        self._settings, self._model, self._worker = settings, model.name, worker
        self._loaded = loader.load(model, settings.threads)
        memory.keep_freed()
        ledger = Ledger(settings.ledgers)
        publisher = Publishers(ledger, worker, model.name, settings.flush_ms / 1000)
        engine = Engine(self._loaded.model, publisher, hot=hot)
        intake = Intake(ledger, engine, publisher, worker, model.name)
        self._parts = Parts(ledger, engine, publisher, intake, hot)
        info = WorkerInfo(worker, model.name, model.slots, model.slots, "ready")
        self._heart = Heart(self._parts, info, settings.stall_s)
        self._waker = Waker(settings, model.name, intake.ticket)
        self._is_shown = False
        self._threads: tuple[Periodic | Line, ...] = (
            Periodic("card", _CARD_S, self._show),
            *hearts(self._heart, ledger, settings.beat_s),
            *reapers(ledger, settings.lease_s),
            *(Line(bell, intake.arrived, _nothing) for bell in ledger.arrivals(model.name)),
        )
        self._consumer_watch = Periodic("consumer watch", _CONSUMER_S, self._waker.look)

    def start(self) -> None:
        """Take jobs."""
        parts = self._parts
        parts.publisher.start(parts.engine, parts.intake.heard)
        parts.engine.start()
        for thread in self._threads:
            thread.start()
        parts.intake.start()
        self._waker.start()
        self._consumer_watch.start()
        log.info("worker ready", model=self._model, worker=self._worker)

    def drain(self) -> None:
        """Give unfinished jobs to another worker, or finish them while there is none, then leave the ledger."""
        parts = self._parts
        self._heart.drain()
        parts.intake.close()
        self._consumer_watch.stop()
        self._waker.stop()
        self._finish()
        parts.publisher.release(parts.engine.release())
        parts.publisher.stop(_FLUSH_S)
        parts.engine.stop(_FLUSH_S)
        for thread in self._threads:
            thread.stop()
        try:
            parts.ledger.reap(self._worker)
        except StorageError:
            log.warning("the ledger could not be told; the lease will lapse")
        parts.ledger.close()
        log.info("worker left", model=self._model, worker=self._worker)

    def _finish(self) -> None:
        """Work on for a while, until all is done or somebody else can."""
        end = time.monotonic() + self._settings.drain_s
        while not self._has_peer() and (left := end - time.monotonic()) > 0:
            if self._parts.engine.wait_idle(min(left, self._settings.beat_s)):
                return

    def _has_peer(self) -> bool:
        try:
            workers = self._parts.ledger.workers()
        except StorageError:
            return False
        return any(
            info.model == self._model and info.worker != self._worker and info.state == "ready" for info in workers
        )

    def _show(self) -> None:
        """Write the model's card; and again, should Redis have forgotten it."""
        if not self._is_shown or not self._parts.ledger.cards((self._model,)):
            self._parts.ledger.put_card(self._loaded.card, self._loaded.tokenizer_files)
            self._is_shown = True


def _nothing() -> None:
    """A beat says soon what a cut line did not."""


def main() -> int:
    """Run until SIGTERM."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True)
    parser.add_argument("--worker", required=True)
    parser.add_argument("--hot", type=int, required=True)
    parser.add_argument("--parent", type=int, required=True)
    told = parser.parse_args()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent tells us in its turn
    die_with_parent(told.parent)
    hot_file: BinaryIO = open(told.hot, "r+b", buffering=0)  # noqa: SIM115, PTH123  an inherited descriptor, kept
    try:
        settings = load()
        telemetry.configure(settings)
        worker = Worker(settings, _model(settings, told.model), told.worker, HotFile(hot_file))
    except (SettingsError, loader.LoadError) as error:
        log.error("the model cannot be served", model=told.model, reason=str(error))  # noqa: TRY400  a sentence, no trace
        return UNUSABLE
    stop: SimpleQueue[int] = SimpleQueue()  # a handler may use it, whatever it interrupted
    signal.signal(signal.SIGTERM, lambda number, _: stop.put(number))  # until here it ends us at once: no job is ours
    settle()
    worker.start()
    stop.get()
    worker.drain()
    return 0


def _model(settings: Settings, name: str) -> Model:
    """Raises SettingsError: the file has changed since the parent read it."""
    model = settings.model(name)
    if model is None:
        raise SettingsError(f"No model is called {name} any more.")
    return model


if __name__ == "__main__":
    sys.exit(main())
