"""Jobs as their owner sees them: where they stand, what they said, cancelled or run again."""

import re
import secrets
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, get_args

from flask import Blueprint, Response, g, request

from api.errors import json_response
from api.openapi import takes
from api.state import state
from api.views.asked import KEY, once, replayed
from api.views.pages import number, page
from api.views.sse import looked_after, streamed
from common.errors import ExpiredError, InvalidRequestError, NotFoundError
from common.jobs import Kind, Usage, new_id, strip_prefix
from common.ledger.replies import KnownJobError, Place, Record, State
from common.render.frames import usage_body
from common.render.shapes import SHAPES

bp = Blueprint("jobs", __name__, url_prefix="/v1/jobs")
_PATHS: dict[Kind, str] = {"chat": "/v1/chat/completions", "completion": "/v1/completions"}
_PREFIXES: dict[Kind, str] = {"chat": "chatcmpl-", "completion": "cmpl-"}
_MOST, _USUAL = 100, 20
_DAY_S = 24 * 3600
_OPEN = ("queued", "running")
_EVENT = re.compile(r"[0-9]{1,12}")


@bp.get("")
@takes("status", "model", "user", "limit", "after")
def every() -> Response:
    """The owner's jobs, the newest first: ``status``, ``model``, ``user``, ``limit``, ``after``."""
    after = request.args.get("after")
    return page(_matching(_bare(after) if after else None), _told, number("limit", _USUAL, 1, _MOST))


@bp.get("/<job_id>")
def one(job_id: str) -> Response:
    """Where it stands."""
    return json_response(_told(_record(job_id)))


@bp.get("/<job_id>/events")
@takes("after", headers=("Last-Event-ID",))
def events(job_id: str) -> Response:
    """Its stream, behind ``Last-Event-ID`` or ``after``; of one that has ended, again."""
    record = _record(job_id)
    after = _after(record)
    feed = looked_after(state().follow(record.job, after))
    return streamed(feed, SHAPES[record.job.reply.kind])


@bp.post("/<job_id>/cancel")
def cancel(job_id: str) -> Response:
    """A waiting one ends at once, a running one with its next step; one that has ended stays as it is."""
    record = _record(job_id)
    state().ledger.cancel(g.who.owner, record.job.id)
    return json_response(_told(_record(job_id)))


@bp.post("/<job_id>/replay")
@takes("seed", headers=(KEY,))
def replay(job_id: str) -> Response:
    """The same input once more, as a new job; ``seed`` may be another, and is drawn where it is not said."""
    state().refuse_if_unable()
    old = _record(job_id).job
    state().door.refuse_if_gone(old.model)
    seed = number("seed", 0, -(2**63), 2**63 - 1) or secrets.randbits(63) or 1
    job = replace(
        old,
        id=new_id(int(old.id[-2:], 16)),
        seed=seed,
        created=int(time.time()),
        on_disconnect="finish",
        max_wait_s=None,
        cls="normal" if old.cls == "batch" else old.cls,  # a row by itself is no batch: it waits with those asked for
        parent="",
        custom_id="",
    )
    known_by = once("job", request.query_string)
    if known_by.key:  # it stands for the job for a day
        job = replace(job, keep_s=max(_DAY_S, job.keep_s), end_s=max(_DAY_S, job.end_s))
    stands = job.id
    try:
        state().submit(job, known_by, is_heard=False)
    except KnownJobError as known:
        stands = known.job_id
    answer = json_response(_told(_record(f"job_{stands}")), 201)
    return answer if stands == job.id else replayed(answer)


def _matching(after: str | None) -> Iterator[Record]:
    told = request.args
    status, model = told.get("status"), told.get("model")
    if status is not None and status not in get_args(State):
        raise InvalidRequestError(f"status: one of {', '.join(get_args(State))}.", param="status")
    known = state().settings.model(model) if model else None  # perhaps by another of its names
    model = known.name if known else model
    share = g.who.share(told["user"]) if "user" in told else None
    for job_id in state().ledger.owned(g.who.owner, after, state=status, model=model, share=share):
        record = state().ledger.record(g.who.owner, job_id)
        if record is not None and status in {None, record.state}:  # it may have gone on meanwhile
            yield record


def _bare(public: str) -> str:
    job_id = strip_prefix(public)
    if job_id is None:
        raise NotFoundError("No job has this id.")
    return job_id


def _record(public: str) -> Record:
    """Raises NotFoundError, and ExpiredError for one that was there."""
    job_id, ledger = _bare(public), state().ledger
    record = ledger.record(g.who.owner, job_id)
    if record is None:
        if ledger.was_owned(g.who.owner, job_id):
            raise ExpiredError("This job is not kept any more.")
        raise NotFoundError("No job has this id.")
    g.job_id = job_id
    return record


def _after(record: Record) -> int:
    """How much the client has seen; the end is always told again.

    A browser that takes up a stream sends the header, with the same query as at first.
    """
    heard = request.headers.get("Last-Event-ID")
    name = "Last-Event-ID" if heard else "after"
    told = heard or request.args.get("after") or "0"
    if not _EVENT.fullmatch(told):
        raise InvalidRequestError(f"{name}: the number of an event.", param=name)
    has_ended = record.state not in _OPEN
    if has_ended and int(told) > record.seq:
        raise InvalidRequestError(f"{name}: this job has {record.seq} events.", param=name)
    return min(int(told), record.seq - 1) if has_ended else int(told)


def _told(record: Record) -> dict[str, Any]:
    job, kind = record.job, record.job.reply.kind
    place = state().ledger.place(job.owner, job.id) if record.state == "queued" else None
    return {
        "id": f"job_{job.id}",
        "object": "job",
        "status": record.state,
        "model": job.model,
        "endpoint": _PATHS[kind],
        "answer_id": _PREFIXES[kind] + job.id,
        "stream": job.reply.stream,
        "class": job.cls,
        "created_at": record.came,
        "started_at": record.begun,
        "ended_at": record.ended,
        "attempts": record.attempts,
        "queue": place and _queue(place),
        "events": record.seq,
        "usage": usage_body(Usage(job.prompt_tokens, record.tokens)),
        "error": record.error and record.error.body()["error"],
        "seed": job.seed,
        "metadata": job.reply.metadata,
    }


def _queue(place: Place) -> dict[str, Any]:
    return {"position": place.position} | ({} if place.eta_s is None else {"eta_s": place.eta_s})
