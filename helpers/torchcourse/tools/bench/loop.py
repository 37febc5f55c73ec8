"""What a training loop costs beside the training: microseconds per step over a raw loop, for ours and its peers."""

import contextlib
import logging
import os
import statistics
import tempfile
import warnings
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from torchcourse.timing import measured_in_turn, ratio, seconds_of
from torchcourse.tools.bench.report import Table
from torchcourse.training import Trainer

STEPS, ROUNDS = 2000, 5


def table() -> Table:
    torch.set_num_threads(1)
    loops: dict[str, Callable[[], Callable[[], object]]] = {
        "raw loop": raw_loop,
        "Trainer": partial(trainer_loop, {}),
        "Trainer, with accuracy": partial(trainer_loop, None),
        "the same, without looks": partial(trainer_loop, None, watch_every=0),
        "Accelerate": _accelerate,
        "Lightning, all extras off": _lightning,
    }
    # Only the loop is timed: what is set up before it is not counted.
    seconds = measured_in_turn({name: partial(_seconds, prepare) for name, prepare in loops.items()}, ROUNDS)
    raw = seconds.pop("raw loop")
    rows = [["raw loop", f"{statistics.median(raw) / STEPS * 1e6:.0f} µs", "–", "1.00×"]]
    for name, values in seconds.items():
        over = microseconds_over(raw, values, STEPS)
        middle = f"{statistics.median(over):.0f} µs ({over[0]:.0f} to {over[-1]:.0f})"
        rows.append([name, f"{statistics.median(values) / STEPS * 1e6:.0f} µs", middle, ratio(values, raw)])
    return Table(
        "The training loop's own cost",
        ["loop", "a step", "over the raw loop: median (range)", "against the raw loop"],
        rows,
        f"A small dense network, batches of 32 in memory, SGD, {STEPS} steps a round, {ROUNDS} rounds in turn, one CPU "
        "thread. The Trainer writes TensorBoard scalars every 50 steps and looks at weights and gradients (`watch`) "
        "for up to 1% of the time; its peers log nothing.",
    )


def microseconds_over(raw: Iterable[float], values: Iterable[float], steps: int) -> list[float]:
    """Return by how much each value is above the raw loop's of the same round, per step, sorted."""
    return sorted((value - reference) / steps * 1e6 for value, reference in zip(values, raw, strict=True))


def _seconds(prepare: Callable[[], Callable[[], object]]) -> float:
    return seconds_of(prepare())


def _parts(
    device: torch.device | str = "cpu", steps: int = STEPS
) -> tuple[nn.Module, torch.optim.Optimizer, DataLoader]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10)).to(device)
    data = TensorDataset(torch.randn(32 * steps, 64).to(device), torch.randint(10, (32 * steps,)).to(device))
    batches: Any = list(DataLoader(data, batch_size=32))  # a list can be a Dataset, which torch does not type
    # Ready-made batches: what loading costs is another table.
    return model, torch.optim.SGD(model.parameters(), lr=0.01), DataLoader(batches, batch_size=None)


def raw_loop(device: torch.device | str = "cpu", steps: int = STEPS) -> Callable[[], object]:
    """Set up a loop of so many steps without any extras, and return what runs it."""
    return partial(_loop, *_parts(device, steps), torch.Tensor.backward)


def _loop(
    model: nn.Module, optimizer: torch.optim.Optimizer, loader: DataLoader, backward: Callable[[torch.Tensor], object]
) -> None:
    for inputs, targets in loader:
        loss = nn.functional.cross_entropy(model(inputs), targets)
        optimizer.zero_grad()
        backward(loss)
        optimizer.step()


def trainer_loop(
    metrics: dict | None, device: torch.device | str = "cpu", steps: int = STEPS, watch_every: int | None = None
) -> Callable[[], object]:
    """Set up the same steps with the Trainer, and return what runs them."""
    model, optimizer, loader = _parts(device, steps)
    options: dict[str, Any] = {"metrics": metrics, "log_dir": tempfile.mkdtemp(), "log_every": 50, "progress": False}
    options |= {"device": device, "watch_every": watch_every}
    trainer = Trainer(model, optimizer, nn.functional.cross_entropy, **options)
    return lambda: trainer.fit(loader, epochs=1)


def _accelerate() -> Callable[[], object]:
    from accelerate import Accelerator

    accelerator = Accelerator(cpu=True)
    model, optimizer, loader = accelerator.prepare(*_parts())
    return partial(_loop, model, optimizer, loader, accelerator.backward)


def _lightning() -> Callable[[], object]:
    import lightning

    model, optimizer, loader = _parts()

    class Module(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def training_step(self, batch: list[torch.Tensor], _index: int) -> torch.Tensor:
            return nn.functional.cross_entropy(self.model(batch[0]), batch[1])

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return optimizer

    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning")
    extras = ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary")
    off: dict[str, Any] = dict.fromkeys(extras, False)
    trainer = lightning.Trainer(max_epochs=1, accelerator="cpu", devices=1, **off)

    def loop() -> None:
        with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
            trainer.fit(Module(), loader)

    return loop
