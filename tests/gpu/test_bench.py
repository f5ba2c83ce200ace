import pytest
import torch
from transformers import Qwen3Config

from ops.bench import gpu
from tests.worker import tiny

_CHANGED = {"vocab_size": 16_384, "max_position_embeddings": 1024, "num_hidden_layers": 1, "intermediate_size": 128}
_SHAPE = tiny.SHAPE | tiny.GROUPED | _CHANGED


def test_the_benchmark_has_a_row_for_each_shape_and_weights(device: torch.device) -> None:
    rows = list(gpu.measure(device, {"tiny": Qwen3Config(**_SHAPE)}, counts=(3,), rounds=1))

    assert [(row.shape, row.weights, row.sequences) for row in rows] == [("tiny", "bf16", 3), ("tiny", "nf4", 3)]
    assert all(min(row.forward, row.engine_decode, row.transformers_cb, row.engine) > 0 for row in rows)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_the_benchmark_says_that_it_needs_a_gpu() -> None:
    with pytest.raises(SystemExit) as ended:
        gpu.main()

    assert ended.value.code == "This benchmark needs a GPU that torch can use, and there is none."  # which exits with 1
