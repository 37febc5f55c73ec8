"""Patient: all outputs of an epoch are kept in a list, for a metric that needs only sums."""

import tracemalloc
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from torchcourse import figures
from torchcourse.checks import Wrong
from torchcourse.checks.kit import numbers_of, refuse_known
from torchcourse.data import mnist
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
from torchcourse.units import format_bytes


def evidence(program: Program) -> None:
    torch.manual_seed(0)
    model = mlp(784, 64, 784)
    optimizer = torch.optim.Adam(model.parameters())
    loader = DataLoader(TensorDataset(*mnist("train")[:1000]), 50)
    alive: list[float] = []
    with MemoryTracker() as tracker:
        for _ in range(3):
            program.reconstruction_epoch(
                model, ObservedLoader(loader, lambda: alive.append(tracker.current / 2**20)), optimizer
            )
    figure, axis = figures.new()
    axis.plot(alive)
    axis.set(xlabel="steps of three epochs", ylabel="alive between steps (MiB)")
    finding = f"Within an epoch memory climbs from {alive[21]:.0f} to {alive[-1]:.0f} MiB, then it falls back"
    axis.set_title(finding)
    figures.show(figure, f"A sawtooth: memory over three epochs. {finding}.")


def judge(program: Program, seed: int) -> str:
    """Train an epoch whose last batch is small; look at memory between the steps and at both numbers."""
    torch.manual_seed(seed)
    width, size, near = 30 + seed % 5, 16, 0.4 + 0.1 * (seed % 3)
    images = torch.randn(14 * size + 3, 1, width)
    images[-3:] *= 3  # the last, smaller batch is unlike the others
    loader = DataLoader(TensorDataset(images, torch.zeros(len(images))), size)
    start = mlp(width, 8, width)
    with called_with(f"batches of images [{size}, 1, {width}], the last of [3, 1, {width}], and near={near:g}"):
        given, alive = _alive(program.reconstruction_epoch, start, loader, near)
    plain, _ = _alive(_plain_epoch, start, loader, near)
    # From the ninth batch on: what keeps the last few has them by then. An epoch that ends early has too few steps.
    grown = (alive[13] - alive[8]) / 5 if len(alive) > 13 else 0.0
    if grown > 100:
        share = grown / (size * width * 4)
        if len(given.steps) == len(plain.steps) and share < 1.9:
            raise Wrong(
                "half",
                f"Less is kept, but each step still leaves {grown:.0f} bytes, {share:.1f} times its outputs. A "
                "longer epoch still needs more memory. What do the two numbers need of a batch, once it is done?",
            )
        raise Wrong("still_there", f"Each step still leaves {grown:.0f} bytes behind until the epoch is over.")
    with called_with("5, then 15 batches of images [32, 1, 400]"):
        _judge_length(program.reconstruction_epoch)
    expect_same_training(given, plain)
    _judge_numbers(numbers_of(given.returned, 2, "the error and the share of close pixels"), plain.returned)
    return "Healed: memory stays level over the epoch, and both numbers are those of all pixels of the epoch."


def _judge_length(epoch: Callable) -> None:
    """Refuse what needs more memory for a longer epoch, at once or bit by bit, in tensors or outside of them."""
    size, width, short, long = 32, 400, 5, 15
    images = torch.randn(long * size, 1, width)
    model = mlp(width, 4, width)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def run(batches: int) -> None:
        data = TensorDataset(images[: batches * size], torch.zeros(batches * size))
        epoch(model, DataLoader(data, size), optimizer, 0.5)

    def in_tensors(batches: int) -> int:
        with MemoryTracker() as tracker:
            run(batches)
        return tracker.peak

    def outside(batches: int) -> int:
        return _outside_tensors(lambda: run(batches))

    outside(short)  # what is made once, such as caches, is not counted
    for peak, symptom, where in (
        (in_tensors, "grows_with_epoch", "in tensors"),
        (outside, "grows_outside", "in NumPy arrays or Python objects"),
    ):
        more = peak(long) - peak(short)
        if more > (long - short) * size * width / 2:  # half a byte for each pixel
            raise Wrong(
                symptom,
                f"An epoch of {long} batches needs {format_bytes(more)} more {where} than one of {short}. Nothing "
                "piles up between the steps in tensors, yet the room that is taken grows with the data. What do the "
                "two numbers need of a batch, once it is done?",
            )


def _outside_tensors(work: Callable[[], None]) -> int:
    """The most bytes that Python objects and NumPy arrays take at once while this works."""
    tracing = tracemalloc.is_tracing()
    tracemalloc.start()
    try:
        tracemalloc.reset_peak()
        before = tracemalloc.get_traced_memory()[0]
        work()
        return tracemalloc.get_traced_memory()[1] - before
    finally:
        if not tracing:
            tracemalloc.stop()


Sums = list[tuple[float, int, int]]
"""Of each batch: the sum of squared errors, the number of close pixels, and the number of pixels."""


def _judge_numbers(given: list[float], batches: Sums) -> None:
    squares, close, counts = (list(column) for column in zip(*batches, strict=True))
    for name, number, values in zip(("error", "share of close pixels"), given, (squares, close), strict=True):
        whole, means = sum(values) / sum(counts), [value / count for value, count in zip(values, counts, strict=True)]
        known = {
            "mean_of_means": (
                sum(means) / len(means),
                f"The {name} is {number:.5f}, the mean over the batches. Over the pixels it is {whole:.5f}: the last "
                "batch is smaller.",
            ),
            "last_batch": (means[-1], f"The {name} is that of the last batch alone, not of the epoch."),
        }
        if abs(number - whole) > 1e-5:
            refuse_known(number, known, tolerance=1e-5)
        expect_number(number, whole, f"The {name} over all pixels of the epoch")


def _alive(epoch: Callable, start: nn.Module, loader: DataLoader, near: float) -> tuple[Trained, list[int]]:
    """Train a copy; return with it the bytes that were alive before each batch and at the end."""
    alive: list[int] = []
    with MemoryTracker() as tracker:
        observed = ObservedLoader(loader, lambda: alive.append(tracker.current))
        trained = train_copy(epoch, start, observed, 0.5, near, gradients=False)
    return trained, alive


def _plain_epoch(model: nn.Module, loader: DataLoader, optimizer: torch.optim.Optimizer, near: float) -> Sums:
    batches = []
    for images, _ in loader:
        images = images.flatten(1)
        optimizer.zero_grad()
        output = model(images)
        F.mse_loss(output, images).backward()
        optimizer.step()
        off = (output.detach() - images).abs()
        batches.append((off.square().sum().item(), int((off < near).sum()), off.numel()))
    return batches
