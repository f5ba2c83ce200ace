"""Many architectures, and quantised weights, through the whole house: what comes out is what ``generate`` says."""

import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from ops.bench.stack import Stack
from tests.worker import saved_models, tiny

PROMPTS = ("the reed bends", "the reed bends and the river runs", "Grüße")
NEW = 24
QUANTISED = ("nf4", "int8")
CONFIGS = {re.sub(r"\W.*", "", title): config for title, config in tiny.CONFIGS.items()}
CONFIGS |= dict.fromkeys(QUANTISED, saved_models.WIDE)
NAMES = sorted(CONFIGS)


def _network(name: str, folder: Path) -> Any:
    if name in QUANTISED:
        return saved_models.quantised(folder, name)
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def _expected(name: str, folder: Path) -> list[str]:
    """What ``generate`` says to the prompts, without an end token; half a character at its end may still be open."""
    network, tokenizer = _network(name, folder), saved_models.tokenizer()
    ends = [*network.generation_config.eos_token_id, tokenizer.eos_token_id]
    prompts = [tuple(tokenizer(prompt)["input_ids"]) for prompt in PROMPTS]
    ids = [tiny.generated(network, prompt, NEW, eos_token_id=ends) for prompt in prompts]
    said = [[token for token in one if token not in ends] for one in ids]
    return [str(tokenizer.decode(one, skip_special_tokens=True)).rstrip("\ufffd") for one in said]


@pytest.mark.parametrize("names", [NAMES[:4], NAMES[4:7], NAMES[7:]], ids=" ".join)
def test_models_say_through_the_house_what_generate_says(
    start: Callable[..., Stack], tmp_path: Path, names: list[str]
) -> None:
    folders = {name: saved_models.save(tmp_path / name, CONFIGS[name]) for name in names}
    toml = "".join(
        f'[[models]]\nname = "{name}"\npath = "{folder}"\nslots = 4\n'
        + (f'quantization = "{name}"\n' if name in QUANTISED else "")
        for name, folder in folders.items()
    )
    stack = start(toml, threads="1")
    client = stack.client()

    def ask(name: str, prompt: str) -> str:
        answer = client.completions.create(model=name, prompt=prompt, max_tokens=NEW, temperature=0)
        return answer.choices[0].text

    answers = {}
    for name in names:  # int8 rounds by the largest of all rows, so its mates are no matter of indifference
        with ThreadPoolExecutor(1 if name == "int8" else len(PROMPTS)) as aside:
            answers[name] = list(aside.map(partial(ask, name), PROMPTS))

    for name, folder in folders.items():
        for answer, expected in zip(answers[name], _expected(name, folder), strict=True):
            assert answer.startswith(expected), name
    assert [model.id for model in client.models.list()] == names
    assert "\n".join(stack.lines).count("saves memory and costs speed") == len({*names} & {*QUANTISED})
    assert [line for line in stack.lines if "torchao" in line or "_pytree" in line] == []  # it talks when imported
