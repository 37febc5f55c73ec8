"""What watching for NaN costs beside the training: the course's probe and PyTorch's anomaly detection."""

import statistics
import time
import warnings
from functools import partial

import torch
import torch.nn.functional as F
from torch import nn

from torchcourse.lessons.troubleshooting.probes import NanProbe
from torchcourse.models import mlp, small_cnn
from torchcourse.timing import measured_in_turn, ratio
from torchcourse.tools.bench.report import Table

STEPS, ROUNDS = 20, 7
WAYS = ("nothing", "loss.item()", "NanProbe", "detect_anomaly")


def table() -> Table:
    torch.set_num_threads(1)
    rows = []
    models = {"dense, 784-256-256-10": mlp(784, 256, 256, 10), "small CNN": small_cnn()}
    for name, model in models.items():
        seconds = measured_in_turn({way: partial(_seconds_a_step, model, way) for way in WAYS}, ROUNDS)
        rows += [
            [name, way, f"{statistics.median(values) * 1e3:.2f} ms", ratio(values, seconds["nothing"])]
            for way, values in seconds.items()
        ]
    return Table(
        "Watching for NaN",
        ["model", "watched by", "a step", "against nothing"],
        rows,
        f"Batches of 64 images in memory, SGD, {STEPS} steps a round, {ROUNDS} rounds in turn, one CPU thread.",
    )


def _seconds_a_step(model: nn.Module, way: str) -> float:
    images, labels = torch.randn(64, 1, 28, 28), torch.arange(64) % 10
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    probe = NanProbe(model) if way == "NanProbe" else None
    with warnings.catch_warnings(), torch.autograd.set_detect_anomaly(way == "detect_anomaly"):
        warnings.simplefilter("ignore")
        start = time.perf_counter()
        for _ in range(STEPS):
            loss = F.cross_entropy(model(images), labels)
            optimizer.zero_grad()
            loss.backward()
            if probe is not None:
                probe.check(loss)
            elif way == "loss.item()":
                loss.item()
            optimizer.step()
        seconds = (time.perf_counter() - start) / STEPS
    if probe is not None:
        probe.close()
    return seconds
