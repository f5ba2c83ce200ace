"""Which jobs a step is working on, in memory that the supervising parent can read after the engine died."""

import mmap
import os
import struct
from collections.abc import Collection
from typing import BinaryIO

_ID = 34
_MOST = 4096
_COUNT = struct.Struct("<I")


class HotFile:
    """A count and that many job ids; the count is written last, so a torn write charges nobody."""

    def __init__(self, file: BinaryIO) -> None:
        """``file`` is ``HotFile.make()``'s, or the same descriptor in the child."""
        self._map = mmap.mmap(file.fileno(), _COUNT.size + _ID * _MOST)

    @staticmethod
    def make() -> BinaryIO:
        """An unnamed file of the right size; a child inherits its descriptor."""
        file: BinaryIO = os.fdopen(os.memfd_create("penstock-hot"), "r+b", buffering=0)
        file.truncate(_COUNT.size + _ID * _MOST)
        return file

    def mark(self, job_ids: Collection[str]) -> None:
        """These jobs are in the step that begins."""
        self.clear()
        ids = "".join(sorted(job_ids)[:_MOST]).encode()
        self._map[_COUNT.size : _COUNT.size + len(ids)] = ids
        _COUNT.pack_into(self._map, 0, len(ids) // _ID)

    def clear(self) -> None:
        """No step is running."""
        _COUNT.pack_into(self._map, 0, 0)

    def read(self) -> frozenset[str]:
        """The jobs of the step under way."""
        (count,) = _COUNT.unpack_from(self._map, 0)
        ids = self._map[_COUNT.size : _COUNT.size + count * _ID].decode()
        return frozenset(ids[start : start + _ID] for start in range(0, len(ids), _ID))

    def close(self) -> None:
        """Unmap."""
        self._map.close()
