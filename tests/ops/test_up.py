import os
import select
import signal
import socket
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import redis
from argon2 import PasswordHasher
from openai import AuthenticationError

from common.settings import Model, Settings, bare_environment
from ops.bench.stack import Stack
from ops.cli.preflight import Refusal
from ops.cli.probe import a_key
from ops.cli.up import run
from ops.embedded import Embedded, free_port

COUNTING = '[[models]]\nname = "counting"\npath = "counting:?step_ms=1&answer=5"\n'

GONE = ("/none", "./none", "none/of/these", "gpt2", "~/none")

Penstock = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def penstock(tmp_path: Path) -> Penstock:
    """The command line, on free ports; a setting of None is left out."""
    config = tmp_path / "penstock.toml"
    config.write_text(COUNTING)

    def penstock(*words: str, **settings: str | None) -> "subprocess.CompletedProcess[str]":
        told: dict[str, str | None] = {"port": str(free_port()), "metrics_port": str(free_port())}
        told |= {"data_dir": str(tmp_path / "data"), "config": str(config)} | settings
        environment = {f"PENSTOCK_{name.upper()}": value for name, value in told.items() if value is not None}
        return subprocess.run(
            [sys.executable, "-m", "ops.cli.main", *words],
            env=bare_environment() | environment,
            capture_output=True,
            text=True,
            check=False,
        )

    return penstock


@pytest.fixture
def own(tmp_path: Path) -> Settings:
    """Settings of a house that could stand: its own ports and folder, a model without weights."""
    model = Model(name="counting", path="counting:")
    return Settings(data_dir=tmp_path / "data", port=free_port(), metrics_port=free_port(), models=(model,))


def _refusal(done: "subprocess.CompletedProcess[str]") -> tuple[int, str]:
    """Its status and its one line."""
    assert done.stderr.count("\n") == 1, done.stderr
    assert done.stdout == ""
    return done.returncode, done.stderr


@pytest.mark.parametrize(
    ("settings", "status", "part"),
    [
        ({"portt": "1"}, 2, "Unknown setting PENSTOCK_PORTT: did you mean PENSTOCK_PORT?"),
        ({"port": "many"}, 2, "Bad setting port"),
        ({"redis_url": "redis://:secret@127.0.0.1:1"}, 3, "The Redis at redis://127.0.0.1:1 does not answer."),
    ],
)
def test_a_refusal_is_one_line_and_a_status(
    penstock: Penstock, settings: dict[str, str], status: int, part: str
) -> None:
    code, line = _refusal(penstock("up", **settings))

    assert code == status
    assert line.startswith("penstock: ")
    assert part in line
    assert "secret" not in line


@pytest.mark.parametrize(
    ("changes", "status", "part"),
    [
        ({"host": "0.0.0.0"}, 2, "0.0.0.0 is not loopback"),
        ({"api_keys": "/none.keys"}, 2, "/none.keys cannot be read"),
        ({"auth_access": "closed"}, 2, "needs PENSTOCK_USERS_FILE"),
        ({"host": "192.0.2.1", "api_keys": "k"}, 2, "cannot be used"),
        ({"port": 7001, "metrics_port": 7001}, 2, "both 7001"),
        ({"redis_url": "nonsense"}, 3, "no address of a Redis"),
        ({"ledger_urls": ("redis://127.0.0.1:1",)}, 3, "does not answer"),
        ({"data_dir": Path("/proc/none")}, 2, "The data folder /proc/none cannot be used"),
        *(({"models": (Model(name="gone", path=path),)}, 2, "The model gone: .* is neither a folder") for path in GONE),
    ],
)
def test_what_cannot_work_is_refused_before_anything_starts(
    own: Settings, changes: dict[str, Any], status: int, part: str
) -> None:
    with pytest.raises(Refusal, match=part) as refusal:
        run(own.model_copy(update=changes))

    assert refusal.value.status == status
    assert not (own.data_dir / "redis" / "server.pid").exists()


@pytest.mark.parametrize("name", ["port", "metrics_port"])
def test_a_taken_port_is_named(own: Settings, name: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]

        with pytest.raises(Refusal, match=f"127.0.0.1:{port} is taken; choose another with PENSTOCK_{name.upper()}"):
            run(own.model_copy(update={name: port}))


def test_a_second_penstock_with_the_same_folder_is_refused(own: Settings) -> None:
    first = Embedded(own)
    first.lock()

    with pytest.raises(Refusal, match="Another penstock runs with the data folder"):
        run(own)

    first.unlock()


@pytest.mark.parametrize("command", ["serve", "worker", "chores"])
def test_a_part_alone_needs_a_redis(penstock: Penstock, command: str) -> None:
    status, line = _refusal(penstock(command))

    assert status == 2
    assert "PENSTOCK_REDIS_URL is not set" in line


