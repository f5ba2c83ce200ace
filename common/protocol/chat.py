"""POST /v1/chat/completions: a conversation."""

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Discriminator, Field, Tag, field_validator

from common.protocol.generation import Generation

_LATER_ROLES = {"tool", "function"}
_LATER_PARTS = {"image_url", "input_audio", "file", "refusal"}
_PUT_BACK = {"refusal", "annotations"}
_LATER_KEYS = ("tool_calls", "function_call", "audio")


def _role(value: Any) -> Any:
    if isinstance(value, str) and value in _LATER_ROLES:
        raise ValueError(f"messages of role {value!r} are not supported yet")
    return value


def _part(value: Any) -> Any:
    if isinstance(value, str) and value in _LATER_PARTS:
        raise ValueError(f"parts of type {value!r} are not supported yet")
    return value


def _shape(value: Any) -> str:
    return "<parts>" if isinstance(value, list) else "<text>"


class TextPart(BaseModel):
    """A piece of a message."""

    model_config = ConfigDict(frozen=True, strict=True, extra="allow", hide_input_in_errors=True)

    type: Annotated[Literal["text"], BeforeValidator(_part)]
    text: str


Parts = Annotated[tuple[TextPart, ...], Field(min_length=1, max_length=64, strict=False, fail_fast=True)]
Content = Annotated[Annotated[str, Tag("<text>")] | Annotated[Parts, Tag("<parts>")], Discriminator(_shape)]


class Message(BaseModel):
    """One turn. What SDKs put back from earlier answers may stand here; what means something may not yet."""

    model_config = ConfigDict(frozen=True, strict=True, extra="allow", hide_input_in_errors=True)

    role: Annotated[Literal["system", "developer", "user", "assistant"], BeforeValidator(_role)]
    content: Content
    name: Annotated[str, Field(max_length=64)] | None = None
    tool_calls: Any = None
    function_call: Any = None
    audio: Any = None

    @field_validator(*_LATER_KEYS)
    @classmethod
    def _comes_later(cls, value: Any) -> None:
        if value:
            raise ValueError("this is not supported yet")

    def unknown(self) -> Iterator[str]:
        """Names that mean nothing here, but for empty ones that an SDK puts back."""
        yield from (name for name, value in (self.model_extra or {}).items() if value or name not in _PUT_BACK)
        if not isinstance(self.content, str):
            yield from (f"content.{name}" for part in self.content for name in part.model_extra or ())

    def plain(self) -> dict[str, str]:
        """As chat templates want it."""
        text = self.content if isinstance(self.content, str) else "\n".join(part.text for part in self.content)
        told = {"role": "system" if self.role == "developer" else self.role, "content": text}
        return told if self.name is None else told | {"name": self.name}


class ChatRequest(Generation):
    """A conversation to be continued."""

    kind = "chat"
    asked = "messages"

    messages: Annotated[tuple[Message, ...], Field(min_length=1, max_length=4096, strict=False, fail_fast=True)]

    def left_out(self) -> tuple[str, ...]:
        """Of all messages."""
        return tuple(dict.fromkeys(f"messages.{name}" for message in self.messages for name in message.unknown()))

    def conversation(self) -> list[dict[str, str]]:
        """As chat templates want it."""
        return [message.plain() for message in self.messages]
