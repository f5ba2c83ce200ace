"""What every request passes before anything is kept: which model, which tokens, do they fit.

Neither flask nor torch: HTTP bodies, WebSocket messages and batch lines come in here alike.
"""

import hashlib
import os
import shutil
import tempfile
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from common.bundle import unpack
from common.cards import ModelCard
from common.constraints.spec import Constraint, Wanted
from common.door.children import ChildDiedError, Children
from common.errors import ContextLengthError, InternalError, InvalidRequestError, ModelNotFoundError, NoWorkerError
from common.identity import Absent, Principal
from common.jobs import Echo, Job
from common.ledger.ledger import Ledger
from common.protocol.chat import ChatRequest
from common.protocol.completions import CompletionRequest
from common.protocol.generation import Headers, Read, Room
from common.settings import Settings
from common.toolformat import ToolPlan

_FRESH_S = 0.5  # what the ledger said of models is believed so long
_ALONE_S = 60.0  # a model without a worker may be waited for so long
_RETRY_S = 10
Ask = ChatRequest | CompletionRequest


@dataclass(frozen=True, slots=True)
class _Known:
    """A model as the ledger last described it."""

    card: ModelCard | None
    read_at: float
    alone_since: float | None  # None: a worker serves it


class Models:
    """The configured models, as their workers describe them."""

    def __init__(self, settings: Settings, ledger: Ledger) -> None:
        self._settings, self._ledger = settings, ledger
        self._known: dict[str, _Known] = {}

    def card(self, name: str) -> ModelCard:
        """Its card; the first model's when no name is given. Raises ModelNotFoundError, NoWorkerError, StorageError."""
        model = self._settings.model(name) if name else self._settings.models[0]
        if model is None:
            known = ", ".join(one.name for one in self._settings.models)
            raise ModelNotFoundError(f"No model has this name; there are: {known}.", param="model")
        now = time.monotonic()
        known_ = self._known.get(model.name)
        if known_ is None or now - known_.read_at > _FRESH_S:
            known_ = self._known[model.name] = self._read(model.name, known_, now)
        if known_.card is None:
            raise NoWorkerError(f"No worker has loaded {model.name} yet.", retry_after_s=_RETRY_S)
        if known_.alone_since is not None and now - known_.alone_since > _ALONE_S:
            raise NoWorkerError(f"No worker serves {model.name}.", retry_after_s=_RETRY_S)
        return known_.card

    def refuse_if_gone(self, name: str) -> None:
        """Tokens are of one model: an alias is no other. Raises ModelNotFoundError, NoWorkerError, StorageError."""
        if name not in [one.name for one in self._settings.models]:
            raise ModelNotFoundError(f"The model {name} is not served any more.", param="model")
        self.card(name)

    def _read(self, name: str, before: _Known | None, now: float) -> _Known:
        card = self._ledger.cards([name]).get(name)
        if any(worker.model == name for worker in self._ledger.workers()):
            return _Known(card, now, None)
        since = before.alone_since if before is not None else None
        return _Known(card, now, now if since is None else since)


class Tokenizers:
    """The models' tokenizer files, once on disk for all children; found by their digest."""

    def __init__(self, folder: Path, ledger: Ledger) -> None:
        self._folder, self._ledger = folder, ledger

    def folder(self, card: ModelCard) -> Path:
        """Where this model's files lie. Raises StorageError, and InternalError for files that are not the card's."""
        folder = self._folder / card.tokenizer_digest
        if not folder.is_dir():
            blob = self._ledger.tokenizer_files(card.base_model) or b""
            if hashlib.sha256(blob).hexdigest() != card.tokenizer_digest:
                raise InternalError("The model's tokenizer does not belong to its card.")
            self._unpack(blob, folder)
        return folder

    def _unpack(self, blob: bytes, folder: Path) -> None:
        """All or nothing; another process may do the same."""
        self._folder.mkdir(parents=True, exist_ok=True)
        beside = Path(tempfile.mkdtemp(dir=self._folder))
        try:
            unpack(blob, beside)
            os.rename(beside, folder)  # noqa: PTH104  Path.rename says the same, and this may fail
        except OSError:
            if not folder.is_dir():
                raise
        finally:
            shutil.rmtree(beside, ignore_errors=True)


