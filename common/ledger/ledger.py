"""All jobs, behind one class: the only module that other floors call for Redis."""

import secrets
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, cast

from common.cards import ModelCard
from common.errors import ApiError, InternalError, StorageError
from common.identity import Principal
from common.jobs import CLASSES, Class, Job
from common.ledger import keys, wire
from common.ledger.bell import Bell
from common.ledger.partition import Partition
from common.ledger.replies import (
    NEVER_AGAIN,
    Beat,
    BeatReply,
    Claim,
    Emission,
    EmitReply,
    KnownJobError,
    Once,
    Pace,
    Place,
    Record,
    Released,
    State,
    Watched,
    WorkerInfo,
)
from common.settings import Limits

_LEASE_S = 2.0
_UNWATCHED_S = 30.0
_GRACE_S = 30.0
_ROUND = 100  # what one sweep does in one step
_ORPHAN_S = 60


class Ledger:
    """Jobs in Redis, partition by partition."""

    def __init__(self, urls: Sequence[str]) -> None:
        """One URL a partition, in an order that never changes."""
        self.partitions = tuple(Partition(url, number) for number, url in enumerate(urls))
        self._first = self.partitions[0]
        self._turn = 0
        self._lock = threading.Lock()
        self._asked: dict[tuple[str, int], str] = {}  # (worker, partition) -> the name of a CLAIM without an answer

    # the front end's calls -----------------------------------------------------------------------------------------
    def partition(self, owner: str) -> int:
        """Where jobs of this owner live."""
        return int(owner[:2], 16) % len(self.partitions)

    def submit(self, job: Job, limits: Limits, front_end: str | None = None, once: Once = NEVER_AGAIN) -> Place:
        """SUBMIT: keep the job, queue it, and watch it for ``front_end``; once or not at all.

        A job that is here already stays as it is; its place is 0 once it runs. Raises KnownJobError where another job
        is the same request, ConflictError, RateLimitError (queue_full, deadline_unreachable) and StorageError.
        """
        reply = self._of(job.id).run("submit", *wire.submission(job, limits, front_end, once))
        return self._place_told(job, reply)

    def submit_each(self, jobs: Sequence[Job], limits: Limits) -> list[ApiError | None]:
        """SUBMIT of one owner's jobs, in one round trip; why they were not taken. Raises StorageError."""
        told = list[ApiError | None]()
        calls = [wire.submission(job, limits, None, NEVER_AGAIN) for job in jobs]
        for job, reply in zip(jobs, self._of(jobs[0].id).run_each("submit", calls) if jobs else (), strict=True):
            try:
                self._place_told(job, reply)
            except StorageError:
                raise
            except ApiError as error:
                told.append(error)
            else:
                told.append(None)
        return told

    def _place_told(self, job: Job, reply: Sequence[bytes]) -> Place:
        verdict, *rest = reply
        match verdict:
            case b"ok":
                return wire.place(*rest)
            case b"again":
                return self.place(job.owner, job.id) or Place(0, 0.0)
            case b"known":
                raise KnownJobError(rest[0].decode())
            case b"conflict":
                raise wire.conflict()
            case b"full":
                raise wire.queue_full(*rest)
            case b"late":
                raise wire.deadline_unreachable(*rest)
        raise InternalError("The job's id is taken.")

    def refuse_if_full(self, model: str, cls: Class, who: Principal, label: str | None, limits: Limits) -> None:
        """What SUBMIT would refuse because too many wait, before anybody has read it. Raises RateLimitError."""
        part = self.partitions[self.partition(who.owner)]
        whose = (who.owner, who.share(label))
        eta = part.run("full", model, cls, *whose, limits.waiting_class, limits.waiting_share)
        if eta is not None:
            raise wire.queue_full(eta)

    def watch(self, owner: str, job_id: str, front_end: str, after: int = 0, most: int = 512) -> Watched | None:
        """WATCH: register the front end and read entries after a number, atomically; None: not here, or not yours."""
        reply = self._of(job_id).run("watch", owner, job_id, front_end, after, most)
        return None if reply is None else wire.watched(after, reply)

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
        holder, body = part.ask(lambda: part.redis.hmget(key, ["owner", "body"]))
        return Job.decode(body) if holder is not None and holder.decode() == owner else None

    def record(self, owner: str, job_id: str) -> Record | None:
        """The job and where it stands; None: not here, or not yours."""
        reply = self._of(job_id).run("record", owner, job_id)
        return None if reply is None else wire.record(reply)

    def owned(self, owner: str, after: str | None = None, **wanted: str | None) -> Iterator[str]:
        """The ids of an owner's jobs that are kept, the newest first, each once; behind one of them.

        ``wanted``: what their ``state``, ``model`` and ``share`` must be; None: whatever it is.
        """
        part = self.partitions[self.partition(owner)]
        told = [text for name, value in wanted.items() if value is not None for text in (name, value)]
        last: str | bytes = after or ""
        while True:
            found, last = part.run("owned", owner, last, *told)
            yield from wire.ids([found])
            if not last:
                return

    def was_owned(self, owner: str, job_id: str) -> bool:
        """Whether such a job came, however long ago."""
        part = self._of(job_id)
        return part.ask(lambda: part.redis.zscore(keys.owned(part.tag, owner), job_id)) is not None

    def orphan(self, job: Job, name: str) -> None:
        """Its client has gone; who asks the same again within a minute takes it over."""
        part = self._of(job.id)
        part.ask(lambda: part.redis.set(keys.orphan(part.tag, name), job.id, ex=_ORPHAN_S))

    def cancel(self, owner: str, job_id: str) -> State | None:
        """CANCEL: a waiting job ends at once, a running one with its worker's next EMIT or beat. The state after it."""
        state: bytes | None = self._of(job_id).run("cancel", owner, job_id)
        return None if state is None else wire.state(state)

    def leave(self, job: Job, front_end: str, asker: str = "", *, is_read: bool = False) -> None:
        """CANCEL after a hang-up here: not while the job is read, here (``is_read``) or at another front end.

        ``asker``: the job that the request would have been; where an equal one came after it, that one's end decides.
        """
        self._of(job.id).run("cancel", job.owner, job.id, front_end, int(is_read), asker)

    def place(self, owner: str, job_id: str) -> Place | None:
        """Where it waits; None once it runs."""
        reply = self._of(job_id).run("place", owner, job_id)
        return None if reply is None else wire.place(*reply)

    def bells(self, front_end: str) -> tuple[Bell, ...]:
        """This front end's channel, one per partition."""
        return tuple(Bell(part, keys.channel(front_end)) for part in self.partitions)

    def beat_front_end(self, front_end: str) -> None:
        """Say that this front end lives."""
        self._all(lambda part: part.run("beat_front_end", front_end))

    # the worker's calls --------------------------------------------------------------------------------------------
    def arrivals(self, model: str) -> tuple[Bell, ...]:
        """A model's channel, one per partition: a ring for each job above the lowest class that begins to wait."""
        return tuple(Bell(part, keys.arrivals(model)) for part in self.partitions)

    def claim(
        self, worker: str, model: str, classes: Sequence[Class], *, has_room: bool = True, keeps: bool = True
    ) -> Claim | None:
        """CLAIM: the fairest waiting job of the first class that has one, partitions in turn.

        With room, every tenth claim takes a lower class that waits, if the worker ``keeps`` it. One thread a worker. A
        partition that did not answer its last call is passed over until another call finds it again, unless no other
        is left. Raises StorageError when nothing was found and one did not answer; it is asked the same again in its
        next turn.
        """
        failure, free = None, int(has_room) + (has_room and keeps)
        turns = [self.partitions[(self._turn + at) % len(self.partitions)] for at in range(len(self.partitions))]
        for part in [part for part in turns if not part.is_away] or turns:
            self._turn = part.number + 1
            try:
                claim = self._claim(part, worker, model, classes, free)
            except StorageError as error:
                failure = error
                continue
            if claim is not None:
                return claim
        if failure is not None:
            raise failure
        return None

    def emit(self, worker: str, model: str, emissions: Sequence[Emission]) -> EmitReply:
        """EMIT: fence, log, state and one publish per watching front end, for all jobs of a step."""
        by: dict[Partition, list[Emission]] = {}
        for emission in emissions:
            by.setdefault(self._of(emission.job_id), []).append(emission)
        return wire.emit_reply([part.run("emit", *wire.step(worker, model, mine)) for part, mine in by.items()])

    def beat(
        self,
        info: WorkerInfo,
        counters: Mapping[str, float],
        held: Collection[str] | None = None,
        *,
        partition: int = 0,
    ) -> BeatReply:
        """BEAT in one partition: live, say what there is room for, add to the model's counters, hear who waits.

        Counters are told to the first one only. With ``held``, jobs that Redis counts as this worker's for more than
        five seconds and that are not among them go back. A claim whose reply was lost counts as a waiting job: it is
        to be asked for again.
        """
        part, name = self.partitions[partition], secrets.token_hex(8)
        try:
            told = part.run("beat", *wire.beat(info, name, counters, held))
        except StorageError:
            if part.is_away or not held:
                raise
            told = part.run("beat", *wire.beat(info, name, counters, None))  # full: room for a word, not for a list
        reply = wire.beat_reply(told)
        with self._lock:
            reply.waiting[CLASSES[0]] += (info.worker, partition) in self._asked
        return reply

    def release(self, worker: str, jobs: Sequence[Released]) -> None:
        """RELEASE: give jobs back to the head of their queues; attempts stay."""
        for part in self.partitions:
            own = [job for job in jobs if self._of(job[0]) is part]
            mine = [text for job_id, epoch, spent_s in own for text in (job_id, epoch, f"{spent_s:.3f}")]
            if mine:
                part.run("release", worker, *mine)

    def reap(self, worker: str, hot: Collection[str] = (), *, beat: Beat | None = None) -> tuple[str, ...]:
        """REAP: a dead worker's jobs go back to the head; hot ones are charged an attempt.

        With ``beat``, only if the worker's beat is still that one in that partition. Returns the jobs.
        """
        if beat is not None:
            return wire.ids([self.partitions[beat.partition].run("reap", worker, beat.at, *hot)])
        return wire.ids(self._all(lambda part: part.run("reap", worker, "", *hot)))

    # housekeeping --------------------------------------------------------------------------------------------------
    def worker_beats(self, partition: int = 0) -> tuple[Beat, ...]:
        """Every worker's last beat there."""
        return self._beats(partition, keys.workers)

    def front_end_beats(self, partition: int = 0) -> tuple[Beat, ...]:
        """Every front end's last beat there."""
        return self._beats(partition, keys.front_ends)

    def clear_front_end(self, beat: Beat) -> None:
        """Forget a silent front end, if its beat is still that one."""
        self.partitions[beat.partition].run("unwatch", beat.who, "", beat.at)

    def sweep(self, unwatched_s: float = _UNWATCHED_S, grace_s: float = _GRACE_S, *, partition: int = 0) -> None:
        """End what is past its deadline or unwatched too long.

        A worker is told of a deadline, and has ``grace_s`` to end the job itself.
        """
        while self.partitions[partition].run("sweep", unwatched_s, grace_s) >= _ROUND:
            pass

    def lease(self, name: str, holder: str, ttl_s: float) -> bool:
        """Whether this holder does the periodic work now; for 0 s: it does no more."""
        return bool(self._first.run("lease", name, holder, int(ttl_s * 1000)))

    # models --------------------------------------------------------------------------------------------------------
    def put_card(self, card: ModelCard, tokenizer_files: bytes) -> None:
        """What a worker found when it loaded the model."""
        part, told = self._first, {"card": card.encode(), "tokenizer": tokenizer_files}
        part.ask(lambda: part.redis.hset(keys.card(part.tag, card.base_model), mapping=told))

    def cards(self, models: Sequence[str]) -> dict[str, ModelCard]:
        """The cards that exist."""
        found = {model: self._card(model, "card") for model in models}
        return {model: ModelCard.decode(raw) for model, raw in found.items() if raw}

    def tokenizer_files(self, model: str) -> bytes | None:
        """The card's blob (a tar of the tokenizer's files)."""
        return self._card(model, "tokenizer")

    def workers(self, lease_s: float = _LEASE_S) -> tuple[WorkerInfo, ...]:
        """All workers whose beat is younger than the lease (Redis TIME decides)."""
        return tuple(wire.worker_info(row) for row in self._first.run("workers", lease_s))

    def waiting(self, model: str) -> dict[Class, int]:
        """Jobs that wait for a model, all partitions together."""
        names = [f"ready:{cls}" for cls in CLASSES]
        return wire.counts(self._all(lambda part: part.redis.hmget(keys.stats(part.tag, model), names)))

    def counters(self, model: str) -> dict[str, float]:
        """The sums of what workers counted."""
        part = self._first
        found: dict[bytes, bytes] = part.ask(lambda: part.redis.hgetall(keys.counters(part.tag, model)))
        return {name.decode(): float(value) for name, value in found.items()}

    def pace(self, model: str) -> Pace:
        """How quick a model is."""
        names, counted = ("jobs", "tokens", "spent", "allowed"), self.counters(model)
        found = self._all(lambda part: part.redis.hmget(keys.stats(part.tag, model), names))
        workers = sum(worker.model == model for worker in self.workers())
        return wire.pace(workers, sum(self.waiting(model).values()), found, counted)

    def memory_fraction(self) -> float:
        """The fullest partition's used_memory ÷ maxmemory; 0 without a limit."""
        return max(part.fullness() for part in self.partitions)

    def ping(self) -> None:
        """Raises StorageError when a partition does not answer."""
        self._all(lambda part: part.redis.ping())

    def close(self) -> None:
        """Give all connections back."""
        for part in self.partitions:
            part.close()

    def _of(self, job_id: str) -> Partition:
        """Where a job lives, as its id says; a stranger's id is nowhere, and so is looked for in the first."""
        number = int(job_id[-2:], 16)
        return self.partitions[number] if number < len(self.partitions) else self._first

    def _all(self, call: Callable[[Partition], Any]) -> list[Any]:
        """The same in every partition, also when one of them does not answer. Raises StorageError after that."""
        replies, failure = [], None
        for part in self.partitions:
            try:
                replies.append(part.ask(partial(call, part)))
            except StorageError as error:
                failure = error
        if failure is not None:
            raise failure
        return replies

    def _claim(self, part: Partition, worker: str, model: str, classes: Iterable[Class], free: int) -> Claim | None:
        while True:
            with self._lock:
                name = self._asked.setdefault((worker, part.number), secrets.token_hex(8))
            verdict, *rest = part.run("claim", worker, model, name, free, *classes)
            with self._lock:
                del self._asked[worker, part.number]
            if verdict != b"again":
                return wire.claim(*rest) if rest else None

    def _beats(self, partition: int, key: Callable[[str], str]) -> tuple[Beat, ...]:
        part = self.partitions[partition]
        rows = part.ask(partial(_beaten, part, key(part.tag)))
        return tuple(Beat(who.decode(), at, partition) for who, at in rows)

    def _card(self, model: str, name: str) -> bytes | None:
        part = self._first
        found: bytes | None = part.ask(lambda: part.redis.hget(keys.card(part.tag, model), name))
        return found


def _beaten(part: Partition, key: str) -> Sequence[tuple[bytes, str]]:
    """Beats as Redis spells them: they are compared as text. Fails where nobody can beat, because it is full."""
    pipeline = part.redis.pipeline(transaction=False)
    pipeline.setrange(keys.room(part.tag), 0, "")  # a write that writes nothing, not even its key
    pipeline.zrange(key, 0, -1, withscores=True, score_cast_func=lambda raw: raw.decode())
    refused, rows = pipeline.execute(raise_on_error=False)  # which would change their words
    for reply in (refused, rows):
        if isinstance(reply, Exception):
            raise reply
    return cast("Sequence[tuple[bytes, str]]", rows)
