"""Between the scripts' words and our nouns; pure."""

import json
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple
from typing import Literal, cast

from common.errors import CancelledError, ConflictError, ExpiredError, InternalError, RateLimitError
from common.jobs import CLASSES, Class, Delta, Entry, Failed, Job, decode_event
from common.ledger.replies import (
    BeatReply,
    Claim,
    Emission,
    EmitReply,
    Once,
    Pace,
    Place,
    Record,
    Ring,
    State,
    Watched,
    WorkerInfo,
)
from common.settings import Limits

Ids = Sequence[bytes]
Counts = Sequence[bytes | None]

CANCELLED = Failed.of(CancelledError("The request was cancelled."))
EXPIRED = Failed.of(ExpiredError("The request did not end within its time."))
POISON = Failed.of(InternalError("The request stopped its worker three times and was given up.", code="poison"))
HEAD = struct.Struct(">34s4IB")  # of a job in EMIT, which takes it apart
_ENDS = {None: 0, "done": 1, "failed": 2, "cancelled": 3, "expired": 4}
_GUESS_S = 5


def lua_items() -> str:
    """The ends that scripts write themselves, as Lua."""
    ends = {"cancelled": CANCELLED, "expired": EXPIRED, "poison": POISON}
    return "".join(f"local {name.upper()} = [==[{end.encode()}]==]\n" for name, end in ends.items())


def submission(job: Job, limits: Limits, front_end: str | None, once: Once) -> list[str | int | float]:
    """What SUBMIT is told: of the request, and what the scripts need to know of a job, and its body."""
    wait = "" if job.max_wait_s is None else job.max_wait_s
    head = (job.id, front_end or "", limits.waiting_class, limits.waiting_share, job.end_s, wait, *astuple(once))
    told: dict[str, str | int | float] = {
        "model": job.model,
        "cls": job.cls,
        "share": job.share,
        "owner": job.owner,
        "priority": int(job.priority),
        "prompt_tokens": job.prompt_tokens,
        "cost": job.cost,
        "weight": job.weight,
        "keep_s": job.keep_s,
        "on_disconnect": job.on_disconnect,
        "kind": job.reply.kind,
        "body": job.encode(),
    }
    told |= {"parent": job.parent} if job.parent else {}
    return [*head, *(part for pair in told.items() for part in pair)]


def record(reply: Sequence[bytes | None]) -> Record:
    """RECORD's reply."""
    body, name, attempts, tokens, seq, came, begun, ended, last = reply
    end = None if last is None else decode_event(last)
    return Record(
        job=Job.decode(body or b""),
        state=state(name or b""),
        attempts=int(attempts or 0),
        tokens=int(tokens or 0),
        seq=int(seq or 0),
        came=float(came or 0),
        begun=None if begun is None else float(begun),
        ended=None if ended is None else float(ended),
        error=end if isinstance(end, Failed) else None,
    )


def place(position: bytes, eta: bytes) -> Place:
    """Where a job waits."""
    return Place(int(position), float(eta) if eta else None)


def pace(workers: int, waiting: int, stats: Sequence[Counts], counted: Mapping[str, float]) -> Pace:
    """How quick a model is."""
    jobs, tokens, spent, allowed = (sum(float(value or 0) for value in column) for column in zip(*stats, strict=True))
    return Pace(
        workers,
        waiting,
        _ratio(tokens, jobs),
        _ratio(spent, allowed),
        _ratio(counted.get("prefill_s", 0), counted.get("prompt_tokens", 0)),
        _ratio(counted.get("full_s", 0), counted.get("full_tokens", 0)),
    )


def _ratio(of: float, count: float) -> float | None:
    return of / count if count else None


def conflict() -> ConflictError:
    """The key is another request's."""
    return ConflictError("This Idempotency-Key came before with another request.")


def standing(reply: bytes | None) -> str | None:
    """The id of what is there now; None: it was not put. Raises ConflictError."""
    if reply == b"conflict":
        raise conflict()
    return None if reply is None else reply.decode()


def queue_full(eta: bytes) -> RateLimitError:
    """Nobody else may wait."""
    return RateLimitError(
        "Too many requests wait; try again later.", code="queue_full", retry_after_s=_retry_after(eta)
    )


