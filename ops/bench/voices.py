"""Ways of drawing from what a constraint allows, each bent on what constraints get wrong, and a tokenizer for them."""

import random
import sysconfig
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

from worker.constraints.matcher import Row

END = "<|end|>"
MARK = "<tool_call>"  # a special token that schemas may spell
_WORD = 32  # tokens in one number of a mask
_STRUCTURE = frozenset(b'{}[],:"')
_CLOSING = frozenset(b'"}]')
_SPACE = frozenset(b" \t\n\r")
_OFTEN = 1e4
_RARELY = 1e-4
_HASTE = 1e8


def trained(vocabulary: int, megabytes: float) -> Tokenizer:
    """A byte-level tokenizer, always the same on the same Python: trained on its library, and on rows of Unicode."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = [AddedToken(END, special=True), AddedToken(MARK, special=True)]
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_texts(int(megabytes * 2**20)), trainer)
    return tokenizer


def _texts(most: int) -> list[str]:
    """So many characters of sources, with JSON and other scripts among them."""
    texts, size = [], 0
    for path in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py")):
        texts.append(path.read_text(errors="replace"))
        size += len(texts[-1])
        if size > most:
            break
    rows = [" ".join(map(chr, range(at, at + 64))) for at in (*range(0xA0, 0x800, 64), *range(0x4E00, 0x5600, 64))]
    return [*texts, *rows * 3, '{"a": [1, 2.5, true, null], "b": {"c": "d"}}\n' * 200]


class Voices:
    """One tokenizer's tokens, and how much each policy likes them."""

    def __init__(self, spelled: Sequence[bytes], end: int) -> None:
        """``spelled``: the bytes of each token."""
        self.spelled, self.end = spelled, end
        self._hasty = self._weights(_hasty)
        self.policies = {name: self._weights(likes) for name, likes in POLICIES.items()}

    def _weights(self, likes: Callable[[bytes], float]) -> Any:
        weights = np.array([likes(text) if text else 1.0 for text in self.spelled])
        weights[self.end] = _HASTE**2 if likes is _hasty else 1.0
        return weights

    def speak(self, row: Row, policy: str, draws: random.Random, most: int) -> bytes | None:
        """What comes of it; None where it did not end. Raises BrokenConstraintError."""
        mask = np.zeros(-(-len(self.spelled) // _WORD), np.int32)
        said: list[int] = []
        patience, is_forced = draws.randrange(most // 2), draws.random() < 0.5  # noqa: PLR2004  a coin
        while len(said) < most and not row.is_done:
            row.fill(mask)
            token = self._drawn(mask, self.policies[policy] if len(said) < patience else self._hasty, draws)
            if token == self.end:
                return self._text(said)
            row.advance(token)
            said.append(token)
            for forced in row.forced() if is_forced else ():
                row.advance(forced)
                said.append(forced)
        return self._text(said) if row.is_done else None

    def _drawn(self, mask: Any, weights: Any, draws: random.Random) -> int:
        allowed = np.flatnonzero(np.unpackbits(mask.view(np.uint8), bitorder="little"))
        sums = weights[allowed].cumsum()
        return int(allowed[min(int(sums.searchsorted(draws.random() * sums[-1], "right")), len(allowed) - 1)])

    def _text(self, said: list[int]) -> bytes:
        return b"".join(self.spelled[token] for token in said if token != self.end)


def _hasty(text: bytes) -> float:
    """Whoever wants to come to an end."""
    if set(text) <= _CLOSING:
        return _HASTE
    return 1.0 / len(text) ** 2 if set(text) & _CLOSING else _RARELY / len(text)


def _uniform(_text: bytes) -> float:
    return 1.0


def _structure(text: bytes) -> float:
    return _OFTEN if set(text) <= _STRUCTURE else 1.0


def _spaces(text: bytes) -> float:
    return _OFTEN if set(text) & _SPACE else 1.0


def _strange(text: bytes) -> float:
    """Characters beyond ASCII, halves of them, escapes, and what only just is a character."""
    return _OFTEN if max(text) > 0x7E or b"\\" in text or min(text) < 0x20 else 1.0  # noqa: PLR2004  ASCII


def _long(text: bytes) -> float:
    return float(4 ** min(len(text), 16))


def _open(text: bytes) -> float:
    """Never closes what it can leave open."""
    return _RARELY if set(text) & _CLOSING else 1.0


def _digits(text: bytes) -> float:
    """Numbers, as long and as odd as they may be."""
    return _OFTEN if set(text) <= frozenset(b"0123456789.-+eE") else 1.0


POLICIES: dict[str, Callable[[bytes], float]] = {
    "uniform": _uniform,
    "structure": _structure,
    "spaces": _spaces,
    "strange": _strange,
    "long": _long,
    "open": _open,
    "digits": _digits,
}

_NAMES = ("a", "ab", "é", MARK, 'say "b"', "")
_VALUES: tuple[Any, ...] = (
    None,
    True,
    0,
    1.5,
    -3,
    10**12,
    "",
    "a",
    "é\U0001f388",
    END,
    "\x7f\\",
    [],
    [1, "a"],
    {},
    {"a": None},
    '"]}',
)
_STRINGS: tuple[dict[str, Any], ...] = (
    {},
    {"minLength": 2, "maxLength": 5},
    {"pattern": "^[a-c]+\\d{2}$"},
    {"pattern": "^\\W\\S*\\s$", "maxLength": 9},
    {"pattern": "x.y"},
    {"format": "date-time"},
    {"format": "ipv6"},
    {"format": "email"},
)
_NUMBERS: tuple[dict[str, Any], ...] = (
    {},
    {"minimum": -1.5, "exclusiveMaximum": 12},
    {"exclusiveMinimum": 99, "maximum": 1001},
    {"multipleOf": 3},
    {"multipleOf": 0.25, "minimum": 0},
    {"maximum": -0.001},
)


def generated(draws: random.Random, depth: int = 3) -> Any:
    """A schema that means something, of all that our lowering rewrites."""
    kinds = [_value, _string, _number, *(([_array, _object, _object, _logic] * 2) if depth else ())]
    schema: dict[str, Any] = draws.choice(kinds)(draws, depth - 1)
    return schema


def _value(draws: random.Random, _depth: int) -> dict[str, Any]:
    some = draws.sample(_VALUES, draws.randint(1, 4))
    return draws.choice(
        [{"const": some[0]}, {"enum": some}, {"type": ["null", "boolean"]}, {"not": {"enum": some[:2]}}]
    )


def _string(draws: random.Random, _depth: int) -> dict[str, Any]:
    return {"type": "string", **draws.choice(_STRINGS)}


def _number(draws: random.Random, _depth: int) -> dict[str, Any]:
    return {"type": draws.choice(["number", "integer"]), **draws.choice(_NUMBERS)}


def _array(draws: random.Random, depth: int) -> dict[str, Any]:
    told: dict[str, Any] = {"type": "array", "items": generated(draws, depth)}
    if draws.random() < 0.5:  # noqa: PLR2004  a coin
        told["prefixItems"] = [generated(draws, depth) for _ in range(draws.randint(1, 2))]
    extra: list[dict[str, Any]] = [
        {},
        {"minItems": 1, "maxItems": 3},
        {"uniqueItems": True},
        {"contains": {"type": "string"}},
        {"items": False},
    ]
    return told | draws.choice(extra)


def _object(draws: random.Random, depth: int) -> dict[str, Any]:
    names = draws.sample(_NAMES, draws.randint(1, 4))
    told: dict[str, Any] = {"type": "object", "properties": {name: generated(draws, depth) for name in names}}
    told["required"] = names[: draws.randint(0, len(names))]
    extra: list[dict[str, Any]] = [
        {},
        {"additionalProperties": False},
        {"additionalProperties": generated(draws, depth)},
        {"patternProperties": {"^x": generated(draws, depth)}, "additionalProperties": False},
        {"minProperties": 2, "additionalProperties": False},
        {"maxProperties": 2},
        {"propertyNames": {"maxLength": 3}},
        {"dependentRequired": {names[0]: [names[-1]]}},
        {"dependentSchemas": {names[0]: {"required": ["z"]}}},
        {"unevaluatedProperties": False, "allOf": [{"properties": {"z": True}}]},
    ]
    return told | draws.choice(extra)


def _logic(draws: random.Random, depth: int) -> dict[str, Any]:
    one, other = generated(draws, depth), generated(draws, depth)
    return draws.choice(
        [
            {"anyOf": [one, other]},
            {"oneOf": [one, other]},
            {"allOf": [one, {"not": {"const": "a"}}]},
            {"if": {"type": "string"}, "then": one, "else": other},
            {
                "$defs": {"d": one},
                "anyOf": [{"$ref": "#/$defs/d"}, other, {"type": "array", "items": {"$ref": "#/$defs/d"}}],
            },
            {
                "oneOf": [
                    {"type": "object", "properties": {"t": {"const": at}, "v": two}, "required": ["t", "v"]}
                    for at, two in enumerate((one, other))
                ]
            },
        ]
    )
