"""Whether anything that is generated under a schema misses it, with every policy that we know to be unkind.

The pieces are the real ones: a request's schema becomes a constraint as at the door, and the worker's own row says
which tokens may come. What ends is read by another reader; answers that are cut do not count.
"""

import json
import random
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from tokenizers import Tokenizer

from common.constraints import build, check, dialect
from common.constraints.spec import Constraint, RefusedConstraintError, Wanted
from common.constraints.verify import errors
from ops.bench.schemas import DATA, FILES, rows_of
from ops.bench.voices import END, POLICIES, Voices, generated, trained
from worker.constraints.matcher import Compiler
from worker.constraints.tokenizer import engine_tokenizer
from worker.engine.sequence import BrokenConstraintError
from worker.models.pieces import Pieces

_FINISHED = 10_000  # so many under native and exact constraints
_GENERATED = 700
_ROUNDS = 8
_LONGEST = 160  # tokens
_SHOWN = 10


@dataclass(frozen=True, slots=True)
class Sample:
    """One answer."""

    schema: str
    policy: str
    mode: str
    fate: str  # "valid", "invalid", "cut", "broken"; of wide ones also "missed", which said so itself
    text: bytes = b""


class Bench:
    """A tokenizer's rows and voices."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        """As a worker that has loaded it."""
        pieces, size = Pieces(tokenizer), tokenizer.get_vocab_size()
        end = tokenizer.get_vocab()[END]
        self._compiler = Compiler(engine_tokenizer(tokenizer, pieces, size, (end,)))
        self._voices = Voices([pieces.spell(at) for at in range(size)], end)

    def samples(self, name: str, schema: Any, seed: int) -> Iterator[Sample]:
        """One for each policy; none where the schema is refused."""
        try:
            constraint = build.built(Wanted("json", schema, "guided_json"))
            check.check(constraint)
            row = self._compiler.row(constraint)
        except (RefusedConstraintError, BrokenConstraintError):
            return
        for policy in POLICIES:
            draws = random.Random(f"{name} {policy} {seed}")
            try:
                text = self._voices.speak(row.clone(), policy, draws, _LONGEST)
            except BrokenConstraintError:
                yield Sample(name, policy, constraint.mode, "broken")
                continue
            fate = "cut" if text is None else judged(schema, constraint, text)
            yield Sample(name, policy, constraint.mode, fate, text or b"")


def judged(schema: Any, constraint: Constraint, text: bytes) -> str:
    """What a reader who has only the client's schema thinks of it."""
    is_valid = _is_valid(schema, text)
    if constraint.mode != "wide" or constraint.schema is None:
        return "valid" if is_valid else "invalid"
    if errors(constraint.schema, text.decode(errors="replace")):
        return "missed"
    return "valid" if is_valid else "invalid"


def _is_valid(schema: Any, text: bytes) -> bool:
    """Whichever of two values with the same name a reader believes."""
    try:
        values = [_read(text.decode(), some) for some in (dict, _first)]
    except ValueError:
        return False
    validator = dialect.validator(schema)
    return all(validator.is_valid(value) for value in values)


def _read(text: str, pairs: Any) -> Any:
    return json.loads(text, object_pairs_hook=pairs, parse_float=_number, parse_constant=_no_number)


def _no_number(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")


def _number(text: str) -> float:
    """One that no float holds, as 1e999, is a number all the same: it stands for the greatest."""
    return max(-sys.float_info.max, min(float(text), sys.float_info.max))


def _first(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    return dict(reversed(pairs))


def public() -> Iterator[tuple[str, Any]]:
    """The schemas of the public suites that are there."""
    for file in FILES.values():
        if (DATA / file).is_file():
            yield from ((row["id"], row["schema"]) for row in rows_of(DATA / file))


def made(count: int) -> Iterator[tuple[str, Any]]:
    """Our own, always the same."""
    yield from ((f"made {at}", generated(random.Random(at))) for at in range(count))


def sampled(bench: Bench, schemas: Iterable[tuple[str, Any]], rounds: int, enough: int) -> list[Sample]:
    """Rounds through all of them, until so many have finished under native and exact constraints."""
    known, found = list(schemas), list[Sample]()
    for seed in range(rounds):
        for name, schema in known:
            found += bench.samples(name, schema, seed)
        if sum(one.mode != "wide" and one.fate in {"valid", "invalid"} for one in found) >= enough:
            break
    return found


def measure() -> dict[str, float]:
    """Flat figures; a table by policy and mode goes to stderr, and so does what is invalid."""
    found = sampled(Bench(trained(32_000, 16)), [*public(), *made(_GENERATED)], _ROUNDS, _FINISHED)
    for one in [one for one in found if one.fate == "invalid"][:_SHOWN]:
        print(f"  invalid {one.mode} {one.policy} {one.schema}: {one.text[:300]!r}", file=sys.stderr)
    for policy in POLICIES:
        for mode in ("native", "exact", "wide"):
            fates = Counter(one.fate for one in found if (one.policy, one.mode) == (policy, mode))
            print(f"  {policy:10} {mode:8} {dict(sorted(fates.items()))}", file=sys.stderr)
    tight, wide = ([one for one in found if (one.mode == "wide") == is_wide] for is_wide in (False, True))
    return _figures("samples", tight) | _figures("samples_wide", wide)


def _figures(prefix: str, some: list[Sample]) -> dict[str, float]:
    fates = Counter(one.fate for one in some)
    ended = [one for one in some if one.fate not in {"cut", "broken"}]
    return {
        f"{prefix}_finished": float(len(ended)),
        f"{prefix}_invalid": float(fates["invalid"]),
        f"{prefix}_schemas": float(len({one.schema for one in ended})),
        f"{prefix}_cut": float(fates["cut"]),
        f"{prefix}_broken": float(fates["broken"]),
    } | ({f"{prefix}_missed_and_said_so": float(fates["missed"])} if "wide" in prefix else {})
