"""Who has gone, whom we sent away, and what becomes of their jobs."""

import json
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

import httpx2
import openai
import pytest

from api.feed import Feed
from api.hangup import Sweeper
from api.hub import Hub
from common.errors import StorageError
from common.jobs import Job, Reply
from common.ledger.ledger import Ledger
from common.ledger.replies import Once, Place
from common.settings import Limits
from tests.api.conftest import FrontEnd, Serve, serving
from tests.api.hand import Hand
from tests.api.test_streaming import ASK, BODY, cancelled, next_job, post, within
from tests.builders import a_job
from tests.waiting import never, until

KEY = {"Idempotency-Key": "order-7"}
STREAMED = Reply("chat", stream=True)


@pytest.fixture
def hand(ledger: Ledger) -> Hand:
    return Hand(ledger)


@pytest.fixture
def sweeper(ledger: Ledger, hub: Hub) -> Iterator[Sweeper]:
    sweeper = Sweeper(ledger, hub)
    sweeper.start()
    yield sweeper
    sweeper.close()


# who was last ---------------------------------------------------------------------------------------------------------
def asker_of(ledger: Ledger, job: Job) -> bytes | None:
    """The last of the equal requests that is still there; empty once it has gone."""
    found: bytes | None = ledger.partitions[0].redis.hget(f"{{q00}}:j:{job.id}", "asker")
    return found


def state_of(ledger: Ledger, job: Job) -> str:
    watched = ledger.read(job.owner, job.id)
    assert watched is not None
    return watched.state


@pytest.mark.parametrize("is_elsewhere", [False, True])
def test_whoever_of_two_equal_requests_goes_last_frees_the_place(
    front: FrontEnd, redis_url: str, tmp_path: Path, hand: Hand, *, is_elsewhere: bool
) -> None:
    with serving(redis_url, tmp_path / "second") as second:
        one = httpx2.stream("POST", f"{front.base}/v1/chat/completions", json=BODY, headers=KEY)
        with one as first:
            job = next_job(hand)
            base = second.base if is_elsewhere else front.base
            with httpx2.stream("POST", f"{base}/v1/chat/completions", json=BODY, headers=KEY) as joined:
                assert joined.headers["x-job-id"] == first.headers["x-job-id"] == f"job_{job.id}"
            within(5, lambda: asker_of(hand.ledger, job) == b"")
            assert not cancelled(hand, job.id)

        within(5, lambda: cancelled(hand, job.id))


def test_who_leaves_after_another_has_a_grace_of_its_own(
    ledger: Ledger, hub: Hub, sweeper: Sweeper, opened: Callable[[Job], Feed]
) -> None:
    first = opened(a_job(reply=STREAMED, grace_s=60.0))
    second = Feed(hub, ledger, replace(first.job, grace_s=0.0))
    second.asker = "b" * 34
    second.open()
    ledger.partitions[0].redis.hset(f"{{q00}}:j:{first.job.id}", "asker", second.asker)

    sweeper.lost(first)
    sweeper.lost(second)
    until(lambda: asker_of(ledger, first.job) == b"")

    assert state_of(ledger, first.job) == "queued"
    second.close()


# whom a drain sends away ----------------------------------------------------------------------------------------------
def test_a_drain_cancels_no_stream(serve: Serve, hand: Hand) -> None:
    with serve(drain_s="0.2") as front, closing(post(front, BODY)) as asking:
        job = next_job(hand)
        with half_asked(front):  # which keeps the process for longer than a grace
            front.process.terminate()
            told = b""
            while b"server_draining" not in told:
                more = asking.recv(65536)
                assert more, told
                told += more
            assert never(lambda: cancelled(hand, job.id), for_s=1.5)
            assert front.process.poll() is None
    assert hand.text(job, "a").cancelled == ()


