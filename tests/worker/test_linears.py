import gc
from typing import Any

import psutil
import pytest
import torch
from torch import nn

from common.jobs import Sampling
from tests.builders import a_job
from tests.worker import saved_models, tiny
from tests.worker.claims import a_claim, answers
from worker.models.linears import Packed, pack

torch.set_num_threads(1)


@pytest.mark.parametrize("shape", [(1, 1), (3, 5), (64, 64), (129, 7), (512, 300)])
@pytest.mark.parametrize("has_bias", [False, True])
@pytest.mark.parametrize("rows", [(1,), (4,), (1, 33), (2, 3, 5), (129,), (0,), (2, 0)])
def test_a_packed_layer_gives_what_the_plain_one_gives(
    shape: tuple[int, int],
    has_bias: bool,  # noqa: FBT001
    rows: tuple[int, ...],
) -> None:
    torch.manual_seed(0)
    plain = nn.Linear(*shape, bias=has_bias).requires_grad_(requires_grad=False)
    hidden = torch.randn(*rows, shape[0])

    with torch.inference_mode():
        torch.testing.assert_close(Packed(plain)(hidden), plain(hidden), rtol=1e-4, atol=1e-5)


def test_what_does_not_lie_in_a_row_in_memory_is_read_right() -> None:
    plain = nn.Linear(6, 4).requires_grad_(requires_grad=False)
    hidden = torch.randn(6, 5).T

    torch.testing.assert_close(Packed(plain)(hidden), plain(hidden), rtol=1e-4, atol=1e-5)


def test_half_precision_stays_half() -> None:
    plain = nn.Linear(64, 48, dtype=torch.bfloat16).requires_grad_(requires_grad=False)
    hidden = torch.randn(9, 64, dtype=torch.bfloat16)

    told = Packed(plain)(hidden)

    assert told.dtype == torch.bfloat16
    torch.testing.assert_close(told, plain(hidden), rtol=0.02, atol=0.02)


@pytest.mark.parametrize("name", list(tiny.CONFIGS))
def test_a_packed_network_says_what_generate_says_with_the_plain_one(name: str) -> None:
    plain, network = tiny.network(name), tiny.network(name)
    job = a_job(prompts=((5, 6, 7, 8),), sampling=Sampling(20, 0.0))
    mate = a_job(prompts=((9,) * 30,), sampling=Sampling(20, 0.0))

    count = pack(network)
    notes = answers(tiny.rows(network), a_claim(job), a_claim(mate))

    assert count > 5
    for one in (job, mate):
        expected = tiny.generated(plain, one.prompts[0], 20)
        assert len(expected) > 10
        assert notes.tokens(one)[: len(expected)] == expected


def test_a_head_that_is_tied_to_the_embedding_leaves_it_alone() -> None:
    network = tiny.network()
    network.lm_head.weight = network.get_input_embeddings().weight
    before = network.get_input_embeddings().weight.clone()
    ids = torch.tensor([[1, 2, 3]])
    plain = network(input_ids=ids).logits

    pack(network)

    torch.testing.assert_close(network(input_ids=ids).logits, plain, rtol=1e-4, atol=1e-4)
    assert torch.equal(network.get_input_embeddings().weight, before)


def test_layers_of_other_kinds_are_left_alone(tmp_path: Any) -> None:
    folder = saved_models.save(tmp_path, saved_models.WIDE)
    network = saved_models.quantised(folder, "nf4")
    kinds = [type(layer).__name__ for layer in network.modules()]

    pack(network)

    assert kinds.count("Linear4bit") == [type(layer).__name__ for layer in network.modules()].count("Linear4bit") > 5


class _Wide(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(2048, 2048, bias=False) for _ in range(24))


def test_weights_are_not_kept_twice() -> None:
    network = _Wide().requires_grad_(requires_grad=False)
    gc.collect()
    before = psutil.Process().memory_info().rss

    assert pack(network) == 24

    gc.collect()
    assert psutil.Process().memory_info().rss - before < 150 * 2**20  # of 384 MiB
