"""One exchange over HTTP/1.1 on a connected socket, within a time and an amount that the peer cannot stretch.

Every byte is received in one place, under what is left of one deadline: a time limit for each read, which is what
sockets and TLS libraries have, never ends against a peer that drips.
"""

import socket
import ssl
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol, TypeVar

import h11

from common.door.targets import RefusedError, Target

_HEAD_BYTES = 16 * 2**10
_READ_BYTES = 64 * 2**10
_SPARE_BYTES = 128 * 2**10  # for all that is not body: handshakes, heads, the frames of chunks
_OK = 200
Done = TypeVar("Done")


class Bounds:
    """How long, and how much, a peer may still take: for all that happens on behalf of one URL."""

    def __init__(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds
        self._spare = _SPARE_BYTES

    def left(self) -> float:
        """Seconds. Raises TimeoutError."""
        left = self._end - time.monotonic()
        if left <= 0:
            raise TimeoutError
        return left

    def spend(self, number: int) -> None:
        """So many bytes came. Raises RefusedError."""
        self._spare -= number
        if self._spare < 0:
            raise RefusedError("far more bytes than body")

    def earn(self, number: int) -> None:
        """So many of them were body: as many again may be lost on its way."""
        self._spare += 2 * number


class Line(Protocol):
    """Bytes to a peer and back."""

    def send(self, raw: bytes) -> None:
        """All of them. Raises OSError."""

    def receive(self) -> bytes:
        """Some; none at the end. Raises OSError and RefusedError."""


class Plain:
    """A socket within bounds."""

    def __init__(self, connected: socket.socket, bounds: Bounds) -> None:
        self._socket, self._bounds = connected, bounds

    def send(self, raw: bytes) -> None:
        """All of them; the time limit is that of the whole call."""
        self._socket.settimeout(self._bounds.left())
        self._socket.sendall(raw)

    def receive(self) -> bytes:
        """What is there."""
        self._socket.settimeout(self._bounds.left())
        raw = self._socket.recv(_READ_BYTES)
        self._bounds.spend(len(raw))
        return raw


class Secure:
    """TLS over a line: in memory, because a TLS socket would read by itself and as slowly as the peer likes."""

    def __init__(self, line: Line, context: ssl.SSLContext, name: str) -> None:
        """Shakes hands with the one who can prove this name."""
        self._line = line
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=name)
        self._pumped(self._tls.do_handshake)

    def send(self, raw: bytes) -> None:
        """All of them, a TLS record at a time."""
        rest = memoryview(raw)
        while rest:
            written = self._pumped(lambda: self._tls.write(rest))  # noqa: B023  called at once
            rest = rest[written:]

    def receive(self) -> bytes:
        """What a record holds."""
        return self._pumped(lambda: self._tls.read(_READ_BYTES))

    def _pumped(self, work: Callable[[], Done]) -> Done:
        """Its outcome; what it wants from the peer is fetched, what it has for the peer is sent."""
        while True:
            try:
                done = work()
            except ssl.SSLWantReadError:
                self._flush()
                if raw := self._line.receive():
                    self._incoming.write(raw)
                else:
                    self._incoming.write_eof()
            else:
                self._flush()
                return done

    def _flush(self) -> None:
        if raw := self._outgoing.read():
            self._line.send(raw)


@dataclass(frozen=True, slots=True)
class Ask:
    """What is sent, and how much of the answer's body is wanted."""

    method: str
    most_bytes: int = 0  # 0: the body is not read
    body: bytes = b""
    headers: tuple[tuple[str, str], ...] = ()

    def sent(self, http: h11.Connection, target: Target) -> bytes:
        """As it goes over the line."""
        headers = [
            ("Host", target.authority),
            ("User-Agent", "penstock"),
            ("Accept", "*/*"),
            ("Accept-Encoding", "identity"),
            ("Connection", "close"),
            *self.headers,
        ]
        if self.method == "POST":
            headers += [("Content-Type", "application/json"), ("Content-Length", str(len(self.body)))]
        head = h11.Request(method=self.method, target=target.path, headers=headers)
        events = (head, h11.Data(data=self.body), h11.EndOfMessage())
        return b"".join(http.send(event) or b"" for event in events)


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back."""

    status: int
    location: str | None
    body: bytes


def exchange(line: Line, target: Target, ask: Ask, bounds: Bounds) -> Answer:
    """One question, one answer. Raises RefusedError, OSError, h11.RemoteProtocolError."""
    http = h11.Connection(h11.CLIENT, max_incomplete_event_size=_HEAD_BYTES)
    line.send(ask.sent(http, target))
    events = _events(http, line)
    response = next(event for event in events if isinstance(event, h11.Response))
    headers = {name: value.decode("latin-1") for name, value in response.headers}
    if headers.get(b"content-encoding", "identity").strip().lower() != "identity":
        raise RefusedError("an encoded answer")
    wants_body = ask.most_bytes and response.status_code == _OK
    body = _body(events, ask.most_bytes, bounds) if wants_body else b""
    return Answer(response.status_code, headers.get(b"location"), body)


def _events(http: h11.Connection, line: Line) -> Iterator[object]:
    received = 0
    while True:
        event = http.next_event()
        if event is h11.NEED_DATA:
            raw = line.receive()
            received += len(raw)
            http.receive_data(raw)
            continue
        if isinstance(event, h11.Response) and received - len(http.trailing_data[0]) > _HEAD_BYTES:
            raise RefusedError("too long a head")
        yield event


def _body(events: Iterator[object], most_bytes: int, bounds: Bounds) -> bytes:
    body = bytearray()
    for event in events:
        if isinstance(event, h11.Data):
            body += event.data
            bounds.earn(len(event.data))
        if len(body) > most_bytes:
            raise RefusedError("too long a body")
        if isinstance(event, h11.EndOfMessage):
            break
    return bytes(body)
