"""What goes wrong: a list drawn from a seed, and how each is done."""

import random
import signal
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from tests.chaos.clients import Crowd
from tests.chaos.history import breaking
from tests.chaos.house import House, Service, Size

_ENGINE = "worker.boot"
_SERVER = "api.server"
_FRONT_PARTS = (_SERVER, _SERVER, "")  # gunicorn's processes, or the supervisor above them
_SHARES = {
    "engine killed": 20,
    "worker killed": 8,  # the supervising parent
    "host lost": 6,  # both at once
    "worker ended": 8,  # SIGTERM
    "engine frozen": 8,
    "step raises": 6,
    "step hangs": 2,
    "front end killed": 8,
    "front end ended": 5,
    "front end frozen": 4,
    "redis killed": 6,
    "redis frozen": 3,
    "redis full": 3,
    "worker line cut": 5,
    "worker line stalled": 5,
    "worker replies lost": 6,
    "front end line cut": 4,
    "front end line stalled": 4,
    "front end replies lost": 5,
    "clock turned": 3,
    "chores killed": 3,
}
_SECONDS = {
    "engine frozen": (2.5, 5.0),
    "front end frozen": (1.0, 6.0),
    "redis killed": (0.0, 3.0),
    "redis frozen": (0.5, 4.0),
    "redis full": (0.5, 4.0),
    "worker line cut": (0.5, 5.0),
    "worker line stalled": (0.5, 5.0),
    "worker replies lost": (0.5, 1.0),
    "front end line cut": (0.5, 5.0),
    "front end line stalled": (0.5, 5.0),
    "front end replies lost": (0.5, 1.0),
}
_ROOM = 2**30  # bytes, for Redis
_PAIRED = 0.12  # of all: with another one at the same time
_ALONE = {"step hangs", "clock turned"}
KINDS = tuple(_SHARES)
HEAVY = (  # what gives the load to those that are spared, or has it wait
    "redis frozen",
    "host lost",
    "redis full",
    "front end killed",
    "chores killed",
    "worker ended",
    "front end ended",
    "front end killed",
)
STEADY = tuple(kind for kind in KINDS if kind not in {*_ALONE, "redis killed"})  # that hit nobody but their target


@dataclass(frozen=True)
class Fault:
    """One thing to do."""

    number: int
    kind: str
    target: int = 0
    seconds: float = 0.0
    detail: int = 0
    pause_s: float = 0.0  # before it
    beside: "Fault | None" = None


@dataclass
class Done:
    """What was done, when, and to whom."""

    fault: Fault
    at: float = 0.0
    jobs: set[str] = field(default_factory=set)  # that the stricken worker had
    over_s: float = 0.0  # until it was over; for Redis: until it answered
    whole_s: float | None = None  # until everything was in order again


def plan(
    seed: int, count: int, size: Size, kinds: Sequence[str] = KINDS, spared: int = 0, first: Sequence[str] = ()
) -> list[Fault]:
    """The same for the same seed. ``spared``: so many of each part are never hit. ``first``: what it begins with."""
    chance = random.Random(f"faults {seed}")
    faults = []
    for number in range(1, count + 1):
        fault = _drawn(chance, number, size, first[number - 1 : number] or kinds, spared)
        if fault.kind not in _ALONE and chance.random() < _PAIRED:
            beside = _drawn(chance, number, size, kinds, spared)
            if beside.kind not in _ALONE and (beside.kind.split()[0], beside.target) != (_part(fault), fault.target):
                fault = replace(fault, beside=beside)
        faults.append(fault)
    return faults


def _part(fault: Fault) -> str:
    return fault.kind.split()[0]


def _drawn(chance: random.Random, number: int, size: Size, kinds: Sequence[str], spared: int) -> Fault:
    kind = chance.choices(kinds, [_SHARES[kind] for kind in kinds])[0]
    count = {"front": size.front_ends, "chores": size.chores, "redis": 1}.get(kind.split()[0], size.workers)
    return Fault(
        number,
        kind,
        target=chance.randrange(min(spared, count - 1), count),
        seconds=round(chance.uniform(*_SECONDS.get(kind, (0.0, 0.0))), 2),
        detail=chance.randrange(1000),
        pause_s=round(chance.uniform(0.0, 0.8), 2),
    )


