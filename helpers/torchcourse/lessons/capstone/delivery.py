"""The customer's files: photographs of single digits, glued on cards, with a label table.

    deliver("delivery", images=640)              # to train on: delivery/labels.csv, delivery/*.png
    deliver("sealed", images=500, part="test")   # of other cards, for the report only

The table has the columns `file`, `card` and `label`. A card is one photograph that was cut into pictures: they share
its paper, light and slant, and some of its digits come twice. Ink is dark and paper is light, the other way round than
in MNIST. Some of the files are cut off in the middle.
"""

import os
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from torch.utils.data import TensorDataset

from torchcourse.data import digits
from torchcourse.data.datasets import DIGITS_MEAN, DIGITS_STD
from torchcourse.lessons.datasets.folder import write_images

SIDE = 20
"""Pixels along each side of a picture."""

PER_CARD = 8
"""Pictures of a card. The last of them shows the same digit as the first, photographed once more."""

BROKEN_EVERY = 40
"""One file of so many is cut off."""


def deliver(
    folder: str | os.PathLike, images: int = 640, seed: int = 0, part: Literal["train", "test"] = "train"
) -> Path:
    """Write a delivery, and return its folder.

    Args:
        folder: made if it is not there.
        images: how many pictures, a multiple of `PER_CARD`; at least ten cards.
        seed: draws which digits are on which card, and how it was photographed.
        part: the digits are those to train on, or the others.

    Raises:
        ValueError: for a number of pictures that does not make whole cards, or more than there are digits.
    """
    if images < 10 * PER_CARD or images % PER_CARD:
        raise ValueError(f"A delivery has whole cards of {PER_CARD} pictures and at least ten, but images is {images}.")
    cards, generator = images // PER_CARD, torch.Generator().manual_seed(seed)
    digits_needed = cards * (PER_CARD - 1)
    pixels, labels = _ink(digits(part))
    if digits_needed > len(labels):
        raise ValueError(f"There are {len(labels)} digits in {part!r}, too few for {images} pictures.")
    chosen = torch.randperm(len(labels), generator=generator)[:digits_needed].view(cards, PER_CARD - 1)
    chosen = torch.cat([chosen, chosen[:, :1]], dim=1)
    photographs = torch.cat([_photographed(pixels[row], generator) for row in chosen])
    order = torch.randperm(images, generator=generator)
    rows = [
        {
            "file": f"{place:04d}.png",
            "card": f"{part}-{seed}-{int(number) // PER_CARD:03d}",
            "label": str(int(labels[chosen.flatten()[number]])),
        }
        for place, number in enumerate(order)
    ]
    write_images(folder, photographs[order], rows)
    for row in rows[7::BROKEN_EVERY]:
        file = Path(folder) / row["file"]
        file.write_bytes(file.read_bytes()[:60])
    return Path(folder)


def broken_files(images: int) -> list[str]:
    """Return the names of the files of a delivery that are cut off."""
    return [f"{place:04d}.png" for place in range(7, images, BROKEN_EVERY)]


def _ink(data: TensorDataset) -> tuple[torch.Tensor, torch.Tensor]:
    """Return how much ink there is, from 0 to 1, [N, 1, SIDE, SIDE], and the labels [N]."""
    images, labels = data.tensors
    ink = F.pad((images * DIGITS_STD + DIGITS_MEAN) / 16, (2,) * 4)
    return F.interpolate(ink, size=(SIDE, SIDE), mode="bilinear", align_corners=False).clamp(0, 1), labels


def _photographed(ink: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Return the pictures of one card as uint8 [N, SIDE, SIDE]: slanted, in one light, on one paper, with noise."""
    slant, turn, paper, light = (torch.rand(4, generator=generator) * 2 - 1).tolist()
    matrix = torch.tensor([[1.0, 0.9 * slant, 0.0], [0.45 * turn, 1.0, 0.0]]).expand(len(ink), 2, 3)
    grid = F.affine_grid(matrix, list(ink.shape), align_corners=False)
    turned = F.grid_sample(ink, grid, align_corners=False)[:, 0]
    shade = 1 - 0.12 * (1 + light) * torch.linspace(0, 1, SIDE)
    bright = (0.88 + 0.1 * paper) * shade * (1 - 0.85 * turned)
    noise = 0.05 * torch.randn(bright.shape, generator=generator)
    return ((bright + noise).clamp(0, 1) * 255).round().to(torch.uint8)
