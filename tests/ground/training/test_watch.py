"""What the Trainer's looks into a model write, against the same values computed by hand."""

import copy

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from torchcourse.models import mlp, small_cnn
from torchcourse.training import Trainer, read_run, watch
from torchcourse.training.watch import dead_units

INPUTS = torch.randn(64, 6, generator=torch.Generator().manual_seed(0))
TARGETS = torch.randint(3, (64,), generator=torch.Generator().manual_seed(1))
LOADER = DataLoader(TensorDataset(INPUTS, TARGETS), batch_size=16)


def train(model, folder, epochs=2, **options):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    options = {"watch_every": 3, "progress": False, "log_dir": folder} | options
    trainer = Trainer(model, optimizer, nn.CrossEntropyLoss(), **options)
    trainer.fit(LOADER, epochs=epochs)
    return trainer


def model():
    torch.manual_seed(0)
    return mlp(6, 8, 3)


def test_a_look_writes_what_autograd_and_the_optimizer_did(tmp_path):
    net, twin = model(), model()
    train(net, tmp_path, epochs=1, watch_every=4)
    for inputs, targets in LOADER:
        before = copy.deepcopy(twin)
        twin.zero_grad()
        nn.functional.cross_entropy(twin(inputs), targets).backward()
        for parameter in twin.parameters():
            parameter.data -= 0.1 * parameter.grad
    run = read_run(tmp_path)
    assert run.scalars["gradient_norm/1.weight"][0] == [1, 4]
    for (name, parameter), old in zip(twin.named_parameters(), before.parameters(), strict=True):
        norm, moved = parameter.grad.norm().item(), ((parameter - old).norm() / old.norm()).item()
        assert run.last("gradient_norm")[name] == pytest.approx(norm, rel=1e-4)
        assert run.last("update_ratio")[name] == pytest.approx(moved, rel=1e-4)
        assert run.histograms[f"gradients/{name}"][-1][1].norm == pytest.approx(norm, rel=1e-4)
        assert run.histograms[f"weights/{name}"][-1][1].std == pytest.approx(
            parameter.std(correction=0).item(), rel=1e-4
        )
    every = torch.cat([parameter.grad.flatten() for parameter in twin.parameters()]).norm().item()
    assert run.last("gradient_norm")["all"] == pytest.approx(every, rel=1e-4)
    activations = run.histograms["activations/2"][-1][1]
    assert activations.number == 16 * 8
    assert run.last("dead").keys() == {"2"}


def test_looks_change_nothing_about_the_training(tmp_path):
    watched, plain = model(), model()
    train(watched, tmp_path / "a", watch_every=1)
    train(plain, tmp_path / "b", watch_every=0)
    assert all(torch.equal(a, b) for a, b in zip(watched.parameters(), plain.parameters(), strict=True))
    assert read_run(tmp_path / "b").histograms == {}
    assert not any(module._forward_hooks for module in watched.modules())


def test_it_looks_at_the_first_step_and_at_every_nth(tmp_path):
    train(model(), tmp_path, epochs=2)
    assert [step for step, _ in read_run(tmp_path).histograms["weights/1.weight"]] == [1, 3, 6]


def test_frozen_parameters_and_buffers_are_left_out(tmp_path):
    net = nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 3))
    net[0].requires_grad_(False)
    train(net, tmp_path)
    names = {"1.weight", "1.bias", "3.weight", "3.bias"}
    assert read_run(tmp_path).last("update_ratio").keys() == names


def test_a_step_that_fails_leaves_no_hook_behind(tmp_path):
    net = model()

    def loss_fn(outputs, targets):
        raise KeyError("mine")

    trainer = Trainer(net, torch.optim.SGD(net.parameters(), lr=0.1), loss_fn, log_dir=tmp_path, progress=False)
    with pytest.raises(KeyError):
        trainer.fit(LOADER, epochs=1)
    assert not any(module._forward_hooks for module in net.modules())


def test_gradients_are_clipped_and_accumulated_ones(tmp_path):
    train(model(), tmp_path, clip_norm=0.01, accumulate=2, watch_every=1)
    assert max(read_run(tmp_path).scalars["gradient_norm/all"][1]) <= 0.0101


def test_a_dead_unit_is_0_for_the_whole_batch():
    output = torch.tensor([[0.0, 1.0, 0.0], [0.0, 0.0, 2.0]])
    assert dead_units(output).tolist() == [True, False, False]
    images = torch.zeros(2, 3, 4, 4)
    images[1, 2, 3, 3] = 1.0
    assert dead_units(images).tolist() == [True, True, False]
    tokens = torch.zeros(2, 5, 3)
    tokens[0, 4, 1] = 1.0
    assert dead_units(tokens).tolist() == [True, False, True]


