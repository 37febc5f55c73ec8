"""Mixed precision with the Trainer: the same training in float32, bfloat16, and float16 with loss scaling."""

import time
from functools import partial
from typing import Any

import torch
from torch import nn

from torchcourse.data.datasets import mnist
from torchcourse.data.loaders import make_loader
from torchcourse.models import small_cnn
from torchcourse.ranks.run import run_ranks
from torchcourse.ranks.who import device
from torchcourse.tools.gpu_check.parts import Case, Finding, Part, require
from torchcourse.tools.gpu_check.ranks import needs_gpus, synchronize
from torchcourse.training import Trainer

IMAGES = 1000


def part() -> Part:
    gpu = torch.cuda.is_available()
    return Part(
        "Mixed precision",
        f"The small CNN, one epoch of {IMAGES} images of MNIST in batches of 50, after one epoch that is not timed, "
        f"on {'a GPU' if gpu else 'the CPU, which may be slower in 16 bits'}. The loss must be a number, and lower "
        "than in the first epoch.",
        [
            Case("float32", partial(measured, "fp32")),
            Case("bfloat16 autocast", partial(measured, "bf16")),
            Case("float16 autocast with GradScaler", partial(measured, "fp16")),
            Case("GradScaler skips a step that overflows", overflow),
        ],
    )


def measured(precision: str) -> Finding:
    """Train in this precision of the Trainer.

    Raises:
        NotRun: float16 without a GPU.
    """
    if precision == "fp16":
        needs_gpus(1)
    [(losses, seconds, peak)] = run_ranks(_train, precision, world_size=1, timeout=200)
    require(losses[1] < losses[0], f"The loss went from {losses[0]:.4g} to {losses[1]:.4g}.")
    milliseconds = 1e3 * seconds / (IMAGES // 50)
    told = f"{milliseconds:.2f} ms per step; loss {losses[0]:.3f}, then {losses[1]:.3f}"
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


def _train(precision: Any) -> tuple[list[float], float, int]:
    """Return the mean loss of two epochs, the seconds of the second, and the peak of GPU memory in bytes."""
    place = device()
    torch.manual_seed(0)
    images, labels = mnist()[:IMAGES]
    loader = make_loader(torch.utils.data.TensorDataset(images, labels), 50)
    model = small_cnn()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9)
    ends: list[float] = []

    def note_time(_trainer: Trainer) -> None:
        synchronize(place)
        ends.append(time.perf_counter())

    trainer = Trainer(
        model, optimizer, nn.CrossEntropyLoss(), precision=precision, progress=False, after_epoch=note_time
    )
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
