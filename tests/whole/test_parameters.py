"""What the SDK can ask of both endpoints, through the whole house."""

import json
import urllib.request
from typing import Any

import pytest
from openai import NOT_GIVEN
from openai.types import Completion

from ops.bench.stack import Stack

MODEL = "penstock-demo"
COUNT: Any = {"role": "user", "content": "Count from 1 to 9."}
PROMPTS = ["one two three", "the river", "Grüße"]


def _texts(answer: Completion) -> list[str]:
    return [choice.text for choice in sorted(answer.choices, key=lambda choice: choice.index)]


def test_choices_are_different_samples_of_one_answer(stack: Stack) -> None:
    ask: dict[str, Any] = {"model": MODEL, "messages": [COUNT], "n": 4, "temperature": 2, "seed": 3, "max_tokens": 20}

    whole = stack.client().chat.completions.create(**ask)
    parts = list(stack.client().chat.completions.create(**ask, stream=True))

    texts = [choice.message.content for choice in whole.choices]
    assert [choice.index for choice in whole.choices] == [0, 1, 2, 3]
    assert len(set(texts)) > 1
    streamed = ["", "", "", ""]
    for part in parts:
        for choice in part.choices:
            streamed[choice.index] += choice.delta.content or ""
    assert streamed == texts
    ends = [choice.index for part in parts for choice in part.choices if choice.finish_reason]
    assert sorted(ends) == [0, 1, 2, 3]
    assert whole.usage is not None
    assert whole.usage.completion_tokens > 20


def test_many_prompts_are_answered_by_index_in_one_request(stack: Stack) -> None:
    client = stack.client()
    ask: dict[str, Any] = {"model": MODEL, "max_tokens": 12, "temperature": 0}

    together = client.completions.create(**ask, prompt=PROMPTS, n=2)
    alone = [client.completions.create(**ask, prompt=prompt) for prompt in PROMPTS]

    assert [choice.index for choice in together.choices] == list(range(6))
    assert _texts(together) == [_texts(one)[0] for one in alone for _ in range(2)]
    assert together.usage is not None
    assert together.usage.prompt_tokens == sum(one.usage.prompt_tokens for one in alone if one.usage)


def test_a_stream_of_many_prompts_and_choices_is_interleaved_by_index(stack: Stack) -> None:
    client = stack.client()
    ask: dict[str, Any] = {"model": MODEL, "prompt": PROMPTS, "n": 2, "max_tokens": 30, "temperature": 1, "seed": 5}

    whole = client.completions.create(**ask)
    parts = list(client.completions.create(**ask, stream=True, stream_options={"include_usage": True}))

    texts = [""] * 6
    order = [choice.index for part in parts for choice in part.choices]
    for part in parts:
        for choice in part.choices:
            texts[choice.index] += choice.text
    assert texts == _texts(whole)
    assert parts[-1].usage == whole.usage
    assert order != sorted(order)


def test_tokens_are_a_prompt_as_good_as_their_text(stack: Stack) -> None:
    client = stack.client()
    (tokenizer,) = (stack.folder / "data" / "tokenizers").glob("*/tokenizer.json")
    ids = json.loads(tokenizer.read_text())["model"]["vocab"]
    prompt = [ids[letter] for letter in "theriver"]
    ask: dict[str, Any] = {"model": MODEL, "max_tokens": 8, "temperature": 0}

    one = client.completions.create(**ask, prompt=prompt, echo=True)
    two = client.completions.create(**ask, prompt=[prompt, prompt[:3]])

    assert one.choices[0].text.startswith("theriver")
    assert _texts(two)[0] == one.choices[0].text.removeprefix("theriver")
    assert one.usage is not None
    assert one.usage.prompt_tokens == 8


def test_an_echo_with_logprobs_scores_the_prompt_and_its_offsets_point_into_the_text(stack: Stack) -> None:
    told = stack.client().completions.create(
        model=MODEL, prompt=PROMPTS, max_tokens=6, temperature=0, echo=True, logprobs=3
    )

    for choice, prompt in zip(told.choices, PROMPTS, strict=True):
        likely: Any = choice.logprobs
        assert choice.text.startswith(prompt)
        assert likely.token_logprobs[0] is None
        assert all(value <= 0 for value in likely.token_logprobs[1:])
        assert all(token in top for token, top in zip(likely.tokens[1:], likely.top_logprobs[1:], strict=True))
        for token, offset in zip(likely.tokens, likely.text_offset, strict=True):
            assert token.startswith("bytes:") or choice.text[offset:].startswith(token)
        assert sum(offset < len(prompt) for offset in likely.text_offset) == len(likely.tokens) - 6


