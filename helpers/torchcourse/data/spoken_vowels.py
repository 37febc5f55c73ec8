"""Spoken vowels: real sequences of different lengths, from a small licensed file inside the package."""

from importlib.resources import files
from typing import Literal

import numpy as np
import torch
from torch.utils.data import Dataset


class Sequences(Dataset):
    """A map-style dataset of sequences of different lengths, each with a label.

    All steps of all sequences lie in one tensor, one sequence after the other: a sequence is a slice of it, with no
    copy. `sequences[i]` is `(x, label)`: x of shape [T_i, C], label an int.

    Args:
        steps: [T_0 + T_1 + …, C], floating point.
        lengths: [N], the T_i, each 1 or more.
        labels: [N], whole numbers.

    Raises:
        ValueError: for a sequence without steps, or for lengths and labels that do not fit the steps.
    """

    def __init__(self, steps: torch.Tensor, lengths: torch.Tensor, labels: torch.Tensor) -> None:
        empty = (lengths < 1).nonzero().flatten().tolist()
        if empty:
            raise ValueError(
                f"{len(empty)} of {len(lengths)} sequences have no steps: number {', '.join(map(str, empty[:5]))}. "
                "Leave them out before, and count them."
            )
        if len(lengths) != len(labels) or int(lengths.sum()) != len(steps):
            raise ValueError(
                f"{len(lengths)} lengths with the sum {int(lengths.sum())} do not fit {len(labels)} labels and "
                f"{len(steps)} steps."
            )
        self.steps, self.lengths, self.labels = steps, lengths.long(), labels.long()
        self._ends = self.lengths.cumsum(0).tolist()

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        end = self._ends[index]
        return self.steps[end - int(self.lengths[index]) : end], int(self.labels[index])


def vowels(split: Literal["train", "test"] = "train") -> Sequences:
    """Return recordings of /ae/ by nine speakers: 270 to train on (30 of each) or 370 to test on (24 to 88 of each).

    A recording is a float32 tensor [T, 12] with T from 7 to 29 frames of 6.4 ms. Each channel has about mean 0 and
    standard deviation 1 (those of the training frames). The label is the speaker, 0 to 8. The order is by speaker.

    Raises:
        ValueError: for a split that does not exist.

    Source: Kudo, Toyama and Shimbo 1999, https://doi.org/10.24432/C5NS47, through the package aeon. License: CC BY 4.0,
    beside the file.
    """
    parts = {"train": slice(0, 270), "test": slice(270, 640)}
    if split not in parts:
        raise ValueError(f"vowels() has the splits 'train' and 'test', but not {split!r}.")
    with files("torchcourse.data").joinpath("files", "vowels_640.npz").open("rb") as file, np.load(file) as archive:
        frames, lengths, labels = (torch.from_numpy(archive[name]) for name in ("frames", "lengths", "labels"))
    lengths = lengths.long()
    train, rest = frames.split([int(lengths[:270].sum()), int(lengths[270:].sum())])
    steps = ((train if split == "train" else rest) - train.mean(0)) / train.std(0)
    return Sequences(steps, lengths[parts[split]], labels[parts[split]])
