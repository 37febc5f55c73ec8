"""Patient: running sums of losses that are tensors with a graph, so that every step's graph stays alive."""

import itertools
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from torchcourse import figures
from torchcourse.checks import Wrong
from torchcourse.checks.kit import numbers_of
from torchcourse.data import mnist
from torchcourse.lessons.troubleshooting.autograd_graph import count_nodes
from torchcourse.lessons.troubleshooting.clinic.comparisons import (
    Trained,
    called_with,
    expect_number,
    expect_same_training,
    train_copy,
)
from torchcourse.lessons.troubleshooting.clinic.observed_loader import ObservedLoader
from torchcourse.lessons.troubleshooting.clinic.program import Program
from torchcourse.lessons.troubleshooting.tracking import MemoryTracker
from torchcourse.models import mlp


def evidence(program: Program) -> None:
    torch.manual_seed(0)
    model = mlp(784, 64, 784)
    optimizer = torch.optim.Adam(model.parameters())
    alive: list[float] = []
    loader = DataLoader(TensorDataset(*mnist("train")[:1000]), 50)
    with MemoryTracker() as tracker:
        noted = ObservedLoader(loader, lambda: alive.append(tracker.current / 2**20))
        probe = mnist("test")[:50][0].flatten(1)
        program.denoise_epoch(model, noted, optimizer, probe, torch.Generator())
    step = (alive[-1] - alive[5]) / (len(alive) - 6)
    figure, axis = figures.new()
    axis.plot(alive, "o-")
    axis.set(xlabel="steps done", ylabel="alive between steps (MiB)", xticks=range(0, len(alive), 5))
    finding = f"After the first steps, each step leaves {1024 * step:.0f} KiB behind"
    axis.set_title(finding)
    figures.show(figure, f"Memory between the steps of one epoch. {finding}.")


def judge(program: Program, seed: int) -> str:
    """Train an epoch, look at memory and graphs between the steps, and compare with a plain loop."""
    torch.manual_seed(seed)
    width, size, rate = 40 + seed % 8, 16, 0.05 + 0.01 * (seed % 3)
    images = torch.randn(12 * size + 5, 1, 1, width)  # the last batch is smaller
    loader = DataLoader(TensorDataset(images, torch.zeros(len(images))), size)
    probe = torch.randn(size, width)
    start = mlp(width, 8, width)
    with called_with(f"batches of images [{size}, 1, 1, {width}] and a probe [{size}, {width}]"):
        given, (grown, in_numbers, nodes) = _grown(program.denoise_epoch, start, loader, rate, probe)
    plain, _ = _grown(_plain_epoch, start, loader, rate, probe)
    only_numbers = nodes == 0 and grown - in_numbers <= 100
    if grown > 100 and not only_numbers:  # a list of numbers is not a leak
        raise Wrong("still_there", f"Each step still leaves {grown:.0f} bytes behind. Who holds on to what it made?")
    if nodes > 0:
        raise Wrong(
            "graph_grows",
            "The tensors are gone, but the graph still grows by a few nodes per step: one of the sums still remembers "
            "how it came about.",
        )
    returned = given.returned if isinstance(given.returned, tuple | list) else ()
    if any(isinstance(loss, torch.Tensor) and loss.requires_grad for loss in returned):
        raise Wrong("graph_returned", "What you return still has a graph; the caller keeps it in a list.")
    expect_same_training(given, plain)
    names = "training loss", "loss on the probe"
    found = numbers_of(given.returned, 2, " and ".join(names))
    for name, loss, right in zip(names, found, plain.returned, strict=True):
        expect_number(loss, right, f"The {name}, a mean over the batches,")
    if grown > 100:
        return (
            "Healed: no step leaves a graph behind, the means are the same, and so is the trained model. But each step "
            f"still leaves {grown:.0f} bytes: this PyTorch gives what `mse_loss` returns the memory of all its terms, "
            "and `detach()` shares it. `item()` or `detach().clone()` keeps one number."
        )
    return (
        f"Healed: {len(given.steps)} steps leave nothing behind, the means are the same, and so is the trained model."
    )


def _grown(
    epoch: Callable, start: nn.Module, loader: DataLoader, rate: float, probe: torch.Tensor
) -> tuple[Trained, list[float]]:
    """Train a copy; return with it by how much there is more after each step.

    Of bytes alive, of those in tensors that hold a single number, and of nodes of the graph.
    """
    sizes: list[tuple[int, int, int]] = []
    steps = itertools.count(1)
    with MemoryTracker() as tracker:

        def note() -> None:
            if next(steps) in (5, 12):  # to count the graph's nodes takes longer than a step
                in_numbers = sum(each.bytes for each in tracker.live() if not each.shape)
                sizes.append((tracker.current, in_numbers, count_nodes([])))

        more = probe, torch.Generator().manual_seed(0)
        trained = train_copy(epoch, start, ObservedLoader(loader, note), rate, *more, gradients=False)
    before, after = sizes if len(sizes) == 2 else [(0, 0, 0)] * 2  # an epoch that ends early has too few steps
    return trained, [(later - earlier) / 7 for earlier, later in zip(before, after, strict=True)]


def _plain_epoch(
    model: nn.Module, loader: DataLoader, optimizer: torch.optim.Optimizer, probe: torch.Tensor, noise: torch.Generator
) -> tuple[float, float]:
    running, probed = 0.0, 0.0
    for images, _ in loader:
        images = images.flatten(1)
        optimizer.zero_grad()
        noisy = images + 0.5 * torch.randn(images.shape, generator=noise)
        loss = F.mse_loss(model(noisy), images)
        loss.backward()
        optimizer.step()
        running += loss.item()
        with torch.no_grad():
            probed += F.mse_loss(model(probe), probe).item()
    return running / len(loader), probed / len(loader)
