"""The receptive field (수용 영역): the part of the input that one output value can see, by formula and by gradient.

How strongly each pixel of it counts is another matter: `influence` measures it, and `held` says how wide the part is
that holds most of it, the effective receptive field (유효 수용 영역).

Sources: of the formula, Araujo, Norris and Sim 2019, "Computing Receptive Fields of Convolutional Neural Networks",
https://distill.pub/2019/computing-receptive-fields/; of the effective field, Luo et al. 2016, "Understanding the
Effective Receptive Field in Deep Convolutional Neural Networks", https://arxiv.org/abs/1701.04128
"""

import copy
import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn
from torch.nn.parameter import is_lazy
from torch.overrides import TorchFunctionMode

from torchcourse.lessons.convolution.sizes import Pair, pair


@dataclass(frozen=True)
class Field:
    """What the value at position i of a layer sees along one dimension: the pixels from start + i·jump on, `size` many.

    Attributes:
        size: pixels of the input.
        jump: pixels between what two neighboring values see: the product of the strides.
        start: the first pixel that the value at position 0 sees; negative in the padding.
    """

    size: int = 1
    jump: int = 1
    start: int = 0

    def after(self, kernel: int, stride: int = 1, padding: int = 0, dilation: int = 1) -> "Field":
        """Return the field of the next layer's values."""
        return Field(
            self.size + dilation * (kernel - 1) * self.jump, self.jump * stride, self.start - padding * self.jump
        )


def by_formula(model: nn.Module) -> tuple[Field, Field]:
    """Return the field of one output value in height and in width, from its first to its last pixel.

    It follows the forward pass of the model. Where branches meet, as in a residual block, the field reaches as far as
    the widest branch.

    Raises:
        ValueError: for a layer that mixes all places, or whose reach is not known here, for branches that meet at
            different strides, and for a forward pass that cannot be followed.
    """
    if not list(model.children()):
        return _after_layer("", model, (Field(), Field()))
    try:
        nodes = fx.symbolic_trace(model).graph.nodes
    except Exception as error:  # whatever forward() does with what stands in for its input
        raise ValueError(
            f"The forward pass of this {type(model).__name__} cannot be followed ({type(error).__name__}: {error}). "
            f"{_ASK}"
        ) from error
    fields: dict[fx.Node, tuple[Field, Field]] = {}
    last = (Field(), Field())
    for node in nodes:
        known = [fields[source] for source in node.all_input_nodes if source in fields]
        if node.op == "placeholder":
            last = fields[node] = (Field(), Field())
        elif node.op == "call_module":
            last = fields[node] = _after_layer(str(node.target), model.get_submodule(str(node.target)), known[0])
        elif node.op == "output" or (known and _is_pointwise(node)):
            last = fields[node] = _met(node, known)
        elif known:
            raise ValueError(f"The reach of `{node.name}` in the forward pass is not known here. {_ASK}")
    return last


