from collections.abc import Mapping, Sequence
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, MambaConfig
from transformers.models.auto.modeling_auto import AutoModelForCausalLM

from common.jobs import Delta, Done, Sampling
from tests.builders import a_job
from tests.worker import tiny
from tests.worker.asked import DROPPED, asked, damaged, is_what_generate_says, prompted
from tests.worker.claims import a_claim, an_engine, answers, finish, is_failed, keys, read
from worker.engine.model import Drawn, Feed
from worker.engine.rowbatch import RowModel, UnsupportedModelError
from worker.engine.sequence import Bounds, Draw

_NAMES = list(tiny.CONFIGS)
_LLAMA = tiny.network()
_GREEDY = Draw(0)


@pytest.mark.parametrize("name", _NAMES)
def test_greedy_answers_are_those_of_generate_whoever_comes_and_goes(name: str) -> None:
    network = tiny.network(name)
    jobs = [asked(length, most) for length, most in ((1, 20), (5, 6), (40, 30), (9, 3), (31, 12), (64, 9), (17, 16))]
    engine, notes = an_engine(tiny.rows(network, slots=3))

    for job in jobs:
        engine.add(a_claim(job))
        engine.step()
        engine.step()
    finish(engine)

    assert is_what_generate_says(network, notes, jobs)


@pytest.mark.parametrize("name", ["llama", "gemma3, sliding and full"])
def test_plain_attention_says_the_same(name: str) -> None:
    network = tiny.with_eager_attention(name)
    jobs = [asked(length, 8) for length in (3, 20, 40)]
    model = tiny.rows(network, slots=2)
    model.test()

    notes = answers(model, *map(a_claim, jobs))

    assert is_what_generate_says(network, notes, jobs)


@pytest.mark.parametrize("name", ["llama", "mistral, all layers sliding"])
def test_an_answer_may_fill_the_context(name: str) -> None:
    network = tiny.network(name)
    long, short = asked(tiny.CONTEXT - 80, 1_000), asked(10, 60)

    notes = answers(tiny.rows(network, slots=2), a_claim(long), a_claim(short))

    assert (len(notes.tokens(long)), notes.finish(long)) == (80, "length")
    expected = tiny.generated(network, long.prompts[0], 80)
    assert notes.tokens(long)[: len(expected)] == expected
    assert len(expected) > 60


def test_an_end_token_ends_the_answer() -> None:
    job = asked(7, 30)
    plain = tiny.generated(_LLAMA, job.prompts[0], 30)
    end = plain[10]

    notes = answers(tiny.rows(_LLAMA, end_ids=(299, end)), a_claim(job))

    assert notes.tokens(job) == plain[: plain.index(end) + 1]
    assert notes.text(job) == tiny.letters(plain[: plain.index(end)])
    assert notes.finish(job) == "stop"


def test_draws_do_not_depend_on_mates() -> None:
    jobs = [asked(length, 15, seed=length, sampling=Sampling(15, 0.8, 0.9)) for length in (4, 11, 25)]
    greedy = asked(6, 15)

    together = answers(tiny.rows(_LLAMA), *map(a_claim, [*jobs, greedy]))
    alone = [answers(tiny.rows(_LLAMA), a_claim(job)) for job in jobs]

    assert [together.tokens(job) for job in jobs] == [notes.tokens(job) for job, notes in zip(jobs, alone, strict=True)]
    assert is_what_generate_says(_LLAMA, together, [greedy])


def test_choices_of_one_prompt_differ_and_another_seed_says_something_else() -> None:
    job = asked(8, 12, n=3, seed=5, sampling=Sampling(12, 1.0))
    other = asked(8, 12, seed=6, sampling=Sampling(12, 1.0))

    notes = answers(tiny.rows(_LLAMA), a_claim(job), a_claim(other))

    said = [notes.tokens(job, choice) for choice in range(3)] + [notes.tokens(other)]
    assert len({tuple(tokens) for tokens in said}) == 4


