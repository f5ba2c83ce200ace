"""What clients send: bytes become a Request here, or a refusal that names the field."""

from common.protocol.base import Request, parse

__all__ = ["Request", "parse"]
