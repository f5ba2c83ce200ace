"""Draws without state: a number in [0, 1) for every (seed, choice, position).

Whoever continues a sequence, on whatever worker and beside whatever mates, draws the same numbers. One function serves
plain integers and int64 tensors: every step needs the low 64 bits only, so it does not matter that tensors wrap and
integers grow.
"""

from typing import Any

UNIT = 2.0**-53  # ``bits`` times this is the draw
_GOLDEN = 0x9E37_79B9_7F4A_7C15 - 2**64  # signed, as a tensor holds it
_FIRST, _SECOND = 0xBF58_476D_1CE4_E5B9 - 2**64, 0x94D0_49BB_1331_11EB - 2**64

Words = Any  # an int, or a torch.Tensor of int64


def stream(seed: int, choice: int) -> int:
    """The key of one sequence's draws: 64 bits, signed, as a tensor holds it."""
    word = int(_mixed(_mixed(seed) + choice)) & (2**64 - 1)
    return word - 2**64 if word >= 2**63 else word


def bits(key: Words, position: Words) -> Words:
    """The draw for the token at ``position`` (counted over prompt and answer), as a whole number below 2**53."""
    return _shifted(_mixed(key + position * _GOLDEN), 11)


def uniform(key: int, position: int) -> float:
    """The draw as a number in [0, 1)."""
    return float(bits(key, position) * UNIT)


def _mixed(word: Words) -> Words:
    """splitmix64."""
    word = word + _GOLDEN
    word = (word ^ _shifted(word, 30)) * _FIRST
    word = (word ^ _shifted(word, 27)) * _SECOND
    return word ^ _shifted(word, 31)


def _shifted(word: Words, by: int) -> Words:
    """A logical shift of 64 bits."""
    return (word >> by) & ((1 << (64 - by)) - 1)
