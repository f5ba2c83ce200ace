"""A tokenizer's files as one blob, from the worker that has them to the door that needs them."""

import io
import re
import tarfile
from collections.abc import Mapping
from pathlib import Path

_PLAIN = re.compile(r"\w[\w.-]*")


def packed(files: Mapping[str, bytes]) -> bytes:
    """A tar of these files; the same files give the same bytes."""
    blob = io.BytesIO()
    with tarfile.open(fileobj=blob, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name, content in sorted(files.items()):
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return blob.getvalue()


def unpack(blob: bytes, folder: Path) -> None:
    """Its files, into a folder; what is no plain file of a plain name is left out. Raises tarfile.TarError."""
    with tarfile.open(fileobj=io.BytesIO(blob)) as tar:
        for entry in tar:
            content = tar.extractfile(entry) if entry.isreg() else None
            if content is not None and _PLAIN.fullmatch(entry.name):
                (folder / entry.name).write_bytes(content.read())
