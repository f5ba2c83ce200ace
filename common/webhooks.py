"""What webhooks say: events as OpenAI's SDK unwraps them, signed as Standard Webhooks has it."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from standardwebhooks import Webhook as Signer

_PREFIXES = {"batch": "batch_", "chat.completion": "chatcmpl-", "completion": "cmpl-"}
_ENDS = {"batch": ("completed", "failed", "expired", "cancelled")}
EVENTS = tuple(f"{kind}.{end}" for kind in _PREFIXES for end in _ENDS.get(kind, ("completed", "failed", "cancelled")))


@dataclass(frozen=True, slots=True)
class Ended:
    """A batch or a job that came to an end."""

    type: str  # one of EVENTS
    of: str  # its bare id
    at: int  # Unix seconds

    @property
    def id(self) -> str:
        """The same however often it is told: who has seen it needs no second time."""
        return f"evt_{hashlib.blake2b(f'{self.type} {self.of}'.encode(), digest_size=16).hexdigest()}"

    def body(self) -> bytes:
        """The same to the byte each time."""
        public = _PREFIXES[self.type.rpartition(".")[0]] + self.of
        told = {"id": self.id, "object": "event", "created_at": self.at, "type": self.type, "data": {"id": public}}
        return json.dumps(told).encode()


def signed(ended: Ended, secrets: Sequence[str], now: float) -> dict[str, str]:
    """The headers of a delivery that goes out now: a signature for each secret that holds."""
    at, body = datetime.fromtimestamp(now, UTC), ended.body().decode()
    signatures = " ".join(Signer(secret).sign(ended.id, at, body) for secret in secrets)
    return {"webhook-id": ended.id, "webhook-timestamp": str(int(now)), "webhook-signature": signatures}
