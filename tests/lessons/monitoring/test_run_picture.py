"""The pictures of a run's log say what is in it."""

import pytest
import torch

from torchcourse import figures
from torchcourse.lessons.monitoring.run_picture import (
    describe_card,
    draw_card,
    draw_curves,
    draw_layers,
    draw_over_time,
)
from torchcourse.training import Monitor, read_run
from torchcourse.training.histograms import measure


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Two layers, three looks; the first layer's weights double, its gradients are 1e-6 times those of the last."""
    folder = tmp_path_factory.mktemp("run")
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(1000, generator=generator)
    values /= values.std()
    with Monitor(folder) as board:
        for step in (1, 2, 3):
            tensors = {"weights/0.weight": values * 0.1 * 2 ** ((step - 1) / 2), "weights/2.weight": values}
            gradients = {"gradients/0.weight": values * 1e-8, "gradients/2.weight": values * 1e-2}
            board.histograms(step, measure(tensors | gradients | {"activations/1": values.relu()}))
            board.scalars(step, {"loss/train": 3.0 / step, "loss/val": 2.0, "dead/1": 0.25, "gradient_norm/all": 0.3})
    return read_run(folder)


def test_the_card_names_spread_gradients_and_units(run):
    assert describe_card(run).startswith(
        "weights of layer 1 spread 0.1 → 0.2, gradient first/last layer 1e-06, 25% dead"
    )
    titles = [axes.get_title() for axes in draw_card(run, "mine").axes]
    assert titles[0] == "weights, layer 1: spread ×2"
    assert titles[1] == "gradients: 1e-08 to 1e-02"
    assert titles[2] == "dead units: 25%"
    assert titles[3] == "training loss: 3 to 1"


def test_layers_are_drawn_at_one_look(run):
    figure = draw_layers(run, "gradients", 2)
    assert figure.axes[0].get_title() == "gradients at step 2: typically 1e-08 in the first row, 0.01 in the last"
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["2.weight", "0.weight"]
    zeros = draw_layers(run, "activations", 3).axes[0].texts[0].get_text()
    assert zeros.endswith("% are 0")
    with pytest.raises(ValueError, match=r"looked at 3 times"):
        draw_layers(run, "weights", 4)


def test_one_histogram_is_drawn_over_time(run):
    title = draw_over_time(run, "weights/0.weight").axes[0].get_title()
    assert title == "weights/0.weight: standard deviation 0.1 at step 1, 0.2 at step 3"


@pytest.mark.parametrize(
    ("losses", "seen", "scale"),
    [
        ([float("nan")] * 3, (0, 1), "linear"),
        ([1.0, float("inf"), 2.0], (0, 2), "linear"),
        ([-1.0, -2.0, -9.0], (-9, -1), "linear"),
        ([200.0, 0.0, -5.0], (-5, 200), "linear"),
        ([500.0, 20.0, 3.0], (3, 500), "log"),
    ],
)
def test_curves_of_any_losses_are_seen_whole(losses, seen, scale, tmp_path):
    with Monitor(tmp_path) as board:
        for step, loss in enumerate(losses):
            board.scalars(step, {"loss/train": loss})
    figure, axes = figures.new(3, 2)
    draw_curves(axes, read_run(tmp_path))
    figure.savefig(tmp_path / "curves.png")
    low, high = axes.get_ylim()
    assert low <= seen[0]
    assert seen[1] <= high
    assert axes.get_yscale() == scale


def test_a_run_that_was_not_watched_has_no_card(tmp_path):
    with Monitor(tmp_path) as board:
        board.scalars(1, {"loss/train": 1.0})
    with pytest.raises(ValueError, match="as a Trainer writes them"):
        draw_card(read_run(tmp_path), "mine")
