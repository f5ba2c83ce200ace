"""What a Request makes of a Job."""

import json
from typing import Any

import pytest

from common.errors import ContextLengthError, InvalidRequestError
from common.jobs import Echo
from common.protocol.completions import CompletionRequest
from common.protocol.generation import Headers, Read, Room
from tests.common.asking import WHO, chat, job, refusal, refused, text


def test_the_reference_says_what_a_request_that_says_nothing_means() -> None:
    asked = job(chat())

    assert (asked.sampling.temperature, asked.sampling.top_p, asked.sampling.max_tokens) == (0.3, 1.0, 256)
    assert (asked.sampling.top_k, asked.sampling.min_p, asked.sampling.stop) == (0, 0.0, ())
    assert (asked.cls, asked.priority, asked.reply.stream, asked.on_disconnect) == (
        "interactive",
        False,
        False,
        "cancel",
    )
    assert 0 < asked.seed < 2**63


def test_what_is_asked_for_stands_in_the_job() -> None:
    asked = job(
        chat(
            temperature=0,
            top_p=0.5,
            top_k=7,
            min_p=0.1,
            seed=42,
            stop="end",
            max_tokens=9,
            max_time=5,
            stream=True,
            stream_options={"include_usage": True},
            service_tier="flex",
            on_disconnect="finish",
            metadata={"a": "b"},
        )
    )

    sampling, reply = asked.sampling, asked.reply
    assert (sampling.temperature, sampling.top_p, sampling.top_k, sampling.min_p) == (0, 0.5, 7, 0.1)
    assert (sampling.stop, sampling.max_tokens, asked.seed, asked.max_time_s) == (("end",), 9, 42, 5)
    assert (reply.kind, reply.stream, reply.include_usage, reply.metadata) == ("chat", True, True, {"a": "b"})
    assert (asked.cls, asked.end_s, asked.on_disconnect) == ("normal", 86_400, "finish")
    assert asked.created > 1_700_000_000


def test_penalties_biases_and_ends_stand_in_the_job() -> None:
    sampling = job(
        chat(
            presence_penalty=1,
            frequency_penalty=-1,
            repetition_penalty=1.5,
            logit_bias={"7": -100, "8": 2.5},
            min_tokens=3,
            stop_token_ids=[5, 6.0],
        )
    ).sampling

    assert (sampling.presence, sampling.frequency, sampling.repetition) == (1, -1, 1.5)
    assert (sampling.bias, sampling.min_tokens, sampling.stop_ids) == (((7, -100.0), (8, 2.5)), 3, (5, 6))
    assert job(chat(min_new_tokens=4)).sampling.min_tokens == 4


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"logit_bias": {"1000": 1}}, "logit_bias"),
        ({"stop_token_ids": [1, 1000]}, "stop_token_ids"),
        ({"min_tokens": 6, "max_tokens": 5}, "min_tokens"),
        ({"min_new_tokens": 257}, "min_new_tokens"),
    ],
)
def test_what_does_not_suit_the_model_is_refused(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequestError) as told:
        job(chat(**fields))

    assert told.value.param == param


def test_sampling_cannot_be_forced_without_a_temperature() -> None:
    assert refused(do_sample=True, temperature=0) == "do_sample"
    assert job(chat(do_sample=True)).sampling == job(chat(do_sample=False)).sampling == job(chat()).sampling


def test_two_requests_without_a_seed_draw_differently() -> None:
    assert job(chat(seed=0)).seed != job(chat(seed=0)).seed


def test_a_priority_request_goes_to_the_head_of_its_list() -> None:
    asked = job(chat(service_tier="priority"))

    assert (asked.cls, asked.priority) == ("interactive", True)


def test_an_answer_that_does_not_fit_the_context_is_refused_where_it_was_asked_for() -> None:
    for name in ("max_tokens", "max_completion_tokens"):
        with pytest.raises(ContextLengthError) as told:
            job(chat(**{name: 100}), prompt=925)
        assert (told.value.param, told.value.actual_code) == (name, "context_length_exceeded")


def test_an_answer_that_just_fits_is_taken() -> None:
    assert job(chat(max_tokens=99), prompt=925).sampling.max_tokens == 99


def test_the_default_shrinks_to_the_room_there_is() -> None:
    assert job(chat(), prompt=1000).sampling.max_tokens == 24


@pytest.mark.parametrize(("ask", "field"), [(chat, "messages"), (text, "prompt")])
def test_a_prompt_that_fills_the_context_is_refused(ask: Any, field: str) -> None:
    with pytest.raises(ContextLengthError) as told:
        job(ask(), prompt=1024)

    assert told.value.param == field


def test_both_names_of_max_tokens_may_say_the_same() -> None:
    assert job(chat(max_tokens=5, max_completion_tokens=5)).sampling.max_tokens == 5
    assert refused(max_tokens=5, max_completion_tokens=6) == "max_completion_tokens"


def test_a_password_never_leaves_the_request() -> None:
    asked = chat(user="ann:secret")

    assert asked.label == "ann"
    assert job(asked).share == job(chat(user="ann")).share != job(chat(user="bob")).share
    assert "secret" not in job(asked).encode()


def test_a_key_in_the_body_never_leaves_the_request() -> None:
    asked = chat(h2ogpt_key="secret")

    assert asked.ignored == ()
    assert "secret" not in job(asked).encode()


def test_a_label_is_a_turn_of_its_own_and_changes_no_owner() -> None:
    plain, labelled, other = job(chat()), job(chat(user="a")), job(chat(safety_identifier="b"))

    assert plain.owner == labelled.owner == other.owner == plain.share
    assert len({plain.share, labelled.share, other.share}) == 3


