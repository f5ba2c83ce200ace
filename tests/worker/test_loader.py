import gc
import hashlib
import json
import re
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torchao.quantization
from safetensors.torch import load_file, save_file
from transformers.models.auto.modeling_auto import AutoModelForCausalLM
from transformers.models.auto.tokenization_auto import AutoTokenizer
from transformers.models.llama.configuration_llama import LlamaConfig
from transformers.models.mamba.configuration_mamba import MambaConfig

from common.bundle import unpack
from common.cards import ModelCard
from common.jobs import Sampling
from common.settings import Model
from tests.builders import a_job
from tests.worker import saved_models, tiny
from tests.worker.claims import a_claim, answers, counting
from worker.models.loader import Loaded, LoadError, load
from worker.models.toolformat import found

_CONTEXT = 64
_WAIT_S = 10.0
_SHAPE = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
_ENDS = {"bos_token_id": None, "eos_token_id": 0, "pad_token_id": 1}


@pytest.fixture(autouse=True)
def _reading_is_over() -> Iterator[None]:
    """transformers reads weights in a pool of threads, and leaves them to the collector where reading fails."""
    yield
    gc.collect()
    for thread in threading.enumerate():
        if thread.name.startswith("ThreadPoolExecutor"):
            thread.join(_WAIT_S)


