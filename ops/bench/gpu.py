"""``python -m ops.bench.gpu``: tokens a second of a GPU, as a table and in ``build/bench-gpu.json``.

Wall-clock, with the device's work done: the device is measured, and it should be nobody else's. Random weights of
Qwen3's shapes; prompts and answers are those of ``engine``.
"""

import gc
import importlib.metadata
import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    BitsAndBytesConfig,
    ContinuousBatchingConfig,
    GenerationConfig,
    Qwen3Config,
)

from common.jobs import Sampling
from ops.bench.engine import GREEDY, NEW, Clock, answers, decode, forward, medians, prompts

OUT = Path("build") / "bench-gpu.json"
_WEIGHTS = ("bf16", "nf4")
_COUNTS = (1, 8, 32, 64)  # sequences
_ROUNDS = 3
_PATIENCE_S = 60
_PAGE = 32  # tokens
_PACKAGES = ("torch", "transformers", "bitsandbytes")
_ALIKE = {"vocab_size": 151_936, "head_dim": 128, "num_key_value_heads": 8, "eos_token_id": None, "pad_token_id": 0}


@dataclass(frozen=True, slots=True)
class Row:
    """Tokens a second."""

    shape: str
    weights: str
    sequences: int
    forward: float  # bare decode steps
    engine_decode: float  # the same of our engine, text and events included
    transformers_cb: float  # whole answers of transformers' continuous batching
    engine: float  # whole answers of ours


def shapes() -> dict[str, Any]:
    """Those of Qwen3-0.6B and Qwen3-8B."""
    small = {"hidden_size": 1024, "intermediate_size": 3072, "num_hidden_layers": 28, "num_attention_heads": 16}
    large = {"hidden_size": 4096, "intermediate_size": 12288, "num_hidden_layers": 36, "num_attention_heads": 32}
    return {
        "0.6b": Qwen3Config(**_ALIKE, **small, tie_word_embeddings=True),
        "8b": Qwen3Config(**_ALIKE, **large, tie_word_embeddings=False),
    }


def measure(
    device: torch.device, shapes: Mapping[str, Any], counts: Sequence[int] = _COUNTS, rounds: int = _ROUNDS
) -> Iterator[Row]:
    """Row by row, each model once."""
    for shape, config in shapes.items():
        for weights in _WEIGHTS:
            model = network(config, weights, device)
            for count in counts:
                yield Row(shape, weights, count, **_speeds(model, count, rounds))
            del model
            gc.collect()
            torch.cuda.empty_cache()  # does nothing where there is none


def network(config: Any, weights: str, device: torch.device) -> Any:
    """Random weights, made on the device."""
    torch.manual_seed(0)
    with device:
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    if weights == "nf4":
        how = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.bfloat16)
        model = type(model).from_pretrained(
            None,
            config=config,
            state_dict=model.state_dict(),
            quantization_config=how,
            dtype=torch.bfloat16,
            device_map={"": device},
        )
    return model.eval().requires_grad_(requires_grad=False)


def _speeds(model: Any, count: int, rounds: int) -> dict[str, float]:
    asked, clock = prompts(count), _clock(model.device)
    with torch.inference_mode():
        speeds = medians(
            {
                "forward": lambda: forward(model, count, clock),
                "engine_decode": lambda: decode(model, asked, GREEDY, clock=clock),
                "engine": lambda: answers(model, asked, Sampling(NEW, 0.0), clock),
            },
            rounds,
        )
    model.set_attn_implementation("sdpa")
    with _continuous(model, count) as manager:
        return speeds | medians({"transformers_cb": lambda: _batched(manager, asked, clock)}, rounds)


@contextmanager
def _continuous(model: Any, count: int) -> Iterator[Any]:
    """Transformers' own, running and warm; no prompt is found computed, as none is by the engine."""
    told = GenerationConfig(max_new_tokens=NEW, do_sample=False, eos_token_id=-1, pad_token_id=0)
    how = ContinuousBatchingConfig(
        page_size=_PAGE, num_blocks=8 * count, max_batch_tokens=1024, allow_block_sharing=False
    )
    with model.continuous_batching_context_manager(
        generation_config=told, continuous_batching_config=how, timeout=_PATIENCE_S
    ) as manager:
        yield manager


def _batched(manager: Any, asked: Sequence[Sequence[int]], clock: Clock) -> float:
    began = clock()
    manager.add_requests(inputs=[list(one) for one in asked], max_new_tokens=NEW)
    said, ended = 0, 0
    while ended < len(asked):
        result = manager.get_result(timeout=_PATIENCE_S)
        if result is None or result.error is not None:
            raise RuntimeError(f"transformers' continuous batching: {getattr(result, 'error', 'nothing comes')}")
        ended += result.is_finished()
        said += len(result.generated_tokens)
    return said / (clock() - began)


def _clock(device: torch.device) -> Clock:
    def now() -> float:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter()

    return now


def main() -> None:
    """Measure, print, write."""
    if not torch.cuda.is_available():
        sys.exit("This benchmark needs a GPU that torch can use, and there is none.")
    device, rows = torch.device("cuda"), []
    print(f"{'shape':6} {'weights':7} sequences   forward  engine_decode  transformers_cb    engine  (tokens a second)")
    for row in measure(device, shapes()):
        rows.append(row)
        print(
            f"{row.shape:6} {row.weights:7} {row.sequences:9} {row.forward:9.1f} {row.engine_decode:14.1f} "
            f"{row.transformers_cb:16.1f} {row.engine:9.1f}",
            flush=True,
        )
    told = {
        "date": datetime.now(UTC).date().isoformat(),
        "device": torch.cuda.get_device_name(device),
        "versions": {name: importlib.metadata.version(name) for name in _PACKAGES},
        "tokens_per_s": [asdict(row) for row in rows],
    }
    OUT.parent.mkdir(exist_ok=True)
    OUT.write_text(json.dumps(told, indent=2) + "\n")


if __name__ == "__main__":
    main()
