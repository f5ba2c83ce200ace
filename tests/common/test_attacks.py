"""Every constraint that was made to do harm, at the real door: what becomes of it, and of those who ask beside it."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from common.door.admission import Door
from common.errors import InvalidRequestError
from common.ledger.ledger import Ledger
from common.ledger.replies import WorkerInfo
from common.protocol import parse
from common.protocol.chat import ChatRequest
from common.settings import Limits, Model, Settings
from tests.common.constraints.attacks import Attack, all_of_them
from tests.common.test_door import admit, card, chat, files, readers, said

ATTACKS = all_of_them()
_PARTS = 8
_LONGEST = 1_000  # characters of a refusal
_DEADLY = {"multipleOfs", "oneOf doubled 40 times"}  # the engine takes too long over them, and a child ends


@pytest.fixture
def door(settings: Settings, ledger: Ledger) -> Iterator[Door]:
    """With two children, and a model that can be constrained."""
    blob = files()
    told = card(blob, context=2_000_000)
    ledger.put_card(replace(told, capabilities=(*told.capabilities, "constraints")), blob)
    ledger.beat(WorkerInfo("w", "m", 4, 4, "ready"), {})
    door = Door(settings.model_copy(update={"models": (Model(name="m", path="x"),), "children": 2}), ledger)
    yield door
    door.close()


def _fate(door: Door, attack: Attack) -> tuple[str, InvalidRequestError | None]:
    """As a front end asks; whatever is not a refusal in a sentence comes out of here."""
    body = f'{{"messages":[{{"role":"user","content":"Hi"}}],{attack.fields()}}}'
    try:
        job = admit(door, parse(body.encode(), ChatRequest, limits=Limits(), strict=False))
    except InvalidRequestError as refused:
        return "refused", refused
    assert job.constraint is not None
    return "taken", None


def _names(attack: Attack, refused: InvalidRequestError) -> bool:
    """Whether it is a sentence, and says of which field it is, unless the body was not even read."""
    if refused.param is None:
        return refused.message.startswith(("The body ", "NaN is "))
    is_its = attack.param is None or refused.param.startswith(attack.param)
    return is_its and refused.message.endswith((".", ")")) and len(refused.message) < _LONGEST


def _ask(door: Door, until: threading.Event) -> set[str]:
    answers = {said(admit(door, chat("Hi")))}
    while not until.is_set():
        answers.add(said(admit(door, chat("Hi"))))
    return answers


@pytest.mark.parametrize("part", range(_PARTS))
def test_what_is_made_to_do_harm_is_taken_or_refused_and_disturbs_nobody(door: Door, part: int) -> None:
    mine = ATTACKS[part::_PARTS]
    admit(door, chat("Hi"))
    before = {child.pid for child in readers()}
    is_over = threading.Event()

    with ThreadPoolExecutor(1) as aside:
        beside = aside.submit(_ask, door, is_over)
        try:
            fates = [(attack, *_fate(door, attack)) for attack in mine]
        finally:
            is_over.set()

    assert [attack.name for attack, fate, _ in fates if attack.fate not in {fate, "either"}] == []
    assert [(attack.name, refused) for attack, _, refused in fates if refused and not _names(attack, refused)] == []
    assert beside.result() == {"user: Hi\nassistant: "}
    assert len(before - {child.pid for child in readers()}) <= len(_DEADLY & {attack.name for attack in mine})
    assert said(admit(door, chat("Ho"))) == "user: Ho\nassistant: "


def test_a_constraint_that_kills_a_child_is_refused_by_its_name_and_a_prompt_by_its_own(door: Door) -> None:
    (deadly,) = (attack for attack in ATTACKS if attack.name == "multipleOfs")

    fate, refused = _fate(door, deadly)
    with pytest.raises(InvalidRequestError) as beside:
        admit(door, chat("big", guided_choice=["a"]))

    assert (fate, refused and refused.param) == ("refused", deadly.param)
    assert "time" in str(refused)
    assert beside.value.param == "messages"
