"""The current SDK's fields: none of them is unknown to us."""

import pytest
from openai.types import completion_create_params as text_params
from openai.types.chat import completion_create_params as chat_params

from common.protocol.chat import ChatRequest
from common.protocol.completions import CompletionRequest
from common.protocol.fields import LATER, NEVER
from common.protocol.generation import Generation

HINTS = {"prompt_cache_key", "prompt_cache_options", "prompt_cache_retention"}  # they change no answer: ignored, named


@pytest.mark.parametrize(
    ("params", "request_model"),
    [
        (chat_params.CompletionCreateParamsStreaming, ChatRequest),
        (text_params.CompletionCreateParamsStreaming, CompletionRequest),
    ],
)
def test_every_field_of_the_sdk_is_honoured_refused_or_a_hint(params: type, request_model: type[Generation]) -> None:
    fields = {name for base in (params, *params.__orig_bases__) for name in base.__annotations__}  # type: ignore[attr-defined]

    assert len(fields) > 15
    assert fields <= {*request_model.model_fields, *LATER, *NEVER, *HINTS}


def test_no_field_has_two_fates() -> None:
    fates = [set(ChatRequest.model_fields) | set(CompletionRequest.model_fields), set(LATER), set(NEVER), HINTS]

    assert sum(map(len, fates)) == len(set().union(*fates))
