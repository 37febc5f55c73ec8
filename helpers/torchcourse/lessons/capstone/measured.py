"""What the report is about: accuracies on the sealed delivery card by card, curves, and what they cost."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import nn

from torchcourse.lessons.datasets.folder import read_image, read_table
from torchcourse.lessons.transfer.backbones import MNIST_SCALING


@dataclass(frozen=True)
class Measured:
    """The numbers of a report.

    Attributes:
        tuned: for each seed, the accuracy on each card of the sealed delivery, from 0 to 1: [seeds][cards].
        present: that of the company's present reader: [cards].
        curves: for each seed, steps and validation accuracies of its training run.
        trials: value of each finished trial of the study.
        cpu_seconds: spent on search and training runs, all processes together.
        budget: CPU-seconds that were allowed.
    """

    tuned: list[list[float]]
    present: list[float]
    curves: list[tuple[list[int], list[float]]] = field(repr=False)
    trials: list[float]
    cpu_seconds: float
    budget: float


def card_by_card(model: Callable[[torch.Tensor], torch.Tensor], folder: Path) -> list[float]:
    """Return a reader's accuracy on each card of a delivery, from 0 to 1, in the order of their names.

    Args:
        model: scaled pixels [N, 1, 28, 28] → logits [N, 10]; a module has to be in evaluation mode.

    Raises:
        ValueError: for a module in training mode.
    """
    if isinstance(model, nn.Module) and model.training:
        raise ValueError("The model is in training mode: call model.eval() first.")
    device = next(model.parameters()).device if isinstance(model, nn.Module) else torch.device("cpu")
    cards: dict[str, list[tuple[torch.Tensor, int]]] = {}
    for row in read_table(folder / "labels.csv", ("file", "card", "label")):
        try:
            cards.setdefault(row["card"], []).append((read_image(folder / row["file"]), int(row["label"])))
        except ValueError:
            continue  # a file that is cut off; `deliver` says so
    shares = []
    for _, pairs in sorted(cards.items()):
        inputs = MNIST_SCALING(1 - torch.stack([image for image, _ in pairs]), 1).to(device)
        with torch.no_grad():
            guesses = model(inputs).argmax(dim=1).cpu()
        shares.append((guesses == torch.tensor([label for _, label in pairs])).float().mean().item())
    return shares
