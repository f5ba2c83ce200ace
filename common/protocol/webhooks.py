"""What clients send to be told of ends."""

from typing import Annotated

from pydantic import AfterValidator, Field

from common.protocol.base import Request
from common.webhooks import EVENTS

_NAMED = 64  # characters of a client's own name that an error repeats


def _event(told: str) -> str:
    """One that happens here."""
    if told not in EVENTS:
        raise ValueError(f"nothing here ends as {told[:_NAMED]!r} yet: one of {', '.join(EVENTS)}")
    return told


def _once(told: tuple[str, ...]) -> tuple[str, ...]:
    twice = next((name for at, name in enumerate(told) if name in told[:at]), None)
    if twice is not None:
        raise ValueError(f"{twice} is named twice")
    return told


Event = Annotated[str, AfterValidator(_event), Field(json_schema_extra={"enum": list(EVENTS)})]
Events = Annotated[tuple[Event, ...], Field(min_length=1, strict=False), AfterValidator(_once)]
Name = Annotated[str, Field(min_length=1, max_length=256)]
Url = Annotated[str, Field(max_length=2048)]


class WebhookRequest(Request):
    """``POST /v1/webhook_endpoints``."""

    event_types: Events
    name: Name
    url: Url


class WebhookChange(Request):
    """``POST /v1/webhook_endpoints/ID``: what is not named stays."""

    event_types: Events | None = None
    name: Name | None = None
    url: Url | None = None


class RotationRequest(Request):
    """``POST /v1/webhook_endpoints/ID/rotate_secret``."""

    keep_old_secret_active_for_24_hours: bool = False


class TrialRequest(Request):
    """``POST /v1/webhook_endpoints/ID/test``."""

    event_type: Event
