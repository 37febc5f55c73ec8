"""How far the planner is from published runs, and how its constants were set: on some rows, judged on the others.

The planner's constants are the four numbers of `Efficiency`. `calibrate` finds them on the runs with `calibrates`;
`judge` compares every run; `constant_error` is what anybody reaches who answers with one number for all of them.
"""

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace

from torchcourse.lessons.model_parallelism.planner.clusters import A100_EFFICIENCY, H100, Efficiency
from torchcourse.lessons.model_parallelism.planner.layout import Layout
from torchcourse.lessons.model_parallelism.planner.memory import memory
from torchcourse.lessons.model_parallelism.planner.plans import Plan, plan
from torchcourse.lessons.model_parallelism.planner.published import RUNS
from torchcourse.lessons.model_parallelism.planner.published_megatron import DEEPSPEED_2021
from torchcourse.lessons.model_parallelism.planner.published_memory import MemoryRow
from torchcourse.lessons.model_parallelism.planner.runs import Run
from torchcourse.lessons.model_parallelism.planner.search import layouts
from torchcourse.lessons.model_parallelism.planner.seconds import step_seconds

MOST = 0.9
"""No share grows above this: data parallelism alone would not say how fast the network is."""


@dataclass(frozen=True)
class Judgement:
    """A published run beside its plan. Errors are relative: 0.1 is 10 % too much."""

    run: Run
    plan: Plan

    @property
    def flops(self) -> float:
        """The planner's FLOP/s a GPU, with recomputation counted or not, as the source does."""
        return self.plan.hardware_flops if self.run.counts == "hardware" else self.plan.model_flops

    @property
    def flops_error(self) -> float:
        return self.flops / self.run.flops - 1

    @property
    def seconds(self) -> float:
        """The published seconds of a step, or those that follow from the published FLOP/s."""
        return self.run.seconds or self.plan.seconds.total * self.flops / self.run.flops

    @property
    def seconds_error(self) -> float:
        return self.plan.seconds.total / self.seconds - 1


def judge(runs: Iterable[Run] = RUNS) -> list[Judgement]:
    """Return each run beside its plan. What a source does not state is the fastest that fits into the memory."""
    judgements = []
    for run in runs:
        plans = (plan(run.model, run.cluster, layout) for layout in candidates(run))
        judgements.append(Judgement(run, min(plans, key=lambda each: each.seconds.total)))
    return judgements


def mean_error(judgements: Sequence[Judgement]) -> float:
    """Return the mean relative error of FLOP/s a GPU."""
    return statistics.mean(abs(each.flops_error) for each in judgements)


def constant_error(judgements: Sequence[Judgement]) -> float:
    """Return the mean relative error of the best constant: one number of FLOP/s for all of these runs.

    The best is among the runs' own numbers, since the error is a sum of absolute values.
    """
    published = [each.run.flops for each in judgements]
    return min(statistics.mean(abs(constant / flops - 1) for flops in published) for constant in published)


def memory_error(row: MemoryRow) -> float:
    """Return the relative error of the planned bytes."""
    return planned_memory(row) / row.size - 1


def planned_memory(row: MemoryRow) -> float:
    """Return the planner's bytes for a published row."""
    return getattr(memory(row.model, row.cluster, row.layout), row.part)


def candidates(run: Run) -> list[Layout]:
    """Return the layouts that a published run can have had: those that fit into the memory, if any does."""
    free = (*run.unstated, "batch")
    stated = {field.name: getattr(run.layout, field.name) for field in fields(Layout) if field.name not in free}
    possible = list(layouts(run.model, run.cluster, run.layout.batch, **stated))
    fitting = [each for each in possible if plan(run.model, run.cluster, each).fits]
    return fitting or possible


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


def error_table(judgements: Sequence[Judgement]) -> str:
    """Return a table of TFLOP/s a GPU, published and planned, in the order of the runs; a star sets constants."""
    rows = [
        f"{'*' if each.run.calibrates else ' '} {each.run.name:<33}{each.run.flops / 1e12:10.0f}"
        f"{each.flops / 1e12:9.0f}{each.flops_error:+9.1%}{each.seconds_error:+9.1%}"
        for each in judgements
    ]
    return "\n".join([f"{'':35}{'published':>10}{'planned':>9}{'error':>9}{'in time':>9}", *rows])


def _squared_error(possible: Sequence[tuple[Run, list[Layout]]], efficiency: Efficiency) -> float:
    return statistics.mean(math.log(_flops(run, each, efficiency) / run.flops) ** 2 for run, each in possible)


def _flops(run: Run, possible: Sequence[Layout], efficiency: Efficiency) -> float:
    cluster = replace(run.cluster, efficiency=efficiency)
    seconds = min(step_seconds(run.model, cluster, layout).total for layout in possible)
    counted = run.layout.recomputation if run.counts == "hardware" else "none"
    return run.model.hardware_flop(counted) * run.layout.batch / seconds / cluster.gpus
