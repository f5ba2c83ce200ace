from pathlib import Path

import pytest
from transformers.models.auto.tokenization_auto import AutoTokenizer

from common.bundle import unpack
from common.jobs import Delta, Sampling
from tests.worker.claims import a_claim, answers, counting, is_failed, spelled
from worker.models.counting import CONTEXT, Counting


@pytest.mark.parametrize(
    ("prompt", "answer"),
    [
        ("1 2 3 ", "4 5 6 7"),
        ("1 2 3", " 4 5 6 7"),
        ("count: 98 9", "9 100 1"),
        ("7 12", " 13 14 "),
        ("hello", "1 2 3 4"),
        ("", "1 2 3 4"),
        ("999999 ", "1000000"),
        ("世 8 ", "9 10 11"),
    ],
)
def test_it_goes_on_counting_from_where_the_prompt_ends(prompt: str, answer: str) -> None:
    job = counting(f"\n{prompt}", len(answer))

    assert answers(Counting("answer=10000000", 2), a_claim(job)).text(job) == answer


def test_it_stops_at_the_answer() -> None:
    job = counting("10 ", 100)

    notes = answers(Counting("?answer=12", 2), a_claim(job))

    assert (notes.text(job), notes.finish(job)) == ("11 12", "stop")
    assert notes.tokens(job)[-1] == 256


def test_a_temperature_draws_digits_and_spaces_by_seed_and_choice() -> None:
    jobs = [counting("1 ", 60, n=2, seed=seed, sampling=Sampling(60, 0.5)) for seed in (1, 2)]

    notes = answers(Counting("", 4), *map(a_claim, jobs))
    again = answers(Counting("", 1), *map(a_claim, reversed(jobs)))

    said = [notes.text(job, choice) for job in jobs for choice in (0, 1)]
    assert set("".join(said)) == set("0123456789 ")
    assert len(set(said)) == 4
    assert said == [again.text(job, choice) for job in jobs for choice in (0, 1)]


@pytest.mark.parametrize("temperature", [0.0, 0.7])
def test_it_resumes_where_it_was(temperature: float) -> None:
    job = counting("98 ", sampling=Sampling(20, temperature))
    whole = answers(Counting("", 1), a_claim(job))

    for cut in range(20):
        said = [event for event in whole.events[job.id][:cut] if isinstance(event, Delta)]
        rest = answers(Counting("", 1), a_claim(job, said))
        assert rest.events[job.id] == whole.events[job.id][cut:]


def test_its_context_can_be_made_smaller_only() -> None:
    contexts = [Counting("", 1, context).bounds.context for context in (None, 100, 10**6)]

    assert contexts == [CONTEXT, 100, CONTEXT]


def test_a_door_can_spell_for_it(tmp_path: Path) -> None:
    unpack(Counting("", 1).files(), tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)

    assert tuple(tokenizer("Grüße 12")["input_ids"]) == spelled("Grüße 12")
    assert tokenizer.apply_chat_template([{"role": "user", "content": "1 2"}], tokenize=False) == "1 2\n"
    assert Counting("", 1).files() == Counting("answer=3", 9).files()


def test_it_breaks_where_it_was_told_to_and_nothing_of_a_broken_step_is_kept() -> None:
    broken, sound = counting("7 ", 8, seed=1), counting("7 1", 8, seed=2)
    notes = answers(Counting("raise_at=9&answer=100", 2), a_claim(broken), a_claim(sound))

    assert (notes.text(broken), is_failed(notes, broken)) == ("8 9", True)
    assert (notes.text(sound), is_failed(notes, sound)) == (" 2 3 4 5", False)
