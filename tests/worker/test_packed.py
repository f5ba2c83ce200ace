"""Sequences in one row and in blocks: what is said does not depend on pieces, neighbours, or what others had read."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from common.jobs import Delta, Done, Echo, Event, Job, Logprob, Sampling
from tests.builders import a_job
from tests.worker import tiny
from tests.worker.asked import DROPPED, asked, damaged, is_what_generate_says, prompted
from tests.worker.claims import Notes, a_claim, an_engine, answers, finish, is_failed
from worker.engine.engine import Engine
from worker.engine.packed import SIZE, PackedModel
from worker.engine.rowbatch import UnsupportedModelError
from worker.engine.sequence import Bounds

_PACKED = [name for name in tiny.CONFIGS if "conv" not in name and "linear" not in name]
OTHER = "f" * 32


def _slow(engine: Engine, tokens: int) -> None:
    """Let a step read about so many tokens of prompts."""
    engine._pace._prefill_s = 0.05 / tokens


def _usage(notes: Notes, job: Job) -> tuple[int, int]:
    done = notes.events[job.id][-1]
    assert isinstance(done, Done)
    return done.usage.prompt_tokens, done.usage.cached_tokens


def _entries(events: Sequence[Event], choice: int) -> list[Logprob]:
    mine = (event for event in events if isinstance(event, Delta) and event.choice == choice)
    return [one for event in mine for one in event.logprobs]


def _all_is_free(model: PackedModel) -> bool:
    return model.blocks.available == model.blocks.count


@pytest.mark.parametrize("name", _PACKED)
def test_greedy_answers_are_those_of_generate_whoever_comes_and_goes(name: str) -> None:
    jobs = [asked(length, most) for length, most in ((1, 20), (5, 6), (40, 30), (9, 3), (31, 12), (64, 9), (17, 16))]
    model = tiny.packed(name, slots=3)
    engine, notes = an_engine(model)

    for job in jobs:
        engine.add(a_claim(job))
        engine.step()
        engine.step()
    finish(engine)

    assert is_what_generate_says(tiny.network(name), notes, jobs)
    assert _all_is_free(model)


@pytest.mark.parametrize("name", _PACKED)
@pytest.mark.parametrize("tokens", [16, 23])
def test_a_prompt_in_pieces_is_answered_as_in_one(name: str, tokens: int) -> None:
    jobs = [asked(length, 10) for length in (100, 3, 61, 16, 17)]
    engine, notes = an_engine(tiny.packed(name))
    longest = 0
    for job in jobs:
        engine.add(a_claim(job))
    while engine.stalled_s() is not None:
        _slow(engine, tokens)
        before = engine.counters["prefilled_tokens"]
        engine.step()
        longest = max(longest, int(engine.counters["prefilled_tokens"] - before))

    assert is_what_generate_says(tiny.network(name), notes, jobs)
    assert longest <= tokens


def test_a_prompt_with_scores_is_told_the_same_in_pieces() -> None:
    job = asked(90, 8, sampling=Sampling(8, 0.0, logprobs=3), echo=(Echo("x" * 90, tuple(range(90))),))
    whole = _entries(answers(tiny.packed(), a_claim(job)).events[job.id], 0)
    engine, notes = an_engine(tiny.packed(), asked(5, 60), job)
    steps = 0
    while engine.stalled_s() is not None:
        _slow(engine, 16)
        before = engine.counters["prefilled_tokens"]
        engine.step()
        steps += engine.counters["prefilled_tokens"] > before
    pieces = _entries(notes.events[job.id], 0)

    assert steps == 6
    assert [one.token for one in pieces] == [one.token for one in whole]
    assert [one.value for one in pieces[1:]] == pytest.approx([one.value for one in whole[1:]], abs=1e-4)
    assert [one.top[0][0] for one in pieces[1:]] == [one.top[0][0] for one in whole[1:]]
    assert len(pieces) == 98


@pytest.mark.parametrize("length", [31, 32, 33, 34, 49])
def test_every_token_of_a_prompt_in_pieces_is_counted_as_read(length: int) -> None:
    job = asked(length, 3)
    engine, notes = an_engine(tiny.packed(), job)
    while engine.stalled_s() is not None:
        _slow(engine, 16)
        engine.step()

    assert engine.counters["prefilled_tokens"] == length
    assert len(notes.tokens(job)) == 3


def test_those_who_decode_go_on_while_a_long_prompt_is_read() -> None:
    short, long = asked(4, 40), asked(200, 5)
    engine, notes = an_engine(tiny.packed(), short)
    engine.step()
    engine.add(a_claim(long))

    for _ in range(6):
        _slow(engine, 16)
        engine.step()

    assert (len(notes.tokens(short)), notes.tokens(long)) == (7, [])


def test_a_higher_class_reads_first() -> None:
    batch, person = asked(100, 3, cls="batch"), asked(99, 3)
    engine, notes = an_engine(tiny.packed(), batch)
    _slow(engine, 16)
    engine.step()
    engine.add(a_claim(person))

    while not notes.tokens(person):
        _slow(engine, 16)
        engine.step()

    assert notes.tokens(batch) == []


def test_the_same_beginning_is_read_once() -> None:
    shared, model = prompted(70), tiny.packed()
    first, second = (asked(0, 8, prompts=((*shared, *rest),)) for rest in ((7, 8), (9,)))
    engine, notes = an_engine(model, first)
    finish(engine)
    read = engine.counters["prefilled_tokens"]

    engine.add(a_claim(second))
    finish(engine)

    assert is_what_generate_says(tiny.network(), notes, [first, second])
    assert engine.counters["prefilled_tokens"] - read == 71 - 64
    assert (_usage(notes, first), _usage(notes, second)) == ((72, 0), (71, 64))
    assert engine.counters["cached_tokens"] == 64


def test_a_conversation_goes_on_behind_its_own_answer() -> None:
    first = asked(40, 30)
    engine, notes = an_engine(tiny.packed(), first)
    finish(engine)
    longer = (*first.prompts[0], *notes.tokens(first), 5, 6)
    second = asked(0, 6, prompts=(longer,))

    engine.add(a_claim(second))
    finish(engine)

    assert is_what_generate_says(tiny.network(), notes, [second])
    assert _usage(notes, second) == (72, 64)


def test_what_one_owner_had_read_another_computes_for_himself() -> None:
    mine = asked(70, 4)
    theirs = replace(mine, id=a_job().id, owner=OTHER)
    engine, notes = an_engine(tiny.packed(), mine)
    finish(engine)

    engine.add(a_claim(theirs))
    finish(engine)

    assert _usage(notes, theirs) == (70, 0)
    assert notes.tokens(theirs) == notes.tokens(mine)


def test_owners_share_what_was_read_where_they_are_told_to() -> None:
    mine = asked(70, 4)
    theirs = replace(mine, id=a_job().id, owner=OTHER)
    engine, notes = an_engine(tiny.packed(shares_prefixes=True), mine)
    finish(engine)

    engine.add(a_claim(theirs))
    finish(engine)

    assert _usage(notes, theirs) == (70, 64)
    assert notes.tokens(theirs) == notes.tokens(mine)


def test_choices_of_one_prompt_read_it_once_and_say_different_things() -> None:
    job = asked(100, 8, n=4, sampling=Sampling(8, 1.0), seed=3)
    engine, notes = an_engine(tiny.packed(), job)
    finish(engine)

    alone = answers(tiny.packed(slots=1), a_claim(job))

    assert engine.counters["prefilled_tokens"] == 100 + 3 * (100 - 96)
    assert [notes.tokens(job, choice) for choice in range(4)] == [alone.tokens(job, choice) for choice in range(4)]
    assert len({tuple(notes.tokens(job, choice)) for choice in range(4)}) == 4
    assert _usage(notes, job) == (100, 0)


def test_too_few_blocks_make_the_newest_wait_and_nobody_says_anything_else() -> None:
    jobs = [asked(length, 60) for length in (30, 31, 32, 33)]
    model = tiny.packed(blocks=13)  # two of them fit to their end
    engine, notes = an_engine(model, *jobs)
    alone = set()

    while engine.stalled_s() is not None:
        engine.step()
        running = {sequence.job_id for sequence in engine._scheduler.running}
        alone |= {job.id for job in jobs if job.id in running and len(running) <= 2}

    assert jobs[0].id in alone
    assert is_what_generate_says(tiny.network(), notes, jobs)
    assert _all_is_free(model)


def test_who_grows_takes_the_blocks_of_the_newest_of_the_lowest_class() -> None:
    person, batch = asked(40, 100), asked(40, 100, cls="batch", prompts=(prompted(40, 1),))
    model = tiny.packed(blocks=12)
    engine, notes = an_engine(model, batch, person)
    parked = False

    while engine.stalled_s() is not None:
        engine.step()
        parked |= engine._scheduler[batch.id].parked_at is not None if batch.id in engine._scheduler else False

    assert parked
    assert is_what_generate_says(tiny.network(), notes, [person, batch])
    assert _all_is_free(model)


def test_a_person_does_not_wait_for_the_blocks_of_a_batch() -> None:
    batch = [asked(40, 120, cls="batch", prompts=(prompted(40, at),)) for at in range(2)]
    person = asked(100, 20)
    model = tiny.packed(blocks=16)
    engine, notes = an_engine(model, *batch)
    for _ in range(60):
        engine.step()

    engine.add(a_claim(person))
    engine.step()

    assert notes.tokens(person) != []
    finish(engine)
    assert is_what_generate_says(tiny.network(), notes, [person, *batch])
    assert _all_is_free(model)


def test_a_pool_that_is_too_small_for_the_context_lowers_it() -> None:
    model = tiny.packed(blocks=5)

    assert model.bounds.context == 5 * SIZE - 1
    assert tiny.packed().bounds.context == tiny.CONTEXT


def test_draws_do_not_depend_on_mates_or_on_what_was_found_computed() -> None:
    jobs = [asked(length, 15, seed=length, sampling=Sampling(15, 0.8, 0.9)) for length in (4, 40, 25)]
    edits = Sampling(15, 0.9, repetition=1.3, presence=0.5, frequency=0.2, bias=((5, 1.0),))
    jobs.append(asked(50, 15, seed=5, sampling=edits))
    model = tiny.packed()

    together = answers(model, *map(a_claim, jobs))
    again = answers(model, *map(a_claim, reversed(jobs)))  # behind blocks that the first time filled
    alone = [answers(tiny.packed(), a_claim(job)) for job in jobs]

    for job, notes in zip(jobs, alone, strict=True):
        assert together.tokens(job) == again.tokens(job) == notes.tokens(job)
    assert _usage(again, jobs[3])[1] == 48


def test_an_answer_cut_anywhere_goes_on_the_same_with_its_scores() -> None:
    job = asked(20, 24, sampling=Sampling(24, 1.0, logprobs=2), n=2, seed=9, echo=(Echo("x" * 20, tuple(range(20))),))
    whole = answers(tiny.packed(), a_claim(job)).events[job.id]

    for cut in range(0, len(whole), 7):
        said = [event for event in whole[:cut] if isinstance(event, Delta)]
        rest = answers(tiny.packed(), a_claim(asked(9, 5)), a_claim(job, said)).events[job.id]
        for choice in (0, 1):
            had, has = (
                [
                    one
                    for event in events
                    if isinstance(event, Delta) and event.choice == choice
                    for one in event.logprobs
                ]
                for events in (whole, [*said, *rest])
            )
            assert [one.token for one in has] == [one.token for one in had]
            assert [one.value for one in has[1:]] == pytest.approx([one.value for one in had[1:]], abs=1e-4)
            assert len(had) == 44


def test_a_prompt_that_gives_no_numbers_fails_alone_and_leaves_nothing_behind() -> None:
    model = tiny.packed(damaged=damaged(), blocks=30)
    bad = [a_job(prompts=((*prompted(20, at), DROPPED, 3),), sampling=Sampling(9, 0.0)) for at in range(3)]
    mates = [asked(5, 12), asked(30, 12)]
    engine, notes = an_engine(model, mates[0], *bad, mates[1])
    finish(engine)
    later = [asked(length, 12) for length in (90, 91, 92, 93)]  # in all the blocks there are

    for job in later:
        engine.add(a_claim(job))
    finish(engine)

    assert all(is_failed(notes, job) for job in bad)
    assert is_what_generate_says(tiny.network(), notes, [*mates, *later])
    assert all(bool(store.keys.isfinite().all() and store.values.isfinite().all()) for store in model._stores.values())


def test_what_was_read_with_a_broken_prompt_is_not_found_by_the_next() -> None:
    bad = a_job(prompts=((*prompted(20), DROPPED, *prompted(20)),), sampling=Sampling(9, 0.0))
    model = tiny.packed(damaged=damaged())

    answers(model, a_claim(bad))

    assert model.blocks.kept == 0
    assert _all_is_free(model)


def test_a_parked_answer_comes_back_the_same_and_behind_its_own_blocks() -> None:
    jobs = [asked(length, 20, cls="batch") for length in (25, 30, 42)]
    engine, notes = an_engine(tiny.packed(slots=3), *jobs)
    for slots in (1, 2, 3):
        for _ in range(4):
            engine.step()
        engine.add(a_claim(asked(4, 2, cls="normal", n=slots)))
    finish(engine)

    assert engine.counters["preemptions"] == 6
    assert is_what_generate_says(tiny.network(), notes, jobs)
    assert engine.counters["prefilled_tokens"] < 25 + 30 + 42 + 3 * 4 + 6 * 20 + 60


def test_an_answer_may_fill_the_context() -> None:
    job = asked(tiny.CONTEXT - 80, 1_000)

    notes = answers(tiny.packed(slots=2), a_claim(job))

    assert (len(notes.tokens(job)), notes.finish(job)) == (80, "length")


@pytest.mark.parametrize("name", [name for name in tiny.CONFIGS if name not in _PACKED])
def test_a_model_with_states_cannot_be_packed(name: str) -> None:
    with pytest.raises(UnsupportedModelError, match="it has layers of type"):
        tiny.packed(name)


def test_a_model_whose_packed_forward_differs_is_refused() -> None:
    class Strange(LlamaForCausalLM):  # type: ignore[misc]  # transformers is untyped here
        """Looks at where a token stands in the row."""

        def forward(self, *args: Any, position_ids: Any = None, logits_to_keep: Any = 0, **more: Any) -> Any:
            shifted = None if position_ids is None else position_ids + more["input_ids"].shape[1]
            return super().forward(*args, position_ids=shifted, logits_to_keep=logits_to_keep, **more)

    torch.manual_seed(0)
    network = Strange(LlamaConfig(**tiny.SHAPE, **tiny.GROUPED)).eval().requires_grad_(requires_grad=False)

    with pytest.raises(UnsupportedModelError):
        PackedModel(network, tiny.LETTERS, Bounds(64, ()), 2, lambda _: 2**20)
