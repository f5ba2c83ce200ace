"""The engine against the bare model: decode steps of 32 sequences, and whole answers against ``generate``.

CPU time of this process, not the clock: the machine is shared. The variants take turns, medians are compared.
"""

import random
import statistics
import time
from collections.abc import Callable, Sequence
from itertools import cycle
from typing import Any

import torch
from transformers import DynamicCache, Qwen3Config, Qwen3ForCausalLM

from common.jobs import Job, Reply, Sampling, new_id
from common.ledger.replies import Claim
from worker.engine.engine import Engine, Output
from worker.engine.rowbatch import RowModel
from worker.engine.sequence import Bounds

_ROWS, _PROMPT, _STEPS, _ROUNDS = 32, 64, 32, 5
_NEW, _ALONE = 32, 4  # tokens of an answer, answers one by one
_CONTEXT = 512
_VOCABULARY = 16384


_PLAIN: tuple[dict[str, Any], ...] = (
    {"temperature": 0.0},
    {"temperature": 0.7},
    {"temperature": 0.8, "top_p": 0.9},
    {"temperature": 1.0, "top_k": 40},
    {"temperature": 1.2, "min_p": 0.05},
    {"temperature": 0.7, "top_p": 0.95, "top_k": 50},
    {"temperature": 1.0, "top_p": 0.5, "min_p": 0.01},
    {"temperature": 0.3},
)
_EXTRAS: tuple[dict[str, Any], ...] = (
    {},
    {"presence": 0.5, "frequency": 0.3},
    {"repetition": 1.2, "stop": ("\u4e00\u4e01", "###")},
    {"bias": ((5, 2.0), (6, -100.0)), "min_tokens": 200, "stop_ids": (7, 8)},
)
# Thirty-two requests, each with parameters of its own; four of them ask for logprobs.
_MIXED = tuple(
    Sampling(_CONTEXT, **plain, **extra, logprobs=5 if plain is _PLAIN[2] else None)
    for plain in _PLAIN
    for extra in _EXTRAS
)


def measure() -> dict[str, float]:
    """Flat figures."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.inference_mode():
            return _measured(_model())
    finally:
        torch.set_num_threads(threads)


def _measured(model: Any) -> dict[str, float]:
    prompts = _prompts(_ROWS)
    variants: dict[str, Callable[[], float]] = {
        "forward_32": lambda: _forward(model, prompts),
        "engine_decode_32_greedy": lambda: _decode(model, prompts, Sampling(_CONTEXT, 0.0)),
        "engine_decode_32_sampled": lambda: _decode(model, prompts, Sampling(_CONTEXT, 0.7)),
        "engine_decode_32_top_p": lambda: _decode(model, prompts, Sampling(_CONTEXT, 0.7, top_p=0.9)),
        "engine_decode_32_mixed": lambda: _decode(model, prompts, *_MIXED),
        "generate": lambda: _generate(model, prompts[:_ALONE]),
        "engine_32": lambda: _answers(model, prompts),
        "engine_1": lambda: statistics.mean(_answers(model, [prompt]) for prompt in prompts[:_ALONE]),
    }
    rates: dict[str, list[float]] = {name: [] for name in variants}
    for turn in range(_ROUNDS + 1):
        for name, rate in variants.items():
            found = rate()
            if turn:  # the first round warms up
                rates[name].append(found)
    speed = {name: statistics.median(found) for name, found in rates.items()}
    ratios = {
        "engine_over_forward_32_greedy": speed["engine_decode_32_greedy"] / speed["forward_32"],
        "engine_over_forward_32_sampled": speed["engine_decode_32_sampled"] / speed["forward_32"],
        "engine_over_forward_32_top_p": speed["engine_decode_32_top_p"] / speed["forward_32"],
        "engine_over_forward_32_mixed": speed["engine_decode_32_mixed"] / speed["forward_32"],
        "engine_mixed_over_greedy_32": speed["engine_decode_32_mixed"] / speed["engine_decode_32_greedy"],
        "engine_over_generate_32": speed["engine_32"] / speed["generate"],
        "engine_over_generate_1": speed["engine_1"] / speed["generate"],
    }
    return ratios | {f"{name}_tokens_per_cpu_s": found for name, found in speed.items()}


def _model() -> Any:
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=_VOCABULARY,
        hidden_size=512,
        intermediate_size=1408,
        num_hidden_layers=8,
        num_attention_heads=8,
        num_key_value_heads=4,
        head_dim=64,
        max_position_embeddings=_CONTEXT,
        eos_token_id=None,
        bos_token_id=None,
        pad_token_id=0,
        tie_word_embeddings=True,
    )
    return Qwen3ForCausalLM(config).eval().requires_grad_(requires_grad=False)


def _prompts(count: int) -> list[tuple[int, ...]]:
    drawn = random.Random(0)
    return [tuple(drawn.randrange(1, _VOCABULARY) for _ in range(_PROMPT)) for _ in range(count)]


def _forward(model: Any, prompts: Sequence[tuple[int, ...]]) -> float:
    """Tokens a CPU-second of nothing but ``model.forward``: all rows of one length, transformers' own cache."""
    cache = DynamicCache(config=model.config)
    model(input_ids=torch.tensor(prompts), past_key_values=cache, logits_to_keep=1)
    ids = torch.ones(len(prompts), 1, dtype=torch.long)
    began = time.process_time()
    for _ in range(_STEPS):
        model(input_ids=ids, past_key_values=cache)
    return len(prompts) * _STEPS / (time.process_time() - began)


