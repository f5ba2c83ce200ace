"""Who a request belongs to: plain hashes, so that Redis never sees a name or a key."""

import hashlib
from dataclasses import dataclass

ANONYMOUS = "anonymous"


@dataclass(frozen=True, slots=True)
class Principal:
    """Who was let in: a verified user, else the key's id."""

    tenant: str = "default"
    user: str | None = None  # only when a password was right
    key_id: str = ANONYMOUS
    weight: float = 1.0  # of its turns: twice as much is twice the tokens, where others wait too

    @property
    def owner(self) -> str:
        """Whose objects these are: 128 bits, hexadecimal."""
        who = f"user\0{self.user}" if self.user is not None else f"key\0{self.key_id}"
        return _hash(self.tenant, who)

    def share(self, label: str | None) -> str:
        """Whose turn it is: the owner, or a user label inside it."""
        return self.owner if label is None else _hash(self.owner, label)


@dataclass(frozen=True, slots=True)
class Absent:
    """Whoever asked for something that is done without him: only his hash is kept."""

    owner: str
    weight: float = 1.0

    def share(self, label: str | None) -> str:
        """As a Principal's."""
        return self.owner if label is None else _hash(self.owner, label)


def named(owner: str, text: str) -> str:
    """What a client of this owner calls something, as a hash."""
    return _hash(owner, text)


def _hash(*parts: str) -> str:
    return hashlib.blake2b("\0".join(parts).encode(errors="replace"), digest_size=16).hexdigest()
