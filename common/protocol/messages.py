"""The turns of a conversation: who may say what, and how chat templates want it."""

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Discriminator, Field, Tag, ValidationInfo, field_validator

from common.protocol.base import read_inner

_LATER_PARTS = {"image_url", "input_audio", "file"}
_EMPTY = {"annotations", "audio", "function_call", "reasoning", "reasoning_content", "refusal"}  # as SDKs put them back
_AGAIN = {"index", "parsed", "parsed_arguments"}  # what an SDK made of the answer: it stands in the message already
_MOST_CALLS = 128
OPEN = ConfigDict(frozen=True, strict=True, extra="allow", hide_input_in_errors=True)


def _role(value: Any) -> Any:
    if value == "function":
        raise ValueError("messages of role 'function' are not supported; use 'tool'")
    return value


def _part(value: Any) -> Any:
    if isinstance(value, str) and value in _LATER_PARTS:
        raise ValueError(f"parts of type {value!r} are not supported yet")
    return value


def _shape(value: Any) -> str:
    return "<parts>" if isinstance(value, list) else "<text>"


def _known(extra: dict[str, Any] | None) -> Iterator[str]:
    """Names that mean nothing here, but for what SDKs put back from earlier answers."""
    yield from (name for name, value in (extra or {}).items() if name not in _AGAIN and (value or name not in _EMPTY))


class TextPart(BaseModel):
    """A piece of a message."""

    model_config = OPEN

    type: Annotated[Literal["text"], BeforeValidator(_part)]
    text: str


class Function(BaseModel):
    """What an assistant wanted to have done."""

    model_config = OPEN

    name: Annotated[str, Field(min_length=1, max_length=64)]
    arguments: str


class ToolCall(BaseModel):
    """One of its calls."""

    model_config = OPEN

    id: Annotated[str, Field(max_length=128)]
    type: Literal["function"] = "function"
    function: Function

    def unknown(self) -> Iterator[str]:
        """Names that mean nothing here."""
        yield from _known(self.model_extra)
        yield from (f"function.{name}" for name in _known(self.function.model_extra))

    def plain(self) -> dict[str, Any]:
        """As chat templates want it: arguments as an object where they are one."""
        try:
            arguments = read_inner(self.function.arguments)
        except ValueError:
            arguments = None
        told = arguments if isinstance(arguments, dict) else self.function.arguments
        return {"id": self.id, "type": self.type, "function": {"name": self.function.name, "arguments": told}}


Parts = Annotated[tuple[TextPart, ...], Field(min_length=1, max_length=64, strict=False, fail_fast=True)]
Content = Annotated[Annotated[str, Tag("<text>")] | Annotated[Parts, Tag("<parts>")], Discriminator(_shape)]
Calls = Annotated[tuple[ToolCall, ...], Field(max_length=_MOST_CALLS, strict=False, fail_fast=True)]


class Message(BaseModel):
    """One turn. What SDKs put back from earlier answers may stand here."""

    model_config = OPEN

    role: Annotated[Literal["system", "developer", "user", "assistant", "tool"], BeforeValidator(_role)]
    name: Annotated[str, Field(max_length=64)] | None = None
    tool_calls: Calls | None = None
    tool_call_id: Annotated[str | None, Field(max_length=128, validate_default=True)] = None
    refusal: str | None = None
    content: Annotated[Content | None, Field(validate_default=True)] = None
    function_call: Any = None
    audio: Any = None

    @field_validator("tool_calls")
    @classmethod
    def _is_the_assistants(cls, calls: Calls | None, told: ValidationInfo) -> Calls | None:
        if calls and told.data.get("role") not in {"assistant", None}:
            raise ValueError("only the assistant calls tools")
        return calls

    @field_validator("tool_call_id")
    @classmethod
    def _says_which_call(cls, call: str | None, told: ValidationInfo) -> str | None:
        if call is None and told.data.get("role") == "tool":
            raise ValueError("a message of role 'tool' says which call it answers")
        return call

    @field_validator("content")
    @classmethod
    def _says_something(cls, content: Content | None, told: ValidationInfo) -> Content | None:
        if content is None and not told.data.get("tool_calls") and told.data.get("refusal") is None:
            raise ValueError("it may be null only beside tool_calls")
        return content

    @field_validator("function_call", "audio")
    @classmethod
    def _is_not_here(cls, value: Any) -> None:
        if value:
            raise ValueError("this is not supported")

    def unknown(self) -> Iterator[str]:
        """Names that mean nothing here."""
        yield from _known(self.model_extra)
        if self.refusal and self.content is not None:
            yield "refusal"
        if isinstance(self.content, tuple):
            yield from (f"content.{name}" for part in self.content for name in part.model_extra or ())
        for call in self.tool_calls or ():
            yield from (f"tool_calls.{name}" for name in call.unknown())

    @property
    def text(self) -> str:
        """Its parts as one."""
        if isinstance(self.content, tuple):
            return "\n".join(part.text for part in self.content)
        return self.content if self.content is not None else self.refusal or ""

    def plain(self) -> dict[str, Any]:
        """As chat templates want it."""
        told: dict[str, Any] = {"role": "system" if self.role == "developer" else self.role, "content": self.text}
        if self.name is not None:
            told["name"] = self.name
        if self.tool_calls:
            told["tool_calls"] = [call.plain() for call in self.tool_calls]
        if self.tool_call_id is not None:
            told["tool_call_id"] = self.tool_call_id
        return told
