"""What constraints cost, and what they save: whole engine steps, masks alone, compiling, the door.

The engine and its model are those of the part ``engine``, with a tokenizer of as many tokens. Both sides of a ratio
take turns, by CPU time and by the clock, and the median of the rounds' ratios is told.
"""

import gc
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass, replace
from functools import partial
from itertools import cycle
from typing import Any

import torch
from tokenizers import Tokenizer

from common.constraints import build
from common.constraints.spec import Constraint
from common.jobs import Sampling
from common.ledger.replies import Claim
from ops.bench import door, masks, vocabulary
from ops.bench.engine import NEW, VOCABULARY, an_engine, claims_of, laid_out, network, prompts
from worker.constraints.matcher import Compiler
from worker.constraints.tokenizer import engine_tokenizer
from worker.engine import memory
from worker.engine.engine import Engine
from worker.models.pieces import Pieces

_ROUNDS = 5
_LONG = 512  # tokens: no answer ends while tokens are counted
_TURNS = 16  # of each engine, while as many tokens are said as are counted
_MANY = 1_000  # more than an answer has room for

_RECORD = {
    "type": "object",
    "properties": {
        "customer_name": {"type": "string", "maxLength": 12},
        "invoice_number": {"type": "integer", "minimum": 0, "maximum": 99_999},
        "currency": {"enum": ["EUR", "USD", "GBP"]},
        "is_paid": {"type": "boolean"},
        "total_amount": {"type": "integer", "minimum": 0, "maximum": 99_999},
    },
    "required": ["customer_name", "invoice_number", "currency", "is_paid", "total_amount"],
    "additionalProperties": False,
}
_FREE = {"type": "object", "additionalProperties": {"type": ["string", "number"]}}


def free() -> tuple[Constraint, ...]:
    """Nothing is ever forced, and no answer may end early: what they cost is all that is seen."""
    return (
        build.from_schema({"type": "array", "minItems": _MANY, "items": {"type": "string"}}),
        build.from_schema({"type": "array", "minItems": _MANY, "items": _FREE}),
        build.from_regex(rf"(.|\n){{{8 * _MANY},}}"),
        build.from_grammar('start: line{1000,}\nline: /[A-Za-z ]+/ ("," /[A-Za-z ]+/)* "\\n"'),
    )


def forced() -> tuple[Constraint, ...]:
    """Records without spaces: names of keys must come, and are not drawn."""
    return (build.from_schema({"type": "array", "minItems": _MANY, "items": _RECORD}, whitespace=""),)


@dataclass(frozen=True, slots=True)
class Spent:
    """What some tokens took."""

    tokens: float
    forced: float  # of them
    cpu_s: float
    wall_s: float

    def __add__(self, other: "Spent") -> "Spent":
        return Spent(*map(sum, zip(astuple(self), astuple(other), strict=True)))


