"""Clients: each asks one question after the other, comes back after each cut, and writes everything down."""

import json
import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from http import HTTPStatus

from common.jobs import strip_prefix
from tests.chaos.history import History, Question, Reading, Whole
from tests.chaos.wire import BROKEN, Call, CutError

DEADLINE_S = 120.0
_AGAIN_S = (0.05, 0.4)
_RESUMABLE = {"server_draining", "storage_unavailable"}
_COMPLETIONS = "/v1/completions"


class Client:
    """One of them; its choices come from its seed."""

    def __init__(
        self, urls: list[str], seed: int, number: int, stop: threading.Event, deadline_s: float = DEADLINE_S
    ) -> None:
        self.chance = random.Random(f"client {seed} {number}")
        self._urls, self._stop, self._deadline_s = urls, stop, deadline_s

    def ask(self, question: Question) -> History:
        """Until its end, or its deadline."""
        history = History(question)
        began = time.monotonic()
        self._until = began + self._deadline_s
        {
            "whole": self._whole,
            "twice": self._twice,
            "again": self._again,
            "forget": self._leave,
            "hang up": self._leave,
            "cancel": self._cancel,
        }.get(question.kind, self._stream)(history)
        history.seconds = time.monotonic() - began
        return history

    # streams ------------------------------------------------------------------------------------------------------
    def _stream(self, history: History) -> None:
        """Post, then follow by numbers."""
        if self._post(history, self._cut(history.question)):
            self._follow(history)

    def _again(self, history: History) -> None:
        """Post, cut, and post the same once more: it joins what is there, from the start."""
        if not self._post(history, self.chance.randint(1, 6000)) or history.end == "done":
            return
        self._pause(0, 1.0)
        if self._post(history, None):
            self._follow(history)

    def _leave(self, history: History) -> None:
        if self._post(history, self.chance.randint(1, 4000)) and history.end != "done":
            history.end = "left"

    def _cancel(self, history: History) -> None:
        """Read a while, cancel, read to the end that comes."""
        if not self._post(history, self.chance.randint(1000, 8000)) or history.end == "done":
            return
        job = f"job_{history.jobs()[-1]}"
        for url in self._attempts():
            try:
                with Call(url, "POST", f"/v1/jobs/{job}/cancel") as call:
                    if call.answer().status == HTTPStatus.OK:
                        break
                    history.errors.append(f"cancel: {call.answer().status}")
            except BROKEN:
                continue
        self._follow(history)

    def _post(self, history: History, cut_at: int | None) -> bool:
        """Until it is accepted; without a key it is sent only once. Reads what comes."""
        question = history.question
        for url in self._attempts():
            try:
                with Call(url, "POST", _COMPLETIONS, question.body(), _key(question), cut_at) as call:
                    if self._read(history, call, 0):
                        return True
            except BROKEN as error:
                history.errors.append(repr(error))
                if isinstance(error, ConnectionRefusedError):
                    continue
            if not question.has_key:
                break
        history.end = "refused"
        return False

    def _follow(self, history: History) -> None:
        """From the last number, again and again, until the end."""
        attempts = self._attempts()
        while history.end == "late":
            url = next(attempts, None)
            if url is None:
                return
            job_id, after = history.readings[-1].job_id, _seen(history)
            by_header = self.chance.random() < 0.5
            headers = {"Last-Event-ID": str(after)} if by_header else {}
            path = f"/v1/jobs/job_{job_id}/events" + ("" if by_header else f"?after={after}")
            try:
                with Call(url, "GET", path, None, headers, self._cut(history.question)) as call:
                    if not self._read(history, call, after) and call.answer().status in {404, 410}:
                        history.end = "failed"
            except BROKEN as error:
                history.errors.append(repr(error))

    def _read(self, history: History, call: Call, after: int) -> bool:
        """One answer of SSE; False when it was refused."""
        answer = call.answer()
        job_id = strip_prefix(answer.headers.get("x-job-id", ""))
        if answer.status != HTTPStatus.OK or job_id is None:
            history.errors.append(f"{answer.status} {answer.read()[:200]!r}")
            return False
        reading = Reading(job_id, after)
        history.readings.append(reading)
        try:
            for number, told in call.blocks():
                self._take(history, reading, number, told)
        except CutError:
            reading.end = "cut by us"
        except BROKEN as error:
            history.errors.append(f"cut: {error!r}")
        return True

    @staticmethod
    def _take(history: History, reading: Reading, number: int, told: str) -> None:
        if told == "[DONE]":
            reading.end = history.end = "done"
            return
        body = json.loads(told)
        if number:
            reading.frames.append((number, body["choices"][0]["index"], body["choices"][0]["text"]))
            reading.times.append(time.monotonic())
        elif "error" in body:
            reading.end = str(body["error"]["code"] or body["error"]["type"])
            history.errors.append(told)
            if reading.end not in _RESUMABLE:
                history.end = "failed"

    # whole answers --------------------------------------------------------------------------------------------------
    def _whole(self, history: History) -> None:
        """Asked for until it is here; some are cut by us before they are."""
        question = history.question
        for url in self._attempts():
            try:
                with Call(url, "POST", _COMPLETIONS, question.body(), _key(question)) as call:
                    if self.chance.random() < 0.2:
                        self._pause(0, 1.0)
                        call.reset()
                    elif self._gather(history, call):
                        return
            except BROKEN as error:
                history.errors.append(repr(error))

    def _twice(self, history: History) -> None:
        """The same at two front ends at once."""
        question = history.question
        for url in self._attempts():
            try:
                with (
                    Call(url, "POST", _COMPLETIONS, question.body(), _key(question)) as one,
                    Call(self._url(), "POST", _COMPLETIONS, question.body(), _key(question)) as other,
                ):
                    told = [self._gather(history, call) for call in (one, other)]
                    if all(told):
                        return
            except BROKEN as error:
                history.errors.append(repr(error))

    @staticmethod
    def _gather(history: History, call: Call) -> bool:
        status, body = call.answer().status, call.json()
        if status != HTTPStatus.OK:
            history.errors.append(f"{status} {body}")
            return False
        job_id = strip_prefix(body["id"]) or ""
        texts = [choice["text"] for choice in body["choices"]]
        history.wholes.append(Whole(job_id, texts, body["usage"]["completion_tokens"]))
        history.end = "done"
        return True

    # chances --------------------------------------------------------------------------------------------------------
    def _attempts(self) -> Iterator[str]:
        """A front end at a time, until the deadline."""
        yield self._url()
        while time.monotonic() < self._until:
            self._pause(*_AGAIN_S)
            yield self._url()

    def _pause(self, least_s: float, most_s: float) -> None:
        time.sleep(self.chance.uniform(least_s, most_s))  # a person who thinks

    def _url(self) -> str:
        return self.chance.choice(self._urls)

    def _cut(self, question: Question) -> int | None:
        """Where this answer is cut by us, if it is and its job does not mind."""
        if question.on_disconnect == "cancel":
            return None
        return self.chance.randint(1, 20_000) if self.chance.random() < 0.25 else None


