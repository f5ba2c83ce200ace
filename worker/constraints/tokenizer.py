"""A model's tokens as the constraint engine knows them: bytes, one row for each logit.

The engine's own way in knows one end token, spells literals with special tokens, which its masks then refuse, and fails
on logits that are wider than the tokenizer. Here all ends count, text is spelled with ordinary tokens, and ids that the
tokenizer lacks are never allowed.
"""

import json
from collections.abc import Collection

from llguidance import LLTokenizer, TokenizerWrapper
from tokenizers import Tokenizer

from common.toolformat import is_marker
from worker.models.pieces import Pieces

_SAMPLE = 'Say {"a": [1.5, "é ü 中"], "b": null}!'


class _Words:
    """What ``TokenizerWrapper`` asks for."""

    bos_token_id = None

    def __init__(self, tokenizer: Tokenizer, pieces: Pieces, vocabulary: int, end_ids: Collection[int]) -> None:
        added = tokenizer.get_added_tokens_decoder().items()
        self.special_token_ids = sorted(at for at, token in added if at < vocabulary and is_marker(token))
        self.eos_token_id = next(iter(end_ids))
        self.tokens = [pieces.spell(at) for at in range(vocabulary)]
        self._ordinary = _without_added(tokenizer)
        special = set(self.special_token_ids)
        self._ids = {word: at for at, word in enumerate(self.tokens) if word and at not in special}
        self._longest = max(map(len, self._ids))

    def __call__(self, text: bytes) -> list[int]:
        """The tokenizer's own ids where they spell just this text, else the longest ones that do."""
        try:
            ids: list[int] = self._ordinary.encode(text.decode(), add_special_tokens=False).ids
        except UnicodeDecodeError:
            return self._greedy(text)
        is_same = b"".join(self.tokens[at] for at in ids) == text and not set(ids) & set(self.special_token_ids)
        return ids if is_same else self._greedy(text)

    def _greedy(self, text: bytes) -> list[int]:
        ids: list[int] = []
        at = 0
        while at < len(text):
            ends = range(min(len(text), at + self._longest), at, -1)
            end = next((end for end in ends if text[at:end] in self._ids), None)
            if end is None:
                return ids  # the engine goes on by itself from here
            ids.append(self._ids[text[at:end]])
            at = end
        return ids


def engine_tokenizer(tokenizer: Tokenizer, pieces: Pieces, vocabulary: int, end_ids: Collection[int]) -> LLTokenizer:
    """``vocabulary`` is the width of the logits. Takes about a second for 128,000 tokens."""
    words = TokenizerWrapper(_Words(tokenizer, pieces, vocabulary, end_ids))
    return LLTokenizer(words, n_vocab=vocabulary, eos_token=list(end_ids))


def spells(tokenizer: Tokenizer, pieces: Pieces) -> bool:
    """Whether its tokens, one behind the other, are the bytes of what they stand for; a space in front is forgiven."""
    ids = tokenizer.encode(_SAMPLE, add_special_tokens=False).ids
    return b"".join(map(pieces.spell, ids)).removeprefix(b" ") == _SAMPLE.encode()


def _without_added(tokenizer: Tokenizer) -> Tokenizer:
    """One that reads the text of an added token as any text."""
    told = json.loads(tokenizer.to_str())
    return Tokenizer.from_str(json.dumps(told | {"added_tokens": [], "padding": None, "truncation": None}))
