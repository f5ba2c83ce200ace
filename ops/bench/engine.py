"""The engine against the bare model, against ``generate``, and against transformers' own continuous batching.

CPU time of this process, one thread: the machine is shared. The variants take turns, medians are compared. The bare
forward has the engine's weights and kernels; ``generate`` and continuous batching have the model as transformers loads
it. docs/performance.md says what each figure means.
"""

import gc
import random
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from itertools import cycle
from typing import Any

import torch
from transformers import ContinuousBatchingConfig, DynamicCache, GenerationConfig, Qwen3Config, Qwen3ForCausalLM

from common.jobs import Class, Job, Reply, Sampling, new_id
from common.ledger.replies import Claim
from worker.engine import memory, rng
from worker.engine.engine import Engine, Output
from worker.engine.packed import PackedModel
from worker.engine.sampler import Sampler
from worker.engine.sequence import Bounds, Draw
from worker.engine.text import Speech
from worker.models.linears import alike, pack

_ROUNDS = 3
_COUNTS = (1, 4, 16, 32, 64)  # sequences at once
_STEPS = 32  # of decoding
NEW = 64  # tokens of an answer
_ALONE = 2  # answers one by one
_CONTEXT = 1024
_ROOM, _GPU_ROOM = 2**29, 2**33  # bytes of keys and values
VOCABULARY, _WIDE = 16384, 151_936
_LENGTHS = (50, 101)  # of prompts
_SLOTS = 32
_SHARED = 480  # tokens that prompts have in common
_LOADED = 64  # sequences of a batch
GREEDY = Sampling(_CONTEXT, 0.0)
_SAMPLED = Sampling(_CONTEXT, 0.7)
_TOP_P = Sampling(_CONTEXT, 0.7, top_p=0.9)

Prompt = tuple[int, ...]
Clock = Callable[[], float]

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
    memory.keep_freed()  # for all variants
    try:
        with torch.inference_mode():
            return _speeds() | _wide() | _moments() | {"sampler_152k_ms": _sampler_ms()}
    finally:
        torch.set_num_threads(threads)


def _speeds() -> dict[str, float]:
    """Tokens a CPU-second, and their ratios."""
    stock, bare, ours, half = network(), laid_out(network()), laid_out(network()), laid_out(network().bfloat16())
    asked, new = prompts(max(_COUNTS)), Sampling(NEW, 0.0)
    variants: dict[str, Callable[[], float]] = {
        "engine_decode_32_greedy": lambda: decode(ours, asked[:32], GREEDY),
        "engine_decode_32_sampled": lambda: decode(ours, asked[:32], _SAMPLED),
        "engine_decode_32_top_p": lambda: decode(ours, asked[:32], _TOP_P),
        "engine_decode_32_mixed": lambda: decode(ours, asked[:32], *_MIXED),
        "generate": lambda: _generate(stock, asked[:_ALONE]),
        "engine_32_bf16": lambda: answers(half, asked[:32], new),
    }
    for count in _COUNTS:
        variants |= {
            f"forward_{count}": partial(forward, bare, count),
            f"engine_{count}": partial(answers, ours, asked[:count], new),
            f"transformers_cb_{count}": partial(_continuous, stock, asked[:count]),
        }
    speed = medians(variants)
    ratios = {
        f"engine_over_forward_32_{kind}": speed[f"engine_decode_32_{kind}"] / speed["forward_32"]
        for kind in ("greedy", "sampled", "top_p", "mixed")
    }
    ratios["engine_mixed_over_greedy_32"] = speed["engine_decode_32_mixed"] / speed["engine_decode_32_greedy"]
    ratios["engine_over_generate_32_bf16"] = speed["engine_32_bf16"] / speed["generate"]
    for count in _COUNTS:
        ratios[f"engine_over_generate_{count}"] = speed[f"engine_{count}"] / speed["generate"]
        ratios[f"engine_over_transformers_cb_{count}"] = speed[f"engine_{count}"] / speed[f"transformers_cb_{count}"]
    return ratios | {f"{name}_tokens_per_cpu_s": found for name, found in speed.items()}


