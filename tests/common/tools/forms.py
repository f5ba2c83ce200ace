"""The formats of all templates, and plans for them."""

from typing import Any

from common.constraints.tools import plan
from common.toolformat import ToolFormat, ToolPlan
from tests.common.tools.templates import TEMPLATES, tokenizer
from worker.models.toolformat import found


def _form(name: str) -> ToolFormat:
    made = tokenizer(TEMPLATES[name])
    return found(made, {made.eos_token_id})


FORMS = {name: _form(name) for name in TEMPLATES}
WRITTEN = [name for name, form in FORMS.items() if form.shows_calls]


def a_tool(name: str) -> dict[str, Any]:
    """Without parameters."""
    return {"type": "function", "function": {"name": name}}


def a_plan(name: str, choice: Any = None, **more: Any) -> ToolPlan:
    """Of two tools, in this template's format."""
    return plan([a_tool("one"), a_tool("other")], choice, FORMS[name], **{"lowered": {}} | more)
