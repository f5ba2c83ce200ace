"""A model that counts: the whole house runs on it without torch.

``counting:?step_ms=5&answer=200`` in a model's ``path``. Its tokens are bytes. Greedy, it goes on counting from where
the text so far ends (from 1 when that is not a number) up to ``answer``; sampled, it draws digits and spaces.
``raise_at`` and ``hang_at`` are numbers behind which its step fails, or never ends: so can a request break a worker.
"""

import json
import math
import re
import threading
from collections.abc import Mapping, Sequence
from urllib.parse import parse_qsl

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from common.bundle import packed
from common.constraints.spec import Constraint
from worker.engine import rng
from worker.engine.blocks import Blocks
from worker.engine.likely import Score
from worker.engine.model import Drawn, Feed, GaveWayError
from worker.engine.sequence import Bounds, BrokenConstraintError, Row
from worker.models.pieces import Pieces

PREFIX = "counting:"
CONTEXT = 8192
_END = "<|end|>"
_TEMPLATE = "{% for message in messages %}{{ message['content'] }}\n{% endfor %}"
_DRAWN = "0123456789 "  # when it is sampled
_TAIL = 24  # characters that decide about the next one
_NEXT = re.compile(r"(?:^|\D)(\d+) (\d*)$")
_ALONE = re.compile(r"(\d+)$")


def tokenizer() -> Tokenizer:
    """One token a byte, and the end."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = Tokenizer(models.BPE(vocab={letter: at for at, letter in enumerate(alphabet)}, merges=[]))
    tokens.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokens.decoder = decoders.ByteLevel()
    tokens.add_special_tokens([AddedToken(_END, special=True)])
    return tokens


class Counting:
    """A model as the engine knows it."""

    blocks: Blocks | None = None

    def __init__(self, query: str, slots: int, context: int | None = None) -> None:
        """``query``: ``step_ms=5&answer=200``; both have defaults."""
        told = dict(parse_qsl(query.removeprefix("?")))
        self.slots = slots
        self.way = threading.Event()
        self.tokenizer = tokenizer()
        self._pieces = Pieces(self.tokenizer)
        self._ids = self.tokenizer.get_vocab()
        self._ids[" "] = self.tokenizer.encode(" ").ids[0]  # a byte-level alphabet spells it otherwise
        self.bounds = Bounds(min(context or CONTEXT, CONTEXT), (self._ids[_END],))
        self._step_s = float(told.get("step_ms", 0)) / 1000
        self._answer = int(told.get("answer", 200))
        self._raise_at, self._hang_at = told.get("raise_at", ""), told.get("hang_at", "")
        self._tails: dict[int, str] = {}
        self._fresh: dict[int, str] = {}  # those of the step under way

    def step(self, feeds: Sequence[Feed]) -> Mapping[int, Drawn]:
        """One character each."""
        if self.way.wait(self._step_s):  # as long as a forward pass would take
            raise GaveWayError
        self._fresh = {}
        drawn = {feed.slot: self._drawn(feed) for feed in feeds}
        self._tails |= self._fresh  # not before: a step that fails is done again
        return drawn

    def free(self, slot: int) -> None:
        """Forget its text."""
        self._tails.pop(slot, None)

    def row(self, constraint: Constraint) -> Row:
        """It only counts."""
        raise BrokenConstraintError(f"the counting model knows no {constraint.kind}")

    def relieve(self) -> None:
        """It keeps nothing."""

    def decode(self, tokens: Sequence[int]) -> str:
        """Bytes as text."""
        return self._pieces.decode(tokens)

    def spell(self, token: int) -> bytes:
        """Its byte."""
        return self._pieces.spell(token)

    def files(self) -> bytes:
        """The tokenizer's files as the door wants them."""
        config = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": _END, "model_max_length": CONTEXT}
        return packed(
            {
                "tokenizer.json": self.tokenizer.to_str().encode(),
                "tokenizer_config.json": json.dumps(config | {"clean_up_tokenization_spaces": False}).encode(),
                "chat_template.jinja": _TEMPLATE.encode(),
            }
        )

    def _drawn(self, feed: Feed) -> Drawn:
        """With its scores: greedy, it is certain; sampled, each of its characters is as likely; prompts surprise it."""
        token = self._next(feed)
        if feed.asked is None:
            return Drawn(token)
        likeliest = [self._ids[one] for one in _DRAWN] if feed.draw.temperature > 0 else [token]
        value = -math.log(len(likeliest))
        top = tuple((one, value) for one in likeliest[: feed.asked.top])
        before = () if feed.position else feed.tokens[feed.asked.since :]
        return Drawn(token, (*(Score(one, -math.inf) for one in before), Score(token, value, top)))

    def _next(self, feed: Feed) -> int:
        before = self._tails.get(feed.slot, "") if feed.position else ""
        tail = self._fresh[feed.slot] = (before + self.decode(feed.tokens))[-_TAIL:]
        position = feed.position + len(feed.tokens)
        if feed.draw.temperature > 0:
            return self._ids[_DRAWN[int(len(_DRAWN) * rng.uniform(feed.draw.key, position))]]
        return self._ids[self._character(tail)]

    def _character(self, tail: str) -> str:
        """What a counter writes next."""
        if found := _NEXT.search(tail):
            number = str(int(found[1]) + 1)
            if number != found[2] and number.startswith(found[2]):
                return number[len(found[2])]
        if found := _ALONE.search(tail):
            self._break_at(found[1])
            return _END if int(found[1]) >= self._answer else " "
        return "1"

    def _break_at(self, number: str) -> None:
        """What it was told to do behind this one."""
        if number == self._raise_at:
            raise RuntimeError(f"told to fail at {number}")
        if number == self._hang_at:
            threading.Event().wait()
