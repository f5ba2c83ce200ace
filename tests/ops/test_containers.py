"""What the compose file promises, read from it; `make compose-test` runs it."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from common.ledger.ledger import Ledger
from common.ledger.replies import WorkerInfo
from common.settings import REPOSITORY, Settings, bare_environment
from ops.cli.keys import is_whole

COMPOSE: dict[str, Any] = yaml.safe_load((REPOSITORY / "docker-compose.yml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
ENTRY = REPOSITORY / "ops" / "docker" / "entry"
MEANT_FOR_ONE_MACHINE = {"DATA_DIR", "MODELS", "LIMITS", "REDIS_MEMORY_BYTES"}


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_is_hardened_and_watched(name: str) -> None:
    service = SERVICES[name]

    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["pids_limit"] > 0
    assert service["user"].split(":")[0] not in {"0", "root"}
    assert service["healthcheck"]["test"]
    assert not {"privileged", "network_mode", "devices"} & service.keys()


def test_only_the_front_end_is_published_and_on_loopback_unless_said_otherwise() -> None:
    published = {name: service["ports"] for name, service in SERVICES.items() if "ports" in service}

    assert published == {"api": ["${PENSTOCK_HOST:-127.0.0.1}:${PENSTOCK_PORT:-5000}:5000"]}


def test_workers_and_redis_have_no_way_out() -> None:
    assert COMPOSE["networks"]["queue"] == {"internal": True}
    assert SERVICES["worker"]["networks"] == SERVICES["redis"]["networks"] == ["queue"]


def test_every_setting_passes_through() -> None:
    told = {name.removeprefix("PENSTOCK_") for one in SERVICES.values() for name in one.get("environment", ())}
    known = {name.upper() for name in Settings.model_fields}

    assert known - MEANT_FOR_ONE_MACHINE <= told
    assert {name for name in told if not name.startswith("AWS_")} <= known


def test_only_those_who_keep_files_know_the_bucket() -> None:
    knowing = {name for name, one in SERVICES.items() if "AWS_SECRET_ACCESS_KEY" in one.get("environment", ())}

    assert knowing == {"api", "chores"}


@pytest.mark.parametrize(("name", "status"), [("w1", 0), ("w2", 1)])
def test_a_worker_container_is_healthy_while_its_own_worker_serves(
    ledger: Ledger, redis_url: str, name: str, status: int
) -> None:
    ledger.beat(WorkerInfo("w1", "m", 4, 4, "ready"), {})
    engine = subprocess.Popen([sys.executable, "-c", "input()", f"--worker={name}"], stdin=subprocess.PIPE)

    asked = [sys.executable, "-m", "ops.cli.health", "worker"]
    found = subprocess.run(asked, env=bare_environment() | {"PENSTOCK_REDIS_URL": redis_url}, check=False)
    engine.communicate(b"\n")

    assert found.returncode == status


def _enter(folder: Path, *words: str, **told: str) -> str:
    """What the front end's container would say and set."""
    environment = bare_environment() | {"PENSTOCK_DATA_DIR": str(folder)} | told
    script = folder / "penstock"
    script.write_text('#!/bin/sh\necho "keys: ${PENSTOCK_API_KEYS:-}"\n')
    script.chmod(0o755)
    environment["PATH"] = f"{folder}:{Path(sys.executable).parent}:{environment['PATH']}"
    done = subprocess.run([ENTRY, *words], env=environment, cwd=REPOSITORY, capture_output=True, text=True, check=True)
    return done.stdout


def test_the_first_start_makes_a_key_and_says_it_once(tmp_path: Path) -> None:
    first = _enter(tmp_path, "penstock", "serve").splitlines()
    second = _enter(tmp_path, "penstock", "serve").splitlines()

    keys = tmp_path / "keys"
    assert first == [f"penstock key: {keys.read_text().strip()}", f"keys: {keys}"]
    assert second == [f"keys: {keys}"]
    assert is_whole(keys.read_text().strip())
    assert keys.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize(
    ("words", "told", "said"),
    [
        (("penstock", "serve"), {"PENSTOCK_API_KEYS": "mine"}, "keys: mine\n"),
        (("penstock", "serve"), {"PENSTOCK_ALLOW_ANONYMOUS": "1"}, "keys: \n"),
        (("penstock", "chores"), {}, "keys: \n"),
    ],
)
def test_no_key_is_made_where_none_is_wanted(
    tmp_path: Path, words: tuple[str, ...], told: dict[str, str], said: str
) -> None:
    assert _enter(tmp_path, *words, **told) == said
    assert not (tmp_path / "keys").exists()
