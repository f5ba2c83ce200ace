"""Tiny models on disk, with a tokenizer trained on the spot."""

from pathlib import Path
from typing import Any

import torch
import torchao.quantization
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, LlamaConfig, PreTrainedTokenizerFast, TorchAoConfig

from tests.worker import tiny

TEXTS = ["the reed bends and the river runs", "Grüße, 世界"] * 2
_TEMPLATE = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
WIDE = LlamaConfig(**tiny.SHAPE | {"intermediate_size": 128}, **tiny.GROUPED)  # multiples of 64 can be quantised


def tokenizer() -> Any:
    """Byte-level BPE, trained on the spot."""
    learned = Tokenizer(models.BPE())
    learned.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    learned.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<|end|>", "<|pad|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    learned.train_from_iterator(TEXTS, trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=learned, eos_token="<|end|>", pad_token="<|pad|>")
    tokenizer.chat_template = _TEMPLATE
    return tokenizer


def save(folder: Path, config: Any) -> Path:
    """A model with random weights, and its tokenizer."""
    torch.manual_seed(0)
    network = AutoModelForCausalLM.from_config(config)
    network.generation_config.eos_token_id = [5, 1]
    network.save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder


def quantised(folder: Path, quantization: str) -> Any:
    """What transformers makes of it; ``quantization`` is a word of ours, or the name of one of torchao's classes."""
    if quantization == "int8":
        config: Any = BitsAndBytesConfig(load_in_8bit=True)
    elif quantization == "nf4":
        config = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4")
    else:
        config = TorchAoConfig(getattr(torchao.quantization, quantization)())
    return AutoModelForCausalLM.from_pretrained(
        folder, quantization_config=config, dtype=torch.float32, device_map="cpu"
    ).eval()
