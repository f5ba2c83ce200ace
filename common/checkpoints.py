"""What can be said about a model's folder without loading anything: before the start, and again in the worker."""

import json
import re
from pathlib import Path

from common.settings import Model

_SCHEME = re.compile(r"[a-z]+:")  # "counting:…", a model that is no folder
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
_MUST_PARSE = ("config.json", "generation_config.json")  # transformers would do without the second, and its end tokens


def complaint(model: Model) -> str | None:
    """Why this model cannot be loaded, in a sentence; None: it may well be."""
    folder = Path(model.path)
    if folder.is_dir():
        return _about(folder, model)
    if _SCHEME.match(model.path) or _HUB_ID.fullmatch(model.path):
        return None
    return f"{folder} is neither a folder nor a hub id (owner/name)."


def _about(folder: Path, model: Model) -> str | None:
    if not (folder / "config.json").is_file():
        return f"{folder} has no config.json, so it holds no transformers model."
    if not any(folder.glob("*.safetensors")):
        return f"{folder} has no *.safetensors file; other formats of weights are not loaded."
    try:
        told = [json.loads((folder / name).read_text()) for name in _MUST_PARSE if (folder / name).is_file()]
    except ValueError as error:
        return f"{folder} has a configuration that is not JSON: {error}."
    if not model.trust_remote_code and isinstance(told[0], dict) and "auto_map" in told[0]:
        return f"{folder} brings its own code (auto_map); set trust_remote_code = true for {model.name} to run it."
    return None
