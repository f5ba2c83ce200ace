"""Masks of a vocabulary of today's size, along real instances of real schemas: what each token costs a sequence.

The schemas are MaskBench's where ``../shared/data`` has them, else made up. Each valid instance is written as JSON in
its own order of keys, token by token, as far as its grammar has that order: a mask is filled, the token is looked up in
it and taken. CPU time of this process.
"""

import json
import random
import sys
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer

from common.constraints import build
from common.constraints.spec import RefusedConstraintError
from ops.bench import schemas, vocabulary
from ops.bench.engine import medians
from worker.constraints.matcher import Compiler, Row
from worker.constraints.tokenizer import engine_tokenizer
from worker.engine.masks import Masks
from worker.engine.sequence import BrokenConstraintError
from worker.models.pieces import Pieces

SIZE = 128_256  # Llama 3's
_WORD = 32
_ROWS = 32  # of a step
_MADE_UP = 200
_NAMES = ("id", "name", "when", "tags", "size", "kind", "note", "place")
_SCALARS: tuple[tuple[dict[str, Any], Any], ...] = (
    ({"type": "integer", "minimum": 0, "maximum": 500}, 27),
    ({"type": "string"}, "so much for that"),
    ({"type": "string", "format": "date"}, "2026-02-27"),
    ({"enum": ["red", "green", None]}, "green"),
    ({"type": "array", "items": {"type": "number"}, "maxItems": 9}, [0.5, -12, 7]),
    ({"type": "string", "pattern": "^[a-z]{2,8}$"}, "quick"),
)


class Walk:
    """What each token took, and how many instances could be written."""

    def __init__(self, size: int) -> None:
        self._bits = np.zeros(-(-size // _WORD), np.int32)
        self.fill_us: list[float] = []
        self.both_us: list[float] = []  # with the taking
        self.ends: Counter[str] = Counter()

    def along(self, row: Row, ids: list[int]) -> None:
        """One instance."""
        try:
            self.ends["written" if all(self._takes(row, token) for token in ids) else "otherwise"] += 1
        except BrokenConstraintError:
            self.ends["given_up"] += 1

    def _takes(self, row: Row, token: int) -> bool:
        began = time.process_time_ns()
        row.fill(self._bits)
        filled = time.process_time_ns()
        if not int(self._bits[token // _WORD]) >> token % _WORD & 1:
            return False
        again = time.process_time_ns()
        row.advance(token)
        taken = time.process_time_ns()
        self.fill_us.append((filled - began) / 1e3)
        self.both_us.append((filled - began + taken - again) / 1e3)
        return True


def rows() -> list[dict[str, Any]]:
    """Schemas with their instances."""
    path = schemas.DATA / schemas.FILES["maskbench"]
    if path.is_file():
        return schemas.rows_of(path)
    print(f"masks: {path.name} is not there; schemas are made up", file=sys.stderr)
    return made_up(_MADE_UP)


def made_up(count: int) -> list[dict[str, Any]]:
    """So many others, always the same."""
    drawn = random.Random(0)
    return [_made_up(drawn, 3) for _ in range(count)]


def _made_up(drawn: random.Random, depth: int) -> dict[str, Any]:
    """An object's."""
    properties, value = {}, {}
    for name in drawn.sample(_NAMES, drawn.randrange(2, len(_NAMES))):
        inner = _made_up(drawn, depth - 1) if depth and not drawn.randrange(4) else None
        schema, data = drawn.choice(_SCALARS)
        properties[name] = inner["schema"] if inner else schema
        value[name] = inner["tests"][0]["data"] if inner else data
    schema = {"type": "object", "properties": properties, "required": [*value], "additionalProperties": False}
    return {"schema": schema, "tests": [{"data": value, "valid": True}]}


def measure(spoken: Tokenizer, some: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Flat figures; ``some``: ``rows``."""
    size = spoken.get_vocab_size()
    tokens = engine_tokenizer(spoken, Pieces(spoken), size, (vocabulary.end(spoken),))
    walk, compiled_ms = Walk(size), []
    starts: list[Row] = []
    for one in some:
        compiler = Compiler(tokens)
        try:
            constraint = build.from_schema(one["schema"])
            began = time.process_time_ns()
            start = compiler.row(constraint)
        except (RefusedConstraintError, BrokenConstraintError):
            continue
        compiled_ms.append((time.process_time_ns() - began) / 1e6)
        starts = [*starts, start][-_ROWS:]
        for test in one["tests"]:
            if test["valid"]:
                text = json.dumps(test["data"], ensure_ascii=False)
                walk.along(start.clone(), spoken.encode(text, add_special_tokens=False).ids)
    print(f"masks: {len(compiled_ms)} schemas, {len(walk.both_us)} tokens, {dict(walk.ends)}", file=sys.stderr)
    return {
        **quantiles("mask", "us", walk.both_us),
        **quantiles("mask_fill", "us", walk.fill_us),
        **quantiles("constraint_compile", "ms", compiled_ms),
        "mask_instances_given_up": walk.ends["given_up"],
        "mask_step_32_ms": _step_ms(starts, size),
    }


def quantiles(name: str, unit: str, values: list[float]) -> dict[str, float]:
    """Of all values: the middle, and what one in a hundred exceeds."""
    order = sorted(values)
    return {f"{name}_p{share}_{unit}": round(order[len(order) * share // 100], 3) for share in (50, 99)}


def _step_ms(starts: list[Row], size: int) -> float:
    """CPU of all that a step does for so many rows: to fill their masks, and to lower the logits."""
    logits = torch.randn(len(starts), size, generator=torch.Generator().manual_seed(0))

    def run() -> float:
        began = time.process_time()
        Masks(size, starts).apply(logits)
        return 1000 * (time.process_time() - began)

    return medians({"step": run}, rounds=9)["step"]
