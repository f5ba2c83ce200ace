"""A claimed job in the engine: its choices, and where it stands."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import inf

from common.jobs import CLASSES, Class, Delta
from common.ledger.replies import Claim
from worker.engine.clock import Clock
from worker.engine.sequence import Bounds, Row, Sequence


@dataclass(slots=True)
class Work:
    """A claimed job in the engine."""

    claim: Claim
    order: int  # of arrival
    sequences: tuple[Sequence, ...]
    clock: Clock
    parked_at: float | None = None
    kept_until: float | None = None  # till then it gives way to nobody

    @property
    def cls(self) -> Class:
        """Its class in this engine: a job that gives way to nobody is of the first."""
        return CLASSES[0] if self.kept_until is not None else self.claim.job.cls

    @property
    def is_suspect(self) -> bool:
        """A worker died while it was hot: it gets steps of its own until it runs."""
        return self.claim.attempts > 0

    @property
    def is_finished(self) -> bool:
        """Every choice has its finish."""
        return all(sequence.is_finished for sequence in self.sequences)

    @property
    def tokens(self) -> int:
        """Generated tokens, those in the log included."""
        return sum(len(sequence.tokens) for sequence in self.sequences)

    @property
    def cached(self) -> int:
        """Tokens of its prompts that nobody had to compute."""
        return sum(sequence.cached for sequence in self.sequences if sequence.choice % self.claim.job.n == 0)

    def waiting(self) -> Iterator[Sequence]:
        """What still wants a slot."""
        return (sequence for sequence in self.sequences if sequence.slot is None and not sequence.is_finished)

    def running(self) -> Iterator[Sequence]:
        """What has one."""
        return (sequence for sequence in self.sequences if sequence.slot is not None)


def work_of(claim: Claim, order: int, bounds: Bounds, row: Row | None = None) -> Work:
    """A claim's sequences, each with what the log has of it; ``row``: the job's constraint, at its beginning."""
    choices: list[list[Delta]] = [[] for _ in range(claim.job.choices)]
    for delta in claim.said:
        choices[delta.choice].append(delta)
    clock = Clock(inf if claim.job.max_time_s is None else claim.job.max_time_s, claim.since_s)
    sequences = tuple(
        Sequence(claim, choice, bounds, tuple(said), clock, row and row.clone()) for choice, said in enumerate(choices)
    )
    return Work(replace(claim, said=()), order, sequences, clock)  # what was said is in them
