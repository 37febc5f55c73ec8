"""Fine-tuning trains what it is told to, at the rates it is told, in one process and on ranks."""

import copy
import pickle

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import TensorDataset

from torchcourse.data import make_loader
from torchcourse.lessons.transfer import finetune
from torchcourse.lessons.transfer.backbones import Classifier, mnist_cnn
from torchcourse.lessons.transfer.finetune import (
    falling_rates,
    freeze,
    freeze_norms,
    gradually,
    rate_groups,
    trainable_bytes,
    unfreeze,
)
from torchcourse.models import mlp
from torchcourse.ranks import run_ranks
from torchcourse.training import Trainer


@pytest.fixture
def model():
    return Classifier(mnist_cnn(), num_classes=10)


def learning(model):
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


def test_freezing_is_by_name(model):
    assert set(freeze(model, "body")) == {name for name, _ in model.named_parameters() if name.startswith("body")}
    assert learning(model) == {"head.weight", "head.bias"}
    assert trainable_bytes(model) == 4 * (64 * 10 + 10)
    unfreeze(model, "body.conv2", "*.norm2.bias")
    assert learning(model) == {"head.weight", "head.bias", "body.conv2.weight", "body.conv2.bias", "body.norm2.bias"}
    freeze(model)
    assert learning(model) == set()
    assert trainable_bytes(model) == 0


def test_freezing_drops_old_gradients(model):
    model(torch.randn(4, 1, 28, 28)).sum().backward()
    freeze(model, "body")
    assert model.body.conv1.weight.grad is None
    assert model.head.weight.grad is not None


@pytest.mark.parametrize(
    "call", [freeze, unfreeze, lambda m, n: rate_groups(m, {n: 1.0}), lambda m, n: next(gradually(m, [n]))]
)
def test_a_name_that_nobody_has_is_named_with_those_there_are(model, call):
    with pytest.raises(ValueError, match=r"'body\.conv'.*body\.conv1, body\.norm1.*head\.weight"):
        call(model, "body.conv")


def test_each_parameter_gets_the_rate_of_the_longest_name(model):
    freeze(model, "body.conv1")
    groups = rate_groups(model, {"head": 1e-2, "body": 1e-4, "body.dense": 1e-3, "body.conv1": 7.0})
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    rates = {names[id(parameter)]: group["lr"] for group in groups for parameter in group["params"]}
    assert set(rates) == learning(model)
    assert rates["head.bias"] == 1e-2
    assert rates["body.dense.weight"] == 1e-3
    assert rates["body.norm2.weight"] == rates["body.conv2.bias"] == 1e-4
    assert 7.0 not in rates.values()
    assert sum(len(group["params"]) for group in groups) == len(rates)


def test_a_parameter_without_a_rate_is_named(model):
    with pytest.raises(ValueError, match=r"body\.conv1\.weight is to be trained"):
        rate_groups(model, {"head": 1e-2})
    freeze(model, "body")
    assert [group["name"] for group in rate_groups(model, {"head": 1e-2})] == ["head"]


def test_rates_fall_by_a_factor():
    assert falling_rates(["head", "body.dense", "body"], top=1.0, factor=2) == {
        "head": 1,
        "body.dense": 0.5,
        "body": 0.25,
    }


def test_unfreezing_goes_from_the_head_down(model):
    model.requires_grad_(True)
    seen = [(stage, len(learning(model))) for stage in gradually(model, ["head", "body.dense", "body"])]
    assert seen == [("head", 2), ("body.dense", 4), ("body", 12)]


def test_frozen_statistics_stay_through_train_copies_and_other_norms(model):
    count = freeze_norms(model)
    assert count == 2
    assert freeze_norms(model) == 2
    for network in (model, copy.deepcopy(model)):
        network.train()
        before = network.body.norm1.running_mean.clone()
        out = network.body.norm1(torch.randn(8, 16, 5, 5) + 3)
        assert torch.equal(network.body.norm1.running_mean, before)
        assert out.mean() > 1
        assert network.body.norm1.weight.requires_grad
    assert model.state_dict().keys() == Classifier(mnist_cnn(), 10).state_dict().keys()
    assert freeze_norms(nn.Sequential(nn.BatchNorm1d(2), nn.BatchNorm3d(2), nn.LayerNorm(2))) == 2
    assert freeze_norms(mlp(3, 2)) == 0


