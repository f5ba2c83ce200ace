"""The only door through which a caller's URL is reached: for images, and for webhooks.

The URL is taken apart once and checked, its name is resolved once, every answer must be public, and the connection goes
to a checked address. The caller learns one sentence whatever went wrong; the reason stands in the operator's log, with
the host only.
"""

import contextlib
import socket
import ssl
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from ipaddress import IPv4Address, ip_address
from typing import TypeVar

import h11
import psutil

from common import telemetry
from common.door.targets import IPAddress, RefusedError, Rules, Target
from common.door.wire import Answer, Ask, Bounds, Line, Plain, Secure, exchange
from common.errors import FetchError, UnavailableError
from common.settings import Settings

_DEADLINE_S = 10.0
_LOOKUP_S = 5.0
_AT_ONCE = 16  # of one process
_OF_ONE_REQUEST = 4
_LOOKUPS = 8  # the resolver of one process has ten threads under gevent, and cannot be interrupted
_ADDRESSES = 4  # so many of a host are tried
_BODY_BYTES = 10 * 2**20
_RETRY_S = 5
_OK = 200
_MOVED = {301, 302, 303, 307, 308}
_OURS = {"accept", "accept-encoding", "authorization", "connection", "content-length", "content-type", "cookie"} | {
    "expect",
    "host",
    "proxy-authorization",
    "te",
    "transfer-encoding",
    "upgrade",
    "user-agent",
}  # headers that nobody sets for us
log = telemetry.logger("fetch")
Got = TypeVar("Got")


def _resolve(host: str) -> list[str]:
    """Its addresses; with a dot at its end, because a search list could lead inside."""
    found = socket.getaddrinfo(f"{host}.", None, type=socket.SOCK_STREAM)
    return [str(address[0]) for *_, address in found]


def _connect(address: IPAddress, port: int, seconds: float) -> socket.socket:
    """To this address, and nobody is asked for a name."""
    made = socket.socket(socket.AF_INET if isinstance(address, IPv4Address) else socket.AF_INET6)
    try:
        made.settimeout(seconds)
        made.connect((str(address), port))
    except BaseException:  # whoever ends us: no descriptor is left
        made.close()
        raise
    return made


def _own() -> list[str]:
    """The addresses of this machine."""
    cards = psutil.net_if_addrs().values()
    families = (socket.AF_INET, socket.AF_INET6)
    return [address.address for card in cards for address in card if address.family in families]