def _wide() -> dict[str, float]:
    """A vocabulary of today's size, with top_p."""
    stock, ours = network(_WIDE), laid_out(network(_WIDE))
    asked = prompts(32)
    speed = medians(
        {
            "engine": lambda: answers(ours, asked, Sampling(NEW // 4, 0.7, top_p=0.9)),
            "cb": lambda: _continuous(stock, asked, NEW // 4, do_sample=True, temperature=0.7, top_p=0.9),
        },
        rounds=1,
    )
    return {"engine_over_transformers_cb_32_topp_152k": speed["engine"] / speed["cb"]}


def _moments() -> dict[str, float]:
    """CPU time to a first token, and of repetitive text."""
    ours = laid_out(network())
    shared, loop = prompts(1, (_SHARED, _SHARED + 1))[0], prompts(1, (12, 13))[0] * 8
    found = medians(
        {
            "first": lambda: _first_s(an_engine(ours, ()), (*shared, 5)),
            "again": lambda: _again_s(ours, shared),
            "idle": lambda: _first_s(an_engine(ours, ()), loop),
            "loaded": lambda: _loaded_s(ours, loop),
            "guessing": lambda: answers(_circular(ours), [loop], Sampling(NEW * 4, 0.0)),
            "plain": lambda: answers(_circular(ours), [loop], Sampling(NEW * 4, 0.0, bias=((1, 0.0),))),
        }
    )
    return {
        "prefix_ttft_speedup": found["first"] / found["again"],
        "interactive_ttft_loaded_over_idle": found["loaded"] / found["idle"],
        "lookup_speedup_1": found["guessing"] / found["plain"],
    }


def medians(
    variants: dict[str, Callable[[], float]], rounds: int = _ROUNDS, *, is_warm: bool = False
) -> dict[str, float]:
    """Each in its turn; the first round warms up unless all are warm."""
    found: dict[str, list[float]] = {name: [] for name in variants}
    for turn in range(is_warm, rounds + 1):
        for name, run in variants.items():
            gc.collect()  # the pools of engines that are gone: to unmap them takes longer than a first token
            value = run()
            if turn:
                found[name].append(value)
    return {name: statistics.median(values) for name, values in found.items()}


def network(vocabulary: int = VOCABULARY) -> Any:
    """32 M parameters of Qwen3's kind and random weights, as transformers makes it."""
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=vocabulary,
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


def laid_out(model: Any) -> Any:
    """As the loader leaves it."""
    ids = torch.tensor([[1, 2, 3]])
    pack(model, alike(model, lambda: model(input_ids=ids, use_cache=False)))
    return model


def prompts(count: int, lengths: tuple[int, int] = _LENGTHS) -> list[Prompt]:
    """Ragged ones."""
    drawn = random.Random(0)
    return [tuple(drawn.randrange(1, VOCABULARY) for _ in range(drawn.randrange(*lengths))) for _ in range(count)]


def _circular(model: Any) -> Any:
    """Each token follows from the one before it alone, so it soon goes round in circles; what it costs is the same."""
    for layer in model.model.layers:
        for norm in (layer.input_layernorm, layer.post_attention_layernorm):
            norm.weight.zero_()
    return model


def forward(model: Any, count: int, clock: Clock = time.process_time) -> float:
    """Tokens a second of nothing but ``model.forward``: all rows of one length, transformers' own cache."""
    model.set_attn_implementation("sdpa")  # an engine may have left its own
    cache = DynamicCache(config=model.config)
    prompt, ids = (
        torch.ones(count, length, dtype=torch.long, device=model.device) for length in (sum(_LENGTHS) // 2, 1)
    )
    model(input_ids=prompt, past_key_values=cache, logits_to_keep=1)
    began = clock()
    for _ in range(_STEPS):
        model(input_ids=ids, past_key_values=cache)
    return count * _STEPS / (clock() - began)


def decode(model: Any, asked: Sequence[Prompt], *samplings: Sampling, clock: Clock = time.process_time) -> float:
    """The same of whole engine steps, text and events included."""
    engine = an_engine(model, claims_of(asked, *samplings), max(_SLOTS, len(asked)))
    while engine.counters["prefilled_tokens"] < sum(map(len, asked)):
        engine.step()
    before = engine.counters["generation_tokens"]
    began = clock()
    for _ in range(_STEPS):
        engine.step()
    return (engine.counters["generation_tokens"] - before) / (clock() - began)


def answers(model: Any, asked: Sequence[Prompt], sampling: Sampling, clock: Clock = time.process_time) -> float:
    """The same of whole answers, prompts included."""
    engine = an_engine(model, claims_of(asked, sampling), max(_SLOTS, len(asked)))
    began = clock()
    while engine.stalled_s() is not None:
        engine.step()
    return engine.counters["generation_tokens"] / (clock() - began)


def _generate(model: Any, asked: Sequence[Prompt]) -> float:
    """The same of ``generate``, one prompt after the other."""
    began = time.process_time()
    for prompt in asked:
        ids = torch.tensor([prompt])
        model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=NEW)
    return len(asked) * NEW / (time.process_time() - began)


def _continuous(model: Any, asked: Sequence[Prompt], new: int = NEW, **sampling: Any) -> float:
    """The same of transformers' continuous batching; its cache is as large as the answers need."""
    told = GenerationConfig(max_new_tokens=new, eos_token_id=-1, pad_token_id=0, **({"do_sample": False} | sampling))
    how = ContinuousBatchingConfig(page_size=32, num_blocks=8 * len(asked), max_batch_tokens=512)
    began = time.process_time()
    inputs = [list(one) for one in asked]
    with torch.inference_mode(mode=False), torch.no_grad():  # its thread has a mode of its own
        answers = model.generate_batch(inputs, generation_config=told, continuous_batching_config=how)
    spent = time.process_time() - began
    model.set_attn_implementation("sdpa")
    return sum(len(one.generated_tokens) for one in answers.values()) / spent


def _first_s(engine: Engine, prompt: Prompt) -> float:
    """CPU seconds to the first token of a request."""
    (claim,) = claims_of([prompt], GREEDY)
    said = _Listener(claim.job.id)
    engine._sink = said  # noqa: SLF001  it looks for one job only
    began = time.process_time()
    engine.add(claim)
    while not said.has_spoken:
        engine.step()
    return time.process_time() - began


def _again_s(model: Any, shared: Prompt) -> float:
    """The same behind a beginning that was read before."""
    engine = an_engine(model, ())
    _first_s(engine, (*shared, 5))
    return _first_s(engine, (*shared, 6))


def _loaded_s(model: Any, prompt: Prompt) -> float:
    """The same while a batch fills all slots."""
    engine = an_engine(model, claims_of(prompts(_LOADED), GREEDY, cls="batch"), _LOADED)
    while engine.counters["generation_tokens"] < 2 * _LOADED:
        engine.step()
    return _first_s(engine, prompt)


def _sampler_ms() -> float:
    """CPU milliseconds of a step's draws: 32 rows, top_p, a wide vocabulary, logits as peaked as trained models'."""
    logits = 3 * torch.randn(32, _WIDE, generator=torch.Generator().manual_seed(0))
    draws = [Draw(rng.stream(seed, 0), 0.7, 0.9) for seed in range(1, 33)]
    sampler, positions = Sampler(torch.device("cpu")), torch.arange(32)

    def run() -> float:
        began = time.process_time()
        sampler(logits, draws, positions)
        return 1000 * (time.process_time() - began)

    return medians({"sampler": run}, rounds=9)["sampler"]


def an_engine(
    model: Any, claims: Iterable[Claim], slots: int = _SLOTS, speech: Speech | None = None, compiler: Any = None
) -> Engine:
    """With these claims; ``compiler``: of constraints, for the tokens that ``speech`` knows."""
    model.set_attn_implementation("sdpa")  # the model tests itself against its own attention
    room = _ROOM if model.device.type == "cpu" else _GPU_ROOM
    served = PackedModel(model, speech or _Letters(), Bounds(_CONTEXT, ()), slots, lambda _: room)
    served.compiler = compiler
    engine = Engine(served, _forget)
    for claim in claims:
        engine.add(claim)
    return engine


def claims_of(asked: Sequence[Prompt], *samplings: Sampling, cls: Class = "interactive") -> list[Claim]:
    """A job for each prompt."""
    pairs = enumerate(zip(asked, cycle(samplings), strict=False), 1)
    jobs = (_job(prompt, sampling, seed, cls) for seed, (prompt, sampling) in pairs)
    return [Claim(job, epoch=1, attempts=0, seq=0, said=()) for job in jobs]


def _job(prompt: Prompt, sampling: Sampling, seed: int, cls: Class) -> Job:
    nobody = "0" * 32
    return Job(new_id(), "bench", (prompt,), sampling, Reply("chat"), nobody, nobody, seed, created=0, cls=cls)


class _Letters:
    """A letter for every token."""

    def decode(self, tokens: Sequence[int]) -> str:
        """Their text."""
        return "".join(chr(0x4E00 + token) for token in tokens)

    def spell(self, token: int) -> bytes:
        """One alone."""
        return self.decode([token]).encode()


class _Listener:
    """Waits for one job's first words."""

    def __init__(self, job_id: str) -> None:
        self._job_id = job_id
        self.has_spoken = False

    def __call__(self, outputs: Sequence[Output]) -> None:
        """A step's events."""
        self.has_spoken |= any(output.job_id == self._job_id for output in outputs)


def _forget(outputs: Sequence[Output]) -> None:
    """Nobody listens."""


if __name__ == "__main__":
    for title, figure in measure().items():
        print(f"{title:48} {figure:10.3f}")
