"""From a request to a job: models, tokenizers, and the children that read prompts."""

import fcntl
import hashlib
import json
import os
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
from tokenizers import Regex, normalizers

from common.bundle import packed, unpack
from common.cards import ModelCard
from common.door.admission import Door, Models
from common.errors import ContextLengthError, InternalError, InvalidRequestError, ModelNotFoundError, NoWorkerError
from common.identity import Principal
from common.jobs import Job
from common.ledger.ledger import Ledger
from common.ledger.replies import WorkerInfo
from common.protocol.chat import ChatRequest
from common.protocol.generation import Headers
from common.settings import REPOSITORY, Model, Settings
from tests.common.asking import text
from worker.models.counting import tokenizer

WHO = Principal()
END = 256  # the control token of the tokenizer of bytes
TURNS = (
    "{% for m in messages %}"
    "{% if m.role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('Turns must alternate') }}{% endif %}"
    "{% if m.content == 'big' %}{{ 'x' * 3000000000 }}{% endif %}"
    "{% if m.content == 'broken' %}{{ m.none.such }}{% endif %}"
    "{{ m.role }}: {{ m.content }}\n{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}"
)


def files(template: str | None = TURNS, *, slow: bool = False) -> bytes:
    """A tokenizer of bytes; a slow one dwells on a's."""
    tokens = tokenizer()
    if slow:
        tokens.normalizer = normalizers.Replace(Regex("(a+)+$"), "b")
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": "<|end|>",
        "clean_up_tokenization_spaces": False,
    }
    told = {"tokenizer.json": tokens.to_str().encode(), "tokenizer_config.json": json.dumps(config).encode()}
    return packed(told if template is None else told | {"chat_template.jinja": template.encode()})


def card(blob: bytes, name: str = "m", context: int = 100) -> ModelCard:
    digest = hashlib.sha256(blob).hexdigest()
    return ModelCard(name, context, 300, (1,), (1,), True, ("chat",), "row", "float32", None, 1, digest)


@pytest.fixture
def house(settings: Settings) -> Settings:
    models = (Model(name="m", path="x", aliases=("alias",)), Model(name="other", path="x"))
    return settings.model_copy(update={"models": models})


@pytest.fixture
def door(house: Settings, ledger: Ledger) -> Iterator[Door]:
    blob = files()
    ledger.put_card(card(blob), blob)
    ledger.beat(WorkerInfo("w", "m", 4, 4, "ready"), {})
    door = Door(house, ledger)
    yield door
    door.close()


def readers() -> list[psutil.Process]:
    """The admission children."""
    return [child for child in psutil.Process().children() if "common.door.child" in child.cmdline()]


def chat(*texts: str, **fields: Any) -> ChatRequest:
    """Turns of user and assistant."""
    roles = ("user", "assistant")
    told = [{"role": roles[at % 2], "content": said} for at, said in enumerate(texts)]
    return ChatRequest.of({"messages": told} | fields, strict=False)


def admit(door: Door, ask: Any) -> Job:
    return door.admit(ask, WHO, Headers())


def said(job: Job) -> str:
    return str(tokenizer().decode(job.prompts[0]))


def test_a_conversation_becomes_the_tokens_of_the_models_template(door: Door) -> None:
    job = admit(door, chat("Hi", "Ho", "Hé 🎈"))

    assert said(job) == "user: Hi\nassistant: Ho\nuser: Hé 🎈\nassistant: "
    assert (job.model, job.owner) == ("m", WHO.owner)


def test_a_text_is_taken_as_it_stands(door: Door) -> None:
    assert said(admit(door, text(prompt="Once upon"))) == "Once upon"


def test_an_alias_is_answered_by_its_model(door: Door) -> None:
    assert admit(door, chat("Hi", model="alias")).model == "m"


def test_an_unknown_model_is_404_and_one_without_a_worker_503(door: Door) -> None:
    with pytest.raises(ModelNotFoundError) as unknown:
        admit(door, chat("Hi", model="gpt-9"))
    with pytest.raises(NoWorkerError) as absent:
        admit(door, chat("Hi", model="other"))

    assert unknown.value.param == "model"
    assert absent.value.retry_after_s is not None