def _tls() -> ssl.SSLContext:
    """Names are checked against the authorities of this machine; no file of keys, whatever the environment says."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_default_certs()
    context.hostname_checks_common_name = False
    context.set_alpn_protocols(["http/1.1"])
    return context


@dataclass(frozen=True, slots=True)
class Network:
    """What the door knows of the world; tests give it a small one."""

    resolve: Callable[[str], Iterable[str]] = _resolve
    connect: Callable[[IPAddress, int, float], socket.socket] = _connect
    own: Callable[[], Iterable[str]] = _own
    tls: ssl.SSLContext = field(default_factory=_tls)


class Fetcher:
    """The door; one a process, because it counts."""

    def __init__(
        self, rules: Rules, network: Network | None = None, *, deadline_s: float = _DEADLINE_S, at_once: int = _AT_ONCE
    ) -> None:
        """``deadline_s`` is for all that one URL takes, redirects included, once it has its turn."""
        self._rules, self._network = rules, network or Network()
        self._deadline_s = deadline_s
        self._turns = threading.BoundedSemaphore(at_once)
        self._lookups = threading.BoundedSemaphore(_LOOKUPS)

    @classmethod
    def of(cls, settings: Settings) -> "Fetcher":
        """As this installation wants it."""
        may_get, inside = settings.image_fetch != "off", settings.fetch_internal
        return cls(Rules(settings.fetch_hosts, inside, may_get=may_get, exempt=settings.fetch_exempt))

    def check(self, url: str, *, param: str | None = None, code: str | None = None) -> None:
        """Its form and its host, for a URL that is reached later; nobody is asked. Raises FetchError."""
        self._told(url, lambda _: None, param, code)

    def get(
        self, url: str, *, most_bytes: int = _BODY_BYTES, param: str | None = None, code: str | None = None
    ) -> bytes:
        """What stands there. Raises FetchError, and UnavailableError when too much is fetched already."""

        def got(target: Target) -> bytes:
            if not self._rules.may_get:
                raise RefusedError("switched off")
            with self._turn() as bounds:
                answer = self._followed(target, Ask("GET", most_bytes), bounds)
            if answer.status != _OK:
                raise RefusedError(f"status {answer.status}")
            return answer.body

        return self._told(url, got, param, code)

    def get_all(
        self, urls: Mapping[str, str], *, most_bytes: int = _BODY_BYTES, code: str | None = None
    ) -> dict[str, bytes]:
        """What stands at all URLs of one request, by the field that names each; four at once. Raises as ``get``."""
        with ThreadPoolExecutor(_OF_ONE_REQUEST, "fetch") as pool:
            asked = {
                param: pool.submit(self.get, url, most_bytes=most_bytes, param=param, code=code)
                for param, url in urls.items()
            }
            try:
                return {param: future.result() for param, future in asked.items()}
            finally:
                pool.shutdown(cancel_futures=True)

    def post(
        self,
        url: str,
        body: bytes,
        headers: Mapping[str, str] | None = None,
        *,
        param: str | None = None,
        code: str | None = None,
    ) -> int:
        """The status with which this JSON was taken there; redirects are not followed. Raises as ``get``."""
        given = headers or {}
        if ours := _OURS & {name.lower() for name in given}:
            raise ValueError(f"not for callers to set: {', '.join(sorted(ours))}")

        def posted(target: Target) -> int:
            with self._turn() as bounds:
                return self._answer(target, Ask("POST", body=body, headers=tuple(given.items())), bounds).status

        return self._told(url, posted, param, code)

    def _told(self, url: str, work: Callable[[Target], Got], param: str | None, code: str | None) -> Got:
        """Its outcome; what went wrong is for the log, that it did is for the caller."""
        host = None
        try:
            target = Target.parse(url)
            host = target.host
            self._rules.check(target)
            return work(target)
        except (RefusedError, OSError, h11.RemoteProtocolError) as error:
            log.info("url not reached", host=host, reason=_reason(error))
        raise FetchError("The URL could not be fetched.", param=param, code=code)

    @contextlib.contextmanager
    def _turn(self) -> Iterator[Bounds]:
        if not self._turns.acquire(timeout=self._deadline_s):
            raise _busy()
        try:
            yield Bounds(self._deadline_s)
        finally:
            self._turns.release()

    def _followed(self, target: Target, ask: Ask, bounds: Bounds) -> Answer:
        """The answer, or that to which it redirects; each hop is checked like the first."""
        for _ in range(self._rules.redirects):
            answer = self._answer(target, ask, bounds)
            if answer.status not in _MOVED or answer.location is None:
                return answer
            target = target.redirected(answer.location)
            self._rules.check(target)
        return self._answer(target, ask, bounds)

    def _answer(self, target: Target, ask: Ask, bounds: Bounds) -> Answer:
        answers = self._resolved(target.host, bounds)
        addresses = self._rules.public(answers, self._network.own())
        with self._connected(addresses[:_ADDRESSES], target.port, bounds) as connected:
            line: Line = Plain(connected, bounds)
            if target.scheme == "https":
                line = Secure(line, self._network.tls, target.host)
            return exchange(line, target, ask, bounds)

    def _resolved(self, host: str, bounds: Bounds) -> list[str]:
        """Asked once; in a thread that may outlive the question, because a resolver cannot be interrupted."""
        if not self._lookups.acquire(timeout=min(bounds.left(), _LOOKUP_S)):
            raise _busy()
        asked: Future[list[str]] = Future()
        try:
            threading.Thread(target=self._look_up, args=(host, asked), name="lookup", daemon=True).start()
        except RuntimeError:
            self._lookups.release()
            raise _busy() from None
        return asked.result(min(bounds.left(), _LOOKUP_S))

    def _look_up(self, host: str, asked: "Future[list[str]]") -> None:
        try:
            asked.set_result(list(self._network.resolve(host)))
        except BaseException as error:  # noqa: BLE001  whatever it is, the one who waits is told
            asked.set_exception(error)
        finally:
            self._lookups.release()

    def _connected(self, addresses: list[IPAddress], port: int, bounds: Bounds) -> socket.socket:
        """To the first that answers; each may take its share of the time."""
        *others, last = addresses
        for number, address in enumerate(others):
            with contextlib.suppress(OSError):
                return self._pinned(address, port, bounds.left() / (len(addresses) - number))
        return self._pinned(last, port, bounds.left())

    def _pinned(self, address: IPAddress, port: int, seconds: float) -> socket.socket:
        """Connected to this address, and to no other."""
        with contextlib.ExitStack() as unless_right:
            connected = unless_right.enter_context(self._network.connect(address, port, seconds))
            if ip_address(connected.getpeername()[0]) != address:
                raise RefusedError("the peer has another address")
            unless_right.pop_all()
        return connected


def _busy() -> UnavailableError:
    return UnavailableError("Too many URLs are being fetched; try again later.", retry_after_s=_RETRY_S)


def _reason(error: Exception) -> str:
    """In our words, or in those of the library that checks certificates; texts of other errors may hold anything."""
    match error:
        case RefusedError():
            return str(error)
        case ssl.SSLCertVerificationError():
            return error.verify_message
        case _:
            return type(error).__name__
