"""Files that clients keep here: what is known of them stands in Redis, their bytes where fsspec puts them.

A file is there once Redis says so, and that is said when all its bytes are. Its place has a random name of ours, never
the client's; what was cut off in the middle was never there, and is swept away.
"""

import hashlib
import io
import os
import secrets
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any, Self

from fsspec import register_implementation
from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileOpener

from common import telemetry
from common.errors import BodyTooLargeError, InvalidRequestError, StorageError
from common.ledger import keys, wire
from common.ledger.partition import Partition
from common.ledger.replies import NEVER_AGAIN, Once
from common.settings import Settings

PREFIX = "file-"
_PIECE = 2**18
_BLOCK = 2**20  # of a store that is asked over the network
_CUT_OFF_S = 24 * 3600.0  # bytes without a file are nobody's after so long
_ROUND = 1000
log = telemetry.logger("files")
register_implementation("s3", "common.buckets.Bucket", clobber=True)  # imported where it is used


@dataclass(frozen=True, slots=True)
class File:
    """What is known of one."""

    id: str  # with its prefix
    owner: str
    name: str  # the client's: a label, no path
    purpose: str
    size: int  # bytes
    created: int  # Unix seconds
    expires: int | None = None
    parts: tuple[str, ...] = ()  # of one that grows: their names behind its id, in order

    def told(self) -> dict[str, str | int]:
        """As Redis keeps it."""
        told = asdict(self) | {"parts": ",".join(self.parts)}
        return {name: value for name, value in told.items() if value is not None}

    @classmethod
    def read(cls, raw: dict[bytes, bytes]) -> "File":
        """The same back."""
        told: dict[str, Any] = {name.decode(): value.decode() for name, value in raw.items()}
        told |= {name: int(told[name]) for name in ("size", "created", "expires") if name in told}
        return cls(**told | {"parts": tuple(filter(None, told.get("parts", "").split(",")))})


class Files:
    """All of them; the only way to their bytes."""

    def __init__(self, settings: Settings, part: Partition) -> None:
        """Nothing is opened yet."""
        self._part, self._limits = part, settings.limits
        self._url = settings.files_url or str(settings.data_dir.resolve() / "files")
        self._fs, self._root = url_to_fs(self._url)

    def draft(self) -> "Draft":
        """A place to write a new one to."""
        return Draft(self, self._limits.file_bytes)

    def get(self, owner: str, file_id: str) -> File | None:
        """None: not here, or not yours."""
        raw = self._part.ask(lambda: self._part.redis.hgetall(keys.file(self._part.tag, file_id)))
        file = File.read(raw) if raw else None
        return file if file is not None and file.owner == owner else None

    def every(self, owner: str, after: str | None = None, *, oldest_first: bool = False) -> Iterator[File]:
        """An owner's, the newest first; behind one of them."""
        part, key = self._part, keys.files_of(self._part.tag, owner)
        order = part.redis.zrange if oldest_first else part.redis.zrevrange
        ids: list[bytes] = part.ask(partial(order, key, 0, -1))
        start = ids.index(after.encode()) + 1 if after is not None and after.encode() in ids else 0
        for file_id in ids[start:]:
            if (file := self.get(owner, file_id.decode())) is not None:
                yield file

    def read(self, file: File) -> Iterator[bytes]:
        """Its bytes, in pieces. Raises StorageError before the first one."""
        for place in _places(file.id, file.parts):
            with self.opened(place) as opened:
                while piece := opened.read(_PIECE):
                    yield piece

    def opened(self, name: str) -> Any:
        """The bytes of this name, to be read from any place. Raises StorageError."""
        try:
            return io.BufferedReader(self._fs.open(self.place(name), "rb", block_size=_BLOCK))
        except OSError as error:
            raise StorageError("The file's bytes are not to be had now.", retry_after_s=5) from error

    def delete(self, owner: str, file_id: str) -> bool:
        """False: it was not here, or not yours."""
        file = self.get(owner, file_id)
        if file is None or not self._part.run("drop_file", file_id, owner):
            return False
        self._remove_all(file)
        return True

    def put(self, file: File, most: int | None = None, once: Once = NEVER_AGAIN) -> str:
        """Say that it is there, unless an equal request made one; the id of what stands.

        Raises InvalidRequestError, ConflictError and StorageError.
        """
        told = [text for pair in file.told().items() for text in pair]
        head = (file.id, file.owner, self._limits.files if most is None else most, file.expires or "", file.size)
        stands = wire.standing(self._part.run("put_file", *head, once.key, once.digest, *told))
        if stands is None:
            message = f"You have {self._limits.files} files here; delete some."
            raise InvalidRequestError(message, param="file", code="too_many_files")
        return stands

    def place(self, file_id: str) -> str:
        """Where its bytes lie: by an id of ours."""
        return f"{self._root}/{file_id}"

    def grow(self, file: File, parts: Sequence[str]) -> None:
        """One that consists of parts has these from now on; it is put if it was not there."""
        size = sum(int(part.partition("-")[2]) for part in parts)
        self.put(replace(file, parts=tuple(parts), size=size), sys.maxsize)

    def part(self, file_id: str, lines: bytes) -> str:
        """Write one part, under a name that nobody else gives and that tells its size. Raises StorageError."""
        name = f"{secrets.token_hex(8)}-{len(lines)}"
        out = self.open(f"{file_id}.{name}")
        try:
            with out:
                out.write(lines)
                _sync(out)
        except OSError as error:
            raise _full(error) from error
        return name

    def open(self, file_id: str) -> Any:
        """A place for its bytes. Raises StorageError."""
        try:
            self._fs.makedirs(self._root, exist_ok=True)
            return self._fs.open(self.place(file_id), "wb")
        except OSError as error:
            raise _full(error) from error

    def remove(self, file_id: str) -> None:
        """Its bytes, if there are any."""
        with suppress(FileNotFoundError):
            self._fs.rm_file(self.place(file_id))

    def sweep(self) -> None:
        """Delete what has expired, and the bytes of files that never came to be."""
        part = self._part
        for file_id in part.ask(
            lambda: part.redis.zrangebyscore(keys.files_expiring(part.tag), 0, time.time(), 0, _ROUND)
        ):
            if raw := part.ask(partial(part.redis.hgetall, keys.file(part.tag, file_id.decode()))):
                part.run("drop_file", file_id, "")
                self._remove_all(File.read(raw))
        if not self._fs.isdir(self._root):
            return
        for told in self._fs.ls(self._root, detail=True):
            file_id, since = told["name"].rsplit("/", 1)[-1], self._fs.modified(told["name"]).timestamp()
            if since < time.time() - _CUT_OFF_S and not self._exists(file_id.partition(".")[0]):
                self.remove(file_id)

    def _remove_all(self, file: File) -> None:
        for place in _places(file.id, file.parts):
            self.remove(place)

    def _exists(self, file_id: str) -> bool:
        return bool(self._part.ask(lambda: self._part.redis.exists(keys.file(self._part.tag, file_id))))


