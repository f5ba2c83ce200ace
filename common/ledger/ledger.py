"""All jobs, behind one class: the only module that other floors call for Redis."""

import threading
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import redis

from common.cards import ModelCard
from common.errors import CancelledError, ExpiredError, InternalError, RateLimitError
from common.jobs import CLASSES, Class, Delta, Entry, Failed, Job, decode_event
from common.ledger import keys
from common.ledger.partition import Partition
from common.ledger.replies import (
    Beat,
    BeatReply,
    Claim,
    Emission,
    EmitReply,
    Place,
    Ring,
    State,
    Watched,
    WorkerInfo,
)
from common.settings import Limits

_LEASE_S = 2.0
_CANCELLED = Failed.of(CancelledError("The request was cancelled.")).encode()
_EXPIRED = Failed.of(ExpiredError("The request did not end within its time.")).encode()
_POISON = Failed.of(
    InternalError("The request stopped its worker three times and was given up.", code="poison")
).encode()


class Bell:
    """A front end's subscription in one partition: quick, may lose a ring."""

    def __init__(self, partition: Partition, front_end: str) -> None:
        self._client = partition.subscriber()
        self._pubsub = self._client.pubsub()
        self._channel = keys.channel(front_end)

    def subscribe(self) -> None:
        """Subscribe and wait for the confirmation: from now on we hear all. Raises redis.RedisError."""
        self._pubsub.close()
        self._pubsub = self._client.pubsub()
        self._pubsub.subscribe(self._channel)
        while True:
            message = self._pubsub.get_message(timeout=_LEASE_S)
            if message is None:
                raise redis.TimeoutError("no confirmation of the subscription")
            if message["type"] == "subscribe":
                return

    def listen(self, timeout_s: float) -> Sequence[Ring] | None:
        """The next message's rings; None when nothing came in time. Raises redis.RedisError when the line is lost."""
        message = self._pubsub.get_message(timeout=timeout_s, ignore_subscribe_messages=True)
        if message is None or message["type"] != "message":
            return None
        return [_ring(record) for record in message["data"].split(b"\x1e")]

    def close(self) -> None:
        """Give the connection back."""
        self._pubsub.close()
        self._client.close()


