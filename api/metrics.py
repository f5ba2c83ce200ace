"""A small process that serves ``/metrics`` and nothing else, on a port of its own.

It adds up what front-end processes wrote into their folder, and reads the rest from the ledger.
"""

import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.multiprocess import MultiProcessCollector

from api import folders
from common import telemetry
from common.errors import StorageError
from common.ledger.ledger import Ledger
from common.ledger.replies import WorkerInfo
from common.ledger.webhooks import Webhooks
from common.processes import UNUSABLE
from common.settings import Settings, SettingsError, load

_TIMEOUT_S = 10  # of a client that sends nothing
log = telemetry.logger("metrics")


class LedgerCollector:
    """What the ledger knows, read at each scrape."""

    def __init__(self, settings: Settings, ledger: Ledger) -> None:
        self._models = [model.name for model in settings.models]
        self._ledger, self._webhooks = ledger, Webhooks(ledger)

    def collect(self) -> Iterator[Metric]:
        """All of it, or only that Redis is away."""
        up = GaugeMetricFamily("penstock_redis_up", "1 while the ledger answers")
        try:
            families = [self._waiting(), *self._workers(), *self._counters(), self._deliveries(), self._memory()]
        except StorageError:
            families = []
        up.add_metric([], 1 if families else 0)
        yield up
        yield from families

    def _waiting(self) -> Metric:
        family = GaugeMetricFamily("penstock_num_requests_waiting", "Waiting jobs", labels=["model_name", "class"])
        for model in self._models:
            for cls, count in self._ledger.waiting(model).items():
                family.add_metric([model, cls], count)
        return family

    def _workers(self) -> tuple[Metric, ...]:
        living = GaugeMetricFamily("penstock_workers", "Living workers", labels=["model_name", "state"])
        slots = GaugeMetricFamily("penstock_slots", "Sequences that can run together", labels=["model_name"])
        free = GaugeMetricFamily("penstock_slots_free", "Those of them that are free", labels=["model_name"])
        workers = self._ledger.workers()
        for model in self._models:
            own = [worker for worker in workers if worker.model == model]
            for state in ("ready", "draining"):
                living.add_metric([model, state], sum(worker.state == state for worker in own))
            slots.add_metric([model], sum(worker.slots for worker in own))
            free.add_metric([model], sum(worker.free for worker in own))
        return living, slots, free, *self._gauges(workers)

    def _gauges(self, workers: Sequence[WorkerInfo]) -> list[Metric]:
        """What workers say is in use, and the share of all blocks for keys and values."""
        sums: dict[str, dict[str, float]] = {}
        for worker in workers:
            for name, value in worker.gauges.items():
                by_model = sums.setdefault(name, dict.fromkeys(self._models, 0.0))
                by_model[worker.model] = by_model.get(worker.model, 0.0) + value
        if blocks := sums.get("kv_blocks"):
            used = sums["kv_blocks_used"]
            sums["kv_cache_usage_perc"] = {model: used[model] / count for model, count in blocks.items() if count}
        return [self._gauge(name, by_model) for name, by_model in sums.items()]

    def _gauge(self, name: str, by_model: Mapping[str, float]) -> Metric:
        family = GaugeMetricFamily(f"penstock_{name}", f"Workers' {name}", labels=["model_name"])
        for model, value in by_model.items():
            family.add_metric([model], value)
        return family

    def _counters(self) -> list[Metric]:
        families: dict[str, CounterMetricFamily] = {}
        for model in self._models:
            for name, value in self._ledger.counters(model).items():
                family = families.setdefault(
                    name,
                    CounterMetricFamily(f"penstock_{name}", f"Workers' sum of {name}", labels=["model_name"]),
                )
                family.add_metric([model], value)
        return list(families.values())

    def _deliveries(self) -> Metric:
        family = CounterMetricFamily("penstock_webhook_deliveries", "Tries, by what became of them", labels=["outcome"])
        for outcome, count in self._webhooks.outcomes().items():
            family.add_metric([outcome], count)
        return family

    def _memory(self) -> Metric:
        fraction = self._ledger.memory_fraction()
        return GaugeMetricFamily("penstock_redis_memory_fraction", "Used part of Redis' maxmemory", value=fraction)


class Handler(BaseHTTPRequestHandler):
    """One path."""

    registry: ClassVar[CollectorRegistry]
    timeout = _TIMEOUT_S
    server_version, sys_version = "penstock", ""

    def do_GET(self) -> None:
        """The page that Prometheus reads."""
        if self.path.partition("?")[0] != "/metrics":
            self.send_error(HTTPStatus.NOT_FOUND)
            return
        body = generate_latest(self.registry)
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", CONTENT_TYPE_LATEST)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  the name is the library's
        """Scrapes are no news."""


class Server(ThreadingHTTPServer):
    """Threads that end with the process."""

    daemon_threads = True

    def __init__(self, settings: Settings, ledger: Ledger) -> None:
        """Raises OSError when the port is taken."""
        folder = folders.metrics(settings)
        folder.mkdir(parents=True, exist_ok=True)  # a front end may not have started yet
        registry = CollectorRegistry()
        MultiProcessCollector(registry, path=str(folder))  # type: ignore[no-untyped-call]
        registry.register(LedgerCollector(settings, ledger))
        self.address_family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
        super().__init__((settings.host, settings.metrics_port), type("Bound", (Handler,), {"registry": registry}))


def main() -> int:
    """Serve until SIGTERM; the exit status."""
    try:
        settings = load()
        telemetry.configure(settings)
        ledger = Ledger(settings.ledgers)
        server = Server(settings, ledger)
    except SettingsError as error:
        sys.stderr.write(f"penstock: {error}\n")
        return UNUSABLE
    except OSError as error:
        reason = os.strerror(error.errno or 0)
        sys.stderr.write(f"penstock: {settings.host}:{settings.metrics_port} cannot be listened on: {reason}.\n")
        return UNUSABLE
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: threading.Thread(target=server.shutdown).start())  # it waits for the loop
    server.serve_forever()
    server.server_close()
    ledger.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
