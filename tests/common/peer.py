"""A server that says what it is told to say, byte for byte, and keeps what it was asked."""

import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from ipaddress import ip_network
from pathlib import Path
from typing import Any

from common.door.fetch import Fetcher, Network
from common.door.targets import IPAddress, Rules

LOOPBACK = ip_network("127.0.0.0/8")
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"


class Peer:
    """Where it is, what it was asked; one connection after the other."""

    def __init__(self, listener: socket.socket, say: "Say", context: ssl.SSLContext | None, *, is_deaf: bool) -> None:
        self._listener, self._say, self._context, self._is_deaf = listener, say, context, is_deaf
        self.port: int = listener.getsockname()[1]
        self.asked: list[bytes] = []
        self.is_over = threading.Event()

    def serve(self) -> None:
        while not self.is_over.is_set():
            with suppress(OSError, EOFError):  # the listener is shut down, or the other side has gone
                connected, _ = self._listener.accept()
                with closing(connected):
                    self._answer(connected)

    def end(self) -> None:
        self.is_over.set()
        self._listener.shutdown(socket.SHUT_RDWR)

    def drip(self, connected: socket.socket, drop: bytes) -> None:
        """One drop after the other, for ever."""
        while not self.is_over.wait(0.02):
            connected.sendall(drop)

    def _answer(self, connected: socket.socket) -> None:
        connected.settimeout(10)
        with self._secured(connected) as secured:
            self.asked.append(b"" if self._is_deaf else _request(secured))
            said = self._say[min(len(self.asked), len(self._say)) - 1]
            if isinstance(said, bytes):
                secured.sendall(said)
            else:
                said(self, secured)

    def _secured(self, connected: socket.socket) -> socket.socket:
        return self._context.wrap_socket(connected, server_side=True) if self._context else connected


Say = tuple[bytes | Callable[[Peer, socket.socket], None], ...]


@contextmanager
def peer(
    *say: bytes | Callable[[Peer, socket.socket], None],
    context: ssl.SSLContext | None = None,
    is_deaf: bool = False,
    port: int = 0,
) -> Iterator[Peer]:
    """It says the first to the first who asks, the last to all after the last; deaf, it waits for no question."""
    with closing(socket.create_server(("127.0.0.1", port))) as listener:
        it = Peer(listener, say, context, is_deaf=is_deaf)
        serving = threading.Thread(target=it.serve)
        serving.start()
        try:
            yield it
        finally:
            it.end()
            serving.join()


def _request(connected: socket.socket) -> bytes:
    """Head and body of what is asked."""
    asked = b""
    while b"\r\n\r\n" not in asked:
        asked += _some(connected)
    head, _, _ = asked.partition(b"\r\n\r\n")
    lengths = [int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")]
    while len(asked) < len(head) + 4 + sum(lengths):
        asked += _some(connected)
    return asked


def _some(connected: socket.socket) -> bytes:
    some = connected.recv(65536)
    if not some:
        raise EOFError
    return some


class Watched:
    """A network whose names are a table, which writes down what it is asked for."""

    def __init__(self, *answers: list[str], connect: Callable[[IPAddress, int, float], socket.socket]) -> None:
        self._answers, self._connect = answers, connect
        self.resolved: list[str] = []
        self.connected: list[str] = []

    def resolve(self, host: str) -> list[str]:
        self.resolved.append(host)
        return self._answers[min(len(self.resolved), len(self._answers)) - 1]

    def connect(self, address: IPAddress, port: int, seconds: float) -> socket.socket:
        self.connected.append(str(address))
        return self._connect(address, port, seconds)

    def network(self, **changes: Any) -> Network:
        network = Network(resolve=self.resolve, connect=self.connect, own=list, tls=client_side())
        return replace(network, **changes)


def near(port: int, network: Network | None = None, *, rules: Any = None, **changes: Any) -> Fetcher:
    """A fetcher for which every name is this machine, and this machine is the internet."""
    doors = frozenset({("http", port), ("https", port)})
    network = network or Network(resolve=lambda _: ["127.0.0.1"], tls=client_side())
    return Fetcher(Rules(doors=doors, exempt=(LOOPBACK,), **(rules or {})), network, **changes)


def certificate(folder: Path, name: str) -> Path:
    """A key and the certificate that it signed for itself."""
    made = folder / f"{name}.pem"
    words = ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"]
    words += ["-subj", "/CN=test", "-addext", f"subjectAltName=DNS:{name}", "-keyout", str(made), "-out", "-"]
    done = subprocess.run(["openssl", *words], capture_output=True, check=True)  # noqa: S607  whichever it is
    made.write_bytes(made.read_bytes() + done.stdout)
    return made


def server_side(path: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path)
    return context


def client_side() -> ssl.SSLContext:
    """Trusts nobody, and is made at once."""
    return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
