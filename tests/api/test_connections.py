"""How a connection goes on, or ends: one answer a request, and no byte of a body taken for another."""

import socket

import pytest
from gunicorn.http import errors as unreadable

from api.connection import refusal
from common.ledger.ledger import Ledger
from tests.api.conftest import FrontEnd, Serve
from tests.api.wire import ALIVE, CHAT, CHUNKED, CONTINUE, HOST, KIND, POST, SMUGGLED, Answer, connected, framed

PLAIN = HOST + b"Content-Type: text/plain\r\n"
EXPECTED = b"Expect: 100-continue\r\n"
HEALTH = b"GET /health HTTP/1.1\r\n"
MORE = bytes(8 * 2**20)


@pytest.mark.parametrize("head", [POST + PLAIN, HEALTH + HOST, b"POST /nothing HTTP/1.1\r\n" + KIND])
def test_broken_chunks_that_nobody_reads_get_no_answer_of_their_own(front: FrontEnd, head: bytes) -> None:
    with connected(front) as connection:
        connection.sendall(head + CHUNKED + b"zz\r\n{}\r\n0\r\n\r\n" + SMUGGLED)

        assert Answer(connection).status in {200, 404, 415}
        assert connection.rest() == b""


@pytest.mark.parametrize("head", [POST + PLAIN, HEALTH + HOST, b"PUT /v1/models HTTP/1.1\r\n" + KIND])
def test_a_request_inside_of_a_body_that_nobody_reads_is_none(front: FrontEnd, head: bytes) -> None:
    with connected(front) as connection:
        connection.sendall(head + b"Content-Length: %d\r\n\r\n" % len(SMUGGLED) + SMUGGLED + ALIVE)

        assert Answer(connection).status in {200, 405, 415}
        assert Answer(connection).content == b'{"status":"alive"}\n'


def test_a_body_that_is_too_large_ends_the_connection_without_a_second_answer(front: FrontEnd) -> None:
    with connected(front) as connection:
        connection.sendall(POST + KIND + b"Content-Length: 99999999\r\n\r\n" + SMUGGLED)
        refused = Answer(connection)

        assert (refused.status, refused.headers["connection"]) == (413, "close")
        assert connection.rest() == b""


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (POST + PLAIN + b"Connection: close\r\nContent-Length: %d\r\n\r\n" % len(MORE), 415),
        (POST + KIND + b"Content-Length: %d0\r\n\r\n" % len(MORE), 413),
        (POST + KIND + b"Content-Length: 5\r\n" + CHUNKED, 400),
        (b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\n" + HOST + b"\r\n", 414),
    ],
)
def test_who_sends_more_than_is_read_still_gets_the_whole_answer(front: FrontEnd, head: bytes, status: int) -> None:
    with connected(front) as connection:
        connection.sendall(head)
        connection.sendall(MORE)
        refused = Answer(connection)

        assert (refused.status, refused.headers["connection"]) == (status, "close")
        assert refused.error["message"]
        assert connection.rest() == b""


def test_chunks_that_grow_beyond_the_limit_are_413_and_the_end(serve: Serve) -> None:
    with serve(limits__body_bytes="4096") as front, connected(front) as connection:
        connection.sendall(POST + KIND + CHUNKED + b"1000\r\n" + b" " * 4096 + b"\r\n")
        connection.sendall(b"1\r\n \r\n")
        refused = Answer(connection)
        connection.sendall(b"0\r\n\r\n" + SMUGGLED)

        assert (refused.status, refused.headers["connection"]) == (413, "close")
        assert connection.rest() == b""


def test_a_body_that_ends_early_is_no_request_although_it_would_parse(front: FrontEnd, ledger: Ledger) -> None:
    body = CHAT.replace(b"oops", b"anna")
    with connected(front) as connection:
        connection.sendall(POST + KIND + b"Content-Length: %d\r\n\r\n" % (len(body) + 9) + body)
        connection.shutdown(socket.SHUT_WR)
        refused = Answer(connection)

    assert (refused.status, refused.error["type"]) == (400, "invalid_request_error")
    assert ledger.waiting("m") == {"interactive": 0, "normal": 0, "batch": 0}


