"""What tokens say: many together as text, one alone as the bytes it stands for."""

import json
import re
from collections.abc import Sequence
from functools import cache
from typing import Any

from tokenizers import Tokenizer

_BYTE = re.compile(r"<0x([0-9A-F]{2})>")
_PRINTED = (range(0x21, 0x7F), range(0xA1, 0xAD), range(0xAE, 0x100))  # bytes that byte-level alphabets leave alone


class Pieces:
    """One tokenizer's tokens; knows byte-level BPE, SentencePiece with byte fallback, WordPiece and plain words."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._whole = {at: token.content.encode() for at, token in tokenizer.get_added_tokens_decoder().items()}
        self._decoders = _decoders(tokenizer)
        kinds = {decoder["type"] for decoder in self._decoders}
        self._is_byte_level, self._has_bytes = "ByteLevel" in kinds, "ByteFallback" in kinds
        self.spell = cache(self._spelled)

    def decode(self, tokens: Sequence[int]) -> str:
        """Their text, without special tokens."""
        return str(self._tokenizer.decode(tokens))

    def _spelled(self, token: int) -> bytes:
        """One token's part of a text; nothing for an id that the tokenizer does not have."""
        if token in self._whole:
            return self._whole[token]
        word = self._tokenizer.id_to_token(token) or ""
        if self._is_byte_level:
            return b"".join(_BYTES.get(letter) or letter.encode() for letter in word)
        if self._has_bytes and (found := _BYTE.fullmatch(word)):
            return bytes.fromhex(found[1])
        for decoder in self._decoders:
            word = _decoded(word, decoder)
        return word.encode()


def _decoders(tokenizer: Tokenizer) -> list[dict[str, Any]]:
    """The steps from tokens to text, as the tokenizer's file names them."""
    if tokenizer.decoder is None:
        return []
    told = json.loads(tokenizer.decoder.__getstate__())
    return list(told["decoders"]) if told["type"] == "Sequence" else [told]


def _decoded(word: str, decoder: dict[str, Any]) -> str:
    """A token that stands in the middle of a text, through one of these steps."""
    match decoder:
        case {"type": "Replace", "pattern": {"String": old}, "content": new}:
            return word.replace(old, new)
        case {"type": "Metaspace", "replacement": space}:
            return word.replace(space, " ")
        case {"type": "WordPiece", "prefix": prefix}:
            return word.removeprefix(prefix) if word.startswith(prefix) else f" {word}"
        case {"type": "BPEDecoder", "suffix": suffix}:
            return word.removesuffix(suffix) + " " * word.endswith(suffix)
    return word


def _alphabet() -> dict[str, bytes]:
    """GPT-2's: bytes that print badly are letters from U+0100 on."""
    shown = [byte for part in _PRINTED for byte in part]
    hidden = [byte for byte in range(256) if byte not in shown]
    letters = [*map(chr, shown), *(chr(256 + at) for at in range(len(hidden)))]
    return {letter: bytes([byte]) for letter, byte in zip(letters, [*shown, *hidden], strict=True)}


_BYTES = _alphabet()
