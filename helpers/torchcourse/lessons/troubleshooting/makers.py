"""Which operation made the numbers that a loss gets, read from the autograd graph behind them."""

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
    node = end_of_graph(scores)
    while node is not None and operation(node) in _ARRANGING | _CUTTING:
        node = node.next_functions[0][0]
    return "" if node is None else operation(node)


def from_directions(scores: torch.Tensor) -> bool:
    """Whether scores are products of vectors of length 1, times a number: their size has been chosen."""
    near = _near(end_of_graph(scores), until=PRODUCTS)
    product = next((node for node in near if operation(node) in PRODUCTS), None)
    if product is None:
        return False
    behind = [_near(node, until=PRODUCTS) for node, _ in product.next_functions if node is not None]
    divided = [any(operation(node) in _LENGTHS for node in nodes[:8]) for nodes in behind]
    return len(divided) >= 2 and sum(divided) >= 2


def bootstrapped(target: torch.Tensor) -> bool:
    """Whether a target is a sum of given numbers and of others that carry a gradient, as r + 0.9 · max Q(next) is."""
    node = end_of_graph(target)
    while node is not None and operation(node) in _ARRANGING:
        node = node.next_functions[0][0]
    if node is None or operation(node) != "Add":
        return False
    behind = [below for below, _ in node.next_functions]
    return None in behind and any(below is not None and operation(below) != "AccumulateGrad" for below in behind)


def operation(node: Any) -> str:
    """Return the name of a node's operation, as autograd calls it, without its ending."""
    return node.name().rstrip("0123456789").removesuffix("Backward")


def _near(root: Any, until: set[str]) -> list[Any]:
    """Return the nodes behind this one, the nearest first, not past these operations."""
    found = [] if root is None else [root]
    for node in found:
        if operation(node) not in until and len(found) < NEAR:
            found += [below for below, _ in node.next_functions if below is not None and below not in found]
    return found