def test_a_worker_of_an_unknown_model_is_told_which_are_known(penstock: Penstock, redis_url: str) -> None:
    status, line = _refusal(penstock("worker", "--model", "none", redis_url=redis_url))

    assert (status, line) == (2, "penstock: No model is called none; configured are counting.\n")


def test_a_wrong_option_is_a_wrong_usage(penstock: Penstock) -> None:
    assert penstock("up", "--port", "many").returncode == 2


def test_the_version_is_printed(penstock: Penstock) -> None:
    assert penstock("version").stdout.startswith("0.")


def test_the_doctor_names_what_is_missing_and_no_secret(penstock: Penstock) -> None:
    done = penstock("doctor", redis_url="redis://:hush@127.0.0.1:1", api_keys="hush")

    assert done.returncode == 3
    assert "bad: redis: The Redis at redis://127.0.0.1:1 does not answer." in done.stdout
    assert "ok: model counting" in done.stdout
    assert "hush" not in done.stdout


def test_the_doctor_finds_a_house_that_can_stand(penstock: Penstock) -> None:
    done = penstock("doctor")

    assert done.returncode == 0
    assert "would be started" in done.stdout


def test_a_key_is_found_in_a_list_and_in_a_file(tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text("# ours\n\nfirst\nsecond\n")

    assert [a_key(told) for told in ("", "one, two", str(keys), "x" * 5000)] == [None, "one", "first", "x" * 5000]


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[Callable[..., Stack]]:
    running: list[Stack] = []

    def stack(**settings: str) -> Stack:
        tmp_path.joinpath("up").mkdir(exist_ok=True)
        running.append(Stack(tmp_path / "up", COUNTING, **settings))
        return running[-1].wait_ready()

    yield stack
    for one in running:
        one.stop()


def test_ready_means_that_the_printed_snippet_works(stack: Callable[..., Stack]) -> None:
    house = stack(api_keys="secret-key", host="0.0.0.0")

    lines = "\n".join(house.lines)
    snippet = textwrap.dedent("\n".join(line for line in house.lines if line.startswith("    ")))
    told = subprocess.run(
        [sys.executable, "-c", snippet.replace("one of PENSTOCK_API_KEYS", "secret-key")],
        capture_output=True,
        text=True,
        check=True,
    )
    assert told.stdout.strip()
    assert "redis: " in lines
    assert "(started) at redis://127.0.0.1:" in lines
    assert 'model="counting"' in lines
    assert "secret-key" not in lines


def test_ready_means_the_same_where_only_users_come_in(stack: Callable[..., Stack], tmp_path: Path) -> None:
    users = tmp_path / "users"
    users.write_text(f"ann:{PasswordHasher(time_cost=1, memory_cost=8, parallelism=1).hash('secret')}\n")

    house = stack(auth_access="closed", users_file=str(users))

    with redis.Redis.from_url(house.redis_url) as client:
        assert client.hget("{q00}:st:counting", "jobs") == b"1"
    assert house.client().completions.create(model="counting", prompt="Go.", user="ann:secret").choices[0].text
    with pytest.raises(AuthenticationError):
        house.client().completions.create(model="counting", prompt="Go.")


def test_one_ctrl_c_leaves_no_process(stack: Callable[..., Stack]) -> None:
    house = stack()
    family = psutil.Process(house.process.pid).children(recursive=True)
    assert {"api.server", "api.metrics", "worker.main", "worker.boot"} <= {w for p in family for w in p.cmdline()}

    status = house.stop()

    assert status == 0
    assert psutil.wait_procs(family, timeout=1)[1] == []


def test_after_a_kill_only_the_server_lives_and_is_adopted(stack: Callable[..., Stack]) -> None:
    first = stack()
    family = psutil.Process(first.process.pid).children(recursive=True)
    (server,) = (process for process in family if "server.conf" in " ".join(process.cmdline()))
    first.process.kill()
    first.process.wait()

    _, alive = psutil.wait_procs([process for process in family if process != server], timeout=10)
    again = stack()

    assert alive == []
    assert any("(adopted)" in line for line in again.lines)
    assert server.is_running()


def test_every_part_that_is_killed_comes_back(stack: Callable[..., Stack]) -> None:
    house = stack()
    descriptors = [os.pidfd_open(house.processes(part)[0].pid) for part in ("api.server", "worker.main", "server.conf")]
    for descriptor in descriptors:
        signal.pidfd_send_signal(descriptor, signal.SIGKILL)
    assert all(select.select([descriptor], [], [], 5)[0] for descriptor in descriptors)

    answer = house.client().with_options(max_retries=20).completions.create(model="counting", prompt="Go.")

    assert answer.choices[0].text
    for descriptor in descriptors:
        os.close(descriptor)
