"""What a training run on two ranks leaves behind, step by step: the evidence for a diagnosis."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

ARRAYS = ("loss", "rate", "gradient_norm", "body_norm", "head_norm", "picture_mean", "picture_deviation")


@dataclass(frozen=True)
class Records:
    """The records of a run. Arrays are [ranks, steps], float64.

    Attributes:
        loss: mean cross entropy of each rank's share of the batch.
        rate: learning rate of the step.
        gradient_norm: norm of all gradients together, as the optimizer got them.
        body_norm, head_norm: norm of the weights of the backbone and of the head, before the step.
        picture_mean, picture_deviation: of the pixels that went into the network.
        files, labels: the names of a share's files, and the labels that the loss got: [rank][step][sample].
        table: file → label, as the label table says.
        val_files: the files that the run was validated on.
        val_accuracy: after each epoch, from 0 to 1.
        steps_per_epoch: optimizer steps of an epoch.
    """

    loss: np.ndarray = field(repr=False)
    rate: np.ndarray = field(repr=False)
    gradient_norm: np.ndarray = field(repr=False)
    body_norm: np.ndarray = field(repr=False)
    head_norm: np.ndarray = field(repr=False)
    picture_mean: np.ndarray = field(repr=False)
    picture_deviation: np.ndarray = field(repr=False)
    files: list[list[list[str]]] = field(repr=False)
    labels: list[list[list[int]]] = field(repr=False)
    table: dict[str, int] = field(repr=False)
    val_files: list[str] = field(repr=False)
    val_accuracy: list[float]
    steps_per_epoch: int


def from_ranks(ranks: list[dict[str, Any]]) -> Records:
    """Join what each rank noted, in the order of the ranks, to the records of the run."""
    joined: dict[str, Any] = {name: np.array([rank[name] for rank in ranks], dtype=np.float64) for name in ARRAYS}
    joined |= {name: [rank[name] for rank in ranks] for name in ("files", "labels")}
    return Records(
        **joined, **{name: ranks[0][name] for name in ("table", "val_files", "val_accuracy", "steps_per_epoch")}
    )
