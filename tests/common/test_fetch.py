import ipaddress
import socket
from ipaddress import ip_address, ip_network
from typing import Any

import pytest
from structlog.testing import capture_logs

from common.door.fetch import Fetcher, Network
from common.door.targets import IPAddress, RefusedError, Rules, Target, is_public
from common.errors import FetchError
from common.settings import Settings
from tests.common.hostile_urls import FORMS
from tests.common.peer import Watched

PUBLIC = "93.184.216.34"
NETWORKS = [  # a network, and the addresses beside it where they are public
    ("0.0.0.0/8", None, "1.0.0.0"),
    ("10.0.0.0/8", "9.255.255.255", "11.0.0.0"),
    ("100.64.0.0/10", "100.63.255.255", "100.128.0.0"),
    ("127.0.0.0/8", "126.255.255.255", "128.0.0.0"),
    ("168.63.129.16/32", "168.63.129.15", "168.63.129.17"),
    ("169.254.0.0/16", "169.253.255.255", "169.255.0.0"),
    ("172.16.0.0/12", "172.15.255.255", "172.32.0.0"),
    ("192.0.0.0/24", "191.255.255.255", "192.0.1.0"),
    ("192.0.2.0/24", "192.0.1.255", "192.0.3.0"),
    ("192.88.99.0/24", "192.88.98.255", "192.88.100.0"),
    ("192.168.0.0/16", "192.167.255.255", "192.169.0.0"),
    ("198.18.0.0/15", "198.17.255.255", "198.20.0.0"),
    ("198.51.100.0/24", "198.51.99.255", "198.51.101.0"),
    ("203.0.113.0/24", "203.0.112.255", "203.0.114.0"),
    ("224.0.0.0/4", "223.255.255.255", None),
    ("240.0.0.0/4", None, None),
    ("255.255.255.255/32", None, None),
    ("::/96", None, None),
    ("::ffff:0:0/96", None, None),
    ("::ffff:0:0:0/96", None, None),
    ("64:ff9b::/96", None, None),
    ("64:ff9b:1::/48", None, None),
    ("100::/64", None, None),
    ("::/3", None, "2000::"),
    ("2001::/23", "2000:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "2001:200::"),
    ("2001:db8::/32", "2001:db7:ffff:ffff:ffff:ffff:ffff:ffff", "2001:db9::"),
    ("2002::/16", "2001:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "2003::"),
    ("3fff::/20", "3ffe:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "3fff:1000::"),
    ("4000::/2", "3fff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", None),
    ("5f00::/16", None, None),
    ("fc00::/7", None, None),
    ("fe80::/10", None, None),
    ("fec0::/10", None, None),
    ("ff00::/8", None, None),
]


def _no_way(address: IPAddress, port: int, _seconds: float) -> socket.socket:
    raise ConnectionRefusedError(address, port)


def watched(*answers: list[str]) -> Watched:
    return Watched(*answers, connect=_no_way)


def is_tried(found: Watched, url: str = "https://good.example/", **rules: Any) -> bool:
    """Whether a connection is tried."""
    with pytest.raises(FetchError):
        Fetcher(Rules(**rules), found.network()).get(url)
    return bool(found.connected)


@pytest.mark.parametrize("url", FORMS)
def test_a_hostile_url_is_refused_before_anybody_is_asked(url: str) -> None:
    network = watched([PUBLIC])
    fetcher = Fetcher(Rules(), network.network())

    for way in (fetcher.get, fetcher.check, lambda url: fetcher.post(url, b"{}")):
        with pytest.raises(FetchError):
            way(url)

    assert (network.resolved, network.connected) == ([], [])


def test_the_table_of_hostile_urls_is_long() -> None:
    assert len(set(FORMS)) == len(FORMS) >= 100


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("https://good.example", "good.example"),
        ("https://good.example:443/a", "good.example"),
        ("HTTPS://Good.EXAMPLE/", "good.example"),
        ("https://xn--bcher-kva.example/?q=@:/[]{}|^", "xn--bcher-kva.example"),
        ("https://a-b.c--d.good.example/#x", "a-b.c--d.good.example"),
        ("https://127.0.0.1.good.example/", "127.0.0.1.good.example"),
        ("https://localhost.example/", "localhost.example"),
        ("https://good.example/" + "a" * 2027, "good.example"),
    ],
)
def test_an_honest_url_is_tried_at_the_address_of_its_host(url: str, host: str) -> None:
    network = watched([PUBLIC])

    assert is_tried(network, url)
    assert (network.resolved, network.connected) == ([host], [PUBLIC])


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("https://good.example", "/"),
        ("https://good.example?a=b", "/?a=b"),
        ("https://good.example/a/../b?c#d", "/a/../b?c"),
        ("https://good.example#a?b", "/"),
    ],
)
def test_what_is_sent_is_made_of_the_parts(url: str, path: str) -> None:
    assert Target.parse(url) == Target("https", "good.example", 443, path)


