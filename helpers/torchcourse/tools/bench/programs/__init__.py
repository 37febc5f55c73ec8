"""Small training programs, each built differently, that `SanityProbe` is judged on: healthy ones and silent bugs.

A program gets `watch`, and trains within it, as a user would:

    def program(watch: Watch) -> None:
        ...
        with watch(model, optimizer):
            for _ in range(20):
                ...

`healthy_loops`, `healthy_epochs`, `healthy_models` and `healthy_pairs` must raise no alarm. Of the bugs, the rules were
set on those in `silent_bugs`; those in `held_back_bugs` were only counted, before and after.
"""

import warnings
from collections.abc import Callable, Iterable

import torch
import torch.nn.functional as F
from torch import nn

from torchcourse.lessons.troubleshooting.invariants import SanityProbe
from torchcourse.lessons.troubleshooting.watched_run import Alarm

Watch = Callable[..., SanityProbe]
Program = Callable[[Watch], None]


def judge(program: Program, seed: int = 0) -> list[Alarm]:
    """Run the program under a probe, and return its alarms."""
    probes: list[SanityProbe] = []

    def watch(model: nn.Module, optimizer: torch.optim.Optimizer, frozen: Iterable[str] = ()) -> SanityProbe:
        probes.append(SanityProbe(model, optimizer, frozen))
        return probes[-1]

    torch.manual_seed(seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a loop's own faults, such as a broadcast
        program(watch)
    return probes[-1].alarms()


def programs_of(module: object) -> dict[str, Program]:
    """Return the public functions of a module of programs, by name."""
    return {
        name: value
        for name, value in vars(module).items()
        if callable(value) and getattr(value, "__module__", "") == getattr(module, "__name__", None) and name[0] != "_"
    }


def clouds(samples: int = 400, size: int = 12, classes: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    """Points round a center per class: inputs [samples, size] with spread about 1, labels [samples]."""
    centers = torch.randn(classes, size)
    labels = torch.randint(classes, (samples,))
    return 0.7 * centers[labels] + 0.7 * torch.randn(samples, size), labels


def images(samples: int = 200, classes: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    """Noise with a bright row whose place is the class: inputs [samples, 1, 8, 8], labels [samples]."""
    labels = torch.randint(classes, (samples,))
    pictures = 0.5 * torch.randn(samples, 1, 8, 8)
    pictures[torch.arange(samples), 0, 2 * labels + 1] += 2.0
    return pictures - 0.25, labels


def sentences(samples: int = 64, length: int = 12, vocabulary: int = 20) -> torch.Tensor:
    """Tokens that count upward by one or two from a random start: [samples, length + 1] of whole numbers from 1."""
    strides = torch.randint(1, 3, (samples, 1))
    starts = torch.randint(vocabulary - 1, (samples, 1))
    return (starts + strides * torch.arange(length + 1)) % (vocabulary - 1) + 1


def batches(*tensors: torch.Tensor, size: int = 32, steps: int = 24) -> Iterable[tuple[torch.Tensor, ...]]:
    """Yield so many batches, in a new random order for each epoch; the last one of an epoch may be smaller."""
    count = 0
    while count < steps:
        for rows in torch.randperm(len(tensors[0])).split(size):
            if count == steps:
                return
            yield tuple(tensor[rows] for tensor in tensors)
            count += 1


def step(optimizer: torch.optim.Optimizer, loss: torch.Tensor) -> None:
    """Take one step."""
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def train(
    model: nn.Module, optimizer: torch.optim.Optimizer, pairs: Iterable, loss_fn: Callable = F.cross_entropy
) -> None:
    """Take a step per pair of inputs and targets."""
    for inputs, targets in pairs:
        step(optimizer, loss_fn(model(inputs), targets))


def evaluate(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> float:
    """Return the loss in evaluation mode, in which the model stays.

    A function that leaves the model so is what a rule looks at: a program that is about this says it by itself.
    """
    model.eval()
    with torch.no_grad():
        return F.cross_entropy(model(x), y).item()


def fit(
    watch: Watch,
    model: nn.Module,
    pairs: Iterable[tuple[torch.Tensor, ...]],
    loss_fn: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] = F.cross_entropy,
    optimizer: torch.optim.Optimizer | None = None,
    lr: float = 3e-3,
) -> None:
    """Train on pairs of inputs and targets, by Adam with this learning rate where no optimizer is given."""
    optimizer = optimizer or torch.optim.Adam(model.parameters(), lr)
    with watch(model, optimizer):
        train(model, optimizer, pairs, loss_fn)


def fit_tokens(watch: Watch, model: nn.Module, pairs: Iterable[tuple[torch.Tensor, ...]], ignored: int = -100) -> None:
    """Train a language model, which gives scores [samples, length, vocabulary], on pairs of tokens and targets."""

    def loss_fn(scores: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(scores.flatten(0, 1), targets.flatten(), ignore_index=ignored)

    fit(watch, model, pairs, loss_fn, torch.optim.AdamW(model.parameters(), lr=3e-3))


def dense(size: int = 12, classes: int = 4, *between: nn.Module) -> nn.Sequential:
    """A dense network with one hidden layer; `between` comes after its ReLU."""
    return nn.Sequential(nn.Linear(size, 24), nn.ReLU(), *between, nn.Linear(24, classes))


def classifier(
    *between: nn.Module, samples: int = 400, adam: bool = False
) -> tuple[torch.Tensor, torch.Tensor, nn.Sequential, torch.optim.Optimizer]:
    """Return the inputs and labels of `clouds`, a dense network for them, and its optimizer: SGD, or Adam."""
    x, y = clouds(samples)
    model = dense(12, 4, *between)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3) if adam else torch.optim.SGD(model.parameters(), lr=0.1)
    return x, y, model, optimizer