def fine_tune():
    """Fine-tune a classifier whose conv1 is frozen, with frozen statistics and two rates; return its weights."""
    generator = torch.Generator().manual_seed(0)
    data = TensorDataset(torch.randn(40, 1, 28, 28, generator=generator), torch.arange(40) % 10)
    model = Classifier(mnist_cnn(), 10)
    freeze(model, "body.conv1", "body.norm1")
    freeze_norms(model)
    optimizer = torch.optim.SGD(rate_groups(model, {"head": 1e-2, "body": 1e-3}), lr=0.0)
    Trainer(model, optimizer, F.cross_entropy, progress=False, device="cpu").fit(make_loader(data, 10), 2)
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


@pytest.mark.slow
def test_ranks_fine_tune_as_one_process_does():
    alone, start = fine_tune(), Classifier(mnist_cnn(), 10).state_dict()
    for weights in run_ranks(fine_tune, world_size=2):
        for name, tensor in weights.items():
            torch.testing.assert_close(tensor, alone[name], rtol=1e-4, atol=1e-5)
    changed = {name for name in start if not torch.equal(start[name], alone[name])}
    assert changed == {name for name in start if name.startswith(("head", "body.conv2", "body.dense"))} | {
        "body.norm2.weight",
        "body.norm2.bias",
    }


class Tied(nn.Module):
    """Embedding and output layer share their weight, as in most language models."""

    def __init__(self):
        super().__init__()
        self.embed, self.body, self.head = nn.Embedding(9, 4), nn.Linear(4, 4), nn.Linear(4, 9, bias=False)
        self.head.weight = self.embed.weight


def test_a_parameter_that_layers_share_goes_by_each_of_its_names():
    model = Tied()
    assert freeze(model, "head") == ["head.weight"]
    assert learning(model) == {"body.weight", "body.bias"}
    assert unfreeze(model) == ["embed.weight", "body.weight", "body.bias"]
    rates = {group["name"]: len(group["params"]) for group in rate_groups(model, {"head": 1e-2, "body": 1e-3})}
    assert rates == {"head": 1, "body": 2}
    assert list(gradually(model, ["head", "body", "embed"])) == ["head", "body", "embed"]


class Activated(nn.BatchNorm2d):
    def forward(self, x):
        return F.relu(super().forward(x))


@pytest.mark.parametrize(
    ("norm", "shape"),
    [
        (lambda: Activated(3), (4, 3, 2, 2)),
        (lambda: nn.SyncBatchNorm(3), (4, 3, 2, 2)),
        (lambda: nn.InstanceNorm1d(3, track_running_stats=True), (4, 3, 5)),
    ],
    ids=["made from one", "SyncBatchNorm", "InstanceNorm"],
)
def test_every_kind_of_norm_keeps_its_statistics_and_its_copies_do(norm, shape, tmp_path):
    model = nn.Sequential(norm())
    assert freeze_norms(model) == freeze_norms(model) == 1
    torch.save(model, tmp_path / "model.pt")
    copies = [model, copy.deepcopy(model), torch.load(tmp_path / "model.pt", weights_only=False)]
    for one in copies:
        out = one.train()(torch.randn(shape) + 3)
        assert torch.equal(one[0].running_mean, torch.zeros(3))
        assert isinstance(one[0], type(norm()))
        assert bool((out >= 0).all()) or not isinstance(one[0], Activated)


def test_a_frozen_norm_of_another_class_still_has_copies():
    """Other tools change the class of a layer to one made from it: `fully_shard` does."""
    model = nn.Sequential(nn.BatchNorm1d(3))
    freeze_norms(model)
    model[0].__class__ = type("Sharded", (type(model[0]),), {})
    assert not copy.deepcopy(model).train()[0].training


def test_a_model_that_was_saved_whole_by_an_earlier_version_can_be_loaded():
    """Its classes were found by these names."""
    for kind in (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d):
        named = pickle.loads(b"ctorchcourse.lessons.transfer.finetune\nFrozen" + kind.__name__.encode() + b"\n.")
        assert named is finetune._frozen(kind)
    with pytest.raises(AttributeError, match="FrozenBatchNorm4d"):
        _ = finetune.FrozenBatchNorm4d


def test_a_norm_without_statistics_has_none_to_keep():
    model = nn.Sequential(nn.BatchNorm1d(3, track_running_stats=False), nn.InstanceNorm1d(3))
    assert freeze_norms(model) == 0
    with pytest.raises(ValueError, match="Run a batch through the model first"):
        freeze_norms(nn.Sequential(nn.LazyBatchNorm1d()))


@pytest.mark.parametrize("epochs", [0, 1.5])
def test_fine_tuning_of_no_epochs_is_refused(model, epochs):
    data = TensorDataset(torch.zeros(4, 1, 28, 28), torch.zeros(4, dtype=torch.long))
    with pytest.raises(ValueError, match="takes one epoch or more"):
        finetune.fine_tune(model, data, {"*": 1e-3}, epochs, 4)