class Bench:
    """The engine, again and again."""

    def __init__(self, model: Any, spoken: Tokenizer, count: int = 32, new: int = NEW) -> None:
        """``count``: sequences; ``new``: tokens of each that are counted."""
        self._model, self._new = model, new
        self._pieces = Pieces(spoken)
        self._tokens = engine_tokenizer(spoken, self._pieces, VOCABULARY, (vocabulary.end(spoken),))
        self._asked = prompts(count)

    def measure(self, rounds: int = _ROUNDS, warming: int = 1) -> dict[str, float]:
        """Flat figures."""
        costs, saves = free(), forced()
        turns = [self._turn(costs, saves) for _ in range(warming + rounds)][warming:]
        named = {
            "constrained_over_unconstrained_32": [turn["greedy"][:2] for turn in turns],
            "constrained_over_unconstrained_32_sampled": [turn["sampled"] for turn in turns],
            "constrained_over_unconstrained_32_answers": [turn["answers"][:2] for turn in turns],
            "forced_tokens_speedup": [turn["greedy"][::2] for turn in turns],
            "forced_tokens_speedup_answers": [turn["answers"][::2] for turn in turns],
        }
        return {key: figure for name, pairs in named.items() for key, figure in _ratios(name, pairs).items()}

    def _turn(self, costs: Sequence[Constraint], saves: Sequence[Constraint]) -> dict[str, list[Spent]]:
        """Each once: without constraints, under those that cost, under those that save."""
        return {
            "greedy": self._decode(((), costs, saves), 0.0),
            "sampled": self._decode(((), costs), 0.7),
            "answers": [self._answers(one, 0.0) for one in ((), costs, saves)],
        }

    def _decode(self, each: Sequence[Sequence[Constraint]], temperature: float) -> list[Spent]:
        """As many tokens as whole answers have, from the same length on; some steps of one engine, some of the next."""
        engines = [self._engine() for _ in each]
        counted = len(self._asked) * self._new
        for engine, constraints in zip(engines, each, strict=True):
            for claim in self._claims(constraints, Sampling(_LONG, temperature)):
                engine.add(claim)
            while engine.counters["prefilled_tokens"] < sum(map(len, self._asked)):
                engine.step()
            _until(engine, counted)
        begun = [engine.counters["generation_tokens"] for engine in engines]
        spent = [Spent(0, 0, 0, 0)] * len(engines)
        for upto in range(counted // _TURNS, counted + 1, counted // _TURNS):
            for at, engine in enumerate(engines):
                spent[at] += _spent(engine, partial(_until, engine, begun[at] + upto))
        return spent

    def _answers(self, constraints: Sequence[Constraint], temperature: float) -> Spent:
        """Whole answers: prompts and compiling included."""
        engine = self._engine()
        claims = self._claims(constraints, Sampling(self._new, temperature))

        def run() -> None:
            for claim in claims:
                engine.add(claim)
            while engine.stalled_s() is not None:
                engine.step()

        spent = _spent(engine, run)
        if spent.tokens != len(self._asked) * self._new:
            raise RuntimeError("answers differ in length")
        return spent

    def _engine(self) -> Engine:
        gc.collect()  # the pools of engines that are gone
        return an_engine(self._model, (), max(1, len(self._asked)), self._pieces, Compiler(self._tokens))

    def _claims(self, constraints: Sequence[Constraint], sampling: Sampling) -> list[Claim]:
        claims = claims_of(self._asked, sampling)
        pairs = zip(claims, cycle(constraints or (None,)), strict=False)
        return [replace(claim, job=replace(claim.job, constraint=constraint)) for claim, constraint in pairs]


def _until(engine: Engine, tokens: float) -> None:
    """So many have been said."""
    while engine.counters["generation_tokens"] < tokens:
        engine.step()


def _spent(engine: Engine, run: Callable[[], None]) -> Spent:
    tokens, forced = engine.counters["generation_tokens"], engine.counters["forced_tokens"]
    cpu_s, wall_s = time.process_time(), time.perf_counter()
    run()
    cpu_s, wall_s = time.process_time() - cpu_s, time.perf_counter() - wall_s
    counters = engine.counters
    return Spent(counters["generation_tokens"] - tokens, counters["forced_tokens"] - forced, cpu_s, wall_s)


def _ratios(name: str, pairs: Sequence[Sequence[Spent]]) -> dict[str, float]:
    """Tokens a second with constraints over those without, of CPU and on the clock; and how much was forced."""
    cpu = statistics.median(ours.tokens / ours.cpu_s * plain.cpu_s / plain.tokens for plain, ours in pairs)
    wall = statistics.median(ours.tokens / ours.wall_s * plain.wall_s / plain.tokens for plain, ours in pairs)
    forced = statistics.median(100 * ours.forced / ours.tokens for _, ours in pairs)
    return {name: cpu, f"{name}_wall": wall, f"{name}_forced_percent": forced}


def measure() -> dict[str, float]:
    """Flat figures."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    memory.keep_freed()
    try:
        with torch.inference_mode():
            figures = Bench(laid_out(network()), vocabulary.tokenizer(VOCABULARY)).measure()
    finally:
        torch.set_num_threads(threads)
    some = masks.rows()
    return figures | masks.measure(vocabulary.tokenizer(masks.SIZE), some) | door.measure(some)
