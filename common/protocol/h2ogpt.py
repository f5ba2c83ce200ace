"""h2oGPT's own fields, as ``extra_body`` sends them: system prompt, history and budget of a plain conversation."""

from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, field_validator

from common.protocol.base import Int
from common.protocol.constrained import Constrained

_NO_SYSTEM = {"", "auto", "None"}  # none of our own; a model's template may have one
_TYPES = {"", "plain", "template"}
_MOST_TURNS = 2048

Turn = dict[str, Any]
Half = str | None
Pair = Annotated[tuple[Half, Half], Field(strict=False)]
Pairs = Annotated[tuple[Pair, ...], Field(max_length=_MOST_TURNS, strict=False, fail_fast=True)]


def _text(value: Any) -> Any:
    """Its older clients number the prompt types."""
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


class PlainChat(Constrained):
    """What a request may say of the conversation around its question."""

    system_prompt: str = "auto"
    chat_conversation: Pairs = ()
    add_chat_history_to_context: bool = True
    max_input_tokens: Int = -1  # of the prompt; history is left out until it fits; -1: no budget
    prompt_type: Annotated[str, Field(max_length=64), BeforeValidator(_text)] = ""
    client_metadata: Annotated[str, Field(max_length=4096)] = ""

    @field_validator("max_input_tokens")
    @classmethod
    def _is_a_budget(cls, most: int) -> int:
        if most != -1 and most < 1:
            raise ValueError("it should be at least 1, or -1 for no budget")
        return most

    @property
    def budget(self) -> int | None:
        """Of the prompt, in tokens."""
        return None if self.max_input_tokens == -1 else self.max_input_tokens

    def unused(self, turns: Sequence[Turn] | None) -> tuple[str, ...]:
        """Names whose values change nothing beside these turns; None: there is no conversation at all."""
        names = [] if self.prompt_type in _TYPES else ["prompt_type"]
        has_system = turns is None or any(turn["role"] == "system" for turn in turns)
        if has_system and self.system_prompt not in _NO_SYSTEM:
            names.append("system_prompt")
        if self.chat_conversation and (turns is None or _has_history(turns)):
            names.append("chat_conversation")
        return tuple(sorted(names))

    def around(self, turns: list[Turn]) -> list[Turn]:
        """A conversation with the system prompt and the history that it lacks, or without any history."""
        head, rest = _parted(turns)
        if not head and self.system_prompt not in _NO_SYSTEM:
            head = [{"role": "system", "content": self.system_prompt}]
        if not self.add_chat_history_to_context:
            return head + rest[last_turn(rest) :]
        history = [] if _has_history(turns) else self._history()
        return head + history + rest

    def _history(self) -> list[Turn]:
        turns = ((("user", asked), ("assistant", said)) for asked, said in self.chat_conversation)
        return [{"role": role, "content": text} for pair in turns for role, text in pair if text is not None]


def last_turn(turns: Sequence[Turn]) -> int:
    """Where the last question begins: all behind it belongs to it."""
    return max((at for at, turn in enumerate(turns) if turn["role"] == "user"), default=0)


def _parted(turns: list[Turn]) -> tuple[list[Turn], list[Turn]]:
    """What the system says at the beginning, and the rest."""
    count = next((at for at, turn in enumerate(turns) if turn["role"] != "system"), len(turns))
    return turns[:count], turns[count:]


def _has_history(turns: Sequence[Turn]) -> bool:
    _, rest = _parted(list(turns))
    return last_turn(rest) > 0
