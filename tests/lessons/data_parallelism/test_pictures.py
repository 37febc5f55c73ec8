"""The pictures of lesson 01: titles that follow from the values, the same in words, and all sliders."""

import itertools
import json

import ipywidgets as widgets
import pytest
import torch
import torch.distributed as dist
from matplotlib.collections import PolyCollection
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from torch import nn

from torchcourse.figures import COLORS
from torchcourse.lessons.data_parallelism.collectives import ring_steps
from torchcourse.lessons.data_parallelism.collectives_picture import describe_ring, draw_ring, ring_picture
from torchcourse.lessons.data_parallelism.cost import AlphaBeta, Scaling
from torchcourse.lessons.data_parallelism.cost_picture import draw_alpha_beta, draw_scaling
from torchcourse.lessons.data_parallelism.memory import RECIPES, States
from torchcourse.lessons.data_parallelism.memory_picture import (
    describe_zero,
    draw_measured_memory,
    draw_zero,
    zero_picture,
)
from torchcourse.lessons.data_parallelism.timeline import Span
from torchcourse.lessons.data_parallelism.timeline_picture import (
    OUTPUTS_MB,
    bucket_picture,
    dataparallel_picture,
    describe_buckets,
    describe_dataparallel,
    draw_buckets,
    draw_dataparallel,
)
from torchcourse.lessons.data_parallelism.trace import overlap, read_trace
from torchcourse.lessons.data_parallelism.trace_picture import describe_trace, draw_trace, show_trace
from torchcourse.ranks import run_ranks

SMALL, LARGE = OUTPUTS_MB


def title(figure: Figure) -> str:
    return figure.get_suptitle()


def labelled(figure: Figure) -> bool:
    return all(axis.get_xlabel() for axis in figure.axes)


def colors(figure: Figure, axis: int = 0) -> list[tuple]:
    (boxes,) = [artist for artist in figure.axes[axis].collections if isinstance(artist, PolyCollection)][:1]
    return [tuple(color) for color in boxes.get_facecolor()]


def rgba(name: str) -> tuple:
    return to_rgba(COLORS[name])


# The ring


def test_ring_colours_follow_the_simulation() -> None:
    for ranks, step in ((2, 1), (4, 2), (4, 4), (5, 8)):
        state = ring_steps(ranks)[step]
        complete = sum(len(summed) == ranks for row in state.summed for summed in row)
        partial = sum(len(summed) for row in state.summed for summed in row if len(summed) < ranks)
        drawn = colors(draw_ring(ranks, step))
        assert len(drawn) == ranks**3
        assert drawn.count(pytest.approx(rgba("green"))) == complete * ranks
        assert drawn.count(pytest.approx(rgba("blue"))) == partial


@pytest.mark.parametrize(
    ("ranks", "step", "finding"),
    [
        (4, 0, "Start: each of the 4 ranks has only its own numbers"),
        (4, 2, "Step 2 of 6, reduce-scatter: each rank has sent 0.50 tensors and has 0 of 4 sums"),
        (4, 3, "Step 3 of 6, reduce-scatter: each rank has sent 0.75 tensors and has 1 of 4 sums"),
        (4, 6, "Step 6 of 6, all-gather: each rank has sent 1.50 tensors and has 4 of 4 sums"),
        (2, 99, "Step 2 of 2, all-gather: each rank has sent 1.00 tensors and has 2 of 2 sums"),
    ],
)
def test_ring_says_what_was_sent_and_what_is_complete(ranks: int, step: int, finding: str) -> None:
    figure = draw_ring(ranks, step)
    assert title(figure) == finding
    assert labelled(figure)
    assert describe_ring(ranks, step).startswith(finding)


def test_ring_in_words_names_every_move() -> None:
    assert "chunk 3 from rank 0 to rank 1" in describe_ring(4, 1)
    assert "Nothing has moved yet" in describe_ring(4, 0)


def test_ring_refuses_what_does_not_exist() -> None:
    with pytest.raises(ValueError, match="number from 0"):
        draw_ring(4, -1)
    with pytest.raises(ValueError, match="at least 1 rank"):
        draw_ring(0, 0)


# Time lines


def test_dataparallel_title_has_the_ratio_of_the_times_and_of_the_memory() -> None:
    assert title(draw_dataparallel(4, 100, 128, 10, SMALL)) == (
        "DDP is 1.3× as fast; in DataParallel GPU 0 holds 13% more than the others"
    )
    assert "times as much as the others" in title(draw_dataparallel(8, 100, 128, 10, LARGE))
    words = describe_dataparallel(4, 100, 128, 10, SMALL)
    assert "107 ms per step" in words
    assert "3.1 GB on GPU 0, 2.8 GB on each of the others" in words