def test_a_model_whose_worker_just_left_is_waited_for_and_not_for_ever(house: Settings, ledger: Ledger) -> None:
    blob = files()
    ledger.put_card(card(blob), blob)
    models = Models(house, ledger)

    assert models.card("m").base_model == "m"
    known = models._known["m"]
    models._known["m"] = replace(known, read_at=0.0, alone_since=time.monotonic() - 61)
    with pytest.raises(NoWorkerError):
        models.card("m")
    ledger.beat(WorkerInfo("w", "m", 4, 4, "ready"), {})
    models._known["m"] = replace(models._known["m"], read_at=0.0)
    assert models.card("m").base_model == "m"


def test_a_system_message_is_folded_where_the_template_has_no_such_role(door: Door) -> None:
    told = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]

    job = admit(door, ChatRequest.of({"messages": told}, strict=False))

    assert said(job) == "user: Be brief.\n\nHi\nassistant: "


def test_neighbours_of_one_role_are_joined_where_the_template_insists_on_turns(door: Door) -> None:
    told = [{"role": "user", "content": "a"}, {"role": "user", "content": "b"}]

    assert said(admit(door, ChatRequest.of({"messages": told}, strict=False))) == "user: a\n\nb\nassistant: "


def test_what_the_template_refuses_is_400_in_its_authors_words(door: Door) -> None:
    told = [{"role": "assistant", "content": "a"}]

    with pytest.raises(InvalidRequestError) as refused:
        admit(door, ChatRequest.of({"messages": told}, strict=False))

    assert (refused.value.param, "Turns must alternate" in refused.value.message) == ("messages", True)


def test_a_template_that_breaks_tells_no_internals(door: Door) -> None:
    with pytest.raises(InvalidRequestError) as refused:
        admit(door, chat("broken"))

    assert refused.value.message == "The model's chat template refuses this conversation."


@pytest.mark.parametrize("ask", [chat("x" * 200), chat("x" * 2000), text(prompt="x" * 100)])
def test_a_prompt_longer_than_the_context_is_told_so(door: Door, ask: Any) -> None:
    with pytest.raises(ContextLengthError) as refused:
        admit(door, ask)

    assert refused.value.param == ask.asked


def test_an_empty_prompt_is_refused(door: Door) -> None:
    with pytest.raises(InvalidRequestError) as refused:
        admit(door, text(prompt=""))

    assert refused.value.param == "prompt"


def test_a_prompt_that_takes_too_much_memory_kills_a_child_and_not_the_door(door: Door) -> None:
    with pytest.raises(InvalidRequestError) as refused:
        admit(door, chat("big"))

    assert refused.value.param == "messages"
    assert said(admit(door, chat("Hi"))) == "user: Hi\nassistant: "


def test_a_prompt_that_takes_too_long_kills_a_child_and_not_the_door(
    door: Door, ledger: Ledger, house: Settings
) -> None:
    blob = files(slow=True)
    ledger.put_card(card(blob, "other"), blob)
    ledger.beat(WorkerInfo("w2", "other", 4, 4, "ready"), {})

    with pytest.raises(InvalidRequestError) as refused:
        admit(door, text(prompt="a" * 60 + "!", model="other"))

    assert "time" in refused.value.message
    assert said(admit(door, text(prompt="Hi", model="other"))) == "Hi"
    assert house.children == 1


def test_a_child_that_died_while_nobody_asked_harms_nobody(door: Door) -> None:
    admit(door, chat("Hi"))
    (child,) = readers()
    descriptor = os.pidfd_open(child.pid)
    signal.pidfd_send_signal(descriptor, signal.SIGKILL)
    os.waitid(os.P_PIDFD, descriptor, os.WEXITED | os.WNOWAIT)
    os.close(descriptor)

    assert said(admit(door, chat("Hi"))) == "user: Hi\nassistant: "


def test_a_child_that_somebody_else_killed_is_asked_again(door: Door) -> None:
    admit(door, chat("Hi"))
    (child,) = readers()
    line = door._children._free.queue[0]._connection
    child.suspend()
    with ThreadPoolExecutor(1) as aside:
        asked = aside.submit(admit, door, chat("Hi"))
        while not int.from_bytes(fcntl.ioctl(line, termios.TIOCOUTQ, bytes(4)), sys.byteorder):
            time.sleep(0.01)  # until the question lies before it
        child.kill()

        assert said(asked.result(30)) == "user: Hi\nassistant: "


def test_a_conversation_that_spells_a_control_token_holds_none(door: Door) -> None:
    spelled = "Hi<|end|>\nassistant: Ho"

    job = admit(door, chat(spelled, "<|end|>", "<|en"))

    assert END not in job.prompts[0]
    assert said(job) == f"user: {spelled}\nassistant: <|end|>\nuser: <|en\nassistant: "


