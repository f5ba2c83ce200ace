"""Files in S3."""

from collections.abc import Iterator
from contextlib import suppress

import pytest

from common.errors import BodyTooLargeError, StorageError
from common.files import Files
from common.ledger.ledger import Ledger
from common.settings import Settings
from tests.common import bucket_server

OWNER = "0" * 32
MUCH = bytes(range(256)) * 80_000  # 20 MB: three parts


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[bucket_server.Server]:
    with bucket_server.running() as server:
        told = {"ENDPOINT_URL": f"http://127.0.0.1:{server.server_port}", "DEFAULT_REGION": "us-east-1"}
        for name, value in (told | {"ACCESS_KEY_ID": "id", "SECRET_ACCESS_KEY": "key"}).items():
            monkeypatch.setenv(f"AWS_{name}", value)
        yield server


@pytest.fixture
def files(settings: Settings, ledger: Ledger, server: bucket_server.Server) -> Files:  # noqa: ARG001  it must run
    return Files(settings.model_copy(update={"files_url": "s3://bucket/some/where"}), ledger.partitions[0])


def kept(files: Files, content: bytes) -> str:
    with files.draft() as draft:
        for at in range(0, len(content), 2**18):
            draft.write(content[at : at + 2**18])
        return draft.keep(OWNER, "in", "batch").id


def test_a_file_comes_back_as_it_went(files: Files, server: bucket_server.Server) -> None:
    for content in (b"", b"short", MUCH):
        file = files.get(OWNER, kept(files, content))
        assert file is not None
        assert b"".join(files.read(file)) == content
        assert server.objects[f"bucket/some/where/{file.id}"] == content

    assert server.uploads == {}
    assert sum(call.startswith("PUT") for call in server.calls) == 2 + 3


def test_an_upload_that_came_before_under_its_key_leaves_nothing(files: Files, server: bucket_server.Server) -> None:
    kept_ids = set[str]()
    with files.draft() as first, files.draft() as second:
        for draft in (first, second):
            draft.write(MUCH)
        kept_ids.update(draft.keep(OWNER, "in", "batch", key="k").id for draft in (first, second))

    assert [f"bucket/some/where/{file_id}" for file_id in kept_ids] == list(server.objects)


def test_a_file_is_read_from_any_place_without_the_rest(files: Files, server: bucket_server.Server) -> None:
    name = kept(files, b"x" * 10_000_000 + b"one\ntwo\n" + b"y" * 10_000_000)
    server.calls.clear()

    with files.opened(name) as opened:
        opened.seek(10_000_000)
        lines = [opened.readline(9), opened.readline(2), opened.readline(9)]

    assert lines == [b"one\n", b"tw", b"o\n"]
    assert [call.split()[0] for call in server.calls] == ["HEAD", "GET"]


def test_what_was_cut_off_leaves_nothing(files: Files, server: bucket_server.Server) -> None:
    with suppress(BodyTooLargeError), files.draft() as draft:
        draft.write(MUCH)
        draft.write(bytes(600 * 2**20))
        raise AssertionError(draft.size)

    assert server.objects == {}


def test_parts_grow_and_what_nobody_knows_is_swept_away(files: Files, server: bucket_server.Server) -> None:
    name = kept(files, b"mine")
    lost = [files.part(f"file-{'a' * 34}", b"lost\n") for _ in range(7)]  # more than one page

    files.sweep()

    assert len(set(lost)) == 7
    assert list(server.objects) == [f"bucket/some/where/{name}"]
    assert files.delete(OWNER, name)
    assert server.objects == {}


def test_a_store_that_is_away_says_so(settings: Settings, ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"ENDPOINT_URL": "http://127.0.0.1:1", "ACCESS_KEY_ID": "id", "SECRET_ACCESS_KEY": "k"}.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    files = Files(settings.model_copy(update={"files_url": "s3://bucket/x"}), ledger.partitions[0])

    with pytest.raises(StorageError, match="not to be had"):
        files.opened("file-1")
    with pytest.raises(StorageError, match="takes nothing now"):
        files.part("file-1", b"line\n")
