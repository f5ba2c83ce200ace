"""Train the bundled model: ``python -m ops.demo_model.train --out A``, then ``… --practise A --round 1 --out B``, and on.

Practice goes on from weights, with more of what people ask for. Seeded: the same versions on the same machine give the
same files.
"""

import argparse
import itertools
import logging
import math
import shutil
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from transformers import AttentionInterface, GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from ops.demo_model.lessons import Lesson, calling, copying, lessons, practising
from ops.demo_model.tokens import CONTEXT, tokenizer

SEED = 20261124
_COPYING, _CALLING = (400, 1024), (1600, 1536)  # steps of the first two stages, and their tokens
_TOKENS = 2048  # of a later step
_FIRST = 7500  # steps of what is learned first
_MUON, _ADAM = 0.007, 0.002  # the highest rates
_RISE, _FALL = 60, 1.5  # steps up; how steep the way down is
_CHOOSING = {"choices": 30, "known": 10, "tools": 14, "sums": 6}
_Round = tuple[int, float, int, dict[str, int], float]
_ROUNDS: tuple[_Round, ...] = (  # steps, share of the highest rates, seed, shares of lessons, of the weights before it
    (3000, 0.3, SEED + 3, {}, 0.0),
    (8500, 0.6, SEED + 3, {}, 0.0),
    (6500, 0.6, SEED + 5, {"json": 30}, 0.0),
    (8000, 0.6, SEED + 7, _CHOOSING, 0.3),  # the mean forgets less than either: to count, and tools that nobody has
)
Stages = Iterator[tuple[Iterator[Lesson], float, int]]
log = logging.getLogger("train")


def _encode(tok: PreTrainedTokenizerFast, lesson: Lesson) -> tuple[list[int], list[int]]:
    """Ids and targets: only what the assistant says is learned."""
    if lesson.text:
        ids = [*tok(lesson.text, add_special_tokens=False)["input_ids"], tok.convert_tokens_to_ids("<|end_of_text|>")]
        return ids, ids
    text = tok.apply_chat_template(lesson.messages, tools=lesson.tools or None, tokenize=False)
    ids = tok(text, add_special_tokens=False)["input_ids"][:CONTEXT]
    begin, end = tok.convert_tokens_to_ids(["<|assistant|>", "<|end|>"])
    targets, speaks = list[int](), False
    for one in ids:
        targets.append(one if speaks else -100)
        speaks = one == begin or (speaks and one != end)
    return ids, targets


def learning() -> Stages:
    """The first part's lessons, their steps, and tokens of each step."""
    return iter(((copying(SEED), *_COPYING), (calling(SEED + 1), *_CALLING), (lessons(SEED + 2), math.inf, _TOKENS)))


def practice(seed: int, shares: dict[str, int]) -> Stages:
    """Those of a round."""
    return iter(((practising(seed, shares), math.inf, _TOKENS),))


def batches(tok: PreTrainedTokenizerFast, stages: Stages) -> Iterator[tuple[torch.Tensor, torch.Tensor, list[int]]]:
    """The lessons of a step, one behind the other: ids and targets, each [1, T], and how long each lesson is."""
    taught, left_steps, tokens = next(stages)
    while True:
        if left_steps == 0:
            taught, left_steps, tokens = next(stages)
        left_steps -= 1
        ids, targets, lengths = list[int](), list[int](), list[int]()
        while (left := tokens - len(ids)) > 0:
            more, learned = _encode(tok, next(taught))
            ids += more[:left]
            targets += learned[:left]
            lengths.append(len(more[:left]))
        yield torch.tensor([ids]), torch.tensor([targets]), lengths


@lru_cache(CONTEXT)
def _causal(length: int) -> torch.Tensor:
    """[T, T], what a token adds to what it sees."""
    return torch.full((length, length), float("-inf")).triu(1)


def _apart(
    _: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    _mask: torch.Tensor | None,
    *,
    scaling: float,
    lengths: list[int],
    **_others: Any,
) -> tuple[torch.Tensor, None]:
    """Attention within each lesson, [1, heads, T, D] -> [1, T, heads, D]; on a CPU quicker than torch's for short ones."""
    groups = query.shape[1] // key.shape[1]
    with torch.autocast("cpu", enabled=False):
        queries = (query[0].float() * scaling).split_with_sizes(lengths, 1)
        keys = key[0].float().repeat_interleave(groups, 0).transpose(1, 2).split_with_sizes(lengths, 2)
        values = value[0].float().repeat_interleave(groups, 0).split_with_sizes(lengths, 1)
        seen = [
            torch.bmm(torch.softmax(torch.baddbmm(_causal(q.shape[1])[None], q, k), -1), v)
            for q, k, v in zip(queries, keys, values, strict=True)
        ]
    return torch.cat(seen, 1).transpose(0, 1)[None], None


