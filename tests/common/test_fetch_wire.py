"""Over real sockets; ``test_fetch_tls`` runs some of this again on greenlets."""

import json
import socket
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from structlog.testing import capture_logs

from common.door.fetch import Fetcher, Network
from common.door.targets import IPAddress, Rules
from common.errors import FetchError, UnavailableError
from ops.embedded import free_port
from tests.common.peer import OK, Peer, Watched, client_side, near, peer

HEAD = b"HTTP/1.1 200 OK\r\n"


def pinned(address: IPAddress, port: int, seconds: float) -> socket.socket:
    return Network(tls=client_side()).connect(address, port, seconds)


def reason(fetcher: Fetcher, port: int, *, most_bytes: int = 1000) -> str:
    """Why a get is refused."""
    with capture_logs() as logs, pytest.raises(FetchError):
        fetcher.get(f"http://good.example:{port}/", most_bytes=most_bytes)
    return str(logs[0]["reason"])


def endless(piece: bytes) -> Callable[[Peer, socket.socket], None]:
    """As fast as it is taken."""

    def say(it: Peer, connected: socket.socket) -> None:
        connected.sendall(HEAD + b"\r\n" if piece == b"x" else b"")
        while not it.is_over.is_set():
            connected.sendall(piece * 1000)

    return say


