"""Every constraint that was made to do harm, over HTTP, beside somebody whose answer streams."""

import json
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import httpx2
import pytest
from openai import OpenAI

from ops.bench.stack import Stack
from tests.common.constraints.attacks import Attack, all_of_them

_HI = '"model":"penstock-demo","max_tokens":4,"messages":[{"role":"user","content":"Hi"}]'


def _sent(stack: Stack, attack: Attack) -> tuple[str, int, str | None]:
    """Its name, the status, and the code of an answer that failed."""
    body = f"{{{_HI},{attack.fields()}}}".encode()
    head = {"content-type": "application/json"}
    answer = httpx2.post(f"{stack.url}/chat/completions", content=body, headers=head, timeout=50)
    return attack.name, answer.status_code, json.loads(answer.content).get("error", {}).get("code")


def _streamed(client: OpenAI) -> str:
    with client.chat.completions.stream(
        model="penstock-demo",
        messages=[{"role": "user", "content": "Who are you?"}],
        max_tokens=60,
        temperature=0,
    ) as stream:
        return stream.get_final_completion().choices[0].message.content or ""


def _ask(client: OpenAI, until: threading.Event) -> set[str]:
    answers = {_streamed(client)}
    while not until.is_set():
        answers.add(_streamed(client))
    return answers


def _processes(stack: Stack) -> list[int]:
    return [process.pid for part in ("api.server", "worker.boot") for process in stack.processes(part)]


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_house_under_attack_stands_and_goes_on_speaking(start: Callable[..., Stack]) -> None:
    stack = start()
    before, undisturbed = _processes(stack), _streamed(stack.client())
    is_over = threading.Event()

    with ThreadPoolExecutor(1) as aside:
        beside = aside.submit(_ask, stack.client(), is_over)
        try:
            answers = [_sent(stack, attack) for attack in all_of_them()]
        finally:
            is_over.set()

    failed = [answer for answer in answers if answer[1] not in {200, 400}]
    assert [answer for answer in failed if answer[1:] != (500, "constraint_failed")] == []
    assert len(failed) <= len(answers) / 50
    assert beside.result() == {undisturbed}
    assert len(before) > 1
    assert _processes(stack) == before