@pytest.fixture(scope="session")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that loads."""
    config = LlamaConfig(
        vocab_size=len(saved_models.tokenizer()),
        **_SHAPE,
        **_ENDS,
        max_position_embeddings=_CONTEXT,
        initializer_range=0.3,
    )
    return saved_models.save(tmp_path_factory.mktemp("saved"), config)


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    """The same, to be spoilt."""
    return Path(shutil.copytree(saved, tmp_path / "model"))


def _load(path: Path | str, **changes: Any) -> Loaded:
    return load(Model(name="m", path=str(path), **changes), threads=1)


def _change(file: Path, **changes: Any) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def _complaint(path: Path | str, **changes: Any) -> str:
    with pytest.raises(LoadError) as caught:
        _load(path, **changes)
    return str(caught.value).replace(str(path), "MODEL")


def test_a_saved_model_answers_as_generate_does(saved: Path) -> None:
    loaded = _load(saved, slots=2)
    tokenizer, network = AutoTokenizer.from_pretrained(saved), AutoModelForCausalLM.from_pretrained(saved)
    prompt = tuple(tokenizer("the river")["input_ids"])
    job = a_job(prompts=(prompt,), sampling=Sampling(20, 0.0))

    notes = answers(loaded.model, a_claim(job))

    expected = tiny.generated(network.float().eval(), prompt, 20)
    assert len(expected) > 5
    assert notes.tokens(job)[: len(expected)] == expected
    assert notes.text(job) == tokenizer.decode(notes.tokens(job), skip_special_tokens=True).rstrip("\ufffd")


def test_the_card_says_what_the_model_is(saved: Path) -> None:
    loaded = _load(saved)

    assert loaded.card == ModelCard(
        base_model="m",
        context=_CONTEXT,
        vocabulary=len(saved_models.tokenizer()),
        end_ids=(5, 1, 0),
        special_ids=(0, 1),
        has_chat_template=True,
        capabilities=("completion", "chat", "constraints", "tools"),
        path="packed",
        dtype="float32",
        quantization=None,
        created=loaded.card.created,
        tokenizer_digest=hashlib.sha256(loaded.tokenizer_files).hexdigest(),
        tools=found(saved_models.tokenizer(), (5, 1, 0)),
    )
    assert loaded.card.created > 1_700_000_000
    assert loaded.model.bounds.context == _CONTEXT
    assert tuple(loaded.model.bounds.end_ids) == (5, 1, 0)
    assert (loaded.model.slots, loaded.parameters > 10_000) == (32, True)


def test_a_single_end_token_of_the_generation_config_comes_first(folder: Path) -> None:
    _change(folder / "generation_config.json", eos_token_id=7)

    assert _load(folder).card.end_ids == (7, 0)


def test_a_model_without_a_chat_template_only_completes(folder: Path) -> None:
    (folder / "chat_template.jinja").unlink()

    card = _load(folder).card

    assert (card.has_chat_template, card.capabilities) == (False, ("completion", "constraints"))


@pytest.mark.parametrize(("asked", "context"), [(None, _CONTEXT), (32, 32), (100_000, _CONTEXT)])
def test_the_context_can_be_made_smaller_only(saved: Path, asked: int | None, context: int) -> None:
    loaded = _load(saved, context=asked)

    assert (loaded.card.context, loaded.model.bounds.context) == (context, context)


def test_weights_are_full_precision_on_a_cpu_unless_told_otherwise(folder: Path) -> None:
    weights = folder / "model.safetensors"
    halved = {name: tensor.bfloat16() for name, tensor in load_file(weights).items()}
    save_file(halved, weights, metadata={"format": "pt"})
    _change(folder / "config.json", dtype="bfloat16")

    assert _load(folder).card.dtype == "float32"
    assert _load(folder, dtype="bfloat16").card.dtype == "bfloat16"


def test_the_tokenizer_files_are_the_same_from_whatever_folder(saved: Path, folder: Path) -> None:
    assert _load(saved).tokenizer_files == _load(folder).tokenizer_files


def test_the_door_can_use_the_tokenizer_files_alone(saved: Path, tmp_path: Path) -> None:
    unpack(_load(saved).tokenizer_files, tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)

    assert tokenizer(saved_models.TEXTS[1])["input_ids"] == saved_models.tokenizer()(saved_models.TEXTS[1])["input_ids"]
    assert tokenizer.apply_chat_template([{"role": "user", "content": "ho"}], tokenize=False) == "ho"
    assert tokenizer.eos_token == "<|end|>"
    assert json.loads((tmp_path / "generation_config.json").read_text())["eos_token_id"] == [5, 1]


def test_a_path_that_is_nothing_is_refused() -> None:
    assert _complaint("nowhere") == "MODEL is neither a folder nor a hub id (owner/name)."
    assert _complaint("a/b/c") == "MODEL is neither a folder nor a hub id (owner/name)."


def test_a_folder_without_weights_in_safetensors_is_refused(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")

    assert _complaint(folder) == "MODEL has no *.safetensors file; other formats of weights are not loaded."


def test_a_model_that_brings_code_is_refused_until_it_is_trusted(folder: Path) -> None:
    _change(folder / "config.json", auto_map={"AutoConfig": "code.Config"})

    assert _complaint(folder) == "MODEL brings its own code (auto_map); set trust_remote_code = true for m to run it."


def _without(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def _with(name: str, text: str) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        (folder / name).write_text(text)

    return spoil


def _with_change(name: str, **changes: Any) -> Callable[[Path], None]:
    return lambda folder: _change(folder / name, **changes)


def _torn(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])


def _incomplete(folder: Path) -> None:
    weights = folder / "model.safetensors"
    tensors = load_file(weights)
    del tensors["model.layers.1.mlp.up_proj.weight"], tensors["model.norm.weight"]
    save_file(tensors, weights, metadata={"format": "pt"})


def _slow(folder: Path) -> None:
    _change(folder / "tokenizer_config.json", tokenizer_class="CTRLTokenizer")
    (folder / "tokenizer.json").unlink()
    (folder / "vocab.json").write_text('{"a": 0}')
    (folder / "merges.txt").write_text("#version\na b 1\n")


_NO_JSON = "MODEL has a configuration that is not JSON: Expecting property name enclosed in double quotes"
_CANNOT = "MODEL cannot be loaded: "


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (_without("config.json"), "MODEL has no config.json, so it holds no transformers model."),
        (_with("config.json", "{no"), _NO_JSON),
        (_with("generation_config.json", "{no"), _NO_JSON),
        (_with("config.json", "7"), _CANNOT),
        (_with("config.json", "[]"), f"{_CANNOT}Unrecognized model in MODEL. Should have a `model_type` key"),
        (_with_change("config.json", model_type="nope"), f"{_CANNOT}The checkpoint you are trying to load has model"),
        (_with_change("config.json", hidden_size="wide"), f"{_CANNOT}Validation error for field 'hidden_size'"),
        (_with_change("config.json", hidden_size=64), _CANNOT),
        (_torn, f"{_CANNOT}Error while deserializing header"),
        (_incomplete, "MODEL lacks weights of its model: model.layers.1.mlp.up_proj.weight and 1 more."),
        (_without("tokenizer.json"), f"{_CANNOT}Couldn't instantiate the backend tokenizer from one of: (1)"),
        (_with("tokenizer.json", '{"a": 1}'), _CANNOT),
        (_with("tokenizer_config.json", "{"), _CANNOT),
        (_slow, "MODEL has no fast tokenizer (tokenizer.json)."),
    ],
)
def test_a_spoilt_model_is_refused_with_a_sentence(folder: Path, spoil: Callable[[Path], None], sentence: str) -> None:
    spoil(folder)

    complaint = _complaint(folder)

    assert complaint.startswith(sentence)
    assert "\n" not in complaint
    assert len(complaint) > len(_CANNOT)


def test_a_device_that_is_not_there_is_refused(saved: Path) -> None:
    assert _complaint(saved, device="quux").startswith("'quux' is no device: ")
    if not torch.cuda.is_available():
        assert _complaint(saved, device="cuda").startswith(_CANNOT)


def test_an_architecture_that_cannot_be_served_is_refused(tmp_path: Path) -> None:
    saved_models.save(
        tmp_path, MambaConfig(vocab_size=len(saved_models.tokenizer()), hidden_size=32, num_hidden_layers=2, **_ENDS)
    )

    assert _complaint(tmp_path).startswith("MODEL cannot be served yet: its forward does not take ")


@pytest.fixture(scope="session")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose matrices can be quantised."""
    return saved_models.save(tmp_path_factory.mktemp("wide"), saved_models.WIDE)


