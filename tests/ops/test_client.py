"""A job's stream as our own commands read it: cut, refused for a while, started again elsewhere."""

import json
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from common.identity import Principal
from common.ledger.ledger import Ledger
from common.settings import Limits, Settings
from ops.cli.client import REFUSED, Service
from ops.cli.preflight import UNREACHABLE, WRONG, Refusal
from ops.embedded import free_port
from tests.api.conftest import serving
from tests.api.hand import Hand
from tests.builders import a_job
from tests.common.peer import Peer, peer

BASE_S = 0.005
Open = Callable[..., Service]
OK = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n"
DONE = b"data: [DONE]\n\n"
DRAINING = b'data: {"error": {"message": "Going down.", "type": "overloaded_error", "code": "server_draining"}}\n\n'


def frame(number: int) -> bytes:
    return f'id: {number}\ndata: {{"n": {number}}}\n\n'.encode()


def refusal(status: str, code: str = "x", more: str = "") -> bytes:
    body = json.dumps({"error": {"message": f"No: {code}.", "code": code}})
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n{more}\r\n{body}".encode()


def pieces(*blocks: bytes) -> bytes:
    """In a framing that tells a cut from an end."""
    told = b"".join(b"%x\r\n%s\r\n" % (len(block), block) for block in blocks)
    return OK.replace(b"\r\n\r\n", b"\r\nTransfer-Encoding: chunked\r\n\r\n") + told


def reset(_: Peer, connected: socket.socket) -> None:
    connected.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")


@pytest.fixture
def at(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[Open]:
    """A client of what listens at a port of this machine."""
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)

    with ExitStack() as opened:

        def at(port: int, patience_s: float = 20.0) -> Service:
            service = Service(settings.model_copy(update={"port": port}), BASE_S, patience_s)
            opened.callback(service.close)
            return service

        yield at


def numbers(service: Service, after: int = 0) -> list[int]:
    return [one["n"] for _, one in service.events("/jobs/j/events", after)]


def asked(it: Peer) -> list[int]:
    """Behind which events."""
    lines = [line.partition(b": ") for request in it.asked for line in request.lower().split(b"\r\n")]
    return [int(value) for name, _, value in lines if name == b"last-event-id"]


@pytest.mark.parametrize(
    "cut",
    [
        OK + frame(1),
        pieces(frame(1)),
        OK + frame(1) + b'id: 2\ndata: {"n": 2',
        OK + frame(1) + b'id: 2\ndata: {"n": 2}\n',
        OK + frame(1) + b"id: ",
        OK + frame(1) + DRAINING,
        pieces(b": queue position=1\n", frame(1), DRAINING),
    ],
)
def test_a_stream_that_is_cut_goes_on_behind_its_last_event(at: Open, cut: bytes) -> None:
    with peer(cut, OK + frame(2) + DONE) as it:
        assert numbers(at(it.port)) == [1, 2]
        assert asked(it) == [0, 1]


@pytest.mark.parametrize(
    "no",
    [
        refusal("503 Service Unavailable", "server_draining"),
        refusal("503 Service Unavailable", "storage_unavailable"),
        refusal("429 Too Many Requests", "rate_limit_exceeded"),
        b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 6\r\n\r\n<html>",
        b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 6\r\n\r\n<html>",
        b"",
        reset,
    ],
)
def test_who_is_refused_for_a_while_asks_on(at: Open, no: Any) -> None:
    with peer(OK + frame(1), *[no] * 6, OK + frame(2) + DONE) as it:
        assert numbers(at(it.port)) == [1, 2]
        assert asked(it) == [0, *[1] * 7]


def test_who_is_told_so_stays_away_for_longer(at: Open) -> None:
    no = refusal("503 Service Unavailable", more="Retry-After: 1\r\n")
    with peer(no, no, OK + frame(1) + DONE) as it:
        with pytest.raises(Refusal):
            numbers(at(it.port, patience_s=40 * BASE_S))  # else there was time for a third question
        assert len(it.asked) == 2


def test_a_server_that_says_something_is_never_given_up(at: Open) -> None:
    waits = OK + b": queue position=1\n"
    with peer(*[waits] * 5, OK + frame(1) + DONE) as it:
        assert numbers(at(it.port, patience_s=BASE_S / 2)) == [1]


@pytest.mark.parametrize(
    ("end", "status"),
    [
        (refusal("404 Not Found"), WRONG),
        (refusal("410 Gone"), WRONG),
        (refusal("401 Unauthorized"), WRONG),
        (refusal("500 Internal Server Error"), WRONG),
    ],
)
def test_a_job_that_is_not_to_be_had_any_more_ends_it_at_once(at: Open, end: bytes, status: int) -> None:
    with peer(OK + frame(1), end) as it:
        with pytest.raises(Refusal) as refused:
            numbers(at(it.port))
        assert len(it.asked) == 2

    assert (refused.value.status, str(refused.value)) == (status, "No: x.")


@pytest.mark.parametrize("code", ["internal", "storage_unavailable", "cancelled"])
def test_an_end_is_handed_on_and_what_the_storage_lost_is_one(at: Open, code: str) -> None:
    end = b'data: {"error": {"message": "Lost.", "code": "%s"}}\n\n' % code.encode()
    with peer(OK + frame(1) + end) as it:
        events = at(it.port).events("/jobs/j/events", 0)

        assert [next(events), next(events)][1] == (1, {"error": {"message": "Lost.", "code": code}})
        events.close()
        assert len(it.asked) == 1


@pytest.mark.parametrize(
    ("end", "status"), [(refusal("503 Service Unavailable"), REFUSED), (OK + DRAINING, REFUSED), (b"", UNREACHABLE)]
)
def test_patience_ends(at: Open, end: bytes, status: int) -> None:
    with peer(OK + frame(1), end) as it, pytest.raises(Refusal) as refused:
        numbers(at(it.port, patience_s=0.05))

    assert refused.value.status == status


def test_where_nobody_ever_answered_nobody_is_waited_for(at: Open) -> None:
    with pytest.raises(Refusal) as refused:
        numbers(at(free_port(), patience_s=1e9))

    assert refused.value.status == UNREACHABLE


def test_a_front_end_that_is_started_again_is_waited_for(
    at: Open, redis_url: str, ledger: Ledger, tmp_path: Path
) -> None:
    owner = Principal().owner
    job, hand = a_job(owner=owner, share=owner), Hand(ledger)
    ledger.submit(job, Limits())
    hand.claim()
    hand.text(job, "a", "b")
    with serving(redis_url, tmp_path, drain_s="0") as front:
        events = at(front.port).events(f"/jobs/job_{job.id}/events", 0)
        seen = [next(events) for _ in range(3)]  # the role is one
        front.process.terminate()
        with ThreadPoolExecutor(1) as pool:
            rest = pool.submit(list, events)
            front.process.wait(30)
            with serving(redis_url, tmp_path, port=str(front.port)):
                hand.end(job, "c")
                seen += rest.result(20)

    assert "".join(one["choices"][0]["delta"].get("content", "") for _, one in seen) == "abc"
    assert [number for number, _ in seen][:4] == [0, 1, 2, 3]


def test_who_looks_again_and_again_waits_for_one_who_is_away(at: Open) -> None:
    ok = b'HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\n{"n": 1}'
    with peer(refusal("503 Service Unavailable"), reset, b"", ok, refusal("404 Not Found")) as it:
        service = at(it.port)
        assert service.awaited("/batches/b") == {"n": 1}
        with pytest.raises(Refusal):
            service.awaited("/batches/b")
        assert len(it.asked) == 5
