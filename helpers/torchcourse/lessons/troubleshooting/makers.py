"""Which operation made the numbers that a loss gets, read from the autograd graph behind them."""

from collections.abc import Callable
from typing import Any

import torch

from torchcourse.lessons.troubleshooting.autograd_graph import end_of_graph

NEAR = 24  # nodes that are looked at, for what scores were made of
PRODUCTS = {"Addmm", "Mm", "Bmm", "Convolution", "MkldnnConvolution", "Baddbmm"}
_ARRANGING = {"View", "UnsafeView", "Reshape", "ReshapeAlias", "Squeeze", "Unsqueeze", "Select", "Slice", "T"}
_ARRANGING |= {"Transpose", "Permute", "Clone", "ToCopy", "Expand", "Index", "Alias"}
_CUTTING = {"Clamp", "ClampMin", "ClampMax"}
_LENGTHS = {"LinalgVectorNorm", "Norm"}


def maker(scores: torch.Tensor) -> str:
    """Return the name of the operation that made these numbers, past those that only arrange them or cut them off."""
    node = _past(_ARRANGING | _CUTTING, scores)
    return "" if node is None else operation(node)


def from_directions(scores: torch.Tensor) -> bool:
    """Whether scores are products of vectors of length 1, times a number: their size has been chosen."""
    is_product = PRODUCTS.__contains__
    product = next((node for node in near(end_of_graph(scores), stops=is_product) if is_product(operation(node))), None)
    if product is None:
        return False
    behind = [near(node, stops=is_product)[:8] for node, _ in product.next_functions]
    return sum(any(operation(node) in _LENGTHS for node in nodes) for nodes in behind) >= 2


def bootstrapped(target: torch.Tensor) -> bool:
    """Whether a target is a sum of given numbers and of others that carry a gradient, as r + 0.9 · max Q(next) is."""
    node = _past(_ARRANGING, target)
    if node is None or operation(node) != "Add":
        return False
    behind = [below for below, _ in node.next_functions]
    return None in behind and any(below is not None and operation(below) != "AccumulateGrad" for below in behind)


def _past(operations: set[str], tensor: torch.Tensor) -> Any:
    """Return the node that made a tensor, past these operations."""
    node = end_of_graph(tensor)
    while node is not None and operation(node) in operations:
        node = node.next_functions[0][0]
    return node


def operation(node: Any) -> str:
    """Return the name of a node's operation, as autograd calls it, without its ending."""
    return node.name().rstrip("0123456789").removesuffix("Backward")


def near(*roots: Any, stops: Callable[[str], object], at_most: int = NEAR) -> list[Any]:
    """Return the nodes behind these, the nearest first, not past operations of such names."""
    found = [root for root in roots if root is not None]
    for node in found:
        if len(found) < at_most and not stops(operation(node)):
            found += [below for below, _ in node.next_functions if below is not None and below not in found]
    return found
