"""What chat and text completions ask alike, and how it becomes a Job."""

import secrets
import time
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationInfo, field_validator

from common.errors import ContextLengthError, InvalidRequestError
from common.identity import Absent, Principal
from common.jobs import Class, Echo, Job, Kind, OnDisconnect, Reply, Sampling, new_id
from common.protocol.base import Int, Label
from common.protocol.h2ogpt import PlainChat, Turn

MAX_TOKENS = 256  # the reference's default; shrinks to the room that the context leaves
_MOST_CHOICES = 128  # of all prompts together
_MOST_SCORED = 2**29  # tokens of a prompt that is told with its logprobs, times the vocabulary: 2 GiB of float32
_HOUR_S, _DAY_S, _STORED_S = 3600, 86_400, 30 * 86_400
_GRACE_S, _RETRY_GRACE_S = 0.5, 15.0  # before the job of a client that has gone is cancelled
_CLASS: dict[str, Class] = {
    "auto": "interactive",
    "default": "interactive",
    "priority": "interactive",
    "flex": "normal",
}


def _one_or_many(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


def _place(value: Any) -> Any:
    """A model's place in the list is as good as its name."""
    return str(value) if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else value


def _few(most: int) -> BeforeValidator:
    """Before each pair is looked at: there may be many, and each bad one costs."""

    def check(value: Any) -> Any:
        if isinstance(value, dict) and len(value) > most:
            raise ValueError(f"there should be at most {most} pairs")
        return value

    return BeforeValidator(check)


Stop = Annotated[str, Field(min_length=1, max_length=256)]
Stops = Annotated[
    tuple[Stop, ...],
    Field(max_length=16, strict=False, fail_fast=True),
    BeforeValidator(_one_or_many, json_schema_input_type=Stop | list[Stop]),
]
TokenIds = Annotated[tuple[Annotated[Int, Field(ge=0)], ...], Field(max_length=64, strict=False, fail_fast=True)]
Bias = dict[Annotated[str, Field(pattern=r"^\d{1,9}$")], Annotated[float, Field(ge=-100, le=100)]]
Pairs = dict[Annotated[str, Field(max_length=64)], Annotated[str, Field(max_length=512)]]


@dataclass(frozen=True, slots=True)
class Headers:
    """What the door wants to know of HTTP."""

    read_timeout_s: float | None = None  # how long the SDK waits for an answer
    deadline_ms: float | None = None
    sdk: bool = False  # it will ask again by itself
    idempotency: bool = False


class StreamOptions(BaseModel):
    """How a stream is told."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", hide_input_in_errors=True)

    include_usage: bool | None = None
    include_obfuscation: Literal[False] | None = None


class Generation(PlainChat):
    """A request for new tokens."""

    kind: ClassVar[Kind]
    asked: ClassVar[str]  # the field that holds the prompt

    model: Annotated[str, Field(max_length=256), BeforeValidator(_place, json_schema_input_type=str | int)] = ""
    max_tokens: Annotated[Int, Field(ge=1)] | None = None
    max_completion_tokens: Annotated[Int, Field(ge=1)] | None = None
    stream: bool = False
    stream_options: StreamOptions | None = None
    n: Annotated[Int, Field(ge=1, le=16)] = 1
    best_of: Annotated[Int, Field(ge=1)] | None = None  # ignored unless it is n
    temperature: Annotated[float, Field(ge=0, le=2)] = 0.3
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    top_k: Annotated[Int, Field(ge=0, lt=2**31)] = 0
    min_p: Annotated[float, Field(ge=0, le=1)] = 0.0
    do_sample: bool = False  # false: the temperature decides
    seed: Annotated[Int, Field(ge=-(2**63), lt=2**63)] = 0
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] = 0.0
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] = 0.0
    repetition_penalty: Annotated[float, Field(ge=0.01, le=10)] = 1.0
    logit_bias: Annotated[Bias, _few(1024)] = Field(default_factory=dict)
    stop: Stops = ()
    stop_token_ids: TokenIds = ()
    min_tokens: Annotated[Int, Field(ge=0)] = 0
    min_new_tokens: Annotated[Int, Field(ge=0)] = 0
    max_time: Annotated[float, Field(gt=0, le=_DAY_S)] | None = None
    service_tier: Literal["auto", "default", "flex", "priority"] | None = None
    on_disconnect: OnDisconnect | None = None
    metadata: Annotated[Pairs, _few(16)] = Field(default_factory=dict)
    user: Label | None = None
    safety_identifier: Label | None = None
    h2ogpt_key: Label | None = None  # the gate has read it

    @field_validator("max_completion_tokens")
    @classmethod
    def _agrees(cls, most: int | None, told: ValidationInfo) -> int | None:
        if most is not None and told.data.get("max_tokens") not in {None, most}:
            raise ValueError("it differs from max_tokens")
        return most

    @field_validator("do_sample")
    @classmethod
    def _has_a_temperature(cls, is_forced: bool, told: ValidationInfo) -> bool:  # noqa: FBT001  pydantic's way
        if is_forced and told.data.get("temperature") == 0:
            raise ValueError("it needs a temperature above 0")
        return is_forced

    @field_validator("stream_options")
    @classmethod
    def _has_a_stream(cls, options: StreamOptions | None, told: ValidationInfo) -> StreamOptions | None:
        if options is not None and not told.data.get("stream"):
            raise ValueError("it goes with stream: true")
        return options

    @property
    def cls(self) -> Class:
        """With whom it waits."""
        return _CLASS[self.service_tier or "default"]

    @property
    def label(self) -> str | None:
        """Whose turn it is; what follows a colon is a password, and was never here."""
        name = self.user if self.user is not None else self.safety_identifier
        return None if name is None else name.partition(":")[0]

    @abstractmethod
    def asks(self) -> tuple["Ask", ...]:
        """What the admission child is to read."""

    def asked_tools(self) -> dict[str, Any] | None:
        """What an answer may call."""
        return None

    @property
    def is_stored(self) -> bool:
        """Kept for longer, and made even when nobody waits for it."""
        return False

    @property
    @abstractmethod
    def likeliest(self) -> int | None:
        """How many of the likeliest tokens to tell in each place; None: no logprobs."""

    def left_out(self) -> tuple[str, ...]:
        """A field that would need samples that nobody sees."""
        return ("best_of",) if self.best_of not in {None, self.n} else ()

    def job(self, who: Principal | Absent, model: str, prompts: Sequence["Read"], room: "Room") -> Job:
        """Leave HTTP behind. Raises InvalidRequestError and ContextLengthError."""
        headers = room.headers
        has_day = headers.idempotency or self.service_tier == "flex"
        sizes = [len(prompt.ids) for prompt in prompts]
        self._check_size(prompts, room.vocabulary)
        tier = self.service_tier or "default"
        return Job(
            id=new_id(room.partition),
            model=model,
            prompts=tuple(prompt.ids for prompt in prompts),
            sampling=self._sampling(self._most(max(sizes), min(sizes), room.context), room.vocabulary),
            reply=self._reply(),
            owner=who.owner,
            share=who.share(self.label),
            seed=self.seed or secrets.randbits(63) or 1,
            created=int(time.time()),
            cls=self.cls,
            priority=tier == "priority",
            weight=who.weight,
            n=self.n,
            echo=tuple(prompt.echo for prompt in prompts if prompt.echo is not None),
            keep_s=_STORED_S if self.is_stored else _DAY_S if headers.idempotency else _HOUR_S,
            end_s=_DAY_S if has_day else _HOUR_S,
            max_wait_s=self._patience_s(headers),
            max_time_s=self.max_time,
            on_disconnect=self.on_disconnect or ("finish" if self.is_stored else "cancel"),
            grace_s=_RETRY_GRACE_S if not self.stream and (headers.sdk or headers.idempotency) else _GRACE_S,
        )

    def _check_size(self, prompts: Sequence["Read"], vocabulary: int) -> None:
        if len(prompts) * self.n > _MOST_CHOICES:
            raise InvalidRequestError(
                f"n: {len(prompts)} prompts of {self.n} choices are more than {_MOST_CHOICES}.", param="n"
            )
        for prompt in prompts:
            if prompt.echo and prompt.echo.offsets and len(prompt.ids) * vocabulary > _MOST_SCORED:
                most = _MOST_SCORED // vocabulary
                raise InvalidRequestError(
                    f"echo: with logprobs, a prompt may have {most} tokens of this model.", param="echo"
                )

    def _reply(self) -> Reply:
        tier = "default" if self.service_tier == "auto" else self.service_tier
        return Reply(self.kind, self.stream, self._wants_usage(), self.metadata, self.client_metadata, tier)

    def _sampling(self, most: int, vocabulary: int) -> Sampling:
        bias = {int(token): value for token, value in self.logit_bias.items()}
        for name, ids in (("logit_bias", bias), ("stop_token_ids", self.stop_token_ids)):
            if strange := [token for token in ids if token >= vocabulary]:
                raise InvalidRequestError(
                    f"{name}: {strange[0]} is no token; the model has {vocabulary} of them.", param=name
                )
        least = max(self.min_tokens, self.min_new_tokens)
        if least > most:
            name = "min_tokens" if self.min_tokens == least else "min_new_tokens"
            raise InvalidRequestError(f"{name}: {least} is more than the {most} tokens it may have.", param=name)
        return Sampling(
            max_tokens=most,
            temperature=self.temperature,
            top_p=self.top_p,
            top_k=self.top_k,
            min_p=self.min_p,
            stop=self.stop,
            presence=self.presence_penalty,
            frequency=self.frequency_penalty,
            repetition=self.repetition_penalty,
            bias=tuple(bias.items()),
            min_tokens=least,
            stop_ids=self.stop_token_ids,
            logprobs=self.likeliest,
        )

    def _most(self, longest: int, shortest: int, context: int) -> int:
        """How many tokens an answer may have; of a default, what the context leaves to each prompt."""
        left = context - longest
        if left < 1:
            raise ContextLengthError(
                f"The model's context is {context} tokens, and the prompt has {longest}.", param=self.asked
            )
        name = "max_completion_tokens" if self.max_tokens is None else "max_tokens"
        most: int | None = getattr(self, name)
        if most is not None and most > left:
            raise ContextLengthError(
                f"The model's context is {context} tokens: the prompt has {longest}, and {name} asks for {most} more.",
                param=name,
            )
        return min(MAX_TOKENS, context - shortest) if most is None else most

    def _wants_usage(self) -> bool:
        return self.stream_options is not None and bool(self.stream_options.include_usage)

    def _patience_s(self, headers: Headers) -> float | None:
        """The shortest of the times for which somebody waits; a stream's client hears comments meanwhile."""
        times = [
            self.max_time,
            None if self.stream else headers.read_timeout_s,
            None if headers.deadline_ms is None else headers.deadline_ms / 1000,
        ]
        return min((told for told in times if told is not None), default=None)


@dataclass(frozen=True, slots=True)
class Ask:
    """One prompt, as its client sent it: turns for the chat template, or a text, or tokens."""

    turns: list[Turn] | None = None
    text: str | None = None
    ids: tuple[int, ...] | None = None
    opens: bool = True  # the template begins the assistant's turn; False: the last turn stays open, or nothing follows
    goes_on: bool = False  # the last turn, the assistant's, is to be continued
    echo: str | None = None  # what stands before the answer; of tokens, their text
    has_offsets: bool = False  # and where each token begins in it
    budget: int | None = None  # tokens; history is left out until it fits


@dataclass(frozen=True, slots=True)
class Read:
    """The same as the model's tokens."""

    ids: tuple[int, ...]
    echo: Echo | None = None


@dataclass(frozen=True, slots=True)
class Room:
    """What a request finds when it comes in."""

    context: int  # tokens, prompt and answer together
    vocabulary: int
    partition: int  # of the ledger
    headers: Headers
