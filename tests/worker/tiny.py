"""Tiny models with random weights, made on the spot, and what ``generate`` says with them."""

from collections.abc import Callable, Sequence
from copy import deepcopy
from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    Gemma3TextConfig,
    GPTNeoXConfig,
    GptOssConfig,
    Lfm2Config,
    LlamaConfig,
    MistralConfig,
    Qwen3Config,
    Qwen3NextConfig,
)

from worker.engine.packed import SIZE, PackedModel
from worker.engine.rowbatch import RowModel
from worker.engine.sequence import Bounds

torch.set_num_threads(1)  # more would wait for each other, and for other processes
VOCABULARY = 320
CONTEXT = 320  # more than a new cache has room for
SHAPE = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": CONTEXT,
    "initializer_range": 0.2,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": 0,
}
GROUPED = {"num_key_value_heads": 2, "head_dim": 16}
CONFIGS: dict[str, Any] = {
    "llama": LlamaConfig(**SHAPE, **GROUPED),
    "qwen3": Qwen3Config(**SHAPE, **GROUPED),
    "gpt_neox": GPTNeoXConfig(**SHAPE),
    "mistral, all layers sliding": MistralConfig(**SHAPE, **GROUPED, sliding_window=8),
    "gpt_oss, sinks and experts": GptOssConfig(
        **SHAPE | {"num_hidden_layers": 4},
        **GROUPED,
        sliding_window=8,
        layer_types=["sliding_attention", "full_attention"] * 2,
        num_local_experts=4,
        num_experts_per_tok=2,
        rope_parameters={"rope_type": "default", "rope_theta": 10_000.0},
    ),
    "lfm2, convolutions": Lfm2Config(
        **SHAPE | {"num_hidden_layers": 4},
        num_key_value_heads=2,
        layer_types=["conv", "full_attention", "conv", "full_attention"],
    ),
    "qwen3_next, linear attention": Qwen3NextConfig(
        **SHAPE | {"num_hidden_layers": 4},
        **GROUPED,
        layer_types=["linear_attention"] * 3 + ["full_attention"],
        num_experts=4,
        num_experts_per_tok=2,
        moe_intermediate_size=32,
        shared_expert_intermediate_size=32,
        linear_num_key_heads=2,
        linear_num_value_heads=4,
        linear_key_head_dim=16,
        linear_value_head_dim=16,
    ),
    "gemma3, sliding and full": Gemma3TextConfig(
        **SHAPE | {"num_hidden_layers": 4},
        **GROUPED,
        sliding_window=8,
        layer_types=["sliding_attention", "sliding_attention", "full_attention", "sliding_attention"],
    ),
}


def network(name: str = "llama", seed: int = 0) -> Any:
    """A model of this architecture."""
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(deepcopy(CONFIGS[name]), dtype=torch.float32)
    return model.eval().requires_grad_(requires_grad=False)


def with_eager_attention(name: str) -> Any:
    """The same, with transformers' plain attention, which wants masks of another kind."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(deepcopy(CONFIGS[name]), dtype=torch.float32, attn_implementation="eager")
    return model.eval().requires_grad_(requires_grad=False)


def letters(tokens: Any) -> str:
    """A letter for every token."""
    return "".join(chr(0x4E00 + token) for token in tokens)


class Spoken:
    """What a decoder says, as a model wants it."""

    def __init__(self, decode: Callable[[Sequence[int]], str]) -> None:
        self.decode = decode

    def spell(self, token: int) -> bytes:
        """Each token stands for itself."""
        return self.decode([token]).encode()


LETTERS = Spoken(letters)


def rows(model: Any, slots: int = 8, end_ids: tuple[int, ...] = (), *, is_deterministic: bool = False) -> RowModel:
    """The same model as the engine sees it."""
    return RowModel(model, LETTERS, Bounds(CONTEXT, end_ids, is_deterministic), slots)


def generated(model: Any, prompt: tuple[int, ...], count: int, **more: Any) -> list[int]:
    """What ``generate`` says, up to the first step at which the two best scores are all but equal."""
    told = model.generate(
        torch.tensor([prompt], device=model.device),
        attention_mask=torch.ones(1, len(prompt), dtype=torch.long, device=model.device),
        do_sample=False,
        max_new_tokens=count,
        output_scores=True,
        return_dict_in_generate=True,
        **more,
    )
    best = [scores[0].topk(2).values for scores in told.scores]
    clear = next((at for at, two in enumerate(best) if two[0] - two[1] < 1e-4), len(best))
    ids: list[int] = told.sequences[0, len(prompt) :].tolist()
    return ids[:clear]


def packed(
    name: str = "llama",
    slots: int = 8,
    end_ids: tuple[int, ...] = (),
    blocks: int = 400,
    damaged: Any = None,
    **held: bool,
) -> PackedModel:
    """A model of this architecture whose sequences lie in blocks; its network cannot ``generate`` any more."""
    model = damaged if damaged is not None else network(name)
    per_token = 2 * 4 * sum(p.shape[0] for n, p in model.named_parameters() if n.endswith("k_proj.weight"))
    bounds = Bounds(CONTEXT, end_ids, **held)
    return PackedModel(model, LETTERS, bounds, slots, lambda _: blocks * SIZE * (per_token or 2**12))
