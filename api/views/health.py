"""For those who watch us: alive, ready, which version, and what can be asked."""

from importlib.metadata import PackageNotFoundError, version

from flask import Blueprint, Response, current_app

from api.auth import public
from api.errors import json_response
from api.openapi import tells
from api.state import State, state
from common.errors import StorageError

_HEARD_S = 0.5  # a line that was cut is heard again sooner
bp = Blueprint("health", __name__)


@bp.get("/health")
@public
def health() -> Response:
    """This process lives."""
    return json_response({"status": "alive"})


@bp.get("/ready")
@tells(503, "It would not: why.")
@public
def ready() -> Response:
    """A request would be answered."""
    reasons = _reasons(state())
    if reasons:
        return json_response({"status": "not ready", "reasons": reasons}, 503, {"Retry-After": "1"})
    return json_response({"status": "ready"})


@bp.get("/version")
@public
def release() -> Response:
    """Which penstock this is."""
    return json_response({"version": version_here()})


@bp.get("/openapi.json")
@public
def openapi() -> Response:
    """This document."""
    return json_response(current_app.extensions["openapi"])


def _reasons(parts: State) -> list[str]:
    if parts.draining.is_set():
        return ["this server is going down"]
    try:
        parts.ledger.ping()
        for part in parts.ledger.partitions:
            parts.hub.wait_heard(part.number, _HEARD_S)
        living = {worker.model for worker in parts.ledger.workers() if worker.state == "ready"}
        served = parts.ledger.cards(sorted(living))  # a Redis that forgot everything hears of beats first
    except StorageError:
        return ["the storage does not answer"]
    alone = [model.name for model in parts.settings.models if model.name not in served]
    if parts.gate.is_open:
        return [f"no worker serves {name}" for name in alone]
    return [f"no worker serves {len(alone)} of the models"] if alone else []  # strangers are told no names


def version_here() -> str:
    """Of this penstock."""
    try:
        return version("penstock")
    except PackageNotFoundError:
        return "0.1.0+source"  # run from a checkout that was not installed
