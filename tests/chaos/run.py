"""One run: a house, clients, faults, and the verdict."""

import json
import statistics
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tests.chaos.check import OPEN, Check, Verdict, stored
from tests.chaos.clients import Crowd
from tests.chaos.faults import KINDS, Done, Fault, Hand, plan
from tests.chaos.history import FIXED, History, Question, questions
from tests.chaos.house import COUNTING, House, Size
from tests.chaos.pauses import KILLS, pauses, summary
from tests.chaos.wire import Call
from tests.common.ledger_audit import audit

_JOBS_A_FAULT = 10
_PATIENCE_S = 120.0
_BOOT_S = 180.0
_END_S = 60.0
_EFFECT_S = 0.3  # what was just killed looks alive for a moment
_TOP = ("seed", "faults", "jobs", "lost", "doubled", "gaps", "repeats", "changed", "pause_p50_s", "pause_max_s")
Say = Callable[[str], None]
Answers = Callable[[House], Callable[[Question], str]]


@dataclass(frozen=True)
class Order:
    """What is to be done."""

    seed: int
    faults: int
    size: Size = field(default_factory=Size)
    clients: int = 16
    tokens: int = 200  # the longest answer
    kinds: tuple[str, ...] = KINDS
    toml: str = COUNTING
    questions: Callable[[int, int, int], Iterator[Question]] = questions


@dataclass
class Report:
    """What came of it."""

    order: Order
    done: list[Done]
    histories: list[History]
    verdict: Verdict
    audit: str
    seconds: float

    def is_good(self) -> bool:
        return self.verdict.is_good() and not self.audit

    def figures(self) -> dict[str, Any]:
        """What is written down."""
        found = pauses(self.done, self.histories)
        kills = [pause.seconds for pause in found if pause.fault.kind in KILLS]
        ends = [history.end for history in self.histories]
        whole = [one.whole_s for one in self.done if one.whole_s is not None]
        return {
            "seed": self.order.seed,
            "faults": len(self.done),
            "jobs": sum(bool(history.jobs()) for history in self.histories),
            **self.verdict.counts(),
            "pause_p50_s": round(statistics.median(kills), 2) if kills else None,
            "pause_max_s": round(max(kills), 2) if kills else None,
            "audit": self.audit,
            "seconds": round(self.seconds),
            "readings": sum(len(history.readings) for history in self.histories),
            "ends": {end: ends.count(end) for end in sorted(set(ends))},
            "slowest_s": round(max((history.seconds for history in self.histories), default=0.0), 1),
            "whole_again_max_s": round(max(whole, default=0.0), 1),
            "pauses": summary(found),
            "violations": asdict(self.verdict),
        }

    def write(self, path: Path) -> None:
        """For other programs."""
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(self.figures(), indent=2) + "\n")

    def table(self) -> str:
        """For people."""
        figures = self.figures()
        lines = [f"{name:16} {figures[name]}" for name in _TOP]
        lines += [f"{'pause':16} {kind}: {told}" for kind, told in figures["pauses"].items()]
        lines += [f"{name}: {line}" for name, found in figures["violations"].items() for line in found[:5]]
        return "\n".join([*lines, f"audit: {self.audit}"] if self.audit else lines)


def by_counting(house: House) -> Callable[[Question], str]:  # noqa: ARG001  as the other one
    """The counting model's answers need not be asked for."""
    return Question.answer


def by_asking(house: House) -> Callable[[Question], str]:
    """Those of another model are, while nothing is broken."""
    found = {}
    for prompt, tokens in FIXED:
        question = Question(f"before {prompt} {tokens}", "whole", prompt, tokens)
        with Call(house.urls[0], "POST", "/v1/completions", question.body()) as call:
            found[prompt, tokens] = str(call.json()["choices"][0]["text"])
    return lambda question: found[question.prompt, question.tokens]


def run(
    order: Order, folder: Path, say: Say, answers: Answers = by_counting, stop: threading.Event | None = None
) -> Report:
    """``answers``: asked once, before anything breaks, how each question must be answered. ``stop``: no more faults."""
    stop = stop or threading.Event()
    faults = plan(order.seed, order.faults, order.size, order.kinds)
    say(f"seed {order.seed}: {len(faults)} faults")
    with House(folder, order.size, order.toml) as house:
        if not house.wait_whole(stop, _BOOT_S):
            raise RuntimeError("the house did not get ready")
        answer = answers(house)
        began = time.monotonic()
        crowd = Crowd(
            house.urls,
            order.seed,
            [order.questions(order.seed, number, order.tokens) for number in range(order.clients)],
        )
        crowd.start()
        try:
            done = _break(house, crowd, faults, say, stop)
            crowd.wait(_JOBS_A_FAULT * len(done), _PATIENCE_S)
        finally:
            histories = crowd.stop()
        _await_ends(house)
        verdict = Check(histories, stored(house.redis_url), answer).run()
        return Report(order, done, histories, verdict, _audited(house), time.monotonic() - began)


def _break(house: House, crowd: Crowd, faults: Sequence[Fault], say: Say, stop: threading.Event) -> list[Done]:
    """One after the other, each when all is in order again and enough was asked."""
    hand, done = Hand(house, crowd), []
    for fault in faults:
        if stop.is_set():
            break
        crowd.wait(_JOBS_A_FAULT * fault.number, _PATIENCE_S)
        stop.wait(fault.pause_s)
        done.append(hand.do(fault))
        stop.wait(_EFFECT_S)
        if house.wait_whole(stop):
            done[-1].whole_s = time.monotonic() - done[-1].at
        say(_line(done[-1]))
    return done


def _line(done: Done) -> str:
    fault = done.fault
    beside = f" beside {fault.beside.kind} {fault.beside.target}" if fault.beside else ""
    whole = f"{done.whole_s:.1f} s" if done.whole_s is not None else "not in time"
    what = f"{fault.number:4} {fault.kind} {fault.target} ({fault.seconds:g} s){beside}"
    return f"{time.strftime('%H:%M:%S')} {what}: in order again after {whole}"


def _await_ends(house: House) -> None:
    """Forgotten jobs have nobody who waits for them."""
    end = time.monotonic() + _END_S
    while time.monotonic() < end:
        if not any(job.state in OPEN for job in stored(house.redis_url).values()):
            return
        threading.Event().wait(1.0)


def _audited(house: House) -> str:
    try:
        audit(house.redis_url)
    except AssertionError as error:
        return repr(error)
    return ""