def test_a_streams_logprobs_spell_the_answer_and_greedy_tokens_are_the_likeliest(stack: Stack) -> None:
    client = stack.client()

    ask: Any = {"model": MODEL, "messages": [COUNT], "temperature": 0, "logprobs": True, "top_logprobs": 5}

    whole = client.chat.completions.create(**ask)
    told = client.chat.completions.create(**ask, stream=True)
    entries = [
        entry for part in told for choice in part.choices if choice.logprobs for entry in choice.logprobs.content or ()
    ]

    text = whole.choices[0].message.content or ""
    assert b"".join(bytes(entry.bytes or ()) for entry in entries).decode() == text
    assert whole.choices[0].logprobs is not None
    assert [entry.token for entry in whole.choices[0].logprobs.content or ()] == [entry.token for entry in entries]
    for entry in entries:
        assert len(entry.top_logprobs) == 5
        assert entry.top_logprobs[0].token == entry.token
        assert entry.logprob == entry.top_logprobs[0].logprob > -0.5


def test_a_text_may_go_through_the_chat_template(stack: Stack) -> None:
    client = stack.client()
    ask: dict[str, Any] = {"model": MODEL, "max_tokens": 30, "temperature": 0}

    text = client.completions.create(**ask, prompt="Who are you?", extra_body={"prompt_type": "template"})
    chat = client.chat.completions.create(**ask, messages=[{"role": "user", "content": "Who are you?"}])

    assert text.choices[0].text == chat.choices[0].message.content
    assert "penstock" in text.choices[0].text


def test_an_answer_can_be_begun_by_the_client(stack: Stack) -> None:
    begun: Any = {"role": "assistant", "content": "1 2 3 4 5"}

    told = stack.client().chat.completions.create(
        model=MODEL,
        messages=[COUNT, begun],
        temperature=0,
        extra_body={"continue_final_message": True},
    )

    assert (told.choices[0].message.content or "").split() == ["6", "7", "8", "9"]


def test_what_an_sdk_dumped_goes_back_as_it_is(stack: Stack) -> None:
    client = stack.client()
    first = client.chat.completions.create(model=MODEL, messages=[COUNT], temperature=0)
    dumped: Any = first.choices[0].message.model_dump()

    raw = client.chat.completions.with_raw_response.create(
        model=MODEL,
        messages=[COUNT, dumped, {"role": "user", "content": "Who are you?"}],
        temperature=0,
        extra_body={"zebra": 1, "best_of": 4},
    )

    assert "penstock" in (raw.parse().choices[0].message.content or "")
    assert raw.headers["x-ignored-params"] == "zebra,best_of"


def test_the_references_curl_is_answered(stack: Stack) -> None:
    body = {
        "prompt": "Who are you?",
        "max_tokens": 200,
        "temperature": 0,
        "seed": 1234,
        "h2ogpt_key": "EMPTY",
    }
    request = urllib.request.Request(  # noqa: S310
        f"{stack.url}/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )

    with urllib.request.urlopen(request) as answer:  # noqa: S310
        told = json.loads(answer.read())

    assert told["x_seed"] == 1234
    assert told["choices"][0]["finish_reason"] in {"stop", "length"}


@pytest.mark.parametrize("tier", ["auto", "flex", NOT_GIVEN])
def test_the_tier_is_told_as_it_was_served(stack: Stack, tier: Any) -> None:
    told = stack.client().chat.completions.create(
        model=MODEL,
        messages=[COUNT],
        max_tokens=3,
        service_tier=tier,
        metadata={"run": "7"},
        store=True,
        extra_body={"client_metadata": "night"},
    )

    assert told.service_tier == {"auto": "default", "flex": "flex"}.get(tier)
    assert told.model_dump()["client_metadata"] == "night"
    assert told.model_dump()["metadata"] == {"run": "7"}
