"""HTTP by hand: bytes over a real connection, and the answers one by one."""

import http.client
import io
import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Self

from tests.api.conftest import FrontEnd

CHAT = json.dumps({"model": "m", "messages": [{"role": "user", "content": "Hi"}], "user": "oops"}).encode()
HOST = b"Host: localhost\r\n"
KIND = HOST + b"Content-Type: application/json\r\n"
POST = b"POST /v1/chat/completions HTTP/1.1\r\n"
ALIVE = b"GET /health HTTP/1.1\r\n" + HOST + b"\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n\r\n"
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
SMUGGLED = b"GET /v1/models HTTP/1.1\r\n" + HOST + b"\r\n"


class Wire:
    """A connection whose answers are read one by one: none reads ahead into the next."""

    def __init__(self, connection: socket.socket, reader: io.BufferedReader) -> None:
        self.sendall, self.shutdown = connection.sendall, connection.shutdown
        self.read, self.readline = reader.read, reader.readline

    def makefile(self, *_mode: str) -> Self:
        return self

    def flush(self) -> None:
        """Nothing is written here."""

    def close(self) -> None:
        """An answer is over; the connection may not be."""

    def rest(self) -> bytes:
        """All that comes before the end, which is a clean one."""
        return self.read()


class Answer(http.client.HTTPResponse):
    """One answer on a connection that may go on."""

    def __init__(self, wire: Wire, method: str = "POST") -> None:
        super().__init__(wire, method=method)  # type: ignore[arg-type]  # it wants makefile alone
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
def connected(front: FrontEnd) -> Iterator[Wire]:
    with (
        socket.create_connection(("127.0.0.1", front.port), timeout=20) as connection,
        connection.makefile("rb") as reader,
    ):
        yield Wire(connection, reader)


def framed(body: bytes, *, pieces: int = 1, trailer: bytes = b"") -> bytes:
    """In chunks."""
    size = -(-len(body) // pieces)
    cut = [body[at : at + size] for at in range(0, len(body), size)]
    return b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in cut) + b"0\r\n" + trailer + b"\r\n"
