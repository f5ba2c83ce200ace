"""From a line of ``penstock.toml`` to a model that can be asked: weights, tokenizer, card.

torch and transformers are imported when a model needs them: the counting model does not.
"""

import hashlib
import importlib.metadata
import logging
import tempfile
import textwrap
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from common import settings, telemetry
from common.bundle import packed
from common.cards import ModelCard
from common.checkpoints import complaint
from worker.engine import memory
from worker.engine.model import Model
from worker.engine.sequence import Bounds
from worker.models.cores import cores
from worker.models.counting import PREFIX, Counting
from worker.models.pieces import Pieces
from worker.models.toolformat import found

_CONTEXT = 2048  # of a model that does not say
_CPU_ROOM = 2**30  # bytes for keys and values
_GPU_SHARE = 0.9  # of the memory that is left, likewise, and of that what a step needs; the rest is for its pieces
_TESTED = (1, 2, 3, 4, 5)  # tokens that every model has
_LONGEST = 300  # characters of somebody else's error message
_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
    "special_tokens_map.json",
    "generation_config.json",
)
_NEEDED = {  # by transformers' word for a quantisation: what pip calls the packages that read it
    "awq": ("gptqmodel",),
    "bitsandbytes": ("bitsandbytes",),
    "compressed-tensors": ("compressed-tensors",),
    "gptq": ("gptqmodel", "optimum"),
    "hqq": ("hqq",),
    "quanto": ("optimum-quanto",),
    "sinq": ("sinq",),
    "torchao": ("torchao",),
}
_TALKERS = (
    "bitsandbytes",  # warns of each product of each layer in int8
    "torchao",  # of kernels for other processors, whenever transformers finds it installed
    "torch.utils._pytree",  # of what torchao does when it is imported
)
log = telemetry.logger("loader")


