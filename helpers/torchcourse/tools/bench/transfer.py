"""Feature extraction in two memory layouts, and what the few labels of lesson 07 reach with each method."""

from collections.abc import Callable
from dataclasses import astuple
from functools import partial

import torch

from torchcourse.checks.kit import one_thread
from torchcourse.error_bars import standard_error
from torchcourse.lessons.transfer.backbones import efficientnet_lite0, mnist_cnn
from torchcourse.lessons.transfer.features import extract
from torchcourse.lessons.transfer.few_labels import METHODS, run
from torchcourse.timing import in_turn, ratio, spread
from torchcourse.tools.bench.report import Table

ROUNDS = 5
PICTURES = 32
NUMBERS = (1, 5, 20)
SEEDS = 5


def table() -> Table:
    with one_thread():
        rows, accuracies = _speed(), _accuracies()
    return Table(
        "Feature extraction",
        ["backbone", "pixels", "layout in memory", f"{PICTURES} pictures", "pictures per second", "against contiguous"],
        rows,
        f"Batches of 16, evaluation mode, no graph, {ROUNDS} rounds in turn, one CPU thread.",
        notes=[accuracies],
    )


def _speed() -> list[list[str]]:
    rows = []
    for make, side in ((mnist_cnn, 28), (efficientnet_lite0, 96), (efficientnet_lite0, 224)):
        candidates: dict[str, Callable[[], object]] = {}
        for name, layout in (("contiguous", torch.contiguous_format), ("channels_last", torch.channels_last)):
            body = make()
            body.to(memory_format=layout)  # type: ignore[call-overload]  # torch's stub of Module.to leaves it out
            inputs = torch.randn(PICTURES, body.scaling.channels, side, side).to(memory_format=layout)
            candidates[name] = partial(extract, body, inputs, batch_size=16)
        seconds = in_turn(candidates, ROUNDS)
        for name, values in seconds.items():
            each = [PICTURES / value for value in values]
            times = ratio(values, seconds["contiguous"])
            rows.append([body.name, f"{side}×{side}", name, spread(values, "s"), spread(each, "/s"), times])
    return rows


def _accuracies() -> str:
    """Train with each method, here and now; return mean accuracies ± standard errors and CPU seconds as Markdown."""
    lines = [["labels of each digit", *METHODS], ["---"] * (1 + len(METHODS))]
    for labels in NUMBERS:
        cells = []
        for method in METHODS:
            runs = [run(method, labels, seed) for seed in range(SEEDS)]
            values, seconds = (torch.tensor(column) for column in zip(*map(astuple, runs), strict=True))
            cells.append(f"{values.mean():.3f} ± {standard_error(values):.3f}, {seconds.median():.2g} s")
        lines.append([str(labels), *cells])
    head = "From MNIST to the small digits: accuracy on 500 test images, mean of "
    head += f"{SEEDS} seeds ± standard error; CPU seconds of training, median, one thread:\n\n"
    return head + "\n".join("| " + " | ".join(line) + " |" for line in lines)