def test_dead_and_saturated_shares_are_written_for_the_layers_that_can(tmp_path):
    first, second = nn.Linear(6, 8), nn.Linear(8, 8)
    nn.init.constant_(first.bias, -100.0)
    nn.init.constant_(second.bias, 5.0)
    net = nn.Sequential(first, nn.ReLU(), second, nn.Tanh(), nn.Linear(8, 3))
    train(net, tmp_path, epochs=1, watch_every=1)
    run = read_run(tmp_path)
    assert run.last("dead") == {"1": 1.0}
    assert run.last("saturated")["3"] > 0.9
    assert run.histograms["activations/1"][-1][1].zeros == 1.0


def test_layers_of_images_are_watched(tmp_path):
    loader = DataLoader(TensorDataset(torch.randn(8, 1, 28, 28), torch.arange(8)), batch_size=8)
    net = small_cnn(width=4)
    trainer = Trainer(net, torch.optim.SGD(net.parameters(), lr=0.1), nn.CrossEntropyLoss(), log_dir=tmp_path)
    trainer.progress = False
    trainer.fit(loader, epochs=1)
    assert read_run(tmp_path).histograms["activations/2"][0][1].number == 8 * 4 * 28 * 28


def test_an_interval_that_makes_no_sense_is_refused():
    with pytest.raises(ValueError, match=r"watch_every has to be a whole number, or 0 for never, but is -1"):
        train(model(), None, watch_every=-1)


@pytest.mark.parametrize(("share", "looks"), [(1e9, [1, 100, 200]), (0.0, [1])], ids=["cheap", "dear"])
def test_by_default_a_look_that_costs_too_much_is_left_out(tmp_path, monkeypatch, share, looks):
    monkeypatch.setattr("torchcourse.training.watch._SHARE", share)
    train(model(), tmp_path, epochs=50, watch_every=None)
    assert [step for step, _ in read_run(tmp_path).histograms["weights/1.weight"]] == looks


def test_embeddings_with_sparse_gradients_are_looked_at(tmp_path):
    net = nn.Sequential(nn.EmbeddingBag(50, 4, sparse=True), nn.Linear(4, 3))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    words = DataLoader(TensorDataset(torch.randint(0, 50, (64, 5)), TARGETS), batch_size=16)
    trainer = Trainer(net, optimizer, nn.CrossEntropyLoss(), log_dir=tmp_path, watch_every=1, progress=False)
    trainer.fit(words, epochs=1)
    run = read_run(tmp_path)
    assert len(run.histograms["gradients/0.weight"]) == 4
    assert run.histograms["gradients/0.weight"][0][1].number == 200
    assert run.scalars["gradient_norm/0.weight"][1][-1] > 0


def test_a_lazy_layer_is_looked_at_once_it_has_a_shape(tmp_path):
    train(nn.Sequential(nn.LazyLinear(8), nn.ReLU(), nn.Linear(8, 3)), tmp_path, watch_every=1)
    run = read_run(tmp_path)
    assert run.scalars["update_ratio/0.weight"][0] == list(range(2, 9))
    assert run.scalars["update_ratio/2.weight"][0] == list(range(1, 9))


def test_activations_inside_vmap_are_left_out_and_the_rest_is_looked_at(tmp_path, capsys):
    class PerSample(nn.Module):
        def __init__(self):
            super().__init__()
            self.inside = model()

        def forward(self, x):
            return torch.func.vmap(self.inside)(x[:, None])[:, 0]

    train(PerSample(), tmp_path, epochs=1, watch_every=1)
    assert "no longer looked at" not in capsys.readouterr().out
    assert len(read_run(tmp_path).scalars["gradient_norm/all"][0]) == 4


def test_looking_never_ends_a_run(tmp_path, monkeypatch, capsys):
    def fail(tensors):
        raise RuntimeError("no room for a histogram")

    monkeypatch.setattr(watch, "measure", fail)
    trainer = train(model(), tmp_path, watch_every=1)
    assert trainer.position.step == 8
    assert capsys.readouterr().out.count("no longer looked at: no room for a histogram") == 1


def test_units_of_a_single_sample():
    assert dead_units(torch.tensor([0.0, 1.0])).tolist() == [True, False]