def by_gradient(model: nn.Module, shape: tuple[int, int, int], place: tuple[int, int] | None = None) -> torch.Tensor:
    """Return which pixels reach one output value, as a truth value for each: [H, W].

    A gradient that is zero by chance (a ReLU that is off, a maximum elsewhere, branches that cancel) would hide a
    pixel. So this looks at a copy of the model whose weights are all positive and random, with means instead of maxima
    and nothing cut off.

    Args:
        model: layers that take [1, C, H, W] to [1, O, H', W'].
        shape: (C, H, W) of the input.
        place: row and column of the output value; the middle one by default.

    Raises:
        ValueError: if a layer has not made its weights yet (`nn.LazyConv2d`).
    """
    if any(is_lazy(parameter) for parameter in model.parameters()):
        raise ValueError("A layer has not made its weights yet: send one batch through the model first.")
    x = torch.ones(1, *shape, dtype=torch.float64, requires_grad=True)
    generator = torch.Generator().manual_seed(0)
    with _MeansForMaxima():
        out = _transparent(model, generator)(x)
    row, column = place if place is not None else (out.shape[2] // 2, out.shape[3] // 2)
    shares = _positive(torch.empty(out.shape[1], dtype=out.dtype), generator)  # a plain sum of a softmax is always 1
    (gradient,) = torch.autograd.grad((shares * out[0, :, row, column]).sum(), x)
    return gradient[0].abs().sum(dim=0) > 0


def influence(model: nn.Module, shape: tuple[int, int, int]) -> torch.Tensor:
    """Return how much each pixel counts for the middle output value, [H, W]: squared gradients, which add up to 1.

    The model is taken as it is, with its own weights, and its input is random.

    Args:
        model: layers that take [1, C, H, W] to [1, O, H', W'].
        shape: (C, H, W) of the input.

    Raises:
        ValueError: if no pixel counts, as where all ReLUs are off.
    """
    model = copy.deepcopy(model).double().eval()
    x = torch.randn(1, *shape, dtype=torch.float64, requires_grad=True)
    out = model(x)
    (gradient,) = torch.autograd.grad(out[0, :, out.shape[2] // 2, out.shape[3] // 2].sum(), x)
    strength = gradient[0].square().sum(dim=0)
    if strength.sum() == 0:
        raise ValueError(
            "No pixel has a gradient. Are all ReLUs off? Initialize the weights for ReLUs, without biases."
        )
    return strength / strength.sum()


def held(influence: torch.Tensor, share: float = 0.95) -> int:
    """Return the width in pixels of the smallest square around the middle of [H, W] that holds a share of it.

    Raises:
        ValueError: if no square within the picture does.
    """
    row, column = (size // 2 for size in influence.shape)
    for reach in range(min(row, column) + 1):
        square = influence[row - reach : row + reach + 1, column - reach : column + reach + 1]
        if square.sum() >= share * influence.sum():
            return 2 * reach + 1
    raise ValueError(f"No square around the middle of this picture holds {share:.0%}. Measure on a larger picture.")


_POINTWISE = (
    *(nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.PReLU, nn.ELU, nn.GELU, nn.SiLU, nn.Sigmoid, nn.Tanh, nn.Identity),
    *(nn.Hardswish, nn.Hardsigmoid, nn.Hardtanh, nn.Mish, nn.Softplus, nn.BatchNorm2d, nn.Dropout, nn.Dropout2d),
)
"""Layers that look at no neighbors. (BatchNorm does in training, through its statistics; not in evaluation.)"""


_FUNCTIONS = {
    *(operator.add, operator.iadd, operator.sub, operator.isub, operator.mul, operator.imul, operator.truediv),
    *(torch.add, torch.sub, torch.mul, torch.cat, torch.maximum, torch.minimum, torch.relu, torch.sigmoid, torch.tanh),
    *(nn.functional.relu, nn.functional.gelu, nn.functional.silu, nn.functional.leaky_relu, nn.functional.dropout),
}
_METHODS = {"add", "add_", "sub", "sub_", "mul", "mul_", "relu", "relu_", "sigmoid", "tanh", "contiguous", "clone"}
_ASK = "Ask for layers that follow one another, such as by_formula(model[:n]), or use by_gradient(model, shape)."


def _is_pointwise(node: fx.Node) -> bool:
    along_channels = node.target is not torch.cat or 1 in (*node.args[1:], *node.kwargs.values())
    return node.target in (_FUNCTIONS if node.op == "call_function" else _METHODS) and along_channels


def _after_layer(name: str, layer: nn.Module, fields: tuple[Field, Field]) -> tuple[Field, Field]:
    if isinstance(layer, _POINTWISE):
        return fields
    if not isinstance(layer, nn.Conv2d | nn.MaxPool2d | nn.AvgPool2d):
        raise ValueError(
            f"Layer {name or '(the model)'}, a {type(layer).__name__}, has no local field that is known here. {_ASK}"
        )
    stride = layer.kernel_size if layer.stride is None else layer.stride
    parts = [pair(value) for value in (layer.kernel_size, stride, _padding(layer), getattr(layer, "dilation", 1))]
    height, width = (field.after(*(part[way] for part in parts)) for way, field in enumerate(fields))
    return height, width


def _met(node: fx.Node, branches: Sequence[tuple[Field, Field]]) -> tuple[Field, Field]:
    """Return the field of values that are made of one value of each branch at the same position."""
    met = []
    for fields in zip(*branches, strict=True):
        if len({field.jump for field in fields}) > 1:
            jumps = " and ".join(str(jump) for jump in sorted({field.jump for field in fields}))
            raise ValueError(
                f"Branches that meet in `{node.name}` have different strides ({jumps} pixels), so one value of it "
                f"has no single field. {_ASK}"
            )
        start = min(field.start for field in fields)
        end = max(field.start + field.size for field in fields)
        met.append(Field(end - start, fields[0].jump, start))
    height, width = met
    return height, width


def _padding(layer: Any) -> Pair:
    if layer.padding == "valid":
        return 0
    if layer.padding == "same":
        reach = [d * (k - 1) for k, d in zip(layer.kernel_size, layer.dilation, strict=True)]
        return reach[0] // 2, reach[1] // 2
    return layer.padding


def _transparent(model: nn.Module, generator: torch.Generator) -> nn.Module:
    model = copy.deepcopy(model).double().eval()
    if not list(model.children()):
        return _transparent_layer(model, generator)
    for parent in list(model.modules()):
        for name, layer in list(parent.named_children()):
            if not list(layer.children()):
                setattr(parent, name, _transparent_layer(layer, generator))
    return model


def _transparent_layer(layer: nn.Module, generator: torch.Generator) -> nn.Module:
    if isinstance(layer, nn.Conv2d):
        _positive(layer.weight, generator)
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)  # a ReLU in forward() would cut off what is negative
        return layer
    return nn.Identity() if isinstance(layer, _POINTWISE) else layer


@torch.no_grad()
def _positive(weights: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Fill with random numbers, since equal ones may cancel."""
    return weights.uniform_(0.5, 1.5, generator=generator)


class _MeansForMaxima(TorchFunctionMode):
    """Within it a maximum over a window is a mean, also one that a forward pass calls as a function."""

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None) -> Any:
        if func in (torch.max_pool2d, nn.functional.max_pool2d):
            return _MeanPool(nn.MaxPool2d(*args[1:], **(kwargs or {})))(args[0])
        return func(*args, **(kwargs or {}))


class _MeanPool(nn.Module):
    """The mean instead of a maximum: also over padding and with dilation, which nn.AvgPool2d lacks."""

    def __init__(self, pool: nn.MaxPool2d) -> None:
        super().__init__()
        self.pool = pool

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        pool, channels = self.pool, x.shape[1]
        kernel = torch.ones(channels, 1, *pair(pool.kernel_size), dtype=x.dtype)
        stride, padding, dilation = (pair(value) for value in (pool.stride, pool.padding, pool.dilation))
        beyond = [0, 0]  # ceil_mode: how far the last kernel reaches over the edge
        for way, (size, places) in enumerate(zip(x.shape[2:], self._places(x), strict=True)):
            reach = (places - 1) * stride[way] + dilation[way] * (kernel.shape[2 + way] - 1) + 1
            beyond[way] = max(0, reach - size - 2 * padding[way])
        (top, left), (bottom, right) = padding, (side + more for side, more in zip(padding, beyond, strict=True))
        x = nn.functional.pad(x, (left, right, top, bottom))
        return nn.functional.conv2d(x, kernel, stride=stride, dilation=dilation, groups=channels)

    def _places(self, x: torch.Tensor) -> torch.Size:
        out = self.pool(x.detach())
        return (out[0] if isinstance(out, tuple) else out).shape[2:]