class Ledger:
    """Jobs in Redis, partition by partition."""

    def __init__(self, urls: Sequence[str]) -> None:
        """One URL a partition, in an order that never changes."""
        self.partitions = tuple(Partition(url, number) for number, url in enumerate(urls))
        self._first = self.partitions[0]
        self._lock = threading.Lock()
        self._requests: dict[str, int] = {}  # worker -> its CLAIM's number, the same until it is answered
        self._turn = 0

    # the front end's calls -----------------------------------------------------------------------------------------
    def partition(self, owner: str) -> int:
        """Where jobs of this owner live."""
        return int(owner[:2], 16) % len(self.partitions)

    def submit(self, job: Job, limits: Limits, front_end: str | None = None) -> Place:
        """SUBMIT: keep the job, queue it, and watch it for ``front_end``; once or not at all.

        Raises RateLimitError (queue_full, deadline_unreachable) and StorageError.
        """
        wait = "" if job.max_wait_s is None else job.max_wait_s
        head = (job.id, front_end or "", limits.waiting_class, limits.waiting_share, job.end_s, wait)
        fields = _fields(job)
        verdict, *rest = self._of(job.id).run("submit", *head, *(part for pair in fields.items() for part in pair))
        match verdict:
            case b"ok":
                return Place(int(rest[0]), _eta(rest[1]))
            case b"full":
                raise RateLimitError(
                    "Too many requests wait; try again later.", code="queue_full", retry_after_s=_seconds(rest[0])
                )
            case b"late":
                raise RateLimitError(
                    "The request could not start before its deadline.",
                    code="deadline_unreachable",
                    retry_after_s=_seconds(rest[0]),
                )
            case _:
                raise InternalError("The job's id is taken.")

    def watch(self, owner: str, job_id: str, front_end: str, after: int = 0, most: int = 512) -> Watched | None:
        """WATCH: register the front end and read entries after a number, atomically; None: not here, or not yours."""
        reply = self._of(job_id).run("watch", owner, job_id, front_end, after, most)
        if reply is None:
            return None
        state, seq, epoch, worker, heard, items = reply
        entries = tuple(Entry(after + at, decode_event(item)) for at, item in enumerate(items, 1))
        return Watched(state.decode(), int(seq), int(epoch), worker.decode(), bool(heard), entries)

    def read(self, owner: str, job_id: str, after: int = 0, most: int = 512) -> Watched | None:
        """The same without registering."""
        return self.watch(owner, job_id, "", after, most)

    def unwatch(self, job_id: str, front_end: str) -> None:
        """UNWATCH: this front end no longer listens."""
        self._of(job_id).run("unwatch", front_end, job_id)

    def job(self, owner: str, job_id: str) -> Job | None:
        """The job as it was submitted; None: not here, or not yours."""
        part = self._of(job_id)
        key = keys.job(part.tag, job_id)
        found: Sequence[bytes | None] = part.ask(lambda: part.redis.hmget(key, ["owner", "body"]))
        if found[0] is None or found[1] is None or found[0].decode() != owner:
            return None
        return Job.decode(found[1])

    def cancel(self, owner: str, job_id: str) -> State | None:
        """CANCEL: a waiting job ends at once, a running one with its worker's next EMIT or beat. The state after it."""
        state: bytes | None = self._of(job_id).run("cancel", owner, job_id, _CANCELLED)
        return None if state is None else state.decode()  # type: ignore[return-value]  # as the scripts spell it

    def place(self, owner: str, job_id: str) -> Place | None:
        """Where it waits; None once it runs."""
        reply = self._of(job_id).run("place", owner, job_id)
        return None if reply is None else Place(int(reply[0]), _eta(reply[1]))

    def bells(self, front_end: str) -> tuple[Bell, ...]:
        """This front end's channel, one per partition."""
        return tuple(Bell(part, front_end) for part in self.partitions)

    def beat_front_end(self, front_end: str) -> None:
        """Say that this front end lives."""
        for part in self.partitions:
            part.run("beat_front_end", front_end)

    # the worker's calls --------------------------------------------------------------------------------------------
    def claim(self, worker: str, model: str, classes: Sequence[Class], *, has_room: bool = True) -> Claim | None:
        """CLAIM: the fairest waiting job of the first class that has one, partitions in turn.

        With room, every tenth claim takes the lowest class. One thread a worker.
        """
        for _ in self.partitions:
            part = self.partitions[self._turn % len(self.partitions)]
            claim = self._claim(part, worker, model, classes, has_room=has_room)
            self._turn += 1
            if claim is not None:
                return claim
        return None

    def emit(self, worker: str, model: str, emissions: Sequence[Emission]) -> EmitReply:
        """EMIT: fence, log, state and one publish per watching front end, for all jobs of a step."""
        by: dict[int, list[Emission]] = {}
        for emission in emissions:
            by.setdefault(int(emission.job_id[-2:], 16), []).append(emission)
        replies = [self.partitions[number].run("emit", *_emit(worker, model, mine)) for number, mine in by.items()]
        fenced, gone, behind, cancelled, expired, waiting = zip(*replies, strict=True)
        pairs = _flat(behind)
        return EmitReply(
            _flat(fenced),
            _flat(gone),
            {job_id: int(count) for job_id, count in zip(pairs[::2], pairs[1::2], strict=True)},
            _flat(cancelled),
            _flat(expired),
            _sum(waiting),
        )

    def beat(self, info: WorkerInfo, counters: Mapping[str, float]) -> BeatReply:
        """BEAT: live, say what there is room for, add to the model's counters, hear who waits."""
        about: dict[str, str | int] = {"model": info.model, "slots": info.slots, "free": info.free, "state": info.state}
        about["tokens_per_s"] = f"{info.tokens_per_s or 0:.3f}"
        told = [part for pair in about.items() for part in pair]
        replies = []
        for part in self.partitions:
            counted = [text for pair in counters.items() for text in pair] if part is self._first else []
            replies.append(part.run("beat", info.worker, info.model, len(told), *told, *counted))
        cancelled, expired, waiting = zip(*replies, strict=True)
        return BeatReply(_flat(cancelled), _flat(expired), _sum(waiting))

    def release(self, worker: str, jobs: Sequence[tuple[str, int]]) -> None:
        """RELEASE: give (job, epoch) back to the head of their queues; attempts stay."""
        for part in self.partitions:
            mine = [text for job_id, epoch in jobs if int(job_id[-2:], 16) == part.number for text in (job_id, epoch)]
            if mine:
                part.run("release", worker, _CANCELLED, _EXPIRED, *mine)

    def reap(self, worker: str, hot: Collection[str] = (), *, beat: Beat | None = None) -> tuple[str, ...]:
        """REAP: a dead worker's jobs go back to the head; hot ones are charged an attempt.

        With ``beat``, only if the worker's beat is still that one in that partition. Returns the jobs.
        """
        parts = self.partitions if beat is None else (self.partitions[beat.partition],)
        at = "" if beat is None else beat.at
        return _flat(part.run("reap", worker, at, _CANCELLED, _EXPIRED, _POISON, *hot) for part in parts)

    # housekeeping --------------------------------------------------------------------------------------------------
    def worker_beats(self) -> tuple[Beat, ...]:
        """Every worker's last beat."""
        return tuple(beat for part in self.partitions for beat in _beats(part, keys.workers(part.tag)))

    def front_end_beats(self) -> tuple[Beat, ...]:
        """Every front end's last beat."""
        return tuple(beat for part in self.partitions for beat in _beats(part, keys.front_ends(part.tag)))

    def clear_front_end(self, beat: Beat) -> None:
        """Forget a silent front end, if its beat is still that one."""
        self.partitions[beat.partition].run("unwatch", beat.who, "", beat.at)

    def sweep(self, unwatched_s: float = 30.0) -> None:
        """End what is past its deadline or unwatched too long; drop idle scores."""
        for part in self.partitions:
            while part.run("sweep", unwatched_s, _CANCELLED, _EXPIRED) >= 100:  # noqa: PLR2004  a full round
                pass

    def lease(self, name: str, holder: str, ttl_s: float) -> bool:
        """Whether this holder does the periodic work now."""
        return bool(self._first.run("lease", name, holder, int(ttl_s * 1000)))

    # models --------------------------------------------------------------------------------------------------------
    def put_card(self, card: ModelCard, tokenizer_files: bytes) -> None:
        """What a worker found when it loaded the model."""
        key = keys.card(self._first.tag, card.base_model)
        self._first.ask(
            lambda: self._first.redis.hset(key, mapping={"card": card.encode(), "tokenizer": tokenizer_files})
        )

    def cards(self, models: Sequence[str]) -> dict[str, ModelCard]:
        """The cards that exist."""
        part = self._first
        found = {name: part.ask(lambda n=name: part.redis.hget(keys.card(part.tag, n), "card")) for name in models}
        return {name: ModelCard.decode(raw) for name, raw in found.items() if raw}

    def tokenizer_files(self, model: str) -> bytes | None:
        """The card's blob (a tar of the tokenizer's files)."""
        part = self._first
        found: bytes | None = part.ask(lambda: part.redis.hget(keys.card(part.tag, model), "tokenizer"))
        return found

    def workers(self, lease_s: float = _LEASE_S) -> tuple[WorkerInfo, ...]:
        """All workers whose beat is younger than the lease (Redis TIME decides)."""
        return tuple(_info(row) for row in self._first.run("workers", lease_s))

    def waiting(self, model: str) -> dict[Class, int]:
        """Jobs that wait for a model, all partitions together."""
        names = [f"ready:{cls}" for cls in CLASSES]
        return _sum(part.ask(lambda p=part: p.redis.hmget(keys.stats(p.tag, model), names)) for part in self.partitions)

    def counters(self, model: str) -> dict[str, float]:
        """The sums of what workers counted."""
        part = self._first
        found: dict[bytes, bytes] = part.ask(lambda: part.redis.hgetall(keys.counters(part.tag, model)))
        return {name.decode(): float(value) for name, value in found.items()}

    def memory_fraction(self) -> float:
        """The fullest partition's used_memory ÷ maxmemory; 0 without a limit."""
        return max(_fullness(part) for part in self.partitions)

    def ping(self) -> None:
        """Raises StorageError when a partition does not answer."""
        for part in self.partitions:
            part.ask(part.redis.ping)

    def close(self) -> None:
        """Give all connections back."""
        for part in self.partitions:
            part.close()

    def _of(self, job_id: str) -> Partition:
        number = int(job_id[-2:], 16)
        return self.partitions[number if number < len(self.partitions) else 0]

    def _claim(
        self, part: Partition, worker: str, model: str, classes: Sequence[Class], *, has_room: bool
    ) -> Claim | None:
        while True:
            with self._lock:
                request = self._requests.setdefault(worker, 0)
            reply = part.run("claim", worker, model, request, "1" if has_room else "", _CANCELLED, _EXPIRED, *classes)
            with self._lock:
                self._requests[worker] = request + 1
            if reply[0] == b"again":
                continue
            return _claimed(*reply[1:]) if reply[0] == b"job" else None


