import gc
import weakref
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers.models.auto.modeling_auto import AutoModelForCausalLM

from common.jobs import Job, Sampling
from common.settings import Model
from tests.builders import a_job
from tests.worker import saved_models, tiny
from tests.worker.claims import a_claim, answers
from worker.models import loader
from worker.models.linears import Packed, alike, pack, unpack

pytestmark = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="torch came without oneDNN")  # type: ignore[no-untyped-call]

HAS_BFLOAT16 = torch.ops.mkldnn._is_mkldnn_bf16_supported()  # whether oneDNN has it on this processor
in_bfloat16 = pytest.mark.skipif(not HAS_BFLOAT16, reason="oneDNN has no bfloat16 on this processor")


def _is_close(one: Tensor, other: Tensor, tolerance: float = 1e-4) -> bool:
    return one.shape == other.shape and torch.allclose(one, other, atol=tolerance, rtol=tolerance)


class _Mlp(nn.Module):
    """Two linears that read the same, and one that does not."""

    def __init__(self, width: int = 24, *, bias: bool = True) -> None:
        super().__init__()
        self.gate, self.up = nn.Linear(width, 40, bias=bias), nn.Linear(width, 33, bias=bias)
        self.down = nn.Linear(33, width, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        added: Tensor = self.down(self.up(x) * self.gate(x)[..., :33].sigmoid())
        return x + added


def _alone(rows_in: int, rows_out: int, *, bias: bool = True, dtype: torch.dtype = torch.float32) -> tuple[Any, Any]:
    """The same linear twice, the second one packed."""
    torch.manual_seed(0)
    plain, network = nn.Linear(rows_in, rows_out, bias=bias).to(dtype), nn.Sequential()
    network.append(nn.Linear(rows_in, rows_out, bias=bias).to(dtype))
    network.load_state_dict({f"0.{name}": tensor for name, tensor in plain.state_dict().items()})
    assert pack(network, least=0) == 1
    return plain.requires_grad_(requires_grad=False), network.requires_grad_(requires_grad=False)[0]


def _read(network: Any) -> Callable[[], None]:
    def read() -> None:
        with torch.inference_mode():
            network(input_ids=torch.tensor([[1, 2, 3]]), use_cache=False)

    return read


def _packed(network: Any) -> Any:
    """All of it, as the loader would, were it not so tiny."""
    assert pack(network, alike(network, _read(network)), least=0) > 0
    return network


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(1, 1), (7, 13), (64, 96), (513, 511), (1024, 384)])
def test_the_product_is_that_of_a_plain_linear_for_any_number_of_rows(shape: tuple[int, int], bias: bool) -> None:  # noqa: FBT001
    plain, packed = _alone(*shape, bias=bias)

    for rows in (*range(1, 10), 31, 32, 33, 64, 129):
        x = torch.randn(rows, shape[0])
        with torch.inference_mode():
            assert _is_close(packed(x), plain(x))
            assert _is_close(packed(x), plain(x))


@pytest.mark.parametrize("width", [12, 1024])  # narrow, and so large that few rows go another way
@pytest.mark.parametrize("lead", [(), (1,), (2,), (0,), (1, 1), (2, 1), (1, 2), (2, 0), (3, 2, 5), (0, 4)])
def test_the_leading_dimensions_may_be_any(width: int, lead: tuple[int, ...]) -> None:
    plain, packed = _alone(width, 300)
    x = torch.randn(*lead, width)

    assert _is_close(packed(x), plain(x))


@pytest.mark.parametrize("rows", [1, 2, 5])
def test_an_input_may_lie_in_memory_as_it_likes(rows: int) -> None:
    plain, packed = _alone(512, 600)
    for x in (torch.randn(512, rows).T, torch.randn(rows, 1024)[:, ::2], torch.randn(1, 512).expand(rows, 512)):
        assert _is_close(packed(x), plain(x))


@in_bfloat16
def test_half_the_precision_is_what_plain_bfloat16_is() -> None:
    plain, packed = _alone(512, 600, dtype=torch.bfloat16)

    for rows in (1, 2, 3, 4, 40):
        x = torch.randn(rows, 512, dtype=torch.bfloat16)
        assert packed(x).dtype == torch.bfloat16
        assert _is_close(packed(x), plain(x), 0.02)


