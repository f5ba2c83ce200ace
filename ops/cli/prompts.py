"""A file of requests, of prompts, or a table, as the lines that a batch wants."""

import csv
import json
import string
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from ops.cli.preflight import Refusal

CHAT = "/v1/chat/completions"
_REQUESTS = {".jsonl", ".ndjson"}


@dataclass(frozen=True)
class Shape:
    """What each request asks for, where the file holds only prompts."""

    model: str | None = None
    max_tokens: int | None = None
    template: str | None = None  # "{column}" of a table, "{prompt}" of a line

    def body(self, row: Mapping[str, str]) -> dict[str, Any]:
        """A chat of one question. Raises Refusal."""
        template = self.template or "{prompt}"
        try:
            prompt = string.Formatter().vformat(template, (), row)
        except (KeyError, IndexError, ValueError, AttributeError) as error:
            raise Refusal(f"--prompt-template {template}: {error} is none of {', '.join(row)}.") from None
        told = {"model": self.model, "messages": [{"role": "user", "content": prompt}], "max_tokens": self.max_tokens}
        return {name: value for name, value in told.items() if value is not None}


def lines(path: Path, shape: Shape) -> Iterator[str]:
    """One a request; what is JSONL already stays as it is. Raises Refusal."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            if path.suffix in _REQUESTS:
                if shape != Shape():
                    raise Refusal(f"{path} holds whole requests: say model and max_tokens there, without a template.")
                yield from (line.rstrip("\n") for line in file if line.strip())
            else:
                for number, row in enumerate(_rows(path, file), 1):
                    told = {"custom_id": row.get("custom_id") or str(number), "method": "POST", "url": CHAT}
                    yield json.dumps(told | {"body": shape.body(row)}, ensure_ascii=False)
    except (OSError, UnicodeDecodeError) as error:
        raise Refusal(f"{path} cannot be read: {error}.") from None


def endpoint(path: Path) -> str:
    """Where the file's first request goes. Raises Refusal."""
    first = next(lines(path, Shape()), "") if path.suffix in _REQUESTS else ""
    try:
        return str(json.loads(first)["url"]) if first else CHAT
    except (ValueError, KeyError, TypeError):
        raise Refusal(f"{path}: the first line is no request with a url.") from None


def _rows(path: Path, file: TextIO) -> Iterator[Mapping[str, str]]:
    """A table by its header, anything else line by line."""
    if path.suffix == ".csv":
        yield from csv.DictReader(file)
    else:
        yield from ({"prompt": line.rstrip("\r\n")} for line in file if line.strip())


def answer(line: Mapping[str, Any]) -> dict[str, str]:
    """A line of a batch's files as a row: who, what, what went wrong."""
    body = line["response"]["body"]
    error = body.get("error", {}).get("message", "")
    texts = [choice.get("text", choice.get("message", {}).get("content")) or "" for choice in body.get("choices", ())]
    return {"custom_id": line["custom_id"], "answer": "\n".join(texts), "error": error}
