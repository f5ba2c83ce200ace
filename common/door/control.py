"""Which control tokens of a prompt the chat template wrote, so that text which only spells them stays text.

A conversation is written as it stands, and once more with the characters at which control tokens could begin replaced
in everything the client said: the control tokens that are left then are the template's own. If the first writing has
the same ones, it is the prompt. Otherwise what spells them is replaced, or everything if that is not enough; then the
template's control tokens get their names of the renamed tokenizer, and the client's characters come back.
"""

import contextlib
import re
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import AbstractContextManager
from itertools import chain, islice
from typing import Any

from jinja2 import Environment, TemplateSyntaxError
from tokenizers import AddedToken, Tokenizer

from common.door.renamed import Renamed
from common.door.template import RefusedError

_PRIVATE = chain(range(0xE000, 0xF900), range(0xF0000, 0xFFFFE), range(0x100000, 0x10FFFE))
_TWINS = tuple(map(chr, _PRIVATE))  # characters without a meaning, to stand for others meanwhile
NOTHING = _TWINS[-1]  # what nobody says
_STRANGE = "𓂀 ꙮ ᛥ 𒐫"  # no vocabulary has them all
_WORD = re.compile(r"[A-Za-z_]\w*", re.ASCII)
_OURS = {"role", "type"}  # fields whose values are our words, which templates look for
_REFUSED = "The text spells a control token of this model, which cannot read it as text."
_NEVER = re.compile(r"(?!)")

Write = Callable[[Any], str]
Encode = Callable[[str], list[int]]
Twins = dict[str, str]


class Controls:
    """The control tokens of a model: those that are marked as special, and those that its turns are made of."""

    def __init__(self, tokens: Tokenizer, encode: Encode, template: str, turns: str = "") -> None:
        """``encode`` reads any text; ``turns``: what the template makes of turns in which nothing is said."""
        added = tokens.get_added_tokens_decoder().items()
        found = {at: token for at, token in added if _is_control(tokens, token, turns)}
        self._ids = {token.content: at for at, token in found.items()}
        self._tokens, self._encode = tokens, encode
        # a normaliser may make such a token of other text, and undo one by the text beside it
        self._is_loose = tokens.normalizer is not None and any(token.normalized for token in found.values())
        self._unknown = set(tokens.encode(_STRANGE, add_special_tokens=False).ids)  # any text may become these
        self._pattern = re.compile(_any_of(self._ids)) if found else _NEVER
        self._first = _first(self._ids, template)
        self._begins = re.compile(f"[{re.escape(''.join(self._first))}]") if found else _NEVER
        self._reserved = (template, *self._ids)
        self._renamed: Renamed | None = None

    def read(
        self,
        plain: str,
        said: Any,
        write: Write,
        aside: Callable[[], AbstractContextManager[None]] = contextlib.nullcontext,
    ) -> list[int]:
        """The ids of what the client said, which ``write`` wrote as ``plain``. Raises RefusedError.

        ``aside`` holds while the renamed tokenizer is made, which takes far more than a prompt.
        """
        text, twins = self._text(plain, said, write)
        is_plain = text == plain
        if is_plain and not self._is_loose and self._adds_none(plain, ids := self._encode(plain)):
            return ids
        if self._renamed is None:
            with aside():
                self._renamed = Renamed(self._tokens, self._ids, self._unknown)
        if self._renamed.is_true:
            names = self._renamed.names
            named = self._pattern.sub(lambda control: names[control[0]], text)
            return self._renamed.read(_replaced(named, {twin: own for own, twin in twins.items()}))
        if is_plain and self._adds_none(plain, ids := self._encode(plain)):
            return ids
        raise RefusedError(_REFUSED)

    def _text(self, plain: str, said: Any, write: Write) -> tuple[str, Twins]:
        """What the template writes where every control token is its own, with twins for some characters."""
        if not any(map(self._begins.search, _strings(said))):
            return plain, {}
        twins = self._twins(plain, said)
        apart = write(self._changed(said, lambda text: _replaced(text, twins)))
        own = self._pattern.findall(apart)
        if self._pattern.findall(plain) == own:
            return plain, {}
        spelled = write(self._changed(said, lambda text: self._pattern.sub(lambda it: _replaced(it[0], twins), text)))
        return (spelled if self._pattern.findall(spelled) == own else apart), twins

    def _twins(self, plain: str, said: Any) -> Twins:
        """For each character at which a control token could begin, one that stands nowhere. Raises RefusedError."""
        texts = (plain, *_strings(said))
        twins = _TWINS[: len(self._first)]
        if any(twin in text for text in (*self._reserved, *texts) for twin in twins):
            taken = set[str]().union(*self._reserved, *texts)
            twins = tuple(islice((twin for twin in _TWINS if twin not in taken), len(self._first)))
        if len(twins) < len(self._first):
            raise RefusedError(_REFUSED)
        return dict(zip(self._first, twins, strict=True))

    def _changed(self, said: Any, change: Callable[[str], str]) -> Any:
        """The same with every string of the client's changed; words of ours stay, or no template would know them."""
        match said:
            case str():
                return change(said)
            case dict():
                return {
                    self._name(name, change): value
                    if name in _OURS and isinstance(value, str) and self._is_word(value)
                    else self._changed(value, change)
                    for name, value in said.items()
                }
            case list() | tuple():
                return [self._changed(value, change) for value in said]
            case _:
                return said

    def _name(self, name: str, change: Callable[[str], str]) -> str:
        return name if self._is_word(name) else change(name)

    def _is_word(self, text: str) -> bool:
        return _WORD.fullmatch(text) is not None and not self._pattern.search(text)

    def _adds_none(self, text: str, ids: list[int]) -> bool:
        """Whether no control token came from elsewhere, say from the vocabulary."""
        controls = set(self._ids.values()) - self._unknown
        own = iter([self._ids[control] for control in self._pattern.findall(text)])
        return all(at in own for at in ids if at in controls)


