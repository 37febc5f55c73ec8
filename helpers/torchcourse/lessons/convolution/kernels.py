"""Kernels (커널) by name, and what they make of a picture."""

import torch
import torch.nn.functional as F

KERNELS = ("edges", "blur", "sharpen", "emboss", "identity")
"""What `named_kernel` knows."""


def named_kernel(kind: str, size: int = 3, angle: float = 0.0) -> torch.Tensor:
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


def apply(picture: torch.Tensor, weights: torch.Tensor, stride: int, dilation: int) -> torch.Tensor:
    """Return what a kernel [k, k] makes of a gray picture [H, W]: [1, 1, H', W']; with stride 1, as large as it."""
    padding = dilation * (weights.shape[0] // 2)
    # Repeat the edge: zeros would draw a frame that is not in the photo.
    padded = F.pad(picture[None, None], (padding,) * 4, mode="replicate")
    return F.conv2d(padded, weights[None, None], stride=stride, dilation=dilation)
