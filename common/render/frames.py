"""What the answers of both kinds share: constant text around what changes, SSE blocks, and the end.

Rules the SDKs need: never a block without ``data:``; ``id:`` only on blocks that show an item; an error ends the stream
and ``[DONE]`` does not follow it.
"""

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from json.encoder import encode_basestring
from typing import Any, Protocol

from common.constraints.spec import Constraint
from common.jobs import Call, Delta, Entry, Failed, Finish, Job, Logprob, Piece, Usage

DONE = b"data: [DONE]\n\n"
Logprobs = tuple[Logprob, ...]
Shaped = Callable[[Logprobs], dict[str, Any]]  # one kind's shape of them
_LINE_ENDS = str.maketrans({"\x85": "\\u0085", "\u2028": "\\u2028", "\u2029": "\\u2029"})


def quoted(text: str) -> str:
    """``text`` as JSON on one line, also for clients that take U+2028 for a line's end."""
    written = encode_basestring(text)
    return written if written.isascii() else written.translate(_LINE_ENDS)


def compact(body: Any) -> bytes:
    """JSON without spaces."""
    return json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode()


def usage_body(usage: Usage) -> dict[str, Any]:
    """OpenAI's three numbers, and how much of the prompts was found computed."""
    told: dict[str, Any] = {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
    }
    if usage.cached_tokens:
        told["prompt_tokens_details"] = {"cached_tokens": usage.cached_tokens}
    return told


def extra_fields(job: Job) -> dict[str, Any]:
    """What we tell beside the answer: the seed, and what the client wanted to find again."""
    reply = job.reply
    asked = {"service_tier": reply.service_tier, "metadata": reply.metadata, "client_metadata": reply.client_metadata}
    return {"x_seed": job.seed} | {name: value for name, value in asked.items() if value}


def verdict(constraint: Constraint | None, errors: tuple[str, ...] | None) -> dict[str, Any]:
    """How an answer was held to its schema, where that was not simply done; ``errors`` of the look at its end."""
    if constraint is None or constraint.mode == "native":
        return {}
    told: dict[str, Any] = {"mode": constraint.mode}
    if errors is not None:
        told |= {"valid": not errors, "errors": list(errors)}
    notes = [{"keyword": note.keyword, "pointer": note.pointer, "kind": note.kind} for note in constraint.notes]
    return {"x_constraint": told | {"notes": notes}}


def beside(constraint: Constraint | None, end: Delta) -> dict[str, Any]:
    """What we tell of a choice's end beside the reason that OpenAI has for it."""
    return ({"x_stop_reason": end.why} if end.why else {}) | verdict(constraint, end.errors)


def extras(job: Job) -> str:
    """The same, to stand behind another field."""
    return f",{compact(extra_fields(job)).decode()[1:-1].translate(_LINE_ENDS)}"


def shown(piece: Piece) -> str:
    """A token's text; bytes that are none as OpenAI spells them."""
    return piece if isinstance(piece, str) else "bytes:" + "".join(f"\\x{byte:02x}" for byte in piece)


def failed(end: Failed) -> bytes:
    """The frame that ends a stream in mid-way."""
    return b"data: " + json.dumps(end.body()).encode() + b"\n\n"


@dataclass(frozen=True, slots=True)
class Frames:
    """A job's answer as SSE blocks; everything but the text is written once."""

    opening: bytes  # before the first item
    head: str  # from "data: " to the choice's number
    piece: tuple[str, str, str]  # around an item's text, and behind its logprobs
    end: tuple[str, str]  # around the reason that ends a choice
    usage: tuple[str, str] | None  # around the numbers; None when not asked for
    shaped: Shaped
    beside: Callable[[Delta], dict[str, Any]]  # that reason
    called: Callable[[int, Call], dict[str, Any]] | None = None  # a choice's piece of a call; None: there are none

    def item(self, entry: Entry) -> bytes:
        """One item's frame; empty when it shows nothing."""
        delta = entry.event
        if not isinstance(delta, Delta):
            return b""
        if delta.finish:
            before, after = self.end
            held = compact(self.beside(delta)).decode().translate(_LINE_ENDS)
            more = f",{held[1:-1]}" if held != "{}" else ""
            return f'id: {entry.seq}\n{self.head}{delta.choice}{before}"{delta.finish}"{more}{after}'.encode()
        if not delta.text and not delta.logprobs and not delta.call:
            return b""
        before, between, after = self.piece
        likely = self._likely(delta.logprobs) if delta.logprobs else "null"
        said = f"{before}{quoted(delta.text)}"
        if delta.call is not None:
            said = self._call(delta.choice, delta.call)
        elif not delta.text and self.called is not None:
            said = ',"delta":{'  # scores of what is neither content nor a part of a call
        return f"id: {entry.seq}\n{self.head}{delta.choice}{said}{between}{likely}{after}".encode()

    def _call(self, choice: int, call: Call) -> str:
        if self.called is None:
            raise ValueError("a call of a tool in an answer that can have none")
        told = compact(self.called(choice, call)).decode().translate(_LINE_ENDS)
        return f',"delta":{{"tool_calls":[{told}]'

    def _likely(self, logprobs: Logprobs) -> str:
        return compact(self.shaped(logprobs)).decode().translate(_LINE_ENDS)

    def closing(self, usage: Usage) -> bytes:
        """What follows the last item of a job that ended well."""
        if self.usage is None:
            return DONE
        before, after = self.usage
        return before.encode() + compact(usage_body(usage)) + after.encode() + DONE


@dataclass(frozen=True, slots=True)
class Said:
    """All of one choice."""

    index: int
    text: str
    finish: Finish
    logprobs: Logprobs | None  # None: not asked for
    beside: dict[str, Any]  # its reason
    calls: tuple[Call, ...] = ()  # each with all of its arguments

    def likely(self, shaped: Shaped) -> dict[str, Any] | None:
        """Its logprobs in one kind's shape."""
        return None if self.logprobs is None else shaped(self.logprobs)


def gathered(job: Job, deltas: Iterable[Delta]) -> tuple[Said, ...]:
    """The choices of an answer that is complete."""
    texts: list[list[str]] = [[] for _ in range(job.choices)]
    likely: list[list[Logprob]] = [[] for _ in range(job.choices)]
    finishes: dict[int, Finish] = {}
    told: dict[int, dict[str, Any]] = {}
    calls: list[dict[int, Call]] = [{} for _ in range(job.choices)]
    for delta in deltas:
        texts[delta.choice].append(delta.text)
        likely[delta.choice] += delta.logprobs
        if (call := delta.call) is not None:
            begun = calls[delta.choice].setdefault(call.index, call)
            if begun is not call:
                longer = begun.arguments + call.arguments
                calls[delta.choice][call.index] = replace(begun, arguments=longer)
        if delta.finish:
            finishes[delta.choice], told[delta.choice] = delta.finish, beside(job.constraint, delta)
    is_asked = job.sampling.logprobs is not None
    return tuple(
        Said(
            index,
            "".join(text),
            finishes[index],
            tuple(likely[index]) if is_asked else None,
            told[index],
            tuple(calls[index].values()),
        )
        for index, text in enumerate(texts)
    )


class Shape(Protocol):
    """How one kind of answer looks; ``chat`` and ``completions`` are two."""

    def frames(self, job: Job) -> Frames:
        """For a stream."""

    def whole(self, job: Job, deltas: Iterable[Delta], usage: Usage) -> dict[str, Any]:
        """For one answer."""
