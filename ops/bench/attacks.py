"""How long the door takes over constraints that were made to do harm; from the repository only, where the tests are."""

import statistics
import sys
import time
from collections import Counter
from dataclasses import asdict

from common.door.children import ChildDiedError, Children
from common.errors import InvalidRequestError
from common.protocol import parse
from common.protocol.chat import ChatRequest
from common.settings import DEMO_MODEL, Limits
from tests.common.constraints.attacks import Attack, all_of_them

_SLOWEST = 12
_HI = '{"messages":[{"role":"user","content":"Hi"}]'


def measure() -> dict[str, float]:
    """Flat figures; the slowest go to stderr, and so does whatever ended a child."""
    children = Children(1)
    try:
        _fate(children, '"guided_choice":["a"]')  # its libraries are loaded, and the model's tokenizer
        found = [_timed(children, attack) for attack in all_of_them()]
    finally:
        children.close()
    for seconds, fate, name in sorted(found, reverse=True)[:_SLOWEST]:
        print(f"  {seconds:6.3f} s  {fate:8}  {name}", file=sys.stderr)
    fates = Counter(fate for _, fate, _ in found)
    times = [seconds for seconds, _, _ in found]
    return {
        "attacks": float(len(found)),
        **{f"attacks_{fate}": float(fates[fate]) for fate in ("taken", "refused", "ended")},
        "attacks_p50_ms": 1e3 * statistics.median(times),
        "attacks_max_s": max(times),
    }


def _timed(children: Children, attack: Attack) -> tuple[float, str, str]:
    """From its bytes to its answer; a child that it ended is back before the next."""
    fields = attack.fields()
    began = time.perf_counter()
    fate = _fate(children, fields)
    seconds = time.perf_counter() - began
    if fate == "ended":
        _fate(children, '"guided_choice":["a"]')
    return seconds, fate, attack.name


def _fate(children: Children, fields: str) -> str:
    try:
        ask = parse(f"{_HI},{fields}}}".encode(), ChatRequest, limits=Limits(), strict=False)
        wanted = ask.wanted()
        question = {"folder": str(DEMO_MODEL), "form": None, "tools": None, "prompts": None}
        answer = children.ask(question | {"wanted": wanted and asdict(wanted)})
    except InvalidRequestError:
        return "refused"
    except ChildDiedError:
        return "ended"
    return "refused" if "refused" in answer else "taken"