def test_whoever_asks_again_by_himself_is_waited_for() -> None:
    sdk, keyed = Headers(sdk=True), Headers(idempotency=True)

    assert [job(chat(), headers=told).grace_s for told in (Headers(), sdk, keyed)] == [0.5, 15, 15]
    assert job(chat(stream=True), headers=sdk).grace_s == 0.5
    assert [job(chat(), headers=told).keep_s for told in (sdk, keyed)] == [3600, 86_400]


def test_the_shortest_patience_counts_and_streams_have_no_read_timeout() -> None:
    headers = Headers(read_timeout_s=600, deadline_ms=700_000)

    assert job(chat(), headers=headers).max_wait_s == 600
    assert job(chat(stream=True), headers=headers).max_wait_s == 700
    assert job(chat(max_time=30), headers=headers).max_wait_s == 30
    assert job(chat()).max_wait_s is None


def test_choices_of_all_prompts_are_one_job_of_bounded_size() -> None:
    asked = text(prompt=["a", "b"], n=16, max_tokens=5)

    made = asked.job(WHO, "m", [Read((1, 2)), Read((3,))], Room(100, 1000, 0, Headers()))

    assert (made.n, made.choices, made.cost) == (16, 32, 3 + 32 * 5)
    with pytest.raises(InvalidRequestError) as told:
        asked.job(WHO, "m", [Read((1,))] * 9, Room(100, 1000, 0, Headers()))
    assert told.value.param == "n"


def test_a_default_shrinks_to_the_room_that_the_shortest_prompt_leaves_and_a_number_must_fit_the_longest() -> None:
    prompts = [Read((1,) * 90), Read((1,) * 40)]
    room = Room(100, 1000, 0, Headers())

    assert text().job(WHO, "m", prompts, room).sampling.max_tokens == 60
    assert text(max_tokens=10).job(WHO, "m", prompts, room).sampling.max_tokens == 10
    with pytest.raises(ContextLengthError) as told:
        text(max_tokens=11).job(WHO, "m", prompts, room)
    assert told.value.param == "max_tokens"


@pytest.mark.parametrize(
    ("fields", "ignored"),
    [({}, ()), ({"best_of": 1}, ()), ({"best_of": 3, "n": 3}, ()), ({"best_of": 3}, ("best_of",))],
)
def test_best_of_is_as_many_as_are_told_or_ignored_and_named(fields: dict[str, Any], ignored: tuple[str, ...]) -> None:
    assert chat(**fields).ignored == text(**fields).ignored == ignored


@pytest.mark.parametrize("value", [0, 17, 1.5, "2", True])
def test_choices_are_a_number_from_one_to_sixteen(value: Any) -> None:
    assert refused(n=value) == "n"


def test_logprobs_are_asked_for_as_each_endpoint_has_them() -> None:
    asked = [
        chat(),
        chat(logprobs=True),
        chat(logprobs=True, top_logprobs=20),
        text(),
        text(logprobs=0),
        text(logprobs=5),
    ]

    assert [job(one).sampling.logprobs for one in asked] == [None, 0, 20, None, 0, 5]


@pytest.mark.parametrize(
    "fields", [{"top_logprobs": 2}, {"top_logprobs": 21, "logprobs": True}, {"top_logprobs": -1, "logprobs": True}]
)
def test_the_likeliest_go_with_logprobs_and_are_twenty_at_most(fields: dict[str, Any]) -> None:
    assert refused(**fields) == "top_logprobs"


@pytest.mark.parametrize("value", [True, 6, -1, "1"])
def test_logprobs_of_a_text_are_a_small_number(value: Any) -> None:
    assert refusal(json.dumps({"prompt": "a", "logprobs": value}).encode(), CompletionRequest).param == "logprobs"
    assert refused(logprobs=1) == "logprobs"


def test_no_token_at_all_goes_with_echo_only() -> None:
    assert job(text(max_tokens=0, echo=True)).sampling.max_tokens == 0
    assert refusal(b'{"prompt": "a", "max_tokens": 0}', CompletionRequest).param == "max_tokens"
    assert refused(max_tokens=0, echo=True) == "max_tokens"


def test_a_prompt_that_would_fill_the_memory_with_scores_is_refused() -> None:
    long = Read((1,) * 6000, Echo("a" * 6000, tuple(range(6000))))
    asked = text(echo=True, logprobs=0)

    with pytest.raises(InvalidRequestError) as told:
        asked.job(WHO, "m", [long], Room(8000, 152_000, 0, Headers()))

    assert (told.value.param, "3532 tokens" in told.value.message) == ("echo", True)
    assert asked.job(WHO, "m", [long], Room(8000, 32_000, 0, Headers())).echo == (long.echo,)


def test_what_is_stored_is_kept_for_a_month_and_made_without_anybody_waiting() -> None:
    kept, plain = job(chat(store=True)), job(chat())

    assert (kept.keep_s, kept.on_disconnect) == (30 * 86_400, "finish")
    assert (plain.keep_s, plain.on_disconnect) == (3600, "cancel")
    assert job(chat(store=True, on_disconnect="cancel")).on_disconnect == "cancel"
    assert text(store=True).ignored == ("store",)


def test_the_tier_and_the_clients_own_words_come_back() -> None:
    reply = job(chat(service_tier="auto", client_metadata="night run", metadata={"a": "b"})).reply

    assert (reply.service_tier, reply.client_metadata, reply.metadata) == ("default", "night run", {"a": "b"})
    assert job(chat(service_tier="flex")).reply.service_tier == "flex"
    assert job(chat()).reply.service_tier is None
