"""Clients that never stop sending, or never begin to read."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import gevent
import gevent.socket
import httpx2
import pytest

from api.connection import Connection
from tests.api.conftest import FrontEnd

HEAD = b" HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
LONG, CHUNKED = b"Content-Length: 999999999999\r\n\r\n", b"Transfer-Encoding: chunked\r\n\r\n"
CRUMBS = b"1\r\n \r\n" * 100_000


@contextmanager
def flooded(front: FrontEnd, head: bytes, piece: bytes) -> Iterator[None]:
    """Somebody sends as fast as he can, until we are done or the server has had enough."""
    enough = threading.Event()

    def flood() -> None:
        with suppress(OSError):
            while not enough.is_set():
                connection.sendall(piece)

    with socket.create_connection(("127.0.0.1", front.port), timeout=5) as connection:
        connection.sendall(head)
        thread = threading.Thread(target=flood)
        thread.start()
        try:
            yield
        finally:
            enough.set()
            thread.join()


@pytest.mark.parametrize(
    ("head", "piece"),
    [
        (b"GET /health" + HEAD + LONG, bytes(2**20)),
        (b"GET /health" + HEAD + CHUNKED, CRUMBS),
        (b"POST /v1/chat/completions" + HEAD + LONG, bytes(2**20)),
        (b"POST /v1/chat/completions" + HEAD + CHUNKED, CRUMBS),
    ],
)
def test_a_client_that_never_stops_sending_holds_nobody_up(front: FrontEnd, head: bytes, piece: bytes) -> None:
    with flooded(front, head, piece):
        for _ in range(5):
            assert httpx2.get(f"{front.base}/health", timeout=20).status_code == 200


def test_after_a_body_that_nobody_read_the_connection_goes_on(front: FrontEnd) -> None:
    with httpx2.Client(base_url=front.base) as client:
        refused = client.post("/v1/chat/completions", content=bytes(10 * 2**20), headers={"content-type": "text/plain"})
        after = client.get("/health")

    assert (refused.status_code, after.status_code) == (415, 200)


class Quick(Connection):
    stalled_s = 0.3


@pytest.fixture
def ends() -> Iterator[tuple[Quick, gevent.socket.socket]]:
    ours, theirs = gevent.socket.socketpair()
    with Quick(fileno=ours.detach()) as sender, theirs:
        yield sender, theirs


def test_a_reader_that_stops_reading_is_left(ends: tuple[Quick, gevent.socket.socket]) -> None:
    with pytest.raises(BrokenPipeError):
        ends[0].sendall(bytes(8 * 2**20))


def test_a_reader_that_is_only_slow_gets_everything(ends: tuple[Quick, gevent.socket.socket]) -> None:
    sender, reader = ends
    told = bytes(range(256)) * 2**13

    def read() -> bytes:
        got = b""
        while len(got) < len(told):
            got += reader.recv(2**17)
            gevent.sleep(0.05)  # slower than the sender, and in all longer than its patience
        return got

    reading = gevent.spawn(read)
    sender.sendall(told)

    assert reading.get() == told
