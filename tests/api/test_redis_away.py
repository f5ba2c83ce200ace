"""A Redis that dies and comes back, seen from outside."""

import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2
import openai
import pytest
import redis

from common.ledger.ledger import Ledger
from common.settings import Settings
from ops.embedded import Embedded, Server
from tests.api.conftest import FrontEnd, serving
from tests.api.hand import Hand
from tests.api.test_answers import card
from tests.api.test_jobs import blocks
from tests.api.test_streaming import ASK, next_job
from tests.waiting import until


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


def test_nothing_is_accepted_while_redis_is_nearly_full_and_what_was_is_read(own: Own, tmp_path: Path) -> None:
    with (
        serving(own.server.url, tmp_path / "front", limits__memory_fraction="0.2") as front,
        front.client() as sdk,
        redis.Redis.from_url(own.server.url) as client,
    ):
        kept = {"on_disconnect": "finish"}
        sdk.chat.completions.create(model="m", messages=ASK, stream=True, extra_body=kept).close()
        job = next_job(own.hand)
        own.hand.text(job, "a")
        client.config_set("maxmemory", 2 * client.info("memory")["used_memory"])
        until(lambda: _is_refused(sdk))

        with httpx2.stream("GET", f"{front.base}/v1/jobs/job_{job.id}/events", timeout=20) as again:
            own.hand.end(job, "b")
            heard = again.read().decode()
        client.config_set("maxmemory", 1)
        at_last = httpx2.get(f"{front.base}/v1/jobs/job_{job.id}/events", timeout=20).text
        client.config_set("maxmemory", 2**30)

    assert blocks(heard) == blocks(at_last)
    assert blocks(heard)[-1] == "data: [DONE]"


def test_a_front_end_that_cannot_hear_is_not_ready(own: Own, front: FrontEnd) -> None:
    hands = [Hand(own.ledger, name, name) for name in ("m", "org/other")]
    for hand in hands:
        own.ledger.put_card(card(hand.name), b"")

    def status() -> int:
        for hand in hands:
            hand.beat()
        return httpx2.get(f"{front.base}/ready", timeout=20).status_code

    before = status()
    with redis.Redis.from_url(own.server.url) as client:
        client.execute_command("ACL", "SETUSER", "default", "-subscribe")
        client.client_kill_filter(_type="pubsub")
        until(lambda: status() == 503)
        client.execute_command("ACL", "SETUSER", "default", "+subscribe")
    until(lambda: status() == 200)

    assert before == 200


def _is_refused(sdk: openai.OpenAI) -> bool:
    """Whether a request is refused for want of room."""
    try:
        sdk.chat.completions.create(model="m", messages=ASK, stream=True).close()
    except openai.InternalServerError as refused:
        return (refused.status_code, refused.code) == (503, "storage_unavailable")
    return False
