"""Measure a schedule itself: on ranks whose stages only sleep, each on its own clock, whatever else the machine does.

Two ranks that compute on the same two cores slow each other down, and one sees that instead of the schedule.
"""

import time
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from torchcourse.lessons.model_parallelism.pipeline.run import Pipeline, Record, timeline
from torchcourse.lessons.model_parallelism.pipeline.schedules import Schedule
from torchcourse.lessons.model_parallelism.pipeline.simulate import Costs, Timeline
from torchcourse.lessons.model_parallelism.pipeline.split_backward import put_off
from torchcourse.ranks.run import run_ranks


class SleepingStage(nn.Module):
    """A stage that takes the given seconds and returns its input, of any shape."""

    def __init__(self, forward: float, inputs: float, weights: float) -> None:
        super().__init__()
        self.seconds: tuple[float, ...] = (forward, inputs, weights)
        self.factor = nn.Parameter(torch.ones(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        # The factor first: the input of stage 0 needs no gradient, and so autograd would leave out the sleep.
        return _Sleep.apply(x * self.factor, *self.seconds)


def measure(schedule: Schedule, costs: Costs) -> Timeline:
    """Execute a schedule on sleeping stages, by real messages between ranks. `costs` and the answer are in seconds.

    Beside `simulate(schedule, costs)` it shows what messages and waking up cost.
    """
    return timeline(schedule, run_ranks(_one_step, schedule, costs, world_size=schedule.ranks))


def _one_step(schedule: Schedule, costs: Costs) -> Record:
    seconds = [float(costs.of(kind)) / schedule.stages_per_rank for kind in "FIW"]
    stages = [SleepingStage(0.0, 0.0, 0.0) for _ in range(schedule.stages_per_rank)]
    pipeline = Pipeline(schedule, stages, lambda y, _: y.mean(), between=torch.empty(1, 1))
    batch = torch.ones(schedule.micro_batches, 1)
    pipeline.step(batch, batch)  # opens the connections
    for stage in stages:
        stage.seconds = tuple(seconds)
    dist.barrier()
    pipeline.step(batch, batch, record=True)
    return pipeline.record


class _Sleep(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, forward: float, inputs: float, weights: float) -> torch.Tensor:
        ctx.seconds = (inputs, weights)
        time.sleep(forward)
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None, None, None]:
        inputs, weights = ctx.seconds
        time.sleep(inputs)
        put_off(lambda: time.sleep(weights))
        return gradient, None, None, None
