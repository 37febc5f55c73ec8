"""How far the planner is from published runs: its constants were set on some rows, and it is judged on the others.

The planner's constants are the four numbers of `Efficiency`. A test of the planner, `test_calibration.py`, finds them
again on the runs with `calibrates`; `judge` compares every run; `constant_error` is what anybody reaches who answers
with one number for all of them.
"""

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields

from torchcourse.lessons.model_parallelism.planner.layout import Layout
from torchcourse.lessons.model_parallelism.planner.memory import memory
from torchcourse.lessons.model_parallelism.planner.plans import Plan, plan
from torchcourse.lessons.model_parallelism.planner.published import RUNS, MemoryRow, Run
from torchcourse.lessons.model_parallelism.planner.search import layouts


@dataclass(frozen=True)
class Judgement:
    """A published run beside its plan. Errors are relative: 0.1 is 10 % too much."""

    run: Run
    plan: Plan

    @property
    def flops(self) -> float:
        """The planner's FLOP/s per GPU, with recomputation counted or not, as the source does."""
        return self.plan.hardware_flops if self.run.counts == "hardware" else self.plan.model_flops

    @property
    def flops_error(self) -> float:
        return self.flops / self.run.flops - 1


def judge(runs: Iterable[Run] = RUNS) -> list[Judgement]:
    """Return each run beside its plan. What a source does not state is the fastest that fits into the memory."""
    judgements = []
    for run in runs:
        plans = (plan(run.model, run.cluster, layout) for layout in candidates(run))
        judgements.append(Judgement(run, min(plans, key=lambda each: each.seconds.total)))
    return judgements


def mean_error(judgements: Sequence[Judgement]) -> float:
    """Return the mean relative error of FLOP/s per GPU."""
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
