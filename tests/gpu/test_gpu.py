"""What must hold on a card as it does on a CPU; `make gpu` runs the card's half."""

from pathlib import Path
from typing import Any

import pytest
import torch

from common.jobs import Done, Job, Sampling
from common.settings import Model
from tests.builders import a_job
from tests.worker import saved_models, tiny
from tests.worker.asked import DROPPED, asked, is_what_generate_says, prompted
from tests.worker.claims import Notes, a_claim, an_engine, answers, finish, is_failed
from worker.engine.model import Feed
from worker.engine.packed import PackedModel
from worker.engine.sampler import Sampler
from worker.engine.sequence import Draw
from worker.models.loader import load

_KEY = 12345
_MORE_THAN_THERE_IS = 2**50  # bytes
_ASKED = [
    Draw(_KEY),
    Draw(_KEY, 0.7),
    Draw(_KEY, 0.8, top_p=0.9),
    Draw(_KEY, 1.0, top_k=40),
    Draw(_KEY, 1.2, min_p=0.05),
    Draw(_KEY, 1.3, top_p=0.7, top_k=20, min_p=0.01),
    Draw(_KEY, 3.0, top_p=0.99),
]


def _packed(network: Any, **changes: Any) -> PackedModel:
    return tiny.packed(damaged=network, **changes)


def _cached(notes: Notes, job: Job) -> int:
    done = notes.events[job.id][-1]
    assert isinstance(done, Done)
    return done.usage.cached_tokens


@pytest.mark.parametrize("name", ["qwen3", "gemma3, sliding and full", "gpt_oss, sinks and experts"])
def test_greedy_answers_of_a_card_are_those_of_generate(device: torch.device, name: str) -> None:
    jobs = [asked(length, most) for length, most in ((1, 20), (40, 30), (9, 3), (64, 9), (17, 16))]

    notes = answers(_packed(tiny.network(name).to(device), slots=3), *map(a_claim, jobs))

    assert is_what_generate_says(tiny.network(name).to(device), notes, jobs)


@torch.inference_mode()
def test_half_precision_logits_are_near_those_of_the_plain_model(device: torch.device) -> None:
    network, prompt = tiny.network("qwen3").to(device, torch.bfloat16), prompted(40)
    plain = network(torch.tensor([prompt], device=device), use_cache=False).logits[0].float()  # [40, V]
    model = _packed(network)
    blocks = model.blocks.take(3)

    for start, end in ((0, 17), (17, 18), (18, 39), (39, 40)):
        read = model._read((Feed(0, prompt[start:end], start, Draw(0), blocks=blocks),))

        assert (read[0][-1].float() - plain[end - 1]).abs().max() < 0.05 * plain.abs().max()


@pytest.mark.parametrize("quantization", ["nf4", "int8"])
def test_a_model_quantised_while_it_loads_answers(device: torch.device, quantization: str, tmp_path: Path) -> None:
    folder = saved_models.save(tmp_path, saved_models.WIDE)
    loaded = load(Model(name="m", path=str(folder), device=device.type, quantization=quantization), threads=1)
    jobs = [asked(length, 12, sampling=Sampling(12, 0.0, min_tokens=12)) for length in (3, 20)]

    notes = answers(loaded.model, *map(a_claim, jobs))

    assert loaded.card.quantization == quantization
    assert [len(notes.tokens(job)) for job in jobs] == [12, 12]


@pytest.mark.parametrize("vocabulary", [300, 151_936])
def test_a_card_draws_what_a_cpu_draws(device: torch.device, vocabulary: int) -> None:
    logits = 3 * torch.randn(len(_ASKED), vocabulary, generator=torch.Generator().manual_seed(0))
    places = torch.arange(len(_ASKED))

    drawn = Sampler(device)(logits.to(device), _ASKED, places.to(device))

    assert drawn == Sampler(torch.device("cpu"))(logits, _ASKED, places)
    assert None not in drawn


def test_a_card_reads_the_same_beginning_once(device: torch.device) -> None:
    shared = prompted(70)
    first, second = (asked(0, 8, prompts=((*shared, *rest),)) for rest in ((7, 8), (9,)))
    engine, notes = an_engine(_packed(tiny.network().to(device)), first)
    finish(engine)

    engine.add(a_claim(second))
    finish(engine)

    assert (_cached(notes, first), _cached(notes, second)) == (0, 64)
    assert is_what_generate_says(tiny.network().to(device), notes, [first, second])


def test_who_was_parked_on_a_card_goes_on_the_same(device: torch.device) -> None:
    batch = [asked(40, 120, cls="batch", prompts=(prompted(40, at),)) for at in range(2)]
    person = asked(100, 20)
    model = _packed(tiny.network().to(device), blocks=16)  # for one and a half of them
    engine, notes = an_engine(model, *batch)
    for _ in range(60):
        engine.step()

    engine.add(a_claim(person))
    engine.step()
    parked = [job for job in batch if engine._scheduler[job.id].parked_at is not None]
    finish(engine)

    assert parked != []
    assert is_what_generate_says(tiny.network().to(device), notes, [person, *batch])
    assert model.blocks.available == model.blocks.count


def test_who_needs_more_memory_than_there_is_fails_alone(device: torch.device) -> None:
    network = tiny.network().to(device)

    def fill(_module: Any, given: tuple[torch.Tensor, ...]) -> None:
        if DROPPED in given[0]:
            torch.empty(_MORE_THAN_THERE_IS, dtype=torch.uint8, device=device)

    network.get_input_embeddings().register_forward_pre_hook(fill)
    mates = [asked(5, 12), asked(30, 12)]
    greedy = a_job(prompts=((*prompted(20), DROPPED, 3),), sampling=Sampling(9, 0.0))
    model = _packed(network)
    engine, notes = an_engine(model, mates[0], greedy, mates[1])

    finish(engine)

    assert is_failed(notes, greedy)
    assert is_what_generate_says(tiny.network().to(device), notes, mates)
    assert model.blocks.available == model.blocks.count
