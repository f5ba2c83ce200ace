import asyncio
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from http.client import HTTPConnection
from typing import Any

import httpx2
import openai
import pytest
from openai.types.chat import ChatCompletionMessageParam

from common.errors import InternalError
from common.jobs import Failed
from common.ledger.ledger import Ledger
from tests.api.conftest import FrontEnd, Serve
from tests.api.hand import Hand

ASK: list[ChatCompletionMessageParam] = [{"role": "user", "content": "Hi"}]
BODY = {"model": "m", "messages": ASK, "stream": True}


@pytest.fixture
def hand(ledger: Ledger) -> Hand:
    return Hand(ledger)


@pytest.fixture
def aside() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1) as pool:
        yield pool


def within(seconds: float, happens: Callable[[], Any]) -> Any:
    """What it gives, as soon as that is something."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found = happens()
        if found:
            return found
        time.sleep(0.01)
    raise AssertionError(f"not within {seconds} s")


def next_job(hand: Hand) -> Any:
    def claim() -> Any:
        try:
            return hand.claim()
        except AssertionError:
            return None

    return within(5, claim)


def test_the_sdk_streams_what_the_worker_says(front: FrontEnd, hand: Hand) -> None:
    with front.client() as client:
        stream = client.chat.completions.create(
            model="m", messages=ASK, stream=True, stream_options={"include_usage": True}
        )
        hand.end(hand.claim(), "Hel", "lo")
        chunks = list(stream)

    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == "Hello"
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-2].choices[0].finish_reason == "stop"
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.total_tokens == 5
    assert len({(chunk.id, chunk.created, chunk.model) for chunk in chunks}) == 1


def test_the_async_sdk_streams_and_waits_alike(front: FrontEnd, hand: Hand) -> None:
    async def ask() -> tuple[str, str | None]:
        async with front.async_client() as client:
            stream = await client.chat.completions.create(model="m", messages=ASK, stream=True)
            hand.end(hand.claim(), "a", "b")
            streamed = "".join([chunk.choices[0].delta.content or "" async for chunk in stream])
            waiting = asyncio.create_task(client.chat.completions.create(model="m", messages=ASK))
            job = await asyncio.to_thread(next_job, hand)
            hand.end(job, "a", "b")
            return streamed, (await waiting).choices[0].message.content

    assert asyncio.run(ask()) == ("ab", "ab")


def test_an_answer_in_one_piece_is_the_same_text(front: FrontEnd, hand: Hand, aside: ThreadPoolExecutor) -> None:
    with front.client() as client:
        waiting = aside.submit(client.chat.completions.create, model="m", messages=ASK)
        job = next_job(hand)
        hand.text(job, "Hel")
        hand.end(job, "lo")
        answer = waiting.result(10)

    assert answer.choices[0].message.content == "Hello"
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 2
    assert answer.id == f"chatcmpl-{job.id}"
    assert answer.model_extra == {"x_seed": 7}


def test_text_completions_stream_and_wait(front: FrontEnd, hand: Hand, aside: ThreadPoolExecutor) -> None:
    with front.client() as client:
        stream = client.completions.create(model="m", prompt="Once", stream=True)
        hand.end(hand.claim(), " upon", " a")
        streamed = "".join(piece.choices[0].text for piece in stream)
        waiting = aside.submit(client.completions.create, model="m", prompt="Once")
        hand.end(next_job(hand), " upon", " a")

        assert streamed == waiting.result(10).choices[0].text == " upon a"


def test_a_stream_looks_on_the_wire_as_the_sdks_need_it(front: FrontEnd, hand: Hand) -> None:
    with httpx2.stream("POST", f"{front.base}/v1/chat/completions", json=BODY) as response:
        headers = response.headers
        lines = response.iter_raw()
        first = next(lines)
        job = hand.claim()
        time.sleep(0.7)  # one heartbeat between
        hand.text(job, "a")
        time.sleep(0.7)
        hand.end(job, "b")
        raw = first + b"".join(lines)

    blocks = raw.decode().split("\n\n")
    assert first == b": queue position=1\n"
    assert raw.count(b": keep-alive\n") >= 2
    assert b"\n: keep-alive\n\n" not in raw
    assert all("data: " in block for block in blocks[:-1])
    assert [line for line in raw.decode().splitlines() if line.startswith("id:")] == ["id: 1", "id: 2", "id: 3"]
    assert blocks[-2:] == ["data: [DONE]", ""]
    assert headers["content-type"] == "text/event-stream; charset=utf-8"
    assert headers["cache-control"] == "no-cache, no-transform"
    assert headers["x-accel-buffering"] == "no"
    assert headers["x-job-id"] == f"job_{job.id}"
    assert headers["x-request-id"].startswith("req_")


def test_who_waits_hears_when_the_place_changes(front: FrontEnd, hand: Hand) -> None:
    with front.client() as client:
        ahead = client.chat.completions.create(model="m", messages=ASK, stream=True)
        with httpx2.stream("POST", f"{front.base}/v1/chat/completions", json=BODY) as response:
            lines = response.iter_lines()
            first = next(lines)
            hand.end(hand.claim())
            second = next(lines)
            hand.end(hand.claim())
            rest = list(lines)
        list(ahead)

    assert (first, second) == (": queue position=2", ": queue position=1")
    assert rest[-2:] == ["data: [DONE]", ""]


def test_comment_lines_between_numbered_blocks_do_not_disturb_the_sdk(front: FrontEnd, hand: Hand) -> None:
    with front.client() as client:
        stream = client.chat.completions.create(model="m", messages=ASK, stream=True)
        job = hand.claim()
        hand.text(job, "a")
        time.sleep(0.8)
        hand.text(job, "b")
        time.sleep(0.8)
        hand.end(job, "c")

        assert "".join(chunk.choices[0].delta.content or "" for chunk in stream) == "abc"


def test_a_failure_in_mid_stream_is_an_api_error_for_the_sdk(front: FrontEnd, hand: Hand) -> None:
    with front.client() as client:
        stream = client.chat.completions.create(model="m", messages=ASK, stream=True)
        job = hand.claim()
        hand.text(job, "a")
        hand.say(job, Failed.of(InternalError("The engine broke.", code="poison")))
        with pytest.raises(openai.APIError) as failed:
            list(stream)

    assert (failed.value.message, failed.value.code) == ("The engine broke.", "poison")


def test_a_failed_stream_has_no_done(front: FrontEnd, hand: Hand) -> None:
    with httpx2.stream("POST", f"{front.base}/v1/chat/completions", json=BODY) as response:
        hand.say(hand.claim(), Failed.of(InternalError("It broke.")))
        lines = [line for line in response.iter_lines() if line and not line.startswith(":")]

    assert json.loads(lines[0].removeprefix("data: "))["error"]["message"] == "It broke."
    assert len(lines) == 1


def test_a_failure_of_an_answer_in_one_piece_has_its_status(
    front: FrontEnd, hand: Hand, aside: ThreadPoolExecutor
) -> None:
    with front.client() as client:
        waiting = aside.submit(client.chat.completions.create, model="m", messages=ASK)
        hand.say(next_job(hand), Failed.of(InternalError("It broke.")))
        with pytest.raises(openai.InternalServerError) as failed:
            waiting.result(10)

    assert failed.value.response.headers["x-should-retry"] == "false"


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_hangs_up_frees_its_place(front: FrontEnd, hand: Hand, stream: bool) -> None:  # noqa: FBT001
    connection = post(front, BODY | {"stream": stream})
    job = next_job(hand)
    hand.text(job, "a")
    began = time.monotonic()

    connection.close()
    within(5, lambda: cancelled(hand, job.id))

    assert 0.4 < time.monotonic() - began < 1.5


def test_a_client_that_hangs_up_while_it_waits_leaves_the_queue(front: FrontEnd, hand: Hand, ledger: Ledger) -> None:
    connection = post(front, BODY)
    within(5, lambda: ledger.waiting("m")["interactive"] == 1)

    connection.close()

    within(5, lambda: ledger.waiting("m")["interactive"] == 0)
    assert hand.ledger.claim("w1", "m", ("interactive",)) is None


def test_a_job_that_wants_to_finish_goes_on_without_its_client(front: FrontEnd, hand: Hand, ledger: Ledger) -> None:
    connection = post(front, BODY | {"on_disconnect": "finish"})
    job = next_job(hand)
    hand.text(job, "a")

    connection.close()
    time.sleep(1)
    reply = hand.end(job, "b")

    assert (reply.fenced, reply.cancelled) == ((), ())
    watched = ledger.read(job.owner, job.id)
    assert watched is not None
    assert watched.state == "done"


def test_a_stream_that_ended_by_itself_is_no_hang_up(front: FrontEnd, hand: Hand, ledger: Ledger) -> None:
    connection = post(front, BODY)
    job = next_job(hand)
    hand.end(job, "a")
    while b"[DONE]" not in connection.recv(65536):
        pass

    connection.close()
    time.sleep(0.8)

    watched = ledger.read(job.owner, job.id)
    assert watched is not None
    assert watched.state == "done"


def test_a_slow_reader_gets_everything_and_costs_little(front: FrontEnd, hand: Hand) -> None:
    connection = post(front, BODY)
    job = next_job(hand)
    piece = "x" * 1000

    for _ in range(40):
        hand.text(job, *[piece] * 50)
    hand.end(job)
    raw = b""
    while b"[DONE]" not in raw[-100:]:
        raw += connection.recv(2**20)

    connection.close()
    assert raw.count(b"\nid: ") + raw.count(b"\n\nid: ") >= 2000
    assert [f"id: {number}\n".encode() in raw for number in (1, 1000, 2001)] == [True] * 3
    assert raw.count(b'"content":"x') == 2000


def test_sixty_four_streams_at_once_are_all_exact(front: FrontEnd, hand: Hand) -> None:
    async def ask(client: openai.AsyncOpenAI) -> str:
        stream = await client.chat.completions.create(model="m", messages=ASK, stream=True)
        return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

    async def all_of_them() -> list[str]:
        async with front.async_client() as client:
            return await asyncio.gather(*(ask(client) for _ in range(64)))

    def work() -> None:
        jobs = [next_job(hand) for _ in range(64)]
        for _ in range(10):
            for job in jobs:
                hand.text(job, "ab")
        for job in jobs:
            hand.end(job, "!")

    worker = threading.Thread(target=work)
    worker.start()
    texts = asyncio.run(all_of_them())
    worker.join()

    assert texts == ["ab" * 10 + "!"] * 64


def test_a_drain_ends_idle_connections_at_once_and_streams_with_an_error(serve: Serve, hand: Hand) -> None:
    with serve(drain_s="1") as front, front.client() as client:
        client.with_options(max_retries=0).get("/models", cast_to=object)  # an idle connection is left
        stream = client.chat.completions.create(model="m", messages=ASK, stream=True)
        job = next_job(hand)
        hand.text(job, "a")

        front.process.terminate()
        with pytest.raises(openai.APIError) as drained:
            list(stream)

        assert drained.value.code == "server_draining"
        assert front.process.wait(6) == 0


def test_a_drain_tells_who_waits_for_a_whole_answer(serve: Serve, hand: Hand) -> None:
    with serve(drain_s="0.5") as front, front.client() as client, ThreadPoolExecutor(1) as pool:
        answer = pool.submit(client.chat.completions.create, model="m", messages=ASK)
        hand.text(next_job(hand), "a")

        front.process.terminate()
        drained = answer.exception(10)

        assert isinstance(drained, openai.InternalServerError)
        assert (drained.status_code, drained.code) == (503, "server_draining")
        assert front.process.wait(6) == 0


def test_who_is_at_the_door_when_a_drain_begins_is_refused(serve: Serve, ledger: Ledger) -> None:
    with serve(drain_s="0.2") as front, closing(HTTPConnection("127.0.0.1", front.port, timeout=10)) as asking:
        body = json.dumps(BODY | {"user": "slow"})
        asking.request("POST", "/v1/chat/completions", body, {"Content-Type": "application/json"})
        with front.client() as client:
            client.get("/models", cast_to=object)  # what came before it was read before it

        front.process.terminate()
        answer = asking.getresponse()

        assert (answer.status, json.load(answer)["error"]["code"]) == (503, "server_draining")
        assert ledger.waiting("m")["interactive"] == 0


def test_a_drain_without_streams_is_quick(serve: Serve) -> None:
    with serve(drain_s="20") as front, front.client() as client:
        client.get("/models", cast_to=object)
        began = time.monotonic()

        front.process.terminate()
        front.process.wait(10)

        assert time.monotonic() - began < 5


def cancelled(hand: Hand, job_id: str) -> bool:
    from common.ledger.replies import WorkerInfo

    reply = hand.ledger.beat(WorkerInfo(hand.name, hand.model, 32, 32, "ready"), {})
    return job_id in reply.cancelled


def post(front: FrontEnd, body: Any) -> socket.socket:
    """A request on a bare socket; the answer is not read."""
    raw = json.dumps(body).encode()
    connection = socket.create_connection(("127.0.0.1", front.port), timeout=10)
    head = (
        "POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(raw)}\r\n\r\n"
    )
    connection.sendall(head.encode() + raw)
    return connection
