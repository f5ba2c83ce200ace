"""The nouns: a Job, and the Events its log is made of.

A log's items are JSON objects, numbered from 1:

    {"c": choice, "t": text, "i": [token ids]}        Delta
    {"c": choice, "t": "", "i": [...], "f": reason}   the Delta that ends a choice; its text stands in the item before
    {..., "l": [[token, logprob, offset, [[token, logprob], ...]], ...]}   a Delta with how likely its tokens were
    {..., "f": reason, "e": [pointers]}               and where the whole choice misses its schema, if somebody looked
    {..., "f": "length", "w": "max_time"}             and why, where ``max_tokens`` is not the cause
    {"c": choice, "t": "", "i": [...], "k": [index, name, arguments]}   a Delta of a call: its tool, or more arguments
    {..., "n": tokens}                                the last key of a Delta: what the job has generated with it
    {"done": {"usage": {...}}}                        Done, the last item
    {"failed": {"status", "type", "code", "message", "param"}}   Failed, the last item

An item with empty text carries ids whose text is held back: needed to resume, no frame on the wire. A job that echoes
begins each choice with an item of the prompt's text and no ids.
"""

import json
import re
import secrets
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any, Literal, NamedTuple

from pydantic import TypeAdapter

from common.constraints.spec import Constraint
from common.errors import ApiError
from common.reading import plain, reader
from common.toolformat import ToolPlan

Class = Literal["interactive", "normal", "batch"]
CLASSES: tuple[Class, ...] = ("interactive", "normal", "batch")
Finish = Literal["stop", "length", "tool_calls"]
Why = Literal["max_time"]
OnDisconnect = Literal["cancel", "finish"]
Kind = Literal["chat", "completion"]

_PATTERN = re.compile(r"[0-9a-f]{34}")


def new_id(partition: int = 0) -> str:
    """128 random bits and the partition, all hexadecimal; a prefix makes it public."""
    return f"{secrets.token_hex(16)}{partition:02x}"


def strip_prefix(public_id: str, prefixes: tuple[str, ...] = ("chatcmpl-", "cmpl-", "job_")) -> str | None:
    """The bare job id in ``public_id``; None when it is not one of ours."""
    for prefix in prefixes:
        bare = public_id.removeprefix(prefix)
        if bare != public_id and _PATTERN.fullmatch(bare):
            return bare
    return None


@dataclass(frozen=True, slots=True)
class Sampling:
    """How tokens are drawn; temperature 0 is greedy, top_k 0 and min_p 0 are off."""

    max_tokens: int
    temperature: float = 0.3
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    stop: tuple[str, ...] = ()
    presence: float = 0.0  # penalty of tokens that were generated at all
    frequency: float = 0.0  # penalty for each time they were
    repetition: float = 1.0  # divides what speaks for the tokens of prompt and answer
    bias: tuple[tuple[int, float], ...] = ()  # token ids, and what is added to their logits
    min_tokens: int = 0  # before them nothing ends the answer but stop strings
    stop_ids: tuple[int, ...] = ()  # tokens that end the answer and are not shown
    logprobs: int | None = None  # tell how likely each token was, and so many of the likeliest in its place


@dataclass(frozen=True, slots=True)
class Echo:
    """A prompt as its client wrote it, to stand before the answer."""

    text: str
    offsets: tuple[int, ...] | None = None  # where each token begins in it, -1 for those the tokenizer added


@dataclass(frozen=True, slots=True)
class Reply:
    """What the answer must look like: nothing a worker needs, all a renderer needs."""

    kind: Kind
    stream: bool = False
    include_usage: bool = False
    metadata: dict[str, str] = field(default_factory=dict)
    client_metadata: str = ""
    service_tier: str | None = None  # as it was served; None: not asked for


@dataclass(frozen=True)
class Job:
    """What a worker must do, and how its answer is told; no HTTP in it."""

    id: str  # <32 hex><2 hex partition>
    model: str
    prompts: tuple[tuple[int, ...], ...]  # token ids; choice = prompt * n + k
    sampling: Sampling
    reply: Reply
    owner: str  # 128-bit hash: who may read it
    share: str  # 128-bit hash: whose turn it is
    seed: int  # 64 bits, signed; never 0
    created: int  # Unix seconds
    cls: Class = "interactive"
    priority: bool = False  # to the head of its owner's list
    weight: float = 1.0  # of its share among others
    n: int = 1
    echo: tuple[Echo, ...] = ()  # one for each prompt, or none at all
    constraint: Constraint | None = None  # what every choice must be
    tools: ToolPlan | None = None  # which calls a choice may hold, and how to read them
    keep_s: int = 3600  # how long record and log outlive the end
    end_s: int = 3600  # the latest end, counted from SUBMIT
    max_wait_s: float | None = None  # refused when it cannot start before
    max_time_s: float | None = None  # generation ends with "length" after it
    on_disconnect: OnDisconnect = "cancel"
    grace_s: float = 0.5
    parent: str = ""  # the batch whose row it is
    custom_id: str = ""  # what the row is called there

    @property
    def choices(self) -> int:
        """How many sequences it is."""
        return len(self.prompts) * self.n

    @property
    def prompt_tokens(self) -> int:
        """All prompts together."""
        return sum(map(len, self.prompts))

    @cached_property
    def cost(self) -> int:
        """The most tokens it can use: what CLAIM charges."""
        return self.prompt_tokens + self.choices * self.sampling.max_tokens

    def encode(self) -> str:
        """As the ledger keeps it."""
        return _JOB.dump_json(self).decode()

    @classmethod
    def decode(cls, raw: str | bytes) -> "Job":
        """As the ledger kept it."""
        return _read_job(raw)