class Draft:
    """Bytes on their way to a file; a context, which leaves nothing behind unless ``keep`` was called."""

    def __init__(self, files: Files, most: int) -> None:
        self.id = f"{PREFIX}{secrets.token_hex(16)}00"
        self.size = 0
        self._seen = hashlib.sha256()
        self._files, self._most = files, most
        self._is_kept = False

    def __enter__(self) -> Self:
        self._out = self._files.open(self.id)
        return self

    def __exit__(self, *_: object) -> None:
        if not self._is_kept:
            with suppress(OSError):
                self._out.close()
            self._files.remove(self.id)

    def write(self, piece: bytes) -> None:
        """More of it. Raises BodyTooLargeError and StorageError."""
        self.size += len(piece)
        if self.size > self._most:
            raise BodyTooLargeError(f"A file may have {self._most} bytes.")
        self._seen.update(piece)
        try:
            self._out.write(piece)
        except OSError as error:
            raise _full(error) from error

    def keep(self, owner: str, name: str, purpose: str, keep_s: int | None = None, key: str = "") -> File:
        """That was all: it is a file now; or the one that an equal upload made under this idempotency key.

        Raises InvalidRequestError, ConflictError and StorageError.
        """
        try:
            _sync(self._out)
            self._out.close()
        except OSError as error:
            raise _full(error) from error
        created = int(time.time())
        file = File(self.id, owner, name, purpose, self.size, created, None if keep_s is None else created + keep_s)
        self._is_kept = True  # also where Redis took it and could not say so
        try:
            stands = self._files.put(file, once=Once(key, self._digest(name, purpose, keep_s)))
        except InvalidRequestError:
            self._is_kept = False
            raise
        self._is_kept = stands == self.id
        known = file if self._is_kept else self._files.get(owner, stands)
        if known is None:
            raise StorageError("The first file of this key has just been deleted; ask again.", retry_after_s=1)
        return known

    def _digest(self, *told: object) -> str:
        """Of what was written, and what was said of it."""
        return hashlib.sha256("\0".join((self._seen.hexdigest(), *map(str, told))).encode()).hexdigest()


def _places(file_id: str, parts: Sequence[str]) -> list[str]:
    return [f"{file_id}.{part}" for part in parts] or [file_id]


def _sync(out: Any) -> None:
    """Past the machine's own memory, where the place is a disk."""
    if isinstance(out, LocalFileOpener):
        out.flush()
        os.fsync(out.fileno())


def _full(error: OSError) -> StorageError:
    log.warning("a file could not be written", reason=str(error))
    return StorageError("The place for files takes nothing now; try again later.", retry_after_s=10)
