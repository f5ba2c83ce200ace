"""Webhook endpoints: where an owner is told that batches and jobs have ended."""

import time
from itertools import dropwhile, islice
from typing import Any

from flask import Blueprint, Response, g, request

from api.errors import json_response
from api.openapi import reads, takes
from api.state import state
from api.views.asked import KEY, asked, naming_ignored, once, replayed
from api.views.pages import number, page
from common.errors import NotFoundError
from common.jobs import new_id
from common.ledger.webhooks import PREFIX, Webhook, bare, new_secret
from common.protocol.webhooks import RotationRequest, TrialRequest, WebhookChange, WebhookRequest
from common.webhooks import EVENTS, Ended, signed

bp = Blueprint("webhooks", __name__, url_prefix="/v1")
_PATH = "/webhook_endpoints"
_MOST, _USUAL = 100, 20


@bp.get("/webhook_event_types")
def event_types() -> Response:
    """What an endpoint can be told of."""
    return json_response({"object": "list", "data": EVENTS})


@bp.post(_PATH)
@reads(WebhookRequest)
@takes(headers=(KEY,))
def create() -> Response:
    """A URL that is told of ends from now on; its secret is shown this once."""
    parts, owner = state(), g.who.owner
    parts.refuse_if_unable()
    ask = asked(WebhookRequest)
    _check(ask.url)
    now = time.time()
    told = (ask.name, ask.url, ask.event_types, new_secret(), now, now)
    webhook = Webhook(new_id(parts.ledger.partition(owner)), owner, *told)
    stands = parts.webhooks.put(webhook, parts.settings.limits.webhooks, once("webhook"))
    if stands == webhook.id:
        return naming_ignored(json_response(_with_secret(webhook)), ask)
    return replayed(naming_ignored(json_response(_with_secret(_webhook(PREFIX + stands))), ask))


@bp.get(_PATH)
@takes("limit", "after")
def every() -> Response:
    """The owner's endpoints, the newest first: ``limit``, ``after``."""
    found, after = state().webhooks.every(g.who.owner), bare(request.args.get("after", ""))
    if any(one.id == after for one in found):
        found = list(islice(dropwhile(lambda one: one.id != after, found), 1, None))
    return page(found, _told, number("limit", _USUAL, 1, _MOST))


@bp.get(f"{_PATH}/<webhook_id>")
def one(webhook_id: str) -> Response:
    """All but its secret."""
    return json_response(_told(_webhook(webhook_id)))


@bp.post(f"{_PATH}/<webhook_id>")
@reads(WebhookChange)
def update(webhook_id: str) -> Response:
    """Another name, URL, or set of events; what waits goes to the new URL."""
    ask = asked(WebhookChange)
    if ask.url is not None:
        _check(ask.url)
    named = {"name": ask.name, "url": ask.url, "events": ask.event_types}
    fields = {name: value for name, value in named.items() if value is not None}
    webhook = state().webhooks.change(g.who.owner, _webhook(webhook_id).id, lambda old: old.changed(**fields))
    return naming_ignored(json_response(_told(_there(webhook))), ask)


@bp.post(f"{_PATH}/<webhook_id>/rotate_secret")
@reads(RotationRequest)
def rotate(webhook_id: str) -> Response:
    """Another secret, shown this once; the old one ends now or in 24 hours."""
    ask = asked(RotationRequest)
    keep_old = ask.keep_old_secret_active_for_24_hours
    known = _webhook(webhook_id).id
    webhook = state().webhooks.change(g.who.owner, known, lambda old: old.rotated(keep_old=keep_old))
    return naming_ignored(json_response(_with_secret(_there(webhook))), ask)


@bp.post(f"{_PATH}/<webhook_id>/test")
@reads(TrialRequest)
def test(webhook_id: str) -> Response:
    """One event of something that never was, sent at once; which status came back."""
    ask, webhook = asked(TrialRequest), _webhook(webhook_id)
    now = time.time()
    ended = Ended(ask.event_type, new_id(), int(now))
    headers = signed(ended, webhook.secrets(now), now)
    status = state().fetcher.post(webhook.url, ended.body(), headers, code="webhook_endpoint_unreachable")
    told = {
        "object": "webhook_endpoint.test",
        "webhook_endpoint_id": PREFIX + webhook.id,
        "event_type": ended.type,
        "status_code": status,
        "success": True,
    }
    return naming_ignored(json_response(told), ask)


@bp.delete(f"{_PATH}/<webhook_id>")
def delete(webhook_id: str) -> Response:
    """It is gone, and so is what it was still to be told."""
    state().webhooks.drop(g.who.owner, _webhook(webhook_id).id)
    return json_response({"id": webhook_id, "object": "webhook_endpoint.deleted", "deleted": True})


def _check(url: str) -> None:
    """Its form and host; its addresses are looked at whenever something is sent."""
    state().fetcher.check(url, param="url", code="invalid_webhook_url")


def _webhook(public_id: str) -> Webhook:
    known = bare(public_id)
    return _there(state().webhooks.get(g.who.owner, known) if known else None)


def _there(webhook: Webhook | None) -> Webhook:
    if webhook is None:
        raise NotFoundError("No webhook endpoint of yours has this id.")
    return webhook


def _with_secret(webhook: Webhook) -> dict[str, Any]:
    return _told(webhook) | {"signing_secret": webhook.secret}


def _told(webhook: Webhook) -> dict[str, Any]:
    return {
        "id": PREFIX + webhook.id,
        "object": "webhook_endpoint",
        "name": webhook.name,
        "url": webhook.url,
        "event_types": webhook.events,
        "created_at": int(webhook.created),
        "updated_at": int(webhook.updated),
        "signing_secret_hint": webhook.hint,
    }
