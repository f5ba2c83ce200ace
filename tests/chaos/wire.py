"""HTTP as a client of ours speaks it: one connection an answer, cut where it says so."""

import http.client
import json
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Self
from urllib.parse import urlsplit

_TIMEOUT_S = 12.0  # a heartbeat comes every two seconds
_PIECE = 512
BROKEN = (OSError, http.client.HTTPException)


class CutError(OSError):
    """We closed it ourselves."""


@dataclass
class Call:
    """One request; a context."""

    url: str
    method: str
    path: str
    body: dict[str, Any] | None = None
    headers: dict[str, str] = field(default_factory=dict)
    cut_at: int | None = None  # bytes of the answer's body, after which we reset the connection

    def __enter__(self) -> Self:
        self._connection = http.client.HTTPConnection(urlsplit(self.url).netloc, timeout=_TIMEOUT_S)
        told = json.dumps(self.body).encode() if self.body is not None else None
        headers = {"Connection": "close", "Content-Type": "application/json"} | self.headers
        try:
            self._connection.request(self.method, self.path, told, headers)
        except BaseException:  # whatever it is goes on from here
            self._connection.close()
            raise
        self._socket: socket.socket | None = self._connection.sock
        self._answer: http.client.HTTPResponse | None = None
        return self

    def __exit__(self, *_: object) -> None:
        if self._answer is not None:
            self._answer.close()
        if self._socket is not None:
            self._socket.close()
        self._connection.close()

    def answer(self) -> http.client.HTTPResponse:
        """Its status and headers. Raises what is in BROKEN."""
        if self._answer is None:
            self._answer = self._connection.getresponse()
        return self._answer

    def reset(self) -> None:
        """RST instead of FIN, whatever was not read."""
        if self._socket is not None:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.__exit__()

    def json(self) -> Any:
        """The whole body. Raises what is in BROKEN, and ValueError."""
        return json.loads(self.answer().read())

    def blocks(self) -> Iterator[tuple[int, str]]:
        """SSE blocks: number (0: none) and what they say. Raises what is in BROKEN."""
        held, count = b"", 0
        while piece := self.answer().read1(_PIECE):
            count += len(piece)
            if self.cut_at is not None and count >= self.cut_at:
                self.reset()
                raise CutError
            *whole, held = (held + piece).split(b"\n\n")
            yield from map(_block, whole)


def _block(raw: bytes) -> tuple[int, str]:
    number, told = 0, ""
    for line in raw.decode().split("\n"):
        if line.startswith("id: "):
            number = int(line[4:])
        elif line.startswith("data: "):
            told = line[6:]
    return number, told
