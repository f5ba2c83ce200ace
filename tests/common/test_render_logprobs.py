import json
from typing import Any

import pytest
from openai.types import Completion
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from common.jobs import Delta, Entry, Job, Logprob, Reply, Sampling, Usage
from common.render import chat, completions
from common.render.frames import Shape
from tests.builders import a_job

USAGE = Usage(prompt_tokens=3, completion_tokens=2)
WORLD = Logprob("wor\u2028ld", -0.25, 0, (("wor\u2028ld", -0.25), ("x", -2.5)))
HALF = Logprob((0xE4, 0xB8), -9999.0, 6, (((0xE4,), -0.5),))
FIRST = Logprob("a", None, 0)
JOB = a_job(sampling=Sampling(9, logprobs=2), reply=Reply("chat", stream=True))
DELTAS = [Delta("wor\u2028ld世", (1, 2), logprobs=(WORLD, HALF)), Delta("", (), 0, "stop")]


def _frames(shape: Shape, job: Job = JOB) -> list[Any]:
    raw = b"".join(shape.frames(job).item(Entry(seq, delta)) for seq, delta in enumerate(DELTAS, 1))
    assert b"\xe2\x80\xa8" not in raw
    return [json.loads(block.split(b"data: ", 1)[1]) for block in raw.split(b"\n\n") if block]


def test_a_chat_tells_each_token_its_bytes_and_the_likeliest() -> None:
    told = chat.whole(JOB, DELTAS, USAGE)["choices"][0]["logprobs"]

    assert told["refusal"] is None
    assert told["content"] == [
        {
            "token": "wor\u2028ld",
            "logprob": -0.25,
            "bytes": list("wor\u2028ld".encode()),
            "top_logprobs": [
                {"token": "wor\u2028ld", "logprob": -0.25, "bytes": list("wor\u2028ld".encode())},
                {"token": "x", "logprob": -2.5, "bytes": [120]},
            ],
        },
        {
            "token": r"bytes:\xe4\xb8",
            "logprob": -9999.0,
            "bytes": [0xE4, 0xB8],
            "top_logprobs": [{"token": r"bytes:\xe4", "logprob": -0.5, "bytes": [0xE4]}],
        },
    ]


def test_a_text_tells_them_in_columns_and_the_token_that_came_among_the_likeliest() -> None:
    job = a_job(sampling=Sampling(9, logprobs=2), reply=Reply("completion"))
    deltas = [Delta("a", (), logprobs=(FIRST,)), *DELTAS]

    assert completions.whole(job, deltas, USAGE)["choices"][0]["logprobs"] == {
        "tokens": ["a", "wor\u2028ld", r"bytes:\xe4\xb8"],
        "token_logprobs": [None, -0.25, -9999.0],
        "top_logprobs": [
            None,
            {"wor\u2028ld": -0.25, "x": -2.5},
            {r"bytes:\xe4": -0.5, r"bytes:\xe4\xb8": -9999.0},
        ],
        "text_offset": [0, 0, 6],
    }


@pytest.mark.parametrize("shape", [chat, completions])
def test_a_stream_tells_what_the_whole_tells(shape: Any) -> None:
    first, last = _frames(shape)

    assert first["choices"][0]["logprobs"] == shape.whole(JOB, DELTAS, USAGE)["choices"][0]["logprobs"]
    assert last["choices"][0]["logprobs"] is None


@pytest.mark.parametrize("shape", [chat, completions])
def test_who_did_not_ask_is_told_null_and_who_asked_in_vain_an_empty_list(shape: Any) -> None:
    end = [Delta("", (), 0, "stop")]

    asked, plain = shape.whole(JOB, end, USAGE), shape.whole(a_job(), end, USAGE)

    assert plain["choices"][0]["logprobs"] is None
    assert not any(asked["choices"][0]["logprobs"].values())


def test_a_token_without_text_has_a_frame_of_its_own() -> None:
    frame = chat.frames(JOB).item(Entry(1, Delta("", (1,), logprobs=(HALF,))))

    assert json.loads(frame.split(b"data: ", 1)[1])["choices"][0]["logprobs"]["content"][0]["bytes"] == [0xE4, 0xB8]


def test_logprobs_pass_the_sdks_types() -> None:
    assert ChatCompletion.model_validate(chat.whole(JOB, DELTAS, USAGE), strict=True).choices[0].logprobs
    assert Completion.model_validate(completions.whole(JOB, DELTAS, USAGE), strict=True).choices[0].logprobs
    assert all(ChatCompletionChunk.model_validate(frame, strict=True) for frame in _frames(chat))
    assert Completion.model_validate(_frames(completions)[1], strict=True)
