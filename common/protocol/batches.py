"""What clients send to have many requests answered: the order, and the lines of its file."""

import re
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from common.errors import InvalidRequestError
from common.protocol.base import Request, read_object
from common.protocol.chat import ChatRequest
from common.protocol.completions import CompletionRequest
from common.protocol.schedule import Schedule
from common.settings import Limits

LINE_BYTES = 2**20
DRY_RUN = "dry_run"  # of a batch's metadata: "true": its lines are looked at, and none is answered
KINDS: dict[str, type[ChatRequest | CompletionRequest]] = {
    "/v1/chat/completions": ChatRequest,
    "/v1/completions": CompletionRequest,
}
_UNITS = {"h": 3600, "d": 86_400}
_MOST_S = 30 * 86_400
_WINDOW = re.compile(r"([1-9][0-9]{0,3})([hd])")
_CUSTOM_ID = 512


class Expiry(BaseModel):
    """When the files with the answers go."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", hide_input_in_errors=True)

    anchor: Literal["created_at"]
    seconds: Annotated[int, Field(ge=3600, le=_MOST_S)]


class BatchRequest(Request):
    """``POST /v1/batches``."""

    input_file_id: Annotated[str, Field(pattern=r"^file-[0-9a-f]{34}$")]
    endpoint: Literal["/v1/chat/completions", "/v1/completions"]
    completion_window: str = "24h"
    metadata: dict[Annotated[str, Field(max_length=64)], Annotated[str, Field(max_length=512)]] = Field(
        default_factory=dict, max_length=16
    )
    output_expires_after: Expiry | None = None

    @field_validator("completion_window")
    @classmethod
    def _is_a_window(cls, told: str) -> str:
        found = _WINDOW.fullmatch(told)
        if found is None or window_s(told) > _MOST_S:
            raise ValueError("it should be hours or days, as 24h or 7d, 30d at most")
        return told

    def check(self) -> None:
        """What the metadata that mean something here say. Raises InvalidRequestError."""
        try:
            Schedule.of(self.metadata)
        except ValueError as error:
            name, _, why = str(error).partition(": ")
            raise InvalidRequestError(f"{name}: {why}", param=name) from None
        if self.metadata.get(DRY_RUN, "false") not in {"true", "false"}:
            raise InvalidRequestError(f"metadata.{DRY_RUN}: true or false.", param=f"metadata.{DRY_RUN}")

    def spans(self, now: float) -> tuple[float, float]:
        """When its rows may begin, and when it is over. Raises InvalidRequestError: never in between."""
        schedule = Schedule.of(self.metadata)
        expires = max(now, schedule.not_before) + window_s(self.completion_window)
        opens = schedule.opens_at(now)
        if opens - now > _MOST_S:
            raise InvalidRequestError("metadata.not_before: 30 days ahead at most.", param="metadata.not_before")
        if opens >= expires:
            message = "completion_window: it is over before metadata.window opens."
            raise InvalidRequestError(message, param="completion_window")
        return opens, expires


@dataclass(frozen=True, slots=True)
class Line:
    """One request of a batch's file."""

    custom_id: str
    body: dict[str, Any]


def window_s(told: str) -> int:
    """Seconds of ``24h`` or ``7d``."""
    return int(told[:-1]) * _UNITS[told[-1]]


def read_line(raw: bytes, endpoint: str, limits: Limits) -> Line:
    """A line of the file; what its body asks for is looked at later. Raises InvalidRequestError."""
    if len(raw) > LINE_BYTES:
        raise InvalidRequestError(f"A line may have {LINE_BYTES} bytes.", code="line_too_long")
    try:
        told = read_object(raw, limits)
    except InvalidRequestError as error:
        raise InvalidRequestError(error.message, code="invalid_json_line") from error
    custom_id = told.get("custom_id")
    if not isinstance(custom_id, str) or not 1 <= len(custom_id) <= _CUSTOM_ID:
        raise InvalidRequestError(
            f"custom_id: a text of 1 to {_CUSTOM_ID} characters.", param="custom_id", code="invalid_custom_id"
        )
    if told.get("method", "POST") != "POST":
        raise InvalidRequestError("method: POST.", param="method", code="invalid_method")
    if told.get("url") != endpoint:
        raise InvalidRequestError(f"url: {endpoint}, as the batch says.", param="url", code="invalid_url")
    if not isinstance(told.get("body"), dict):
        raise InvalidRequestError("body: an object.", param="body", code="invalid_body")
    return Line(custom_id, told["body"])