@pytest.mark.parametrize("sampling", [Sampling(24, 0.0), Sampling(24, 1.0, stop=("e", "7K", "\x00"))], ids=str)
def test_an_answer_of_bytes_cut_anywhere_goes_on_the_same(sampling: Sampling) -> None:
    bytes_of = RowModel(_LLAMA, tiny.Spoken(lambda tokens: read([token % 256 for token in tokens])), Bounds(320, ()), 4)
    job, mate = asked(6, 0, n=2, seed=9, sampling=sampling), asked(13, 20)
    whole = answers(bytes_of, a_claim(job)).events[job.id]

    for cut in range(0, len(whole), 3):
        said = [event for event in whole[:cut] if isinstance(event, Delta)]
        rest = answers(bytes_of, a_claim(mate), a_claim(job, said)).events[job.id]
        for choice in (0, 1):
            assert _told([*said, *rest], choice) == _told(whole, choice)
        assert rest[-1] == whole[-1]


def _told(events: Sequence[object], choice: int) -> tuple[str, list[int], list[object]]:
    mine = [event for event in events if isinstance(event, Delta) and event.choice == choice]
    tokens = [token for event in mine for token in event.tokens]
    return "".join(event.text for event in mine), tokens, [event.finish for event in mine if event.finish]


def test_a_parked_answer_comes_back_the_same() -> None:
    jobs = [asked(length, 20, cls="batch") for length in (5, 30, 12)]
    engine, notes = an_engine(tiny.rows(_LLAMA, slots=3), *jobs)

    for slots in (1, 2, 3):
        for _ in range(4):
            engine.step()
        engine.add(a_claim(asked(4, 2, cls="normal", n=slots)))
    finish(engine)

    assert engine.counters["preemptions"] == 6
    assert is_what_generate_says(_LLAMA, notes, jobs)


def test_a_prompt_that_gives_no_numbers_fails_alone() -> None:
    network = damaged()
    bad = a_job(prompts=((1, DROPPED, 3),), sampling=Sampling(9, 0.0))
    mates = [asked(5, 12), asked(11, 12)]
    engine, notes = an_engine(tiny.rows(network, slots=3), mates[0], bad, mates[1])

    finish(engine)

    assert is_failed(notes, bad)
    assert notes.tokens(bad) == []
    assert is_what_generate_says(network, notes, mates)


def test_an_unknown_token_fails_alone() -> None:
    bad = a_job(prompts=((1, tiny.VOCABULARY, 3),), sampling=Sampling(9, 0.0))
    mates = [asked(5, 12), asked(11, 12)]
    engine, notes = an_engine(tiny.rows(_LLAMA, slots=3), mates[0])
    engine.step()

    for job in (bad, mates[1]):
        engine.add(a_claim(job))
    finish(engine)

    assert is_failed(notes, bad)
    assert is_what_generate_says(_LLAMA, notes, mates)


class _Breaking(RowModel):
    """Breaks in the middle of every decoding of one sequence, after the forward."""

    bad_key: int

    def step(self, feeds: Sequence[Feed]) -> Mapping[int, Drawn]:
        tokens = super().step(feeds)
        if any(feed.draw.key == self.bad_key and feed.position > 8 for feed in feeds):
            raise RuntimeError("out of luck")
        return tokens


@pytest.mark.parametrize("at", [0, 1, 2, 3, 4])
def test_rows_that_were_tried_in_parts_keep_their_places(at: int) -> None:
    jobs = [asked(length, 12, seed=length) for length in (4, 5, 6, 7, 8)]
    model = _Breaking(_LLAMA, tiny.LETTERS, Bounds(tiny.CONTEXT, ()), 5)
    model.bad_key = keys(jobs[at])[0]
    engine, notes = an_engine(model, *jobs)

    finish(engine)

    mates = [job for job in jobs if job != jobs[at]]
    assert is_failed(notes, jobs[at])
    assert all(isinstance(notes.events[job.id][-1], Done) for job in mates)
    assert is_what_generate_says(_LLAMA, notes, mates)


class _BreakingInside(RowModel):
    """Breaks in every decoding of one sequence, when its states have moved on."""

    bad_key: int

    def _decode(self, feeds: Sequence[Feed]) -> torch.Tensor:
        logits = super()._decode(feeds)
        if any(feed.draw.key == self.bad_key and feed.position > 8 for feed in feeds):
            raise RuntimeError("out of luck")
        return logits


