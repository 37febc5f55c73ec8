"""The step of lesson 01 keeps all ranks on the path of one process; its picture says what the numbers say."""

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn

from torchcourse.lessons.data_parallelism import averaging, averaging_picture
from torchcourse.ranks import run_ranks


def a_model(seed):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 3)).double()


def the_batches():
    generator = torch.Generator().manual_seed(1)
    return [
        (torch.randn(10, 5, generator=generator, dtype=torch.float64), torch.randint(3, (10,), generator=generator))
        for _ in range(3)
    ]


def train_over_ranks():
    model = a_model(seed=dist.get_rank())
    averaging.copy_from_rank_0(model)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    losses = [averaging.step(model, optimizer, averaging.shard(x), averaging.shard(y)) for x, y in the_batches()]
    return [parameter.detach() for parameter in model.parameters()], losses[0].item()


@pytest.mark.parametrize("world_size", [2, 3])
def test_ranks_follow_one_process_also_with_unequal_parts_and_adam(world_size):
    alone = a_model(seed=0)
    optimizer = torch.optim.Adam(alone.parameters(), lr=0.01)
    for x, y in the_batches():
        optimizer.zero_grad()
        F.cross_entropy(alone(x), y).backward()
        optimizer.step()
    for parameters, _ in run_ranks(train_over_ranks, world_size=world_size):
        for ours, right in zip(parameters, alone.parameters(), strict=True):
            assert torch.allclose(ours, right, rtol=1e-10, atol=1e-12)


def test_a_step_returns_the_loss_of_its_own_part():
    x, y = the_batches()[0]
    losses = F.cross_entropy(a_model(seed=0)(x), y, reduction="none")
    returned = [loss for _, loss in run_ranks(train_over_ranks, world_size=3)]
    assert returned == pytest.approx([part.mean().item() for part in losses.tensor_split(3)])


def shard_and_average():
    rank = dist.get_rank()
    model = nn.Sequential(nn.Linear(1, 1), nn.BatchNorm1d(1))
    nn.init.constant_(model[0].weight, 3.0 * rank)
    model[1].running_mean.fill_(rank)
    averaging.average_weights(model)
    averaged = model[0].weight.item(), model[1].running_mean.item()
    model[1].running_mean.fill_(5.0 - rank)
    averaging.copy_from_rank_0(model)
    return averaging.shard(torch.arange(5)).tolist(), averaged, model[1].running_mean.item()


def test_parts_average_and_copy():
    first, second = run_ranks(shard_and_average, world_size=2)
    assert first == ([0, 1, 2], (1.5, 0.0), 5.0)
    assert second == ([3, 4], (1.5, 1.0), 5.0)


def test_outside_a_rank_the_step_says_what_to_do():
    with pytest.raises(RuntimeError, match="run_ranks"):
        averaging.shard(torch.arange(4))


ROWS = torch.arange(24, dtype=torch.float64).reshape(6, 4) ** 2 - 100


@pytest.fixture(autouse=True)
def first_weight(monkeypatch):
    monkeypatch.setattr(averaging_picture, "WEIGHT", 1)


def shared_out(sizes, reduce):
    return sizes, torch.stack([reduce(part, dim=0) for part in ROWS.split(sizes)]), reduce(ROWS, dim=0)


@pytest.mark.parametrize(
    ("sizes", "reduce", "words"),
    [
        ([3, 3], torch.mean, "right"),
        ([2, 2, 2], torch.mean, "right"),
        ([4, 2], torch.mean, "off: a part of 2 counts as much as one of 4"),
        ([4, 2], torch.sum, "1/2 of the right gradient"),
        ([1, 2, 3], torch.sum, "1/3 of the right gradient"),
    ],
)
def test_the_picture_states_the_finding(sizes, reduce, words):
    values = shared_out(sizes, reduce)
    assert words in averaging_picture.finding(*values)
    assert words in averaging_picture.describe(*values)
    figure = averaging_picture.draw(*values)
    (axes,) = figure.axes
    assert words in figure.get_suptitle()
    assert axes.get_xlabel()
    assert axes.get_ylabel()
    corners = [path.vertices[:, 0] for path in axes.collections[0].get_paths()]
    ends = [float(x.max() if x.max() > 0 else x.min()) for x in corners]
    expected = [reduce(part, dim=0)[1].item() for part in ROWS.split(sizes)]
    assert ends == pytest.approx([*expected, sum(expected) / len(sizes), reduce(ROWS, dim=0)[1].item()])


def test_the_finding_gives_the_distance():
    *_, whole = values = shared_out([5, 1], torch.mean)
    off = (values[1].mean(dim=0) - whole).norm() / whole.norm()
    assert f"{off.item():.0%} off" in averaging_picture.finding(*values)
