"""Client text that spells a control token stays text. Runs in the admission child only.

A chat template writes control tokens beside client text, and a tokenizer cannot tell one from the other. So client
text is marked inside of what would be a control token; when the template has written, whatever still spells one is the
template's own. It gets a name that no client can write, and a copy of the tokenizer, whose control tokens have these
names and their old ids, reads the text without the marks: all else is read as the tokenizer always does.
"""

import json
import re
from collections.abc import Iterable
from typing import Any

from tokenizers import Tokenizer

from common.door.template import RefusedError, Turn

_MARK, _EDGE = "\ufdd0", "\ufdd1"  # no characters, and never will be
_OURS = {"role", "content", "name", "tool_calls", "tool_call_id", "id", "type", "function", "arguments"}  # keys
_REFUSED = "Text that spells this model's control tokens cannot be kept apart from them here."

Tree = dict[str, Any]


class Control:
    """The control tokens of one tokenizer."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        added = tokenizer.get_added_tokens_decoder()
        self._ids = {token.content: at for at, token in added.items() if token.special and token.content}
        tree = _tree(self._ids)
        self._spelled = re.compile(_pattern(tree)) if tree else None
        self._begins = re.compile(f"(?={_pattern(tree)})") if tree else None
        self._heads = {word[:at] for word in self._ids for at in range(1, len(word))}
        self._longest = max(map(len, self._ids), default=0)
        self._copy: Tokenizer | None = None

    def marked(self, turns: list[Turn]) -> list[Turn] | None:
        """The turns with their marks; None where nothing has to be marked. Raises RefusedError."""
        if self._begins is None or not any(map(self._is_spelled, _strings(turns))):
            return None
        if any(_MARK in text or _EDGE in text for text in _strings(turns)):
            raise RefusedError(_REFUSED)
        return [
            {name: part if name == "role" else self._with_marks(part) for name, part in turn.items()} for turn in turns
        ]

    def prepare(self) -> None:
        """Have the copy at hand; making it takes a while. Raises RefusedError."""
        if self._copy is None:
            self._copy = _copied(self._tokenizer, self._ids)

    def ids(self, text: str) -> list[int]:
        """Of what the template wrote with marked turns."""
        self.prepare()
        if self._copy is None or self._spelled is None:
            raise RefusedError(_REFUSED)
        named = self._spelled.sub(lambda found: _named(found[0]), text).replace(_MARK, "")
        ids: list[int] = self._copy.encode(named, add_special_tokens=False).ids
        return ids

    def _is_spelled(self, text: str) -> bool:
        """Or could be, together with what the template puts behind it."""
        return (self._begins is not None and self._begins.search(text) is not None) or self._is_head(text)

    def _is_head(self, text: str) -> bool:
        return any(text[-size:] in self._heads for size in range(1, min(self._longest, len(text) + 1)))

    def _with_marks(self, part: Any) -> Any:
        if isinstance(part, str) and self._begins is not None:
            starts = [found.start() + 1 for found in self._begins.finditer(part)]
            cuts = zip([0, *starts], [*starts, None], strict=True)
            return _MARK.join(part[start:end] for start, end in cuts) + _MARK * self._is_head(part)
        if isinstance(part, dict):
            pairs = ((name if name in _OURS else self._with_marks(name), inner) for name, inner in part.items())
            return {name: self._with_marks(inner) for name, inner in pairs}
        return [self._with_marks(inner) for inner in part] if isinstance(part, list) else part


def _strings(part: Any) -> Iterable[str]:
    if isinstance(part, str):
        yield part
    elif isinstance(part, dict):
        for name, inner in part.items():
            if name not in _OURS:
                yield name
            if name != "role":
                yield from _strings(inner)
    elif isinstance(part, list):
        for inner in part:
            yield from _strings(inner)


def _named(word: str) -> str:
    return f"{_EDGE}{word}{_EDGE}"


def _copied(tokenizer: Tokenizer, ids: dict[str, int]) -> Tokenizer:
    """The same, with other names for its control tokens. Raises RefusedError where that changes more than names."""
    told = json.loads(tokenizer.to_str())
    told |= {"post_processor": None, "truncation": None, "padding": None}
    for token in told["added_tokens"]:
        if token["content"] in ids:
            token["content"] = _named(token["content"])
    model = told["model"]
    vocabulary = model["vocab"]
    if isinstance(vocabulary, dict):
        model["vocab"] = {_named(word) if word in ids else word: at for word, at in vocabulary.items()}
    else:
        model["vocab"] = [[_named(word) if word in ids else word, score] for word, score in vocabulary]
    if model.get("unk_token") in ids:
        model["unk_token"] = _named(model["unk_token"])
    copy = Tokenizer.from_str(json.dumps(told))
    for word, at in ids.items():
        if len(word) == 1 or copy.encode(_named(word), add_special_tokens=False).ids != [at]:  # no mark fits into one
            raise RefusedError(_REFUSED)
    return copy


def _tree(words: Iterable[str]) -> Tree:
    """Words by their characters; the empty one ends a word."""
    tree: Tree = {}
    for word in words:
        at = tree
        for letter in word:
            at = at.setdefault(letter, {})
        at[""] = {}
    return tree


def _pattern(tree: Tree) -> str:
    """The longest of the words, without going back over a character twice."""
    branches = [re.escape(letter) + _pattern(inner) for letter, inner in tree.items() if letter]
    if not branches:
        return ""
    whole = branches[0] if len(branches) == 1 else f"(?:{'|'.join(branches)})"
    return f"(?:{whole})?" if "" in tree else whole
