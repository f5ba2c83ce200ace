import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx2
import pytest
import redis
from openai import AsyncOpenAI, OpenAI

from api.feed import Feed
from api.hub import Hub
from common.jobs import Job
from common.ledger.ledger import Ledger
from common.ledger.replies import Place
from common.settings import Limits, bare_environment
from ops.embedded import free_port
from tests.waiting import until

TOML = (
    '[[models]]\nname = "m"\npath = "nowhere"\n[[models]]\nname = "org/other"\npath = "nowhere"\naliases = ["alias"]\n'
)


@dataclass(frozen=True)
class FrontEnd:
    """A running front end."""

    process: subprocess.Popen[bytes]
    port: int
    folder: Path

    @property
    def base(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def client(self, **changes: object) -> OpenAI:
        return OpenAI(base_url=f"{self.base}/v1", api_key="EMPTY", max_retries=0, timeout=20, **changes)  # type: ignore[arg-type]

    def async_client(self) -> AsyncOpenAI:
        return AsyncOpenAI(base_url=f"{self.base}/v1", api_key="EMPTY", max_retries=0, timeout=20)

    def wait_alive(self) -> None:
        transport = httpx2.HTTPTransport(retries=8)  # waits longer each time
        with httpx2.Client(transport=transport) as client:
            client.get(f"{self.base}/health").raise_for_status()


Serve = Callable[..., AbstractContextManager[FrontEnd]]


@contextmanager
def serving(redis_url: str, folder: Path, first: str = ":", **settings: str) -> Iterator[FrontEnd]:
    """A front end of its own, behind a line of shell; ``settings`` are PENSTOCK_* names without the prefix."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "penstock.toml").write_text(TOML)
    port = int(settings.get("port", free_port()))
    told = {"redis_url": redis_url, "data_dir": str(folder), "config": str(folder / "penstock.toml"), "port": str(port)}
    environment = {f"PENSTOCK_{name.upper()}": value for name, value in (told | settings).items()}
    command = ["sh", "-c", f'{first}; exec "$@"', "sh", sys.executable, "-m", "tests.api.served"]
    process = subprocess.Popen(command, env=bare_environment() | environment)
    try:
        front = FrontEnd(process, port, folder)
        front.wait_alive()
        yield front
    finally:
        process.send_signal(signal.SIGINT)  # without a drain
        process.wait(30)


@pytest.fixture(scope="session")
def shared_front(server_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[FrontEnd]:
    """One front end for all tests that do not break it."""
    with serving(server_url, tmp_path_factory.mktemp("front"), heartbeat_s="0.6", drain_s="1") as front:
        yield front


@pytest.fixture
def front(shared_front: FrontEnd, redis_url: str) -> Iterator[FrontEnd]:
    """It; what a test left open would be submitted again in the next one, where the server has forgotten it."""
    yield shared_front
    with redis.Redis.from_url(redis_url) as client:
        until(lambda: not client.keys("{q00}:fw:*"))


@pytest.fixture
def serve(redis_url: str, tmp_path: Path) -> Serve:
    def serve(**settings: str) -> AbstractContextManager[FrontEnd]:
        return serving(redis_url, tmp_path / "front", **settings)

    return serve


@pytest.fixture
def hub(ledger: Ledger) -> Iterator[Hub]:
    hub = Hub(ledger)
    hub.start()
    hub.wait_heard(0, 5)
    yield hub
    hub.close()


@pytest.fixture
def opened(hub: Hub, ledger: Ledger) -> Iterator[Callable[[Job], Feed]]:
    feeds: list[Feed] = []

    def opened(job: Job) -> Feed:
        feeds.append(Feed(hub, ledger, job, submit=submitter(ledger, hub)))
        feeds[-1].is_shown = job.reply.stream
        feeds[-1].open()
        return feeds[-1]

    yield opened
    for feed in feeds:
        feed.close()


def submitter(ledger: Ledger, hub: Hub) -> Callable[[Job], Place]:
    return lambda job: ledger.submit(job, Limits(), hub.front_end)
