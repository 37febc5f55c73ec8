"""Linear layers of which each rank holds a part: split by the columns or by the rows of the matrix A in y = x·A + b.

PyTorch keeps the transpose of A: `weight` has the shape [outputs, inputs]. So the *columns* of A, one for each output,
are the first dimension of `weight`, and its rows, one for each input, the second.

Both layers are made from a whole layer, of which each rank keeps its part. Give the same one to all ranks. What is
frozen stays so.
"""

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn

from torchcourse.lessons.model_parallelism.tensor_parallel.operators import Group, enter, gather, leave, share


class SplitLinear(nn.Module):
    """What both layers share: parts of a whole layer's parameters, and the way back to the whole layer.

    Attributes:
        weight, bias: this rank's parts (`bias` is None if the whole layer has none).
        held: for each parameter that is split, its dimension that is, and which of the whole layer's entries are here.
    """

    weight: nn.Parameter
    bias: nn.Parameter | None

    def __init__(self, layer: nn.Linear, held: dict[str, tuple[int, torch.Tensor]], group: Group) -> None:
        super().__init__()
        self.group, self.held = group, held
        for name in ("weight", "bias"):
            whole = getattr(layer, name)
            part = None if whole is None else nn.Parameter(self.part(name, whole.detach()), whole.requires_grad)
            self.register_parameter(name, part)

    def part(self, name: str, whole: torch.Tensor) -> torch.Tensor:
        """Return this rank's part (a copy) of a tensor that belongs to the whole layer's parameter `name`."""
        if name not in self.held:
            return whole.clone()
        dimension, indices = self.held[name]
        return whole.index_select(dimension, indices.to(whole.device))

    def whole(self, name: str, part: torch.Tensor) -> torch.Tensor:
        """Return the whole layer's tensor from the ranks' parts. All ranks of the group call it together."""
        if name not in self.held:
            return part.clone()
        dimension, indices = self.held[name]
        parts, places = gather(part, self.group), gather(indices.to(part.device), self.group)
        return torch.cat(parts, dimension).index_select(dimension, torch.cat(places).argsort())


class ColumnParallelLinear(SplitLinear):
    """Each rank computes some of the outputs: [..., inputs], the same on each rank → [..., outputs/N].

    Forward it sends nothing; backward it sums the gradient of its input over the ranks.

    Args:
        layer: the whole layer, the same on each rank.
        group: the ranks that share it.
        outputs: which outputs this rank computes; a block of neighbors if left out.

    Raises:
        RuntimeError: outside a rank.
        ValueError: if the ranks cannot share the outputs equally.
    """

    def __init__(self, layer: nn.Linear, group: Group = None, outputs: torch.Tensor | None = None) -> None:
        if outputs is None:
            outputs = _block(layer.out_features, group, "outputs")
        super().__init__(layer, {"weight": (0, outputs), "bias": (0, outputs)}, group)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.linear(enter(x, self.group), self.weight, self.bias)


class RowParallelLinear(SplitLinear):
    """Each rank works on some of the inputs: [..., inputs/N] → [..., outputs], the same on each rank.

    Forward it sums the ranks' outputs; backward it sends nothing. The bias is whole on each rank, and added once, after
    the sum; its gradient is the same on each rank.

    Args:
        layer: the whole layer, the same on each rank.
        group: the ranks that share it.

    Raises:
        RuntimeError: outside a rank.
        ValueError: if the ranks cannot share the inputs equally.
    """

    def __init__(self, layer: nn.Linear, group: Group = None) -> None:
        super().__init__(layer, {"weight": (1, _block(layer.in_features, group, "inputs"))}, group)

    def forward(self, part: torch.Tensor) -> torch.Tensor:
        y = leave(F.linear(part, self.weight), self.group)
        return y if self.bias is None else y + self.bias


def _block(count: int, group: Group, what: str) -> torch.Tensor:
    size = share(count, group, what)
    return torch.arange(size) + size * dist.get_rank(group)
