"""The benchmarks run, small."""

import pytest
import torch
from tokenizers import Tokenizer
from transformers import Qwen3Config, Qwen3ForCausalLM

from ops.bench import constrained, door, masks, vocabulary
from ops.bench.engine import VOCABULARY
from tests.worker import tiny


@pytest.fixture(scope="module")
def spoken() -> Tokenizer:
    return vocabulary.trained(vocabulary.SPECIAL + 700)


def test_a_trained_tokenizer_has_all_its_tokens_and_spells_any_text(spoken: Tokenizer) -> None:
    text = 'def it(is):\n    return "né, 中"  # 12345'

    ids = spoken.encode(text).ids

    assert spoken.get_vocab_size() == vocabulary.SPECIAL + 700
    assert spoken.decode(ids) == text
    assert len(ids) < len(text) - 6
    assert max(ids) < vocabulary.end(spoken)


def test_constrained_answers_are_measured_against_free_ones(spoken: Tokenizer) -> None:
    shape = tiny.SHAPE | tiny.GROUPED | {"vocab_size": VOCABULARY, "max_position_embeddings": 1024}
    model = Qwen3ForCausalLM(Qwen3Config(**shape)).eval()

    with torch.inference_mode():
        figures = constrained.Bench(model, spoken, count=4, new=12).measure(rounds=1, warming=0)

    assert len(figures) == 15
    assert min(figure for name, figure in figures.items() if not name.endswith("percent")) > 0
    assert figures["forced_tokens_speedup_forced_percent"] > figures["constrained_over_unconstrained_32_forced_percent"]


def test_masks_are_walked_along_instances(spoken: Tokenizer) -> None:
    figures = masks.measure(spoken, masks.made_up(9))

    assert figures.pop("mask_instances_given_up") == 0
    assert len(figures) == 7
    assert min(figures.values()) > 0


def test_the_door_is_asked_for_each_schema() -> None:
    figures = door.measure([*masks.made_up(3), {"schema": {"type": "none"}}])

    assert set(figures) == {f"admission{kind}_p{share}_ms" for kind in ("", "_cpu") for share in (50, 99)}
    assert min(figures.values()) > 0
