"""Answers that a grammar allows: random walks under the mask of a tokenizer of bytes, with a wish or two."""

import codecs
import random
import re
from collections.abc import Callable, Iterator
from typing import Any

from llguidance import LLMatcher, LLTokenizer, TokenizerWrapper
from llguidance.numpy import allocate_token_bitmask, fill_next_token_bitmask

from common.constraints.splitter import Arguments, CallEnd, CallStart, Content, Piece, Splitter
from common.toolformat import ToolPlan
from tests.common.tools.templates import END, SPECIALS

_JOINED = ('{"', '": ', '", "', '"}', "}\n", "</", ">\n", "\n<", "name", "é", "日本", "\n   ", "  ", '\\"', "[{", "]}")
_MOST, _HASTE = 700, 60  # tokens, and when it begins to wish for the end
FIRST = 256  # special token
Said = list[tuple[str, bool]]  # text, and whether it is a special token


IDS = [*range(FIRST, FIRST + len(SPECIALS))]
TOKENS = [*(bytes([at]) for at in range(256)), *(one.encode() for one in (*SPECIALS, *_JOINED))]


class _Bytes:
    """Every byte, the special tokens, and a few tokens of more than a byte."""

    eos_token_id, bos_token_id, unk_token_id = FIRST + SPECIALS.index(END), None, None
    special_token_ids = IDS
    tokens = TOKENS

    def __call__(self, text: str | bytes) -> list[int]:
        return list(text.encode() if isinstance(text, str) else text)


TOKENIZER = LLTokenizer(TokenizerWrapper(_Bytes()), n_vocab=len(TOKENS), eos_token=[_Bytes.eos_token_id])

Policy = Callable[[bytes], float]
POLICIES: dict[str, Policy] = {
    "anything": lambda _: 1.0,
    "structure": lambda token: 20.0 if token.strip(b'{}[]",: ') != token else 1.0,
    "spaces": lambda token: 50.0 if token.isspace() else 1.0,
    "other scripts": lambda token: 20.0 if token[:1] > b"\x7f" else 1.0,
}


def walked(plan: ToolPlan, policy: Policy, rng: random.Random) -> Said | None:
    """One answer; none if it did not come to its end."""
    assert plan.grammar is not None
    matcher = LLMatcher(TOKENIZER, plan.grammar, log_level=0)
    assert not matcher.get_error(), matcher.get_error() + plan.grammar
    tags = plan.format.tags
    wishes = [_ids(plan, wish) for wish in (*([tags.text[1]] if tags else []), plan.format.trigger)]
    said = list[int]()
    mask = allocate_token_bitmask(1, len(TOKENS))
    for step in range(_MOST):
        fill_next_token_bitmask(matcher, mask, 0)
        assert not matcher.get_error(), matcher.get_error()
        allowed = [at for at in range(len(TOKENS)) if mask[0, at >> 5] >> (at & 31) & 1]
        token = _chosen(allowed, said, wishes, policy, rng, is_late=step > _HASTE)
        if token == _Bytes.eos_token_id:
            return list(_spoken(said))
        assert matcher.consume_token(token)
        said.append(token)
    return None


def _ids(plan: ToolPlan, text: str) -> list[int]:
    specials = dict(plan.format.specials)
    coded = plan.format.coded(text)
    return [
        id_
        for one in coded
        for id_ in ([list(specials.values())[ord(one) - 0xD800]] if "\ud800" <= one <= "\udfff" else list(one.encode()))
    ]


def _chosen(
    allowed: list[int], said: list[int], wishes: list[list[int]], policy: Policy, rng: random.Random, *, is_late: bool
) -> int:
    if is_late and _Bytes.eos_token_id in allowed and rng.random() < 0.5:
        return _Bytes.eos_token_id
    if is_late or rng.random() < 0.3:
        for wish in wishes:
            size = next((size for size in range(len(wish) - 1, -1, -1) if said[len(said) - size :] == wish[:size]), 0)
            if wish[size] in allowed and rng.random() < 0.9:
                return wish[size]
        closing = [at for at in map(ord, '"}]') if at in allowed]
        if closing and is_late:
            return rng.choice(closing)
    return rng.choices(allowed, [policy(TOKENS[at]) for at in allowed])[0]


def _spoken(said: list[int]) -> Iterator[tuple[str, bool]]:
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    for token in said:
        if token in IDS:
            if held := decoder.decode(b"", final=True):
                yield held, False
            decoder.reset()
            yield TOKENS[token].decode(), True
        elif text := decoder.decode(TOKENS[token]):
            yield text, False
    if held := decoder.decode(b"", final=True):
        yield held, False


def split(plan: ToolPlan, said: Said) -> list[Piece]:
    """All that comes of it."""
    splitter = Splitter(plan)
    pieces = [piece for text, is_special in said for piece in splitter.feed(text, is_special=is_special)]
    return [*pieces, *splitter.finish()]


def joined(pieces: list[Piece]) -> tuple[str, list[tuple[str, str, bool]]]:
    """Content, and each call: its name, its arguments, and whether it ended."""
    content, calls = "", list[list[Any]]()
    for piece in pieces:
        match piece:
            case Content(text):
                content += text
            case CallStart(index, name):
                assert index == len(calls)
                calls.append([name, "", False])
            case Arguments(index, text):
                assert index == len(calls) - 1
                assert not calls[index][2]
                calls[index][1] += text
            case CallEnd(index):
                calls[index][2] = True
    return content, [(name, text, is_over) for name, text, is_over in calls]


def pieces(text: str) -> Said:
    """A text with the special tokens that it spells."""
    parts = re.split(f"({'|'.join(map(re.escape, SPECIALS))})", text)
    return [(part, part in SPECIALS) for part in parts if part]


def is_allowed(plan: ToolPlan, said: Said) -> bool:
    """Whether an answer may begin so."""
    assert plan.grammar is not None
    matcher = LLMatcher(TOKENIZER, plan.grammar, log_level=0)
    assert not matcher.get_error(), matcher.get_error()
    ids = [at for text, is_special in said for at in ([FIRST + SPECIALS.index(text)] if is_special else text.encode())]
    return all(matcher.consume_token(at) for at in ids)


def letters(said: Said) -> Said:
    """In pieces as short as can be."""
    return [(one, is_special) for text, is_special in said for one in ([text] if is_special else text)]


def recut(said: Said, rng: random.Random | None = None) -> Said:
    """In longer pieces; without a die, as long as can be."""
    cut: Said = []
    for text, is_special in said:
        if cut and not is_special and not cut[-1][1] and (rng is None or rng.random() < 0.8):
            cut[-1] = (cut[-1][0] + text, False)
        else:
            cut.append((text, is_special))
    return cut
