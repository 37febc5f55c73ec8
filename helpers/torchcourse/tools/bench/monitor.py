"""What looking into a model costs: the Trainer's looks at its default interval, and PyTorch's own histograms."""

import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial

import torch
from torch import nn

from torchcourse.data import mnist
from torchcourse.models import mlp, small_cnn
from torchcourse.timing import measured_in_turn, seconds_of, spread
from torchcourse.tools.bench.report import Table
from torchcourse.training.monitor import Monitor
from torchcourse.training.watch import Watch

INTERVAL, ROUNDS = 100, 25  # INTERVAL is the Trainer's default watch_every

Step = Callable[[], object]
Way = Callable[[nn.Module, Monitor, Step], object]


def table() -> Table:
    torch.set_num_threads(1)
    rows = []
    networks: dict[str, Callable[[], nn.Module]] = {
        "small CNN, batch 64": small_cnn,
        "dense 784-64-64-10, batch 64": partial(mlp, 784, 64, 64, 10),
    }
    for name, make in networks.items():
        seconds = _in_turn(make)
        plain = seconds.pop("a step alone")
        for way, values in seconds.items():
            extra = [max(value - reference, 0.0) for value, reference in zip(values, plain, strict=True)]
            share = statistics.median(extra) / (INTERVAL * statistics.median(plain))
            rows.append([name, way, spread(plain, "ms", 1e3), spread(extra, "ms", 1e3), f"{share:.2%}"])
    return Table(
        "Looking into a model",
        ["network", "what is written", "a step", "a look adds", f"share of the training at every {INTERVAL} steps"],
        rows,
        f"Processor time of all threads, the writer's included, {ROUNDS} rounds in turn, one CPU thread. The Trainer's "
        "look: histograms of weights, gradients and activations, norms, update ratios, dead units. add_histogram: "
        "weights and gradients only. Without watch_every the Trainer leaves out looks that would cost more than 1%.",
    )


def _in_turn(make: Callable[[], nn.Module]) -> dict[str, list[float]]:
    ways: dict[str, Way] = {"a step alone": _alone, "the Trainer's look": _look, "add_histogram": _add_histogram}
    images, labels = mnist()[:64]
    model = make()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)

    def step() -> None:
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images), labels).backward()
        optimizer.step()

    def look(way: Way, board: Monitor) -> None:
        way(model, board, step)
        # The thread that writes finishes, so that its time counts for the one who caused it.
        board._writer.flush()

    with tempfile.TemporaryDirectory() as folder, Monitor(folder) as board:
        looks = {name: partial(seconds_of, partial(look, way, board), time.process_time) for name, way in ways.items()}
        return measured_in_turn(looks, ROUNDS, warm_up=3)


def _alone(model: nn.Module, board: Monitor, step: Step) -> None:
    step()


def _look(model: nn.Module, board: Monitor, step: Step) -> None:
    with Watch(model, board, INTERVAL).around(INTERVAL):
        step()


def _add_histogram(model: nn.Module, board: Monitor, step: Step) -> None:
    step()
    for name, parameter in model.named_parameters():
        board._writer.add_histogram(f"weights/{name}", parameter, INTERVAL)
        board._writer.add_histogram(f"gradients/{name}", parameter.grad, INTERVAL)
