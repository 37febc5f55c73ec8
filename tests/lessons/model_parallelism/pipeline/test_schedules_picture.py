"""The picture of a schedule: a finding from its values, the same in words, boxes where the simulation has spans."""

from dataclasses import replace

import pytest
from matplotlib.collections import PolyCollection

from torchcourse.lessons.model_parallelism.pipeline import SCHEDULES, Costs, one_f_one_b, simulate
from torchcourse.lessons.model_parallelism.pipeline.schedules_picture import (
    describe_schedule,
    draw_both,
    draw_schedule,
    schedule_picture,
)


def boxes(axis, lane):
    """The extents of the boxes of one lane: 0 for actions, 1 for memory."""
    lanes = [artist for artist in axis.collections if isinstance(artist, PolyCollection)]
    return [tuple(path.get_extents().extents.round(6)) for path in lanes[lane].get_paths()]


@pytest.mark.parametrize(
    ("values", "finding"),
    [
        (("GPipe", 4, 4, 2), "GPipe: the ranks wait 42.9% of the time, and hold up to 4 micro-batches"),
        (("1F1B", 8, 4, 1), "1F1B: the ranks wait 27.3% of the time, and hold up to 4 micro-batches"),
        (("interleaved 1F1B", 8, 4, 2), "interleaved 1F1B: the ranks wait 15.8% of the time, and hold up to 5.5"),
        (("zero-bubble (ZB-H1)", 8, 4, 2), "zero-bubble (ZB-H1): the ranks wait 11.1% of the time, and hold up to 4"),
        (("1F1B", 1, 1, 2), "1F1B: the ranks wait 0.0% of the time, and hold up to 1 micro-batch"),
    ],
)
def test_the_finding(values, finding):
    figure = draw_schedule(*values)
    assert figure.get_suptitle().startswith(finding)
    assert describe_schedule(*values).startswith(figure.get_suptitle())
    assert figure.axes[0].get_xlabel().startswith("time")


def test_a_box_is_where_the_simulation_has_its_span():
    figure = draw_schedule("1F1B", 4, 2, 2)
    line = simulate(one_f_one_b(2, 4))
    drawn = boxes(figure.axes[0], lane=0)
    assert drawn == [(float(s.start), s.rank - 0.45, float(s.end), s.rank + 0.05) for s in line.spans]
    assert [text.get_text() for text in figure.axes[0].texts[:2]] == ["holds ≤ 2", "holds ≤ 1"]
    heights = [round(top - bottom, 6) for _, bottom, _, top in boxes(figure.axes[0], lane=1)]
    assert max(heights) == 0.36  # two micro-batches on rank 0
    assert heights[-1] == 0.18  # one on rank 1


@pytest.mark.slow
def test_what_cannot_be_drawn_is_told_in_place_of_the_picture():
    picture = schedule_picture()
    schedule, micro_batches, *_, image = picture.children
    schedule.value = "interleaved 1F1B"
    assert "<img" in image.value
    micro_batches.value = 6
    assert "Not possible:" in image.value
    assert "Take a multiple of 4" in image.value


@pytest.mark.slow
def test_every_slider_changes_the_picture_and_all_schedules_draw():
    picture = schedule_picture()
    *controls, image = picture.children
    for control, value in zip(controls, ("1F1B", 8, 2, 1), strict=True):
        before = image.value
        control.value = value
        assert image.value != before
    for name in SCHEDULES:
        for ranks in (1, 8):
            assert draw_schedule(name, 24, ranks, 3).get_suptitle()


def test_ideal_and_measured_share_a_scale():
    ideal = simulate(one_f_one_b(2, 4), Costs(0.01, 0.02))
    slow = replace(ideal, spans=tuple(replace(s, start=2 * s.start, end=2 * s.end - 0.01) for s in ideal.spans))
    figure = draw_both(ideal, slow)
    assert figure.axes[0].get_xlim() == figure.axes[1].get_xlim() == (0, float(slow.length))
    assert figure.get_suptitle() == f"1F1B: 20% of the time lost by the rules, {slow.bubble:.0%} measured"
    assert [axis.get_ylabel() for axis in figure.axes] == ["simulated", "measured"]