@pytest.mark.parametrize("bias", [True, False])
def test_linears_that_read_the_same_are_one_product(bias: bool) -> None:  # noqa: FBT001
    plain = _Mlp(bias=bias).requires_grad_(requires_grad=False)
    network = nn.Sequential(_Mlp(bias=bias)).requires_grad_(requires_grad=False)
    network[0].load_state_dict(plain.state_dict())
    groups = alike(network, lambda: network(torch.randn(3, 24)))

    assert [names for _, names in groups] == [("gate", "up")]
    assert pack(network, groups, least=0) == 3
    mlp: Any = network[0]
    assert mlp.gate.matrix is mlp.up.matrix is not mlp.down.matrix
    for rows in (1, 2, 3, 40):
        x = torch.randn(rows, 1, 24)
        assert _is_close(network(x), plain(x))
        assert _is_close(network(x), plain(x))
        assert x.__dict__ == {}
    x = torch.randn(2, 24)
    assert _is_close(mlp.up(x), plain.up(x))
    assert _is_close(mlp.up(x), plain.up(x))
    assert _is_close(mlp.gate(x), plain.gate(x))


def test_a_part_that_nobody_asked_for_goes_with_its_input() -> None:
    network = nn.Sequential(_Mlp()).requires_grad_(requires_grad=False)
    pack(network, alike(network, lambda: network(torch.randn(3, 24))), least=0)
    mlp: Any = network[0]
    x = torch.randn(2, 24)
    mlp.up(x)

    (waiting,) = (weakref.ref(part) for part in x.__dict__.values())
    del x

    assert waiting() is None


def test_an_input_that_changes_in_between_is_not_the_same() -> None:
    class Changing(_Mlp):
        def forward(self, x: Tensor) -> Tensor:
            up = self.up(x)
            return up, self.gate(x.mul_(2))  # type: ignore[return-value]

    network = nn.Sequential(Changing())

    assert alike(network, lambda: network(torch.randn(3, 24))) == []


@pytest.mark.parametrize("name", list(tiny.CONFIGS))
def test_a_packed_network_says_what_generate_says_without(name: str) -> None:
    jobs = [_job(length, most) for length, most in ((1, 12), (5, 6), (40, 12), (31, 8))]
    plain, packed = tiny.network(name), _packed(tiny.network(name))
    model = tiny.rows(packed, slots=3)
    model.test()

    notes = answers(model, *map(a_claim, jobs))

    expected = [tiny.generated(plain, job.prompts[0], job.sampling.max_tokens) for job in jobs]
    assert [notes.tokens(job)[: len(said)] for job, said in zip(jobs, expected, strict=True)] == expected
    assert sum(map(len, expected)) > 25
    assert isinstance(packed.get_output_embeddings(), Packed)


def _job(length: int, most: int) -> Job:
    return a_job(prompts=(tuple(at * 7 % 290 + 1 for at in range(length)),), sampling=Sampling(most, 0.0))


def test_queries_keys_and_values_are_one_product() -> None:
    layer = _packed(tiny.network()).model.layers[1]

    attention, mlp = layer.self_attn, layer.mlp
    assert attention.q_proj.matrix is attention.k_proj.matrix is attention.v_proj.matrix
    assert mlp.gate_proj.matrix is mlp.up_proj.matrix is not attention.q_proj.matrix


def test_an_embedding_that_is_also_the_last_matrix_stays() -> None:
    torch.manual_seed(0)
    config = type(tiny.CONFIGS["qwen3"])(**tiny.SHAPE, **tiny.GROUPED, tie_word_embeddings=True)
    plain = type(tiny.network("qwen3"))(config).eval().requires_grad_(requires_grad=False)
    network = type(plain)(config).eval().requires_grad_(requires_grad=False)
    network.load_state_dict(plain.state_dict())
    assert network.lm_head.weight is network.model.embed_tokens.weight

    _packed(network)

    assert torch.equal(network.model.embed_tokens.weight, plain.model.embed_tokens.weight)
    assert torch.equal(network.lm_head.weight, plain.lm_head.weight)
    ids = torch.tensor([[3, 1, 4, 1, 5]])
    assert _is_close(network(ids).logits, plain(ids).logits)


@pytest.mark.parametrize("dtype", [torch.float32, pytest.param(torch.bfloat16, marks=in_bfloat16)])
def test_what_was_packed_comes_back_to_the_bit(dtype: torch.dtype) -> None:
    network = tiny.network().to(dtype)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}

    _packed(network)
    assert sum(tensor.numel() for tensor in network.state_dict().values()) < 0.5 * sum(
        map(torch.numel, before.values())
    )
    assert unpack(network) == 22

    after = network.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], before[name]) for name in before)
    assert not any(isinstance(module, Packed) for module in network.modules())


def test_the_plain_weights_are_freed() -> None:
    network = tiny.network()
    weights = [weakref.ref(module.weight) for module in network.modules() if type(module) is nn.Linear]
    groups = alike(network, _read(network))

    count = pack(network, groups, least=0)

    gc.collect()
    assert count == len(weights) == 22
    assert [weight() for weight in weights if weight() is not None] == []


