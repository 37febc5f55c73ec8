"""Mixed precision with the Trainer: the same training in float32, bfloat16, and float16 with loss scaling.

Two models: a small one, whose kernels are over before the next has been started, so that 16 bits save nothing; and on a
GPU a wide one, whose products of matrices take the time.
"""

import time
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import torch
from torch import nn

from torchcourse.data.datasets import mnist
from torchcourse.data.loaders import make_loader
from torchcourse.models import TransformerBlock, small_cnn
from torchcourse.ranks.run import run_ranks
from torchcourse.ranks.who import device
from torchcourse.tools.gpu_check.parts import Case, Finding, Part, require
from torchcourse.tools.gpu_check.ranks import needs_gpus, synchronize
from torchcourse.training import Trainer

Training = Callable[[torch.device], tuple[nn.Module, Iterable, nn.Module]]
"""Makes a model, an iterable of batches, and a loss."""

IMAGES = 1000
STEPS = 20
WIDTH, TOKENS, SAMPLES, BLOCKS = 2048, 512, 16, 4
"""Of the wide model."""

WAYS = {"fp32": "float32", "bf16": "bfloat16 autocast", "fp16": "float16 autocast with GradScaler"}
"""What each precision of the Trainer is called."""


def part() -> Part:
    gpu = torch.cuda.is_available()
    models: dict[str, Training] = {"small": small} | ({"wide": wide} if gpu else {})
    in_float32: dict[str, dict[str, float]] = {name: {} for name in models}
    cases = [
        Case(f"{name} model, {way}", partial(measured, precision, training, in_float32[name]))
        for name, training in models.items()
        for precision, way in WAYS.items()
    ]
    return Part(
        "Mixed precision",
        f"The small CNN on {IMAGES} images of MNIST in batches of {IMAGES // STEPS}"
        + (f"; {BLOCKS} transformer blocks of width {WIDTH} on {SAMPLES} × {TOKENS} tokens" if gpu else "")
        + f". One epoch of {STEPS} steps, after one that is not timed, on "
        f"{'a GPU' if gpu else 'the CPU, which may be slower in 16 bits'}. The loss must be a number, and lower than "
        "in the first epoch.",
        [*cases, Case("GradScaler skips a step that overflows", overflow)],
    )


def measured(precision: str, training: Training, full: dict[str, float]) -> Finding:
    """Train in this precision of the Trainer. `full` keeps the time in float32 for the cases that follow.

    Raises:
        NotRun: float16 without a GPU.
    """
    if precision == "fp16":
        needs_gpus(1)
    [(losses, seconds, peak)] = run_ranks(_train, precision, training, world_size=1, timeout=200)
    require(losses[1] < losses[0], f"The loss went from {losses[0]:.4g} to {losses[1]:.4g}.")
    milliseconds = 1e3 * seconds / STEPS
    if precision == "fp32":
        full["milliseconds"] = milliseconds
    told = f"{milliseconds:.2f} ms per step"
    if precision != "fp32" and full:
        told += f", {full['milliseconds'] / milliseconds:.2g} times as fast as float32"
    told += f"; loss {losses[0]:.3g}, then {losses[1]:.3g}"
    return Finding(
        told + (f"; peak {peak / 2**20:.0f} MiB" if peak else ""), {"milliseconds": milliseconds, "loss": losses[1]}
    )


def overflow() -> Finding:
    """Let scaled gradients overflow: the step must be left out and the scale halved; the next step must count."""
    [(before, skipped, scales, after)] = run_ranks(_overflow, world_size=1, timeout=60)
    require(skipped == before, f"The step was not skipped: the weight went from {before} to {skipped}.")
    require(scales[1] == scales[0] / 2, f"The scale went from {scales[0]:g} to {scales[1]:g}, not to half.")
    require(after != before, "After the overflow no step was taken.")
    return Finding(f"step skipped, scale {scales[0]:.0e} halved, next step taken")


def small(_place: torch.device) -> tuple[nn.Module, Iterable, nn.Module]:
    """Return the small CNN, its batches of digits, and its loss."""
    images, labels = mnist()[:IMAGES]
    loader = make_loader(torch.utils.data.TensorDataset(images, labels), IMAGES // STEPS)
    return small_cnn(), loader, nn.CrossEntropyLoss()


def wide(place: torch.device) -> tuple[nn.Module, Iterable, nn.Module]:
    """Return wide transformer blocks, one batch on the device again and again, and its loss."""
    model = nn.Sequential(*[TransformerBlock(WIDTH, heads=WIDTH // 64) for _ in range(BLOCKS)])
    x = torch.randn(SAMPLES, TOKENS, WIDTH, device=place)
    return model, [(x, x.roll(1, dims=1))] * STEPS, nn.MSELoss()


def _train(precision: Any, training: Training) -> tuple[list[float], float, int]:
    """Return the mean loss of two epochs, the seconds of the second, and the peak of GPU memory in bytes."""
    place = device()
    torch.manual_seed(0)
    model, loader, loss = training(place)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9)
    ends: list[float] = []

    def note_time(_trainer: Trainer) -> None:
        synchronize(place)
        ends.append(time.perf_counter())

    trainer = Trainer(model, optimizer, loss, precision=precision, metrics={}, progress=False, after_epoch=note_time)
    history = trainer.fit(loader, epochs=2)
    peak = torch.cuda.max_memory_allocated(place) if place.type == "cuda" else 0
    return [float(loss) for loss in history["loss"]], ends[1] - ends[0], peak


def _overflow() -> tuple[float, float, list[float], float]:
    """Return the weight before, after the overflow and after the next step, and the scales of both steps."""
    place = device()
    # Times a gradient of 1024, this scale is more than float32 holds; times 1 it is not.
    scaler = torch.amp.GradScaler(place.type, init_scale=2.0**120, growth_interval=1000)
    weight = torch.ones(1, device=place, requires_grad=True)
    optimizer = torch.optim.SGD([weight], lr=0.1)
    weights, scales = [weight.item()], [scaler.get_scale()]
    for slope in (1024.0, 1.0):
        optimizer.zero_grad()
        scaler.scale((slope * weight).sum()).backward()
        scaler.step(optimizer)
        scaler.update()
        weights.append(weight.item())
        scales.append(scaler.get_scale())
    return weights[0], weights[1], scales[:2], weights[2]