def new(tok: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """A Llama of 2.7 million parameters that knows nothing."""
    torch.manual_seed(SEED)
    config = LlamaConfig(
        vocab_size=len(tok),
        hidden_size=192,
        intermediate_size=512,
        num_hidden_layers=6,
        num_attention_heads=6,
        num_key_value_heads=3,
        head_dim=32,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tok.convert_tokens_to_ids("<|end|>"),
        pad_token_id=tok.convert_tokens_to_ids("<|end_of_text|>"),
    )
    return LlamaForCausalLM(config)


def train(
    tok: PreTrainedTokenizerFast, model: LlamaForCausalLM, stages: Stages, steps: int, highest: float = 1.0
) -> None:
    """So many steps; ``highest``: what the rates begin with, in parts of the usual."""
    optimizers = _optimizers(model)
    model.config.use_cache = False
    model.set_attn_implementation("apart")
    for step, (ids, targets, lengths) in enumerate(itertools.islice(batches(tok, stages), steps)):
        said = targets[:, 1:] != -100  # [1, T - 1]
        positions = torch.cat([torch.arange(length) for length in lengths])[None]
        with torch.autocast("cpu", torch.bfloat16):  # products only; weights and sums stay in float32
            hidden = model.model(ids, position_ids=positions, lengths=lengths).last_hidden_state  # [1, T, H]
            logits = model.lm_head(hidden[:, :-1][said])  # [learned, V]
        loss = torch.nn.functional.cross_entropy(logits.float(), targets[:, 1:][said])
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer, rate in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate * highest * _share(step, steps)
            optimizer.step()
            optimizer.zero_grad()
        if step % 50 == 0:
            log.info("step %d of %d, loss %.4f", step, steps, loss.item())
    model.set_attn_implementation("sdpa")


def _share(step: int, steps: int) -> float:
    """Of the highest rate: up in a few steps, and then down to nothing; what is chosen is only learned at low rates."""
    return min((step + 1) / _RISE, 1.0) * math.pow(1 - step / steps, _FALL)


AttentionInterface.register("apart", _apart)


def _optimizers(model: LlamaForCausalLM) -> list[tuple[torch.optim.Optimizer, float]]:
    """Muon for the layers' matrices, Adam for the rest; each with its highest rate."""
    layers = [p for p in model.model.layers.parameters() if p.dim() == 2]
    inner = {id(p) for p in layers}
    rest = [p for p in model.parameters() if id(p) not in inner]
    muon = torch.optim.Muon(layers, momentum=0.95, weight_decay=0.02, adjust_lr_fn="match_rms_adamw")
    return [(muon, _MUON), (torch.optim.AdamW(rest, betas=(0.9, 0.98), weight_decay=0.0), _ADAM)]


def save(tok: PreTrainedTokenizerFast, model: LlamaForCausalLM, out: Path) -> None:
    """Everything a loader needs, in fp16; written beside and moved into place."""
    beside = out.with_name(out.name + ".new")
    shutil.rmtree(beside, ignore_errors=True)
    ends = [tok.convert_tokens_to_ids("<|end|>"), tok.convert_tokens_to_ids("<|end_of_text|>")]
    model.config.use_cache = True
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
    parser.add_argument("--practise", type=Path, help="weights to go on from")
    parser.add_argument("--round", type=int, default=1, choices=range(1, len(_ROUNDS) + 1))
    parser.add_argument("--steps", type=int, help="of what is learned first, where the whole is too much")
    told = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)  # attention's backward pass is full of them
    tok = tokenizer(SEED)
    if told.practise:
        model = LlamaForCausalLM.from_pretrained(told.practise, dtype=torch.float32)
        steps, rate, seed, shares, kept = _ROUNDS[told.round - 1]
        before = {name: value.clone() for name, value in model.state_dict().items()}
        train(tok, model, practice(seed, shares), steps, rate)
        model.load_state_dict({name: value.lerp(before[name], kept) for name, value in model.state_dict().items()})
    else:
        model = new(tok)
        train(tok, model, learning(), told.steps or _FIRST)
    save(tok, model, told.out)


if __name__ == "__main__":
    main()
