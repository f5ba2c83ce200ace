"""The words of llguidance's Lark that our grammars are made of."""

import json
import re
from typing import Any

from common.constraints.build import WHITESPACE, quoted
from common.toolformat import FIRST, HOLES, ToolFormat

TEXT = "TEXT: /(.|\\n)*/"
_RUNS = re.compile("([\ud800-\udfff\ue000\ue001])")
_STRANGE = re.compile(r"[][\\.+*?()|{}^$/#&~-]")


def literal(form: ToolFormat, text: str) -> str:
    """This, written as strings, special tokens and holes, one after the other."""
    runs = (run for run in _RUNS.split(form.coded(text)) if run)
    return " ".join(_hole(form, run) if _RUNS.fullmatch(run) else quoted(run) for run in runs)


def _hole(form: ToolFormat, one: str) -> str:
    return f"/{HOLES[one]}/" if one in HOLES else f"<[{form.specials[ord(one) - FIRST][1]}]>"


def regex(text: str) -> str:
    """A pattern for these characters and no others."""
    return _STRANGE.sub(lambda found: f"\\{found[0]}", text).replace("\n", "\\n").replace("\t", "\\t")


def rule_of(schema: dict[str, Any]) -> str:
    """JSON that fits the schema."""
    return f"%json {json.dumps({'x-guidance': {'whitespace_pattern': WHITESPACE}, **schema})}"
