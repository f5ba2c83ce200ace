"""All that Unicode allows, in and out, through the whole house."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
import pytest

from ops.bench.stack import Stack
from tests.worker import saved_models, tiny

TEXTS = [
    "Grüße, 世界",
    "👩‍👩‍👧‍👦 🏳️‍🌈 🇩🇪🇫🇷 👍🏽",
    "e\u0301 a\u0323\u0302 \u1100\u1161\u11a8",
    "שלום \u202eabc\u202c العربية \u2067x\u2069",
    "a\0b\x01\x7f\x9f",
    "line\u2028paragraph\u2029next\x85end\r\n\ttab",
    "\ufeffmark \ufffd \uffff \U0010ffff",
    "\U0001d518\U0001d52b\U0001d526 \ufdfd \ufb01",
]


def _streamed(stack: Stack, path: str, body: dict[str, Any]) -> str:
    text = ""
    with httpx2.stream("POST", f"{stack.url}{path}", json=body | {"stream": True}, timeout=30) as answer:
        for line in answer.iter_text():
            text += line
    blocks = [block.split("data: ", 1)[1] for block in text.split("\n\n") if "data: {" in block]
    pieces = [json.loads(block)["choices"][0] for block in blocks]
    return "".join(piece["text"] if "text" in piece else piece["delta"].get("content", "") for piece in pieces)


@pytest.mark.parametrize("text", TEXTS)
def test_a_text_comes_back_as_it_went(stack: Stack, text: str) -> None:
    body = {"prompt": text, "echo": True, "max_tokens": 2, "metadata": {"note": text}, "stop": [text[:3]], "seed": 1}

    answer = httpx2.post(f"{stack.url}/completions", json=body, timeout=30).json()

    assert answer["choices"][0]["text"].startswith(text)
    assert answer["metadata"] == {"note": text}
    assert _streamed(stack, "/completions", body) == answer["choices"][0]["text"]
    scored = httpx2.post(f"{stack.url}/completions", json=body | {"logprobs": 0, "max_tokens": 0}, timeout=30).json()
    spelled = [one if not one.startswith("bytes:") else "" for one in scored["choices"][0]["logprobs"]["tokens"]]
    assert all(one in text for one in spelled)


@pytest.mark.parametrize("text", TEXTS)
def test_a_conversation_may_say_anything(stack: Stack, text: str) -> None:
    told = stack.client().chat.completions.create(
        model="penstock-demo", messages=[{"role": "user", "content": text}, {"role": "user", "content": "Who are you?"}]
    )

    assert told.choices[0].message.content


def test_bytes_that_are_no_characters_never_change_what_was_shown(start: Callable[..., Stack], tmp_path: Path) -> None:
    """A model with random weights, drawn at random: most of its bytes are no characters."""
    folder = saved_models.save(tmp_path / "llama", tiny.CONFIGS["llama"])
    stack = start(f'[[models]]\nname = "llama"\npath = "{folder}"\nslots = 8\n', threads="1")
    tokenizer = saved_models.tokenizer()
    ids = {str(at): 3 for word, at in tokenizer.get_vocab().items() if len(word) == 1 and not word.isascii()}

    broken = 0
    for seed in range(1, 9):
        body = {"prompt": "世界", "temperature": 2, "seed": seed, "max_tokens": 60, "logit_bias": ids, "logprobs": 0}
        whole = httpx2.post(f"{stack.url}/completions", json=body, timeout=30).json()["choices"][0]
        assert _streamed(stack, "/completions", body) == whole["text"]
        spelled = b"".join(_bytes(token) for token in whole["logprobs"]["tokens"])
        told = spelled.decode(errors="replace")
        assert told.startswith(whole["text"])
        assert set(told[len(whole["text"]) :]) <= {"\ufffd"}  # half a character at the end waits for ever
        broken += whole["text"].count("\ufffd")
    assert broken > 20


def _bytes(token: str) -> bytes:
    if not token.startswith("bytes:"):
        return token.encode()
    return bytes(int(one, 16) for one in token.removeprefix("bytes:").split("\\x")[1:])
