"""POST /v1/chat/completions: a conversation."""

from typing import Annotated

from pydantic import Field

from common.errors import InvalidRequestError
from common.protocol.base import Int
from common.protocol.generation import Ask, Generation
from common.protocol.h2ogpt import Turn
from common.protocol.messages import Message
from common.protocol.tools import WithTools, check_results


class ChatRequest(WithTools, Generation):
    """A conversation to be continued."""

    kind = "chat"
    asked = "messages"

    messages: Annotated[tuple[Message, ...], Field(min_length=1, max_length=4096, strict=False, fail_fast=True)]
    logprobs: bool = False
    top_logprobs: Annotated[Int, Field(ge=0, le=20)] = 0
    store: bool = False  # kept for 30 days, and finished even when nobody waits
    add_generation_prompt: bool | None = None  # the template begins the assistant's turn
    continue_final_message: bool = False  # the last turn is the beginning of the answer

    def check(self) -> None:
        """Fields that need each other."""
        if self.top_logprobs and not self.logprobs:
            raise InvalidRequestError("top_logprobs: it goes with logprobs: true.", param="top_logprobs")
        last = self.messages[-1]
        if self.continue_final_message and (last.role != "assistant" or not last.text or last.tool_calls):
            raise InvalidRequestError(
                "continue_final_message: the last message is no text of the assistant.", param="continue_final_message"
            )
        if self.continue_final_message and (self.wanted() or self.tools):
            raise InvalidRequestError(
                "continue_final_message: a constraint holds for whole answers.", param="continue_final_message"
            )
        if self.continue_final_message and self.add_generation_prompt:
            raise InvalidRequestError(
                "add_generation_prompt: the last message is to be continued, no other begins.",
                param="add_generation_prompt",
            )
        check_results(self.messages)
        self._check_tools()

    def _check_tools(self) -> None:
        """What they cannot stand beside."""
        mode, wanted = self.calls, self.wanted()
        if mode != "none" and wanted is not None and wanted.kind != "json":
            raise InvalidRequestError(f"{wanted.field}: beside tools only JSON can be asked for.", param=wanted.field)
        if self.tools and self.prompt_type == "plain":
            raise InvalidRequestError("tools: a prompt of type plain has no place for them.", param="tools")

    def left_out(self) -> tuple[str, ...]:
        """Of all messages, and what they leave without effect."""
        inside = (f"messages.{name}" for message in self.messages for name in message.unknown())
        return (
            *super().left_out(),
            *self.unused(self._turns()),
            *dict.fromkeys((*inside, *self.unknown_of_tools())),
        )

    @property
    def is_stored(self) -> bool:
        """As OpenAI's field says."""
        return self.store

    @property
    def likeliest(self) -> int | None:
        """As OpenAI's two fields say."""
        return self.top_logprobs if self.logprobs else None

    def asks(self) -> tuple[Ask, ...]:
        """One conversation, or its bare text."""
        turns = self.around(self._turns())
        if self.prompt_type == "plain":
            return (Ask(text="\n".join(str(turn["content"]) for turn in turns), budget=self.budget),)
        goes_on = self.continue_final_message
        opens = self.add_generation_prompt if self.add_generation_prompt is not None else not goes_on
        return (Ask(turns=turns, opens=opens, goes_on=goes_on, budget=self.budget),)

    def _turns(self) -> list[Turn]:
        return [message.plain() for message in self.messages]