def test_linears_that_do_more_than_multiply_are_left_alone() -> None:
    class Own(nn.Linear):
        pass

    class Adapter(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.base_layer, self.lora_A = nn.Linear(8, 8), nn.Linear(8, 8)

    hooked, replaced, one, other, twice = (nn.Linear(8, 8) for _ in range(5))
    hooked.register_forward_hook(lambda *_: None)
    replaced.forward = lambda input: input  # type: ignore[method-assign]  # noqa: A006
    other.weight = one.weight
    network = nn.Sequential(Own(8, 8), Adapter(), hooked, replaced, one, other, twice, nn.Sequential(twice))

    assert pack(network, least=0) == 0


def test_small_matrices_in_full_precision_and_other_precisions_are_left_alone() -> None:
    assert pack(nn.Sequential(nn.Linear(64, 64))) == 0
    assert pack(nn.Sequential(nn.Linear(512, 512))) == 1
    assert pack(nn.Sequential(nn.Linear(64, 64).bfloat16())) == HAS_BFLOAT16
    assert pack(nn.Sequential(nn.Linear(512, 512).half())) == 0
    assert pack(nn.Sequential(nn.Linear(512, 512).double())) == 0
    assert pack(nn.Sequential(nn.Linear(512, 512, device="meta"))) == 0


def test_a_weight_that_the_forward_reads_comes_back() -> None:
    class Reading(_Mlp):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) @ self.down.weight

    network = nn.Sequential(Reading(33), nn.Linear(33, 5)).requires_grad_(requires_grad=False)
    x = torch.randn(2, 33)
    expected = network(x)
    pack(network, least=0)

    assert _is_close(network(x), expected)
    assert unpack(network, only_read=True) == 1
    assert _is_close(network(x), expected)
    mlp: Any = network[0]
    assert [type(mlp.up), type(mlp.down), type(network[1])] == [Packed, nn.Linear, Packed]


@pytest.mark.parametrize("quantization", ["nf4", "int8"])
def test_a_quantised_model_is_left_alone(quantization: str, tmp_path: Path) -> None:
    saved_models.save(tmp_path, saved_models.WIDE)
    network = saved_models.quantised(tmp_path, quantization)

    assert pack(network, alike(network, _read(network)), least=0) == 0


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_model_is_packed_while_it_loads(dtype: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wide = {"hidden_size": 512, "intermediate_size": 512, "num_hidden_layers": 1, "num_attention_heads": 4}
    config = type(saved_models.WIDE)(**tiny.SHAPE | wide)
    saved_models.save(tmp_path, config)

    loaded = loader.load(Model(name="m", path=str(tmp_path), slots=2, dtype=dtype), threads=1)
    job = _job(9, 12)
    notes = answers(loaded.model, a_claim(job))

    plain = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=getattr(torch, dtype)).eval()
    assert ("linear layers laid out" in capsys.readouterr().out) == (dtype == "float32" or HAS_BFLOAT16)
    assert (loaded.parameters, loaded.bytes) == (plain.num_parameters(), plain.get_memory_footprint())
    assert loaded.card.dtype == dtype
    said = tiny.generated(plain, job.prompts[0], 12)
    assert notes.tokens(job)[: len(said)] == said or dtype == "bfloat16"
    assert len(notes.tokens(job)) > 0


class _Strange(nn.Module):
    """A network that looks at its own layers."""

    dtype, device, is_quantized = torch.float32, torch.device("cpu"), False

    def __init__(self, does: str) -> None:
        super().__init__()
        self.embedding, self.layer = nn.Embedding(8, 512), nn.Linear(512, 512)
        self._does = does

    def forward(self, input_ids: torch.Tensor, *, use_cache: bool) -> Any:
        assert not use_cache
        told = self.layer(self.embedding(input_ids))
        if isinstance(self.layer, Packed):
            if self._does == "raises":
                raise RuntimeError("it does not like that")
            told = told + 1
        return SimpleNamespace(logits=told)


@pytest.mark.parametrize("does", ["raises", "says something else"])
def test_a_model_that_fails_packed_runs_as_it_is(does: str, capsys: pytest.CaptureFixture[str]) -> None:
    network = _Strange(does).requires_grad_(requires_grad=False)

    loader._lay_out(network)

    assert type(network.layer) is nn.Linear
    assert "its linear layers stay as they are" in capsys.readouterr().out


def test_without_onednn_nothing_happens() -> None:
    torch._C._set_mkldnn_enabled(False)
    try:
        assert pack(nn.Sequential(nn.Linear(512, 512))) == 0
    finally:
        torch._C._set_mkldnn_enabled(True)
