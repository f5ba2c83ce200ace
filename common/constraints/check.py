"""Whether the engine takes a constraint: asked in a process that may die of it."""

import json
from collections.abc import Mapping
from functools import lru_cache
from itertools import count, islice
from types import MappingProxyType
from typing import Any

from common.constraints.dialect import validator
from common.constraints.spec import Constraint, RefusedConstraintError, ended

ITEMS = 20_000  # in a row of the parser; a thousand optional properties need more than the engine's 2,000
STEP_ITEMS = 200_000  # of one mask, some 5 ms; with a large vocabulary real schemas need more than the engine's 50,000
_NONE: Mapping[int, str] = MappingProxyType({})


class _Bytes:
    """A tokenizer of single bytes and of a model's special tokens, which have their own ids."""

    bos_token_id = None

    def __init__(self, special: Mapping[int, str]) -> None:
        free = list(islice((at for at in count() if at not in special), 257))
        *self._bytes, self.eos_token_id = free
        self.tokens = [b""] * (1 + max((self.eos_token_id, *special)))
        for byte, at in enumerate(self._bytes):
            self.tokens[at] = bytes([byte])
        for at, name in ((self.eos_token_id, "</s>"), *special.items()):
            self.tokens[at] = name.encode()
        self.special_token_ids = sorted((self.eos_token_id, *special))

    def __call__(self, text: bytes | str) -> list[int]:
        """The bytes."""
        return [self._bytes[byte] for byte in (text.encode() if isinstance(text, str) else text)]


@lru_cache(maxsize=8)
def tokenizer(special: tuple[tuple[int, str], ...]) -> Any:
    """The engine's, for these special tokens."""
    import llguidance

    return llguidance.LLTokenizer(llguidance.TokenizerWrapper(_Bytes(dict(special))))


def limits() -> Any:
    """What a parser may use, here and in the worker."""
    import llguidance

    return llguidance.LLParserLimits(max_items_in_row=ITEMS, step_max_items=STEP_ITEMS, verbose_errors=False)


@lru_cache(maxsize=1)
def compiled(grammar: str, special: tuple[tuple[int, str], ...]) -> Any:
    """Ready to be followed, or in error; the last one is kept, because whoever made it checks it next."""
    import llguidance

    return llguidance.LLMatcher(tokenizer(special), grammar, log_level=0, limits=limits())


def check(constraint: Constraint, special: Mapping[int, str] = _NONE) -> None:
    """Compiles it and asks for the first mask; ``special``: the model's. Raises RefusedConstraintError."""
    named = () if constraint.kind == "json" else tuple(special.items())  # JSON names none
    matcher = compiled(constraint.grammar, named)
    if not matcher.is_error():
        matcher.compute_bitmask()
    if matcher.is_error():
        said = matcher.get_error().strip().splitlines()
        reason = " ".join([*said[:1], *(line for line in said[1:] if line.startswith("error:"))])
        raise RefusedConstraintError(f"{constraint.kind}: the engine refuses it: {ended(reason)}", constraint.kind)
    if constraint.mode == "wide" and constraint.schema is not None:
        try:
            validator(json.loads(constraint.schema))
        except ValueError as error:  # the library's own are such, too
            first = str(error).partition("\n")[0]
            raise RefusedConstraintError(
                f"json: it could not be looked at in the end: {ended(first)}", "json"
            ) from None