def _decode(model: Any, prompts: Sequence[tuple[int, ...]], *samplings: Sampling) -> float:
    """The same of whole engine steps, text and events included."""
    engine = _engine(model, prompts, *samplings)
    while engine.counters["prefilled_tokens"] < len(prompts) * _PROMPT:
        engine.step()
    before = engine.counters["generation_tokens"]
    began = time.process_time()
    for _ in range(_STEPS):
        engine.step()
    return (engine.counters["generation_tokens"] - before) / (time.process_time() - began)


def _answers(model: Any, prompts: Sequence[tuple[int, ...]]) -> float:
    """The same of whole answers, prompts included."""
    began = time.process_time()
    engine = _engine(model, prompts, Sampling(_NEW, 0.0))
    while engine.stalled_s() is not None:
        engine.step()
    return len(prompts) * _NEW / (time.process_time() - began)


def _generate(model: Any, prompts: Sequence[tuple[int, ...]]) -> float:
    """The same of ``generate``, one prompt after the other."""
    began = time.process_time()
    for prompt in prompts:
        ids = torch.tensor([prompt])
        model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=_NEW)
    return len(prompts) * _NEW / (time.process_time() - began)


def _engine(model: Any, prompts: Sequence[tuple[int, ...]], *samplings: Sampling) -> Engine:
    engine = Engine(RowModel(model, _Letters(), Bounds(_CONTEXT, ()), _ROWS), _forget)
    for seed, (prompt, sampling) in enumerate(zip(prompts, cycle(samplings), strict=False), 1):
        engine.add(Claim(_job(prompt, sampling, seed), epoch=1, attempts=0, seq=0, said=()))
    return engine


def _job(prompt: tuple[int, ...], sampling: Sampling, seed: int) -> Job:
    nobody = "0" * 32
    return Job(new_id(), "bench", (prompt,), sampling, Reply("chat"), nobody, nobody, seed, created=0)


class _Letters:
    """A letter for every token."""

    def decode(self, tokens: Sequence[int]) -> str:
        """Their text."""
        return "".join(chr(0x4E00 + token) for token in tokens)

    def spell(self, token: int) -> bytes:
        """One alone."""
        return self.decode([token]).encode()


def _forget(outputs: Sequence[Output]) -> None:
    """Nobody listens."""


if __name__ == "__main__":
    for title, figure in measure().items():
        print(f"{title:48} {figure:10.3f}")
