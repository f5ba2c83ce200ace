"""Linear layers whose weights oneDNN has laid out for this processor: a CPU's own products are far from its limit."""

from typing import Any

import torch
from torch import Tensor, nn

_DTYPES = (torch.float32, torch.bfloat16)


class Packed(nn.Module):
    """``nn.Linear`` for inference; it keeps no other copy of its weights."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.bias = linear.bias
        self._packed: Any = torch.ops.mkldnn._reorder_linear_weight(linear.weight, None)  # noqa: SLF001  the only way

    def forward(self, hidden: Tensor) -> Tensor:
        """[..., in] to [..., out]."""
        if not hidden.numel():
            return hidden.new_empty(*hidden.shape[:-1], self.out_features)
        told: Tensor = torch.ops.mkldnn._linear_pointwise(hidden, self._packed, self.bias, "none", [], "")  # noqa: SLF001
        return told


@torch.inference_mode()
def pack(network: nn.Module) -> int:
    """Replace the linear layers of a network on a CPU, one after the other; how many there were.

    Only plain ones: what quantises, or is a layer of another kind, knows itself how it wants to be computed.
    """
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return 0
    count = 0
    for parent in tuple(network.modules()):
        for name, layer in tuple(parent.named_children()):
            if type(layer) is nn.Linear and layer.weight.dtype in _DTYPES and layer.weight.device.type == "cpu":
                setattr(parent, name, Packed(layer))
                count += 1
    return count
