"""Patient: a random generator that is made once and copied into each worker, again in each epoch."""

import functools
from collections.abc import Callable, Iterable
from typing import NamedTuple

import torch

from torchcourse import figures
from torchcourse.checks import Wrong
from torchcourse.checks.errors import message_of, still_at
from torchcourse.data import mnist
from torchcourse.lessons.troubleshooting.clinic.comparisons import (
    Order,
    expect_orders_by_seed,
    expect_workers,
    orders_by,
)
from torchcourse.lessons.troubleshooting.clinic.program import Program
from torchcourse.lessons.troubleshooting.clinic.separate_process import call_separately, log_separately
from torchcourse.ranks.run import RankError
from torchcourse.units import counted

EPOCHS, BATCH = 2, 32
log = log_separately
SHOWN = ("epoch 0, batch 0", "epoch 0, batch 1", "epoch 1, batch 0")


def evidence(program: Program) -> None:
    images, labels = mnist()[:64]
    (epochs,) = _fetched(program.jitter_loader, images, labels, (0,)).runs
    drawn = [epochs[0][2][:32], epochs[0][2][32:], epochs[1][2][:32]]
    figure, axes = figures.new(8, 3, ncols=2, sharey=True)
    for axis, other in zip(axes, (1, 2), strict=True):
        axis.plot(drawn[0].tolist(), drawn[other].tolist(), "o")
        axis.set(xlabel=f"brightness in {SHOWN[0]}", ylabel=f"brightness in {SHOWN[other]}")
        axis.set_title(f"{int((drawn[0] == drawn[other]).sum())} of 32 numbers are the same")
    figures.show(
        figure, "Two scatter plots: the brightness of 32 images in one batch against another. All lie on a line."
    )


def judge(program: Program, seed: int) -> str:
    """Fetch three epochs in a process of its own, twice with one seed and once with another; look at what was drawn."""
    count = 3 * BATCH + 4 + BATCH * (seed % 2)  # the last batch is a short one
    images, labels = torch.ones(count, 1, 28, 28), torch.arange(count)
    workers, runs, orders, whole = _fetched(program.jitter_loader, images, labels, (seed, seed, seed + 1))
    expect_workers(
        workers,
        "One process draws all numbers now, so none comes twice. But the two workers are gone, and with them the speed "
        "that they were there for.",
    )
    if not whole:
        raise Wrong(
            "inputs_changed",
            "Fetching has changed the images of the dataset themselves: where workers share them, the next epoch makes "
            "a brighter image brighter still. The copy that is returned was to be changed.",
        )
    _judge_data(runs[0], count)
    drawn, again, other = (torch.stack([factors for _, _, factors in epochs]) for epochs in runs)
    _judge_drawn(drawn)
    if not torch.equal(drawn, again):
        raise Wrong(
            "not_repeatable",
            "No number comes twice, but two runs with the same seed draw other numbers. A run that cannot be repeated "
            "cannot be examined. Where could a worker get a number that follows from the seed?",
        )
    if torch.equal(drawn, other):
        raise Wrong("seed_ignored", "Runs with two different seeds draw the same numbers.")
    expect_orders_by_seed(orders)
    if orders[0] and len(orders[0][0]) != BATCH:
        raise Wrong("other_batches", f"The batches were {BATCH} images long, and no longer are.")
    return f"Healed: {EPOCHS} epochs draw {drawn.numel()} different numbers in 2 workers, the same for the same seed."


Epoch = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
"""The images, labels and brightnesses of one epoch, in the order of their arrival."""


class Fetched(NamedTuple):
    """What came from the loaders."""

    workers: int
    runs: list[list[Epoch]]
    """For each seed, the epochs of a run."""
    orders: list[Order]
    whole: bool
    """Whether the images are as they were."""


def _fetched(jitter_loader: Callable, images: torch.Tensor, labels: torch.Tensor, seeds: tuple[int, ...]) -> Fetched:
    try:
        return call_separately(_fetch, jitter_loader, images, labels, seeds)
    except RankError as error:
        line = still_at(error).strip()
        what = f"ends in {error.kind}: {message_of(error)[:200].rstrip('.')}."
        raise Wrong("stops", f"{line}\nFetching stops there: it {what}" if line else f"Fetching {what}") from None


def _fetch(jitter_loader: Callable, images: torch.Tensor, labels: torch.Tensor, seeds: tuple[int, ...]) -> Fetched:
    workers: list[int] = []
    runs: list[list[Epoch]] = []
    lent = images.clone().share_memory_()  # what a worker writes into them is seen here
    for seed in seeds:
        torch.manual_seed(seed)
        loader = jitter_loader(lent, labels, seed)
        workers.append(getattr(loader, "num_workers", 0))
        runs.append([_joined(loader) for _ in range(EPOCHS)])
    whole = torch.equal(lent, images)
    return Fetched(min(workers), runs, orders_by(functools.partial(jitter_loader, images, labels), seeds[0]), whole)


def _joined(loader: Iterable[Epoch]) -> Epoch:
    images, labels, factors = (torch.cat(column) for column in zip(*loader, strict=True))
    return images, labels, factors.flatten()


def _judge_data(epochs: list[Epoch], count: int) -> None:
    for images, labels, factors in epochs:
        if sorted(labels.tolist()) != list(range(count)):
            raise Wrong(
                "samples_lost",
                f"An epoch brings {len(images)} images with {len(labels.unique())} different labels. It was each of "
                f"the {count} images once, with its own label.",
            )
        if not torch.allclose(images.mean(dim=(1, 2, 3)).double(), factors.double(), atol=1e-5):
            raise Wrong("not_applied", "The brightness that is returned is not the one that the image got.")
    if epochs[0][1].tolist() in (list(range(count)), epochs[1][1].tolist()):
        raise Wrong("no_shuffle", "The images no longer come in a new order each epoch.")


def _judge_drawn(drawn: torch.Tensor) -> None:
    """Judge the brightnesses [epochs, samples]."""
    low, high, spread = drawn.min().item(), drawn.max().item(), drawn[0].std().item()
    first = drawn[0][:32]  # a batch, which one worker makes
    if low < 0.5 or high > 1.5 or spread < 0.2 or len(first.unique()) < len(first) // 2:
        raise Wrong(
            "no_augmentation",
            f"The brightness now lies between {low:.2f} and {high:.2f} with a spread of {spread:.2f}, and the "
            f"{len(first)} numbers of the first batch take {counted(len(first.unique()), 'value')}. It was drawn "
            "evenly between 0.5 and 1.5: that is what the model is to get used to.",
        )
    total = drawn.shape[1]
    within = total - len(drawn[0].unique())
    if within > total // 4:
        raise Wrong(
            "still_there",
            f"{within} of {total} numbers of an epoch came before in the same epoch: batch 1 has those of batch 0. "
            "Both workers go through one and the same stream.",
        )
    repeated = len(set(drawn[0].tolist()) & set(drawn[1].tolist()))
    if repeated > total // 4:
        raise Wrong(
            "same_in_epochs",
            f"Within an epoch no number comes twice now, but {repeated} of {total} numbers of the second epoch are "
            "those of the first. A worker starts again each epoch: what is different for it then?",
        )
