"""Batches: thousands of requests in a file, answered when there is room."""

import time
from typing import Any

from flask import Blueprint, Response, g, request

from api.errors import json_response
from api.openapi import reads, takes
from api.state import state
from api.views.asked import KEY, asked, naming_ignored, once, replayed
from api.views.pages import number, page
from common.errors import InvalidRequestError, NotFoundError
from common.estimates import estimate
from common.jobs import new_id
from common.ledger.batches import ENDS, PREFIX, Batch, bare
from common.protocol.batches import BatchRequest
from common.protocol.schedule import Schedule

bp = Blueprint("batches", __name__, url_prefix="/v1/batches")
_MOST, _USUAL = 100, 20
_TIMES = {
    "in_progress": "in_progress_at",
    "finalizing": "finalizing_at",
    "completed": "completed_at",
    "failed": "failed_at",
    "expired": "expired_at",
    "cancelling": "cancelling_at",
    "cancelled": "cancelled_at",
}


@bp.post("")
@reads(BatchRequest)
@takes(headers=(KEY,))
def create() -> Response:
    """A file of requests in, one answer to each out."""
    parts = state()
    parts.refuse_if_unable()
    ask = asked(BatchRequest)
    known_by = once("batch")
    stands = parts.batches.known(g.who.owner, known_by)  # its file may have gone by now, or its window have closed
    if stands is None:
        batch = _new(ask)
        stands = parts.batches.put(batch, parts.settings.limits.batches, known_by)
        if stands == batch.id:
            return naming_ignored(json_response(_told(batch)), ask)
    return replayed(naming_ignored(json_response(_told(_batch(PREFIX + stands))), ask))


@bp.get("")
@takes("limit", "after")
def every() -> Response:
    """The owner's batches, the newest first: ``limit``, ``after``."""
    after = request.args.get("after")
    found = state().batches.every(g.who.owner, bare(after) if after else None)
    return page(found, _told, number("limit", _USUAL, 1, _MOST))


@bp.get("/<batch_id>")
def one(batch_id: str) -> Response:
    """Where it stands."""
    return json_response(_told(_batch(batch_id)))


@bp.post("/<batch_id>/cancel")
def cancel(batch_id: str) -> Response:
    """Nothing more of it is begun; what is answered stays."""
    batch = _batch(batch_id)
    while batch.state not in {*ENDS, "cancelling", "finalizing"}:
        if state().batches.move(batch, "cancelling"):
            break
        batch = _batch(batch_id)
    return json_response(_told(_batch(batch_id)))


def _new(ask: BatchRequest) -> Batch:
    """What is asked for. Raises InvalidRequestError."""
    parts = state()
    file = parts.files.get(g.who.owner, ask.input_file_id)
    if file is None or file.purpose != "batch":
        message = "input_file_id: no file of yours with the purpose batch has this id."
        raise InvalidRequestError(message, param="input_file_id")
    now = int(time.time())
    _, expires = ask.spans(now)
    return Batch(
        id=new_id(parts.ledger.partition(g.who.owner)),
        owner=g.who.owner,
        input_file=file.id,
        endpoint=ask.endpoint,
        window=ask.completion_window,
        created=now,
        expires=int(expires),
        weight=g.who.weight,
        keep_s=ask.output_expires_after.seconds if ask.output_expires_after else 0,
        metadata=ask.metadata,
    )


def _batch(batch_id: str) -> Batch:
    known = bare(batch_id)
    batch = state().batches.get(g.who.owner, known) if known else None
    if batch is None:
        raise NotFoundError("No batch of yours has this id.")
    return batch


def _told(batch: Batch) -> dict[str, Any]:
    done = {"total": batch.total, "completed": batch.completed, "failed": batch.failed}
    told = {
        "id": f"{PREFIX}{batch.id}",
        "object": "batch",
        "endpoint": batch.endpoint,
        "errors": {"object": "list", "data": batch.errors} if batch.errors else None,
        "input_file_id": batch.input_file,
        "completion_window": batch.window,
        "status": batch.state,
        "output_file_id": batch.file("output") if batch.has_output else None,
        "error_file_id": batch.file("error") if batch.has_error else None,
        "created_at": batch.created,
        "expires_at": batch.expires,
        "request_counts": done,
        "usage": _usage(batch),
        "metadata": batch.metadata or None,
    }
    told |= {name: batch.times.get(name_of) for name_of, name in _TIMES.items()}
    return told | ({"x_estimate": _estimate(batch)} if batch.is_dry else {})


def _usage(batch: Batch) -> dict[str, Any]:
    """Of the rows that are answered."""
    return {
        "input_tokens": batch.input_tokens,
        "input_tokens_details": {"cached_tokens": batch.cached_tokens},
        "output_tokens": batch.output_tokens,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": batch.input_tokens + batch.output_tokens,
    }


def _estimate(batch: Batch) -> dict[str, Any]:
    """Of the rows that were looked at so far, as quick as their models are now."""
    ledger = state().ledger
    opens = Schedule.of(batch.metadata).opens_at(time.time())
    told = estimate(batch.asked, {model: ledger.pace(model) for model in batch.asked})
    return told | {"opens_at": int(opens)}
