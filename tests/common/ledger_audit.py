"""What must be true of the ledger's keys at any time, and a worker that a test drives call by call."""

import struct
from collections import Counter
from itertools import product
from typing import Any

import redis

from common.jobs import CLASSES, Class, Delta, Done, Failed, Job, Usage, counted
from common.ledger.ledger import Ledger
from common.ledger.replies import Claim, Emission, EmitReply, End, WorkerInfo
from common.settings import Limits

LIMITS = Limits()
OPEN = {"queued", "running"}
MOST_LISTENERS = 4


def audit(url: str, tag: str = "{q00}") -> None:
    """Fails when any two keys contradict each other."""
    client: Any = redis.Redis.from_url(url, decode_responses=True)
    with client, redis.Redis.from_url(url) as raw:
        jobs = {key.rsplit(":", 1)[1]: client.hgetall(key) for key in client.scan_iter(f"{tag}:j:*", count=1000)}
        for job_id, job in jobs.items():
            _audit_log(client, tag, job_id, job)
        _audit_queues(client, tag, jobs)
        _audit_members(client, raw, tag, jobs)


def _audit_log(client: Any, tag: str, job_id: str, job: dict[str, str]) -> None:
    log = f"{tag}:t:{job_id}"
    ttls = {client.ttl(key) for key in (f"{tag}:j:{job_id}", log) if client.exists(key)}
    if job["state"] in OPEN:
        assert ttls == {-1}, "an open job never expires"
        assert client.zscore(f"{tag}:dl", job_id), "an open job has a deadline"
    else:
        assert all(0 < ttl <= int(job["keep_s"]) for ttl in ttls), "an ended job expires with its log"
        assert client.zscore(f"{tag}:dl", job_id) is None
        assert client.zscore(f"{tag}:un", job_id) is None


def _audit_queues(client: Any, tag: str, jobs: dict[str, dict[str, str]]) -> None:
    waiting = [job for job in jobs.values() if job["state"] == "queued"]
    listed = [one for key in client.scan_iter(f"{tag}:l:*", count=1000) for one in client.lrange(key, 0, -1)]
    assert sorted(listed) == sorted(job_id for job_id, job in jobs.items() if job["state"] == "queued")
    lines = Counter(f"{tag}:l:{job['model']}:{job['cls']}:{job['share']}" for job in waiting)
    assert all(client.llen(key) == count for key, count in lines.items())
    models = {key.split(":")[2] for key in client.scan_iter(f"{tag}:st:*", count=1000)}
    for model, cls in product(models, CLASSES):
        mine = [job for job in waiting if (job["model"], job["cls"]) == (model, cls)]
        assert int(client.hget(f"{tag}:st:{model}", f"ready:{cls}") or 0) == len(mine)
        told = {owner: int(count) for owner, count in client.hgetall(f"{tag}:w:{model}:{cls}").items()}
        assert told == Counter(job["owner"] for job in mine)
        _audit_line(client, f"{tag}:u:{model}:{cls}", f"{tag}:sc:{model}", {job["owner"] for job in mine})
        for owner in told:
            shares = {job["share"] for job in mine if job["owner"] == owner}
            _audit_line(client, f"{tag}:u:{model}:{cls}:{owner}", f"{tag}:sc:{model}:{owner}", shares)


def _audit_line(client: Any, line: str, scores: str, who: set[str]) -> None:
    """Those who wait stand in it, each with the score that he has elsewhere, unless it was forgotten as too small."""
    waiting = dict(client.zrange(line, 0, -1, withscores=True))
    assert waiting.keys() == who
    assert all(client.zscore(scores, one) in {None, score} for one, score in waiting.items())


def _audit_members(client: Any, raw: Any, tag: str, jobs: dict[str, dict[str, str]]) -> None:
    for worker, one in _members(client, f"{tag}:c:*"):
        assert (jobs[one]["state"], jobs[one]["worker"]) == ("running", worker)
    running = {(job["worker"], job_id) for job_id, job in jobs.items() if job["state"] == "running"}
    assert _told(raw, f"{tag}:h:*") == {(worker, one): _held(jobs[one]) for worker, one in running}
    for front_end, one in _members(client, f"{tag}:fw:*"):
        assert client.zscore(f"{tag}:fes", front_end), "whoever listens is judged by its beat"
        assert jobs[one]["state"] in OPEN
        assert front_end in jobs[one]["fe"].split(",")
    for job_id, job in jobs.items():
        if job["state"] == "running":
            assert client.zscore(f"{tag}:workers", job["worker"]), "whoever holds a job is judged by its beat"
        if job["state"] in OPEN:
            _audit_listeners(client, tag, job_id, job)