def _is_control(tokens: Tokenizer, token: AddedToken, turns: str) -> bool:
    if len(token.content) == 1 and tokens.model.token_to_id(token.content) is not None:
        return False  # the only way to write this character
    return token.special or (token.content in turns and not token.content.isspace())


def _first(controls: Collection[str], template: str) -> list[str]:
    """At which characters of a client's a control token could begin.

    If the template may have begun one just before it lets the client speak, at any that such a token has.
    """
    prefixes = {control[:size] for control in controls for size in range(1, len(control))}
    longest = max(map(len, controls), default=0)
    is_begun = any(control in prefixes for control in controls) or any(
        piece[-size:] in prefixes for piece in _pieces(template) for size in range(1, min(longest, len(piece)) + 1)
    )
    if is_begun:
        return sorted({character for control in controls for character in control.strip() or control})
    return sorted({(control.strip() or control)[0] for control in controls})


def _pieces(template: str) -> Iterator[str]:
    """What the template says by itself, piece by piece; one that cannot be read is never asked."""
    try:
        told = [(kind, text) for _, kind, text in Environment(autoescape=False).lex(template)]  # noqa: S701  no HTML
    except TemplateSyntaxError:
        return
    yield from (text if kind == "data" else text[1:-1] for kind, text in told if kind in {"data", "string"})


def _replaced(text: str, twins: Twins) -> str:
    for own, twin in twins.items():
        text = text.replace(own, twin)
    return text


def _strings(said: Any) -> Iterator[str]:
    match said:
        case str():
            yield said
        case dict():
            for name, value in said.items():
                yield name
                yield from _strings(value)
        case list() | tuple():
            for value in said:
                yield from _strings(value)


def _any_of(words: Iterable[str]) -> str:
    """A pattern that finds the longest of these words, looking at each character of the text a few times only."""
    ends: dict[str, Any] = {}
    for word in words:
        inner = ends
        for character in word:
            inner = inner.setdefault(character, {})
        inner[""] = {}
    return _branches(ends)


def _branches(ends: dict[str, Any]) -> str:
    chain = ""
    while len(ends) == 1 and "" not in ends:
        ((character, ends),) = ends.items()
        chain += re.escape(character)
    longer = [re.escape(character) + _branches(inner) for character, inner in ends.items() if character]
    return f"{chain}(?:{'|'.join(longer)}){'?' if '' in ends else ''}" if longer else chain