def _claimed(_job_id: bytes, epoch: bytes, attempts: bytes, seq: bytes, body: bytes, items: Iterable[bytes]) -> Claim:
    said = tuple(event for item in items if isinstance(event := decode_event(item), Delta))
    return Claim(Job.decode(body), int(epoch), int(attempts), int(seq), said)


def _fields(job: Job) -> dict[str, str | int | float]:
    """What the scripts need to know of a job, beside its body."""
    return {
        "model": job.model,
        "cls": job.cls,
        "share": job.share,
        "owner": job.owner,
        "priority": "1" if job.priority else "0",
        "prompt_tokens": job.prompt_tokens,
        "cost": job.cost,
        "weight": 1,
        "keep_s": job.keep_s,
        "on_disconnect": job.on_disconnect,
        "body": job.encode(),
    }


def _emit(worker: str, model: str, emissions: Sequence[Emission]) -> list[str | int]:
    args: list[str | int] = [worker, model, len(emissions)]
    for one in emissions:
        args += (one.job_id, one.epoch, one.after, one.end or "", one.tokens, len(one.items), *one.items)
    return args


def _ring(record: bytes) -> Ring:
    job_id, first, ended, *items = record.split(b"\x1f")
    return Ring(job_id.decode(), int(first), ended == b"1", tuple(items))


