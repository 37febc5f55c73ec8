"""The diagnosis names sick runs that its limits were not set on: other networks, seeds, data and optimizers."""

import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

from torchcourse.data import make_loader
from torchcourse.lessons.monitoring import sick_runs
from torchcourse.lessons.monitoring.diagnosis import diagnose, judge_fit, layer_gradients
from torchcourse.training import Monitor, Trainer, read_run
from torchcourse.training.histograms import measure

SICK = ("exploding", "dead units", "saturated", "vanishing")


@pytest.fixture(scope="module", params=["narrow", "conv"])
def runs(request, tmp_path_factory):
    """A run of each kind, by kind, of a family that the limits were not set on."""
    folder = tmp_path_factory.mktemp("runs")
    return {
        kind: sick_runs.train(kind, folder / kind, seed=11, family=request.param, epochs=_epochs(kind))
        for kind in sick_runs.RECIPES
    }


def _epochs(kind):
    return None if kind in ("overfitting", "healthy") else 1


@pytest.mark.slow
def test_each_sickness_gets_its_name(runs):
    names = {kind: diagnose(run).name for kind, run in runs.items()}
    assert names == {kind: kind if kind in SICK else "healthy" for kind in runs}


@pytest.mark.slow
def test_the_fit_is_judged_from_the_curves(runs):
    for kind in ("overfitting", "underfitting"):
        assert judge_fit(runs[kind]).name == kind
    assert judge_fit(runs["healthy"]).name == "fitting"


@pytest.mark.slow
def test_the_evidence_names_layers_values_and_limits(runs):
    (sentence,) = diagnose(runs["vanishing"]).evidence
    first = next(iter(layer_gradients(runs["vanishing"])))
    assert f"gradient of {first} " in sentence
    assert "(limit 0.001)" in sentence
    assert all("are dead (limit 50%)" in sentence for sentence in diagnose(runs["dead units"]).evidence)
    assert repr(diagnose(runs["healthy"])).startswith("healthy\n  · gradient norm of all layers at most")


def clusters():
    generator = torch.Generator().manual_seed(0)
    targets = torch.randint(4, (800,), generator=generator)
    centres = torch.randn(4, 20, generator=generator)
    return TensorDataset(centres[targets] + torch.randn(800, 20, generator=generator), targets)


class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.norm, self.inner, self.act = nn.LayerNorm(width), nn.Linear(width, 40), nn.GELU()
        self.outer = nn.Linear(40, width)

    def forward(self, x):
        return x + self.outer(self.act(self.inner(self.norm(x))))


def small_start(scale):
    layers = []
    for number in range(6):
        layers += [nn.Linear(32 if number else 20, 32), nn.Tanh()]
    net = nn.Sequential(*layers, nn.Linear(32, 4))
    for layer in net:
        if isinstance(layer, nn.Linear):
            layer.weight.data *= scale
    return net


OTHERS = {
    "residual blocks with Adam": (
        lambda: nn.Sequential(nn.Linear(20, 32), Block(32), Block(32), Block(32), nn.Linear(32, 4)),
        lambda net: torch.optim.AdamW(net.parameters(), lr=3e-3),
        "healthy",
    ),
    "batch normalization": (
        lambda: nn.Sequential(nn.Linear(20, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 4)),
        lambda net: torch.optim.SGD(net.parameters(), lr=0.1),
        "healthy",
    ),
    "tanh from PyTorch's start": (
        lambda: small_start(1.7),
        lambda net: torch.optim.SGD(net.parameters(), lr=0.1),
        "healthy",
    ),
    "all weights too small": (
        lambda: small_start(0.2),
        lambda net: torch.optim.SGD(net.parameters(), lr=0.1),
        "vanishing",
    ),
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_data_networks_and_optimizers(name, tmp_path):
    torch.manual_seed(5)
    make, make_optimizer, expected = OTHERS[name]
    net = make()
    options = {"log_dir": tmp_path, "watch_every": 10, "progress": False}
    trainer = Trainer(net, make_optimizer(net), nn.functional.cross_entropy, **options)
    trainer.fit(make_loader(clusters(), 32), epochs=2)
    assert diagnose(read_run(tmp_path)).name == expected, diagnose(read_run(tmp_path))


def test_a_run_without_looks_or_curves_gets_one_sentence(tmp_path):
    net = nn.Linear(20, 4)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    options = {"log_dir": tmp_path, "watch_every": 0, "progress": False}
    Trainer(net, optimizer, nn.functional.cross_entropy, **options).fit(make_loader(clusters(), 32), epochs=1)
    with pytest.raises(
        ValueError, match=r"has no histograms of gradients and weights as a Trainer writes them\. Train it"
    ):
        diagnose(read_run(tmp_path))
    with pytest.raises(ValueError, match=r"has no curves loss/train and loss/val"):
        judge_fit(read_run(tmp_path))


def test_a_kind_that_there_is_not_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"no run of kind 'ill'. The kinds are healthy, vanishing"):
        sick_runs.train("ill", tmp_path)


def with_curves(folder, train, val):
    with Monitor(folder) as board:
        for step, losses in enumerate(zip(train, val, strict=True)):
            board.scalars(step, dict(zip(("loss/train", "loss/val"), losses, strict=True)))
    return read_run(folder)


NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("train", "val", "sentence"),
    [
        ([-1, -5, -9], [-1, -5, -9], "go down to -9.* losses below zero"),
        ([1, 0.5, NAN], [1, 0.5, 0.4], "end in nan .training. and 0.4"),
        ([1, 0.5, 0.4], [1, 0.5, INF], "and inf .validation.: it did not learn"),
    ],
)
def test_curves_that_ratios_cannot_judge_are_said(tmp_path, train, val, sentence):
    with pytest.raises(ValueError, match=sentence):
        judge_fit(with_curves(tmp_path, train, val))


def test_a_gap_in_a_curve_does_not_hide_what_follows(tmp_path):
    run = with_curves(tmp_path, [1, 0.5, 0.2, 0.1], [NAN, 0.4, 0.6, 0.9])
    assert judge_fit(run).name == "overfitting"


def test_histograms_of_another_writer_are_no_watched_run(tmp_path):
    with Monitor(tmp_path) as board:
        board.histograms(1, measure({"gradients/0.weight": torch.ones(4)}))
    with pytest.raises(ValueError, match="as a Trainer writes them"):
        diagnose(read_run(tmp_path))