class Door:
    """Turns requests into jobs."""

    def __init__(self, settings: Settings, ledger: Ledger, children: Children | None = None) -> None:
        """Starts the children, unless they are there."""
        self._ledger = ledger
        self._shows_schema = settings.schema_in_prompt
        self._models = Models(settings, ledger)
        self._tokenizers = Tokenizers(settings.data_dir.resolve() / "tokenizers", ledger)
        self._children = children or Children(settings.children)

    def admit(self, ask: Ask, who: Principal | Absent, headers: Headers) -> Job:
        """The job that was asked for. Raises ApiError: why there is none."""
        card = self._models.card(ask.model)
        wanted = ask.wanted()
        if wanted is not None and "constraints" not in card.capabilities:
            raise InvalidRequestError(
                f"{wanted.field}: answers of this model cannot be constrained.", param=wanted.field
            )
        tools = ask.asked_tools()
        if tools is not None and "tools" not in card.capabilities:
            raise InvalidRequestError("tools: this model cannot be held to them.", param="tools")
        prompts, constraint, plan = self._read(ask, card, wanted, tools)
        room = Room(card.context, card.vocabulary, self._ledger.partition(who.owner), headers)
        job = ask.job(who, card.base_model, prompts, room)
        return replace(job, constraint=constraint, tools=plan if plan and plan.tools else None)

    def refuse_if_gone(self, model: str) -> None:
        """For a job that was read before. Raises ModelNotFoundError, NoWorkerError, StorageError."""
        self._models.refuse_if_gone(model)

    def close(self) -> None:
        """Leave no child."""
        self._children.close()

    def _hint(self, ask: Ask, card: ModelCard) -> str | None:
        """A line about what the answer must be; of itself, none that takes about a quarter of the context."""
        if self._shows_schema == "never":
            return None
        is_always = self._shows_schema == "always"
        hint = ask.hint(always=is_always)
        return hint if hint is not None and (is_always or len(hint) <= card.context) else None

    def _read(
        self, ask: Ask, card: ModelCard, wanted: Wanted | None, tools: dict[str, Any] | None
    ) -> tuple[list[Read], Constraint | None, ToolPlan | None]:
        question = {
            "folder": str(self._tokenizers.folder(card)),
            "form": card.tools and card.tools.encode(),
            "most": card.context,
            "vocabulary": card.vocabulary,
        }
        constraint, plan = None, None
        if wanted is not None or tools is not None:  # by itself, so that it is known which of them was too much
            asked: dict[str, Any] = {"wanted": wanted and asdict(wanted), "tools": tools, "prompts": None}
            told = self._told(question | asked, "tools" if wanted is None else wanted.field)
            constraint = told["constraint"] and Constraint.decode(told["constraint"])
            plan = told["plan"] and ToolPlan.decode(told["plan"])
        asked = {"prompts": [asdict(prompt) for prompt in ask.asks()], "hint": self._hint(ask, card)}
        listed = {"tools": tools and tools["tools"], "as": plan and plan.format.encode()}
        told = self._told(question | asked | listed, ask.asked)
        return [_read(one) for one in told["prompts"]], constraint, plan

    def _told(self, question: dict[str, Any], param: str) -> Any:
        """What a child says to it. Raises InvalidRequestError."""
        try:
            answer = self._children.ask(question)
        except ChildDiedError:
            raise InvalidRequestError(
                f"{param}: it could not be read within the time and the memory that one request may take.", param=param
            ) from None
        if "refused" in answer:
            refusal = ContextLengthError if answer["is_too_long"] else InvalidRequestError
            raise refusal(answer["refused"], param=answer["param"] or param, code=answer["code"])
        return answer


def _read(told: dict[str, Any]) -> Read:
    if told["echo"] is None:
        return Read(tuple(told["ids"]))
    offsets = told["offsets"]
    return Read(tuple(told["ids"]), Echo(told["echo"], None if offsets is None else tuple(offsets)))
