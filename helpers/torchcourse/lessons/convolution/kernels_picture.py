"""Pictures of kernels: what one does to a photo, and the filters that a network learned."""

import torch
from matplotlib.figure import Figure

from torchcourse.figures import new
from torchcourse.lessons.convolution.kernels import apply, named_kernel


def describe_kernel(kind: str, size: int, angle: float, stride: int, dilation: int, picture: torch.Tensor) -> str:
    """Say what came out, computed from the values: the title of `draw_kernel`."""
    out = apply(picture, named_kernel(kind, size, angle), stride, dilation)
    return f"{kind}, {size}×{size}: {out.shape[2]}×{out.shape[3]} pixels, mean {out.mean():.2f}, spread {out.std():.2f}"


def draw_kernel(kind: str, size: int, angle: float, stride: int, dilation: int, picture: torch.Tensor) -> Figure:
    """Draw a gray picture [H, W], the kernel, and what the kernel makes of the picture."""
    weights = named_kernel(kind, size, angle)
    out = apply(picture, weights, stride, dilation)[0, 0]
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


def draw_filters(filters: dict[str, torch.Tensor], title: str) -> Figure:
    """Draw sets of filters, each [O, 1, kH, kW], one row per set, colored by one scale per row."""
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
