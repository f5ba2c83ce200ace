"""A conversation as a model's own chat template writes it. Runs in the admission child only."""

import json
from typing import Any

from jinja2.exceptions import TemplateError

_MOST_WORDS = 300  # of what a template says when it refuses
_CALL = {"id": "call00001", "type": "function", "function": {"name": "qcallq", "arguments": {"qkeyq": "qvalueq"}}}
_TOOLS: list[dict[str, Any]] = [
    {"role": "user", "content": "a"},
    {"role": "assistant", "content": "", "tool_calls": [_CALL]},
    {"role": "tool", "content": "qresultq", "tool_call_id": "call00001", "name": "qcallq"},
]

Turn = dict[str, Any]


class RefusedError(Exception):
    """A sentence for the client."""

    def __init__(self, sentence: str, *, param: str | None = None, is_too_long: bool = False) -> None:
        super().__init__(sentence)
        self.param, self.is_too_long = param, is_too_long


class Template:
    """One model's chat template."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._knows_tools: bool | None = None

    def text(self, turns: list[Turn], *, opens: bool, goes_on: bool) -> str:
        """The conversation; a template that insists on turns gets them. Raises RefusedError."""
        if self._tokenizer.chat_template is None:
            raise RefusedError("This model has no chat template; use /v1/completions.")
        turns = turns if self._shows_tools(turns) else _without_tools(turns)
        try:
            return self._written(turns, opens=opens, goes_on=goes_on)
        except TemplateError as error:
            folded = _folded(_without_tools(turns))
            if folded == turns:
                raise RefusedError(_words(error)) from None
        try:
            return self._written(folded, opens=opens, goes_on=goes_on)
        except TemplateError as error:
            raise RefusedError(_words(error)) from None

    def turns(self, content: str) -> str:
        """What stands around a few turns, each of which says this; empty for a template that has no such turns."""
        said: list[Turn] = [{"role": role, "content": content} for role in ("user", "assistant", "user")]
        try:
            return self._written(said, opens=False, goes_on=False) if self._tokenizer.chat_template else ""
        except TemplateError:
            return ""

    def _written(self, turns: list[Turn], *, opens: bool, goes_on: bool) -> str:
        try:
            text: str = self._tokenizer.apply_chat_template(
                turns, add_generation_prompt=opens, continue_final_message=goes_on, tokenize=False
            )
        except ValueError:
            if not goes_on:
                raise
            raise RefusedError(
                "The model's chat template does not let the last message be continued.", param="continue_final_message"
            ) from None
        return text

    def _shows_tools(self, turns: list[Turn]) -> bool:
        """Whether calls and results reach the model; asked of the template once, when a conversation has some."""
        if not any(turn["role"] == "tool" or turn.get("tool_calls") for turn in turns):
            return True
        if self._knows_tools is None:
            try:
                text = self._written(_TOOLS, opens=True, goes_on=False)
            except TemplateError:
                text = ""
            self._knows_tools = all(word in text for word in ("qcallq", "qkeyq", "qvalueq", "qresultq"))
        return self._knows_tools


def _without_tools(turns: list[Turn]) -> list[Turn]:
    """Calls and results as text, for templates that do not know them."""
    names = {call["id"]: call["function"]["name"] for turn in turns for call in turn.get("tool_calls", ())}
    return [_as_text(turn, names) for turn in turns]


def _as_text(turn: Turn, names: dict[str, str]) -> Turn:
    if turn["role"] == "tool":
        name = names.get(turn["tool_call_id"]) or turn.get("name", "the tool")
        return {"role": "user", "content": f"Result of {name}:\n{turn['content']}"}
    calls = [json.dumps(call["function"], ensure_ascii=False) for call in turn.get("tool_calls", ())]
    if not calls:
        return turn
    said = [turn["content"]] if turn["content"] else []
    return {"role": turn["role"], "content": "\n".join((*said, *calls))}


def _folded(turns: list[Turn]) -> list[Turn]:
    """System text in the turn of the user that follows; neighbours of one role as one."""
    folded: list[Turn] = []
    for turn in turns:
        role = "user" if turn["role"] == "system" else turn["role"]
        if folded and folded[-1]["role"] == role:
            folded[-1] = folded[-1] | {"content": f"{folded[-1]['content']}\n\n{turn['content']}"}
        else:
            folded.append(turn | {"role": role})
    return folded


def _words(error: TemplateError) -> str:
    """What the template's author says to such a conversation; other failures of a template are no client's business."""
    said = str(error).strip() if type(error) is TemplateError else ""
    return f"The model's chat template refuses this conversation{f': {said[:_MOST_WORDS]}' if said else '.'}"
