"""Train the bundled model: ``python -m ops.demo_model.train --out ops/demo_model/weights --steps 1350``.

Seeded: the same versions on the same machine give the same file.
"""

import argparse
import itertools
import logging
import math
import shutil
from collections.abc import Iterator
from pathlib import Path

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from ops.demo_model.dialogues import Message, dialogues, plain

SEED = 20261124
CONTEXT = 1024
_ROW = 384  # tokens of a training row
_ROWS = 8
_SPECIAL = ("<|end_of_text|>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>")
_TEMPLATE = (
    "{% for m in messages %}{% if m['role'] in ('system', 'developer') %}<|system|>{% elif m['role'] == 'assistant' %}"
    "<|assistant|>{% else %}<|user|>{% endif %}{{ m['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
log = logging.getLogger("train")


def tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level BPE over our own sentences; digits stand alone."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(r"\d"), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=1024,
        special_tokens=list(_SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    texts = (message["content"] for one in itertools.islice(dialogues(SEED), 20_000) for message in one)
    bpe.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        eos_token="<|end|>",
        pad_token="<|end_of_text|>",
        additional_special_tokens=list(_SPECIAL[1:4]),
        chat_template=_TEMPLATE,
        model_max_length=CONTEXT,
        clean_up_tokenization_spaces=False,
    )


def _encode(tok: PreTrainedTokenizerFast, messages: list[Message]) -> tuple[list[int], list[int]]:
    """Ids and targets: only what the assistant says is learned."""
    ids: list[int] = []
    targets: list[int] = []
    for message in messages:
        head = [tok.convert_tokens_to_ids(f"<|{message['role']}|>")]
        body = [*tok.encode(message["content"], add_special_tokens=False), tok.convert_tokens_to_ids("<|end|>")]
        ids += head + body
        targets += [-100] * len(head) + (body if message["role"] == "assistant" else [-100] * len(body))
    return ids, targets


def rows(tok: PreTrainedTokenizerFast) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """Batches of packed rows: ids, targets, positions; each [_ROWS, _ROW]."""
    talks, texts = dialogues(SEED + 1), plain(SEED + 2)
    end = tok.convert_tokens_to_ids("<|end_of_text|>")
    while True:
        batch: list[tuple[list[int], list[int], list[int]]] = []
        for _ in range(_ROWS):
            ids: list[int] = []
            targets: list[int] = []
            positions: list[int] = []
            while len(ids) < _ROW:
                if len(batch) == 0:
                    one = [*tok.encode(next(texts), add_special_tokens=False), end]
                    more, learned = one, one
                else:
                    more, learned = _encode(tok, next(talks))
                ids += more
                targets += learned
                positions += range(len(more))
            batch.append((ids[:_ROW], targets[:_ROW], positions[:_ROW]))
        columns = zip(*batch, strict=True)
        yield tuple(torch.tensor(column) for column in columns)  # type: ignore[misc]


def _mask(positions: torch.Tensor) -> torch.Tensor:
    """Each token sees its own dialogue's past. [rows, T] -> additive [rows, 1, T, T]."""
    start = torch.arange(positions.shape[1]) - positions  # [rows, T], where each dialogue begins
    same = start[:, :, None] == start[:, None, :]
    causal = torch.ones(positions.shape[1], positions.shape[1], dtype=torch.bool).tril()
    return torch.zeros(same.shape).masked_fill(~(same & causal), torch.finfo(torch.float32).min)[:, None]


def train(tok: PreTrainedTokenizerFast, steps: int) -> LlamaForCausalLM:
    """A Llama of 2.2 million parameters, after so many steps of 3,072 tokens."""
    torch.manual_seed(SEED)
    config = LlamaConfig(
        vocab_size=len(tok),
        hidden_size=192,
        intermediate_size=512,
        num_hidden_layers=5,
        num_attention_heads=6,
        num_key_value_heads=3,
        head_dim=32,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tok.convert_tokens_to_ids("<|end|>"),
        pad_token_id=tok.convert_tokens_to_ids("<|end_of_text|>"),
    )
    model = LlamaForCausalLM(config)
    decay = [p for p in model.parameters() if p.dim() > 1]
    rest = [p for p in model.parameters() if p.dim() <= 1]
    optimizer = torch.optim.AdamW(
        [{"params": decay, "weight_decay": 0.05}, {"params": rest, "weight_decay": 0.0}], betas=(0.9, 0.98)
    )
    for step, (ids, targets, positions) in enumerate(itertools.islice(rows(tok), steps)):
        done = step / steps
        for group in optimizer.param_groups:
            group["lr"] = 3e-3 * min(1.0, (step + 1) / 60) * (0.02 + 0.98 * (0.5 + 0.5 * math.cos(math.pi * done)))
        with torch.autocast("cpu", torch.bfloat16):  # products only; weights and sums stay in float32
            logits = model(ids, attention_mask=_mask(positions), position_ids=positions).logits  # [rows, T, V]
        loss = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1).float(), targets[:, 1:].flatten())
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if step % 50 == 0:
            log.info("step %d of %d, loss %.4f", step, steps, loss.item())
    return model


def save(tok: PreTrainedTokenizerFast, model: LlamaForCausalLM, out: Path) -> None:
    """Everything a loader needs, in fp16; written beside and moved into place."""
    beside = out.with_name(out.name + ".new")
    shutil.rmtree(beside, ignore_errors=True)
    ends = [tok.convert_tokens_to_ids("<|end|>"), tok.convert_tokens_to_ids("<|end_of_text|>")]
    model.generation_config = GenerationConfig(eos_token_id=ends, pad_token_id=ends[1])
    model.half().save_pretrained(beside)
    tok.save_pretrained(beside)
    card = out / "README.md"
    if card.exists():
        shutil.copy(card, beside)
    shutil.rmtree(out, ignore_errors=True)
    beside.rename(out)


def main() -> None:
    """Train and write."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "weights")
    parser.add_argument("--steps", type=int, default=1350)
    told = parser.parse_args()
    tok = tokenizer()
    save(tok, train(tok, told.steps), told.out)


if __name__ == "__main__":
    main()
