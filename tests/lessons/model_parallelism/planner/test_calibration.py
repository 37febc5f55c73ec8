"""The planner's constants are at the bottom of the error over the sources that set them."""

from dataclasses import replace

import pytest

from torchcourse.lessons.model_parallelism.planner.accuracy import judge
from torchcourse.lessons.model_parallelism.planner.calibration import (
    NAMES,
    Constants,
    large_sources,
    loss,
    planned_flops,
)
from torchcourse.lessons.model_parallelism.planner.published import RUNS, SETTING


@pytest.mark.parametrize("name", NAMES)
def test_no_constant_can_be_moved_for_the_better(name: str) -> None:
    chosen = Constants()
    best = loss(chosen, SETTING)
    for factor in (0.9, 1.1):
        assert loss(replace(chosen, **{name: factor * getattr(chosen, name)}), SETTING) > best - 0.01


def test_the_constants_are_the_planners_own() -> None:
    for each in judge(RUNS[::9]):
        assert planned_flops(each.run, Constants()) == pytest.approx(each.flops)


def test_sources_of_a_row_or_two_set_nothing() -> None:
    assert {"llama-3", "torchtitan-a100", "megatron-2022-data"}.isdisjoint(large_sources())
    assert set(SETTING) < set(large_sources())