class Hand:
    """Does them."""

    def __init__(self, house: House, crowd: Crowd) -> None:
        self._house, self._crowd = house, crowd

    def do(self, fault: Fault) -> Done:
        """With whatever is to happen beside it. Returns when it is over, not yet healed."""
        beside = threading.Thread(target=self._do, args=(fault.beside,)) if fault.beside else None
        done = Done(fault, jobs=self._house.held([self._worker(fault)]) if self._hits_worker(fault) else set())
        done.at = time.monotonic()
        if beside:
            beside.start()
        self._do(fault)
        done.over_s = time.monotonic() - done.at
        if beside:
            beside.join()
        return done

    @staticmethod
    def _hits_worker(fault: Fault) -> bool:
        return fault.kind.startswith(("engine", "worker", "host"))

    def _worker(self, fault: Fault) -> Service:
        return self._house.workers[fault.target]

    def _do(self, fault: Fault | None) -> None:
        if fault is None:
            return
        part = _part(fault)
        act: dict[str, Callable[[Fault], None]] = {
            "engine": self._engine,
            "worker": self._line if "line" in fault.kind or "replies" in fault.kind else self._supervisor,
            "host": self._host,
            "step": self._step,
            "front": self._line if "line" in fault.kind or "replies" in fault.kind else self._front_end,
            "redis": self._redis,
            "clock": self._clock,
            "chores": lambda one: self._say(self._house.chores[one.target].signal(signal.SIGKILL)),
        }
        act[part](fault)

    @staticmethod
    def _say(_: object) -> None:
        """Whoever is just being started again is left alone."""

    def _engine(self, fault: Fault) -> None:
        worker = self._worker(fault)
        if fault.kind == "engine killed":
            worker.signal(signal.SIGKILL, _ENGINE)
            return
        worker.signal(signal.SIGSTOP, _ENGINE)
        _last(fault)
        worker.signal(signal.SIGCONT, _ENGINE)

    def _supervisor(self, fault: Fault) -> None:
        self._worker(fault).signal(signal.SIGKILL if fault.kind == "worker killed" else signal.SIGTERM)

    def _host(self, fault: Fault) -> None:
        """Nobody is left to reap: the parent does not see its child die."""
        worker = self._worker(fault)
        worker.signal(signal.SIGSTOP)
        worker.signal(signal.SIGKILL, _ENGINE)
        worker.signal(signal.SIGKILL)

    def _step(self, fault: Fault) -> None:
        """One that hangs is over when the third worker has hung on it: until then everything looks alive."""
        asked = self._crowd.ask(breaking("raise" if fault.kind == "step raises" else "hang", fault.number))
        if fault.kind == "step hangs":
            asked.join()

    def _front_end(self, fault: Fault) -> None:
        front = self._house.front_ends[fault.target]
        if fault.kind == "front end ended":
            front.signal(signal.SIGTERM)
            return
        if fault.kind == "front end frozen":
            front.signal(signal.SIGSTOP, _SERVER)
            _last(fault)
            front.signal(signal.SIGCONT, _SERVER)
            return
        part = _FRONT_PARTS[fault.detail % len(_FRONT_PARTS)]
        processes = [one for one in front.family() if part in " ".join(one.cmdline())] if part else front.family()[:1]
        if processes:
            processes[fault.detail // len(_FRONT_PARTS) % len(processes)].kill()

    def _redis(self, fault: Fault) -> None:
        begin, end = {
            "redis killed": (self._house.kill_redis, self._house.restart_redis),
            "redis frozen": (
                lambda: self._house.freeze_redis(signal.SIGSTOP),
                lambda: self._house.freeze_redis(signal.SIGCONT),
            ),
            "redis full": (lambda: self._house.limit_redis(1), lambda: self._house.limit_redis(_ROOM)),
        }[fault.kind]
        begin()
        _last(fault)
        end()

    def _line(self, fault: Fault) -> None:
        line = self._house.lines[f"{_part(fault)}{fault.target}"]
        if "lost" in fault.kind:
            line.lose(1 + fault.detail % 8)
        elif "cut" in fault.kind:
            line.cut()
        else:
            line.stall()
        _last(fault)
        line.heal()

    def _clock(self, fault: Fault) -> None:
        """One part starts again with a clock that is two hours wrong, or right."""
        services = self._house.services()
        service = services[fault.detail % len(services)]
        service.shift_s = (-7200, 0, 7200)[fault.target % 3]
        service.signal(signal.SIGTERM)


def _last(fault: Fault) -> None:
    time.sleep(fault.seconds)
