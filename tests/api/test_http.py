"""What HTTP allows and a careless server gets wrong, over real connections."""

import pytest

from tests.api.conftest import FrontEnd, Serve
from tests.api.wire import ALIVE, CHAT, CHUNKED, CONTINUE, HOST, KIND, POST, SMUGGLED, Answer, connected, framed

GET_PATHS = ["/health", "/ready", "/version", "/openapi.json", "/v1/models", "/v1/models/none"]

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
        assert connection.rest() == b""


BROKEN = {
    "a chunk of no size": b"zz\r\n{}\r\n0\r\n\r\n",
    "a chunk that is longer than it says": b"2\r\n{}{}\r\n0\r\n\r\n",
}


@pytest.mark.parametrize("chunks", BROKEN.values(), ids=BROKEN)
def test_bytes_behind_broken_chunks_are_never_a_request(front: FrontEnd, chunks: bytes) -> None:
    with connected(front) as connection:
        connection.sendall(POST + KIND + CHUNKED + chunks + SMUGGLED)

        assert Answer(connection).status == 400
        assert b'"object":"list"' not in connection.rest()


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
        assert connection.read(len(CONTINUE)) == CONTINUE
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
        assert connection.rest() == b""


def test_a_body_without_a_key_is_not_asked_for(serve: Serve) -> None:
    with serve(api_keys="sk-right") as front, connected(front) as connection:
        connection.sendall(POST + KIND + b"Authorization: Bearer sk-wrong\r\n")
        connection.sendall(b"Expect: 100-continue\r\nContent-Length: 5\r\n\r\n")

        assert Answer(connection).status == 401


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


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("GET", "/v1/chat/completions", "OPTIONS, POST"),
        ("HEAD", "/v1/chat/completions", "OPTIONS, POST"),
        ("POST", "/v1/models", "GET, HEAD, OPTIONS"),
        ("DELETE", "/v1/models/m", "GET, HEAD, OPTIONS"),
        ("TRACE", "/health", "GET, HEAD, OPTIONS"),
    ],
)
def test_a_wrong_method_needs_no_key_to_learn_the_right_ones(
    serve: Serve, method: str, path: str, allowed: str
) -> None:
    with serve(api_keys="sk-right") as front, connected(front) as connection:
        connection.sendall(f"{method} {path} HTTP/1.1\r\n".encode() + HOST + b"\r\n" + ALIVE)
        refused, after = Answer(connection, method), Answer(connection)

    assert (refused.status, refused.headers["allow"], after.status) == (405, allowed, 200)
    assert (refused.content == b"") == (method == "HEAD")


def test_a_missing_body_is_called_so(front: FrontEnd) -> None:
    with connected(front) as connection:
        connection.sendall(POST + KIND + b"\r\n")

        assert "no body" in Answer(connection).error["message"]


def test_a_missing_key_is_told_before_a_missing_body(serve: Serve) -> None:
    with serve(api_keys="sk-right") as front, connected(front) as connection:
        connection.sendall(POST + KIND + b"\r\n")

        assert Answer(connection).status == 401


def test_a_packed_body_is_refused_with_what_would_be_taken(front: FrontEnd) -> None:
    with connected(front) as connection:
        connection.sendall(POST + KIND + b"Content-Encoding: gzip\r\nContent-Length: 2\r\n\r\n\x1f\x8b")
        refused = Answer(connection)

    assert (refused.status, refused.headers["accept-encoding"]) == (415, "identity")


@pytest.mark.parametrize(("origin", "is_listed"), [("https://page.example", True), ("https://other.example", False)])
def test_a_page_may_ask_first_and_only_listed_ones_are_let_in(serve: Serve, origin: str, is_listed: bool) -> None:  # noqa: FBT001
    asked = b"OPTIONS /v1/chat/completions HTTP/1.1\r\n" + HOST + b"Origin: " + origin.encode() + b"\r\n"
    with serve(cors_origins="https://page.example", api_keys="sk-right") as front, connected(front) as connection:
        connection.sendall(asked + b"Access-Control-Request-Method: POST\r\n\r\n")
        first = Answer(connection, "OPTIONS")
        connection.sendall(POST + KIND + b"Origin: " + origin.encode() + b"\r\nContent-Length: 2\r\n\r\n{}")
        second = Answer(connection)

    assert (first.status, second.status) == (204, 401)
    for answer in (first, second):
        assert answer.headers["vary"] == "Origin"
        assert answer.headers["access-control-allow-origin"] == (origin if is_listed else None)
        assert ("x-should-retry" in answer.headers.get("access-control-expose-headers", "")) == is_listed
    assert (first.headers["access-control-allow-methods"] == "GET, POST, DELETE") == is_listed
    assert second.headers["access-control-allow-methods"] is None
