"""Linear layers on a CPU: oneDNN lays their weights out once, which makes each product of a few rows faster.

Those that read the very same tensor (query, key and value; gate and up) become one product. The bounds below are where
that pays on x86 with AVX-512, by CPU time.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

_ROWS = 32  # what a layout is made for; one made for a single row is slow with more
_BATCH = 4  # through a large matrix so many rows go faster than one or two
_LARGE = 2**18  # elements
_LEAST = {torch.float32: _LARGE, torch.bfloat16: 0}  # elements; below, plain torch has the shorter way

Group = tuple[nn.Module, tuple[str, ...]]  # a parent, and the names of those of its linears that read the same


class Matrix:
    """The weights of one or more linears that read the same, below each other."""

    def __init__(self, linears: Sequence[nn.Linear]) -> None:
        weights: list[Tensor] = [linear.weight.detach() for linear in linears]
        biases: list[Tensor] = [linear.bias for linear in linears if linear.bias is not None]
        self.is_read = False  # whether somebody wanted a weight itself
        self.sizes = [linear.out_features for linear in linears]
        self.bytes = sum(tensor.nbytes for tensor in (*weights, *biases))
        self._keys = [f"part {at} of {id(self)}" for at in range(len(linears))]
        self._bias = torch.cat(biases) if len(biases) > 1 else next(iter(biases), None)
        joined = torch.cat(weights) if len(weights) > 1 else weights[0]
        self._weight: Tensor = torch.ops.mkldnn._reorder_linear_weight(joined, _ROWS)  # noqa: SLF001  torch has no other name for it
        self._product: Callable[..., Tensor] = torch.ops.mkldnn._linear_pointwise.default  # noqa: SLF001  likewise
        self._few = _BATCH // 2 * joined.shape[1] if joined.numel() >= _LARGE else 0
        self._many = _BATCH * joined.shape[1]

    def weight(self, at: int) -> Tensor:
        """A copy of one of them, as it was."""
        self.is_read = True
        weights: Sequence[Tensor] = torch.split(self._weight.to_dense(), self.sizes)
        return weights[at].clone()

    def product(self, x: Tensor) -> Tensor:
        """Of all of them."""
        if 0 < x.numel() <= self._few:
            few = x.expand(self._many // x.numel(), *x.shape)
            return self._product(few, self._weight, self._bias, "none", [], "")[0]
        return self._product(x, self._weight, self._bias, "none", [], "")

    def part(self, x: Tensor, at: int) -> Tensor:
        """Of one of them; the other parts wait on the input itself, so they live no longer than it does."""
        waiting = x.__dict__
        part: Tensor | None = waiting.pop(self._keys[at], None)
        if part is None:
            waiting.update(zip(self._keys, torch.split(self.product(x), self.sizes, -1), strict=True))
            part = waiting.pop(self._keys[at])
        return part


class Packed(nn.Module):
    """What was an ``nn.Linear``; for inference only."""

    def __init__(self, linear: nn.Linear, matrix: Matrix, at: int) -> None:
        super().__init__()
        self.in_features, self.out_features, self.bias = linear.in_features, linear.out_features, linear.bias
        self.matrix, self._at, self._is_alone = matrix, at, len(matrix.sizes) == 1

    @property
    def weight(self) -> Tensor:
        """A copy of it as it was."""
        return self.matrix.weight(self._at)

    def forward(self, x: Tensor) -> Tensor:
        """The product."""
        return self.matrix.product(x) if self._is_alone else self.matrix.part(x, self._at)

    def linear(self) -> nn.Linear:
        """What it was."""
        linear = nn.Linear(self.in_features, self.out_features, bias=False, device="meta")
        linear.weight, linear.bias = nn.Parameter(self.weight, requires_grad=False), self.bias
        return linear.eval()


def alike(network: nn.Module, run: Callable[[], object]) -> list[Group]:
    """The linears that were given the very same tensor, unchanged, each time during ``run``."""
    calls: dict[nn.Module, list[tuple[Tensor, Tensor]]] = defaultdict(list)

    def note(module: nn.Module, given: tuple[Any, ...]) -> None:
        if given:
            calls[module].append((given[0], given[0].clone()))

    hooks = [child.register_forward_pre_hook(note) for _, _, child in _children(network) if _only_multiplies(child)]
    try:
        run()
    finally:
        for hook in hooks:
            hook.remove()
    groups: dict[nn.Module, list[list[str]]] = defaultdict(list)
    for parent, name, child in _children(network):
        if child in calls:
            mates = (names for names in groups[parent] if _is_alike(calls, child, getattr(parent, names[0])))
            names = next(mates, None)
            if names is None:
                groups[parent].append([name])
            else:
                names.append(name)
    return [(parent, tuple(names)) for parent, all_names in groups.items() for names in all_names if len(names) > 1]


def pack(network: nn.Module, groups: Sequence[Group] = (), least: int | None = None) -> int:
    """How many it packed: those that only multiply, of at least so many elements, if this machine can.

    A matrix that is also the embedding stays there; a copy of it is packed.
    """
    onednn = torch.backends.mkldnn
    if getattr(network, "is_quantized", False) or not (onednn.is_available() and onednn.enabled):  # type: ignore[no-untyped-call]
        return 0
    fit = _fit(network)
    grouped = {(parent, name) for parent, names in groups for name in names}
    alone = [(parent, (name,)) for parent, name in fit if (parent, name) not in grouped]
    together = [(parent, tuple(name for name in names if (parent, name) in fit)) for parent, names in groups]
    return sum(_packed(parent, names, least) for parent, names in [*together, *alone])


def unpack(network: nn.Module, *, only_read: bool = False) -> int:
    """How many became what they were: all, or those whose weight was read since they were packed."""
    found = [
        (parent, name)
        for parent, name, child in _children(network)
        if isinstance(child, Packed) and (child.matrix.is_read or not only_read)
    ]
    for parent, name in found:
        setattr(parent, name, getattr(parent, name).linear())
    return len(found)


def packed_bytes(network: nn.Module) -> int:
    """Of the weights that are laid out: torch does not count them among a network's."""
    matrices = {module.matrix for module in network.modules() if isinstance(module, Packed)}
    return sum(matrix.bytes for matrix in matrices)


