"""How long the door takes for a request with a schema: the whole of it, with a real admission child.

One request after the other, each a short conversation with another schema: the same that ``masks`` walks along. A no
is an answer, too. By the clock, and by CPU time of this process and the child.
"""

import hashlib
import json
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil

from common.bundle import packed
from common.cards import ModelCard
from common.door.admission import Door
from common.door.children import Children
from common.errors import ApiError
from common.identity import Principal
from common.ledger.ledger import Ledger
from common.ledger.replies import WorkerInfo
from common.protocol import parse
from common.protocol.chat import ChatRequest
from common.protocol.generation import Headers
from common.settings import DEMO_MODEL, Settings
from ops.bench import masks
from ops.embedded import Embedded

_ASKED = [{"role": "system", "content": "You are helpful."}, {"role": "user", "content": "Who are you?"}]
_FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")
_WARM = 3  # requests before all others


class Asking:
    """Requests, and what became of them."""

    def __init__(self, door: Door, settings: Settings) -> None:
        self._door, self._limits = door, settings.limits
        self.wall_ms: list[float] = []
        self.cpu_ms: list[float] = []
        self.ends: Counter[str] = Counter()

    def ask(self, schema: Any) -> None:
        """One request."""
        told = {"type": "json_schema", "json_schema": {"name": "it", "schema": schema}}
        body = json.dumps({"messages": _ASKED, "response_format": told}).encode()
        cpu_s, wall_s = _cpu_s(), time.perf_counter()
        try:
            self._door.admit(parse(body, ChatRequest, limits=self._limits, strict=False), Principal(), Headers())
        except ApiError as refused:
            self.ends[f"{refused.status}"] += 1
        else:
            self.ends["taken"] += 1
        self.wall_ms.append(1e3 * (time.perf_counter() - wall_s))
        self.cpu_ms.append(1e3 * (_cpu_s() - cpu_s))


def _cpu_s() -> float:
    """Of this process and its children but Redis, by the kernel's clocks, which are finer than its tables."""
    children = (child.pid for child in psutil.Process().children() if "common.door.child" in child.cmdline())
    return time.process_time() + sum(time.clock_gettime((~pid << 3) | 2) for pid in children)


def measure(some: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Flat figures; ``some``: rows with a schema."""
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(data_dir=Path(folder))
        embedded = Embedded(settings)
        ledger = Ledger((embedded.start().url,))
        _introduce(ledger, settings.models[0].name)
        door = Door(settings, ledger, Children(1))
        try:
            return _measured(door, settings, some)
        finally:
            door.close()
            ledger.close()
            embedded.stop()


def _introduce(ledger: Ledger, name: str) -> None:
    """The bundled model, as a worker would."""
    files = {one: (DEMO_MODEL / one).read_bytes() for one in _FILES}
    config = json.loads((DEMO_MODEL / "config.json").read_text())
    blob = packed(files)
    context, vocabulary, ends = config["max_position_embeddings"], config["vocab_size"], (config["eos_token_id"],)
    able, digest = ("chat", "constraints"), hashlib.sha256(blob).hexdigest()
    card = ModelCard(name, context, vocabulary, ends, ends, True, able, "packed", "float32", None, 0, digest)
    ledger.put_card(card, blob)
    ledger.beat(WorkerInfo("bench", name, 1, 1, "ready"), {})


def _measured(door: Door, settings: Settings, some: Sequence[dict[str, Any]]) -> dict[str, float]:
    warming, asking = Asking(door, settings), Asking(door, settings)
    for at in range(_WARM):
        warming.ask({"const": at})
    for row in some:
        asking.ask(row["schema"])
    print(f"door: {dict(asking.ends)}", file=sys.stderr)
    return masks.quantiles("admission", "ms", asking.wall_ms) | masks.quantiles("admission_cpu", "ms", asking.cpu_ms)
