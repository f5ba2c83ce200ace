"""Who is asking: bearer keys, ``h2ogpt_key``, ``user="name:password"``; before every view that is not marked public.

Keys and users are independent checks: both must pass where both are configured. Neither is ever stored or logged.
"""

import hashlib
import hmac
import ipaddress
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeVar

import structlog
from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError
from gevent import get_hub, monkey
from werkzeug.datastructures import Headers

from common.errors import AuthenticationError, InvalidRequestError, RateLimitError
from common.identity import Principal
from common.protocol.base import read_object
from common.settings import Settings, SettingsError

_PASSWORD_BYTES = 1024
_WRONG_A_MINUTE = 5
_MINUTE_S = 60.0
_REMEMBERED = 1024  # verified passwords: argon2 is slow by design
_WEIGHT = " weight="
_LEAST_WEIGHT = 0.001
_HASHES_AT_ONCE = 2  # argon2 is itself a way to use up a machine
log = structlog.get_logger(part="auth")  # not telemetry: the parent loads this module and must not load counters
View = TypeVar("View", bound=Callable[..., Any])


def public(view: View) -> View:
    """Mark a view that strangers may call."""
    view.is_public = True  # type: ignore[attr-defined]
    return view


def is_loopback(host: str) -> bool:
    """Whether ``host`` names this machine and nothing else."""
    name = host.strip("[]").lower().rstrip(".")
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return name == "localhost" or name.endswith(".localhost")


@dataclass(frozen=True, slots=True)
class Line:
    """A key, or a name and its hash; and how large its share of the tokens is beside others'."""

    text: str
    weight: float = 1.0

    @classmethod
    def parse(cls, raw: str) -> "Line":
        """``text``, or ``text weight=2``. Raises ValueError."""
        text, mark, told = raw.rpartition(_WEIGHT)
        if not mark:
            return cls(raw)
        weight = float(told)
        if not _LEAST_WEIGHT <= weight <= 1 / _LEAST_WEIGHT:
            raise ValueError(f"weight={told} is not between {_LEAST_WEIGHT:g} and {1 / _LEAST_WEIGHT:g}")
        return cls(text.rstrip(), weight)


class Lines:
    """A file's lines without blanks and comments, read again when it changes."""

    def __init__(self, path: Path) -> None:
        """Raises SettingsError when it cannot be read: a service must not start open by accident."""
        self._path = path
        self._lock = threading.Lock()
        try:
            self._stamp, self._lines = self._stamp_now(), self._read()
        except (OSError, ValueError) as error:
            raise SettingsError(f"{path} cannot be read: {error}.") from None

    def lines(self) -> tuple[Line, ...]:
        """As the file stands now; as it last was readable, when it is not."""
        with self._lock:
            try:
                stamp = self._stamp_now()
                if stamp != self._stamp:
                    self._lines, self._stamp = self._read(), stamp
            except (OSError, ValueError):
                log.warning("file not readable; its last content holds", path=str(self._path))
            return self._lines

    def _stamp_now(self) -> tuple[int, int, int]:
        stat = self._path.stat()
        return stat.st_mtime_ns, stat.st_size, stat.st_ino

    def _read(self) -> tuple[Line, ...]:
        lines = (line.strip() for line in self._path.read_text().splitlines())
        return tuple(Line.parse(line) for line in lines if line and not line.startswith("#"))


class Keys:
    """The keys that open the door; none configured: any key, or none, does."""

    def __init__(self, told: str) -> None:
        """``told`` is a comma-separated list, or the path of a file with one key a line."""
        self._file = Lines(Path(told)) if _is_path(told) else None
        self._list = tuple(Line(part.strip()) for part in told.split(",") if part.strip())
        if self._file is not None and not self._file.lines():
            raise SettingsError(f"PENSTOCK_API_KEYS names {told}, which holds no key.")
        self.is_open = not told.strip()

    def known(self, key: str | None) -> Principal:
        """Whose key it is, by a name that can be stored. Raises AuthenticationError."""
        if self.is_open:
            return Principal()
        if not key:
            raise AuthenticationError("An API key is required: send it as 'Authorization: Bearer <key>'.")
        digest = hashlib.sha256(key.encode(errors="surrogatepass")).digest()
        lines = self._file.lines() if self._file else self._list
        digests = [hashlib.sha256(line.text.encode()).digest() for line in lines]
        equal = [hmac.compare_digest(digest, other) for other in digests]  # all of them: no timing
        if not any(equal):
            raise AuthenticationError("This API key is not known here.")
        return Principal(key_id=digest[:8].hex(), weight=lines[equal.index(True)].weight)