def _told(raw: Any, pattern: str) -> dict[tuple[str, str], bytes]:
    return {
        (key.decode().rsplit(":", 1)[1], one.decode()): told
        for key in raw.scan_iter(pattern, count=1000)
        for one, told in raw.hgetall(key).items()
    }


def _held(job: dict[str, str]) -> bytes:
    """What EMIT must know of it."""
    told = struct.pack(">Id14s", int(job["epoch"]), float(job["end_at"]), job["claimed"].encode())
    return told.ljust(65) + job["fe"].encode()  # over 64 bytes a hash is searched by its hash


def _members(client: Any, pattern: str) -> list[tuple[str, str]]:
    keys = client.scan_iter(pattern, count=1000)
    return [(key.rsplit(":", 1)[1], member) for key in keys for member in client.smembers(key)]


def _audit_listeners(client: Any, tag: str, job_id: str, job: dict[str, str]) -> None:
    listeners = [one for one in job["fe"].split(",") if one]
    assert len(listeners) <= MOST_LISTENERS
    assert all(client.sismember(f"{tag}:fw:{one}", job_id) for one in listeners)
    if "cancel" not in job:
        is_noted = client.zscore(f"{tag}:un", job_id) is not None
        assert is_noted == (job["on_disconnect"] == "cancel" and not listeners)


def alter(raw: Any, job_id: str, **told: str) -> None:
    """A running job, as if other times had been written."""
    raw.hset(f"{{q00}}:j:{job_id}", mapping=told)
    names = ("worker", "epoch", "end_at", "claimed", "fe")
    found = (one if isinstance(one, str) else one.decode() for one in raw.hmget(f"{{q00}}:j:{job_id}", names))
    job = dict(zip(names, found, strict=True))
    raw.hset(f"{{q00}}:h:{job['worker']}", job_id, _held(job))


class Hand:
    """One worker: claims, says, ends."""

    def __init__(self, ledger: Ledger, name: str = "w1", model: str = "m") -> None:
        self.ledger, self.name, self.model = ledger, name, model

    def info(self, *, free: int = 32, rate: float | None = None) -> WorkerInfo:
        return WorkerInfo(self.name, self.model, 32, free, "ready", rate)

    def claim(self, *classes: Class, **room: bool) -> Claim:
        claim = self.ledger.claim(self.name, self.model, classes or CLASSES, **room)
        assert claim is not None
        return claim

    def finds(self, *classes: Class) -> bool:
        return self.ledger.claim(self.name, self.model, classes or CLASSES) is not None

    def emit(self, *emissions: Emission) -> EmitReply:
        return self.ledger.emit(self.name, self.model, emissions)

    def say(self, claim: Claim, *texts: str, after: int = 0) -> EmitReply:
        return self.emit(said(claim, *texts, after=after))

    def end(self, claim: Claim, after: int = 0, tokens: int = 0) -> EmitReply:
        return self.emit(done(claim, after, tokens))


def item(text: str, tokens: int) -> str:
    return counted(Delta(text, (7,)).encode(), tokens)


def said(claim: Claim, *texts: str, after: int = 0) -> Emission:
    items = tuple(item(text, number) for number, text in enumerate(texts, after + 1))
    return Emission(claim.job.id, claim.epoch, after, items, after + len(items))


def done(claim: Claim, after: int = 0, tokens: int = 0) -> Emission:
    items = (Done(Usage(claim.job.prompt_tokens, tokens)).encode(),)
    return Emission(claim.job.id, claim.epoch, after, items, tokens, "done")


def failed(claim: Claim, why: Failed, end: End, after: int = 0) -> Emission:
    return Emission(claim.job.id, claim.epoch, after, (why.encode(),), 0, end)


def texts(ledger: Ledger, job: Job, after: int = 0) -> list[str]:
    """The log's texts; ends as their names."""
    watched = ledger.read(job.owner, job.id, after)
    assert watched is not None
    return [
        event.text if isinstance(event, Delta) else "failed" if isinstance(event, Failed) else "done"
        for event in (entry.event for entry in watched.entries)
    ]
