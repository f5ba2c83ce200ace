"""A chat's log in OpenAI's shapes: ``chat.completion.chunk`` and ``chat.completion``.

No clock: ``id``, ``created`` and the model come from the job, so the same log gives the same bytes.
"""

from collections.abc import Iterable
from functools import partial
from typing import Any

from common.jobs import Delta, Job, Piece, Usage
from common.render.frames import Frames, Logprobs, extra_fields, extras, gathered, quoted, shown, usage_body, verdict


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
        piece=(',"delta":{"content":', '},"logprobs":', f',"finish_reason":null}}]{tail}'),
        end=(',"delta":{},"logprobs":null,"finish_reason":', f"}}{seed}"),
        usage=(f'{base}"choices":[],"usage":', "}\n\n") if job.reply.include_usage else None,
        shaped=_shaped,
        verdict=partial(verdict, job),
    )


def whole(job: Job, deltas: Iterable[Delta], usage: Usage) -> dict[str, Any]:
    """The answer in one piece."""
    choices = [
        {
            "index": said.index,
            "message": {"role": "assistant", "content": said.text, "refusal": None},
            "logprobs": said.likely(_shaped),
            "finish_reason": said.finish,
        }
        | said.verdict
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


def _shaped(logprobs: Logprobs) -> dict[str, Any]:
    content = [
        _token(one.token, one.value) | {"top_logprobs": [_token(token, value) for token, value in one.top]}
        for one in logprobs
    ]
    return {"content": content, "refusal": None}


def _token(piece: Piece, value: float | None) -> dict[str, Any]:
    spelled = piece.encode() if isinstance(piece, str) else bytes(piece)
    return {"token": shown(piece), "logprob": value, "bytes": list(spelled)}
