"""What HTTP allows and a careless server gets wrong, over real connections."""

import http.client
import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.api.conftest import FrontEnd, Serve

CHAT = json.dumps({"model": "m", "messages": [{"role": "user", "content": "Hi"}], "user": "oops"}).encode()
HOST = b"Host: localhost\r\n"
KIND = HOST + b"Content-Type: application/json\r\n"
POST = b"POST /v1/chat/completions HTTP/1.1\r\n"
ALIVE = b"GET /health HTTP/1.1\r\n" + HOST + b"\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n\r\n"
GET_PATHS = ["/health", "/ready", "/version", "/openapi.json", "/v1/models", "/v1/models/none"]


class Answer(http.client.HTTPResponse):
    """One answer on a connection that may go on."""

    def __init__(self, connection: socket.socket, method: str = "POST") -> None:
        super().__init__(connection, method=method)
        self.begin()
        self.content = self.read()

    @property
    def error(self) -> Any:
        assert self.headers["content-type"] == "application/json"
        assert self.headers["x-request-id"]
        told = json.loads(self.content)["error"]
        assert set(told) == {"message", "type", "param", "code"}
        return told


@contextmanager
def connected(front: FrontEnd) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", front.port), timeout=20) as connection:
        yield connection


def framed(body: bytes, *, pieces: int = 1, trailer: bytes = b"") -> bytes:
    """In chunks."""
    size = -(-len(body) // pieces)
    cut = [body[at : at + size] for at in range(0, len(body), size)]
    return b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in cut) + b"0\r\n" + trailer + b"\r\n"


SENT = {
    "with its length": POST + KIND + b"Content-Length: %d\r\n\r\n" % len(CHAT) + CHAT,
    "in chunks": POST + KIND + CHUNKED + framed(CHAT, pieces=7),
    "in chunks with a trailer": POST + KIND + CHUNKED + framed(CHAT, trailer=b"X-Sum: 1\r\n"),
}


@pytest.mark.parametrize("sent", SENT.values(), ids=SENT)
def test_a_body_is_read_however_it_is_framed_and_the_connection_goes_on(front: FrontEnd, sent: bytes) -> None:
    with connected(front) as connection:
        connection.sendall(sent)
        first = Answer(connection)
        connection.sendall(ALIVE)
        second = Answer(connection)

    assert (first.status, first.error["message"]) == (500, "It broke.")
    assert (second.status, second.headers["connection"]) == (200, "keep-alive")


REFUSED = {
    "no length and no chunks": (POST + KIND + b"\r\n", 400),
    "an empty body": (POST + KIND + b"Content-Length: 0\r\n\r\n", 400),
    "no JSON": (POST + KIND + b"Content-Length: 2\r\n\r\n{]", 400),
    "another type": (POST + HOST + b"Content-Type: text/plain\r\nContent-Length: 5\r\n\r\nhello", 415),
    "no type": (POST + HOST + b"Content-Length: 5\r\n\r\nhello", 415),
    "gzip": (POST + KIND + b"Content-Encoding: gzip\r\nContent-Length: 5\r\n\r\n\x1f\x8b\x08\x00\x00", 415),
    "another method": (b"DELETE /v1/chat/completions HTTP/1.1\r\n" + KIND + b"Content-Length: 5\r\n\r\nhello", 405),
    "an unknown method": (b"BREW /v1/models HTTP/1.1\r\n" + HOST + b"\r\n", 405),
    "an unknown path": (b"POST /nothing HTTP/1.1\r\n" + KIND + b"Content-Length: 5\r\n\r\nhello", 404),
    "a body where none belongs": (b"GET /v1/chat/completions HTTP/1.1\r\n" + KIND + CHUNKED + framed(b"hello"), 405),
}


@pytest.mark.parametrize(("sent", "status"), REFUSED.values(), ids=REFUSED)
def test_a_connection_goes_on_after_each_refusal(front: FrontEnd, sent: bytes, status: int) -> None:
    with connected(front) as connection:
        for _ in range(3):
            connection.sendall(sent)
            refused = Answer(connection)
            assert (refused.status, bool(refused.error["message"])) == (status, True)
        connection.sendall(ALIVE)
        assert Answer(connection).status == 200


SMUGGLED = b"GET /v1/models HTTP/1.1\r\n" + HOST + b"\r\n"
AMBIGUOUS = {
    "a length and chunks": POST + KIND + b"Content-Length: 5\r\n" + CHUNKED + b"0\r\n\r\n",
    "two lengths": POST + KIND + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
    "a negative length": POST + KIND + b"Content-Length: -5\r\n\r\n",
    "a length that is no number": POST + KIND + b"Content-Length: 5, 5\r\n\r\nhello",
    "chunks that are not last": POST + KIND + b"Transfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n",
    "a space before the colon": POST + KIND + b"Content-Length : 0\r\n\r\n",
    "a folded header": POST + KIND + b"X-A: 1\r\n 2\r\n\r\n",
    "no HTTP": b"\x16\x03\x01\x00\r\n\r\n",
}


@pytest.mark.parametrize("sent", AMBIGUOUS.values(), ids=AMBIGUOUS)
def test_what_two_readers_could_read_in_two_ways_ends_the_connection(front: FrontEnd, sent: bytes) -> None:
    with connected(front) as connection:
        connection.sendall(sent + SMUGGLED)
        refused = Answer(connection)

        assert (refused.status, refused.headers["connection"]) == (400, "close")
        assert refused.error["type"] == "invalid_request_error"
        assert rest(connection) == b""


