"""The backward pass in two halves: together they are the whole one."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.utils import weight_norm as weight_norm_as_a_hook
from torch.nn.utils.prune import random_unstructured

from torchcourse.lessons.model_parallelism.pipeline.split_backward import collecting, put_off, split
from torchcourse.models import TransformerBlock


def small(bias=True):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 5, bias=bias), nn.Tanh(), nn.Linear(5, 2, bias=bias)).double()


@pytest.mark.parametrize("stage", [small(), small(bias=False), TransformerBlock(4, 2).double()])
def test_both_halves_are_the_whole(stage):
    whole, x = copy.deepcopy(stage), torch.randn(6, 3 if isinstance(stage, nn.Sequential) else 4, dtype=torch.float64)
    x = x if isinstance(stage, nn.Sequential) else x.expand(2, 6, 4)
    a, b = x.clone().requires_grad_(), x.clone().requires_grad_()
    for _ in range(2):  # gradients add up
        whole(a).square().sum().backward()
        with collecting() as later:
            split(stage)(b).square().sum().backward()
        for work in later:
            work()
    torch.testing.assert_close(b.grad, a.grad, rtol=1e-12, atol=1e-12)
    for ours, right in zip(stage.parameters(), whole.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, right.grad, rtol=1e-12, atol=1e-12)


def test_the_first_half_leaves_out_the_weights():
    stage, x = split(small()), torch.ones(1, 3, dtype=torch.float64, requires_grad=True)
    with collecting() as later:
        stage(x).sum().backward()
    assert x.grad is not None
    assert len(later) == 2
    assert [parameter.grad for parameter in stage.parameters()] == [None] * 4


def test_a_frozen_weight_gets_no_gradient():
    stage = split(small())
    stage[0].weight.requires_grad_(False)
    stage(torch.ones(1, 3, dtype=torch.float64)).sum().backward()
    assert stage[0].weight.grad is None
    assert stage[0].bias.grad is not None


def test_what_is_put_off_while_nobody_collects_is_done_at_once():
    done = []
    put_off(lambda: done.append(1))
    assert done == [1]
    with collecting() as later:
        put_off(lambda: done.append(2))
    assert done == [1]
    assert len(later) == 1


def both_halves(stage, x):
    with collecting() as later:
        split(stage)(x).square().sum().backward()
    for work in later:
        work()
    return [parameter.grad for parameter in stage.parameters()]


@pytest.mark.filterwarnings("ignore:.*weight_norm.*deprecated")
@pytest.mark.parametrize("change", [weight_norm_as_a_hook, lambda layer: random_unstructured(layer, "weight", 0.5)])
def test_a_weight_that_is_computed_from_others_gives_them_gradients(change):
    stage, whole = small(), small()
    for model in (stage, whole):
        torch.manual_seed(1)
        change(model[0])
    x = torch.randn(6, 3, dtype=torch.float64)
    whole(x).square().sum().backward()
    for ours, right in zip(both_halves(stage, x), [p.grad for p in whole.parameters()], strict=True):
        torch.testing.assert_close(ours, right)


def test_hooks_of_a_weight_are_called_with_its_gradient():
    stage, seen = small(), []
    stage[0].weight.register_hook(lambda gradient: gradient * 0)
    stage[2].bias.register_post_accumulate_grad_hook(lambda bias: seen.append(bias.grad))
    gradients = both_halves(stage, torch.randn(6, 3, dtype=torch.float64))
    assert not gradients[0].any()
    assert gradients[2].any()
    assert seen[0] is gradients[3]


def test_autocast_gives_gradients_in_the_type_of_the_weights():
    torch.manual_seed(0)
    stage = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2))
    whole, x = copy.deepcopy(stage), torch.randn(6, 3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = whole(x).float().square().sum()
    loss.backward()
    split(stage)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = stage(x).float().square().sum()
    with collecting() as later:
        loss.backward()
    for work in later:
        work()
    for ours, right in zip(stage.parameters(), whole.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, right.grad, rtol=0.02, atol=0.02)
