import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx2
import psutil
import pytest

from common.ledger.ledger import Ledger
from common.settings import Settings, bare_environment
from tests.api.conftest import FrontEnd, Serve
from tests.api.hand import Hand
from tests.builders import a_job


def start(module: str, **settings: str) -> subprocess.CompletedProcess[str]:
    environment = bare_environment() | {f"PENSTOCK_{name.upper()}": value for name, value in settings.items()}
    return subprocess.run([sys.executable, "-m", module], env=environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(("module", "setting"), [("api.server", "port"), ("api.metrics", "metrics_port")])
def test_a_taken_port_is_one_clear_line(module: str, setting: str, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        ended = start(module, redis_url="redis://127.0.0.1:1/0", data_dir=str(tmp_path), **{setting: port})

    assert ended.returncode == 2
    assert ended.stderr.splitlines() == [f"penstock: 127.0.0.1:{port} cannot be listened on: Address already in use."]


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({}, "PENSTOCK_REDIS_URL"),
        ({"redis_url": "redis://127.0.0.1:1/0", "host": "0.0.0.0"}, "PENSTOCK_API_KEYS"),
        ({"redis_url": "redis://127.0.0.1:1/0", "auth_access": "closed"}, "PENSTOCK_USERS_FILE"),
        ({"redis_url": "redis://127.0.0.1:1/0", "api_keys": "/no/such/file"}, "/no/such/file"),
        ({"redis_ulr": "x"}, "PENSTOCK_REDIS_ULR"),
    ],
)
def test_what_cannot_work_is_refused_before_the_start(settings: dict[str, str], named: str, tmp_path: Path) -> None:
    ended = start("api.server", data_dir=str(tmp_path), **settings)

    assert ended.returncode == 2
    assert len(ended.stderr.splitlines()) == 1
    assert named in ended.stderr


def test_the_parent_loads_no_counters_and_no_redis() -> None:
    heavy = ("prometheus_client", "redis", "flask")
    probe = f"import sys, api.server; print([name for name in {heavy} if name in sys.modules])"

    told = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)

    assert told.stdout.strip() == "[]"


def test_an_idle_front_end_is_small(front: FrontEnd) -> None:
    family = [psutil.Process(front.process.pid), *psutil.Process(front.process.pid).children()]

    assert sum(process.memory_full_info().pss for process in family) < 120 * 2**20


def test_metrics_show_what_front_ends_counted_and_what_the_ledger_knows(
    serve: Serve, settings: Settings, ledger: Ledger, tmp_path: Path
) -> None:
    ledger.submit(a_job(), settings.limits)
    with serve() as front:
        httpx2.get(f"{front.base}/health")
        told = {"redis_url": str(settings.redis_url), "metrics_port": str(settings.metrics_port)}
        told |= {
            "port": str(front.port),
            "data_dir": str(tmp_path / "front"),
            "config": str(tmp_path / "front" / "penstock.toml"),
        }
        environment = bare_environment() | {f"PENSTOCK_{name.upper()}": value for name, value in told.items()}
        metrics = subprocess.Popen([sys.executable, "-m", "api.metrics"], env=environment)
        try:
            fetched(f"http://127.0.0.1:{settings.metrics_port}/metrics")  # it has started
            Hand(ledger).beat()
            ledger.partitions[0].redis.hincrby("{q00}:wc", "delivered", 3)
            page = fetched(f"http://127.0.0.1:{settings.metrics_port}/metrics")
            elsewhere = httpx2.get(f"http://127.0.0.1:{settings.metrics_port}/other")
        finally:
            metrics.terminate()
            status = metrics.wait(10)

    assert 'penstock_requests_total{endpoint="health.health",status="200"}' in page
    assert 'penstock_num_requests_waiting{class="interactive",model_name="m"} 1.0' in page
    assert 'penstock_workers{model_name="m",state="ready"} 1.0' in page
    assert "penstock_redis_up 1.0" in page
    assert 'penstock_kv_blocks_cached{model_name="m"} 5.0' in page
    assert 'penstock_kv_cache_usage_perc{model_name="m"} 0.25' in page
    assert 'penstock_webhook_deliveries_total{outcome="delivered"} 3.0' in page
    assert (elsewhere.status_code, status) == (404, 0)


def test_metrics_say_when_the_ledger_is_away(settings: Settings) -> None:
    from prometheus_client import CollectorRegistry, generate_latest

    from api.metrics import LedgerCollector

    away = Ledger(("redis://127.0.0.1:1/0",))
    registry: Any = CollectorRegistry()
    registry.register(LedgerCollector(settings, away))

    page = generate_latest(registry).decode()
    away.close()

    assert "penstock_redis_up 0.0" in page
    assert "penstock_workers" not in page


def fetched(url: str) -> str:
    with httpx2.Client(transport=httpx2.HTTPTransport(retries=8)) as client:
        return client.get(url).text