def _children(network: nn.Module) -> Iterator[tuple[nn.Module, str, Any]]:
    """Holds on to none of them, so that memory for one more is enough to replace them all."""
    for parent in [module for module in network.modules() if any(True for _ in module.children())]:
        for name in [name for name, _ in parent.named_children()]:
            yield parent, name, getattr(parent, name)


def _only_multiplies(module: nn.Module) -> bool:
    """A subclass, a hook or a forward of its own may do anything."""
    hooks = (module._forward_hooks, module._forward_pre_hooks)  # noqa: SLF001  there is no other way to know
    return type(module) is nn.Linear and not any(hooks) and "forward" not in vars(module)


def _is_alike(calls: dict[nn.Module, list[tuple[Tensor, Tensor]]], one: nn.Linear, other: nn.Linear) -> bool:
    if len(calls[one]) != len(calls[other]) or (one.bias is None) != (other.bias is None):
        return False
    pairs = zip(calls[one], calls[other], strict=True)
    return one.weight.dtype == other.weight.dtype and all(
        mine is its and torch.equal(before, after) for (mine, before), (its, after) in pairs
    )


def _fit(network: nn.Module) -> dict[tuple[nn.Module, str], None]:
    """Nobody else has them or, embeddings aside, their weights; what has a base_layer is an adapter."""
    users = Counter(
        id(parameter)
        for module in network.modules()
        if not isinstance(module, nn.Embedding)
        for parameter in module.parameters(recurse=False)
    )
    homes = Counter(id(child) for _, _, child in _children(network))
    return {
        (parent, name): None
        for parent, name, child in _children(network)
        if _only_multiplies(child)
        and not hasattr(parent, "base_layer")
        and users[id(child.weight)] == homes[id(child)] == 1
    }


def _packed(parent: nn.Module, names: Sequence[str], least: int | None) -> int:
    linears = [getattr(parent, name) for name in names]
    if not linears or not _pays(linears, least):
        return 0
    matrix = Matrix(linears)
    for at, (name, linear) in enumerate(zip(names, linears, strict=True)):
        setattr(parent, name, Packed(linear, matrix, at))
    return len(names)


def _pays(linears: Sequence[nn.Linear], least: int | None) -> bool:
    weight = linears[0].weight
    if weight.device.type != "cpu" or weight.dtype not in _LEAST:
        return False
    if weight.dtype == torch.bfloat16 and not torch.ops.mkldnn._is_mkldnn_bf16_supported():  # noqa: SLF001
        return False
    return sum(linear.weight.numel() for linear in linears) >= (_LEAST[weight.dtype] if least is None else least)