class Users:
    """The users that ``user="name:password"`` is checked against; a file of ``name:argon2hash`` lines."""

    def __init__(self, path: Path | None, access: Literal["open", "closed"]) -> None:
        """Closed: nobody without a right password. Open: a name without one is a label."""
        if access == "closed" and path is None:
            raise SettingsError("PENSTOCK_AUTH_ACCESS=closed needs PENSTOCK_USERS_FILE.")
        self._file = Lines(path) if path else None
        self._is_closed = access == "closed"
        self._hasher = PasswordHasher()
        self._dummy = self._hasher.hash(secrets.token_hex(8)) if path else ""
        self._hashing = threading.BoundedSemaphore(_HASHES_AT_ONCE)
        self._secret = secrets.token_bytes(16)
        self._verified: OrderedDict[bytes, None] = OrderedDict()
        self._wrong: dict[str, list[float]] = {}  # known names -> when

    @property
    def are_asked(self) -> bool:
        """Whether there is anything to check."""
        return self._file is not None

    def known(self, user: str | None) -> Line | None:
        """The name whose password was right; None for a label. Raises AuthenticationError and RateLimitError."""
        name, colon, password = (user or "").partition(":")
        if self._file is None or not (colon or self._is_closed):
            return None
        line = next((line for line in reversed(self._file.lines()) if line.text.startswith(f"{name}:")), None)
        if line is None and not self._is_closed:
            return None
        known = line.text[len(name) + 1 :] if line else self._dummy
        if not colon or not self._is_right(known, name, password) or line is None:
            raise AuthenticationError(
                "The user and password are not known here: send user='name:password'.",
                param="user",
                code="invalid_credentials",
            )
        return replace(line, text=name)

    def _is_right(self, known: str, name: str, password: str) -> bool:
        given = password.encode(errors="surrogatepass")
        if len(given) > _PASSWORD_BYTES:
            return False
        mark = hmac.digest(self._secret, b"\0".join((known.encode(), name.encode(errors="replace"), given)), "sha256")
        if mark in self._verified:
            return True
        with self._hashing:
            if len(self._wrong_lately(name)) >= _WRONG_A_MINUTE:  # here: many guesses may wait at once
                raise RateLimitError("Too many wrong passwords; try again in a minute.", retry_after_s=60)
            is_right = _aside(self._verify, known, given)
            if not is_right and known != self._dummy:
                self._wrong[name] = [*self._wrong_lately(name), time.monotonic()]
        if is_right:
            self._verified[mark] = None
            if len(self._verified) > _REMEMBERED:
                self._verified.popitem(last=False)
        return is_right

    def _wrong_lately(self, name: str) -> list[float]:
        return [at for at in self._wrong.get(name, ()) if time.monotonic() - at < _MINUTE_S]

    def _verify(self, known: str, given: bytes) -> bool:
        try:
            return self._hasher.verify(known, given)
        except (VerificationError, InvalidHashError):
            return False


def _is_path(told: str) -> bool:
    """Whether it names a file rather than keys."""
    try:
        return ("/" in told and "," not in told) or Path(told).is_file()
    except OSError:  # longer than a name can be
        return False


def _aside(work: Callable[..., bool], *args: Any) -> bool:
    """In a real thread where we run on greenlets: hashing must not hold up the streams."""
    if monkey.is_module_patched("threading"):
        return bool(get_hub().threadpool.apply(work, args))
    return work(*args)


class Gate:
    """Turns what a request says of itself into a Principal."""

    def __init__(self, settings: Settings) -> None:
        """Raises SettingsError."""
        self._limits = settings.limits
        self._keys = Keys(settings.api_keys)
        self._users = Users(settings.users_file, settings.auth_access)

    @property
    def is_open(self) -> bool:
        """Whether strangers pass."""
        return self._keys.is_open

    def check(self, headers: Headers, body: Callable[[], bytes]) -> Principal:
        """Who it is; the body is read only when the headers do not say it. Raises AuthenticationError."""
        key = _header_key(headers)
        user = _utf8(headers.get("x-user"))
        told: Mapping[str, Any] = {}
        if (key is None and not self._keys.is_open) or (user is None and self._users.are_asked):
            told = self._object(body())
        who = self._keys.known(key if key is not None else _text(told.get("h2ogpt_key")))
        line = self._users.known(user if user is not None else _text(told.get("user")))
        return who if line is None else replace(who, user=line.text, weight=line.weight)

    def _object(self, body: bytes) -> Mapping[str, Any]:
        """The body's fields; a body that is not an object has none (the view refuses it)."""
        try:
            return read_object(body, self._limits)
        except InvalidRequestError:
            return {}


def _header_key(headers: Headers) -> str | None:
    """The key in ``Authorization: Bearer`` or ``api-key``; None when neither is there."""
    authorization = _utf8(headers.get("Authorization"))
    if authorization is None:
        return _utf8(headers.get("api-key"))
    scheme, _, key = authorization.partition(" ")
    return key.strip() if scheme.lower() == "bearer" else ""


def _utf8(told: str | None) -> str | None:
    """A header as it was meant: WSGI hands on its bytes one character each."""
    try:
        return told.encode("latin-1").decode() if told is not None else None
    except UnicodeError:
        return told


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None
