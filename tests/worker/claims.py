"""Claims with defaults, a counting model that breaks where it is told to, and a sink that keeps all it hears."""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from common.jobs import Delta, Event, Failed, Finish, Job, Sampling
from common.ledger.replies import Claim
from tests.builders import a_job
from worker.engine import rng
from worker.engine.engine import Engine, Output
from worker.engine.model import Drawn, Feed, Model
from worker.models.counting import Counting, tokenizer
from worker.models.pieces import Pieces

_BYTES = tokenizer()
BYTES = Pieces(_BYTES)


def spelled(text: str) -> tuple[int, ...]:
    """A text as the counting model's tokens, a byte each."""
    return tuple(_BYTES.encode(text).ids)


def read(tokens: Sequence[int]) -> str:
    """Such tokens as text."""
    return str(_BYTES.decode(list(tokens)))


def counting(text: str, most: int = 12, **changes: Any) -> Job:
    """A greedy job for the counting model."""
    return a_job(**{"prompts": (spelled(text),), "sampling": Sampling(most, 0.0)} | changes)


def keys(job: Job) -> list[int]:
    """How its sequences can be told apart in a step."""
    return [rng.stream(job.seed, choice) for choice in range(job.choices)]


def a_claim(job: Job, said: Sequence[Event] = (), *, attempts: int = 0, epoch: int = 1, since_s: float = 0.0) -> Claim:
    """A worker's right to a job of which so much was said."""
    deltas = tuple(event for event in said if isinstance(event, Delta))
    return Claim(job, epoch, attempts, len(deltas), deltas, since_s)


class Notes:
    """A sink: every job's events in order."""

    def __init__(self) -> None:
        self.events: dict[str, list[Event]] = {}
        self.outputs: list[Output] = []

    def __call__(self, outputs: Sequence[Output]) -> None:
        self.outputs += outputs
        for output in outputs:
            self.events.setdefault(output.job_id, []).extend(output.events)

    def deltas(self, job: Job, choice: int = 0) -> list[Delta]:
        """What was said of one choice."""
        events = self.events.get(job.id, [])
        return [event for event in events if isinstance(event, Delta) and event.choice == choice]

    def text(self, job: Job, choice: int = 0) -> str:
        """Its text."""
        return "".join(delta.text for delta in self.deltas(job, choice))

    def tokens(self, job: Job, choice: int = 0) -> list[int]:
        """Its ids."""
        return [token for delta in self.deltas(job, choice) for token in delta.tokens]

    def finish(self, job: Job, choice: int = 0) -> Finish | None:
        """Why it ended."""
        deltas = self.deltas(job, choice)
        return deltas[-1].finish if deltas else None


class Watched(Counting):
    """Counts, remembers the steps it was asked for, and breaks where it is told to."""

    def __init__(self, slots: int = 4, query: str = "", breaks: Callable[[Feed], bool] = lambda _: False) -> None:
        super().__init__(query, slots)
        self.steps: list[tuple[Feed, ...]] = []
        self.freed: list[int] = []
        self._breaks = breaks

    def step(self, feeds: Sequence[Feed]) -> Mapping[int, Drawn]:
        self.steps.append(tuple(feeds))
        if any(map(self._breaks, feeds)):
            raise RuntimeError("this step was to break")
        return super().step(feeds)

    def free(self, slot: int) -> None:
        self.freed.append(slot)
        super().free(slot)


class Marks:
    """Hot jobs, as the supervising parent would see them."""

    def __init__(self) -> None:
        self.told: list[set[str]] = []

    def mark(self, job_ids: Collection[str]) -> None:
        self.told.append(set(job_ids))

    def clear(self) -> None:
        self.told.append(set())


def finish(engine: Engine) -> None:
    """Step until there is nothing to do."""
    while engine.stalled_s() is not None:
        engine.step()


def answers(model: Model, *claims: Claim) -> Notes:
    """What an engine says to these claims, all added at once."""
    notes = Notes()
    engine = Engine(model, notes)
    for claim in claims:
        engine.add(claim)
    finish(engine)
    return notes


def an_engine(model: Model, *jobs: Job, hot: Marks | None = None) -> tuple[Engine, Notes]:
    """An engine that is to be stepped by hand, with these jobs claimed."""
    notes = Notes()
    engine = Engine(model, notes, hot=hot)
    for job in jobs:
        engine.add(a_claim(job))
    return engine, notes


def alone(job: Job) -> str:
    """What the counting model says to a job that has it for itself."""
    return answers(Counting("", 4), a_claim(job)).text(job)


def is_failed(notes: Notes, job: Job) -> bool:
    """It ended, by our fault."""
    last = notes.events[job.id][-1]
    return isinstance(last, Failed) and (last.status, last.code) == (500, "internal")
