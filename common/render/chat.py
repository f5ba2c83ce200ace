"""A chat's log in OpenAI's shapes: ``chat.completion.chunk`` and ``chat.completion``.

No clock: ``id``, ``created`` and the model come from the job, so the same log gives the same bytes.
"""

from collections.abc import Iterable
from typing import Any

from common.jobs import Delta, Job, Usage
from common.render.frames import Frames, extra_fields, extras, gathered, quoted, usage_body


def public_id(job: Job) -> str:
    """As clients see it."""
    return f"chatcmpl-{job.id}"


def frames(job: Job) -> Frames:
    """The stream's constant parts."""
    tail = ',"usage":null}\n\n' if job.reply.include_usage else "}\n\n"
    base = (
        f'data: {{"id":"{public_id(job)}","object":"chat.completion.chunk",'
        f'"created":{job.created},"model":{quoted(job.model)},'
    )
    head = f'{base}"choices":[{{"index":'
    seed = f"]{extras(job)}{tail}"
    role = ',"delta":{"role":"assistant","content":""},"logprobs":null,"finish_reason":null}'
    return Frames(
        opening="".join(f"{head}{choice}{role}{seed}" for choice in range(job.choices)).encode(),
        head=head,
        piece=(',"delta":{"content":', f'}},"logprobs":null,"finish_reason":null}}]{tail}'),
        end=(',"delta":{},"logprobs":null,"finish_reason":', f"}}{seed}"),
        usage=(f'{base}"choices":[],"usage":', "}\n\n") if job.reply.include_usage else None,
    )


def whole(job: Job, deltas: Iterable[Delta], usage: Usage) -> dict[str, Any]:
    """The answer in one piece."""
    choices = [
        {
            "index": said.index,
            "message": {"role": "assistant", "content": said.text, "refusal": None},
            "logprobs": None,
            "finish_reason": said.finish,
        }
        for said in gathered(job, deltas)
    ]
    return {
        "id": public_id(job),
        "object": "chat.completion",
        "created": job.created,
        "model": job.model,
        "choices": choices,
        "usage": usage_body(usage),
    } | extra_fields(job)
