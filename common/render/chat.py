"""A chat's log in OpenAI's shapes: ``chat.completion.chunk`` and ``chat.completion``.

No clock: ``id``, ``created`` and the model come from the job, so the same log gives the same bytes.
"""

import string
from collections.abc import Iterable
from functools import partial
from hashlib import blake2b
from typing import Any

from common.jobs import Call, Delta, Job, Piece, Usage
from common.render.frames import (
    Frames,
    Logprobs,
    Said,
    beside,
    extra_fields,
    extras,
    gathered,
    quoted,
    shown,
    usage_body,
)

_SIGNS = string.digits + string.ascii_letters
_SIZE = 24


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
    content = '""' if job.tools is None else "null"  # beside calls, an answer that says nothing has none
    role = f',"delta":{{"role":"assistant","content":{content}}},"logprobs":null,"finish_reason":null}}'
    return Frames(
        opening="".join(f"{head}{choice}{role}{seed}" for choice in range(job.choices)).encode(),
        head=head,
        piece=(',"delta":{"content":', '},"logprobs":', f',"finish_reason":null}}]{tail}'),
        end=(',"delta":{},"logprobs":null,"finish_reason":', f"}}{seed}"),
        usage=(f'{base}"choices":[],"usage":', "}\n\n") if job.reply.include_usage else None,
        shaped=_shaped,
        beside=partial(beside, job.constraint),
        called=None if job.tools is None else partial(_begun, job.id),
    )


def whole(job: Job, deltas: Iterable[Delta], usage: Usage) -> dict[str, Any]:
    """The answer in one piece."""
    choices = [
        {
            "index": said.index,
            "message": _message(job, said),
            "logprobs": said.likely(_shaped),
            "finish_reason": said.finish,
        }
        | said.beside
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


def _message(job: Job, said: Said) -> dict[str, Any]:
    calls = [_call(job.id, said.index, call) for call in said.calls]
    content = said.text or ("" if job.tools is None else None)
    message = {"role": "assistant", "content": content, "refusal": None}
    return message | {"tool_calls": calls} if calls else message


def _begun(job_id: str, choice: int, call: Call) -> dict[str, Any]:
    """A piece of a call: the first has its id and name, the others its arguments."""
    if call.name:
        return {"index": call.index} | _call(job_id, choice, call)
    return {"index": call.index, "function": {"arguments": call.arguments}}


def _call(job_id: str, choice: int, call: Call) -> dict[str, Any]:
    function = {"name": call.name, "arguments": call.arguments}
    return {"id": _call_id(job_id, choice, call.index), "type": "function", "function": function}


def _call_id(job_id: str, choice: int, index: int) -> str:
    """24 letters and digits, always the same for the same call."""
    number = int.from_bytes(blake2b(f"{job_id}/{choice}/{index}".encode()).digest())
    return "call_" + "".join(_SIGNS[number // len(_SIGNS) ** at % len(_SIGNS)] for at in range(_SIZE))


def _shaped(logprobs: Logprobs) -> dict[str, Any]:
    content = [
        _token(one.token, one.value) | {"top_logprobs": [_token(token, value) for token, value in one.top]}
        for one in logprobs
    ]
    return {"content": content, "refusal": None}


def _token(piece: Piece, value: float | None) -> dict[str, Any]:
    spelled = piece.encode() if isinstance(piece, str) else bytes(piece)
    return {"token": shown(piece), "logprob": value, "bytes": list(spelled)}
