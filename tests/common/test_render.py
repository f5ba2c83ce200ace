import json
from typing import Any

import pytest
from openai.types import Completion
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from common.errors import NoWorkerError
from common.jobs import Delta, Done, Entry, Failed, Finish, Job, Reply, Usage
from common.render import chat, completions
from common.render.frames import Frames, Shape, failed
from tests.builders import a_job

USAGE = Usage(prompt_tokens=3, completion_tokens=2)


def blocks(raw: bytes) -> list[Any]:
    return [
        json.loads(block.split("data: ", 1)[1])
        for block in raw.decode().split("\n\n")
        if block and "[DONE]" not in block
    ]


def said(text: str, finish: Finish | None = None, choice: int = 0) -> Delta:
    return Delta(text, (1,), choice, finish)


def stream(frames: Frames, *events: Delta) -> bytes:
    return frames.opening + b"".join(frames.item(Entry(seq, event)) for seq, event in enumerate(events, 1))


def test_a_chat_stream_is_role_text_end_and_done() -> None:
    job = a_job(id="ab" * 17, reply=Reply("chat", stream=True))
    frames = chat.frames(job)

    raw = stream(frames, said("Hi"), said("", "stop")) + frames.closing(USAGE)

    base = f'"id":"chatcmpl-{job.id}","object":"chat.completion.chunk","created":1700000000,"model":"m"'
    going, stopped = ('"logprobs":null,"finish_reason":null}]', '"logprobs":null,"finish_reason":"stop"}]')
    assert raw.decode().split("\n\n") == [
        f'data: {{{base},"choices":[{{"index":0,"delta":{{"role":"assistant","content":""}},{going},"x_seed":1}}',
        f'id: 1\ndata: {{{base},"choices":[{{"index":0,"delta":{{"content":"Hi"}},{going}}}',
        f'id: 2\ndata: {{{base},"choices":[{{"index":0,"delta":{{}},{stopped},"x_seed":1}}',
        "data: [DONE]",
        "",
    ]


@pytest.mark.parametrize("shape", [chat, completions])
def test_metadata_comes_back_at_the_end_and_in_the_whole(shape: Any) -> None:
    job = a_job(reply=Reply("chat", stream=True, metadata={"ticket": "7 \u2028"}))

    last = blocks(stream(shape.frames(job), said("Hi"), said("", "stop")))[-1]
    whole = shape.whole(job, [said("Hi"), said("", "stop")], USAGE)

    assert last["metadata"] == whole["metadata"] == {"ticket": "7 \u2028"}
    assert b"\xe2\x80\xa8" not in stream(shape.frames(job), said("", "stop"))


def test_usage_comes_last_and_is_null_before_when_it_was_asked_for() -> None:
    frames = chat.frames(a_job(reply=Reply("chat", stream=True, include_usage=True)))

    *before, last = blocks(stream(frames, said("Hi"), said("", "length")) + frames.closing(USAGE))

    assert [chunk["usage"] for chunk in before] == [None, None, None]
    assert last["choices"] == []
    assert last["usage"] == {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}


def test_text_that_is_held_back_gives_no_frame() -> None:
    frames = chat.frames(a_job())

    assert frames.item(Entry(1, said(""))) == b""
    assert frames.item(Entry(2, Done(USAGE))) == b""


def test_every_choice_of_a_stream_has_its_own_role_and_index() -> None:
    frames = chat.frames(a_job(n=2))

    chunks = blocks(stream(frames, said("a", choice=1), said("b", choice=0)))

    assert [chunk["choices"][0]["index"] for chunk in chunks] == [0, 1, 1, 0]


@pytest.mark.parametrize("text", ['"\\', "\x00\x1f", "a\nb\r", "\u2028\u2029\x85", "日本 🎈", "</script>"])
def test_a_frame_is_one_line_and_keeps_the_text_exactly(text: str) -> None:
    raw = chat.frames(a_job()).item(Entry(7, said(text)))

    number, data, *rest = raw.decode().splitlines()
    assert (number, rest) == ("id: 7", [""])
    assert json.loads(data.removeprefix("data: "))["choices"][0]["delta"]["content"] == text


@pytest.mark.parametrize("shape", [chat, completions])
def test_streamed_text_joined_is_the_whole_answer(shape: Shape) -> None:
    job = a_job(n=2)
    deltas = [said("a"), said("x", choice=1), said("b"), said("", "stop"), said("", "length", 1)]

    whole = shape.whole(job, deltas, USAGE)
    texts = ["", ""]
    for chunk in blocks(stream(shape.frames(job), *deltas)):
        choice = chunk["choices"][0]
        texts[choice["index"]] += choice["text"] if "text" in choice else choice["delta"].get("content", "")

    assert texts == ["ab", "x"]
    assert [choice.get("text") or choice["message"]["content"] for choice in whole["choices"]] == texts
    assert [choice["finish_reason"] for choice in whole["choices"]] == ["stop", "length"]


def test_whole_answers_have_openais_keys_and_pass_the_sdks_types() -> None:
    deltas = [said("Hi"), said("", "stop")]

    answer = chat.whole(a_job(), deltas, USAGE)
    completion = completions.whole(a_job(reply=Reply("completion")), deltas, USAGE)

    assert ChatCompletion.model_validate(answer, strict=True).choices[0].message.content == "Hi"
    assert Completion.model_validate(completion, strict=True).choices[0].text == "Hi"
    assert set(answer) == {"id", "object", "created", "model", "choices", "usage", "x_seed"}
    assert answer["choices"][0]["message"] == {"role": "assistant", "content": "Hi", "refusal": None}
    assert set(answer["usage"]) == {"prompt_tokens", "completion_tokens", "total_tokens"}


@pytest.mark.parametrize("include_usage", [False, True])
def test_chunks_pass_the_sdks_types(include_usage: bool) -> None:  # noqa: FBT001
    reply = Reply("chat", stream=True, include_usage=include_usage)
    frames = chat.frames(a_job(reply=reply))
    text = completions.frames(a_job(reply=reply))
    deltas = (said("Hi"), said("", "stop"))

    chunks = blocks(stream(frames, *deltas) + frames.closing(USAGE))
    pieces = blocks(stream(text, *deltas) + text.closing(USAGE))

    assert all("finish_reason" in choice for chunk in chunks + pieces for choice in chunk["choices"])
    assert [ChatCompletionChunk.model_validate(chunk, strict=True).object for chunk in chunks]
    assert Completion.model_validate(pieces[-1], strict=True).object == "text_completion"


def test_an_error_frame_is_openais_error() -> None:
    raw = failed(Failed.of(NoWorkerError("Nobody is there.")))

    assert json.loads(raw.removeprefix(b"data: ")) == {
        "error": {"message": "Nobody is there.", "type": "overloaded_error", "param": None, "code": "no_worker"}
    }
    assert raw.endswith(b"}\n\n")


def test_the_same_log_gives_the_same_bytes() -> None:
    job = a_job(seed=5)

    again = Job.decode(job.encode())

    assert stream(chat.frames(job), said("x")) == stream(chat.frames(again), said("x"))