@pytest.mark.parametrize(("network", "before", "after"), NETWORKS)
def test_the_border_of_a_network_is_where_it_is(network: str, before: str | None, after: str | None) -> None:
    inside = ip_network(network)

    assert not is_public(inside[0])
    assert not is_public(inside[-1])
    assert all(is_public(ip_address(address)) for address in (before, after) if address)


@pytest.mark.parametrize("address", ["64:ff9b::7f00:1", "2002:7f00:1::", "::127.0.0.1", "192.0.0.8", "224.0.0.1"])
def test_addresses_that_python_takes_for_global_are_refused_all_the_same(address: str) -> None:
    assert not is_public(ipaddress.ip_address(address))
    assert not is_tried(watched([address]))


@pytest.mark.parametrize(
    "answers",
    [
        [],
        ["127.0.0.1"],
        ["0.0.0.0"],
        ["169.254.169.254"],
        ["::1"],
        ["::ffff:93.184.216.34"],
        ["fe80::1%eth0"],
        ["fd00:ec2::254"],
        [PUBLIC, "10.0.0.1"],
        ["10.0.0.1", PUBLIC],
        ["2606:2800:220:1::1", PUBLIC, "::1"],
        [PUBLIC] * 20 + ["127.0.0.1"],
    ],
)
def test_one_answer_that_is_not_public_is_one_too_many(answers: list[str]) -> None:
    assert not is_tried(watched(answers))


def test_a_resolver_is_asked_once_whatever_it_would_say_next() -> None:
    network = watched([PUBLIC], ["127.0.0.1"])

    assert is_tried(network)
    assert (network.resolved, network.connected) == (["good.example"], [PUBLIC])


def test_no_more_than_four_addresses_of_a_host_are_tried() -> None:
    network = watched([f"93.184.216.{number}" for number in range(9)])

    assert is_tried(network)
    assert network.connected == ["93.184.216.0", "93.184.216.1", "93.184.216.2", "93.184.216.3"]


def test_this_machine_is_not_reached_by_its_public_address() -> None:
    network = watched([PUBLIC])
    own = network.network(own=lambda: ["127.0.0.1", "fe80::1%eth0", PUBLIC])

    with pytest.raises(FetchError):
        Fetcher(Rules(), own).get("https://good.example/")

    assert network.connected == []
    assert {"127.0.0.1"} <= set(Network().own())


@pytest.mark.parametrize(("internal", "is_reached"), [("93.184.0.0/16", False), ("93.185.0.0/16", True)])
def test_a_network_of_ours_is_not_reached_although_it_looks_public(internal: str, is_reached: bool) -> None:  # noqa: FBT001
    assert is_tried(watched([PUBLIC]), internal=(ip_network(internal),)) is is_reached


