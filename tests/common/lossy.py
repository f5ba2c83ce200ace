"""A line to Redis on which replies get lost: the call arrives, its answer does not. It may lead elsewhere one day."""

import socket
import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from urllib.parse import urlsplit, urlunsplit


@dataclass
class Line:
    """Where it is, where new connections lead, and how many more replies to scripts it will lose."""

    url: str
    upstream: tuple[str, int]
    losses: int = 0

    def lead_to(self, url: str) -> None:
        """What is connected stays."""
        self.upstream = _address(url)


@contextmanager
def lossy(url: str) -> Iterator[Line]:
    """A way to the Redis at ``url``."""
    parts = urlsplit(url)

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            with socket.create_connection(line.upstream) as redis:
                answers = threading.Thread(target=self._answer, args=(redis,))
                answers.start()
                self._is_script = False
                while asked := _read(self.request):
                    self._is_script = b"EVALSHA" in asked
                    redis.sendall(asked)
                _cut(redis)
                answers.join()

        def _answer(self, redis: socket.socket) -> None:
            while answered := _read(redis):
                if self._is_script and line.losses:
                    line.losses -= 1
                    _cut(self.request)
                    return
                self.request.sendall(answered)

    class Server(socketserver.ThreadingTCPServer):
        daemon_threads = True

    with Server(("127.0.0.1", 0), Handler) as server:
        address = f"{parts.netloc.rpartition('@')[0]}@127.0.0.1:{server.server_address[1]}"
        line = Line(urlunsplit(parts._replace(netloc=address.removeprefix("@"))), _address(url))
        serving = threading.Thread(target=server.serve_forever, args=(0.01,))
        serving.start()
        try:
            yield line
        finally:
            server.shutdown()
            serving.join()


def _address(url: str) -> tuple[str, int]:
    parts = urlsplit(url)
    return parts.hostname or "", parts.port or 0


def _read(connection: socket.socket) -> bytes:
    try:
        return connection.recv(2**16)
    except OSError:
        return b""


def _cut(connection: socket.socket) -> None:
    try:
        connection.shutdown(socket.SHUT_RDWR)
    except OSError:
        return
