"""POST /v1/completions: texts to be continued."""

from typing import Annotated, Any

from pydantic import BeforeValidator, Discriminator, Field, Tag

from common.errors import InvalidRequestError
from common.protocol.base import Int
from common.protocol.generation import Ask, Generation

Tokens = Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=1, strict=False, fail_fast=True)]


def _listed(value: Any) -> Any:
    """One string and one list of tokens are lists of one prompt."""
    if isinstance(value, str) or (isinstance(value, list) and value and isinstance(value[0], int | float)):
        return [value]
    if not isinstance(value, list):
        raise ValueError("it should be a string, a list of strings, a list of tokens, or a list of such")  # noqa: TRY004  pydantic's way
    return value


def _shape(value: Any) -> str:
    return "<tokens>" if isinstance(value, list | tuple) else "<text>"


Prompt = Annotated[Annotated[str, Tag("<text>")] | Annotated[Tokens, Tag("<tokens>")], Discriminator(_shape)]
Prompts = Annotated[tuple[Prompt, ...], Field(min_length=1, max_length=128, strict=False, fail_fast=True)]


_As = str | list[int] | list[str] | list[list[int]]


class CompletionRequest(Generation):
    """Texts to be continued, without a chat template unless one is asked for."""

    kind = "completion"
    asked = "prompt"

    prompt: Annotated[
        Prompts, BeforeValidator(_listed, json_schema_input_type=str | list[int] | list[str] | list[list[int]])
    ]
    max_tokens: Annotated[Int, Field(ge=0)] | None = None  # 0 goes with echo
    echo: bool = False
    logprobs: Annotated[Int, Field(ge=0, le=5)] | None = None

    def check(self) -> None:
        """Fields that need each other."""
        if self.max_tokens == 0 and not self.echo:
            raise InvalidRequestError("max_tokens: it should be at least 1 without echo.", param="max_tokens")
        if self._has_template and not all(isinstance(prompt, str) for prompt in self.prompt):
            raise InvalidRequestError("prompt_type: tokens are no text for a chat template.", param="prompt_type")

        if self._has_template and self.echo and self.logprobs is not None:
            raise InvalidRequestError("echo: a prompt in a chat template has no logprobs of its own.", param="echo")

    @property
    def _has_template(self) -> bool:
        return self.prompt_type == "template"

    @property
    def likeliest(self) -> int | None:
        """As OpenAI's field says."""
        return self.logprobs

    def left_out(self) -> tuple[str, ...]:
        """Fields of a conversation, where there is none."""
        return (*super().left_out(), *self.unused([] if self._has_template else None))

    def asks(self) -> tuple[Ask, ...]:
        """One for each prompt."""
        return tuple(map(self._ask, self.prompt))

    def _ask(self, prompt: str | tuple[int, ...]) -> Ask:
        if isinstance(prompt, tuple):
            return Ask(ids=prompt, echo="" if self.echo else None, has_offsets=self._has_offsets, budget=self.budget)
        if self._has_template:
            turns = self.around([{"role": "user", "content": prompt}])
            return Ask(turns=turns, echo=prompt if self.echo else None, budget=self.budget)
        return Ask(text=prompt, echo=prompt if self.echo else None, has_offsets=self._has_offsets, budget=self.budget)

    @property
    def _has_offsets(self) -> bool:
        return self.echo and self.logprobs is not None
