"""The range test finds rates that train, measures before the step, and leaves no trace."""

import functools
import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from torchcourse.lessons.tuning import replay
from torchcourse.lessons.tuning.digits_task import SPACE, digits_cnn, parts
from torchcourse.lessons.tuning.lr_range import range_test
from torchcourse.lessons.tuning.lr_range_picture import draw_range_test, range_finding


def batches(seed=0):
    images, labels = parts()["train"]
    generator = torch.Generator().manual_seed(seed)
    while True:
        for rows in torch.randperm(len(images), generator=generator).split(32):
            yield images[rows], labels[rows]


def model_and_optimizer(seed=0):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = digits_cnn(16)
    return model, torch.optim.AdamW(model.parameters(), lr=0.123, weight_decay=0.0)


def test_the_suggestion_trains_well_according_to_the_table():
    model, optimizer = model_and_optimizer()
    before = [parameter.clone() for parameter in model.parameters()]
    curve = range_test(model, optimizer, batches(), F.cross_entropy)
    nearest = np.abs(np.log(np.array(SPACE["lr"]) / curve.suggestion)).argmin()
    assert replay.accuracies()[nearest, SPACE["width"].index(16), 1, 0, -1] > 0.85
    assert all(torch.equal(old, new) for old, new in zip(before, model.parameters(), strict=True))
    assert optimizer.param_groups[0]["lr"] == 0.123
    assert not optimizer.state
    assert "start with a tenth of it" in range_finding(curve)
    assert draw_range_test(curve, good=(1e-3, 0.02)).axes[0].get_title() == range_finding(curve)


def test_rates_grow_by_equal_factors_and_losses_come_before_the_step():
    weight = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.constant_(weight.weight, 1.0)
    optimizer = torch.optim.SGD(weight.parameters(), lr=9.0)
    data = itertools.repeat((torch.ones(1, 1), torch.zeros(1, 1)))
    curve = range_test(weight, optimizer, data, F.mse_loss, low=1e-3, high=10, steps=50)
    assert np.allclose(np.diff(np.log(curve.rates)), np.log(1e4) / 49)
    assert curve.losses[0] == 1  # nothing was trained yet
    assert curve.losses[1] == pytest.approx((1 - 2e-3) ** 2, rel=1e-5)
    assert len(curve.rates) < 50  # past a rate of 1 each step throws the weight further away
    assert weight.weight.item() == 1


def test_what_cannot_be_tested_is_said():
    model, optimizer = model_and_optimizer()
    with pytest.raises(ValueError, match="0 < low < high and 10 steps or more"):
        range_test(model, optimizer, batches(), F.cross_entropy, low=0)
    with pytest.raises(ValueError, match="ended after 3 steps"):
        range_test(model, optimizer, itertools.islice(batches(), 3), F.cross_entropy)
    with pytest.raises(ValueError, match="ended after 0 steps: the loss is not finite"):
        range_test(model, optimizer, batches(), lambda x, y: F.cross_entropy(x, y) * float("nan"))


def test_modes_and_gradients_are_put_back_too():
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(), nn.Linear(8, 3)).train()
    model[1].eval()
    model(torch.randn(5, 4)).sum().backward()
    before = [parameter.grad.clone() for parameter in model.parameters()]
    batch = torch.randn(6, 4), torch.arange(6) % 3
    range_test(model, torch.optim.SGD(model.parameters(), lr=0.1), itertools.repeat(batch), F.cross_entropy, steps=20)
    assert [part.training for part in (model, *model)] == [True, True, False, True, True]
    for parameter, gradient in zip(model.parameters(), before, strict=True):
        assert torch.equal(parameter.grad, gradient)


def shifted(shift, outputs, targets):
    return F.cross_entropy(outputs, targets) - shift


def test_losses_below_zero_end_no_test_that_goes_well():
    curves = []
    for shift in (0, 10):
        torch.manual_seed(0)
        model, batch = nn.Linear(4, 3), (torch.randn(6, 4), torch.arange(6) % 3)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        loss = functools.partial(shifted, shift)
        curves.append(range_test(model, optimizer, itertools.repeat(batch), loss, steps=30))
    assert len(curves[1].rates) == len(curves[0].rates) == 30
    assert curves[1].suggestion == curves[0].suggestion


@pytest.mark.parametrize("wrong", [{"steps": 30.5}, {"low": float("nan")}, {"high": float("inf")}])
def test_rates_that_lead_nowhere_are_refused(wrong):
    model, optimizer = model_and_optimizer()
    with pytest.raises(ValueError, match="needs 0 < low < high and 10 steps or more"):
        range_test(model, optimizer, batches(), F.cross_entropy, **wrong)
