import asyncio
import json
import urllib.error
import urllib.request

import openai
import pytest

from ops.bench.stack import Stack

MODEL = "penstock-demo"
COUNT = "Count from 1 to 30."
COUNTED = " ".join(map(str, range(1, 31)))


def _numbers(text: str | None) -> str:
    return " ".join("".join(c if c.isdigit() else " " for c in text or "").split())


def test_the_models_answer_names_who_it_is(stack: Stack) -> None:
    answer = stack.client().chat.completions.create(
        model=MODEL, messages=[{"role": "user", "content": "Who are you?"}], max_tokens=200
    )

    assert "penstock" in (answer.choices[0].message.content or "")
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage is not None
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens


def test_a_stream_says_what_the_whole_answer_says(stack: Stack) -> None:
    client = stack.client()
    ask = {"model": MODEL, "messages": [{"role": "user", "content": COUNT}], "temperature": 0}

    whole = client.chat.completions.create(**ask)  # type: ignore[call-overload]
    parts = list(client.chat.completions.create(**ask, stream=True, stream_options={"include_usage": True}))  # type: ignore[call-overload]

    text = "".join(part.choices[0].delta.content or "" for part in parts if part.choices)
    assert text == whole.choices[0].message.content
    assert _numbers(text) == COUNTED
    assert parts[-1].usage == whole.usage
    assert parts[0].choices[0].delta.role == "assistant"
    assert {part.id for part in parts} == {parts[0].id}


def test_a_seed_repeats_a_sampled_answer_and_another_does_not(stack: Stack) -> None:
    client = stack.client()

    answers = [
        client.chat.completions.create(
            model=MODEL,
            messages=[{"role": "user", "content": "Tell me a story."}],
            temperature=2,
            seed=seed,
            max_tokens=60,
        )
        for seed in (7, 7, 8)
    ]

    first, again, other = (answer.choices[0].message.content for answer in answers)
    assert first == again != other
    assert answers[0].model_dump()["x_seed"] == 7


def test_the_async_sdk_is_told_the_same(stack: Stack) -> None:
    async def ask() -> tuple[str | None, str]:
        async with stack.async_client() as client:
            whole = await client.chat.completions.create(
                model=MODEL, messages=[{"role": "user", "content": COUNT}], temperature=0
            )
            stream = await client.chat.completions.create(
                model=MODEL, messages=[{"role": "user", "content": COUNT}], temperature=0, stream=True
            )
            text = "".join([part.choices[0].delta.content or "" async for part in stream])
            return whole.choices[0].message.content, text

    whole, streamed = asyncio.run(ask())

    assert whole == streamed == COUNTED


def test_a_stop_string_ends_the_answer_and_is_not_shown(stack: Stack) -> None:
    answer = stack.client().chat.completions.create(
        model=MODEL, messages=[{"role": "user", "content": COUNT}], temperature=0, stop=["12"]
    )

    assert _numbers(answer.choices[0].message.content) == " ".join(map(str, range(1, 12)))
    assert answer.choices[0].finish_reason == "stop"


def test_max_tokens_ends_the_answer_with_length(stack: Stack) -> None:
    answer = stack.client().chat.completions.create(
        model=MODEL, messages=[{"role": "user", "content": COUNT}], temperature=0, max_tokens=5
    )

    assert answer.choices[0].finish_reason == "length"
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 5


def test_text_completions_stream_and_answer(stack: Stack) -> None:
    client = stack.client()

    whole = client.completions.create(model=MODEL, prompt="Who are you?", max_tokens=40, temperature=0, seed=1234)
    parts = list(
        client.completions.create(model=MODEL, prompt="Who are you?", max_tokens=40, temperature=0, stream=True)
    )

    assert "".join(part.choices[0].text for part in parts) == whole.choices[0].text
    assert whole.object == "text_completion"


def test_the_references_curl_call_works(stack: Stack) -> None:
    body = {"prompt": "Who are you?", "max_tokens": 200, "temperature": 0, "seed": 1234, "h2ogpt_key": "EMPTY"}
    request = urllib.request.Request(  # noqa: S310  our own server
        f"{stack.url}/completions",
        json.dumps(body).encode(),
        {"Content-Type": "application/json", "Authorization": "Bearer EMPTY"},
    )

    with urllib.request.urlopen(request) as answer:  # noqa: S310
        assert json.load(answer)["choices"][0]["text"]


def test_the_models_are_listed_and_found(stack: Stack) -> None:
    client = stack.client()

    models = client.models.list().data

    assert [model.id for model in models] == [MODEL]
    assert models[0].model_dump()["base_model"] == MODEL
    assert client.models.retrieve(MODEL).id == MODEL
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("none/such")


def test_an_unknown_model_is_not_found(stack: Stack) -> None:
    with pytest.raises(openai.NotFoundError) as error:
        stack.client().chat.completions.create(model="gpt-9", messages=[{"role": "user", "content": "Hi"}])

    assert error.value.code == "model_not_found"


def test_what_is_not_here_is_refused_by_name(stack: Stack) -> None:
    with pytest.raises(openai.BadRequestError) as error:
        stack.client().chat.completions.create(
            model=MODEL,
            messages=[{"role": "user", "content": "Hi"}],
            verbosity="low",
        )

    assert error.value.param == "verbosity"


def test_sixty_four_streams_at_once_are_all_right(stack: Stack) -> None:
    async def count(client: openai.AsyncOpenAI, to: int) -> str:
        stream = await client.chat.completions.create(
            model=MODEL,
            messages=[{"role": "user", "content": f"Count from 1 to {to}."}],
            temperature=0,
            max_tokens=500,
            stream=True,
        )
        return "".join([part.choices[0].delta.content or "" async for part in stream])

    async def everyone() -> list[str]:
        async with stack.async_client() as client:
            return await asyncio.gather(*(count(client, 5 + at % 32) for at in range(64)))

    answers = asyncio.run(everyone())

    assert [_numbers(answer) for answer in answers] == [" ".join(map(str, range(1, 6 + at % 32))) for at in range(64)]


def test_health_readiness_version_and_metrics_answer(stack: Stack) -> None:
    root = stack.url.removesuffix("/v1")

    for path in ("/health", "/ready", "/version"):
        with urllib.request.urlopen(root + path) as answer:  # noqa: S310
            assert answer.status == 200
    with urllib.request.urlopen(stack.metrics_url) as answer:  # noqa: S310
        assert f'penstock_slots{{model_name="{MODEL}"}} 32.0' in answer.read().decode()
    with pytest.raises(urllib.error.HTTPError) as elsewhere:
        urllib.request.urlopen(root + "/metrics")  # noqa: S310
    elsewhere.value.close()
    assert elsewhere.value.code == 404