def _key(question: Question) -> dict[str, str]:
    return {"Idempotency-Key": question.name} if question.has_key else {}


def _seen(history: History) -> int:
    """The last number of the newest reading that has one, back to where the job was read from its start."""
    newest = history.readings[-1]
    return newest.frames[-1][0] if newest.frames else newest.after


class Crowd:
    """Many clients at once, and all their histories."""

    def __init__(
        self, urls: list[str], seed: int, asks: Sequence[Iterator[Question]], deadline_s: float = DEADLINE_S
    ) -> None:
        """One client for each of ``asks``; each question is given up after so long."""
        self._stop = threading.Event()
        self._changed = threading.Condition()
        self._histories: list[History] = []
        self._begun = 0
        self._urls, self._seed, self._deadline_s = urls, seed, deadline_s
        runs = [self._runs(number, one) for number, one in enumerate(asks)]
        self._threads = [threading.Thread(target=run, name=f"client{at}") for at, run in enumerate(runs)]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> list[History]:
        """After the questions under way."""
        self._stop.set()
        for thread in self._threads:
            thread.join()
        return self._histories

    def ask(self, question: Question) -> threading.Thread:
        """One more question, in a thread of its own, which ends with it."""
        client = Client(self._urls, self._seed, -len(self._threads), self._stop, self._deadline_s)
        thread = threading.Thread(target=lambda: self._note(client.ask(question)), name=question.name)
        self._threads.append(thread)
        thread.start()
        return thread

    def wait(self, jobs: int, timeout_s: float) -> bool:
        """Until so many questions were begun."""
        with self._changed:
            return self._changed.wait_for(lambda: self._begun >= jobs, timeout_s)

    def _runs(self, number: int, asks: Iterator[Question]) -> Callable[[], None]:
        def run() -> None:
            client = Client(self._urls, self._seed, number, self._stop, self._deadline_s)
            for question in asks:
                if self._stop.is_set():
                    return
                with self._changed:
                    self._begun += 1
                    self._changed.notify_all()
                self._note(client.ask(question))

        return run

    def _note(self, history: History) -> None:
        with self._changed:
            self._histories.append(history)
