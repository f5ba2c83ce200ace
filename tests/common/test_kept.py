"""What a process keeps of what passes through it."""

import ctypes
import subprocess
import sys
from pathlib import Path

import pytest

from common.bundle import unpack
from common.cards import ModelCard
from common.jobs import Delta, Job, decode_event
from common.ledger.webhooks import Webhook
from common.reading import plain
from common.settings import REPOSITORY
from common.toolformat import ToolFormat, ToolPlan
from tests.builders import a_job
from tests.common.test_door import card, files

Noun = Job | ModelCard | ToolFormat | ToolPlan | Webhook
FORMAT = ToolFormat("own", "begin of a call", "", None, "", "")
_COUNTED = """
import ctypes, sys
from common.door.child import Reader
from common.door.renamed import Renamed
from worker.models.counting import tokenizer

class Info(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in "a b c d mapped e f used g h".split()]

info = ctypes.CDLL(None).mallinfo2
info.restype = Info
reader, renamed = Reader(), Renamed(tokenizer(), {"<|end|>": 256}, set())
prompt = {"ids": None, "turns": None, "budget": None, "echo": None, "has_offsets": False}
question = {"folder": sys.argv[1], "most": 10**9, "vocabulary": 300}
question |= dict.fromkeys(("hint", "form", "tools", "as"))

def used():
    return info().used + info().mapped

def grown(first):
    before = used()
    for at in range(first, first + 4000):
        reader.read(question | {"prompts": [prompt | {"text": f"word{at}"}]})
        renamed.read(f"word{at}")
    return used() - before

print(grown(0), grown(4000))
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallinfo2"), reason="the C library is not glibc")
def test_a_child_that_has_read_many_words_grows_no_more_with_new_ones(tmp_path: Path) -> None:
    unpack(files(), tmp_path)
    told = subprocess.run(
        [sys.executable, "-c", _COUNTED, str(tmp_path)], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )

    first, later = map(int, told.stdout.split())
    assert 0 <= later < 2**17 < first


@pytest.mark.parametrize(
    ("noun", "name"),
    [
        (a_job(model="a-model-of-ours"), "model"),
        (card(b"", name="a-model-of-ours"), "base_model"),
        (FORMAT, "begin"),
        (Webhook("id", "owner", "name", "https://a.example/hook", (), "secret", 0, 0), "url"),
        (ToolPlan("a grammar", FORMAT, {}, is_first=False, finish="stop"), "grammar"),
    ],
)
def test_what_is_decoded_is_not_remembered(noun: Noun, name: str) -> None:
    one, other = (getattr(noun.decode(noun.encode().encode()), name) for _ in range(2))

    assert one == other == getattr(noun, name)
    assert one is not other


def test_what_was_said_is_not_remembered() -> None:
    one, other = (decode_event(Delta("some words", (1, 2)).encode()) for _ in range(2))

    assert isinstance(one, Delta)
    assert isinstance(other, Delta)
    assert one == other
    assert one.text is not other.text


def test_names_of_fields_are_kept_once() -> None:
    one, other = (next(iter(plain(b'{"a field": 1}'))) for _ in range(2))

    assert one is other
