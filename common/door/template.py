"""A conversation as a model's own chat template writes it. Runs in the admission child only."""

import json
from functools import partial
from typing import Any

from jinja2.exceptions import TemplateError, TemplateRuntimeError

from common.toolformat import ToolFormat, own

_MOST_WORDS = 300  # of what a template says when it refuses
_CALL = {"id": "call00001", "type": "function", "function": {"name": "qcallq", "arguments": {"qkeyq": "qvalueq"}}}
_TOOLS: list[dict[str, Any]] = [
    {"role": "user", "content": "a"},
    {"role": "assistant", "content": "", "tool_calls": [_CALL]},
    {"role": "tool", "content": "qresultq", "tool_call_id": "call00001", "name": "qcallq"},
]

Turn = dict[str, Any]
Tool = dict[str, Any]


class RefusedError(Exception):
    """A sentence for the client."""

    def __init__(
        self, sentence: str, *, param: str | None = None, code: str | None = None, is_too_long: bool = False
    ) -> None:
        super().__init__(sentence)
        self.param, self.code, self.is_too_long = param, code, is_too_long


class Template:
    """One model's chat template."""

    def __init__(self, tokenizer: Any, form: ToolFormat | None = None) -> None:
        """``form``: how it writes calls, as far as that is known."""
        self._tokenizer, self._form = tokenizer, form
        self._knows_tools: bool | None = None

    def text(
        self, turns: list[Turn], *, opens: bool, goes_on: bool, tools: list[Tool] | None = None, as_own: bool = False
    ) -> str:
        """The conversation; a template that insists on turns gets them. Raises RefusedError.

        ``tools`` are for the template to list; ``as_own`` writes calls in our own format.
        """
        if self._tokenizer.chat_template is None:
            raise RefusedError("This model has no chat template; use /v1/completions.")
        form = self._form and own(self._form) if as_own else None
        write = partial(self._written, tools=tools, opens=opens, goes_on=goes_on)
        turns = turns if form is None and self._shows_tools(turns) else _without_tools(turns, form)
        try:
            return write(_with_ids(turns, self._form))
        except TemplateError as error:
            folded = _folded(_without_tools(turns, form))
            if folded == turns:
                raise RefusedError(_words(error)) from None
        try:
            return write(folded)
        except TemplateError as error:
            raise RefusedError(_words(error)) from None

    def turns(self, content: str) -> str:
        """What stands around a few turns, each of which says this; empty for a template that has no such turns."""
        said: list[Turn] = [{"role": role, "content": content} for role in ("user", "assistant", "user")]
        try:
            return self._written(said, opens=False, goes_on=False) if self._tokenizer.chat_template else ""
        except TemplateError:
            return ""

    def _written(self, turns: list[Turn], *, opens: bool, goes_on: bool, tools: list[Tool] | None = None) -> str:
        try:
            text: str = self._tokenizer.apply_chat_template(
                turns, tools=tools, add_generation_prompt=opens, continue_final_message=goes_on, tokenize=False
            )
        except (TemplateError, MemoryError):
            raise
        except Exception as error:  # a template is a program of somebody else's and fails as it likes
            if not goes_on or not isinstance(error, ValueError):
                raise TemplateRuntimeError(str(error)) from error
            raise RefusedError(
                "The model's chat template does not let the last message be continued.", param="continue_final_message"
            ) from None
        return text

    def _shows_tools(self, turns: list[Turn]) -> bool:
        """Whether calls and results reach the model; asked of the template once, when a conversation has some."""
        if self._form is not None and self._form.shows_calls and self._form.takes_results:
            return True
        if not any(turn["role"] == "tool" or turn.get("tool_calls") for turn in turns):
            return True
        if self._knows_tools is None:
            try:
                text = self._written(_TOOLS, opens=True, goes_on=False)
            except TemplateError:
                text = ""
            self._knows_tools = all(word in text for word in ("qcallq", "qkeyq", "qvalueq", "qresultq"))
        return self._knows_tools


def _with_ids(turns: list[Turn], form: ToolFormat | None) -> list[Turn]:
    """Calls as this template reads them: ids of nine letters or digits, or such that name the tool."""
    if form is None:
        return turns
    count, ids = 0, dict[str, str]()  # those that answers gave, which may come again
    told = list[Turn]()
    for turn in turns:
        for call in turn.get("tool_calls", ()):
            ids[call["id"]] = f"functions.{call['function']['name']}:{count}" if form.names_ids else f"call{count:05}"
            count += 1
        told.append(_with_id(turn, ids, form))
    return told


def _with_id(turn: Turn, ids: dict[str, str], form: ToolFormat) -> Turn:
    if turn["role"] == "tool":
        return turn | {"tool_call_id": ids.get(turn["tool_call_id"], turn["tool_call_id"])}
    if not turn.get("tool_calls"):
        return turn
    calls = [
        call | {"id": ids[call["id"]], "function": call["function"] | {"arguments": _arguments(call, form)}}
        for call in turn["tool_calls"]
    ]
    return turn | {"tool_calls": calls}


def _arguments(call: Turn, form: ToolFormat) -> Any:
    told = call["function"]["arguments"]
    return _as_json(told) if form.wants == "string" else told


def _as_json(told: Any) -> str:
    return told if isinstance(told, str) else json.dumps(told, ensure_ascii=False)


def _without_tools(turns: list[Turn], form: ToolFormat | None = None) -> list[Turn]:
    """Calls and results as text, for templates that do not know them; in our own format where answers are, too."""
    names, told = dict[str, str](), list[Turn]()
    for turn in turns:
        names |= {call["id"]: call["function"]["name"] for call in turn.get("tool_calls", ())}
        told.append(_as_text(turn, names, form))
    return told


def _as_text(turn: Turn, names: dict[str, str], form: ToolFormat | None) -> Turn:
    if turn["role"] == "tool":
        name = names.get(turn["tool_call_id"]) or turn.get("name", "the tool")
        told = f"Result of {name}:\n{turn['content']}"
        return {"role": "user", "content": told if form is None else form.result(name, turn["content"])}
    functions = [call["function"] for call in turn.get("tool_calls", ())]
    if not functions:
        return turn
    said = [turn["content"]] if turn["content"] else []
    if form is None:
        calls = [json.dumps(function, ensure_ascii=False) for function in functions]
    else:
        calls = [form.written([(function["name"], _as_json(function["arguments"])) for function in functions])]
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
