"""Files over HTTP, as the unchanged SDK speaks of them."""

import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest

from common.files import Files
from common.identity import Principal
from common.ledger.ledger import Ledger
from common.settings import Limits, Settings
from tests.api.conftest import FrontEnd, Serve

LINES = b'{"custom_id": "1"}\n' * 9
EDGE = b"--x\r\nContent-Disposition: form-data; name="


@pytest.fixture
def client(front: FrontEnd) -> Iterator[openai.OpenAI]:
    with front.client() as client:
        yield client


def post(front: FrontEnd, form: bytes, kind: str = "multipart/form-data; boundary=x") -> httpx2.Response:
    return httpx2.post(f"{front.base}/v1/files", content=form, headers={"content-type": kind}, timeout=20)


def test_a_file_comes_back_as_it_was_sent(client: openai.OpenAI) -> None:
    sent = client.files.create(file=("a name.jsonl", LINES), purpose="batch")

    assert (sent.bytes, sent.filename, sent.purpose, sent.status) == (len(LINES), "a name.jsonl", "batch", "processed")
    assert client.files.retrieve(sent.id) == sent
    assert client.files.content(sent.id).read() == LINES


def test_a_file_that_was_deleted_is_gone_with_its_bytes(client: openai.OpenAI, front: FrontEnd) -> None:
    sent = client.files.create(file=("x", LINES), purpose="user_data")

    assert client.files.delete(sent.id).deleted
    for gone in (client.files.retrieve, client.files.content, client.files.delete):
        with pytest.raises(openai.NotFoundError):
            gone(sent.id)
    assert not list(_folder(front).glob(sent.id))


def test_files_are_listed_page_by_page(client: openai.OpenAI) -> None:
    sent = [client.files.create(file=(str(at), LINES), purpose="batch").id for at in range(5)]
    other = client.files.create(file=("other", LINES), purpose="assistants").id

    newest = [file.id for file in client.files.list(limit=2, purpose="batch")]
    oldest = [file.id for file in client.files.list(limit=4, order="asc")]

    assert newest == sent[::-1]
    assert oldest == [*sent, other]


def test_a_file_may_expire(client: openai.OpenAI) -> None:
    sent = client.files.create(
        file=("x", LINES), purpose="batch", expires_after={"anchor": "created_at", "seconds": 7200}
    )

    assert sent.expires_at == sent.created_at + 7200


def test_the_purpose_may_stand_behind_the_file(front: FrontEnd) -> None:
    form = (
        EDGE
        + b'"file"; filename="../../up"\r\n\r\n\r\n\0bytes\r\n--x\r\n'
        + EDGE[5:]
        + b'"purpose"\r\n\r\nbatch\r\n--x--\r\n'
    )

    answer = post(front, form)

    assert (answer.status_code, answer.json()["bytes"], answer.json()["filename"]) == (200, 8, "../../up")


@pytest.mark.parametrize(
    ("form", "param"),
    [
        (EDGE + b'"purpose"\r\n\r\nbatch\r\n--x--\r\n', "file"),
        (EDGE + b'"file"; filename="a"\r\n\r\nx\r\n--x--\r\n', "purpose"),
        (EDGE + b'"file"; filename="a"\r\n\r\nx\r\n' + EDGE + b'"purpose"\r\n\r\nfine-tune\r\n--x--\r\n', "purpose"),
        (EDGE + b'"file"\r\n\r\nx\r\n--x--\r\n', "file"),
        (EDGE + b'"other"; filename="a"\r\n\r\nx\r\n--x--\r\n', "other"),
        (EDGE + b'"purpose"\r\n\r\n' + b"b" * 5000 + b"\r\n--x--\r\n", "purpose"),
        (EDGE + b'"file"; filename="a"\r\n\r\nx\r\n', None),
        (b"--x\r\n\r\n\r\n", None),
        (b"", None),
    ],
)
def test_a_form_that_says_no_file_is_refused_and_leaves_nothing(
    front: FrontEnd, form: bytes, param: str | None
) -> None:
    before = set(_folder(front).glob("file-*"))

    answer = post(front, form)

    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)
    assert set(_folder(front).glob("file-*")) == before


def test_what_is_no_form_is_415(front: FrontEnd) -> None:
    answers = [post(front, LINES, kind) for kind in ("application/json", "multipart/form-data", "text/plain")]

    assert [answer.status_code for answer in answers] == [415] * 3


