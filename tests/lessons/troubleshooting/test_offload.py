"""Saved tensors on the host: what leaves the device, what is copied, and that nothing is computed differently."""

import pytest
import torch
from torch import nn

from torchcourse.lessons.troubleshooting.checks import residual_blocks
from torchcourse.lessons.troubleshooting.offload import WAYS, DeviceBesideHost, step_with


@pytest.fixture(scope="module")
def places():
    torch.manual_seed(0)
    blocks, x = residual_blocks(12), torch.randn(512, 32)
    return {way: step_with(blocks, x, way) for way in WAYS}


def test_what_is_moved_lies_on_the_host_and_not_on_the_device(places):
    kept, moved = places["all kept"], places["moved to the host"]
    assert kept.host == kept.copied == 0
    assert moved.device < kept.device / 2
    assert moved.copied == 2 * moved.host  # all are on the host when the backward pass begins


def test_a_linear_layer_moves_its_input_and_its_weight():
    layer, x = nn.Linear(8, 4), torch.randn(16, 8, requires_grad=True)
    assert step_with(nn.Sequential(layer), x, "moved to the host").host == 4 * (16 * 8 + 8 * 4)


def test_a_tensor_that_two_layers_save_is_copied_twice():
    x = torch.randn(16, 8, requires_grad=True)
    assert step_with(nn.Sequential(nn.Tanh(), nn.Linear(8, 4)), x, "moved to the host").host == 4 * (2 * 16 * 8 + 8 * 4)


def test_gradients_are_equal_and_the_host_is_empty_afterwards():
    blocks, x = residual_blocks(3), torch.randn(5, 32)
    blocks(x).sum().backward()
    wanted = [parameter.grad.clone() for parameter in blocks.parameters()]
    blocks.zero_grad()
    with DeviceBesideHost() as device:
        device.watch(blocks, x)
        with device.moving():
            loss = blocks(x).sum()
        loss.backward()
        del loss
    assert all(torch.equal(p.grad, w) for p, w in zip(blocks.parameters(), wanted, strict=True))
    assert device._host == 0


def test_a_way_that_there_is_not_is_named():
    with pytest.raises(ValueError, match=r"no way 'sent away'\. The ways are all kept, a checkpoint"):
        step_with(nn.Sequential(), torch.zeros(1), "sent away")
