import pytest
import torch


@pytest.fixture(params=["cpu", "cuda"])
def device(request: pytest.FixtureRequest) -> torch.device:
    """Where a test computes; on a CPU as well, so that the tests are known to be right where there is no card."""
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("there is no GPU that torch can use (torch.cuda.is_available() is false)")
    return torch.device(request.param)
