"""Solar cells, photographed in the light that they give off when current flows: sound ones and broken ones.

The pictures come from the package elpv-dataset, which is part of the extra [lab]. **Their license is CC BY-NC-SA 4.0:
no commercial use.** Cite Buerhop-Lutz et al. 2018 (https://doi.org/10.4229/35thEUPVSEC20182018-5CV.3.15) and Deitsch
et al. 2019 (https://doi.org/10.1016/j.solener.2019.02.067).
"""

import importlib.util
from importlib.resources import files

import numpy as np
import torch

LICENCE = "Pictures: Buerhop-Lutz et al. 2018, elpv-dataset, CC BY-NC-SA 4.0 (no commercial use)"


def installed() -> bool:
    """Whether the pictures are there."""
    return importlib.util.find_spec("elpv_dataset") is not None


def solar_cells(per_class: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Return pictures, uint8 [2·per_class, 1, 300, 300], and labels: 0 for a sound cell, 1 for a broken one.

    Only cells that the experts were sure about (1,508 sound ones, 715 broken ones). The two kinds alternate.

    Raises:
        ImportError: if the package elpv-dataset is not installed.
        ValueError: if there are not so many of each kind.
    """
    if not installed():
        raise ImportError("The solar cells come with the extra [lab]: pip install 'torchcourse[lab]'.")
    folder = files("elpv_dataset").joinpath("data")
    rows = [line.split() for line in folder.joinpath("labels.csv").read_text(encoding="utf-8").splitlines() if line]
    kinds = [[path for path, probability, _ in rows if float(probability) == broken] for broken in (0.0, 1.0)]
    if not 1 <= per_class <= min(map(len, kinds)):
        raise ValueError(f"per_class={per_class}, but the kinds have {' and '.join(str(len(kind)) for kind in kinds)}.")
    generator = torch.Generator().manual_seed(seed)
    chosen = [[kind[i] for i in torch.randperm(len(kind), generator=generator)[:per_class]] for kind in kinds]
    pictures = [_read(folder.joinpath(path)) for pair in zip(*chosen, strict=True) for path in pair]
    return torch.stack(pictures), torch.tensor([0, 1] * per_class)


def brightness(pixels: torch.Tensor) -> torch.Tensor:
    """Return 13 numbers for each picture [N, 1, H, W] that take no network: [N, 13].

    They are mean, deviation and seven quantiles of the pixels, and mean and deviation of the steps between neighbors.
    """
    white = 255 if pixels.dtype == torch.uint8 else 1
    pixels = pixels.float() / white
    flat = pixels.flatten(1)
    quantiles = torch.quantile(flat, flat.new_tensor([0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99]), dim=1).T
    steps = [pixels.diff(dim=axis).abs().flatten(1) for axis in (2, 3)]
    moments = [moment for values in [flat, *steps] for moment in (values.mean(dim=1), values.std(dim=1))]
    return torch.cat([torch.stack(moments, dim=1), quantiles], dim=1)


def _read(file) -> torch.Tensor:
    from PIL import Image  # comes with matplotlib

    with file.open("rb") as opened, Image.open(opened) as image:
        return torch.from_numpy(np.array(image))[None]