class LoadError(Exception):
    """A sentence for the person who configured the model."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """A model, and what the rest of the house must know of it."""

    model: Model
    card: ModelCard
    tokenizer_files: bytes
    parameters: int
    bytes: int  # of the weights


def load(model: settings.Model, threads: int = 0) -> Loaded:
    """Raises LoadError; ``threads`` 0 leaves one core to the other threads of this process."""
    began = time.monotonic()
    is_counting = model.path.startswith(PREFIX)
    loaded = _counting(model) if is_counting else _pretrained(model, threads or max(1, cores() - 1))
    if loaded.card.quantization:
        log.warning(
            "the weights are quantised: that saves memory and costs speed where many sequences run together",
            model=model.name,
            quantization=loaded.card.quantization,
            megabytes=round(loaded.bytes / 1e6, 1),
            megabytes_in_bfloat16=round(2 * loaded.parameters / 1e6, 1),
        )
    log.info(
        "model loaded",
        model=model.name,
        path=model.path,
        runs_as=loaded.card.path,
        dtype=loaded.card.dtype,
        parameters=loaded.parameters,
        context=loaded.card.context,
        seconds=round(time.monotonic() - began, 2),
    )
    return loaded


def _counting(model: settings.Model) -> Loaded:
    counting = Counting(model.path.removeprefix(PREFIX), model.slots, model.context)
    files = counting.files()
    card = ModelCard(
        base_model=model.name,
        context=counting.bounds.context,
        vocabulary=counting.tokenizer.get_vocab_size(),
        end_ids=tuple(counting.bounds.end_ids),
        special_ids=tuple(counting.bounds.end_ids),
        has_chat_template=True,
        capabilities=("completion", "chat"),
        path="row",
        dtype="none",
        quantization=None,
        created=int(time.time()),
        tokenizer_digest=hashlib.sha256(files).hexdigest(),
    )
    return Loaded(counting, card, files, parameters=0, bytes=0)


def _pretrained(model: settings.Model, threads: int) -> Loaded:
    if sentence := complaint(model):
        raise LoadError(sentence)
    import torch

    for name in _TALKERS:
        logging.getLogger(name).setLevel(logging.ERROR)
    from transformers.utils import logging as transformers_logging

    from worker.constraints.matcher import compiler
    from worker.engine.rowbatch import UnsupportedModelError

    transformers_logging.disable_progress_bar()
    torch.set_num_threads(threads)
    try:
        network = _network(model)
        tokenizer = _tokenizer(model)
    except (LoadError, MemoryError, torch.OutOfMemoryError):
        raise  # where memory was short, the next start may find more
    except Exception as error:  # the libraries below raise whatever they like for what they cannot load
        raise LoadError(f"{model.path} cannot be loaded: {_shortened(error)}") from error
    parameters, size = _parameters(network), _bytes(network)
    _lay_out(network)
    context, ends = _context(model, network.config), _end_ids(network, tokenizer)
    bounds = Bounds(context, ends, model.deterministic, model.share_prefixes)
    pieces = Pieces(tokenizer.backend_tokenizer)
    try:
        served = _served(model, network, pieces, bounds)
    except UnsupportedModelError as error:
        raise LoadError(f"{model.path} cannot be served yet: {_shortened(error)}.") from error
    served.compiler = compiler(tokenizer.backend_tokenizer, pieces, network.config, bounds.end_ids)
    files = _tokenizer_files(tokenizer, network)
    return Loaded(served, _card(model, network, tokenizer, files, served), files, parameters, size)


def _lay_out(network: Any) -> None:
    """The linear layers, for this processor; they stay as they are where that changes what the network gives."""
    import torch

    from worker.engine.rowbatch import UNFIT, UnsupportedModelError, refuse_difference
    from worker.models.linears import alike, pack, unpack

    if getattr(network, "is_quantized", False):
        return
    ids = torch.tensor([_TESTED], device=network.device)

    @torch.inference_mode()
    def read() -> Any:
        return network(input_ids=ids, use_cache=False).logits[0].float()

    try:
        before = read()
    except UNFIT:
        return  # the test of its path will say why
    count = pack(network, alike(network, read))
    if not count:
        return
    try:
        refuse_difference(read(), before, network)
    except (*UNFIT, UnsupportedModelError) as error:
        unpack(network)
        log.warning("its linear layers stay as they are, and slower than they could be", reason=_shortened(error))
    else:
        kept = unpack(network, only_read=True)
        log.info("linear layers laid out for this processor", count=count - kept)


def _served(model: settings.Model, network: Any, pieces: Pieces, bounds: Bounds) -> Any:
    """On the packed path, or as rows where that cannot be. Raises UnsupportedModelError."""
    from worker.engine.packed import SIZE, PackedModel
    from worker.engine.rowbatch import RowModel, UnsupportedModelError
    from worker.models.linears import packed_bytes

    own = network.config._attn_implementation  # noqa: SLF001  the only place that says it
    try:
        packed = PackedModel(network, pieces, bounds, model.slots, partial(_room, model, network))
    except UnsupportedModelError as reason:
        network.set_attn_implementation(own)
        rows = RowModel(network, pieces, bounds, model.slots)
        rows.test()
        log.info("prompts are read whole and alone: it cannot be packed", model=model.name, reason=str(reason))
        return rows
    tokens = packed.blocks.count * SIZE
    taken = (
        ("weights", _bytes(network) + packed_bytes(network)),
        (f"keys and values of {tokens:,} tokens, each {packed.bytes_per_token:,} B", tokens * packed.bytes_per_token),
        (f"a step of {packed.step_tokens:,} tokens, for a while", packed.step_bytes),
        ("left on the device", memory.left(network.device)),
    )
    log.info(memory.table(f"memory of {model.name}", taken))
    return packed


def _room(model: settings.Model, network: Any, step_bytes: int) -> int:
    """Bytes for keys and values: as told, or a part of what a GPU has left, or a fixed size beside a CPU."""
    if model.kv_cache_bytes is not None:
        return model.kv_cache_bytes
    left = memory.left(network.device)
    return _CPU_ROOM if left is None else int(left * _GPU_SHARE) - step_bytes


def _network(model: settings.Model) -> Any:
    """The weights, ready to be asked."""
    import torch
    from transformers import AutoModelForCausalLM

    device = _device(model.device)
    # on a CPU full precision says what the checkpoint does anywhere; elsewhere the checkpoint knows best
    as_stored = "float32" if device.type == "cpu" else "auto"
    dtype = as_stored if model.dtype == "auto" else model.dtype
    network, told = AutoModelForCausalLM.from_pretrained(
        model.path,
        dtype=dtype if dtype == "auto" else getattr(torch, dtype),
        device_map={"": device},
        use_safetensors=True,
        trust_remote_code=model.trust_remote_code,
        output_loading_info=True,
        **_quantised(model),
    )
    if missing := sorted(told["missing_keys"]):  # transformers would fill them with random numbers
        raise LoadError(f"{model.path} lacks weights of its model: {missing[0]} and {len(missing) - 1} more.")
    return network.eval().requires_grad_(requires_grad=False)


def _quantised(model: settings.Model) -> dict[str, Any]:
    """What transformers must be told to quantise while it loads."""
    import torch
    from transformers import AutoConfig, BitsAndBytesConfig

    own = _told(AutoConfig.from_pretrained(model.path, trust_remote_code=model.trust_remote_code))
    if own:
        _check(model, own)
    if model.quantization is None:
        return {}
    if model.quantization == "int8":
        return {"quantization_config": BitsAndBytesConfig(load_in_8bit=True)}
    computing = "float32" if _device(model.device).type == "cpu" else "bfloat16"
    dtype = getattr(torch, computing if model.dtype == "auto" else model.dtype)
    told = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_compute_dtype": dtype}
    return {"quantization_config": BitsAndBytesConfig(**told)}


def _check(model: settings.Model, own: dict[str, Any]) -> None:
    """Whether weights that are quantised already can be read here."""
    import torch
    from transformers.quantizers import AutoHfQuantizer

    if model.quantization:
        raise LoadError(f"{model.path} is quantised already ({_word(own)}); leave quantization out.")
    if not AutoHfQuantizer.supports_quant_method(own):  # transformers would take the weights for plain ones
        raise LoadError(f"{model.path} is quantised in a way that transformers does not know ({_word(own)}).")
    method = str(own.get("quant_method"))
    if missing := [package for package in _NEEDED.get(method, ()) if not _is_installed(package)]:
        needed = f"torch=={torch.__version__.partition('+')[0]} {' '.join(missing)}"  # some would bring another torch
        raise LoadError(f"{model.path} is quantised ({method}): `pip install --no-build-isolation {needed}` first.")


def _is_installed(package: str) -> bool:
    try:
        importlib.metadata.distribution(package)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def _told(config: Any) -> dict[str, Any]:
    """What a configuration says of its quantisation."""
    told = getattr(config, "quantization_config", None)
    told = told or getattr(config.get_text_config(decoder=True), "quantization_config", None) or {}
    return told if isinstance(told, dict) else dict(told.to_dict())


def _word(told: dict[str, Any]) -> str | None:
    """How the weights are kept."""
    if told.get("load_in_4bit"):
        return str(told.get("bnb_4bit_quant_type"))
    method = "int8" if told.get("load_in_8bit") else told.get("quant_method")
    return method and str(getattr(method, "value", method))


def _parameters(network: Any) -> int:
    """As many as the plain model has: packed weights are fewer numbers, and not always parameters."""
    import torch

    if not _told(network.config):
        return int(network.num_parameters())
    with torch.device("meta"):
        return int(type(network)(network.config).num_parameters())


def _bytes(network: Any) -> int:
    """A tensor of torchao's tells the size that it would have unpacked; those inside tell the truth."""

    def size(tensor: Any) -> int:
        if not hasattr(tensor, "__tensor_flatten__"):
            return int(tensor.nbytes)
        names, _ = tensor.__tensor_flatten__()
        return sum(size(getattr(tensor, name)) for name in names)

    return sum(size(tensor) for tensor in (*network.parameters(), *network.buffers()))