def test_a_connection_goes_on_after_a_body_that_was_asked_for(front: FrontEnd) -> None:
    with connected(front) as connection:
        for framing, body in ((b"Content-Length: %d\r\n\r\n" % len(CHAT), CHAT), (CHUNKED, framed(CHAT))):
            connection.sendall(POST + KIND + EXPECTED + framing)
            assert connection.read(len(CONTINUE)) == CONTINUE
            connection.sendall(body)
            assert (answer := Answer(connection)).error["message"] == "It broke."
            assert answer.headers["connection"] == "keep-alive"
        connection.sendall(ALIVE)
        assert Answer(connection).status == 200


@pytest.mark.parametrize("framing", [b"\r\n", b"Content-Length: 0\r\n\r\n"])
def test_a_body_of_nothing_is_not_waited_for(front: FrontEnd, framing: bytes) -> None:
    with connected(front) as connection:
        for head, status in ((HEALTH + HOST, 200), (POST + KIND, 400)):
            connection.sendall(head + EXPECTED + framing)
            answer = Answer(connection)
            assert (answer.status, answer.headers["connection"]) == (status, "keep-alive")


def test_a_body_that_a_refusal_did_not_ask_for_is_no_request(front: FrontEnd) -> None:
    with connected(front) as connection:
        connection.sendall(POST + PLAIN + EXPECTED + b"Content-Length: %d\r\n\r\n" % len(SMUGGLED))
        refused = Answer(connection)
        connection.sendall(SMUGGLED)

        assert (refused.status, connection.rest()) == (415, b"")


@pytest.mark.parametrize("coding", [b"gzip, chunked", b"deflate, chunked", b"br"])
def test_a_body_that_is_packed_for_the_way_is_501(front: FrontEnd, coding: bytes) -> None:
    with connected(front) as connection:
        connection.sendall(POST + KIND + b"Transfer-Encoding: " + coding + b"\r\n\r\n" + framed(CHAT) + SMUGGLED)
        refused = Answer(connection)

        assert (refused.status, refused.error["code"]) == (501, "unsupported_transfer_coding")
        assert (refused.headers["connection"], refused.headers["x-should-retry"]) == ("close", "false")
        assert connection.rest() == b""


def test_what_was_never_read_as_http_is_guarded_and_named_like_every_answer(front: FrontEnd) -> None:
    with connected(front) as connection:
        connection.sendall(POST + KIND + b"x-request-id: mine\r\nContent-Length: -5\r\n\r\n")
        refused = Answer(connection)

    assert (refused.status, refused.headers["x-request-id"]) == (400, "mine")
    assert (refused.headers["x-content-type-options"], refused.headers["cache-control"]) == ("nosniff", "no-store")


def test_a_head_that_cannot_be_read_gets_no_body(front: FrontEnd) -> None:
    with connected(front) as connection:
        connection.sendall(b"HEAD /health HTTP/1.1\r\n" + HOST + b"Content-Length: -5\r\n\r\n")
        got = connection.rest()

    assert got.startswith(b"HTTP/1.1 400 ")
    assert got.endswith(b"\r\n\r\n")


def test_a_request_needs_a_host_unless_it_is_an_old_one(front: FrontEnd) -> None:
    with connected(front) as connection:
        connection.sendall(HEALTH + b"\r\n" + b"GET /health HTTP/1.0\r\n\r\n")
        new, old = Answer(connection), Answer(connection)

    assert (new.status, new.error["type"]) == (400, "invalid_request_error")
    assert (old.status, old.headers["connection"]) == (200, "close")


@pytest.mark.parametrize("name", [b"SCRIPT_NAME", b"PATH_INFO", b"REMOTE_USER"])
def test_no_header_moves_the_server_to_another_path(front: FrontEnd, name: bytes) -> None:
    with connected(front) as connection:
        connection.sendall(HEALTH + HOST + name + b": /health\r\n\r\n")

        assert Answer(connection).content == b'{"status":"alive"}\n'


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (unreadable.InvalidResponseHeader("X"), 500),
        (ZeroDivisionError(), 500),
        (unreadable.InvalidHeader("X"), 400),
        (unreadable.ObsoleteFolding("X"), 400),
    ],
)
def test_a_failure_past_the_application_is_ours_and_bad_http_is_theirs(error: Exception, status: int) -> None:
    assert refusal(error).status == status
