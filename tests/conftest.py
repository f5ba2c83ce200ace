import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import redis
import structlog

from common.ledger.ledger import Ledger
from common.settings import Settings
from ops.embedded import Embedded, free_port

_KEPT = ("tqdm", "masks")  # threads for the life of the process


@pytest.fixture(autouse=True, scope="session")
def _no_settings_of_this_shell() -> None:
    for name in [name for name in os.environ if name.startswith("PENSTOCK_")]:  # noqa: TID251  to clear it
        del os.environ[name]  # noqa: TID251


@pytest.fixture(autouse=True)
def _plain_tracebacks() -> None:
    """As the house logs them: to print each frame's variables, tensors among them, takes seconds."""
    if not structlog.is_configured():
        render = structlog.dev.ConsoleRenderer(colors=False, exception_formatter=structlog.dev.plain_traceback)
        structlog.configure(processors=[structlog.processors.add_log_level, render])


@pytest.fixture(scope="session")
def server_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The real server, once for all tests of a process."""
    embedded = Embedded(Settings(data_dir=tmp_path_factory.mktemp("server")))
    yield embedded.start().url
    embedded.stop()


@pytest.fixture
def redis_url(server_url: str) -> Iterator[str]:
    """An empty server; fails a test that leaves an ended job without an end of its own."""
    client: Any = redis.Redis.from_url(server_url)
    client.flushall()
    yield server_url
    endless = [key for kind in "jtb" for key in client.scan_iter(f"{{q*}}:{kind}:*") if _is_endless(client, key)]
    client.close()
    assert endless == []


@pytest.fixture
def raw(redis_url: str) -> Iterator[Any]:
    """Redis itself, behind the ledger's back."""
    with redis.Redis.from_url(redis_url, decode_responses=True) as client:
        yield client


@pytest.fixture
def ledger(redis_url: str) -> Iterator[Ledger]:
    """The ledger of one partition."""
    ledger = Ledger((redis_url,))
    yield ledger
    ledger.close()


@pytest.fixture
def settings(redis_url: str, tmp_path: Path) -> Settings:
    """Settings of a house on the test's own ports and folder."""
    return Settings(
        redis_url=redis_url, data_dir=tmp_path / "data", port=free_port(), metrics_port=free_port(), heartbeat_s=1
    )


@pytest.fixture(autouse=True)
def _leaves_nothing_behind() -> Iterator[None]:
    """Fails a test that leaves a thread or a child process; a library's threads get a moment to end."""
    threads = set(threading.enumerate())
    children = set(psutil.Process().children(recursive=True))
    yield
    new = [thread for thread in set(threading.enumerate()) - threads if not thread.name.startswith(_KEPT)]
    for thread in new:
        thread.join(2)
    left_threads = [thread.name for thread in new if thread.is_alive()]
    left = [child for child in set(psutil.Process().children(recursive=True)) - children if _lives(child)]
    assert (left_threads, left) == ([], [])


def _lives(child: psutil.Process) -> bool:
    """And is no fork of a server of ours, which writes its memory down and ends."""
    try:
        parent = child.parent()
        is_fork = parent is not None and "-server" in child.name() and parent.name() == child.name()
        return bool(child.status() != psutil.STATUS_ZOMBIE) and not is_fork
    except psutil.NoSuchProcess:
        return False


def _is_endless(client: Any, key: bytes) -> bool:
    """A job's key that will never expire although the job has ended."""
    partition, _, rest = key.partition(b":")
    state = client.hget(b":j:".join((partition, rest.split(b":")[1])), "state")
    return state not in {b"queued", b"running"} and client.ttl(key) == -1
