"""The disposable child: chat template, tokens, their number. ``python -m common.door.child DESCRIPTOR``.

Everything that a client's text could break runs here, within limits of time and memory; whoever breaks them kills this
process and nothing else. A line of JSON in, a line of JSON out, over an inherited socket; its end ends us.
"""

import bisect
import contextlib
import itertools
import json
import resource
import signal
import socket
import sys
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from tokenizers.decoders import DecodeStream

from common.constraints.build import built
from common.constraints.check import check
from common.constraints.spec import Constraint, RefusedConstraintError, Wanted
from common.door.control import NOTHING, Controls
from common.door.template import RefusedError, Template, Turn
from common.door.tools import check_each, for_template, planned, words_of
from common.door.words import remember_few
from common.processes import settle
from common.toolformat import ToolFormat, ToolPlan, is_marker

CPU_S = 2  # of one request
MEMORY = 512 * 2**20  # beside what we had before it
STACK = 4 * 2**20  # half of what a worker's thread has: what passes here does not end there
_KEPT = 8  # tokenizers
_PAGE = resource.getpagesize()
_PAGES = Path("/proc/self/statm")  # made once: pathlib interns the parts of each path, and their table grows with it


class Reader:
    """The tokenizers of the models that were asked for lately."""

    def __init__(self) -> None:
        self._known: OrderedDict[tuple[str, str | None], _Tokenizer] = OrderedDict()

    def read(self, question: dict[str, Any]) -> dict[str, Any]:
        """What an answer may be; or each prompt's ids, and what of it is to be echoed. Raises RefusedError."""
        tokenizer = self._tokenizer(question["folder"], question["form"])
        _limit()
        if question["prompts"] is None:
            wanted = question["wanted"] and Wanted(**question["wanted"])
            constraint, plan = tokenizer.constraint(wanted, question["tools"])
            return {"constraint": constraint and constraint.encode(), "plan": plan and plan.encode()}
        form = question["as"] and ToolFormat.decode(question["as"])
        shown = (tokenizer.shown(prompt, question["hint"], question["tools"], form) for prompt in question["prompts"])
        return {"prompts": [tokenizer.read(prompt, question["most"], question["vocabulary"]) for prompt in shown]}

    def _tokenizer(self, folder: str, form: str | None) -> "_Tokenizer":
        """Loading is the model's doing, so no limits hold meanwhile; one folder may serve models of several formats."""
        key = folder, form
        if key not in self._known:
            self._known[key] = _Tokenizer(_load(Path(folder)), ToolFormat.decode(form) if form else None)
            if len(self._known) > _KEPT:
                self._known.popitem(last=False)
        self._known.move_to_end(key)
        return self._known[key]


