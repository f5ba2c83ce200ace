"""A copy of a tokenizer in which control tokens have names that no text spells; the ids stay."""

import json
import secrets
import string
from collections.abc import Collection, Mapping
from typing import Any

from tokenizers import Tokenizer

from common.door.words import remember_few

_SECRET = 24  # letters: nobody guesses them
_SAMPLE = "Grüße 世 {0} c\n {0}d{0}{0}"


class Renamed:
    """Reads text in which control tokens stand under their names, as the tokenizer would without any other ones."""

    def __init__(self, tokens: Tokenizer, ids: Mapping[str, int], unknown: Collection[int]) -> None:
        """``ids``: the control tokens; ``unknown``: what any text may become."""
        secret = "".join(secrets.choice(string.ascii_lowercase) for _ in range(_SECRET))
        # letters that no normaliser changes; the end goes together with no accent that follows
        self.names = {control: f"{secret}{at}_" for at, control in enumerate(ids)}
        self._tokens = Tokenizer.from_str(json.dumps(_renamed(json.loads(tokens.to_str()), self.names)))
        remember_few(self._tokens)
        # under its name it is what it was, wherever it stands; by its text it is not to be had any more
        self.is_true = self._tokens.get_vocab_size() == tokens.get_vocab_size() and all(
            self._is_same(tokens, control, at) and (at in unknown or at not in self.read(_SAMPLE.format(control)))
            for control, at in ids.items()
        )

    def read(self, text: str) -> list[int]:
        """Its ids."""
        ids: list[int] = self._tokens.encode(text, add_special_tokens=False).ids
        return ids

    def _is_same(self, tokens: Tokenizer, control: str, at: int) -> bool:
        name = self.names[control]
        was = tokens.encode(_SAMPLE.format(control), add_special_tokens=False).ids
        return self.read(_SAMPLE.format(name)) == was and self.read(name) == [at]


def _renamed(told: dict[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    """A tokenizer's description; what only matters to decoding and to whole documents is left out."""
    added = [one | {"content": names.get(one["content"], one["content"])} for one in told["added_tokens"]]
    nothing = dict.fromkeys(("post_processor", "decoder", "truncation", "padding"))
    return told | nothing | {"added_tokens": added, "model": _model(told["model"], names)}


def _model(model: dict[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    vocabulary, unknown = model["vocab"], model.get("unk_token")
    changed: dict[str, Any] = {"vocab": _vocabulary(vocabulary, names)}
    if unknown is not None:
        changed["unk_token"] = names.get(unknown, unknown)
    if "merges" in model:
        within = len(model.get("continuing_subword_prefix") or "")
        changed["merges"] = [pair for pair in model["merges"] if not {*pair, pair[0] + pair[1][within:]} & names.keys()]
    return model | changed


def _vocabulary(told: Any, names: Mapping[str, str]) -> Any:
    """Unigram has a list of pieces with scores, the others have ids by piece."""
    if isinstance(told, dict):
        return {names.get(piece, piece): at for piece, at in told.items()}
    return [[names.get(piece, piece), score] for piece, score in told]
