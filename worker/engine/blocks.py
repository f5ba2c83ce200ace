"""The pool of blocks that keys and values lie in: counted references, and full blocks found again by what they hold.

Plain bookkeeping: a block is a number. A full block has a name, made of all tokens up to its end and of a salt; who
reads the same tokens finds it, while it is in use and afterwards, until its place is needed.
"""

import hashlib
from array import array
from collections import OrderedDict
from collections.abc import Iterable, Sequence

Name = bytes
_NAME = 16  # bytes of one


class OutOfBlocksError(Exception):
    """None is free, and none is only kept."""


def names(tokens: Sequence[int], size: int, before: Name) -> list[Name]:
    """Of the blocks that these tokens fill, each made of the one before it; ``before`` stands in front of them all."""
    found = []
    for start in range(0, len(tokens) + 1 - size, size):
        held = array("q", tokens[start : start + size]).tobytes()
        before = hashlib.blake2b(held, digest_size=_NAME, key=before).digest()
        found.append(before)
    return found


class Blocks:
    """``count`` blocks of ``size`` tokens."""

    def __init__(self, count: int, size: int) -> None:
        self.count, self.size = count, size
        self._free = list(range(count - 1, -1, -1))
        self._users = [0] * count
        self._name: dict[int, Name] = {}  # of full blocks
        self._named: dict[Name, int] = {}
        self._kept: OrderedDict[int, None] = OrderedDict()  # named and unused, the longest unused first

    @property
    def available(self) -> int:
        """How many can be taken."""
        return len(self._free) + len(self._kept)

    @property
    def kept(self) -> int:
        """How many are only kept for those who may read the same."""
        return len(self._kept)

    def users(self, block: int) -> int:
        """Who has it."""
        return self._users[block]

    def need(self, tokens: int) -> int:
        """How many hold so many tokens."""
        return -(-tokens // self.size)

    def take(self, count: int) -> list[int]:
        """New ones. Raises OutOfBlocksError and takes none when there are too few."""
        if count > self.available:
            raise OutOfBlocksError
        taken = []
        for _ in range(count):
            if not self._free:
                self._forget(next(iter(self._kept)))
            block = self._free.pop()
            self._users[block] = 1
            taken.append(block)
        return taken

    def find(self, names: Iterable[Name]) -> list[int]:
        """The blocks of these names up to the first that is not here; they are in use now."""
        found = []
        for name in names:
            block = self._named.get(name)
            if block is None:
                break
            self._users[block] += 1
            self._kept.pop(block, None)
            found.append(block)
        return found

    def name(self, block: int, name: Name) -> None:
        """A block in use is full; another that holds the same stays the one that is found."""
        if name not in self._named and block not in self._name:
            self._name[block], self._named[name] = name, block

    def release(self, blocks: Iterable[int], *, keep: bool = True) -> None:
        """One user less of each; the last one leaves it for those who may read the same, or for nobody."""
        for block in blocks:
            self._users[block] -= 1
            if not keep:
                self._unname(block)
            if self._users[block]:
                continue
            if block in self._name:
                self._kept[block] = None
            else:
                self._free.append(block)

    def _forget(self, block: int) -> None:
        del self._kept[block]
        self._unname(block)
        self._free.append(block)

    def _unname(self, block: int) -> None:
        name = self._name.pop(block, None)
        if name is not None:
            del self._named[name]
