"""A front end as it is served, and a worker whose model says what it is told to, byte by byte, a token each."""

import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path

import httpx2
from openai import OpenAI

from common.ledger.ledger import Ledger
from common.ledger.replies import WorkerInfo
from common.settings import Model, Settings, bare_environment
from ops.embedded import Embedded, free_port
from worker.engine.engine import Engine
from worker.engine.model import Feed
from worker.hot import HotFile
from worker.models import loader
from worker.models.counting import Counting, tokenizer
from worker.publisher import Publishers
from worker.tickets import Intake, Waker
from worker.watch import Heart, Parts, hearts

_PRINTED = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]  # a byte-level alphabet has them as they are
_OTHERS = [byte for byte in range(256) if byte not in _PRINTED]
_LETTERS = {byte: chr(byte) for byte in _PRINTED} | {byte: chr(256 + at) for at, byte in enumerate(_OTHERS)}
_TOLD = re.compile(r"say ([0-9a-f]*)\.")
_PATIENCE_S = 20.0
TOKENS = [tokenizer().get_vocab()[letter] for _, letter in sorted(_LETTERS.items())]


def say(said: bytes) -> str:
    """What to tell the model so that it says these bytes."""
    return f"say {said.hex()}."


class Spoken(Counting):
    """Says the bytes it is told to, and to anything else what it was told."""

    def __init__(self) -> None:
        super().__init__("step_ms=2", slots=8)
        self._script: dict[int, tuple[int, list[int]]] = {}

    def _next(self, feed: Feed) -> int:
        """One byte after the other, then the end."""
        if not feed.position:
            told = _TOLD.search(self.decode(feed.tokens))
            script = [TOKENS[byte] for byte in bytes.fromhex(told[1])] if told else list(feed.tokens)
            self._script[feed.slot] = len(feed.tokens), script
        begun, script = self._script[feed.slot]
        at = feed.position + len(feed.tokens) - begun
        return script[at] if at < len(script) else next(iter(self.bounds.end_ids))


class House:
    """Where to ask it, and what became of the questions."""

    def __init__(self, url: str, ledger: Ledger) -> None:
        self.url, self.ledger = url, ledger

    def client(self) -> OpenAI:
        """The unchanged SDK."""
        return OpenAI(base_url=f"{self.url}/v1", api_key="EMPTY", max_retries=0, timeout=_PATIENCE_S)

    def post(self, path: str, body: bytes) -> httpx2.Response:
        """A body as it stands."""
        return httpx2.post(
            f"{self.url}/v1/{path}", content=body, headers={"content-type": "application/json"}, timeout=_PATIENCE_S
        )


@contextmanager
def spoken(folder: Path) -> Iterator[House]:
    """A house of its own."""
    config = folder / "penstock.toml"
    config.write_text('[[models]]\nname = "m"\npath = "counting:"\n')
    embedded = Embedded(Settings(data_dir=folder / "server"))
    told = {"redis_url": embedded.start().url, "data_dir": str(folder), "config": str(config), "log_level": "error"}
    settings = Settings(redis_url=told["redis_url"], models=(Model(name="m", path="counting:"),))
    try:
        with _worker(settings) as ledger, _front_end(told) as url:
            house = House(url, ledger)
            with house.client() as client:  # some threads start with the first job
                client.completions.create(model="m", prompt="Hi")
            yield house
    finally:
        embedded.stop()


@contextmanager
def _front_end(told: Mapping[str, str]) -> Iterator[str]:
    port = free_port()
    named = {f"PENSTOCK_{name.upper()}": value for name, value in {**told, "port": str(port)}.items()}
    process = subprocess.Popen([sys.executable, "-m", "api.server"], env=bare_environment() | named)
    url = f"http://127.0.0.1:{port}"
    try:
        with httpx2.Client(transport=httpx2.HTTPTransport(retries=8)) as client:  # waits longer each time
            client.get(f"{url}/health").raise_for_status()
        yield url
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(30)


@contextmanager
def _worker(settings: Settings) -> Iterator[Ledger]:
    """As an engine process puts it together."""
    ledger = Ledger(settings.ledgers)
    loaded = loader.load(Model(name="m", path="counting:"))
    ledger.put_card(loaded.card, loaded.tokenizer_files)
    publisher = Publishers(ledger, "w", "m", 0.0)
    with HotFile.make() as file, closing(HotFile(file)) as hot:
        engine = Engine(Spoken(), publisher, hot=hot)
        intake = Intake(ledger, engine, publisher, "w", "m")
        heart = Heart(Parts(ledger, engine, publisher, intake, hot), WorkerInfo("w", "m", 8, 8, "ready"), _PATIENCE_S)
        waker = Waker(settings, "m", intake.ticket)
        beats = hearts(heart, ledger, settings.beat_s)
        publisher.start(engine, intake.heard)
        engine.start()
        for beat in beats:
            beat.start()
        intake.start()
        waker.start()
        try:
            yield ledger
        finally:
            intake.close()
            waker.stop()
            publisher.stop(1)
            engine.stop(_PATIENCE_S)
            for beat in beats:
                beat.stop()
    ledger.close()
