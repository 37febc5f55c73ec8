"""How far the planner is from published runs: its constants were set on some sources, and it is judged on the others.

The constants are those of `Efficiency` and of `memory`. A source sets constants as a whole or not at all
(`published.SETTING`). `judge` compares every run; `constant_error` is what anybody reaches who answers with one number
for all of them; `rank_correlation` says whether the better layout is known. `speed_table`, `order_table` and
`memory_table` are these as text.
"""

import itertools
import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields

from torchcourse.lessons.model_parallelism.planner.layout import Layout
from torchcourse.lessons.model_parallelism.planner.memory import fullest_gpu
from torchcourse.lessons.model_parallelism.planner.models import Model
from torchcourse.lessons.model_parallelism.planner.plans import Plan, plan
from torchcourse.lessons.model_parallelism.planner.published import MEMORY, MEMORY_SETTING, RUNS, MemoryRow, Run
from torchcourse.lessons.model_parallelism.planner.search import layouts


@dataclass(frozen=True)
class Judgement:
    """A published run beside its plan. Errors are relative: 0.1 is 10% too much."""

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


@dataclass(frozen=True)
class SourceRow:
    """How far the planner is from the runs of one source.

    Attributes:
        key: of the source.
        counts: whether it counts recomputation ("hardware") or not ("model").
        error, constant: mean relative error of the planner, and of the best constant.
        rank: rank correlation over the layouts of one model on as many GPUs, the one with the most rows; `None` for
            fewer than six.
        calibrates: whether the source set constants.
    """

    key: str
    counts: str
    rows: int
    error: float
    constant: float
    rank: float | None
    calibrates: bool


def by_source(judgements: Sequence[Judgement]) -> list[SourceRow]:
    """Return a row for each source, those that set nothing first."""
    rows = []
    for key in dict.fromkeys(each.run.key for each in judgements):
        own = [each for each in judgements if each.run.key == key]
        largest = max(_comparable(own), key=len)
        rank = rank_correlation(largest) if len(largest) > 5 else None
        first = own[0].run
        errors = mean_error(own), constant_error(own)
        rows.append(SourceRow(key, first.counts, len(own), *errors, rank, first.calibrates))
    return sorted(rows, key=lambda row: row.calibrates)


def speed_table(judgements: Sequence[Judgement]) -> str:
    """Return the rows of `by_source` as text, under their heads."""
    lines = [f"{'source':22}{'rows':>5}  {'counts':10}{'planner':>8}{'constant':>10}{'rank':>7}"]
    for row in by_source(judgements):
        rank = "" if row.rank is None else f"{row.rank:.2f}"
        line = f"{row.key:22}{row.rows:5}  {row.counts:10}{row.error:8.0%}{row.constant:10.0%}{rank:>7}"
        lines.append(line + _sets(row.calibrates))
    return "\n".join(lines)


def _sets(calibrates: bool) -> str:
    return ", sets constants" if calibrates else ""


@dataclass(frozen=True)
class MemoryOfSource:
    """How well the planner knows the memory of one source.

    Attributes:
        measured: how many rows have measured bytes of a whole GPU.
        error: their mean relative error, and None if there are none.
        ran, refused: runs, and those of them that the planner says do not fit.
        failed, accepted: layouts that ran out of memory, and those of them that the planner says do fit.
        calibrates: whether the source set the memory's constants.
    """

    key: str
    measured: int
    error: float | None
    ran: int
    refused: int
    failed: int
    accepted: int
    calibrates: bool


def memory_by_source() -> list[MemoryOfSource]:
    """Return a row for each source that ran, those that set nothing first. Paper sums are left out."""
    found = []
    keys = [*(run.key for run in RUNS), *(row.key for row in MEMORY)]
    for key in dict.fromkeys(keys):
        totals = [row for row in MEMORY if row.key == key and row.part == "total"]
        errors = [abs(memory_error(row)) for row in totals if math.isfinite(row.size)]
        failed = [row for row in totals if math.isinf(row.size)]
        ran = [run for run in RUNS if run.key == key]
        if not ran and not errors:
            continue
        found.append(
            MemoryOfSource(
                key,
                measured=len(errors),
                error=statistics.mean(errors) if errors else None,
                ran=len(ran),
                refused=sum(not _any_fits(run, candidates(run)) for run in ran),
                failed=len(failed),
                accepted=sum(_any_fits(row, [row.layout]) for row in failed),
                calibrates=key in MEMORY_SETTING,
            )
        )
    return sorted(found, key=lambda row: row.calibrates)


