"""How many public schemas are served, and whether what is generated under them is what they say.

Each schema goes to a child process, so that a crash is one schema's. An instance counts as accepted when it can be
generated with any key order, with or without spaces, and may end there; 1 and 1.0 are spellings of the same number.
"""

import json
import queue
import re
import statistics
import subprocess
import sys
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import llguidance

from common.constraints import build, check
from common.constraints.spec import RefusedConstraintError
from common.settings import REPOSITORY

DATA = REPOSITORY.parent / "shared" / "data"
FILES = {"suite": "json_schema_suite_2020_12.jsonl", "maskbench": "maskbench_sample.jsonl"}
_CHILDREN = 2
_SEPARATORS = ((", ", ": "), (",", ":"))
_TRIES = 2_000  # keys, before an instance counts as refused
_NAME = re.compile(r'("(?:[^"\\]|\\.)*"):')
_APART = ("Handwritten", "Synthesized")


class Written:
    """An instance on its way through the grammar; keys in whatever order the grammar wants."""

    def __init__(self, matcher: llguidance.LLMatcher, ranks: dict[str, int], separators: tuple[str, str]) -> None:
        self._matcher = matcher
        self._ranks = ranks
        self._item, self._key = separators
        self._tries = _TRIES

    def fits(self, value: Any) -> bool:
        """Whether some order goes through to an end."""
        self._matcher.reset()
        try:
            return self._write(value, self._matcher.is_accepting)
        except RecursionError:  # too long to search; it counts as refused
            return False

    def _write(self, value: Any, then: Callable[[], bool]) -> bool:
        if isinstance(value, dict):
            return self._say("{", lambda: self._names(value, self._sorted(value), "", then))
        if isinstance(value, list):
            return self._say("[", lambda: self._items(value, 0, then))
        return self._say(spelled(value), then)

    def _sorted(self, names: Iterable[str]) -> tuple[str, ...]:
        """As the grammar names them; the unnamed last."""
        return tuple(
            sorted(names, key=lambda name: self._ranks.get(json.dumps(name, ensure_ascii=False), len(self._ranks)))
        )

    def _items(self, values: list[Any], at: int, then: Callable[[], bool]) -> bool:
        if at == len(values):
            return self._say("]", then)
        following = lambda: self._items(values, at + 1, then)  # noqa: E731  a step, not a function
        return self._say(self._item if at else "", lambda: self._write(values[at], following))

    def _names(self, value: dict[str, Any], left: tuple[str, ...], before: str, then: Callable[[], bool]) -> bool:
        if not left:
            return self._say("}", then)
        return any(self._name(value, name, left, before, then) for name in left)

    def _name(self, value: dict[str, Any], name: str, left: tuple[str, ...], before: str, then: Any) -> bool:
        self._tries -= 1
        rest = tuple(other for other in left if other != name)
        key = before + json.dumps(name, ensure_ascii=False) + self._key
        following = lambda: self._names(value, rest, self._item, then)  # noqa: E731  a step, not a function
        return self._tries > 0 and self._say(key, lambda: self._write(value[name], following))

    def _say(self, text: str, then: Callable[[], bool]) -> bool:
        ids = list(text.encode())
        done = self._matcher.try_consume_tokens(ids) if ids else 0
        if done == len(ids) and then():
            return True
        self._matcher.rollback(done)
        return False


def spelled(value: Any) -> str:
    """A scalar; numbers without an exponent."""
    if isinstance(value, float) and not isinstance(value, bool):
        return format(Decimal(repr(value)), "f")
    return json.dumps(value, ensure_ascii=False)


class Acceptance:
    """One grammar, asked about values."""

    def __init__(self, grammar: str) -> None:
        self._matcher = llguidance.LLMatcher(check.tokenizer(()), grammar, log_level=0, limits=check.limits())
        self._ranks: dict[str, int] = {}
        for name in _NAME.findall(grammar):
            self._ranks.setdefault(name, len(self._ranks))

    def accepts(self, value: Any, *, is_valid: bool) -> bool:
        """Whether the grammar can write it; a valid one in any spelling of its numbers."""
        other = whole(value) if is_valid else value
        texts = (json.dumps(one, ensure_ascii=False, separators=both) for one in (value, other) for both in _SEPARATORS)
        if any(map(self.writes, texts)):
            return True
        return any(Written(self._matcher, self._ranks, separators).fits(other) for separators in _SEPARATORS)

    def writes(self, text: str) -> bool:
        """Whether it can be exactly this text."""
        self._matcher.reset()
        ids = list(text.encode())
        return self._matcher.try_consume_tokens(ids) == len(ids) and self._matcher.is_accepting()


