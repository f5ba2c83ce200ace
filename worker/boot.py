"""The engine process: load the model, write its card, wire the threads, drain on SIGTERM.

Started by ``worker/main.py``, never by hand.
"""

import argparse
import signal
import sys
import threading
from typing import BinaryIO

from common import telemetry
from common.ledger.ledger import Ledger
from common.ledger.replies import WorkerInfo
from common.processes import UNUSABLE, die_with_parent
from common.settings import Settings, load
from worker.engine.engine import Engine
from worker.hot import HotFile
from worker.models import loader
from worker.publisher import Publisher
from worker.tickets import Intake, Waker
from worker.watch import Heart, Parts, Periodic, reaper

_FLUSH_S = 5.0
log = telemetry.logger("worker")


class Worker:
    """One model replica: its threads, from load to drain."""

    def __init__(self, settings: Settings, name: str, worker: str, hot: HotFile) -> None:
        """Load the model; raises LoadError."""
        model = next(model for model in settings.models if model.name == name)
        self._settings, self._name, self._worker = settings, name, worker
        loaded = loader.load(model, settings.threads)
        ledger = Ledger(settings.ledgers)
        publisher = Publisher(ledger, worker, name, settings.flush_ms / 1000, self._heard)
        engine = Engine(loaded.model, publisher, hot=hot)
        intake = Intake(ledger, engine, publisher, worker, name)
        self._parts = Parts(ledger, engine, publisher, intake, hot)
        info = WorkerInfo(worker, name, engine.room().slots, engine.room().slots, "ready")
        self._heart = Heart(self._parts, info, settings.stall_s)
        self._beats = Periodic("heart", settings.beat_s, self._heart)
        self._reaper = reaper(ledger, settings.lease_s)
        self._waker = Waker(settings, name, intake.ticket)
        ledger.put_card(loaded.card, loaded.tokenizer_files)

    def _heard(self, waiting: dict[str, int]) -> None:
        self._parts.intake.heard(waiting)  # type: ignore[arg-type]  # the classes, as Redis spells them

    def start(self) -> None:
        """Take jobs."""
        parts = self._parts
        parts.publisher.start(parts.engine)
        parts.engine.start()
        self._beats.start()
        self._reaper.start()
        parts.intake.start()
        self._waker.start()
        log.info("worker ready", model=self._name, worker=self._worker)

    def drain(self) -> None:
        """Give unfinished jobs to another worker, or finish them if there is none, then leave the ledger."""
        parts = self._parts
        self._heart.drain()
        parts.intake.close()
        self._waker.stop(_FLUSH_S)
        if not self._has_peer():
            parts.engine.wait_idle(self._settings.drain_s)
        parts.publisher.release(parts.engine.release())
        parts.publisher.stop(_FLUSH_S)
        parts.engine.stop(_FLUSH_S)
        self._beats.stop()
        self._reaper.stop()
        parts.ledger.reap(self._worker)
        parts.ledger.close()
        log.info("worker left", model=self._name, worker=self._worker)

    def _has_peer(self) -> bool:
        return any(
            info.model == self._name and info.worker != self._worker and info.state == "ready"
            for info in self._parts.ledger.workers()
        )


def main() -> int:
    """Run until SIGTERM."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True)
    parser.add_argument("--worker", required=True)
    parser.add_argument("--hot", type=int, required=True)
    parser.add_argument("--parent", type=int, required=True)
    told = parser.parse_args()
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent tells us in its turn
    die_with_parent(told.parent)
    settings = load()
    telemetry.configure(settings)
    hot_file: BinaryIO = open(told.hot, "r+b", buffering=0)  # noqa: SIM115, PTH123  an inherited descriptor, kept
    try:
        worker = Worker(settings, told.model, told.worker, HotFile(hot_file))
    except loader.LoadError as error:
        log.error("the model cannot be served", model=told.model, reason=str(error))  # noqa: TRY400  a sentence, no trace
        return UNUSABLE
    worker.start()
    stop.wait()
    worker.drain()
    return 0


if __name__ == "__main__":
    sys.exit(main())
