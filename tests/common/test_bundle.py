import io
import tarfile
from pathlib import Path

from common.bundle import packed, unpack


def test_files_come_back_as_they_were_packed(tmp_path: Path) -> None:
    files = {"a.json": b"{}", "b.txt": bytes(range(256))}

    unpack(packed(files), tmp_path)

    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == files


def test_the_same_files_give_the_same_bytes() -> None:
    assert packed({"b": b"1", "a": b"2"}) == packed({"a": b"2", "b": b"1"})


def test_what_would_leave_the_folder_is_left_out(tmp_path: Path) -> None:
    blob = io.BytesIO()
    with tarfile.open(fileobj=blob, mode="w") as tar:
        for name, kind in (
            ("../up", b"0"),
            ("/abs", b"0"),
            ("sub/in", b"0"),
            ("link", b"2"),
            ("..", b"0"),
            ("ok", b"0"),
        ):
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname = kind, "ok"
            tar.addfile(entry)
    inside = tmp_path / "inside"
    inside.mkdir()

    unpack(blob.getvalue(), inside)

    assert [path.name for path in tmp_path.rglob("*")] == ["inside", "ok"]
