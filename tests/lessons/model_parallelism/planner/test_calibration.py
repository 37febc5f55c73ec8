"""The planner's constants are at the bottom of the error over the sources that set them."""

import math
import statistics
from dataclasses import replace

import pytest

from torchcourse.lessons.model_parallelism.planner.clusters import A100, H100
from torchcourse.lessons.model_parallelism.planner.published import RUNS, SETTING
from torchcourse.lessons.model_parallelism.planner.seconds import step_seconds


def loss(constant: str = "matmul", factor: float = 1.0, gpu: object = None) -> float:
    """Return the mean over the sources of log(1 + (e/0.1)²) for log errors e: far rows count little."""
    by_source = []
    for key in SETTING:
        losses = []
        for run in (run for run in RUNS if run.key == key):
            efficiency = run.cluster.efficiency
            if gpu is None or run.cluster.gpu is gpu:
                efficiency = replace(efficiency, **{constant: factor * getattr(efficiency, constant)})
            seconds = step_seconds(run.model, replace(run.cluster, efficiency=efficiency), run.layout).total
            counted = run.layout.recomputation if run.counts == "hardware" else "none"
            flops = run.model.hardware_flop(counted) * run.layout.batch / seconds / run.cluster.gpus
            losses.append(math.log(1 + (math.log(flops / run.flops) / 0.1) ** 2))
        by_source.append(statistics.mean(losses))
    return statistics.mean(by_source)


@pytest.mark.parametrize(
    ("constant", "gpu"), [("matmul", A100), ("matmul", H100), ("between_traffic", None), ("pass_overhead", None)]
)
def test_no_constant_can_be_moved_for_the_better(constant: str, gpu: object) -> None:
    best = loss()
    for factor in (0.9, 1.1):
        assert loss(constant, factor, gpu) > best - 0.01
