"""A text completion's log in OpenAI's shape: ``text_completion``, streamed or whole."""

from collections.abc import Iterable
from functools import partial
from typing import Any

from common.jobs import Delta, Job, Logprob, Usage
from common.render.frames import Frames, Logprobs, beside, extra_fields, extras, gathered, quoted, shown, usage_body


def public_id(job: Job) -> str:
    """As clients see it."""
    return f"cmpl-{job.id}"


def frames(job: Job) -> Frames:
    """The stream's constant parts."""
    tail = ',"usage":null}\n\n' if job.reply.include_usage else "}\n\n"
    base = (
        f'data: {{"id":"{public_id(job)}","object":"text_completion",'
        f'"created":{job.created},"model":{quoted(job.model)},'
    )
    return Frames(
        opening=b"",
        head=f'{base}"choices":[{{"index":',
        piece=(',"text":', ',"logprobs":', f',"finish_reason":null}}]{tail}'),
        end=(',"text":"","logprobs":null,"finish_reason":', f"}}]{extras(job)}{tail}"),
        usage=(f'{base}"choices":[],"usage":', "}\n\n") if job.reply.include_usage else None,
        shaped=_shaped,
        beside=partial(beside, job.constraint),
    )


def whole(job: Job, deltas: Iterable[Delta], usage: Usage) -> dict[str, Any]:
    """The answer in one piece."""
    choices = [
        {"index": said.index, "text": said.text, "logprobs": said.likely(_shaped), "finish_reason": said.finish}
        | said.beside
        for said in gathered(job, deltas)
    ]
    return {
        "id": public_id(job),
        "object": "text_completion",
        "created": job.created,
        "model": job.model,
        "choices": choices,
        "usage": usage_body(usage),
    } | extra_fields(job)


def _shaped(logprobs: Logprobs) -> dict[str, Any]:
    return {
        "tokens": [shown(one.token) for one in logprobs],
        "token_logprobs": [one.value for one in logprobs],
        "top_logprobs": [_top(one) for one in logprobs],
        "text_offset": [one.offset for one in logprobs],
    }


def _top(one: Logprob) -> dict[str, float] | None:
    """The token that came is always among them; of two that read alike the likelier."""
    if one.value is None:
        return None
    told: dict[str, float] = {}
    for token, value in (*one.top, (one.token, one.value)):
        told.setdefault(shown(token), value)
    return told
