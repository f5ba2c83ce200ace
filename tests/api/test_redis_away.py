"""A Redis that dies and comes back, seen from outside."""

import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import openai
import pytest
import redis

from common.ledger.ledger import Ledger
from common.settings import Settings
from ops.embedded import Embedded, Server
from tests.api.conftest import FrontEnd, serving
from tests.api.hand import Hand
from tests.api.test_streaming import ASK, next_job


class Own:
    """A server, a ledger and a front end that one test may break."""

    def __init__(self, folder: Path) -> None:
        self.embedded = Embedded(Settings(data_dir=folder))
        self.server: Server = self.embedded.start()
        self.ledger = Ledger((self.server.url,))
        self.hand = Hand(self.ledger)

    def kill(self) -> None:
        os.kill(self.server.pid or 0, signal.SIGKILL)

    def restart(self) -> None:
        self.server = self.embedded.restart()

    def close(self) -> None:
        self.ledger.close()
        self.embedded.stop()


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Own]:
    own = Own(tmp_path / "redis")
    yield own
    own.close()


@pytest.fixture
def front(own: Own, tmp_path: Path) -> Iterator[FrontEnd]:
    with serving(own.server.url, tmp_path / "front", heartbeat_s="0.5") as front:
        yield front


def test_a_stream_outlives_a_redis_that_is_killed_and_comes_back(own: Own, front: FrontEnd) -> None:
    with front.client() as client:
        stream = client.chat.completions.create(model="m", messages=ASK, stream=True)
        job = next_job(own.hand)
        own.hand.text(job, "a")
        own.kill()
        time.sleep(1)
        own.restart()
        own.hand.text(job, "b")
        own.hand.end(job, "c")

        assert "".join(chunk.choices[0].delta.content or "" for chunk in stream) == "abc"


def test_a_request_that_comes_while_redis_is_away_waits_for_it(own: Own, front: FrontEnd) -> None:
    own.kill()
    time.sleep(0.3)
    with front.client() as client, ThreadPoolExecutor(1) as aside:
        waiting = aside.submit(client.chat.completions.create, model="m", messages=ASK)
        time.sleep(0.5)
        own.restart()
        own.hand.end(next_job(own.hand), "a")

        assert waiting.result(10).choices[0].message.content == "a"


def test_a_request_is_503_with_retry_after_when_redis_stays_away(own: Own, front: FrontEnd) -> None:
    own.kill()
    began = time.monotonic()

    with front.client() as client, pytest.raises(openai.InternalServerError) as refused:
        client.chat.completions.create(model="m", messages=ASK)

    assert time.monotonic() - began < 8
    assert (refused.value.status_code, refused.value.code) == (503, "storage_unavailable")
    assert 1 <= int(refused.value.response.headers["retry-after"]) <= 120
    own.restart()


def test_nothing_is_accepted_while_redis_is_nearly_full(own: Own, front: FrontEnd) -> None:
    client: redis.Redis = redis.Redis.from_url(own.server.url)
    used = client.info("memory")["used_memory"]

    client.config_set("maxmemory", int(used * 1.1))
    time.sleep(1.2)
    with front.client() as sdk, pytest.raises(openai.InternalServerError) as refused:
        sdk.chat.completions.create(model="m", messages=ASK)
    client.config_set("maxmemory", 2**30)
    client.close()

    assert (refused.value.status_code, refused.value.code) == (503, "storage_unavailable")