@pytest.mark.parametrize(
    ("host", "is_listed"),
    [
        ("good.example", True),
        ("GOOD.example", True),
        ("cdn.good.example", True),
        ("notgood.example", False),
        ("good.example.evil.example", False),
        ("example", False),
        ("other.example", False),
    ],
)
def test_a_list_of_domains_ends_at_the_borders_of_labels(host: str, is_listed: bool) -> None:  # noqa: FBT001
    network = watched([PUBLIC])

    assert is_tried(network, f"https://{host}/", hosts=("good.example",)) is is_listed
    assert bool(network.resolved) is is_listed


def test_a_listed_domain_may_not_lead_inside_either() -> None:
    assert not is_tried(watched(["10.0.0.1"]), hosts=("good.example",))


def test_http_is_for_those_who_ask_for_it() -> None:
    doors = frozenset({("http", 80)})

    assert is_tried(watched([PUBLIC]), "http://good.example/", doors=doors)
    assert not is_tried(watched([PUBLIC]), "https://good.example/", doors=doors)


def test_images_can_be_switched_off_and_webhooks_stay() -> None:
    network = watched([PUBLIC])
    fetcher = Fetcher(Rules(may_get=False), network.network())

    with pytest.raises(FetchError):
        fetcher.get("https://good.example/")
    assert network.resolved == []
    with pytest.raises(FetchError):
        fetcher.post("https://good.example/", b"{}")
    assert network.connected == [PUBLIC]


def test_the_settings_are_the_rules() -> None:
    networks, exempt = (ip_network("93.184.0.0/16"),), (ip_network("10.1.0.0/16"),)
    settings = Settings(image_fetch="off", fetch_hosts=("good.example",), fetch_internal=networks, fetch_exempt=exempt)

    assert Fetcher.of(Settings())._rules == Rules()
    assert Fetcher.of(settings)._rules == Rules(("good.example",), networks, may_get=False, exempt=exempt)


@pytest.mark.parametrize("redirects", [-1, 3])
def test_more_than_two_redirects_are_not_to_be_had(redirects: int) -> None:
    with pytest.raises(ValueError, match="redirects"):
        Rules(redirects=redirects)


@pytest.mark.parametrize(
    ("location", "goes_to"),
    [
        ("/b", "https://good.example/b"),
        ("b", "https://good.example/a/b"),
        ("?b", "https://good.example/a/?b"),
        ("//other.example/b", "https://other.example/b"),
        ("https://other.example/b#c", "https://other.example/b"),
        ("http://other.example/", None),
        ("//user@other.example/", None),
        ("\\\\other.example", None),
        ("//[::1", None),
        ("file:///etc/passwd", None),
        ("/é", None),
    ],
)
def test_a_redirect_is_taken_apart_like_any_url(location: str, goes_to: str | None) -> None:
    here = Target.parse("https://good.example/a/")

    if goes_to is None:
        with pytest.raises(RefusedError):
            here.redirected(location)
    else:
        assert here.redirected(location) == Target.parse(goes_to)


@pytest.mark.parametrize("name", ["Authorization", "cookie", "HOST", "Accept-Encoding", "Content-Length"])
def test_headers_of_the_door_are_not_to_be_set(name: str) -> None:
    with pytest.raises(ValueError, match=name.lower()):
        Fetcher(Rules(), watched([PUBLIC]).network()).post("https://good.example/", b"{}", {name: "x"})


@pytest.mark.parametrize(
    ("url", "host", "reason"),
    [
        ("https://good.example/path?query=secret", "good.example", "ConnectionRefusedError"),
        ("https://secret:secret@good.example/path", None, "not the form of a URL"),
        ("https://127.0.0.1/path?secret", "127.0.0.1", "not the name of a public host"),
        ("https://good.example:8443/path?secret", "good.example", "another scheme or port"),
    ],
)
def test_the_log_has_the_host_and_the_reason_and_nothing_else(url: str, host: str | None, reason: str) -> None:
    with capture_logs() as logs:
        assert is_tried(watched([PUBLIC]), url) is (reason == "ConnectionRefusedError")

    told = {"event": "url not reached", "log_level": "info", "part": "fetch"}
    assert logs == [told | {"host": host, "reason": reason}]
