"""A new key: ``ps_<8 characters to know it by>_<32 random bytes>_<checksum>``, all letters and digits."""

import secrets
import string
import zlib

_LETTERS = string.digits + string.ascii_uppercase + string.ascii_lowercase


def new_key() -> str:
    """256 random bits; the checksum tells a mistyped key from a revoked one."""
    name = "".join(secrets.choice(_LETTERS) for _ in range(8))
    stem = f"ps_{name}_{_base62(secrets.randbits(256), 43)}"
    return f"{stem}_{_checksum(stem)}"


def is_whole(key: str) -> bool:
    """Whether it was copied in full."""
    stem, _, checksum = key.rpartition("_")
    return checksum == _checksum(stem)


def _checksum(stem: str) -> str:
    return _base62(zlib.crc32(stem.encode()), 6)


def _base62(number: int, width: int) -> str:
    digits = ""
    while number:
        number, digit = divmod(number, 62)
        digits = _LETTERS[digit] + digits
    return digits.rjust(width, _LETTERS[0])


if __name__ == "__main__":
    print(new_key())
