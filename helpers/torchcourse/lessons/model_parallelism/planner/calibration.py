"""The planner's time constants, set on published runs: those of `clusters`, and what they would be without a source.

`set_on` searches for the constants with the smallest `loss` over some sources. `left_out` sets them on all sources but
one, and says how far the planner then is from that one: what to expect of a cluster that nobody has measured.
"""

import functools
import math
import statistics
from collections.abc import Iterable
from dataclasses import dataclass, replace

from torchcourse.lessons.model_parallelism.planner.accuracy import candidates
from torchcourse.lessons.model_parallelism.planner.clusters import A100_EFFICIENCY, H100, H100_EFFICIENCY, Efficiency
from torchcourse.lessons.model_parallelism.planner.layout import Layout
from torchcourse.lessons.model_parallelism.planner.published import RUNS, Run
from torchcourse.lessons.model_parallelism.planner.seconds import step_seconds

ENOUGH_RUNS = 8
"""A source with fewer runs neither sets constants nor is left out."""


@dataclass(frozen=True)
class Constants:
    """What is set on published runs. The names are those of `Efficiency`; every GPU but the H100 counts as an A100.

    `step_overhead` hardly changes the loss and stays as it is.
    """

    matmul_a100: float = A100_EFFICIENCY.matmul
    matmul_h100: float = H100_EFFICIENCY.matmul
    between_traffic: float = A100_EFFICIENCY.between_traffic
    pass_overhead: float = A100_EFFICIENCY.pass_overhead
    contention: float = A100_EFFICIENCY.contention

    def put_into(self, efficiency: Efficiency, h100: bool) -> Efficiency:
        return replace(
            efficiency,
            matmul=self.matmul_h100 if h100 else self.matmul_a100,
            between_traffic=self.between_traffic,
            pass_overhead=self.pass_overhead,
            contention=self.contention,
        )


NAMES = tuple(vars(Constants()))
STARTS = tuple(Constants(matmul, 0.8 * matmul, traffic, 0.5e-3, 0.2) for matmul in (0.7, 0.8) for traffic in (3.0, 9.0))
"""Where `set_on` starts. No source has a part in them."""


def planned_flops(run: Run, constants: Constants) -> float:
    """Return the planner's FLOP/s per GPU for a run, with other constants."""
    efficiency = constants.put_into(run.cluster.efficiency, h100=run.cluster.gpu is H100)
    cluster = replace(run.cluster, efficiency=efficiency)
    seconds = min(step_seconds(run.model, cluster, layout).total for layout in _layouts(run))
    counted = run.layout.recomputation if run.counts == "hardware" else "none"
    return run.model.hardware_flop(counted, run.layout.every) * run.layout.batch / seconds / cluster.gpus


def loss(constants: Constants, sources: Iterable[str]) -> float:
    """Return the mean over sources of log(1 + (e/0.1)²) for log errors e: each source counts once, far rows little."""
    by_source = []
    for key in sources:
        errors = (math.log(planned_flops(run, constants) / run.flops) for run in RUNS if run.key == key)
        by_source.append(statistics.mean(math.log(1 + (error / 0.1) ** 2) for error in errors))
    return statistics.mean(by_source)


def set_on(sources: Iterable[str]) -> Constants:
    """Return the constants with the smallest loss that a walk finds from any of `STARTS`."""
    sources = tuple(sources)
    return min((_walk(start, sources) for start in STARTS), key=lambda found: loss(found, sources))


def left_out(key: str) -> float:
    """Return the mean relative error of a source's runs when the constants are set on all other sources."""
    constants = set_on(source for source in large_sources() if source != key)
    return statistics.mean(abs(planned_flops(run, constants) / run.flops - 1) for run in RUNS if run.key == key)


def large_sources() -> list[str]:
    """Return the sources with enough runs."""
    keys = [run.key for run in RUNS]
    return [key for key in dict.fromkeys(keys) if keys.count(key) >= ENOUGH_RUNS]


@functools.cache
def _layouts(run: Run) -> tuple[Layout, ...]:
    return tuple(candidates(run)) if run.unstated else (run.layout,)


def _walk(best: Constants, sources: tuple[str, ...]) -> Constants:
    """Move each constant up or down as long as the loss falls, in shorter and shorter steps."""
    smallest, factors = loss(best, sources), dict.fromkeys(NAMES, 1.2)
    while max(factors.values()) > 1.02:
        for name in NAMES:
            for factor in (factors[name], 1 / factors[name]):
                moved = replace(best, **{name: getattr(best, name) * factor})
                if max(moved.matmul_a100, moved.matmul_h100) <= 1 and (found := loss(moved, sources)) < smallest:
                    best, smallest = moved, found
                    break
            else:
                factors[name] **= 0.5
    return best
