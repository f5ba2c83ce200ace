"""Which models exist: those that are configured and that a worker has described."""

from typing import Any

from flask import Blueprint, Response

from api.errors import json_response
from api.state import state
from common.cards import ModelCard
from common.errors import ModelNotFoundError

bp = Blueprint("models", __name__, url_prefix="/v1")


@bp.get("/models")
def every() -> Response:
    """All of them, in the configured order."""
    cards = _cards()
    return json_response({"object": "list", "data": [_model(name, cards[name]) for name in cards]})


@bp.get("/models/<path:name>")
def one(name: str) -> Response:
    """One of them, by name or alias, with what it can do and how it writes calls of tools."""
    model = state().settings.model(name)
    cards = _cards()
    if model is None or model.name not in cards:
        raise ModelNotFoundError(f"No model has this name; there are: {', '.join(cards) or 'none yet'}.", param="model")
    card = cards[model.name]
    form = card.tools and {"family": card.tools.family} | card.tools.parts()
    more = {"context": card.context, "capabilities": list(card.capabilities), "tool_format": form}
    return json_response(_model(model.name, card) | more)


def _cards() -> dict[str, ModelCard]:
    names = [model.name for model in state().settings.models]
    cards = state().ledger.cards(names)
    return {name: cards[name] for name in names if name in cards}


def _model(name: str, card: ModelCard) -> dict[str, Any]:
    return {
        "id": name,
        "object": "model",
        "created": card.created,
        "owned_by": "penstock",
        "base_model": card.base_model,
    }
