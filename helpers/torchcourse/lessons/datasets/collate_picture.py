"""A picture of padding: an epoch's batches side by side, what is real and what is filled up."""

import numpy as np
import torch
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from torchcourse.figures import COLORS, new
from torchcourse.lessons.datasets.samplers import BucketBatches, padding_share


def padding_finding(lengths: torch.Tensor, batch_size: int, pool: int) -> str:
    """Say in one line how much is padding: the title of the picture."""
    share = padding_share(lengths, BucketBatches(lengths, batch_size, pool))
    how = "a plain shuffle" if pool == 1 else f"{pool} batches sorted together"
    return f"{share:.0%} of all steps are padding: batches of {batch_size}, {how}"


def draw_padding(lengths: torch.Tensor, batch_size: int, pool: int) -> Figure:
    """Draw every sample of an epoch as a column of steps, batch by batch: real steps, then padding."""
    sampler = BucketBatches(lengths, batch_size, pool)
    cells = np.zeros((int(lengths.max()), len(lengths)))
    column = 0
    for batch in sampler:
        chosen = lengths[batch]
        for length in chosen.tolist():
            cells[: int(chosen.max()), column] = 2
            cells[:length, column] = 1
            column += 1
    figure, axis = new(7.5, 3.2)
    colors = ListedColormap(["white", COLORS["blue"], COLORS["orange"]])
    axis.imshow(cells, origin="lower", aspect="auto", interpolation="nearest", cmap=colors, vmin=0, vmax=2)
    for edge in range(batch_size, len(lengths), batch_size):
        axis.axvline(edge - 0.5, color="white", linewidth=0.6)
    axis.legend(
        handles=[Patch(color=COLORS["blue"], label="real"), Patch(color=COLORS["orange"], label="padding")],
        loc="upper left",
        ncols=2,
    )
    axis.set(
        xlabel="samples, in the order of the epoch",
        ylabel="length, steps",
        ylim=(-0.5, 1.25 * len(cells)),
        title=padding_finding(lengths, batch_size, pool),
    )
    return figure