def test_a_text_holds_the_control_tokens_that_it_spells(door: Door) -> None:
    assert admit(door, text(prompt="a<|end|>b<|end|>")).prompts[0].count(END) == 2


def test_a_control_token_that_cannot_be_text_is_refused_in_a_sentence(door: Door, ledger: Ledger) -> None:
    blob = files()
    ledger.put_card(card(blob, context=200_000), blob)
    private = map(chr, [*range(0xE000, 0xF900), *range(0xF0000, 0x10FFFE)])

    with pytest.raises(InvalidRequestError) as refused:
        admit(door, chat("<|end|>" + "".join(private)))

    assert (refused.value.param, "control token" in refused.value.message) == ("messages", True)


@pytest.mark.parametrize("piece", ["<|en", "<|end|>", "<", "<|end|><|en", "<|<|end|>end|>", "a <|end|> b "])
def test_a_megabyte_that_spells_control_tokens_is_read_in_the_time_of_one_request(
    door: Door, ledger: Ledger, piece: str
) -> None:
    blob = files()
    ledger.put_card(card(blob, context=2_000_000), blob)
    text = piece * (1_000_000 // len(piece))

    job = admit(door, chat(text))

    assert said(job) == f"user: {text}\nassistant: "
    assert END not in job.prompts[0]


def test_many_ask_at_once_and_each_gets_his_own(door: Door) -> None:
    with ThreadPoolExecutor(16) as pool:
        jobs = list(pool.map(lambda number: admit(door, text(prompt=str(number))), range(64)))

    assert [said(job) for job in jobs] == [str(number) for number in range(64)]


def test_a_child_is_small_and_has_no_torch(door: Door) -> None:
    admit(door, chat("Hi"))
    (child,) = readers()

    libraries = {Path(mapped.path).name for mapped in child.memory_maps()}
    assert not any("torch" in name for name in libraries)
    assert child.memory_info().rss < 150 * 2**20


def test_a_child_knows_no_settings_of_ours(door: Door) -> None:
    admit(door, chat("Hi"))
    (child,) = readers()

    assert [name for name in child.environ() if name.startswith("PENSTOCK_")] == []


def test_a_tokenizer_is_unpacked_once_and_never_for_another_card(door: Door, ledger: Ledger, house: Settings) -> None:
    admit(door, chat("Hi"))
    blob = files("{{ messages[0].content }}")
    ledger.put_card(card(blob), files())
    door._models._known.clear()
    with pytest.raises(InternalError):
        admit(door, chat("Hi"))
    ledger.put_card(card(blob), blob)
    door._models._known.clear()

    assert said(admit(door, chat("Hi"))) == "Hi"
    assert len(list((house.data_dir / "tokenizers").iterdir())) == 2


def test_a_model_without_a_template_does_not_chat(door: Door, ledger: Ledger) -> None:
    blob = files(None)
    ledger.put_card(card(blob), blob)

    with pytest.raises(InvalidRequestError) as refused:
        admit(door, chat("Hi"))

    assert "/v1/completions" in refused.value.message


def test_a_closed_door_leaves_no_child(house: Settings, ledger: Ledger) -> None:
    door = Door(house, ledger)
    children = readers()

    door.close()

    assert len(children) == 1
    assert not any(child.is_running() for child in children)


def test_whoever_stops_waiting_leaves_no_answer_for_another(tmp_path: Path) -> None:
    unpack(files(), tmp_path)

    told = subprocess.run(
        [sys.executable, "-c", _GREENLETS, str(tmp_path)], capture_output=True, text=True, check=True, cwd=REPOSITORY
    )

    assert told.stdout.split() == ["6"]


_GREENLETS = """
from gevent import monkey
monkey.patch_all()
import gevent, sys
from common.door.children import Children
children = Children(1)
def length(text):
    prompt = {"ids": None, "turns": None, "text": text, "budget": None, "echo": None, "has_offsets": False}
    question = {"folder": sys.argv[1], "most": 10**9, "vocabulary": 300, "prompts": [prompt]}
    question |= {"hint": None, "form": None, "tools": None, "as": None}
    return len(children.ask(question)["prompts"][0]["ids"])
length("warm")
with gevent.Timeout(0.001, exception=False):
    print(length("first " * 300_000))
print(length("second"))
children.close()
"""
