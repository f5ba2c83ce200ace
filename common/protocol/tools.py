"""Tools that an answer may call, as OpenAI has them; and whether earlier calls have their results."""

from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, Field

from common.errors import InvalidRequestError
from common.protocol.base import Request
from common.protocol.constrained import from_text
from common.protocol.messages import OPEN, Message
from common.toolchoice import NAME, Mode, chosen

_MOST = 128


def _kind(value: Any) -> Any:
    if isinstance(value, str) and value != "function":
        raise ValueError("only tools of type 'function' are supported")
    return value


def _choice(value: Any) -> Any:
    if isinstance(value, str | dict):
        return value
    raise ValueError("input should be a word or an object")


class Described(BaseModel):
    """One function; without parameters it takes none."""

    model_config = OPEN

    name: Annotated[str, Field(pattern=f"^{NAME}$")]
    description: str | None = None
    parameters: Annotated[dict[str, Any] | None, BeforeValidator(from_text)] = None
    strict: bool | None = None


class Tool(BaseModel):
    """A tool is a function here."""

    model_config = OPEN

    type: Annotated[Literal["function"], BeforeValidator(_kind)]
    function: Described

    def unknown(self) -> Iterator[str]:
        """Names that mean nothing here."""
        yield from self.model_extra or ()
        yield from (f"function.{name}" for name in self.function.model_extra or ())

    def plain(self) -> dict[str, Any]:
        """As it was sent."""
        told = self.function
        fields = {
            "name": told.name,
            "description": told.description,
            "parameters": told.parameters,
            "strict": told.strict,
        }
        return {"type": "function", "function": {name: value for name, value in fields.items() if value is not None}}


class WithTools(Request):
    """A request whose answer may call tools."""

    tools: Annotated[tuple[Tool, ...], Field(max_length=_MOST, strict=False, fail_fast=True)] = ()
    tool_choice: Annotated[str | dict[str, Any] | None, BeforeValidator(_choice)] = None
    parallel_tool_calls: bool = True

    @property
    def calls(self) -> Mode:
        """Whether it may, or must. Raises InvalidRequestError."""
        return chosen(self.tool_choice, [tool.function.name for tool in self.tools])[0]

    def asked_tools(self) -> dict[str, Any] | None:
        """What the admission child is to make a plan of."""
        if not self.tools:
            return None
        told = [tool.plain() for tool in self.tools]
        return {"tools": told, "choice": self.tool_choice, "parallel": self.parallel_tool_calls}

    def unknown_of_tools(self) -> Iterator[str]:
        """Names that mean nothing here."""
        yield from (f"tools.{name}" for tool in self.tools for name in tool.unknown())


def check_results(messages: Sequence[Message]) -> None:
    """Each call has its result right behind it, and each result its call. Raises InvalidRequestError."""
    waiting: dict[str, int] = {}
    for at, message in enumerate(messages):
        if message.role != "tool":
            _refuse_waiting(waiting)
            waiting = {call.id: at for call in message.tool_calls or ()}
            if len(waiting) < len(message.tool_calls or ()):
                field = f"messages[{at}].tool_calls"
                raise InvalidRequestError(f"{field}: two of them have the same id.", param=field)
        elif waiting.pop(message.tool_call_id or "", None) is None:
            field = f"messages[{at}].tool_call_id"
            why = f"{field}: messages of role 'tool' stand behind the assistant's message whose tool_calls they answer."
            raise InvalidRequestError(why, param=field)
    _refuse_waiting(waiting)


def _refuse_waiting(waiting: dict[str, int]) -> None:
    for call, at in waiting.items():
        field = f"messages[{at}].tool_calls"
        why = f"{field}: messages of role 'tool' must follow with the result of each; {call[:64]!r} has none."
        raise InvalidRequestError(why, param=field)
