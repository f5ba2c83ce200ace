"""Which tools an answer may call: OpenAI's ``tool_choice``, and a bare name."""

import re
from collections.abc import Sequence
from typing import Any, Literal

from common.errors import InvalidRequestError

NAME = r"[A-Za-z0-9_-]{1,64}"
_WORDS = ("none", "auto", "required")

Mode = Literal["none", "auto", "required"]


def names_one(choice: Any) -> bool:
    """Whether it is a single tool that must be called."""
    return choice.get("type") == "function" if isinstance(choice, dict) else choice not in {None, "", *_WORDS}


def chosen(choice: Any, names: Sequence[str]) -> tuple[Mode, list[str]]:
    """How many calls are wanted, and of what. Raises InvalidRequestError."""
    if wrong := [name for name in names if not re.fullmatch(NAME, name)]:
        raise InvalidRequestError(f"tools: {wrong[0]!r} is no name: {NAME}.", param="tools")
    if len(set(names)) < len(names):
        raise InvalidRequestError("tools: two tools have the same name.", param="tools")
    mode, allowed = _read(choice, names)
    if unknown := [name for name in allowed if name not in names]:
        raise InvalidRequestError(f"tool_choice: there is no tool {unknown[0]!r}.", param="tool_choice")
    if not allowed and mode == "required":
        raise InvalidRequestError("tool_choice: there is no tool to call.", param="tool_choice")
    return mode if allowed else "none", list(dict.fromkeys(allowed))


def _read(choice: Any, names: Sequence[str]) -> tuple[Mode, list[str]]:
    match choice:
        case None | "":
            return "auto", list(names)
        case "none" | "auto" | "required":
            return choice, list(names)
        case (
            str(name) | {"type": "function", "function": {"name": str(name)}} | {"type": "function", "name": str(name)}
        ):
            return "required", [name]
        case {"type": "allowed_tools", "allowed_tools": {"mode": "auto" | "required" as mode, "tools": list(some)}} | {
            "type": "allowed_tools",
            "mode": "auto" | "required" as mode,
            "tools": list(some),
        }:
            return mode, [_name(one) for one in some]
    raise InvalidRequestError("tool_choice: this is none of its forms.", param="tool_choice")


def _name(tool: Any) -> str:
    match tool:
        case {"function": {"name": str(name)}} | {"name": str(name)}:
            return name
    raise InvalidRequestError("tool_choice: this is no tool.", param="tool_choice")