def test_time_lines_say_that_they_are_modelled() -> None:
    for figure in (draw_dataparallel(2, 100, 128, 10, SMALL), draw_buckets(25, 8, 200, 10)):
        assert labelled(figure)
        assert "modeled" in figure.axes[0].get_xlabel()


def test_buckets_title_and_best_size() -> None:
    assert title(draw_buckets(25, 8, 200, 10)).startswith("Buckets of 25 MB hide 88% of the communication: 86 ms")
    assert "hide 0% of" in title(draw_buckets(1000, 8, 200, 10))
    assert "The shortest step, 82 ms, has buckets of 2 MB" in describe_buckets(25, 8, 200, 10)


# Memory


def test_zero_names_the_first_stage_that_fits() -> None:
    arguments = "mixed precision, Adam"
    assert title(draw_zero(7.5, 64, 80, arguments)) == (
        "7.5 billion parameters on 64 ranks: stage 1 fits into 80 GB, with 31.4 GB per rank"
    )
    assert "DDP fits into 16 GB" in title(draw_zero(0.1, 1, 16, arguments))
    assert "on 1 rank: not even stage 3 fits" in title(draw_zero(405, 1, 80, arguments))
    assert "stage 3, FSDP 1.88 GB" in describe_zero(7.5, 64, 80, arguments)
    assert labelled(draw_zero(70, 8, 80, arguments))


def test_numbers_at_the_bars_have_no_exponent() -> None:
    texts = [text.get_text().strip() for text in draw_zero(70, 8, 80, "mixed precision, Adam").axes[0].texts]
    assert texts[:4] == ["1120", "385", "262", "140"]


@pytest.mark.parametrize(("memory", "drawn"), [(24, True), (141, True), (192, False)])
def test_a_gpu_far_larger_than_the_states_does_not_squeeze_the_bars(memory: int, drawn: bool) -> None:
    axis = draw_zero(7.5, 64, memory, "mixed precision, Adam").axes[0]
    assert [list(line.get_xdata()) for line in axis.lines] == ([[memory, memory]] if drawn else [])
    assert any(f"a GPU has {memory} GB" in text.get_text() for text in axis.texts)
    assert axis.get_xlim()[1] < 1.5 * 120


def test_measured_memory_beside_the_formula() -> None:
    formula = {"DDP": States(100, 100, 200), "stage 1": States(100, 100, 100)}
    assert title(draw_measured_memory(formula, formula)) == "A rank holds exactly what the formula says"
    measured = {"DDP": States(100, 100, 200), "stage 1": States(100, 100, 130)}
    figure = draw_measured_memory(measured, formula)
    assert title(figure) == "Measured and formula differ by at most 10.0%"
    assert len(colors(figure)) == 4 * 3


# Scaling


def test_alpha_beta_title_has_the_constants() -> None:
    figure = draw_alpha_beta(AlphaBeta(2e-4, 1e-9, 2, (1000, 1_000_000), (5e-4, 1.5e-3)))
    assert title(figure) == "2 ranks: α = 200 µs per message, 1/β = 1 GB per second"
    assert labelled(figure)


def test_scaling_compares_with_prediction_and_amdahl() -> None:
    measured = [Scaling(1, 1.0, 64), Scaling(2, 0.6, 64), Scaling(4, 0.5, 64)]
    figure = draw_scaling(measured, [1.0, 0.55, 0.3])
    assert title(figure) == "4 ranks train 2 times as fast as one: 50% efficient"
    lines = {line.get_label(): list(line.get_ydata()) for line in figure.axes[0].lines}
    assert lines["measured"] == pytest.approx([1, 1 / 0.6, 2])
    assert lines["α–β prediction"] == pytest.approx([1, 1 / 0.55, 1 / 0.3])
    assert lines["Amdahl, 20% serial"] == pytest.approx([1, 1 / 0.6, 2.5])
    with pytest.raises(ValueError, match="with 1 first"):
        draw_scaling(measured[1:], [0.55, 0.3])


# Traces

