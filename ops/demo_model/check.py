"""How often the bundled model is right: ``python -m ops.demo_model.check`` prints a line a topic.

The questions come from another seed than the training's; most of them differ from all that it saw in words or numbers.
Those for tools and JSON have values, names and phrasings that the training cannot make; their answers are held to what
the server holds them to.
"""

import argparse
import itertools
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from ops.demo_model.dialogues import questions
from ops.demo_model.held import Grammars
from ops.demo_model.lessons import Lesson, exam

WEIGHTS = Path(__file__).parent / "weights"
_SEED, _QUESTIONS, _LESSONS, _TOGETHER, _NEW = 7, 640, 1200, 32, 400
_USUAL = "call usual"
_NAME = re.compile(r'<tool_call>\{"name": "([^"]*)"')
Found = dict[str, tuple[int, int]]


def measure(weights: Path = WEIGHTS, count: int = _QUESTIONS, *, temperature: float = 0) -> Found:
    """Topic -> how many answers were right to the letter, and of how many."""
    found: Found = defaultdict(lambda: (0, 0))
    asked = (
        Lesson([{"role": "user", "content": ask}, {"role": "assistant", "content": answer}], [], topic)
        for topic, ask, answer in itertools.islice(questions(_SEED), count)
    )
    for topic, wanted, given in answers(weights, asked, temperature):
        _count(found, topic, is_right=given == wanted)
    return dict(found)


def measure_lessons(weights: Path = WEIGHTS, count: int = _LESSONS, *, temperature: float = 0) -> Found:
    """The same of tools and JSON; of calls also the names, and of usual ones with the right names the arguments."""
    found: Found = defaultdict(lambda: (0, 0))
    for topic, wanted, given in answers(weights, itertools.islice(exam(_SEED), count), temperature):
        if topic.startswith("call"):
            is_named = _NAME.findall(given) == _NAME.findall(wanted)
            _count(found, "names", is_right=is_named)
            if is_named and topic == _USUAL:
                _count(found, "arguments", is_right=given == wanted)
        _count(found, topic, is_right=given == wanted)
    return dict(found)


def answers(weights: Path, lessons: Iterator[Lesson], temperature: float = 0) -> Iterator[tuple[str, str, str]]:
    """Topic, what the last turn should be, and what it is."""
    tokenizer = AutoTokenizer.from_pretrained(weights, padding_side="left")
    model = AutoModelForCausalLM.from_pretrained(weights, dtype=torch.float32).eval()
    torch.manual_seed(_SEED)
    grammars = Grammars(tokenizer, [tokenizer.eos_token_id, tokenizer.pad_token_id])
    how: dict[str, Any] = (
        {"do_sample": True, "temperature": temperature, "top_k": 0} if temperature else {"do_sample": False}
    )
    while batch := list(itertools.islice(lessons, _TOGETHER)):
        asked = [_text(tokenizer, one, opens=True) for one in batch]
        whole = [_text(tokenizer, one) for one in batch]
        ids = tokenizer(asked, return_tensors="pt", padding=True, add_special_tokens=False, return_token_type_ids=False)
        with torch.inference_mode():
            said = model.generate(**ids, **how, max_new_tokens=_NEW, logits_processor=[grammars.held(batch)])[
                :, ids["input_ids"].shape[1] :
            ]
        for lesson, ask, told, given in zip(batch, asked, whole, tokenizer.batch_decode(said), strict=True):
            yield lesson.topic, told.removeprefix(ask).removesuffix("<|end|>"), given.partition("<|end|>")[0]


def _text(tokenizer: Any, lesson: Lesson, *, opens: bool = False) -> str:
    """All of it, or all before the last turn."""
    messages = lesson.messages[:-1] if opens else lesson.messages
    tools = lesson.tools or None
    return str(tokenizer.apply_chat_template(messages, tools=tools, add_generation_prompt=opens, tokenize=False))


def _count(found: Found, topic: str, *, is_right: bool) -> None:
    right, of = found[topic]
    found[topic] = right + is_right, of + 1


def main() -> None:
    """Print it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weights", type=Path, default=WEIGHTS)
    parser.add_argument("--temperature", type=float, default=0)
    told = parser.parse_args()
    for measured in (measure, measure_lessons):
        for topic, (right, of) in sorted(measured(told.weights, temperature=told.temperature).items()):
            print(f"{topic:14} {right:4} of {of:4}  {right / of:6.1%}")


if __name__ == "__main__":
    main()