class _Tokenizer:
    """One model's."""

    def __init__(self, tokenizer: Any, form: ToolFormat | None) -> None:
        self._tokenizer, self._form = tokenizer, form
        self._template = Template(tokenizer, form)
        self._longest = max(map(len, tokenizer.get_vocab()))

    @cached_property
    def _controls(self) -> Controls:
        """Its control tokens; who only completes texts does without."""
        template = self._tokenizer.chat_template or ""
        said = template if isinstance(template, str) else "\n".join(template.values())
        return Controls(self._tokenizer.backend_tokenizer, self._ids, said, self._template.turns(NOTHING))

    def _ids(self, text: str) -> list[int]:
        """Of any text, with the control tokens that it spells."""
        ids: list[int] = self._tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids

    @cached_property
    def _markers(self) -> dict[int, str]:
        """What a grammar may name."""
        added = self._tokenizer.backend_tokenizer.get_added_tokens_decoder()
        return {at: token.content for at, token in added.items() if is_marker(token)}

    def constraint(
        self, wanted: Wanted | None, asked: dict[str, Any] | None
    ) -> tuple[Constraint | None, ToolPlan | None]:
        """As the engine takes it; tried, because nothing else tells whether it does. Raises RefusedError."""
        constraint, plan = None, None
        try:
            if asked is not None and self._form is not None:
                constraint, plan = planned(asked, self._form, wanted)
            elif wanted is not None:
                constraint = built(wanted)
            if constraint is not None:
                self._check(constraint, asked)
        except RefusedConstraintError as refused:
            is_tools = wanted is None or (constraint is not None and constraint.kind == "tools")
            field, kind = ("tools", "tools") if wanted is None or is_tools else (wanted.field, wanted.kind)
            place = f" (at {refused.pointer})" if refused.pointer and refused.pointer not in refused.message else ""
            told = refused.message.removeprefix(f"{kind}: ")
            raise RefusedError(f"{field}: {told}{place}", param=field) from None
        return constraint, plan

    def _check(self, constraint: Constraint, asked: dict[str, Any] | None) -> None:
        """Raises RefusedConstraintError, and RefusedError where a single tool is the reason."""
        try:
            check(constraint, self._markers)
        except RefusedConstraintError:
            if constraint.kind == "tools" and asked is not None:
                check_each(asked["tools"])
            raise

    def shown(
        self, prompt: dict[str, Any], hint: str | None, tools: list[dict[str, Any]] | None, form: ToolFormat | None
    ) -> dict[str, Any]:
        """With what the model is told of the tools it may call and of what its answer must be."""
        if prompt["turns"] is None:
            return prompt
        told: dict[str, Any] = {"tools": None, "as_own": False}
        words = [hint] if hint else []
        if tools is not None and form is not None:
            told = {"tools": for_template(tools) if form.shows_tools else None, "as_own": form.family == "own"}
            words = [*words_of(tools, form), *words]
        return prompt | told | {"turns": _with_words(prompt["turns"], words)}

    def read(self, prompt: dict[str, Any], most: int, vocabulary: int) -> dict[str, Any]:
        """One prompt of a model with so large a context and vocabulary."""
        told: dict[str, Any] = {"echo": prompt["echo"], "offsets": None}
        if prompt["ids"] is not None:
            told |= self._tokens(prompt, vocabulary)
        elif prompt["turns"] is not None:
            told["ids"] = self._conversation(prompt, most)
        else:
            told |= self._text(prompt, most)
        if not told["ids"]:
            raise RefusedError("The prompt is empty.")
        return told

    def _tokens(self, prompt: dict[str, Any], vocabulary: int) -> dict[str, Any]:
        ids = prompt["ids"]
        if (highest := max(ids)) >= vocabulary:
            raise RefusedError(f"prompt: {highest} is no token; the model has {vocabulary} of them.")
        if prompt["echo"] is None:
            return {"ids": ids}
        stream = DecodeStream(skip_special_tokens=False)
        pieces = [stream.step(self._tokenizer.backend_tokenizer, one) or "" for one in ids]
        offsets = [0, *itertools.accumulate(map(len, pieces[:-1]))] if prompt["has_offsets"] else None
        return {"ids": ids, "echo": "".join(pieces), "offsets": offsets}

    def _text(self, prompt: dict[str, Any], most: int) -> dict[str, Any]:
        self._refuse_long(prompt["text"], most)
        read = self._tokenizer(
            prompt["text"],
            return_offsets_mapping=prompt["has_offsets"],
            return_special_tokens_mask=prompt["has_offsets"],
        )
        ids = read["input_ids"]
        if prompt["budget"] is not None and len(ids) > prompt["budget"]:
            raise _over_budget(len(ids))
        if not prompt["has_offsets"]:
            return {"ids": ids}
        places = zip(read["offset_mapping"], read["special_tokens_mask"], strict=True)
        return {"ids": ids, "offsets": [-1 if is_added else start for (start, _), is_added in places]}

    def _conversation(self, prompt: dict[str, Any], most: int) -> list[int]:
        """As much of it as the budget allows; the oldest turns go first, the system's and the last question stay."""
        turns, budget = prompt["turns"], prompt["budget"]
        if budget is None:
            return self._encoded(prompt, turns, most)
        shorter = _shortened(turns)
        fits = bisect.bisect_left(shorter, x=True, key=lambda some: self._fits(prompt, some, budget))
        ids = self._encoded(prompt, shorter[min(fits, len(shorter) - 1)], most)
        if len(ids) > budget:
            raise _over_budget(len(ids))
        return ids

    def _fits(self, prompt: dict[str, Any], turns: list[Turn], budget: int) -> bool:
        try:
            return len(self._encoded(prompt, turns, budget)) <= budget
        except RefusedError as refused:
            if refused.is_too_long:
                return False
            raise

    def _encoded(self, prompt: dict[str, Any], turns: list[Turn], most: int) -> list[int]:
        def write(said: dict[str, Any]) -> str:
            return self._template.text(
                said["turns"],
                opens=prompt["opens"],
                goes_on=prompt["goes_on"],
                tools=said["tools"],
                as_own=prompt["as_own"],
            )

        said = {"turns": turns, "tools": prompt["tools"]}
        text = write(said)
        self._refuse_long(text, most)
        return self._controls.read(text, said, write, _unlimited)

    def _refuse_long(self, text: str, most: int) -> None:
        """What is not worth counting."""
        if len(text) > self._longest * most:
            raise RefusedError(f"The model's context is {most} tokens, and the prompt has more.", is_too_long=True)