def _device(name: str) -> Any:
    import torch

    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        return torch.device(name)
    except RuntimeError as error:
        raise LoadError(f"{name!r} is no device: {_shortened(error)}") from error


def _tokenizer(model: settings.Model) -> Any:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model.path, trust_remote_code=model.trust_remote_code)
    if not tokenizer.is_fast:
        raise LoadError(f"{model.path} has no fast tokenizer (tokenizer.json).")
    return tokenizer


def _context(model: settings.Model, config: Any) -> int:
    """Tokens of prompt and answer together."""
    own = getattr(config.get_text_config(decoder=True), "max_position_embeddings", None) or _CONTEXT
    return min(own, model.context or own)


def _end_ids(network: Any, tokenizer: Any) -> tuple[int, ...]:
    """The generation config's, then the tokenizer's."""
    told = network.generation_config.eos_token_id
    ids = told if isinstance(told, list) else [told]
    return tuple(dict.fromkeys(end for end in (*ids, tokenizer.eos_token_id) if end is not None))


def _card(model: settings.Model, network: Any, tokenizer: Any, files: bytes, served: Model) -> ModelCard:
    config = network.config
    has_template = tokenizer.chat_template is not None
    special = (at for at, token in tokenizer.added_tokens_decoder.items() if token.special)
    return ModelCard(
        base_model=model.name,
        context=served.bounds.context,
        vocabulary=config.get_text_config(decoder=True).vocab_size,
        end_ids=_end_ids(network, tokenizer),
        special_ids=tuple(sorted(special)),
        has_chat_template=has_template,
        capabilities=_capabilities(served, has_template=has_template),
        path="row" if served.blocks is None else "packed",
        dtype=str(network.dtype).removeprefix("torch."),
        quantization=_word(_told(config)),
        created=int(time.time()),
        tokenizer_digest=hashlib.sha256(files).hexdigest(),
        tools=found(tokenizer, _end_ids(network, tokenizer)) if has_template else None,
    )


def _capabilities(served: Any, *, has_template: bool) -> tuple[str, ...]:
    is_held = served.compiler is not None
    can = {"chat": has_template, "constraints": is_held, "tools": has_template and is_held}
    return ("completion", *(name for name, is_so in can.items() if is_so))


def _tokenizer_files(tokenizer: Any, network: Any) -> bytes:
    """Saved afresh, so that they need no other file of the model."""
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        network.generation_config.save_pretrained(folder)
        files: Mapping[str, bytes] = {
            name: (Path(folder) / name).read_bytes() for name in _FILES if (Path(folder) / name).is_file()
        }
    return packed(files)


def _shortened(error: Exception) -> str:
    return textwrap.shorten(str(error), _LONGEST) or type(error).__name__