def _beats(part: Partition, key: str) -> list[Beat]:
    rows: Any = part.ask(lambda: part.redis.execute_command("ZRANGE", key, 0, -1, "WITHSCORES"))
    flat = [cell for row in rows for cell in (row if isinstance(row, (tuple, list)) else (row,))]
    return [
        Beat(who.decode(), at.decode() if isinstance(at, bytes) else repr(at), part.number)
        for who, at in zip(flat[::2], flat[1::2], strict=True)
    ]


def _info(row: Sequence[bytes]) -> WorkerInfo:
    worker, model, slots, free, state, rate = (cell.decode() for cell in row)
    return WorkerInfo(worker, model, int(slots), int(free), state, float(rate) or None)  # type: ignore[arg-type]


def _flat(groups: Iterable[Iterable[bytes]]) -> tuple[str, ...]:
    return tuple(one.decode() for group in groups for one in group)


def _sum(rows: Iterable[Sequence[bytes | None]]) -> dict[Class, int]:
    total = dict.fromkeys(CLASSES, 0)
    for row in rows:
        for cls, count in zip(CLASSES, row, strict=True):
            total[cls] += int(count or 0)
    return total


def _eta(raw: bytes) -> float | None:
    return float(raw) if raw else None


def _seconds(eta: bytes) -> int:
    """How long to stay away: what was measured, else a guess that the SDKs obey."""
    return round(float(eta)) if eta else 5


def _fullness(part: Partition) -> float:
    memory: dict[str, int] = part.ask(lambda: part.redis.info("memory"))
    return memory["used_memory"] / memory["maxmemory"] if memory.get("maxmemory") else 0.0