def _with_words(turns: list[Turn], words: Sequence[str]) -> list[Turn]:
    """Ours stand in the system's turn."""
    if not words:
        return turns
    first, *rest = turns
    if first["role"] == "system" and isinstance(first["content"], str):
        return [first | {"content": "\n\n".join((first["content"], *words))}, *rest]
    return [{"role": "system", "content": "\n\n".join(words)}, *turns]


def _shortened(turns: list[Turn]) -> list[list[Turn]]:
    """The conversation, and what is left of it when its oldest questions go, one after the other."""
    head = next((at for at, turn in enumerate(turns) if turn["role"] != "system"), len(turns))
    starts = [at for at, turn in enumerate(turns) if at > head and turn["role"] == "user"]
    return [turns, *(turns[:head] + turns[at:] for at in starts)]


def _over_budget(count: int) -> RefusedError:
    return RefusedError(
        f"max_input_tokens: what cannot be left out of the prompt has {count} tokens.",
        param="max_input_tokens",
        is_too_long=True,
    )


def _load(folder: Path) -> Any:
    from transformers import AutoTokenizer  # heavy: after torch was hidden

    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    remember_few(tokenizer.backend_tokenizer)
    return tokenizer


def _limit() -> None:
    """From now on so much of both; the kernel ends us in the middle of whatever it is."""
    pages = int(_PAGES.read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * _PAGE + MEMORY, resource.RLIM_INFINITY))
    signal.setitimer(signal.ITIMER_PROF, CPU_S)  # SIGPROF ends us; RLIMIT_CPU counts in whole seconds


def _lift_limits() -> None:
    signal.setitimer(signal.ITIMER_PROF, 0)
    resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


@contextlib.contextmanager
def _unlimited() -> Iterator[None]:
    """For what is the model's doing, in the middle of a request, which then has its time again."""
    _lift_limits()
    yield
    _limit()


def main() -> None:
    """Until nobody asks any more."""
    sys.modules["torch"] = None  # type: ignore[assignment]  # transformers' tokenizers do without, and are small then
    import transformers  # heavy: after torch was hidden

    transformers.logging.set_verbosity_error()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_STACK, (STACK, resource.getrlimit(resource.RLIMIT_STACK)[1]))
    reader = Reader()
    settle()
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
        answer = reader.read(json.loads(line))
    except RefusedError as refused:
        answer = {
            "refused": str(refused),
            "param": refused.param,
            "code": refused.code,
            "is_too_long": refused.is_too_long,
        }
    return json.dumps(answer).encode() + b"\n"


if __name__ == "__main__":
    main()
