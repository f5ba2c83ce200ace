"""Which URLs of a caller may be reached, and which addresses behind them: rules without a socket.

The tables are our own. ``ipaddress.is_global`` takes some addresses for public that lead back inside, and 6to4, Teredo
and NAT64, which wrap another address, are refused rather than unwrapped.
"""

import ipaddress
import re
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from urllib.parse import urljoin

import idna

IPAddress = IPv4Address | IPv6Address
IPNetwork = IPv4Network | IPv6Network
_LONGEST = 2048
_MOST_REDIRECTS = 2
_PORTS = {"https": 443, "http": 80}
_URL = re.compile(
    r"(?P<scheme>(?i:https?))://(?P<host>[A-Za-z0-9.-]+)(?::(?P<port>[1-9][0-9]{0,4}))?"
    r"(?P<path>(?:[/?][!-\"$-\[\]-~]*)?)(?:#[!-\[\]-~]*)?"
)  # visible ASCII without the backslash; no room for a user, for brackets or for % in the host
_TOP = re.compile(r"[a-z][a-z0-9-]+")  # every way to write an address ends in a part that begins with a digit
_PRIVATE_NAMES = ("internal", "local", "localdomain", "localhost", "home.arpa")


def _ipv4(short: str) -> IPv4Network:
    """``127/8``, as RFCs write it."""
    address, _, bits = short.partition("/")
    zeros = ".0" * (3 - address.count("."))
    return IPv4Network(f"{address}{zeros}/{bits}")


_INSIDE: tuple[IPNetwork, ...] = (
    *map(_ipv4, ("0/8", "10/8", "100.64/10", "127/8", "169.254/16", "172.16/12", "192.168/16")),
    *map(_ipv4, ("192.0.0/24", "192.0.2/24", "192.88.99/24", "198.18/15", "198.51.100/24", "203.0.113/24")),
    *map(_ipv4, ("224/4", "240/4")),
    _ipv4("168.63.129.16/32"),  # looks public; in Azure it is the machine's host
    *map(IPv6Network, ("2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20")),
)
_UNICAST = IPv6Network("2000::/3")  # mapped, NAT64, local and multicast addresses lie outside


class RefusedError(Exception):
    """Why a URL is not reached: for the operator's log, never for the caller."""


def is_public(address: IPAddress) -> bool:
    """Whether it belongs to the internet and to nothing else."""
    is_unicast = isinstance(address, IPv4Address) or address in _UNICAST
    return is_unicast and not _is_in(address, _INSIDE)


@dataclass(frozen=True, slots=True)
class Target:
    """A URL taken apart once; what is sent is made of these parts and of nothing else."""

    scheme: str
    host: str
    port: int
    path: str

    @classmethod
    def parse(cls, url: str) -> "Target":
        """Raises RefusedError."""
        found = _URL.fullmatch(url) if len(url) <= _LONGEST else None
        if found is None:
            raise RefusedError("not the form of a URL")
        scheme, host, path = found["scheme"].lower(), found["host"].lower(), found["path"]
        port = _PORTS[scheme] if found["port"] is None else int(found["port"])
        return cls(scheme, host, port, path if path.startswith("/") else f"/{path}")

    @property
    def authority(self) -> str:
        """What stands in ``Host``."""
        return self.host if self.port == _PORTS[self.scheme] else f"{self.host}:{self.port}"

    def redirected(self, location: str) -> "Target":
        """Where an answer sends us. Raises RefusedError."""
        try:
            target = Target.parse(urljoin(f"{self.scheme}://{self.authority}{self.path}", location))
        except ValueError:
            raise RefusedError("a redirect to what is no URL") from None
        if (self.scheme, target.scheme) == ("https", "http"):
            raise RefusedError("a redirect from https to http")
        return target


@dataclass(frozen=True, slots=True)
class Rules:
    """What this installation lets a caller's URL lead to."""

    hosts: tuple[str, ...] = ()  # these domains and what is below them; empty: every public one
    internal: tuple[IPNetwork, ...] = ()  # refused although they look public
    may_get: bool = True
    redirects: int = 0
    doors: frozenset[tuple[str, int]] = frozenset({("https", 443)})
    exempt: tuple[IPNetwork, ...] = ()  # reached although they are not public

    def __post_init__(self) -> None:
        """Two redirects at most."""
        if not 0 <= self.redirects <= _MOST_REDIRECTS:
            raise ValueError(f"redirects={self.redirects} is not between 0 and {_MOST_REDIRECTS}")

    def check(self, target: Target) -> None:
        """What can be said before the resolver is asked. Raises RefusedError."""
        if (target.scheme, target.port) not in self.doors:
            raise RefusedError("another scheme or port")
        if not _is_name(target.host):
            raise RefusedError("not the name of a public host")
        if self.hosts and not any(_is_under(target.host, domain) for domain in self.hosts):
            raise RefusedError("not a listed host")

    def public(self, answers: Iterable[str], own: Iterable[str]) -> list[IPAddress]:
        """The resolver's answers, if one may connect to every one of them. Raises RefusedError."""
        ours = {ipaddress.ip_address(address.partition("%")[0]) for address in own}
        addresses = [ipaddress.ip_address(answer) for answer in answers]
        if not addresses or not all(self._is_reachable(address, ours) for address in addresses):
            raise RefusedError("not only public addresses")
        return addresses

    def _is_reachable(self, address: IPAddress, ours: set[IPAddress]) -> bool:
        if _is_in(address, self.exempt):
            return True
        return is_public(address) and address not in ours and not _is_in(address, self.internal)


def _is_in(address: IPAddress, networks: Iterable[IPNetwork]) -> bool:
    return any(address in network for network in networks)


def _is_name(host: str) -> bool:
    """Whether it is a name below a public top-level domain, in the one form that it has."""
    try:
        encoded = idna.encode(host, strict=True, uts46=True, std3_rules=True).decode()
    except UnicodeError:
        return False
    _, dot, top = host.rpartition(".")
    is_private = any(_is_under(host, name) for name in _PRIVATE_NAMES)
    return encoded == host and bool(dot and _TOP.fullmatch(top)) and not is_private


def _is_under(host: str, domain: str) -> bool:
    return host == domain or host.endswith(f".{domain}")
