"""DataParallel by hand, on several "devices" that are all the CPU: which gradients, outputs and buffers come out."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from torchcourse.lessons.data_parallelism.data_parallel import largest_difference
from torchcourse.lessons.data_parallelism.replicas import DataParallel


def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 3))


@pytest.mark.parametrize("devices", [1, 2, 3])
def test_outputs_are_gathered_and_gradients_of_replicas_summed(devices: int) -> None:
    plain, shared = model(), DataParallel(model(), ["cpu"] * devices)
    x, y = torch.randn(10, 8), torch.randint(0, 3, (10,))
    expected, output = plain(x), shared(x)
    assert output.shape == (10, 3)
    torch.testing.assert_close(output, expected)
    F.cross_entropy(expected, y).backward()
    F.cross_entropy(output, y).backward()
    gradients = [[p.grad for p in each.parameters()] for each in (shared, plain)]
    assert largest_difference(*gradients) < 1e-5


def test_it_trains_as_one_device_does() -> None:
    plain, shared = model(), DataParallel(model(), ["cpu", "cpu"])
    x, y = torch.randn(6, 8), torch.randint(0, 3, (6,))
    for each in (plain, shared):
        optimizer = torch.optim.SGD(each.parameters(), lr=0.5)
        for _ in range(3):
            optimizer.zero_grad()
            F.cross_entropy(each(x), y).backward()
            optimizer.step()
    assert largest_difference(shared.parameters(), plain.parameters()) < 1e-5


def test_batchnorm_counts_only_the_first_share() -> None:
    norm = nn.BatchNorm1d(4)
    alone = copy.deepcopy(norm)
    x = torch.randn(12, 4)
    DataParallel(norm, ["cpu", "cpu", "cpu"])(x)
    alone(x[:4])
    torch.testing.assert_close(norm.running_mean, alone.running_mean)
    assert norm.num_batches_tracked == 1


def test_no_devices_are_refused() -> None:
    with pytest.raises(ValueError, match="list of devices"):
        DataParallel(model(), [])
    with pytest.raises(ValueError, match="list of devices"):
        DataParallel(model(), "cpu")
    with pytest.raises(ValueError, match="send one batch through"):
        DataParallel(nn.LazyLinear(3), ["cpu"])
