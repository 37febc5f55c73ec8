"""The planner's constants are at the bottom of the error over the sources that set them."""

from dataclasses import replace

import pytest

from torchcourse.lessons.model_parallelism.planner import memory
from torchcourse.lessons.model_parallelism.planner.accuracy import judge, memory_by_source
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


def memory_mistakes() -> tuple[int, float]:
    """Layouts of the sources that set the memory on the wrong side of `fits`, and the error of their bytes."""
    rows = [row for row in memory_by_source() if row.calibrates]
    errors = [row.error for row in rows if row.error is not None]
    return sum(row.refused + row.accepted for row in rows), max(errors)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("MESSAGES", (2 * 2**30, 4 * 2**30)),
        ("ALLOCATOR", (0.0, 0.1)),
        ("ALLOCATOR_IN_A_PIPELINE", (0.1, 0.2)),
    ],
)
def test_no_memory_constant_has_a_better_neighbor(
    monkeypatch: pytest.MonkeyPatch, name: str, values: tuple[float, float]
) -> None:
    """Fewer layouts on the wrong side, or as many and closer bytes, with errors above 15% out of question."""
    best = memory_mistakes()
    for value in values:
        monkeypatch.setattr(memory, name, value)
        wrong, error = memory_mistakes()
        assert (wrong, error) >= best or error > 0.15


def test_the_constants_are_the_planners_own() -> None:
    for each in judge(RUNS[::9]):
        assert planned_flops(each.run, Constants()) == pytest.approx(each.flops)


def test_sources_of_a_row_or_two_set_nothing() -> None:
    assert {"llama-3", "torchtitan-a100", "megatron-2022-data"}.isdisjoint(large_sources())
    assert set(SETTING) < set(large_sources())