_JOB = TypeAdapter(Job)
_read_job = reader(_JOB)


@dataclass(frozen=True, slots=True)
class Usage:
    """Counted tokens: prompts once each, and every generated token."""

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0  # of the prompts: found computed


Piece = str | tuple[int, ...]  # a token's text, or its bytes where they are none


@dataclass(frozen=True, slots=True)
class Logprob:
    """How likely a token was before anything was changed or cut, and the likeliest of its place."""

    token: Piece
    value: float | None  # natural logarithm; None: the first token of a prompt, which nothing foretold
    offset: int  # characters of the choice's text before it
    top: tuple[tuple[Piece, float], ...] = ()  # falling

    @classmethod
    def of(cls, raw: list[Any]) -> "Logprob":
        """As an item holds it."""
        token, value, offset, top = raw
        return cls(_piece(token), value, offset, tuple((_piece(one), likely) for one, likely in top))


def _piece(raw: str | list[int]) -> Piece:
    return raw if isinstance(raw, str) else tuple(raw)


@dataclass(frozen=True, slots=True)
class Call:
    """A piece of a call: the name of its tool, or more of its arguments."""

    index: int
    name: str = ""
    arguments: str = ""


class Delta(NamedTuple):  # each token of each stream is one: a frozen dataclass takes three times as long
    """New text of one choice and the token ids behind it; ``finish`` ends the choice."""

    text: str
    tokens: tuple[int, ...]
    choice: int = 0
    finish: Finish | None = None
    logprobs: tuple[Logprob, ...] = ()  # of the tokens whose text this is
    errors: tuple[str, ...] | None = None  # where a choice that ends misses its schema; None: nobody looked
    call: Call | None = None  # in place of text
    why: Why | None = None  # beside ``finish``

    def encode(self) -> str:
        """One item."""
        text = json.dumps(self.text, ensure_ascii=False)
        ids = ",".join(map(str, self.tokens))
        finish = f',"f":"{self.finish}"' if self.finish else ""
        likely = f',"l":{_listed(self.logprobs)}' if self.logprobs else ""
        errors = "" if self.errors is None else f',"e":{json.dumps(self.errors, separators=(",", ":"))}'
        call = "" if self.call is None else f',"k":{_called(self.call)}'
        why = f',"w":"{self.why}"' if self.why else ""
        return f'{{"c":{self.choice},"t":{text},"i":[{ids}]{finish}{likely}{errors}{call}{why}}}'


def counted(item: str, tokens: int) -> str:
    """A Delta's item that says how many tokens the job has with it: who has only the log knows it too."""
    return f'{item[:-1]},"n":{tokens}}}'


def _called(call: Call) -> str:
    return json.dumps((call.index, call.name, call.arguments), ensure_ascii=False, separators=(",", ":"))


def _listed(logprobs: tuple[Logprob, ...]) -> str:
    rows = [(one.token, one.value, one.offset, one.top) for one in logprobs]
    return json.dumps(rows, ensure_ascii=False, separators=(",", ":"))


@dataclass(frozen=True, slots=True)
class Done:
    """The job's good end."""

    usage: Usage

    def encode(self) -> str:
        """The last item."""
        return json.dumps({"done": {"usage": asdict(self.usage)}}, separators=(",", ":"))


@dataclass(frozen=True, slots=True)
class Failed:
    """The job's other end, as the caller will read it."""

    status: int
    type: str
    code: str | None
    message: str
    param: str | None = None

    @classmethod
    def of(cls, error: ApiError) -> "Failed":
        """An error, as a log keeps it."""
        return cls(error.status, error.type, error.actual_code, error.message, error.param)

    def encode(self) -> str:
        """The last item."""
        failed = {
            "status": self.status,
            "type": self.type,
            "code": self.code,
            "message": self.message,
            "param": self.param,
        }
        return json.dumps({"failed": failed}, separators=(",", ":"), ensure_ascii=False)

    def body(self) -> dict[str, Any]:
        """OpenAI's shape of an error."""
        return {"error": {"message": self.message, "type": self.type, "param": self.param, "code": self.code}}


Event = Delta | Done | Failed


class Entry(NamedTuple):
    """An event with its number in the log (from 1)."""

    seq: int
    event: Event


def decode_event(item: str | bytes) -> Event:
    """An item of the log."""
    raw = plain(item)  # six times as quick as json's: every token of every stream passes here
    if "done" in raw:
        return Done(Usage(**raw["done"]["usage"]))
    if "failed" in raw:
        return Failed(**raw["failed"])
    logprobs = tuple(map(Logprob.of, raw["l"])) if "l" in raw else ()
    errors = tuple(raw["e"]) if "e" in raw else None
    call = Call(*raw["k"]) if "k" in raw else None
    return Delta(raw["t"], tuple(raw["i"]), raw["c"], raw.get("f"), logprobs, errors, call, raw.get("w"))
