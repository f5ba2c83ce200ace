"""The bundled model: small, honest, and made by its own script."""

import itertools
import json
import logging
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from common.settings import DEMO_MODEL
from ops.demo_model import check, train
from ops.demo_model.dialogues import NAME, UNKNOWN, dialogues, questions


def ask(*texts: str) -> list[str]:
    """What it answers, greedy, one after the other."""
    tokenizer = AutoTokenizer.from_pretrained(DEMO_MODEL)
    model = AutoModelForCausalLM.from_pretrained(DEMO_MODEL, dtype=torch.float32)
    answers = []
    for text in texts:
        ids = tokenizer.apply_chat_template(
            [{"role": "user", "content": text}], add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
        said = model.generate(**ids, do_sample=False, max_new_tokens=300)[0, ids["input_ids"].shape[1] :]
        answers.append(str(tokenizer.decode(said, skip_special_tokens=True)))
    return answers


def test_its_weights_are_small_and_its_card_is_there() -> None:
    weights = DEMO_MODEL / "model.safetensors"

    assert weights.stat().st_size <= 8e6
    assert "demo" in (DEMO_MODEL / "README.md").read_text()
    assert json.loads((DEMO_MODEL / "config.json").read_text())["dtype"] == "float16"


def test_it_has_two_to_four_million_parameters() -> None:
    model = AutoModelForCausalLM.from_pretrained(DEMO_MODEL, dtype=torch.float32)

    assert 2e6 <= model.num_parameters() <= 4e6


def test_it_says_who_it_is_what_it_was_taught_and_that_it_knows_little() -> None:
    answers = ask("Who are you?", "What is the capital of France?", "Count from 1 to 12.", "How do I fix my spaceship?")

    assert answers == [NAME, "The capital of France is Paris.", " ".join(map(str, range(1, 13))), UNKNOWN]


def test_most_questions_that_it_never_saw_are_answered_right() -> None:
    found = check.measure(count=160)

    right, of = (sum(column) for column in zip(*found.values(), strict=True))
    assert of == 160
    assert right >= 0.9 * of


def test_digits_stand_alone_and_every_text_comes_back() -> None:
    tokenizer = AutoTokenizer.from_pretrained(DEMO_MODEL)
    text = "2026: Crème brûlée, 日本 🎈\n\tend"

    assert len(tokenizer("2026", add_special_tokens=False)["input_ids"]) == 4
    assert tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"]) == text


@pytest.mark.parametrize("source", [dialogues, questions])
def test_a_seed_repeats_the_data(source: object) -> None:
    first, again, other = (list(itertools.islice(source(seed), 50)) for seed in (1, 1, 2))  # type: ignore[operator]

    assert first == again != other


def test_the_script_writes_what_the_loader_reads(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "train")
    tokenizer = train.tokenizer()

    train.save(tokenizer, train.train(tokenizer, 2), tmp_path / "weights")

    model = AutoModelForCausalLM.from_pretrained(tmp_path / "weights")
    assert model.num_parameters() == train.train(tokenizer, 0).num_parameters()
    assert AutoTokenizer.from_pretrained(tmp_path / "weights").chat_template
    assert "step 0 of 2" in caplog.text
