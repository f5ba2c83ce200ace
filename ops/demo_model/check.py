"""How often the bundled model is right: ``python -m ops.demo_model.check`` prints a line a topic.

The questions come from another seed than the training's; most of them differ from all that it saw in words or numbers.
"""

import itertools
from collections import defaultdict
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from ops.demo_model.dialogues import questions

WEIGHTS = Path(__file__).parent / "weights"
_SEED, _QUESTIONS, _TOGETHER, _NEW = 7, 640, 32, 400


def measure(weights: Path = WEIGHTS, count: int = _QUESTIONS) -> dict[str, tuple[int, int]]:
    """Topic -> how many answers were right to the letter, and of how many; greedy."""
    tokenizer = AutoTokenizer.from_pretrained(weights, padding_side="left")
    model = AutoModelForCausalLM.from_pretrained(weights, dtype=torch.float32).eval()
    found: dict[str, tuple[int, int]] = defaultdict(lambda: (0, 0))
    asked = itertools.islice(questions(_SEED), count)
    while batch := list(itertools.islice(asked, _TOGETHER)):
        texts = [
            tokenizer.apply_chat_template(
                [{"role": "user", "content": ask}], add_generation_prompt=True, tokenize=False
            )
            for _, ask, _ in batch
        ]
        ids = tokenizer(texts, return_tensors="pt", padding=True, add_special_tokens=False, return_token_type_ids=False)
        with torch.inference_mode():
            said = model.generate(**ids, do_sample=False, max_new_tokens=_NEW)[:, ids["input_ids"].shape[1] :]
        for (topic, _, answer), given in zip(
            batch, tokenizer.batch_decode(said, skip_special_tokens=True), strict=True
        ):
            right, of = found[topic]
            found[topic] = right + (given == answer), of + 1
    return dict(found)


def main() -> None:
    """Print it."""
    found = measure()
    for topic, (right, of) in sorted(found.items()):
        print(f"{topic:10} {right:4} of {of}")
    print(f"{'all':10} {sum(right for right, _ in found.values()):4} of {sum(of for _, of in found.values())}")


if __name__ == "__main__":
    main()
