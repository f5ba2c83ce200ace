import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from common.door.fetch import Fetcher, Network
from common.errors import FetchError
from common.settings import REPOSITORY, bare_environment
from tests.common.peer import OK, Peer, certificate, near, peer, server_side

GREENLETS = """
from gevent import monkey; monkey.patch_all()
import sys, pytest
sys.exit(pytest.main(["-q", "-p", "no:cacheprovider", *sys.argv[1:]]))
"""


@pytest.fixture(scope="session")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if shutil.which("openssl") is None:
        pytest.skip("no openssl program, which makes the certificates")
    return certificate(tmp_path_factory.mktemp("tls"), "good.example")


def trusting(port: int, *trusted: Path, **changes: Any) -> Fetcher:
    """The door's own context, which trusts one more."""
    network = Network(resolve=lambda _: ["127.0.0.1"])
    for path in trusted:
        network.tls.load_verify_locations(path)
    return near(port, network, **changes)


def reason(fetcher: Fetcher, url: str) -> str:
    with capture_logs() as logs, pytest.raises(FetchError):
        fetcher.get(url)
    return str(logs[0]["reason"])


def test_who_proves_the_name_is_asked(good: Path) -> None:
    image = bytes(range(256)) * 1024
    said = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(image) + image

    with peer(said, OK, context=server_side(good)) as it:
        fetcher = trusting(it.port, good)

        assert fetcher.get(f"https://good.example:{it.port}/a") == image
        assert fetcher.post(f"https://good.example:{it.port}/", bytes(100_000)) == 200
    assert it.asked[0].startswith(b"GET /a HTTP/1.1\r\n")
    assert it.asked[1].endswith(bytes(100_000))


def test_the_name_is_told_to_the_server(good: Path) -> None:
    context = server_side(good)
    told: list[str | None] = []
    context.sni_callback = lambda _socket, name, _context: told.append(name)

    with peer(OK, context=context) as it:
        trusting(it.port, good).get(f"https://good.example:{it.port}/")

    assert told == ["good.example"]


def test_a_certificate_for_another_name_is_refused(good: Path) -> None:
    with peer(OK, context=server_side(good)) as it:
        told = reason(trusting(it.port, good), f"https://other.example:{it.port}/")

    assert told == "Hostname mismatch, certificate is not valid for 'other.example'."
    assert it.asked == []


def test_a_certificate_that_nobody_vouches_for_is_refused(good: Path, tmp_path: Path) -> None:
    mine = certificate(tmp_path, "good.example")

    with peer(OK, context=server_side(mine)) as it:
        assert reason(trusting(it.port, good), f"https://good.example:{it.port}/") == "self-signed certificate"
        assert reason(trusting(it.port), f"https://good.example:{it.port}/") == "self-signed certificate"
    assert it.asked == []


def test_a_peer_without_tls_is_refused(good: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        assert reason(trusting(port, good, deadline_s=0.3), f"https://good.example:{port}/") == "TimeoutError"


def test_a_body_that_ends_without_a_farewell_may_be_cut_and_is_refused(good: Path) -> None:
    with peer(b"HTTP/1.1 200 OK\r\n\r\nhello", context=server_side(good)) as it:
        assert reason(trusting(it.port, good), f"https://good.example:{it.port}/") == "SSLEOFError"


def test_https_does_not_become_http(good: Path) -> None:
    def say(it: Peer, connected: socket.socket) -> None:
        connected.sendall(b"HTTP/1.1 302 Found\r\nLocation: http://good.example:%d/\r\n\r\n" % it.port)

    with peer(say, context=server_side(good)) as it:
        fetcher = trusting(it.port, good, rules={"redirects": 2})
        told = reason(fetcher, f"https://good.example:{it.port}/")

    assert (told, len(it.asked)) == ("a redirect from https to http", 1)


def test_a_handshake_that_drips_does_not_outlive_the_deadline(good: Path) -> None:
    def say(it: Peer, connected: socket.socket) -> None:
        connected.sendall(b"\x16\x03\x03\x40\x00\x02\x00\x3f\xfc")  # the head of a record of 16 KiB
        it.drip(connected, b"x")

    with peer(say, is_deaf=True) as it:
        assert reason(trusting(it.port, good, deadline_s=0.3), f"https://good.example:{it.port}/") == "TimeoutError"


def test_all_waiting_is_the_same_on_greenlets() -> None:
    files = [str(Path(__file__).with_name(name)) for name in ("test_fetch_wire.py", "test_fetch_tls.py")]
    told = "proves or large or deadline or turn or four or hangs"  # what waits, and for whom
    words = [sys.executable, "-c", GREENLETS, *files, "-k", told]

    done = subprocess.run(words, cwd=REPOSITORY, env=bare_environment(), capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stdout
