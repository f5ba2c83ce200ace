import os
import select
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from common.settings import Settings
from ops.embedded import Embedded, EmbeddedError, Server, binary, external, free_port


@pytest.fixture
def embedded(tmp_path: Path) -> Iterator[Embedded]:
    embedded = Embedded(Settings(data_dir=tmp_path))
    yield embedded
    embedded.stop()


def _client(url: str) -> Any:
    return redis.Redis.from_url(url)


def _pid(server: Server) -> int:
    assert server.pid is not None
    return server.pid


def test_it_answers_with_a_password_and_keeps_what_it_is_told(embedded: Embedded) -> None:
    server = embedded.start()

    with _client(server.url) as client:
        config = client.config_get("*")
    assert (config["bind"], config["appendonly"], config["appendfsync"]) == ("127.0.0.1", "yes", "everysec")
    assert (config["maxmemory"], config["maxmemory-policy"]) == (str(2**30), "noeviction")
    assert len(config["requirepass"]) > 30
    assert config["unixsocket"] == ""
    assert embedded.url_file.stat().st_mode & 0o077 == 0


def test_the_start_line_names_the_server_without_its_password(embedded: Embedded) -> None:
    server = embedded.start()

    password = server.url.split("@")[0].removeprefix("redis://:")
    assert "(started) at redis://127.0.0.1:" in server.label
    assert password not in server.label


def test_a_living_one_is_adopted_after_our_crash(embedded: Embedded, tmp_path: Path) -> None:
    first = embedded.start()
    embedded.unlock()  # what the kernel does when we die

    second = Embedded(Settings(data_dir=tmp_path))
    again = second.start()
    second.unlock()

    assert (again.url, again.pid) == (first.url, first.pid)
    assert "adopted" in again.label


def test_one_that_does_not_answer_is_never_doubled(embedded: Embedded, tmp_path: Path) -> None:
    pid = _pid(embedded.start())
    embedded.unlock()
    os.kill(pid, signal.SIGSTOP)

    second = Embedded(Settings(data_dir=tmp_path), start_s=0.5)
    with pytest.raises(EmbeddedError, match=f"process {pid}"):
        second.start()

    second.unlock()
    os.kill(pid, signal.SIGCONT)


def test_an_adopted_one_is_stopped_by_its_new_owner(embedded: Embedded, tmp_path: Path) -> None:
    pid = _pid(embedded.start())
    embedded.unlock()
    second = Embedded(Settings(data_dir=tmp_path))
    second.start()
    gone = os.pidfd_open(pid)

    second.stop()

    assert select.select([gone], [], [], 0)[0]
    os.close(gone)


def test_a_killed_one_comes_back_with_everything(embedded: Embedded) -> None:
    first = embedded.start()
    with _client(first.url) as client:
        client.rpush("log", *range(1000))
    os.kill(_pid(first), signal.SIGKILL)

    again = embedded.restart()

    assert again.url == first.url
    with _client(again.url) as client:
        assert client.llen("log") == 1000


def test_a_stopped_one_comes_back_with_everything(tmp_path: Path) -> None:
    first = Embedded(Settings(data_dir=tmp_path))
    with _client(first.start().url) as client:
        client.rpush("log", *range(1000))
    first.stop()

    second = Embedded(Settings(data_dir=tmp_path))
    with _client(second.start().url) as client:
        assert client.llen("log") == 1000
    second.stop()


def test_a_folder_has_one_owner(embedded: Embedded, tmp_path: Path) -> None:
    embedded.start()

    with pytest.raises(EmbeddedError, match="another penstock runs"):
        Embedded(Settings(data_dir=tmp_path)).start()


def test_a_taken_port_is_left_to_its_owner(tmp_path: Path) -> None:
    first = Embedded(Settings(data_dir=tmp_path))
    url = first.start().url
    first.stop()
    port = int(url.rsplit(":", 1)[1].split("/")[0])

    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(("127.0.0.1", port))
        other.listen()
        again = Embedded(Settings(data_dir=tmp_path))
        assert again.start().url != url
        again.stop()


def test_an_unreachable_redis_is_named_without_its_password() -> None:
    with pytest.raises(EmbeddedError, match=r"redis://127\.0\.0\.1:1/0 does not answer") as error:
        external("redis://:secret@127.0.0.1:1/0")

    assert "secret" not in str(error.value)


def test_a_wrong_password_is_said_to_be_wrong(server_url: str) -> None:
    with pytest.raises(EmbeddedError, match="refuses our password"):
        external(server_url.replace("redis://:", "redis://:not-"))


def test_an_external_redis_is_used_as_it_is(server_url: str) -> None:
    server = external(server_url)

    assert (server.url, server.pid) == (server_url, None)
    assert "(external)" in server.label


def test_a_foreign_process_with_the_old_number_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "redis").mkdir()
    with subprocess.Popen(
        [str(binary()), "--port", str(free_port()), "--save", ""], stdout=subprocess.DEVNULL
    ) as other:
        (tmp_path / "redis" / "server.pid").write_text(str(other.pid))
        embedded = Embedded(Settings(data_dir=tmp_path))

        started = embedded.start()

        embedded.stop()
        assert started.pid != other.pid
        assert other.poll() is None
        other.terminate()