def test_what_stands_there_comes_back_and_nothing_of_ours_goes_out(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")

    with peer(OK) as it:
        found = near(it.port).get(f"http://good.example:{it.port}/a/b.png?c=d#e")

    assert found == b"hello"
    assert it.asked == [
        b"GET /a/b.png?c=d HTTP/1.1\r\nHost: good.example:%d\r\nUser-Agent: penstock\r\nAccept: */*\r\n"
        b"Accept-Encoding: identity\r\nConnection: close\r\n\r\n" % it.port
    ]


def test_json_is_posted_byte_for_byte_and_the_status_comes_back() -> None:
    with peer(b"HTTP/1.1 202 Accepted\r\nContent-Encoding: identity\r\n\r\n") as it:
        status = near(it.port).post(f"http://good.example:{it.port}/hook", b'{"a":  1}', {"webhook-id": "7"})

    head, _, body = it.asked[0].partition(b"\r\n\r\n")
    assert (status, body) == (202, b'{"a":  1}')
    assert head.split(b"\r\n")[0] == b"POST /hook HTTP/1.1"
    assert {b"webhook-id: 7", b"Content-Type: application/json", b"Content-Length: 9"} <= set(head.split(b"\r\n"))


@pytest.mark.parametrize("status", [204, 307, 404, 500])
def test_a_post_tells_every_status_and_follows_nothing(status: int) -> None:
    with peer(b"HTTP/1.1 %d X\r\nLocation: /b\r\nContent-Length: 0\r\n\r\n" % status) as it:
        told = near(it.port, rules={"redirects": 2}).post(f"http://good.example:{it.port}/", b"{}")

    assert (told, len(it.asked)) == (status, 1)


def test_the_answer_to_a_post_is_not_read_however_long_it_is() -> None:
    with peer(endless(b"x")) as it:
        assert near(it.port).post(f"http://good.example:{it.port}/", b"{}") == 200


@pytest.mark.parametrize(
    "said",
    [
        HEAD + b"Content-Length: 10\r\n\r\n0123456789",
        HEAD + b"\r\n0123456789",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n4\r\n0123\r\n6;x=y\r\n456789\r\n0\r\nT: u\r\n\r\n",
        b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" * 9 + HEAD + b"Content-Length: 10\r\n\r\n0123456789",
        HEAD + b"X: " + b"a" * 16000 + b"\r\nContent-Length: 10\r\n\r\n0123456789",
    ],
)
def test_a_body_of_just_the_size_that_is_allowed_is_taken(said: bytes) -> None:
    with peer(said) as it:
        assert near(it.port).get(f"http://good.example:{it.port}/", most_bytes=10) == b"0123456789"
        assert reason(near(it.port), it.port, most_bytes=9) == "too long a body"


def test_a_large_body_comes_whole() -> None:
    image = bytes(range(256)) * 4096

    with peer(HEAD + b"Content-Length: %d\r\n\r\n" % len(image) + image) as it:
        assert near(it.port).get(f"http://good.example:{it.port}/") == image


@pytest.mark.parametrize(
    ("said", "told"),
    [
        (HEAD + b"Content-Encoding: gzip\r\n\r\nx", "an encoded answer"),
        (HEAD + b"content-encoding: identity, br\r\n\r\nx", "an encoded answer"),
        (HEAD + b"Content-Length: 10\r\n\r\nshort", "RemoteProtocolError"),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n", "RemoteProtocolError"),
        (HEAD + b"Transfer-Encoding: gzip, chunked\r\n\r\n", "RemoteProtocolError"),
        (HEAD + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\nxx", "RemoteProtocolError"),
        (b"", "RemoteProtocolError"),
        (b"SSH-2.0-OpenSSH_9\r\n\r\n", "RemoteProtocolError"),
        (b"-ERR unknown command 'GET'\r\n\r\n", "RemoteProtocolError"),
        (b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n", "RemoteProtocolError"),
        (b"HTTP/1.1 206 Partial Content\r\nContent-Length: 1\r\n\r\nx", "status 206"),
        (b"HTTP/1.1 302 Found\r\nLocation: /b\r\nContent-Length: 0\r\n\r\n", "status 302"),
        (b"HTTP/1.1 404 Not Found\r\nContent-Length: 1\r\n\r\nx", "status 404"),
        (HEAD + b"X: " + b"a" * 17000 + b"\r\n\r\n", "too long a head"),
        (HEAD + b"X: y\r\n" * 3000 + b"\r\n", "too long a head"),
        (HEAD + b"X: " + b"a" * 90000 + b"\r\n\r\n", "RemoteProtocolError"),
        (endless(b"HTTP/1.1 100 Continue\r\n\r\n"), "far more bytes than body"),
        (endless(b"x"), "too long a body"),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + b"1;" + b"a" * 90000 + b"\r\n", "RemoteProtocolError"),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + b"1\r\nx\r\n" * 90000, "far more bytes than body"),
    ],
)
def test_an_answer_that_is_none_of_ours_is_refused(
    said: bytes | Callable[[Peer, socket.socket], None], told: str
) -> None:
    with peer(said) as it:
        assert reason(near(it.port), it.port, most_bytes=200_000) == told


@pytest.mark.parametrize(
    ("start", "drop"),
    [(b"", b""), (b"", b"H"), (HEAD, b"X: y\r\n"), (HEAD + b"Content-Length: 99999\r\n\r\n", b"x")],
)
def test_a_drip_does_not_outlive_the_deadline(start: bytes, drop: bytes) -> None:
    def say(it: Peer, connected: socket.socket) -> None:
        connected.sendall(start)
        it.drip(connected, drop)

    with peer(say) as it:
        assert reason(near(it.port, deadline_s=0.3), it.port, most_bytes=99999) == "TimeoutError"


def test_who_does_not_take_what_is_posted_does_not_outlive_the_deadline() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        with pytest.raises(FetchError):
            near(port, deadline_s=0.3).post(f"http://good.example:{port}/", b"x" * 2**25)


@pytest.mark.parametrize("hops", [0, 1, 2])
def test_redirects_are_followed_as_far_as_they_are_allowed(hops: int) -> None:
    moved = b"HTTP/1.1 302 Found\r\nLocation: /next\r\n\r\n"

    with peer(*[moved] * hops, OK) as it:
        network = Watched(["127.0.0.1"], connect=pinned)
        fetcher = near(it.port, network.network(), rules={"redirects": hops})

        assert fetcher.get(f"http://good.example:{it.port}/") == b"hello"
        assert network.resolved == ["good.example"] * (hops + 1)
    with peer(*[moved] * (hops + 1), OK) as it:
        assert reason(near(it.port, rules={"redirects": hops}), it.port) == "status 302"
        assert len(it.asked) == hops + 1


@pytest.mark.parametrize(
    ("location", "told"),
    [
        ("http://inside.example:{port}/", "not only public addresses"),
        ("http://127.0.0.1:{port}/", "not the name of a public host"),
        ("http://good.example:1/", "another scheme or port"),
        ("http://user@good.example:{port}/", "not the form of a URL"),
    ],
)
def test_a_redirect_passes_every_check_again(location: str, told: str) -> None:
    def say(it: Peer, connected: socket.socket) -> None:
        connected.sendall(b"HTTP/1.1 302 Found\r\nLocation: %s\r\n\r\n" % location.format(port=it.port).encode())

    with peer(say) as it:
        network = Watched(["127.0.0.1"], ["10.0.0.1"], connect=pinned)

        assert reason(near(it.port, network.network(), rules={"redirects": 2}), it.port) == told
        assert (len(it.asked), network.connected) == (1, ["127.0.0.1"])


def test_a_name_whose_answer_changes_is_reached_where_it_was_checked() -> None:
    with peer(OK) as it:
        network = Watched(["127.0.0.1"], ["10.0.0.1"], connect=pinned)

        assert near(it.port, network.network()).get(f"http://good.example:{it.port}/") == b"hello"
        assert (network.resolved, network.connected) == (["good.example"], ["127.0.0.1"])


def test_a_host_of_two_addresses_is_reached_at_the_one_that_answers() -> None:
    with peer(OK) as it:
        network = Watched(["127.0.0.2", "127.0.0.1"], connect=pinned)

        assert near(it.port, network.network()).get(f"http://good.example:{it.port}/") == b"hello"
        assert network.connected == ["127.0.0.2", "127.0.0.1"]


def test_a_peer_with_another_address_is_asked_nothing() -> None:
    def astray(_address: IPAddress, port: int, _seconds: float) -> socket.socket:
        return socket.create_connection(("127.0.0.1", port))

    with peer(OK) as it:
        network = Watched(["93.184.216.34"], connect=astray)

        assert reason(near(it.port, network.network()), it.port) == "the peer has another address"
    assert it.asked == []


def test_errors_are_equal_bytes_whatever_was_there() -> None:
    with peer(b"HTTP/1.1 403 Forbidden\r\nServer: inside\r\n\r\nno") as it:
        closed = free_port()
        ways = [
            (near(it.port), f"http://good.example:{it.port}/"),
            (near(closed), f"http://good.example:{closed}/"),
            (near(it.port), "http://127.0.0.1/"),
            (near(it.port, Watched(["10.0.0.1"], connect=pinned).network()), f"http://good.example:{it.port}/"),
            (near(it.port), "no URL"),
        ]

        told = set()
        for fetcher, url in ways:
            with pytest.raises(FetchError) as refused:
                fetcher.get(url, param="url", code="invalid_image_url")
            told.add((refused.value.status, json.dumps(refused.value.body())))
            assert refused.value.__context__ is None

    error = {"message": "The URL could not be fetched.", "type": "invalid_request_error"}
    assert told == {(400, json.dumps({"error": error | {"param": "url", "code": "invalid_image_url"}}))}


class Gate:
    """A way on which everybody is stopped until it opens."""

    def __init__(self) -> None:
        self.came, self.opens = threading.Semaphore(0), threading.Event()

    def pass_through(self, *_: object) -> socket.socket:
        self.came.release()
        self.opens.wait(30)
        raise ConnectionRefusedError

    def number(self) -> int:
        """How many have come by now."""
        number = 0
        while self.came.acquire(timeout=0.3):
            number += 1
        return number

    def fetcher(self, *, deadline_s: float, at_once: int) -> Fetcher:
        network = Network(resolve=lambda _: ["93.184.216.34"], connect=self.pass_through, own=list, tls=client_side())
        return Fetcher(Rules(), network, deadline_s=deadline_s, at_once=at_once)


@pytest.mark.parametrize(("at_once", "number"), [(16, 4), (3, 3)])
def test_the_urls_of_one_request_are_fetched_four_at_once(at_once: int, number: int) -> None:
    gate = Gate()
    fetcher = gate.fetcher(deadline_s=30, at_once=at_once)

    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(fetcher.get_all, {f"urls[{place}]": "https://good.example/" for place in range(8)})
        inside = gate.number()
        gate.opens.set()

    assert inside == number
    error = asked.exception()
    assert isinstance(error, FetchError)
    assert error.param == "urls[0]"


def test_the_urls_of_one_request_come_back_by_their_fields() -> None:
    with peer(OK) as it:
        url = f"http://good.example:{it.port}/"

        assert near(it.port).get_all({"a": url, "b": url}) == {"a": b"hello", "b": b"hello"}
        assert near(it.port).get_all({}) == {}


def test_who_finds_every_turn_taken_is_told_to_come_back() -> None:
    gate = Gate()
    fetcher = gate.fetcher(deadline_s=0.2, at_once=2)

    with ThreadPoolExecutor(2) as pool:
        asked = [pool.submit(fetcher.get, "https://good.example/") for _ in range(2)]
        assert gate.number() == 2
        with pytest.raises(UnavailableError) as busy:
            fetcher.post("https://good.example/", b"{}")
        gate.opens.set()

    assert busy.value.retry_after_s
    assert {type(one.exception()) for one in asked} == {FetchError}
    with pytest.raises(FetchError):
        fetcher.get("https://good.example/")


def test_a_resolver_that_hangs_holds_up_nobody_for_long_and_not_without_end() -> None:
    asked: list[str] = []
    opens = threading.Event()

    def hang(host: str) -> list[str]:
        asked.append(host)
        opens.wait(30)
        return ["93.184.216.34"]

    fetcher = Fetcher(Rules(), Network(resolve=hang, own=list, tls=client_side()), deadline_s=0.05)
    for number in range(8):
        with pytest.raises(FetchError):
            fetcher.get(f"https://a{number}.example/")
    with pytest.raises(UnavailableError):
        fetcher.get("https://a8.example/")
    opens.set()

    assert asked == [f"a{number}.example" for number in range(8)]


def test_a_name_that_is_not_known_is_one_error_more() -> None:
    def unknown(host: str) -> list[str]:
        raise socket.gaierror(socket.EAI_NONAME, host)

    assert (
        reason(Fetcher(Rules(doors=frozenset({("http", 80)})), Network(resolve=unknown, tls=client_side())), 80)
        == "gaierror"
    )
