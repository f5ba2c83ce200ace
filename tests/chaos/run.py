"""One run: a house, clients, faults, and the verdict."""

import json
import statistics
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tests.chaos.check import OPEN, Check, Verdict, stored
from tests.chaos.clients import DEADLINE_S, Crowd
from tests.chaos.faults import KINDS, Done, Fault, Hand, plan
from tests.chaos.growth import Growth, Sample
from tests.chaos.history import FIXED, History, Question, questions
from tests.chaos.house import COUNTING, House, Size
from tests.chaos.pauses import KILLS, pauses, summary
from tests.chaos.wire import Call
from tests.common.ledger_audit import audit

_JOBS_A_FAULT = 10
_PATIENCE_S = 120.0
_BOOT_S = 180.0
_END_S = 60.0
_LATER = 2 / 3  # of the time: in the first third processes still get warm
_EFFECT_S = 0.3  # what was just killed looks alive for a moment
_TOP = ("seed", "faults", "jobs", "lost", "doubled", "gaps", "repeats", "changed", "pause_p50_s", "pause_max_s")
Say = Callable[[str], None]
Answers = Callable[[House], Callable[[Question], list[str]]]


@dataclass(frozen=True)
class Order:
    """What is to be done."""

    seed: int
    faults: int
    size: Size = field(default_factory=Size)
    clients: int = 16
    tokens: int = 200  # the longest answer
    kinds: tuple[str, ...] = KINDS
    first: tuple[str, ...] = ()  # the first faults are of these kinds
    every_s: float = 0.0  # a fault each so many seconds; 0: each when enough was asked
    deadline_s: float = DEADLINE_S  # after which a client gives a question up
    spared: int = 0  # so many of each part are never hit: what they use is watched
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
    growth: dict[str, Any]

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
            **self.growth,
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
        lines += [f"{name:16} {told}" for name, told in self.growth.items() if name != "own_mb"]
        lines += [f"{name}: {line}" for name, found in figures["violations"].items() for line in found[:5]]
        return "\n".join([*lines, f"audit: {self.audit}"] if self.audit else lines)


def by_counting(house: House) -> Callable[[Question], list[str]]:  # noqa: ARG001  as the other one
    """The counting model's answers need not be asked for."""
    return Question.answer


def by_asking(house: House) -> Callable[[Question], list[str]]:
    """Those of another model are, while nothing is broken."""
    found = {}
    for prompt, tokens in FIXED:
        question = Question(f"before {prompt} {tokens}", "whole", prompt, tokens)
        with Call(house.urls[0], "POST", "/v1/completions", question.body()) as call:
            found[prompt, tokens] = [str(call.json()["choices"][0]["text"])]
    return lambda question: found[question.prompt, question.tokens]


def run(
    order: Order, folder: Path, say: Say, answers: Answers = by_counting, stop: threading.Event | None = None
) -> Report:
    """``answers``: asked once, before anything breaks, how each question must be answered. ``stop``: no more faults."""
    stop = stop or threading.Event()
    faults = plan(order.seed, order.faults, order.size, order.kinds, order.spared, order.first)
    say(f"seed {order.seed}: {len(faults)} faults")
    with House(folder, order.size, order.toml) as house, Growth(house) as growth:
        if not house.wait_whole(stop, _BOOT_S):
            raise RuntimeError("the house did not get ready")
        answer = answers(house)
        idle = growth.look()
        asks = [order.questions(order.seed, number, order.tokens) for number in range(order.clients)]
        scene = _Scene(order, house, Crowd(house.urls, order.seed, asks, order.deadline_s), say, stop)
        try:
            done = scene.play(faults)
        finally:
            late_s = (time.monotonic() - scene.began) * _LATER
            told = {"growth_mb_per_h": growth.mb_per_hour(late_s), "own_mb": growth.mb_by_minute(late_s)}
            histories = scene.crowd.stop()
        _await_ends(house)
        verdict = Check(histories, stored(house.redis_url), answer).run()
        used = _used(idle, growth.look()) | (told if order.every_s else {})
        return Report(order, done, histories, verdict, _audited(house), time.monotonic() - scene.began, used)


@dataclass
class _Scene:
    """Clients who ask, and what breaks meanwhile."""

    order: Order
    house: House
    crowd: Crowd
    say: Say
    stop: threading.Event
    began: float = 0.0

    def play(self, faults: Sequence[Fault]) -> list[Done]:
        """One after the other, each when it is time and all is in order again."""
        self.began = time.monotonic()
        self.crowd.start()
        hand, done = Hand(self.house, self.crowd), list[Done]()
        for fault in faults:
            self._await(fault.number)
            if self.stop.wait(fault.pause_s):
                break
            done.append(hand.do(fault))
            self.stop.wait(_EFFECT_S)
            if self.house.wait_whole(self.stop):
                done[-1].whole_s = time.monotonic() - done[-1].at
            self.say(_line(done[-1]))
        self._await(len(done) + 1)
        return done

    def _await(self, number: int) -> None:
        """Until it is time for this fault."""
        if self.order.every_s:
            self.stop.wait(max(0.0, self.began + number * self.order.every_s - time.monotonic()))
        else:
            self.crowd.wait(_JOBS_A_FAULT * number, _PATIENCE_S)


def _used(before: Mapping[Any, Sample], after: Mapping[Any, Sample]) -> dict[str, Any]:
    """What the processes that lived through it all have more than before, when everything is over."""
    pairs = [(f"{key[0]} {key[1]}", before[key], after[key]) for key in sorted(before.keys() & after.keys())]
    return {
        f"{what}_more": {
            name: n for name, early, late in pairs if (n := getattr(late, what) - getattr(early, what)) > 0
        }
        for what in ("threads", "descriptors")
    }


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
