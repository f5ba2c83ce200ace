"""One client's connection: what is written past the application, and how it ends."""

import errno
import json
import re
import secrets
import socket
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from http import HTTPStatus
from typing import Any

import gevent
import gevent.socket
from gunicorn.http import errors as unreadable

from api.turns import in_turns
from common.errors import (
    ApiError,
    ExpectationError,
    HeadersTooLargeError,
    InternalError,
    InvalidRequestError,
    TransferCodingError,
    UriTooLongError,
)

UNREAD_S = 5.0  # for what nobody read: its sender may read only when all is sent
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_GUARDS = ("X-Content-Type-Options: nosniff", "Cache-Control: no-store")  # as every answer of the application
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_OURS = (unreadable.InvalidResponseHeader, unreadable.InvalidResponseHeaderName, unreadable.ConfigurationProblem)
_THEIRS: tuple[tuple[type[Exception], ApiError], ...] = (
    (unreadable.ExpectationFailed, ExpectationError("Of all expectations only 100-continue can be met.")),
    (unreadable.LimitRequestHeaders, HeadersTooLargeError("The headers are larger than this server takes.")),
    (unreadable.LimitRequestLine, UriTooLongError("The path is longer than this server takes.")),
    (unreadable.UnsupportedTransferCoding, TransferCodingError("Of all transfer codings only chunked is known here.")),
    (unreadable.ParseException, InvalidRequestError("This is not a request that we can read.")),
)


def request_id(told: str) -> str:
    """The client's own, when it is harmless; else a new one."""
    return told if _REQUEST_ID.fullmatch(told) else f"req_{secrets.token_hex(16)}"


def refusal(error: BaseException) -> ApiError:
    """What the client is told of what never reached the application, or came out of it."""
    if not isinstance(error, _OURS):
        for kind, told in _THEIRS:
            if isinstance(error, kind):
                return told
    return InternalError("Something went wrong here.")


class _Awaited:
    """The reader of a body whose sender waits to be asked for it: the first read asks.

    Until then the answer is the last one: whether the body follows a refusal is its sender's choice.
    """

    def __init__(self, reader: Any, connection: "Connection") -> None:
        self._reader, self._connection = reader, connection
        self._was_last = connection.request.must_close
        self._waits = getattr(reader, "length", None) != 0
        if self._waits:
            connection.last()

    def read(self, size: int) -> bytes:
        """As the reader it stands for."""
        if self._waits:
            self._waits = False
            self._connection.request.must_close = self._was_last
            self._connection.sendall(_CONTINUE)
        piece: bytes = self._reader.read(size)
        return piece


class Connection(gevent.socket.socket):  # type: ignore[misc]  # gevent has no types
    """A connection that mostly has room: one system call an event, not two and a copy."""

    stalled_s = 60.0  # a reader that takes nothing for so long is gone
    request: Any = None  # gunicorn's, the one that is being answered
    write: Callable[[bytes], object] | None = None  # of its answer, as WSGI has it
    _left = b""  # of what was offered
    _is_offered = False

    def sendall(self, data: bytes, flags: int = 0) -> None:
        """All of it, unless its reader has stopped reading; of an offer, as much as there is room for."""
        left = self._left + data if self._left else data
        self._left = b""
        try:
            sent = self._sock.send(left, flags)
        except BlockingIOError:
            sent = 0
        except OSError:
            if not self._is_offered:
                raise
            sent = 0  # the one who may wait meets it again
        if sent == len(left):
            return
        if self._is_offered:
            self._left = left[sent:]
        else:
            self._send_rest(memoryview(left)[sent:], flags)

    def _send_rest(self, left: memoryview, flags: int) -> None:
        while left:
            with gevent.Timeout(self.stalled_s, BrokenPipeError(errno.EPIPE, "its reader stopped reading")):
                left = left[self.send(left, flags) :]

    def offer(self, block: bytes) -> bool:
        """A block of the answer, without waiting; False when there is no room for more, and the rest for ``flush``."""
        if self.write is None:
            raise RuntimeError("no answer has begun")
        self._is_offered = True
        try:
            self.write(block)
        finally:
            self._is_offered = False
        return not self._left

    def flush(self) -> None:
        """What there was no room for."""
        if self._left:
            self.sendall(b"")

    def begin(self, request: Any) -> None:
        """This one is answered next; gunicorn would ask for its body before anybody looked at the headers."""
        self.request, self.write = request, None
        if request._expected_100_continue:  # noqa: SLF001
            request._expected_100_continue = False  # noqa: SLF001
            request.body.reader = _Awaited(request.body.reader, self)

    def last(self) -> None:
        """No request follows the one that is being answered; its answer will say so."""
        self.request.force_close()

    def read_rest(self) -> bool:
        """Of the request's body; where there is no end to it, no other request can begin."""
        body = self.request.body
        with suppress(unreadable.ParseException, OSError), gevent.Timeout(UNREAD_S, exception=False):
            deque(in_turns(body.read), maxlen=0)
            return not body.failed
        return False

    def leave(self) -> None:
        """Say no more, and swallow what comes: unread bytes would have the system take our last words back."""
        with suppress(OSError), gevent.Timeout(UNREAD_S, exception=False):
            self.shutdown(socket.SHUT_WR)
            deque(in_turns(self.recv), maxlen=0)

    def forget(self) -> None:
        """Let go of the last request, which knows us: both and their buffers would wait for the garbage collector."""
        self.request = self.write = None

    def refuse(self, told: ApiError, request: Any = None) -> None:
        """Answer what the application has not answered, and leave; ``request`` is as much as could be read of it."""
        method, headers = (request.method, dict(request.headers)) if request is not None else ("", {})
        body = json.dumps(told.body()).encode() + b"\n"
        lines = [
            f"HTTP/1.1 {told.status} {HTTPStatus(told.status).phrase}",
            "Connection: close",
            "Content-Type: application/json",
            f"Content-Length: {len(body)}",
            f"x-request-id: {request_id(headers.get('X-REQUEST-ID', ''))}",
            *_GUARDS,
            *(["x-should-retry: false"] if told.status >= HTTPStatus.INTERNAL_SERVER_ERROR else []),
        ]
        head = "".join(f"{line}\r\n" for line in lines).encode() + b"\r\n"
        with suppress(OSError):
            self.sendall(head if method == "HEAD" else head + body)
        self.leave()