@pytest.mark.parametrize("name", ["lfm2, convolutions", "qwen3_next, linear attention"])
def test_a_state_moves_once_however_often_a_step_is_done(name: str) -> None:
    network = tiny.network(name)
    jobs = [asked(length, 12, seed=length) for length in (4, 5, 6, 7, 8)]
    model = _BreakingInside(network, tiny.LETTERS, Bounds(tiny.CONTEXT, ()), 5)
    model.bad_key = keys(jobs[2])[0]
    engine, notes = an_engine(model, *jobs)

    finish(engine)

    mates = [job for job in jobs if job != jobs[2]]
    assert is_failed(notes, jobs[2])
    assert is_what_generate_says(network, notes, mates)


def _step(model: RowModel, *feeds: tuple[int, Sequence[int], int]) -> Mapping[int, int | None]:
    drawn = model.step([Feed(slot, tokens, position, _GREEDY) for slot, tokens, position in feeds])
    return {slot: one.token for slot, one in drawn.items()}


def test_a_row_that_broke_while_it_decoded_disturbs_no_mate() -> None:
    network = damaged()
    model, plain = tiny.rows(network), tiny.rows(network)
    for rows in (model, plain):
        _step(rows, (0, prompted(5), 0), (1, prompted(9), 0), (2, prompted(3), 0))

    tokens = _step(model, (0, [7], 5), (1, [DROPPED], 9), (2, [7], 3))

    whole = _step(plain, (0, [7], 5), (1, [7], 9), (2, [7], 3))
    assert tokens == {**whole, 1: None}


@pytest.mark.parametrize("freed", [(0, 1, 2), (2, 1, 0), (1, 0, 2), (0, 2, 1)])
@pytest.mark.parametrize("broken", [0, 1, 2])
def test_nothing_that_is_no_number_is_left_for_the_next_in_a_row(freed: Sequence[int], broken: int) -> None:
    network = damaged()
    model = tiny.rows(network)
    for slot in range(3):
        _step(model, (slot, (*prompted(20 + slot), *[DROPPED] * (slot == broken)), 0))
    for slot in freed:
        model.free(slot)

    first = _step(model, *((slot, prompted(4 + slot), 0) for slot in range(3)))
    second = _step(model, *((slot, [first[slot] or 0], 4 + slot) for slot in range(3)))

    said = [[first[slot], second[slot]] for slot in range(3)]
    assert said == [tiny.generated(network, prompted(4 + slot), 2) for slot in range(3)]


def test_a_slot_that_was_never_used_is_free_already() -> None:
    model = tiny.rows(_LLAMA)

    model.free(3)

    assert _step(model, (3, prompted(5), 0)) == {3: tiny.generated(_LLAMA, prompted(5), 1)[0]}


@pytest.mark.parametrize("name", _NAMES)
def test_a_model_that_works_passes_its_test_and_keeps_nothing_of_it(name: str) -> None:
    model = tiny.rows(tiny.network(name))

    model.test()

    assert model._row_of == {}


def test_a_model_whose_layers_remember_otherwise_is_refused() -> None:
    shape = {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2, "intermediate_size": 32}
    odd = LlamaConfig(**shape, **heads, layer_types=["chunked_attention", "full_attention"])

    for config, reason in ((MambaConfig(**shape), "does not take"), (odd, "layers of type chunked_attention")):
        with pytest.raises(UnsupportedModelError, match=reason):
            tiny.rows(AutoModelForCausalLM.from_config(config))


class _Forgetful(torch.nn.Module):
    """Answers from the newest token alone, whatever its cache holds."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network, self.config, self.dtype, self.device = network, network.config, torch.float32, network.device

    def forward(self, input_ids: Any, position_ids: Any = None, past_key_values: Any = None, **_: Any) -> Any:
        return self.network(input_ids=input_ids, position_ids=position_ids, use_cache=past_key_values is not None)


def test_a_model_that_ignores_the_cache_is_refused() -> None:
    with pytest.raises(UnsupportedModelError, match="does not give what its plain forward gives"):
        tiny.rows(_Forgetful(_LLAMA)).test()


def test_a_model_that_takes_no_cache_is_refused() -> None:
    network = tiny.network()
    network.forward = lambda input_ids: input_ids

    with pytest.raises(UnsupportedModelError, match="does not take past_key_values, position_ids"):
        tiny.rows(network)
