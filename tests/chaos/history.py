"""What clients want, and what they write down."""

import random
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from tests.chaos.house import HANG_AT, RAISE_AT
from worker.engine import rng

Kind = Literal["stream", "whole", "twice", "again", "forget", "hang up", "cancel", "raise", "hang"]
_SHARES: dict[Kind, int] = {
    "stream": 46,  # cut at random bytes, and followed from the last number
    "whole": 20,  # asked for again with its key until the answer is here
    "twice": 8,  # the same key at two front ends at once
    "again": 8,  # a stream that is cut and asked for once more with its key
    "forget": 8,  # on_disconnect: finish, and never looked at again
    "hang up": 6,
    "cancel": 4,
}
_CANCEL: tuple[Kind, ...] = ("again", "hang up")
_EITHER: tuple[Kind, ...] = ("stream", "whole", "twice")
_SEVERAL, _FLEX = 0.1, 0.2
_DRAWN = "0123456789 "
FIXED = tuple(
    (f"Count from {first}: {first} {first + 1} ", tokens) for first in (1, 7, 30) for tokens in (12, 40, 90, 150)
)
ENDS_BADLY: tuple[Kind, ...] = ("raise", "hang")
MAY_BE_CANCELLED: tuple[Kind, ...] = ("hang up", "cancel")


@dataclass(frozen=True)
class Question:
    """One thing that a client wants; its answer is known before it asks."""

    name: str
    kind: Kind
    prompt: str
    tokens: int
    seed: int | None = None  # sampled
    has_key: bool = True
    on_disconnect: str = "finish"
    n: int = 1  # choices
    tier: str = "default"

    @property
    def is_plain(self) -> bool:
        """Nothing keeps its stream waiting but what breaks."""
        return self.n == 1 and self.tier == "default"

    def body(self) -> dict[str, Any]:
        """POST /v1/completions."""
        told = {"model": "counting", "prompt": self.prompt, "max_tokens": self.tokens, "temperature": 0}
        told |= {"temperature": 1, "top_p": 1, "seed": self.seed} if self.seed else {}
        told |= {"stream": self.kind not in {"whole", "twice"}, "metadata": {"name": self.name}}
        return told | {"on_disconnect": self.on_disconnect, "n": self.n, "service_tier": self.tier}

    def answer(self) -> list[str]:
        """Each choice, by counting."""
        return [self._answer(choice) for choice in range(self.n)]

    def _answer(self, choice: int) -> str:
        if self.seed:
            key = rng.stream(self.seed, choice)
            places = range(len(self.prompt), len(self.prompt) + self.tokens)
            return "".join(_DRAWN[int(len(_DRAWN) * rng.uniform(key, place))] for place in places)
        first = int(self.prompt.split()[-1]) + 1
        return " ".join(str(number) for number in range(first, first + self.tokens))[: self.tokens]


@dataclass
class Reading:
    """One answer of SSE, from its headers to its end or its cut."""

    job_id: str
    after: int
    frames: list[tuple[int, int, str]] = field(default_factory=list)  # number, choice, text
    times: list[float] = field(default_factory=list)  # of the frames
    end: str = "cut"  # "done", "cut", "cut by us" or the code of an error


@dataclass
class Whole:
    """One answer in one piece."""

    job_id: str
    texts: list[str]
    tokens: int


@dataclass
class History:
    """Everything that a client knows of one question."""

    question: Question
    readings: list[Reading] = field(default_factory=list)
    wholes: list[Whole] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)  # answers that were neither
    end: str = "late"  # "done", "left" (on purpose), "refused" (never accepted), "failed", "late"
    seconds: float = 0.0

    def jobs(self) -> list[str]:
        """Those that were accepted, in order."""
        read = [reading.job_id for reading in self.readings]
        return list(dict.fromkeys([*read, *(whole.job_id for whole in self.wholes)]))


def questions(seed: int, client: int, most: int = 200) -> Iterator[Question]:
    """One client's, for ever."""
    chance = random.Random(f"{seed} {client}")
    number = 0
    while True:
        number += 1
        kind = chance.choices(tuple(_SHARES), tuple(_SHARES.values()))[0]
        start = chance.randrange(1, 99_999)
        yield Question(
            name=f"{client}-{number}",
            kind=kind,
            prompt=f"count on: {start} ",
            tokens=chance.randint(20, most),
            seed=chance.randrange(1, 2**40) if chance.random() < 0.3 else None,
            has_key=kind in {"whole", "twice", "again"} or chance.random() < 0.5,
            on_disconnect="cancel" if kind in _CANCEL or (kind in _EITHER and chance.random() < 0.3) else "finish",
            n=2 if chance.random() < _SEVERAL else 1,
            tier="flex" if chance.random() < _FLEX else "default",
        )


def fixed(seed: int, client: int, most: int = 200) -> Iterator[Question]:
    """The same, of the few whose answers were asked for before."""
    chance = random.Random(f"fixed {seed} {client}")
    for question in questions(seed, client, most):
        prompt, tokens = chance.choice(FIXED)
        yield replace(question, prompt=prompt, tokens=tokens, seed=None, n=1)


def breaking(kind: Kind, number: int) -> Question:
    """One that breaks the step of whoever works on it."""
    at = RAISE_AT if kind == "raise" else HANG_AT
    return Question(f"{kind}-{number}", kind, f"count on: {at - 4} ", 60)