def test_a_file_that_is_too_large_is_413_and_leaves_nothing(serve: Serve) -> None:
    with serve(limits__file_bytes="100000") as front, front.client() as client:
        kept = client.files.create(file=("x", b"x" * 100_000), purpose="batch")
        for size in (100_001, 10**6):
            with pytest.raises(openai.APIStatusError) as refused:
                client.files.create(file=("x", b"x" * size), purpose="batch")
            assert refused.value.status_code == 413
        left = [path.name for path in _folder(front).iterdir()]

    assert left == [kept.id]


def test_a_client_that_goes_in_mid_way_leaves_nothing(serve: Serve) -> None:
    with serve() as front:
        with socket.create_connection(("127.0.0.1", front.port)) as connection:
            head = "POST /v1/files HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form-data; boundary=x\r\n"
            form = EDGE + b'"file"; filename="a"\r\n\r\n' + b"x" * 100_000
            connection.sendall(f"{head}Content-Length: 900000\r\n\r\n".encode() + form)
        listed = httpx2.get(f"{front.base}/v1/files").json()["data"]
        for _ in range(200):
            left = list(_folder(front).glob("file-*"))
            if not left:
                break
            httpx2.get(f"{front.base}/health")

    assert (listed, left) == ([], [])


def test_an_owner_may_have_so_many(serve: Serve) -> None:
    with serve(limits__files="1") as front, front.client() as client:
        first = client.files.create(file=("x", LINES), purpose="batch")
        with pytest.raises(openai.BadRequestError) as refused:
            client.files.create(file=("x", LINES), purpose="batch")
        client.files.delete(first.id)
        client.files.create(file=("x", LINES), purpose="batch")

    assert refused.value.code == "too_many_files"


def test_files_of_others_look_like_none(serve: Serve) -> None:
    with serve(api_keys="one,two") as front:
        one, two = (openai.OpenAI(base_url=f"{front.base}/v1", api_key=key, max_retries=0) for key in ("one", "two"))
        with one, two:
            sent = one.files.create(file=("x", LINES), purpose="batch")
            told = set()
            for file_id in (sent.id, "file-" + "0" * 34, "file-x"):
                for ask in (two.files.retrieve, two.files.content, two.files.delete):
                    with pytest.raises(openai.NotFoundError) as refused:
                        ask(file_id)
                    told.add(refused.value.message)
            assert list(two.files.list()) == []
            assert one.files.content(sent.id).read() == LINES

    assert len(told) == 1


def test_what_has_expired_and_what_was_cut_off_is_swept_away(ledger: Ledger, tmp_path: Path) -> None:
    owner, settings = Principal().owner, Settings(data_dir=tmp_path, limits=Limits())
    files = Files(settings, ledger.partitions[0])
    kept, expired = (_written(files, owner, keep_s) for keep_s in (None, -1))
    cut_off, old = (files.open(name) for name in ("file-young", "file-old"))
    for one in (cut_off, old):
        one.close()
    os.utime(files.place("file-old"), (1, 1))

    files.sweep()

    assert [file.id for file in files.every(owner)] == [kept.id]
    assert sorted(path.name for path in (tmp_path / "files").iterdir()) == sorted([kept.id, "file-young"])
    assert files.get(owner, expired.id) is None


def _written(files: Files, owner: str, keep_s: int | None) -> Any:
    with files.draft() as draft:
        draft.write(b"x")
        return draft.keep(owner, "x", "batch", keep_s)


def _folder(front: FrontEnd) -> Path:
    return front.folder / "files"


def test_a_store_is_read_line_by_line_and_from_any_place(settings: Settings, ledger: Ledger) -> None:
    """One of those that know no readline with a limit, and have no descriptor."""
    files = Files(settings.model_copy(update={"files_url": "memory://some/where"}), ledger.partitions[0])
    with files.draft() as draft:
        draft.write(b"one\ntwo\nthree\n")
        file = draft.keep("0" * 32, "in", "batch")

    with files.opened(file.id) as opened:
        opened.seek(4)
        assert (opened.readline(2), opened.readline(9), opened.read()) == (b"tw", b"o\n", b"three\n")
    assert b"".join(files.read(file)) == b"one\ntwo\nthree\n"
    files.delete("0" * 32, file.id)
