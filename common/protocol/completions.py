"""POST /v1/completions: a text."""

from typing import Annotated, Any

from pydantic import BeforeValidator

from common.protocol.generation import Generation


def _one(value: Any) -> Any:
    if isinstance(value, list):
        raise ValueError("lists and token ids are not supported yet: send one string")  # noqa: TRY004  pydantic's way
    return value


class CompletionRequest(Generation):
    """A text to be continued, without a chat template."""

    kind = "completion"
    asked = "prompt"

    prompt: Annotated[str, BeforeValidator(_one)]
