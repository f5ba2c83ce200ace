"""What a worker tells the rest of the house about its model; written at boot, read by the door."""

from dataclasses import dataclass

from pydantic import TypeAdapter

from common.reading import reader
from common.toolformat import ToolFormat


@dataclass(frozen=True, slots=True)
class ModelCard:
    """One model, as a worker loaded it. The version changes whenever a field does."""

    base_model: str  # the public name
    context: int  # tokens, prompt and answer together
    vocabulary: int  # width of the logits
    end_ids: tuple[int, ...]  # tokens that end an answer (generation config, then tokenizer)
    special_ids: tuple[int, ...]
    has_chat_template: bool
    capabilities: tuple[str, ...]  # "chat", "completion", ...
    path: str  # the engine path: "row" or "packed"
    dtype: str
    quantization: str | None
    created: int  # Unix seconds of the worker's boot
    tokenizer_digest: str  # SHA-256 of the blob of tokenizer files (Ledger.tokenizer_files)
    tools: ToolFormat | None = None  # how its chat template, or we, write calls of tools; None: no template
    version: int = 2

    def encode(self) -> str:
        """As the ledger keeps it."""
        return _CARD.dump_json(self).decode()

    @classmethod
    def decode(cls, raw: str | bytes) -> "ModelCard":
        """As the ledger kept it."""
        return _read(raw)


_CARD = TypeAdapter(ModelCard)
_read = reader(_CARD)
