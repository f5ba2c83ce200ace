"""Tiny models with random weights, made on the spot, and what ``generate`` says with them."""

from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    Gemma3TextConfig,
    GPTNeoXConfig,
    LlamaConfig,
    MistralConfig,
    Qwen3Config,
)

from worker.engine.rowbatch import RowModel
from worker.engine.sequence import Bounds

torch.set_num_threads(1)  # more would wait for each other, and for other processes
VOCABULARY = 320
CONTEXT = 320  # more than a new cache has room for
_SHAPE = {
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
_GROUPED = {"num_key_value_heads": 2, "head_dim": 16}
CONFIGS: dict[str, Any] = {
    "llama": LlamaConfig(**_SHAPE, **_GROUPED),
    "qwen3": Qwen3Config(**_SHAPE, **_GROUPED),
    "gpt_neox": GPTNeoXConfig(**_SHAPE),
    "mistral, all layers sliding": MistralConfig(**_SHAPE, **_GROUPED, sliding_window=8),
    "gemma3, sliding and full": Gemma3TextConfig(
        **_SHAPE | {"num_hidden_layers": 4},
        **_GROUPED,
        sliding_window=8,
        layer_types=["sliding_attention", "sliding_attention", "full_attention", "sliding_attention"],
    ),
}


def network(name: str = "llama", seed: int = 0) -> Any:
    """A model of this architecture."""
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(CONFIGS[name], dtype=torch.float32)
    return model.eval().requires_grad_(requires_grad=False)


def with_eager_attention(name: str) -> Any:
    """The same, with transformers' plain attention, which wants masks of another kind."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(CONFIGS[name], dtype=torch.float32, attn_implementation="eager")
    return model.eval().requires_grad_(requires_grad=False)


def letters(tokens: Any) -> str:
    """A letter for every token."""
    return "".join(chr(0x4E00 + token) for token in tokens)


def rows(model: Any, slots: int = 8, end_ids: tuple[int, ...] = ()) -> RowModel:
    """The same model as the engine sees it."""
    return RowModel(model, letters, Bounds(CONTEXT, end_ids), slots)


def generated(model: Any, prompt: tuple[int, ...], count: int) -> list[int]:
    """What ``generate`` says, up to the first step at which the two best logits are all but equal."""
    told = model.generate(
        torch.tensor([prompt]),
        attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
        do_sample=False,
        max_new_tokens=count,
        output_logits=True,
        return_dict_in_generate=True,
    )
    best = [logits[0].topk(2).values for logits in told.logits]
    clear = next((at for at, two in enumerate(best) if two[0] - two[1] < 1e-4), len(best))
    ids: list[int] = told.sequences[0, len(prompt) :].tolist()
    return ids[:clear]