SPANS = [
    Span(0, "forward", 100.0, 104.0),
    Span(0, "backward", 104.0, 107.0),
    Span(0, "backward", 104.5, 105.0),  # inside the one before
    Span(0, "backward", 106.0, 110.0),
    Span(0, "copy", 108.0, 112.0),
    Span(0, "copy", 111.0, 113.0),
    Span(1, "backward", 100.0, 101.0),
    Span(1, "copy", 101.0, 106.0),
]


def test_overlap_counts_each_moment_once() -> None:
    assert overlap(SPANS) == pytest.approx((2 + 0) / (5 + 5))
    assert "Rank 0 computes for 10.0 ms and communicates for 5.0 ms, 2.0 ms of it at the same time" in describe_trace(
        SPANS
    )
    assert title(draw_trace(SPANS)) == "20% of the communication runs while the same rank computes"
    assert title(draw_trace(SPANS[:2])) == "Nothing was sent"
    with pytest.raises(ValueError, match="no communication"):
        overlap(SPANS[:2])


def profiled_step(folder: str) -> None:
    model = nn.parallel.DistributedDataParallel(nn.Sequential(*[nn.Linear(64, 64) for _ in range(4)]))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profiler:
        model(torch.randn(32, 64)).sum().backward()
        optimizer.step()
    profiler.export_chrome_trace(f"{folder}/trace_{dist.get_rank()}.json")


def test_a_real_trace_is_read_and_drawn(tmp_path, capsys) -> None:
    run_ranks(profiled_step, str(tmp_path), world_size=2)
    paths = [tmp_path / f"trace_{rank}.json" for rank in range(2)]
    spans = [span for path in paths for span in read_trace(path)]
    for rank in range(2):
        mine = [span for span in spans if span.device == rank]
        assert {span.kind for span in mine} == {"forward", "backward", "copy", "optimizer"}
        forward = next(span for span in mine if span.kind == "forward")
        assert all(span.start >= forward.end for span in mine if span.kind == "backward")
    assert max(span.end for span in spans) - min(span.start for span in spans) < 60_000
    show_trace(*paths)
    assert "of the communication runs" in capsys.readouterr().out


def test_kernels_of_a_gpu_trace_are_told_apart(tmp_path) -> None:
    events = [
        {"ph": "X", "cat": "kernel", "name": "sgemm", "ts": 1000.0, "dur": 500.0},
        {"ph": "X", "cat": "kernel", "name": "ncclDevKernel_AllReduce_Sum_f32", "ts": 1250.0, "dur": 500.0},
        {"ph": "X", "cat": "cpu_op", "name": "autograd::engine::evaluate_function: MulBackward0", "ts": 0, "dur": 1},
        {"ph": "i", "name": "an instant"},
    ]
    path = tmp_path / "trace.json"
    path.write_text(json.dumps({"traceEvents": events, "distributedInfo": {"rank": 3}}))
    assert read_trace(path) == [Span(3, "backward", 1.0, 1.5), Span(3, "copy", 1.25, 1.75)]


def test_a_trace_without_training_is_refused(tmp_path) -> None:
    path = tmp_path / "trace.json"
    path.write_text(json.dumps({"traceEvents": []}))
    with pytest.raises(ValueError, match="holds no step of training"):
        read_trace(path)


# Sliders


@pytest.mark.slow
@pytest.mark.parametrize("make", [ring_picture, dataparallel_picture, bucket_picture, zero_picture])
def test_every_control_can_go_to_both_its_ends(make) -> None:
    box = make()
    *controls, picture = box.children
    assert 'alt="' in picture.value
    first = picture.value
    for control in controls:
        assert control.description
        for value in ends(control):
            control.value = value
            assert picture.value.startswith("<img alt="), picture.value[:200]
    assert picture.value != first


def ends(control: widgets.Widget) -> list:
    if isinstance(control, (widgets.SelectionSlider, widgets.Dropdown)):
        options = control.options
        return [options[0], options[-1]]
    return [control.min, control.max]


@pytest.mark.slow
def test_the_ring_has_as_many_steps_as_its_ranks_need() -> None:
    ranks, step, picture = ring_picture().children
    assert step.max == 6
    step.value = 6
    ranks.value = 2
    assert (step.max, step.value) == (2, 2)
    assert "Step 2 of 2" in picture.value


@pytest.mark.slow
def test_every_recipe_and_output_can_be_drawn() -> None:
    for recipe, output in itertools.product(RECIPES, OUTPUTS_MB):
        assert title(draw_zero(1, 8, 80, recipe))
        assert title(draw_dataparallel(2, 100, 32, 10, output))