@pytest.mark.parametrize("quantization", ["nf4", "int8"])
def test_a_model_can_be_quantised_while_it_loads_and_the_start_says_what_that_means(
    wide: Path, quantization: str, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = _load(wide)
    loaded = _load(wide, quantization=quantization, slots=2)

    job = a_job(prompts=((40, 41, 42),), sampling=Sampling(20, 0.0))
    notes = answers(loaded.model, a_claim(job), a_claim(a_job(prompts=((50,) * 9,), sampling=Sampling(9, 0.0))))

    assert loaded.card.quantization == quantization
    assert loaded.bytes < plain.bytes
    assert loaded.parameters == plain.parameters
    assert notes.tokens(job) == tiny.generated(saved_models.quantised(wide, quantization), (40, 41, 42), 20)
    assert "saves memory and costs speed" in capsys.readouterr().out


def _saved_quantised(wide: Path, folder: Path, quantization: str) -> Any:
    network = saved_models.quantised(wide, quantization)
    network.save_pretrained(folder)
    saved_models.tokenizer().save_pretrained(folder)
    return network


@pytest.mark.parametrize(
    ("quantization", "word"),
    [("nf4", "nf4"), ("Int8WeightOnlyConfig", "torchao"), ("Float8WeightOnlyConfig", "torchao")],
)
def test_a_checkpoint_that_is_quantised_loads_by_itself_and_is_not_quantised_twice(
    wide: Path, tmp_path: Path, quantization: str, word: str
) -> None:
    _saved_quantised(wide, tmp_path, quantization)

    loaded = _load(tmp_path)

    assert loaded.card.quantization == word
    assert _complaint(tmp_path, quantization="int8") == f"MODEL is quantised already ({word}); leave quantization out."


@pytest.mark.parametrize("quantization", ["Int8WeightOnlyConfig", "Float8WeightOnlyConfig"])
def test_a_checkpoint_of_torchao_answers_as_generate_does_and_the_start_says_what_it_weighs(
    wide: Path, tmp_path: Path, quantization: str, capsys: pytest.CaptureFixture[str]
) -> None:
    network = _saved_quantised(wide, tmp_path, quantization)
    loaded = _load(tmp_path, slots=2)

    job = a_job(prompts=((40, 41, 42),), sampling=Sampling(20, 0.0))
    notes = answers(loaded.model, a_claim(job), a_claim(a_job(prompts=((50,) * 9,), sampling=Sampling(9, 0.0))))

    expected = tiny.generated(network, (40, 41, 42), 20)
    assert len(expected) > 5
    assert notes.tokens(job)[: len(expected)] == expected
    stored = sum(tensor.nbytes for tensor in load_file(tmp_path / "model.safetensors").values())
    assert stored <= loaded.bytes < 1.01 * stored
    assert loaded.parameters == _load(wide).parameters
    said = f"megabytes={stored / 1e6:.1f} megabytes_in_bfloat16={loaded.parameters * 2 / 1e6:.1f}"
    assert said in capsys.readouterr().out


def test_the_start_shows_what_takes_memory(wide: Path, capsys: pytest.CaptureFixture[str]) -> None:
    loaded = _load(wide, slots=2, kv_cache_bytes=2**20)

    said = capsys.readouterr().out
    table = said[said.index("memory of m") :].splitlines()
    found = [re.fullmatch(r"  (\S.*?) +([0-9.,]+) MB.*", line) for line in table[1:4]]
    named = {row[1]: float(row[2]) for row in found if row}
    each = loaded.model.bytes_per_token  # type: ignore[attr-defined]
    blocks = loaded.model.blocks
    assert blocks is not None
    assert named["weights"] == pytest.approx(loaded.bytes / 1e6, abs=0.06 + loaded.bytes / 4e6)  # one more copy at most
    tokens = blocks.count * blocks.size
    assert named[f"keys and values of {tokens:,} tokens, each {each:,} B"] == pytest.approx(
        tokens * each / 1e6, abs=0.06
    )
    assert "a step of 65 tokens, for a while" in named
    assert "runs_as=packed" in said


def test_a_checkpoint_for_other_processors_is_refused_in_one_line(wide: Path, tmp_path: Path) -> None:
    network = saved_models.quantised(wide, "Int8WeightOnlyConfig")
    high, broad = network.lm_head.weight.shape
    packed = torch.zeros(high // 8, broad // 64, 32, 4, dtype=torch.int32)
    scales = torch.ones(broad // 32, high, 2, dtype=torch.bfloat16)
    tile = torchao.quantization.Int4TilePackedTo4dTensor(packed, scales, [1, 32], torch.Size([high, broad]))
    network.lm_head.weight = torch.nn.Parameter(tile, requires_grad=False)
    network.save_pretrained(tmp_path)
    saved_models.tokenizer().save_pretrained(tmp_path)

    complaint = _complaint(tmp_path, device="cpu")

    assert complaint.startswith("MODEL cannot be served yet: its forward does not work with rows (")
    assert "\n" not in complaint


@pytest.mark.parametrize(
    ("method", "packages"),
    [
        ("awq", "gptqmodel"),
        ("compressed-tensors", "compressed-tensors"),
        ("gptq", "gptqmodel optimum"),
        ("hqq", "hqq"),
        ("quanto", "optimum-quanto"),
        ("sinq", "sinq"),
    ],
)
def test_a_quantisation_whose_package_is_missing_is_refused_with_what_to_install(
    folder: Path, method: str, packages: str
) -> None:
    _change(folder / "config.json", quantization_config={"quant_method": method, "bits": 4})

    command = f"pip install --no-build-isolation torch=={torch.__version__.partition('+')[0]} {packages}"
    assert _complaint(folder) == f"MODEL is quantised ({method}): `{command}` first."


def test_a_quantisation_that_transformers_would_overlook_is_refused(folder: Path) -> None:
    _change(folder / "config.json", quantization_config={"quant_method": "modelopt"})

    assert _complaint(folder) == "MODEL is quantised in a way that transformers does not know (modelopt)."


def test_a_model_that_counts_needs_no_files() -> None:
    job = counting("\n", 50)

    loaded = _load("counting:?answer=3", slots=5, context=100)

    assert answers(loaded.model, a_claim(job)).text(job) == "1 2 3"
    assert (loaded.card.path, loaded.card.dtype, loaded.card.context) == ("row", "none", 100)
    assert (loaded.model.slots, loaded.model.bounds.context, loaded.parameters) == (5, 100, 0)
    assert loaded.card.tokenizer_digest == hashlib.sha256(loaded.tokenizer_files).hexdigest()
