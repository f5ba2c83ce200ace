"""The disposable child: chat template, tokens, their number. ``python -m common.door.child DESCRIPTOR``.

Everything that a client's text could break runs here, within limits of time and memory; whoever breaks them kills this
process and nothing else. A line of JSON in, a line of JSON out, over an inherited socket; its end ends us.
"""

import contextlib
import json
import math
import resource
import socket
import sys
import time
from collections import OrderedDict
from pathlib import Path
from typing import Any

from jinja2.exceptions import TemplateError

CPU_S = 2  # of one request
MEMORY = 512 * 2**20  # beside what we had before it
_KEPT = 8  # tokenizers
_PAGE = resource.getpagesize()
_MOST_WORDS = 300  # of what a template says when it refuses

Messages = list[dict[str, str]]


class RefusedError(Exception):
    """A sentence for the client."""

    def __init__(self, sentence: str, *, is_too_long: bool = False) -> None:
        super().__init__(sentence)
        self.is_too_long = is_too_long


class Reader:
    """The tokenizers of the models that were asked for lately."""

    def __init__(self) -> None:
        self._known: OrderedDict[str, tuple[Any, int]] = OrderedDict()

    def read(self, question: dict[str, Any]) -> list[int]:
        """A prompt's token ids. Raises RefusedError."""
        tokenizer, longest = self._tokenizer(question["folder"])
        _limit()
        is_chat = "messages" in question
        text = _rendered(tokenizer, question["messages"]) if is_chat else question["prompt"]
        if len(text) > longest * question["most"]:  # not worth counting
            raise RefusedError(
                f"The model's context is {question['most']} tokens, and the prompt has more.", is_too_long=True
            )
        ids: list[int] = tokenizer(text, add_special_tokens=not is_chat)["input_ids"]
        if not ids:
            raise RefusedError("The prompt is empty.")
        return ids

    def _tokenizer(self, folder: str) -> tuple[Any, int]:
        """With the length of its longest token; loading is the model's doing, so no limits hold meanwhile."""
        if folder not in self._known:
            tokenizer = _load(Path(folder))
            self._known[folder] = tokenizer, max(map(len, tokenizer.get_vocab()))
            if len(self._known) > _KEPT:
                self._known.popitem(last=False)
        self._known.move_to_end(folder)
        return self._known[folder]


def _load(folder: Path) -> Any:
    from transformers import AutoTokenizer  # heavy: after torch was hidden

    return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)


def _rendered(tokenizer: Any, messages: Messages) -> str:
    """The conversation as the model's own template writes it; a template that insists on turns gets them."""
    if tokenizer.chat_template is None:
        raise RefusedError("This model has no chat template; use /v1/completions.")
    try:
        return _written(tokenizer, messages)
    except TemplateError as error:
        folded = _folded(messages)
        if folded == messages:
            raise RefusedError(_words(error)) from None
    try:
        return _written(tokenizer, folded)
    except TemplateError as error:
        raise RefusedError(_words(error)) from None


def _written(tokenizer: Any, messages: Messages) -> str:
    text: str = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    return text


def _folded(messages: Messages) -> Messages:
    """System text in the turn of the user that follows; neighbours of one role as one."""
    turns: Messages = []
    for message in messages:
        role = "user" if message["role"] == "system" else message["role"]
        if turns and turns[-1]["role"] == role:
            turns[-1] = turns[-1] | {"content": f"{turns[-1]['content']}\n\n{message['content']}"}
        else:
            turns.append(message | {"role": role})
    return turns


def _words(error: TemplateError) -> str:
    """What the template's author says to such a conversation; other failures of a template are no client's business."""
    said = str(error).strip() if type(error) is TemplateError else ""
    return f"The model's chat template refuses this conversation{f': {said[:_MOST_WORDS]}' if said else '.'}"


def _limit() -> None:
    """From now on so much of both; the kernel ends us in the middle of whatever it is."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * _PAGE + MEMORY, resource.RLIM_INFINITY))
    resource.setrlimit(resource.RLIMIT_CPU, (math.ceil(time.process_time()) + CPU_S, resource.RLIM_INFINITY))


def _lift_limits() -> None:
    for limit in (resource.RLIMIT_CPU, resource.RLIMIT_AS):
        resource.setrlimit(limit, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


def main() -> None:
    """Until nobody asks any more."""
    sys.modules["torch"] = None  # type: ignore[assignment]  # transformers' tokenizers do without, and are small then
    import transformers  # heavy: after torch was hidden

    transformers.logging.set_verbosity_error()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    reader = Reader()
    with socket.socket(fileno=int(sys.argv[1])) as connection, contextlib.suppress(ConnectionError):
        connection.setblocking(True)
        with connection.makefile("rwb") as lines:
            lines.write(b"ready\n")
            lines.flush()
            for line in lines:
                lines.write(_answer(reader, line))
                lines.flush()
                _lift_limits()


def _answer(reader: Reader, line: bytes) -> bytes:
    try:
        answer: dict[str, Any] = {"ids": reader.read(json.loads(line))}
    except RefusedError as refused:
        answer = {"refused": str(refused), "is_too_long": refused.is_too_long}
    return json.dumps(answer).encode() + b"\n"


if __name__ == "__main__":
    main()