def deadline_unreachable(eta: bytes) -> RateLimitError:
    """It would wait for longer than anybody waits for it."""
    message = "The request could not start before its deadline."
    return RateLimitError(message, code="deadline_unreachable", retry_after_s=_retry_after(eta))


def _retry_after(eta: bytes) -> int:
    """How long to stay away: what was measured, else a guess that the SDKs obey."""
    return round(float(eta)) if eta else _GUESS_S


def state(raw: bytes) -> State:
    """As the scripts spell it."""
    return cast("State", raw.decode())


def watched(after: int, reply: tuple[bytes, bytes, bytes, bytes, int, bytes, bytes, Ids]) -> Watched:
    """WATCH's reply."""
    name, seq, epoch, worker, heard, claim, claim_seq, items = reply
    entries = tuple(Entry(number, decode_event(item)) for number, item in enumerate(items, after + 1))
    told = (state(name), int(seq), int(epoch), worker.decode(), bool(heard), entries)
    return Watched(*told, claim.decode(), int(claim_seq))


def claim(epoch: bytes, attempts: bytes, seq: bytes, told: bytes, body: bytes, items: Ids) -> Claim:
    """CLAIM's reply."""
    since, kept = told.split()
    said = tuple(event for item in items if isinstance(event := decode_event(item), Delta))
    return Claim(Job.decode(body), int(epoch), int(attempts), int(seq), said, float(since), kept == b"1")


def step(worker: str, model: str, emissions: Sequence[Emission]) -> list[str | bytes]:
    """EMIT's arguments."""
    heads = [
        HEAD.pack(one.job_id.encode(), one.epoch, one.after, one.tokens, len(one.items), _ENDS[one.end])
        for one in emissions
    ]
    return [worker, model, b"".join(heads), *(item for one in emissions for item in one.items)]


def emit_reply(replies: Sequence[tuple[Ids, Ids, Ids, Ids, Ids, Counts]]) -> EmitReply:
    """What all partitions said of a step."""
    fenced, gone, behind, cancelled, expired, waiting = zip(*replies, strict=True)
    told = ids(behind)
    return EmitReply(
        ids(fenced),
        ids(gone),
        dict(zip(told[::2], map(int, told[1::2]), strict=True)),
        ids(cancelled),
        ids(expired),
        counts(waiting),
    )


def beat(info: WorkerInfo, name: str, counters: Mapping[str, float], held: Iterable[str] | None) -> list[str | float]:
    """BEAT's arguments."""
    told = ("model", info.model, "slots", info.slots, "free", info.free, "state", info.state)
    rate = ("tokens_per_s", info.tokens_per_s or 0, "gauges", json.dumps(dict(info.gauges)))
    counted = [part for pair in counters.items() for part in pair]
    jobs = ("",) if held is None else ("held", *held)
    return [info.worker, info.model, name, len(told) + len(rate), *told, *rate, len(counted), *counted, *jobs]


def beat_reply(reply: tuple[Ids, Ids, Counts]) -> BeatReply:
    """What a partition said to a beat."""
    cancelled, expired, waiting = reply
    return BeatReply(ids([cancelled]), ids([expired]), counts([waiting]))


def worker_info(row: Ids) -> WorkerInfo:
    """What a worker said of itself."""
    worker, model, slots, free, told, rate, gauges = (cell.decode() for cell in row)
    is_ready = cast("Literal['ready', 'draining']", told)
    return WorkerInfo(worker, model, int(slots), int(free), is_ready, float(rate) or None, json.loads(gauges))


def ring(record: bytes) -> Ring:
    """One job's part of a message on a front end's channel."""
    job_id, claim, first, ended, *items = record.split(b"\x1f")
    return Ring(job_id.decode(), int(first), ended == b"1", tuple(items), claim.decode())


def ids(groups: Iterable[Ids]) -> tuple[str, ...]:
    """All partitions' together."""
    return tuple(one.decode() for group in groups for one in group)


def counts(rows: Iterable[Counts]) -> dict[Class, int]:
    """All partitions' waiting jobs together."""
    columns = zip(*rows, strict=True)
    return {cls: sum(int(count or 0) for count in column) for cls, column in zip(CLASSES, columns, strict=True)}
