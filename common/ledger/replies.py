"""What the ledger's calls take and give."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from common.jobs import Class, Delta, Entry, Failed, Job

State = Literal["queued", "running", "done", "failed", "cancelled", "expired"]
End = Literal["done", "failed", "cancelled", "expired"]


@dataclass(frozen=True, slots=True)
class Place:
    """Where a waiting job stands: position from 1; the eta only where it was measured."""

    position: int
    eta_s: float | None


@dataclass(frozen=True, slots=True)
class Once:
    """By what a request is known that may come twice; all are hashes."""

    key: str = ""  # of owner, kind and idempotency key
    digest: str = ""  # of path and body
    orphan: str = ""  # of owner, path and body, where it says that it comes again


NEVER_AGAIN = Once()


@dataclass(frozen=True, slots=True)
class Record:
    """A job and where it stands."""

    job: Job
    state: State
    attempts: int
    tokens: int  # generated
    seq: int  # items in the log
    came: float  # Unix seconds, as the others
    begun: float | None
    ended: float | None
    error: Failed | None = None


@dataclass(frozen=True, slots=True)
class Watched:
    """A job's state and its log after the asked position, read in one atomic step."""

    state: State
    seq: int  # items in the log
    epoch: int
    worker: str
    is_heard: bool  # False: four front ends listen already, this one reads the log
    entries: tuple[Entry, ...]
    claim: str = ""  # the newest claim's name; empty: there was none
    claim_seq: int = 0  # items in the log when it was made: what comes behind them is its own


class Ring(NamedTuple):
    """A message on a front end's channel: new items of one job, the first numbered ``first``."""

    job_id: str
    first: int
    ended: bool
    items: tuple[bytes, ...]
    claim: str = ""  # the name of the claim that said them


@dataclass(frozen=True, slots=True)
class Claim:
    """A worker's right to a job: what it must do, its fence, and what was already said."""

    job: Job
    epoch: int
    attempts: int
    seq: int  # items in the log
    said: tuple[Delta, ...]
    since_s: float = 0.0  # of generation, before this claim
    is_kept: bool = False  # it was its class' turn: for a while it gives way to nobody


Released = tuple[str, int, float]  # a job that is given back, its epoch, its seconds of generation in all


@dataclass(frozen=True, slots=True)
class Emission:
    """New items of one job; ``after`` is the number of items the worker believes are stored."""

    job_id: str
    epoch: int
    after: int
    items: tuple[str | bytes, ...]
    tokens: int = 0  # generated so far, with these items
    end: End | None = None  # the last item is Done or Failed


@dataclass(frozen=True, slots=True)
class EmitReply:
    """What became of a step's items."""

    fenced: tuple[str, ...] = ()  # drop these jobs: another worker owns them, or they have ended
    gone: tuple[str, ...] = ()  # Redis forgot them: drop
    behind: dict[str, int] = field(default_factory=dict)  # Redis has only so many items: send the rest again
    cancelled: tuple[str, ...] = ()  # end them with CancelledError
    expired: tuple[str, ...] = ()  # end them with ExpiredError
    waiting: dict[Class, int] = field(default_factory=dict)  # jobs that wait for this model


@dataclass(frozen=True, slots=True)
class WorkerInfo:
    """What a worker says of itself with every beat."""

    worker: str  # a new id for each start of the process
    model: str
    slots: int
    free: int
    state: Literal["ready", "draining"]
    tokens_per_s: float | None = None  # measured lately; None: not yet
    gauges: Mapping[str, float] = field(default_factory=dict)  # what is in use


@dataclass(frozen=True, slots=True)
class Pace:
    """How quick a model has been; None: not measured yet."""

    workers: int
    ahead: int  # jobs that wait
    job_tokens: float | None  # of an answer
    spent: float | None  # of the tokens that answers were allowed, lately
    prompt_s: float | None  # a prompt token, on one worker
    token_s: float | None  # another one, on one worker with full slots


@dataclass(frozen=True, slots=True)
class BeatReply:
    """What a worker hears when it beats."""

    cancelled: tuple[str, ...]
    expired: tuple[str, ...]
    waiting: dict[Class, int]


@dataclass(frozen=True, slots=True)
class Beat:
    """One beat as it stands in Redis; a reaper compares it with what it read before."""

    who: str
    at: str  # Redis TIME, as stored
    partition: int = 0


class KnownJobError(Exception):
    """The request is one that was submitted before, as this job."""

    def __init__(self, job_id: str) -> None:
        super().__init__(job_id)
        self.job_id = job_id
