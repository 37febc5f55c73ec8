"""Pictures of convolutions: what a kernel does to a photo, what one output value sees, the filters of a network."""

import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from torch import nn

from torchcourse.figures import new
from torchcourse.lessons.convolution.receptive_field import by_gradient

KERNELS = ("edges", "blur", "sharpen", "emboss", "identity")
"""What `kernel` knows."""


def kernel(kind: str, size: int = 3, angle: float = 0.0) -> torch.Tensor:
    """Return a kernel by name, float32 [size, size].

    Args:
        kind: one of `KERNELS`.
        size: odd.
        angle: degrees; the direction in which an edge kernel looks for brighter pixels (0: to the right, 90: down).

    Raises:
        ValueError: for an unknown kind, or an even size.
    """
    if size % 2 == 0 or size < 1:
        raise ValueError(f"A kernel of size {size} has no middle pixel; choose an odd size.")
    identity = torch.zeros(size, size)
    identity[size // 2, size // 2] = 1.0
    offsets = torch.arange(size) - size // 2
    bell = torch.exp(-0.5 * (offsets / max(size / 4, 0.5)) ** 2)
    blur = torch.outer(bell, bell) / bell.sum() ** 2
    turned = torch.deg2rad(torch.tensor(float(angle)))
    slope = (offsets[None, :] * turned.cos() + offsets[:, None] * turned.sin()) * blur
    if kind == "identity":
        return identity
    if kind == "blur":
        return blur
    if kind == "sharpen":
        return 2 * identity - blur
    if kind in ("edges", "emboss"):
        edges = slope / slope.abs().sum().clamp(min=1e-9)
        return edges if kind == "edges" else identity + 2 * edges
    raise ValueError(f"There is no kernel {kind!r}. The kernels are {', '.join(KERNELS)}.")


def describe_kernel(kind: str, size: int, angle: float, stride: int, dilation: int, picture: torch.Tensor) -> str:
    """Say what came out, computed from the values: the title of `draw_kernel`."""
    out = _apply(picture, kernel(kind, size, angle), stride, dilation)
    return f"{kind}, {size}×{size}: {out.shape[2]}×{out.shape[3]} pixels, mean {out.mean():.2f}, spread {out.std():.2f}"


def draw_kernel(kind: str, size: int, angle: float, stride: int, dilation: int, picture: torch.Tensor) -> Figure:
    """Draw a grey picture [H, W], the kernel, and what the kernel makes of the picture."""
    weights = kernel(kind, size, angle)
    out = _apply(picture, weights, stride, dilation)[0, 0]
    figure, axes = new(9.5, 2.9, ncols=3, width_ratios=[3, 1.6, 3])
    axes[0].imshow(picture.numpy(), cmap="gray", vmin=0, vmax=1)
    limit = weights.abs().max().item()
    image = axes[1].imshow(weights.numpy(), cmap="RdBu", vmin=-limit, vmax=limit)
    figure.colorbar(image, ax=axes[1], shrink=0.7, label="weight")
    low, high = (0.0, 1.0) if weights.sum().abs() > 0.5 else (-out.abs().max().item(), out.abs().max().item())
    axes[2].imshow(out.numpy(), cmap="gray", vmin=low, vmax=high)
    for axis, label in zip(axes, ("input, pixels", "kernel, pixels", "output, pixels"), strict=True):
        axis.set_xlabel(label)
        axis.tick_params(labelsize=7)
    figure.suptitle(describe_kernel(kind, size, angle, stride, dilation, picture))
    return figure


def draw_field(model: nn.Module, picture: torch.Tensor, title: str) -> Figure:
    """Draw which pixels of a grey picture [H, W] reach the middle output value of a model for one channel."""
    seen = by_gradient(model, (1, *picture.shape))
    figure, axis = new(5.2, 3.2)
    axis.imshow(torch.where(seen, picture, 0.25 * picture).numpy(), cmap="gray", vmin=0, vmax=1)
    axis.set(title=title, xlabel="pixels", ylabel="pixels")
    return figure


def draw_filters(filters: dict[str, torch.Tensor], title: str) -> Figure:
    """Draw sets of filters, each [O, 1, kH, kW], a row a set, in the colours of one scale a row."""
    columns = max(weights.shape[0] for weights in filters.values())
    figure, axes = new(0.6 * columns + 1, 1.1 * len(filters) + 0.5, nrows=len(filters), ncols=columns, squeeze=False)
    for row, (name, weights) in zip(axes, filters.items(), strict=True):
        limit = weights.abs().max().item()
        for axis in row:
            axis.set(xticks=[], yticks=[])
            axis.spines[:].set_visible(False)
        for axis, one in zip(row, weights, strict=False):
            axis.imshow(one[0].numpy(), cmap="RdBu", vmin=-limit, vmax=limit)
        row[0].set_ylabel(f"{name}\n±{limit:.2f}", fontsize=8)
    figure.suptitle(title)
    return figure


def _apply(picture: torch.Tensor, weights: torch.Tensor, stride: int, dilation: int) -> torch.Tensor:
    padding = dilation * (weights.shape[0] // 2)
    # Repeat the edge: zeros would draw a frame that is not in the photo.
    padded = F.pad(picture[None, None], (padding,) * 4, mode="replicate")
    return F.conv2d(padded, weights[None, None], stride=stride, dilation=dilation)
