"""The planner's pictures: titles that follow from the values, the same in words, and all sliders."""

import ipywidgets as widgets
import pytest
from matplotlib.collections import PolyCollection

from torchcourse.lessons.model_parallelism.planner.accuracy import judge, mean_error
from torchcourse.lessons.model_parallelism.planner.plans_picture import (
    describe_plan,
    describe_seconds,
    draw_accuracy,
    draw_plan,
    draw_seconds,
    plan_on_a100,
    planner_picture,
)

SLIDERS = {
    "tensor": 8,
    "pipeline": 8,
    "interleaving": 1,
    "ZeRO_stage": 0,
    "micro_batch": 1,
    "recomputation": "full",
    "GPUs": 512,
    "batch": 1536,
    "model": "GPT-3 175B",
}


def test_title_and_words_follow_the_plan() -> None:
    chosen = plan_on_a100(**SLIDERS)
    figure = draw_plan(chosen)
    gib = chosen.bytes.total / 2**30
    finding = f"GPT-3 175B on 8 tensor × 8 pipeline × 8 data: fits with {gib:.0f} GiB, MFU {chosen.mfu:.0%}"
    assert figure.get_suptitle() == finding
    assert describe_plan(chosen).startswith(finding)
    assert "optimizer 31.3 GiB" in describe_plan(chosen)
    assert all(axis.get_xlabel() for axis in figure.axes)
    large = plan_on_a100(**{**SLIDERS, "recomputation": "none", "tensor": 2, "micro_batch": 8})
    assert "does not fit" in draw_plan(large).get_suptitle()


def test_bars_are_as_long_as_the_parts() -> None:
    chosen = plan_on_a100(**SLIDERS)
    for axis, parts, unit in zip(
        draw_plan(chosen).axes, (vars(chosen.bytes), vars(chosen.seconds)), (2**30, 1), strict=True
    ):
        (boxes,) = [artist for artist in axis.collections if isinstance(artist, PolyCollection)]
        ends = [path.vertices[:, 0].max() for path in boxes.get_paths()]
        assert ends[-1] == pytest.approx(sum(parts.values()) / unit)
        named = [text.get_text().split()[0] for text in axis.get_legend().get_texts()]
        assert named == [name for name, size in parts.items() if size > 0]


@pytest.mark.slow
def test_every_slider_draws_or_says_why_not() -> None:
    picture = planner_picture()
    *controls, shown = picture.children
    assert {control.description for control in controls} >= {"tensor", "pipeline", "interleaving", "micro batch"}
    controls[0].value = 1
    assert "<img" in shown.value
    pipeline = next(control for control in controls if control.description == "pipeline")
    assert isinstance(pipeline, widgets.SelectionSlider)
    pipeline.value = 1
    interleaving = next(control for control in controls if control.description == "interleaving")
    interleaving.value = 2
    assert "Not possible:" in shown.value
    assert "interleaving needs a pipeline" in shown.value


@pytest.mark.slow
def test_accuracy_shows_every_run_and_the_judged_ones_in_the_title() -> None:
    judgements = judge()
    judged = [each for each in judgements if not each.run.calibrates]
    figure = draw_accuracy(judgements)
    assert figure.get_suptitle() == (
        f"{len(judged)} runs of sources that set nothing: {mean_error(judged):.0%} off on average"
    )
    points = {line.get_label(): len(line.get_xdata()) for line in figure.axes[0].lines}
    assert points["judged"] == len(judged)
    assert points["sets constants"] == len(judgements) - len(judged)


def test_bars_of_several_plans_compare_those_that_fit() -> None:
    plans = {f"tensor {t}": plan_on_a100(**{**SLIDERS, "tensor": t, "pipeline": 64 // t}) for t in (2, 8, 16)}
    plans["whole"] = plan_on_a100(**{**SLIDERS, "tensor": 1, "pipeline": 1})
    assert [each.fits for each in plans.values()] == [True, True, True, False]
    figure = draw_seconds(plans)
    (axis,) = figure.axes
    ends = {label.get_text(): 0.0 for label in axis.get_yticklabels()}
    for bars in axis.containers:
        for name, bar in zip(ends, bars, strict=True):
            ends[name] = max(ends[name], bar.get_x() + bar.get_width())
    assert list(ends) == ["tensor 2", "tensor 8", "tensor 16", "whole, does not fit"]
    for end, each in zip(ends.values(), plans.values(), strict=True):
        assert end == pytest.approx(each.seconds.total)
    fitting = {name: plans[name].seconds.total for name in ("tensor 2", "tensor 8", "tensor 16")}
    assert figure.get_suptitle().startswith(
        f"{min(fitting, key=lambda name: fitting[name])}: {min(fitting.values()):.1f} s per step"
    )
    assert "whole:" in describe_seconds(plans)
    assert "does not fit" in describe_seconds(plans)
    assert draw_seconds({"whole": plans["whole"]}).get_suptitle() == "None of these layouts fits into the memory"


def test_a_bar_is_as_long_as_its_step_however_small_its_last_part_is():
    plans = {f"tensor {t}": plan_on_a100(**{**SLIDERS, "tensor": t, "pipeline": 64 // t, "GPUs": 64}) for t in (4, 8)}
    assert all(each.seconds.update < 0.01 * each.seconds.total for each in plans.values())
    (axis,) = draw_seconds(plans).axes
    ends = [max(bars[place].get_x() + bars[place].get_width() for bars in axis.containers) for place in range(2)]
    assert ends == pytest.approx([each.seconds.total for each in plans.values()])
