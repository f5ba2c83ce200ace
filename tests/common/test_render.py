import json
import re
from typing import Any

import pytest
from openai.types import Completion
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from common.errors import NoWorkerError
from common.jobs import Call, Delta, Done, Entry, Failed, Finish, Job, Logprob, Reply, Sampling, Usage, decode_event
from common.render import chat, completions
from common.render.frames import Frames, Shape, failed
from common.toolformat import ToolFormat, ToolPlan, own
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


TOOLS = ToolPlan(None, own(ToolFormat("own", "", "", None, "", "")), {"look": {}}, False, "tool_calls")
CALLED = [
    Delta("So: ", (1,)),
    Delta("", (2,), call=Call(0, "look")),
    Delta("", (3,), call=Call(0, "", '{"at": "Ro')),
    Delta("", (4,), call=Call(0, "", 'me \u2028"}')),
    Delta("", (5,), call=Call(1, "look")),
    Delta("", (6,), call=Call(1, "", "{}")),
    Delta("", (7,), 0, "tool_calls"),
]


def test_calls_are_streamed_by_index_with_id_and_name_once_and_add_up_to_the_whole() -> None:
    job = a_job(reply=Reply("chat", stream=True), tools=TOOLS)

    frames = blocks(stream(chat.frames(job), *CALLED))
    whole = chat.whole(job, CALLED, USAGE)["choices"][0]

    deltas = [frame["choices"][0]["delta"] for frame in frames]
    first, second = whole["message"]["tool_calls"]
    assert deltas[:2] == [{"role": "assistant", "content": None}, {"content": "So: "}]
    assert [delta.get("tool_calls") for delta in deltas[2:]] == [
        [{"index": 0, "id": first["id"], "type": "function", "function": {"name": "look", "arguments": ""}}],
        [{"index": 0, "function": {"arguments": '{"at": "Ro'}}],
        [{"index": 0, "function": {"arguments": 'me \u2028"}'}}],
        [{"index": 1, "id": second["id"], "type": "function", "function": {"name": "look", "arguments": ""}}],
        [{"index": 1, "function": {"arguments": "{}"}}],
        None,
    ]
    assert [call["function"]["arguments"] for call in (first, second)] == ['{"at": "Rome \u2028"}', "{}"]
    assert (whole["message"]["content"], whole["finish_reason"]) == ("So: ", "tool_calls")
    assert frames[-1]["choices"][0]["finish_reason"] == "tool_calls"
    assert b"\xe2\x80\xa8" not in stream(chat.frames(job), *CALLED)
    for frame in frames:
        ChatCompletionChunk.model_validate(frame, strict=True)
    ChatCompletion.model_validate(chat.whole(job, CALLED, USAGE), strict=True)


def test_every_call_has_an_id_of_its_own_which_the_same_log_gives_again() -> None:
    deltas = [one for choice in (0, 1) for one in (delta._replace(choice=choice) for delta in CALLED)]
    jobs = [a_job(tools=TOOLS, n=2) for _ in range(2)]

    wholes = [[choice["message"] for choice in chat.whole(job, deltas, USAGE)["choices"]] for job in (*jobs, jobs[0])]

    ids = [[call["id"] for message in whole for call in message["tool_calls"]] for whole in wholes]
    assert ids[0] == ids[2]
    assert len(set(ids[0] + ids[1])) == 8
    assert all(re.fullmatch("call_[0-9A-Za-z]{24}", one) for one in ids[0])


@pytest.mark.parametrize("answer", [CALLED[1:], CALLED[-1:]])
def test_beside_tools_an_answer_without_text_has_no_content(answer: list[Delta]) -> None:
    job = a_job(tools=TOOLS, sampling=Sampling(9, logprobs=0))
    scored = [Delta("", (1,), logprobs=(Logprob("<", -0.5, 0),)), *answer]

    frames = blocks(stream(chat.frames(job), *scored))

    assert chat.whole(job, scored, USAGE)["choices"][0]["message"]["content"] is None
    assert not any(frame["choices"][0]["delta"].get("content") for frame in frames)
    assert frames[1]["choices"][0]["delta"] == {}
    assert frames[1]["choices"][0]["logprobs"]["content"][0]["token"] == "<"


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


def test_an_end_by_time_says_so_beside_openais_reason() -> None:
    late = Delta("", (), 0, "length", why="max_time")
    job = a_job(reply=Reply("chat", stream=True))

    ends = [blocks(stream(shape.frames(job), said("Hi"), late))[-1] for shape in (chat, completions)]
    wholes = [shape.whole(job, [said("Hi"), decode_event(late.encode())], USAGE) for shape in (chat, completions)]

    for answer in (*ends, *wholes):
        choice = answer["choices"][0]
        assert (choice["finish_reason"], choice["x_stop_reason"]) == ("length", "max_time")
    assert ChatCompletionChunk.model_validate(ends[0], strict=True).choices[0].finish_reason == "length"
    assert ChatCompletion.model_validate(wholes[0], strict=True).choices[0].finish_reason == "length"
    for answer in (ends[1], wholes[1]):
        assert Completion.model_validate(answer, strict=True).choices[0].finish_reason == "length"
    assert "x_stop_reason" not in chat.whole(job, [said("", "length")], USAGE)["choices"][0]


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
