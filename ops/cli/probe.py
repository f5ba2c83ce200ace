"""Ready means: a first completion went through, over HTTP, like a client's.

Where only users with a password come in, we have none, so there it goes through the ledger.
"""

import contextlib
import threading
import time
from pathlib import Path

import httpx2

from common.errors import ApiError
from common.identity import Principal
from common.jobs import Job, Reply, Sampling, new_id
from common.ledger.ledger import Ledger
from common.settings import Settings
from ops.cli.supervisor import say

_EVERY_S = 0.1  # nobody can tell a client that a port opened, so it asks
_PATIENT_S = 10.0  # then it says why it still waits

_SNIPPET = """\
    from openai import OpenAI

    client = OpenAI(base_url="{url}", api_key="{key}")
    stream = client.chat.completions.create(
        model="{model}", messages=[{{"role": "user", "content": "Who are you?"}}], stream=True
    )
    for part in stream:
        print(part.choices[0].delta.content or "", end="", flush=True)
"""


class Probe:
    """Asks until it is answered, then says so and is done."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._stop = threading.Event()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, name="probe", daemon=True)

    @property
    def is_ready(self) -> bool:
        """Whether a first completion went through."""
        return self._ready.is_set()

    def start(self) -> None:
        """Begin to ask."""
        self._thread.start()

    def stop(self) -> None:
        """It does not matter any more."""
        self._stop.set()
        self._thread.join(2 * _EVERY_S)

    def _run(self) -> None:
        key = a_key(self._settings.api_keys)
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        told = time.monotonic()
        with httpx2.Client(base_url=_base(self._settings), headers=headers, timeout=30, trust_env=False) as client:
            while not self._stop.wait(_EVERY_S):
                reason = self._missing(client)
                if reason is None:
                    self._ready.set()
                    say(_greeting(self._settings))
                    return
                if time.monotonic() - told > _PATIENT_S:
                    say(f"not ready yet: {reason}")
                    told = time.monotonic()

    def _missing(self, client: httpx2.Client) -> str | None:
        """What a client would be told now; None: it would be served."""
        try:
            answer = client.get("/ready")
            if answer.is_success and self._settings.auth_access == "closed":
                return self._missing_inside()
            if answer.is_success:
                body = {"model": self._settings.models[0].name, "prompt": "Hello", "max_tokens": 1}
                answer = client.post("/v1/completions", json=body)
        except httpx2.HTTPError:
            return "the front end does not answer"
        return None if answer.is_success else answer.text.strip()

    def _missing_inside(self) -> str | None:
        """The same, without a client: one job through queue and worker."""
        ledger = Ledger(self._settings.ledgers)
        job = _a_job(self._settings.models[0].name, ledger)
        try:
            ledger.submit(job, self._settings.limits)
            while (watched := ledger.read(job.owner, job.id)) and watched.state in {"queued", "running"}:
                if self._stop.wait(_EVERY_S):
                    return "asked to end"
        except ApiError as error:
            return error.message
        finally:
            ledger.close()
        return None if watched and watched.state == "done" else "a first job failed"


def _a_job(model: str, ledger: Ledger) -> Job:
    """One token after one token."""
    owner = Principal().owner
    return Job(
        id=new_id(ledger.partition(owner)),
        model=model,
        prompts=((1,),),
        sampling=Sampling(1),
        reply=Reply("completion"),
        owner=owner,
        share=owner,
        seed=1,
        created=int(time.time()),
        on_disconnect="finish",
    )


def a_key(told: str) -> str | None:
    """One of the keys that open the door; None when any does."""
    lines = told.split(",")
    with contextlib.suppress(OSError):  # a list may be longer than a file name can be
        lines = Path(told).read_text().splitlines() if told and Path(told).is_file() else lines
    return next((key for line in lines if (key := line.strip()) and not key.startswith("#")), None)


def _base(settings: Settings) -> str:
    """Where this machine finds the front end; a name for all addresses is none to call."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(settings.host, settings.host)  # noqa: S104  read, not bound
    return f"http://[{host}]:{settings.port}" if ":" in host else f"http://{host}:{settings.port}"


def _greeting(settings: Settings) -> str:
    url = f"{_base(settings)}/v1"
    key = "one of PENSTOCK_API_KEYS" if settings.api_keys else "EMPTY"  # a secret does not go into a log
    snippet = _SNIPPET.format(url=url, key=key, model=settings.models[0].name)
    return f"penstock ready: {url}\nkey: {key}\n\n{snippet}"