def test_a_drain_cancels_no_whole_answer(serve: Serve, hand: Hand, ledger: Ledger) -> None:
    with serve(drain_s="0.2") as front, front.client() as client, ThreadPoolExecutor(1) as pool:
        answer = pool.submit(client.chat.completions.create, model="m", messages=ASK)
        job = next_job(hand)
        with half_asked(front):
            front.process.terminate()
            assert isinstance(answer.exception(10), openai.InternalServerError)
            assert never(lambda: cancelled(hand, job.id), for_s=1.5)
            assert front.process.poll() is None
    ledger.sweep()
    assert hand.text(job, "a").cancelled == ()
    ledger.sweep(unwatched_s=0.0)  # nobody came back for it
    assert hand.text(job, "b").cancelled == (job.id,)


def test_an_sdk_that_a_drain_sent_away_finds_its_answer_elsewhere(front: FrontEnd, serve: Serve, hand: Hand) -> None:
    body, kind = json.dumps(BODY | {"stream": False}), {"Content-Type": "application/json"}

    def ask(base: str, count: int) -> httpx2.Response:
        headers = kind | {"x-stainless-retry-count": str(count)}
        return httpx2.post(f"{base}/v1/chat/completions", content=body, headers=headers, timeout=20)

    with serve(drain_s="0.2") as going, ThreadPoolExecutor(1) as pool:
        sent_away = pool.submit(ask, going.base, 0)
        job = next_job(hand)
        going.process.terminate()
        refused = sent_away.result(10)
        again = pool.submit(ask, front.base, 1)
        within(5, lambda: asker_of(hand.ledger, job))
        hand.end(job, "kept")
        answer = again.result(10)

    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "server_draining")
    assert answer.headers["x-job-id"] == f"job_{job.id}"
    assert answer.json()["choices"][0]["message"]["content"] == "kept"


def test_a_job_whose_reader_a_drain_sent_away_is_not_cancelled_for_another_that_had_left(
    ledger: Ledger, hub: Hub, opened: Callable[[Job], Feed]
) -> None:
    first, other = opened(a_job(reply=STREAMED, grace_s=0.0)), opened(a_job(grace_s=0.0))
    reader = Feed(hub, ledger, first.job)
    reader.open()
    sweeper = Sweeper(ledger, hub)
    for feed in (first, other):
        sweeper.lost(feed)

    reader.drain()
    sweeper.forget(reader)
    reader.close()
    sweeper.start()

    until(lambda: state_of(ledger, other.job) == "cancelled")
    sweeper.close()
    assert state_of(ledger, first.job) == "queued"


@contextmanager
def half_asked(front: FrontEnd) -> Iterator[None]:
    """Somebody whose body is still to come."""
    with socket.create_connection(("127.0.0.1", front.port), timeout=10) as connection:
        head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
        connection.sendall(head + b"Content-Length: 100\r\nExpect: 100-continue\r\n\r\n")
        assert connection.recv(4096).startswith(b"HTTP/1.1 100")  # it is being read
        yield


# feeds whose job is not what it was -----------------------------------------------------------------------------------
def test_a_reader_that_counted_with_the_end_is_told_it_again(
    ledger: Ledger, hub: Hub, opened: Callable[[Job], Feed]
) -> None:
    hand = Hand(ledger)
    job = opened(a_job(reply=STREAMED)).job
    late = Feed(hub, ledger, job, after=3)
    late.is_shown = True
    late.open()
    hand.claim()
    hand.text(job, "a")
    assert not late.read(0.05)  # it is ahead of the log
    hand.end(job)

    said: list[int] = []
    with ThreadPoolExecutor(1) as pool:

        def read() -> None:
            while not late.is_over:
                said.extend(entry.seq for entry in late.read(20))

        pool.submit(read).result(10)

    assert said == [3]
    late.close()


def test_an_answer_whose_key_stands_for_another_job_now_is_to_be_asked_for_again(ledger: Ledger, hub: Hub) -> None:
    once = Once("a" * 32, "b" * 64)

    def submit(job: Job) -> Place:
        return ledger.submit(job, Limits(), hub.front_end, once)

    feed = Feed(hub, ledger, a_job(), submit=submit)
    feed.open()
    ledger.partitions[0].redis.flushall()
    submit(a_job())
    feed.renew()

    with pytest.raises(StorageError):
        feed.read(1)
    feed.close()
