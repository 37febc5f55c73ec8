"""The planner's constants are those that a fit to some published runs finds, and the fit finds what it should."""

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import replace

import pytest

from torchcourse.lessons.model_parallelism.planner.accuracy import candidates, judge
from torchcourse.lessons.model_parallelism.planner.clusters import (
    A100_EFFICIENCY,
    DEEPSPEED_2021,
    H100,
    H100_EFFICIENCY,
    Efficiency,
)
from torchcourse.lessons.model_parallelism.planner.layout import Layout
from torchcourse.lessons.model_parallelism.planner.published import RUNS, Run
from torchcourse.lessons.model_parallelism.planner.seconds import step_seconds

MOST = 0.9
"""No share grows above this: data parallelism alone would not say how fast the network is."""


def calibrate(
    runs: Iterable[Run], start: Efficiency, free: Sequence[str] = ("matmul", "traffic", "link", "network")
) -> Efficiency:
    """Return the constants with the smallest mean squared error of log FLOP/s over these runs.

    One constant at a time goes up and down by a factor, which shrinks when nothing helps any more.

    Args:
        start: where to begin, and the constants that are not free.
        free: which constants may change. Shares stay at 1 or below.
    """
    possible = [(run, candidates(run)) for run in runs]
    best, step = start, 0.2
    error = _squared_error(possible, best)
    while step > 0.005:
        moved = False
        for name in free:
            for factor in (math.exp(step), math.exp(-step)):
                value = getattr(best, name) * factor
                tried = replace(best, **{name: value if name == "traffic" else min(MOST, value)})
                tried_error = _squared_error(possible, tried)
                if tried_error < error:
                    best, error, moved = tried, tried_error, True
        if not moved:
            step /= 2
    return best


def set_constants(runs: Iterable[Run] = RUNS) -> dict[str, Efficiency]:
    """Set all constants anew, from a rough guess: those of `planner.clusters` and `planner.published`, unrounded."""
    setting = [run for run in runs if run.calibrates]
    a100 = calibrate(
        [run for run in setting if run.cluster.efficiency == A100_EFFICIENCY], Efficiency(0.8, 3, 0.8, 0.8)
    )
    h100 = calibrate([run for run in setting if run.cluster.gpu is H100], a100, free=("matmul",))
    sharded = [run for run in setting if run.cluster.efficiency == DEEPSPEED_2021]
    deepspeed = calibrate(sharded, replace(a100, network=0.1), free=("network",))
    return {"A100": a100, "H100": h100, "DeepSpeed 2021": deepspeed}


def _squared_error(possible: Sequence[tuple[Run, list[Layout]]], efficiency: Efficiency) -> float:
    return statistics.mean(math.log(_flops(run, each, efficiency) / run.flops) ** 2 for run, each in possible)


def _flops(run: Run, possible: Sequence[Layout], efficiency: Efficiency) -> float:
    cluster = replace(run.cluster, efficiency=efficiency)
    seconds = min(step_seconds(run.model, cluster, layout).total for layout in possible)
    counted = run.layout.recomputation if run.counts == "hardware" else "none"
    return run.model.hardware_flop(counted) * run.layout.batch / seconds / cluster.gpus


def test_the_constants_are_those_that_calibration_finds() -> None:
    found = set_constants()
    for stored, name in ((A100_EFFICIENCY, "A100"), (H100_EFFICIENCY, "H100"), (DEEPSPEED_2021, "DeepSpeed 2021")):
        for constant, value in vars(stored).items():
            assert value == pytest.approx(getattr(found[name], constant), rel=0.01), (name, constant)


def test_calibration_finds_the_constants_behind_made_up_runs() -> None:
    truth = Efficiency(matmul=0.6, traffic=4.0, link=0.7, network=0.5)
    runs = [_made_up(run, truth) for run in RUNS if run.calibrates and run.cluster.efficiency == A100_EFFICIENCY]
    found = calibrate(runs, A100_EFFICIENCY)
    # Slower matrix products look much like more traffic: the constants are found less well than the runs.
    assert found.matmul == pytest.approx(truth.matmul, rel=0.05)
    errors = [abs(each.flops_error) for each in judge(replace(run, cluster=_with(run, found)) for run in runs)]
    assert statistics.mean(errors) < 0.01


def _made_up(run: Run, truth: Efficiency) -> Run:
    exact = replace(run, cluster=_with(run, truth))
    (found,) = judge([exact])
    return replace(run, flops=found.flops)


def _with(run: Run, efficiency: Efficiency):
    return replace(run.cluster, efficiency=efficiency)