def memory_table() -> str:
    """Return the rows of `memory_by_source` as text, under their heads."""
    lines = [f"{'source':22}{'bytes':>6}{'off by':>8}{'ran':>6}{'refused':>9}{'ran out':>9}{'accepted':>10}"]
    for row in memory_by_source():
        error = "" if row.error is None else f"{row.error:.0%}"
        line = f"{row.key:22}{row.measured:6}{error:>8}{row.ran:6}{row.refused:9}{row.failed:9}{row.accepted:10}"
        lines.append(line + _sets(row.calibrates))
    return "\n".join(lines)


def _any_fits(row: Run | MemoryRow, possible: Iterable[Layout]) -> bool:
    return any(plan(row.model, row.cluster, layout).fits for layout in possible)


def rank_correlation(judgements: Sequence[Judgement]) -> float:
    """Return Spearman's rank correlation of planned and published FLOP/s: 1 for the same order, 0 for none."""
    planned, published = _ranks([each.flops for each in judgements]), _ranks([each.run.flops for each in judgements])
    return statistics.correlation(planned, published)


@dataclass(frozen=True)
class OrderRow:
    """How often the planner knows which of two layouts is faster.

    Attributes:
        least, most: by how much the planned speeds differ, as a share of the slower one.
        pairs, right: pairs of layouts, and those that the planner puts into the published order.
    """

    least: float
    most: float
    pairs: int
    right: int


def order_by_gap(judgements: Sequence[Judgement], limits: Sequence[float] = (0.05, 0.1)) -> list[OrderRow]:
    """Return how often two layouts of one model, on as many GPUs of one source, are in the right order, by their gap.

    Recomputation counts for neither side. Pairs that are equally fast, planned or published, are left out.
    """
    found = []
    for one, other in (pair for group in _comparable(judgements) for pair in itertools.combinations(group, 2)):
        planned, published = one.plan.model_flops / other.plan.model_flops, _useful(one.run) / _useful(other.run)
        if planned != 1 and published != 1:
            found.append((max(planned, 1 / planned) - 1, (planned > 1) == (published > 1)))
    bounds = zip((0.0, *limits), (*limits, math.inf), strict=True)
    bins = {(least, most): [right for gap, right in found if least <= gap < most] for least, most in bounds}
    return [OrderRow(*bound, len(right), sum(right)) for bound, right in bins.items()]


def order_table(judgements: Sequence[Judgement]) -> str:
    """Return the rows of `order_by_gap` as text."""
    lines = []
    for row in order_by_gap(judgements):
        apart = f"{row.least:.0%} to {row.most:.0%}" if row.most < 1 else f"over {row.least:.0%}"
        lines.append(f"planned {apart:9} apart: {row.pairs} pairs, {row.right / row.pairs:.0%} in the right order")
    return "\n".join(lines)


def _comparable(judgements: Sequence[Judgement]) -> list[list[Judgement]]:
    """Return the layouts of one model on as many GPUs of one source, together."""
    groups: dict[tuple[str, Model, int], list[Judgement]] = {}
    for each in judgements:
        groups.setdefault((each.run.key, each.run.model, each.run.cluster.gpus), []).append(each)
    return list(groups.values())


def _useful(run: Run) -> float:
    """Return the published FLOP/s per GPU without recomputation."""
    counted = run.layout.recomputation if run.counts == "hardware" else "none"
    return run.flops * run.model.model_flop / run.model.hardware_flop(counted, run.layout.every)


def _ranks(values: Sequence[float]) -> list[float]:
    return [sum(each < value for each in values) + sum(each == value for each in values) / 2 for value in values]


def memory_error(row: MemoryRow) -> float:
    """Return the relative error of the planned bytes."""
    return planned_memory(row) / row.size - 1


def planned_memory(row: MemoryRow) -> float:
    """Return the planner's bytes for a published row."""
    return getattr(fullest_gpu(row.model, row.cluster, row.layout), row.part)


def candidates(run: Run) -> list[Layout]:
    """Return the layouts that a published run can have had: those that fit into the memory, if any does."""
    free = (*run.unstated, "batch")
    stated = {field.name: getattr(run.layout, field.name) for field in fields(Layout) if field.name not in free}
    possible = list(layouts(run.model, run.cluster, run.layout.batch, **stated))
    fitting = [each for each in possible if plan(run.model, run.cluster, each).fits]
    return fitting or possible