def whole(value: Any) -> Any:
    """With 1 for 1.0."""
    if isinstance(value, dict):
        return {name: whole(one) for name, one in value.items()}
    if isinstance(value, list):
        return [whole(one) for one in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def score(row: dict[str, Any], *, formats: bool) -> dict[str, Any]:
    """What became of one schema and its instances."""
    began = time.process_time()
    try:
        constraint = build.from_schema(row["schema"], formats=formats)
        check.check(constraint)
    except RefusedConstraintError as error:
        return {"outcome": "refused", "why": error.message}
    told = {"mode": constraint.mode, "ms": 1e3 * (time.process_time() - began)}
    engine = Acceptance(constraint.grammar)
    tests = ((test["data"], test["valid"]) for test in row["tests"])
    wrong = ["over" if valid else "under" for data, valid in tests if engine.accepts(data, is_valid=valid) != valid]
    return told | {"outcome": max(wrong, default="pass")}  # under is worse


def work() -> None:
    """A child: a schema in, its score out."""
    sys.setrecursionlimit(20_000)
    for line in sys.stdin:
        row = json.loads(line)
        sys.stdout.write(json.dumps(score(row, formats=row["formats"])) + "\n")
        sys.stdout.flush()


def _scored(rows: list[dict[str, Any]]) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Each row with its score, in whatever order they are done."""
    waiting: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
    done: queue.SimpleQueue[tuple[dict[str, Any], dict[str, Any]]] = queue.SimpleQueue()
    for row in [*rows, *[None] * _CHILDREN]:
        waiting.put(row)
    for _ in range(_CHILDREN):
        threading.Thread(target=_feed, args=(waiting, done), daemon=True).start()
    yield from (done.get() for _ in rows)


def _feed(waiting: Any, done: Any) -> None:
    child = _child()
    while (row := waiting.get()) is not None:
        try:
            child.stdin.write(json.dumps(row) + "\n")
            child.stdin.flush()
            answer = child.stdout.readline()
        except BrokenPipeError:
            answer = ""
        if not answer:
            child.wait()
            child = _child()
        done.put((row, json.loads(answer) if answer else {"outcome": "crash"}))
    child.stdin.close()
    child.wait()


def _child() -> Any:
    command = [sys.executable, "-m", "ops.bench.schemas", "work"]
    return subprocess.Popen(command, cwd=REPOSITORY, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE)  # noqa: S603  our own module


def rows_of(path: Path) -> list[dict[str, Any]]:
    """A file's schemas, with their instances."""
    return [json.loads(line) for line in path.read_text().split("\n") if line]


def _split(name: str, row: dict[str, Any]) -> str:
    """Which part of its file a schema is of."""
    if name == "suite":
        return "optional" if row["id"].startswith("optional/") else "required"
    return str(
        row["id"].split("---")[0].split("_")[0] if row["id"][:4] in {"BFCL", "JME_"} else row["id"].split("---")[0]
    )


def measure() -> dict[str, float]:
    """Flat figures; a table for the eye goes to stderr."""
    figures: dict[str, float] = {}
    for name, file in FILES.items():
        path = DATA / file
        if not path.is_file():
            print(f"schemas: {file} is not there; left out", file=sys.stderr)
            continue
        rows = [row | {"formats": name != "suite", "split": _split(name, row)} for row in rows_of(path)]
        scores = list(_scored(rows))
        _print(name, scores)
        figures |= _figures(f"schemas_{name}", (one for one in scores if one[0]["split"] not in (*_APART, "optional")))
    return figures


def _print(name: str, scores: list[tuple[dict[str, Any], dict[str, Any]]]) -> None:
    splits: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row, found in scores:
        splits[row["split"]].append(found)
        if found["outcome"] in {"over", "under", "crash", "refused"}:
            print(f"  {found['outcome']} {found.get('mode', '')} {row['id']} {found.get('why', '')}", file=sys.stderr)
    for split, some in sorted(splits.items()):
        counts = Counter(one["outcome"] for one in some) + Counter(one["mode"] for one in some if "mode" in one)
        print(f"{name:10} {split:18} {len(some):5} {dict(counts)}", file=sys.stderr)


def _figures(prefix: str, scores: Iterable[tuple[dict[str, Any], dict[str, Any]]]) -> dict[str, float]:
    found = [one for _, one in scores]
    modes = Counter(one.get("mode") for one in found)
    tight = Counter(one["outcome"] for one in found if one.get("mode") in {"native", "exact"})
    outcomes = Counter(one["outcome"] for one in found)
    times = sorted(one["ms"] for one in found if "ms" in one)
    shares = {f"{mode}_percent": 100 * modes[mode] / len(found) for mode in ("native", "exact", "wide")}
    told = {
        **{outcome: outcomes[outcome] for outcome in ("pass", "over", "under", "refused", "crash")},
        "over_native_or_exact": tight["over"],
        "under_native_or_exact": tight["under"],
        **shares,
        "exact_or_native_percent": shares["native_percent"] + shares["exact_percent"],
        "served_percent": sum(shares.values()),
        "compile_p50_ms": statistics.median(times),
        "compile_p99_ms": times[len(times) * 99 // 100],
    }
    return {f"{prefix}_{name}": round(figure, 3) for name, figure in told.items()}


if __name__ == "__main__":
    work()