def rest(connection: socket.socket) -> bytes:
    """All that comes before the end."""
    got = b""
    try:
        while piece := connection.recv(65536):
            got += piece
    except ConnectionResetError:  # it ended with bytes of ours unread
        pass
    return got


BROKEN = {
    "a chunk of no size": b"zz\r\n{}\r\n0\r\n\r\n",
    "a chunk that is longer than it says": b"2\r\n{}{}\r\n0\r\n\r\n",
}


@pytest.mark.parametrize("chunks", BROKEN.values(), ids=BROKEN)
def test_bytes_behind_broken_chunks_are_never_a_request(front: FrontEnd, chunks: bytes) -> None:
    with connected(front) as connection:
        connection.sendall(POST + KIND + CHUNKED + chunks + SMUGGLED)

        assert Answer(connection).status == 400
        assert b'"object":"list"' not in rest(connection)


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\n" + HOST + b"\r\n", 414),
        (b"GET /health HTTP/1.1\r\n" + HOST + b"X: " + b"a" * 20_000 + b"\r\n\r\n", 431),
        (POST + KIND + b"Expect: a-miracle\r\nContent-Length: 5\r\n\r\n", 417),
    ],
)
def test_what_is_too_long_or_cannot_be_expected_has_its_own_status(front: FrontEnd, sent: bytes, status: int) -> None:
    with connected(front) as connection:
        connection.sendall(sent)
        refused = Answer(connection)

    assert (refused.status, refused.error["type"]) == (status, "invalid_request_error")


def test_a_body_that_waits_to_be_asked_for_is_asked_for(front: FrontEnd) -> None:
    with connected(front) as connection:
        connection.sendall(POST + KIND + b"Expect: 100-continue\r\nContent-Length: %d\r\n\r\n" % len(CHAT))
        assert connection.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(CHAT)
        assert Answer(connection).error["message"] == "It broke."


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        (HOST + b"Content-Type: text/plain\r\nContent-Length: 5\r\n", 415),
        (KIND + b"Content-Length: 99999999\r\n", 413),
        (b"Host: page.example\r\nContent-Type: application/json\r\nContent-Length: 5\r\n", 403),
    ],
)
def test_a_body_that_would_be_refused_is_not_asked_for(front: FrontEnd, headers: bytes, status: int) -> None:
    with connected(front) as connection:
        connection.sendall(POST + headers + b"Expect: 100-continue\r\n\r\n")
        refused = Answer(connection)

        assert (refused.status, refused.headers["connection"]) == (status, "close")
        assert rest(connection) == b""


def test_a_body_without_a_key_is_not_asked_for(serve: Serve) -> None:
    with serve(api_keys="sk-right") as front, connected(front) as connection:
        connection.sendall(POST + KIND + b"Authorization: Bearer sk-wrong\r\n")
        connection.sendall(b"Expect: 100-continue\r\nContent-Length: 5\r\n\r\n")

        assert Answer(connection).status == 401


def test_chunks_beyond_the_limit_are_413(serve: Serve) -> None:
    with serve() as front, connected(front) as connection:
        connection.sendall(POST + KIND + CHUNKED)
        for _ in range(21):
            connection.sendall(b"100000\r\n" + b" " * 2**20 + b"\r\n")
        assert Answer(connection).status == 413


@pytest.mark.parametrize("path", GET_PATHS)
def test_head_is_get_without_the_body(front: FrontEnd, path: str) -> None:
    answers = {}
    for method in ("GET", "HEAD"):
        with connected(front) as connection:
            connection.sendall(f"{method} {path} HTTP/1.1\r\n".encode() + HOST + b"x-request-id: mine\r\n\r\n")
            answers[method] = Answer(connection, method)
            connection.sendall(ALIVE)
            assert Answer(connection).status == 200

    told = {method: dict(answer.headers) for method, answer in answers.items()}
    for headers in told.values():
        headers.pop("Date")
    assert told["HEAD"] == told["GET"]
    assert answers["HEAD"].status == answers["GET"].status
    assert answers["HEAD"].content == b""
    assert told["GET"]["x-request-id"] == "mine"


@pytest.mark.parametrize(
    ("path", "methods"), [("/v1/chat/completions", {"POST", "OPTIONS"}), ("/v1/models", {"GET", "HEAD", "OPTIONS"})]
)
def test_options_says_what_a_path_takes(front: FrontEnd, path: str, methods: set[str]) -> None:
    with connected(front) as connection:
        connection.sendall(f"OPTIONS {path} HTTP/1.1\r\n".encode() + HOST + b"\r\n")
        answer = Answer(connection, "OPTIONS")
        connection.sendall(ALIVE)
        assert Answer(connection).status == 200

    assert (answer.status, answer.content) == (204, b"")
    assert set(answer.headers["allow"].split(", ")) == methods
    assert answer.headers["x-request-id"]
    assert answer.headers["content-type"] is None


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE", "OPTIONS", "HEAD", "BREW"])
def test_an_unknown_path_is_404_for_every_method(front: FrontEnd, method: str) -> None:
    with connected(front) as connection:
        connection.sendall(f"{method} /v1/nothing HTTP/1.1\r\n".encode() + HOST + b"\r\n")

        assert Answer(connection, method).status == 404
