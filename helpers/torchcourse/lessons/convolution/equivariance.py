"""Translation equivariance (이동 등변성): shift the picture, and the output shifts along. Here: how nearly."""

from collections.abc import Callable

import torch


def shift_error(layer: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor, pixels: int, margin: int = 0) -> float:
    """Return the largest difference between "shift, then layer" and "layer, then shift", over the largest output.

    The picture is shifted to the right, around the edge. The output is as much smaller as its width says: where the
    input moves by a whole number of output places, the output has to move by that many. Where it moves by a fraction
    of a place, by the nearest smaller number: there a layer with a stride shows its error.

    Args:
        layer: takes [N, C, H, W] to [N, O, H', W'], where W' divides W.
        x: images [N, C, H, W].
        pixels: of the input.
        margin: places at each edge of the output that do not count, because padding reaches them.

    Raises:
        ValueError: if W' does not divide W, or the margin leaves nothing.
    """
    out = layer(x)
    if x.shape[3] % out.shape[3]:
        raise ValueError(
            f"The layer makes {out.shape[3]} columns of {x.shape[3]}; a shift can only be followed if that divides. "
            "Choose padding so that it does."
        )
    if 2 * margin >= min(out.shape[2:]):
        raise ValueError(f"A margin of {margin} leaves nothing of an output of {out.shape[2]}×{out.shape[3]}.")
    places = pixels // (x.shape[3] // out.shape[3])
    difference = layer(x.roll(pixels, dims=3)) - out.roll(places, dims=3)
    inner = difference[:, :, margin : out.shape[2] - margin, margin : out.shape[3] - margin]
    return (inner.abs().max() / out.abs().max()).item()
