"""Whole servers over HTTP: ours, and ``transformers serve --continuous-batching``, on the same model and prompts.

Tokens a second of CPU of all of a server's processes, one torch thread each; the client's is not counted. The servers
take turns, medians are compared. Prompts are never the same twice: nothing is found computed. Plain
completions, because theirs would look for tool calls in a chat.
"""

import http.client
import json
import random
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast
from transformers.utils.import_utils import is_serve_available

from common.settings import bare_environment
from ops.bench.engine import medians, network
from ops.bench.stack import Stack
from ops.embedded import free_port

_STREAMS = (1, 4, 16, 32, 64)
_ALONE = 2  # answers one after the other, where there is one stream
_SPLIT = 32  # streams whose CPU time is told by process
_WARMING = 16  # streams before all others
_NEW = 64  # tokens of an answer
_LENGTHS = range(50, 101)  # of prompts
_PATIENCE_S = 120
_PARTS = {"api.server": "front_end", "common.door": "front_end", "worker.": "worker", "server.conf": "redis"}
_CACHE = ("--cb-block-size", "32", "--cb-num-blocks", "512", "--cb-max-batch-tokens", "512")  # as large as is needed


class Server:
    """One that is running; it is asked the same as any other that is asked as often."""

    def __init__(self, url: str, pid: int, **body: Any) -> None:
        self._place = urlsplit(url).netloc
        self._process = psutil.Process(pid)
        self._body = body | {"stream": True, "temperature": 0, "max_tokens": _NEW}
        self._drawn = random.Random(0)

    def speed(self, streams: int) -> float:
        """Tokens a CPU-second."""
        return max(streams, _ALONE) * _NEW / self.spent(streams).total()

    def spent(self, streams: int) -> Counter[str]:
        """CPU seconds of so many answers at once, by part of the house."""
        bodies = [self._prompted() for _ in range(max(streams, _ALONE))]
        before = self._cpu_s()
        with ThreadPoolExecutor(streams) as clients:
            list(clients.map(self._answer, bodies))
        after = self._cpu_s()
        after.subtract(before)
        return after

    def _prompted(self) -> bytes:
        words = (f"w{self._drawn.randrange(1, 16384)}" for _ in range(self._drawn.choice(_LENGTHS)))
        return json.dumps(self._body | {"prompt": " ".join(words)}).encode()

    def _answer(self, body: bytes) -> None:
        """Read as it comes. Raises RuntimeError unless all tokens are counted there, and are words here."""
        connection = http.client.HTTPConnection(self._place, timeout=_PATIENCE_S)
        connection.request("POST", "/v1/completions", body, {"Content-Type": "application/json"})
        lines = list(connection.getresponse())
        connection.close()
        parts = [json.loads(line.removeprefix(b"data: ")) for line in lines if line.startswith(b"data: {")]
        told = [part["usage"]["completion_tokens"] for part in parts if part.get("usage")]
        text = "".join(choice.get("text") or "" for part in parts for choice in part["choices"])
        if told != [_NEW] or len(text.split()) != _NEW:
            raise RuntimeError(f"not {_NEW} tokens, but {told}: {text or lines}")

    def _cpu_s(self) -> Counter[str]:
        spent: Counter[str] = Counter()  # of fractions as well
        for process in (self._process, *self._process.children(recursive=True)):
            words, times = " ".join(process.cmdline()), process.cpu_times()
            part = next((part for word, part in _PARTS.items() if word in words), "supervisor")
            spent[part] += times.user + times.system
        return spent


def measure() -> dict[str, float]:
    """Flat figures."""
    with tempfile.TemporaryDirectory() as name, ExitStack() as running:
        folder = Path(name)
        _save(folder / "model")
        servers = {"stack": running.enter_context(_ours(folder))}
        if is_serve_available():
            servers["transformers_serve"] = running.enter_context(_theirs(folder))
        else:
            print("`transformers serve` is left out: pip install 'transformers[serving]'", file=sys.stderr)
        return _figures(servers)


def _figures(servers: dict[str, Server]) -> dict[str, float]:
    variants: dict[str, Callable[[], float]] = {
        f"{name}_tokens_per_cpu_s_{streams}": partial(server.speed, streams)
        for streams in _STREAMS
        for name, server in servers.items()
    }
    for server in servers.values():
        server.spent(_WARMING)
    speed = medians(variants, is_warm=True)
    spent = servers["stack"].spent(_SPLIT)
    ratios = {
        f"stack_over_{name}_{streams}": speed[f"stack_tokens_per_cpu_s_{streams}"]
        / speed[f"{name}_tokens_per_cpu_s_{streams}"]
        for name in servers
        for streams in _STREAMS
        if name != "stack"
    }
    shares = {f"stack_{part}_cpu_share_{_SPLIT}": own / spent.total() for part, own in spent.items()}
    return speed | ratios | shares


def _save(folder: Path) -> None:
    """The engine's network, and words as its tokens; nothing ends an answer."""
    words = Tokenizer(models.WordLevel({f"▁w{at}": at for at in range(16384)}, unk_token="▁w0"))  # noqa: S106  a word
    words.pre_tokenizer, words.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    PreTrainedTokenizerFast(tokenizer_object=words).save_pretrained(folder)
    network().save_pretrained(folder)


@contextmanager
def _ours(folder: Path) -> Iterator[Server]:
    toml = f'[[models]]\nname = "bench"\npath = "{folder / "model"}"\nslots = {max(_STREAMS)}\n'
    stack = Stack(folder, toml, threads="1")
    try:
        stack.wait_ready()
        yield Server(stack.url, stack.process.pid, model="bench", stream_options={"include_usage": True})
    finally:
        stack.stop()


@contextmanager
def _theirs(folder: Path) -> Iterator[Server]:
    port, model = free_port(), str(folder / "model")
    words = ("serve", model, "--continuous-batching", "--port", str(port), *_CACHE)
    with (folder / "serve.log").open("wb") as log:
        process = subprocess.Popen(  # noqa: S603  transformers' own program
            [sys.executable, "-m", "transformers.cli.transformers", *words],
            env=bare_environment() | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
            stdout=log,
            stderr=log,
        )
    try:
        _wait_listening(port, process)
        yield Server(f"http://127.0.0.1:{port}", process.pid, model=model)
    finally:
        process.terminate()
        process.wait()


def _wait_listening(port: int, process: subprocess.Popen[bytes]) -> None:
    while process.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
        except ConnectionRefusedError:
            time.sleep(0.1)  # nothing says when
        else:
            return
    raise RuntimeError("`transformers serve` ended before it listened")
