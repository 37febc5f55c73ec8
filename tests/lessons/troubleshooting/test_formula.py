"""The formula agrees with what the tracker measures, byte for byte where it claims to."""

import dataclasses

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from torchcourse.lessons.troubleshooting.formula import kept_by_layers, step_bytes
from torchcourse.lessons.troubleshooting.large_models import resnet50
from torchcourse.lessons.troubleshooting.simulated_device import fake_tensors
from torchcourse.lessons.troubleshooting.tracking import MemoryTracker
from torchcourse.models import mlp, small_cnn

SCALARS = 8  # the loss itself, and the sum of the weights that it divides by: a float32 each


def after_forward(model, shape):
    x, y = torch.randn(shape), torch.zeros(shape[0], dtype=torch.long)
    with MemoryTracker() as tracker:
        tracker.watch(model, x, y)
        loss = F.cross_entropy(model(x), y)
        kinds = tracker.by_kind()
    assert loss.shape == ()
    return kinds


def odd():
    dense = [nn.Linear(8, 32), nn.LayerNorm(32), nn.GELU(), nn.Dropout(0.5), nn.Linear(32, 32), nn.Tanh()]
    return nn.Sequential(*dense, nn.Linear(32, 32), nn.BatchNorm1d(32), nn.SiLU(), nn.Linear(32, 4))


def pooled():
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.ReLU(), nn.AvgPool2d(2), nn.Sigmoid(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    )


@pytest.mark.parametrize(
    ("model", "shape"),
    [(mlp(784, 64, 10), (64, 784)), (small_cnn(), (32, 1, 28, 28)), (odd(), (16, 8)), (pooled(), (4, 1, 8, 8))],
    ids=["mlp", "cnn", "odd", "pooled"],
)
def test_activations_are_right_to_the_byte(model, shape):
    assert step_bytes(model, shape).activations + SCALARS == after_forward(model, shape)["activations"]


@pytest.mark.slow
def test_resnet50_too():
    with fake_tensors():
        measured = after_forward(resnet50(), (64, 3, 224, 224))["activations"]
    assert step_bytes(resnet50(), (64, 3, 224, 224)).activations + SCALARS == measured


def test_states_follow_from_the_parameters_that_are_trained():
    model = mlp(10, 20, 5)
    model[1].requires_grad_(False)
    size = step_bytes(model, (3, 10))
    assert size.parameters == 4 * (220 + 105)
    assert size.optimizer == 2 * size.gradients == 2 * 4 * 105


@pytest.mark.slow
@pytest.mark.parametrize(("batch", "tolerance"), [(1, 0.01), (2000, 0.25)], ids=["optimizer", "activations"])
def test_the_peak_is_near_the_measured_one(batch, tolerance):
    model, x, y = mlp(64, *[512] * 10, 10), torch.randn(batch, 64), torch.zeros(batch, dtype=torch.long)
    optimizer = torch.optim.Adam(model.parameters(), foreach=False)
    with MemoryTracker() as tracker:
        tracker.watch(model, optimizer)
        for _ in range(2):
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
            optimizer.zero_grad()
    peak = step_bytes(model, (batch, 64)).peak
    assert peak <= tracker.peak <= (1 + tolerance) * peak


def test_half_the_bytes_a_number_half_the_memory():
    whole, half = step_bytes(mlp(10, 20, 5), (4, 10)), step_bytes(mlp(10, 20, 5).bfloat16(), (4, 10))
    assert dataclasses.astuple(whole) == tuple(2 * size for size in dataclasses.astuple(half))


def test_what_two_layers_share_counts_once():
    kept = dict(kept_by_layers(mlp(10, 20, 5), (4, 10)))
    assert kept == {"0": 0, "1": 0, "2": 4 * 4 * 20, "3": 0, "loss": 4 * 4 * 5}


def test_the_model_is_left_as_it_was():
    model = small_cnn().eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    step_bytes(model, (2, 1, 28, 28))
    assert not model.training
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert not any(module._forward_hooks for module in model.modules())


def test_a_layer_without_a_rule_is_named():
    with pytest.raises(ValueError, match=r"layer '1' \(Softplus\)"):
        step_bytes(nn.Sequential(nn.Linear(2, 2), nn.Softplus()), (1, 2))
