"""Sharding by hand of layers and optimizers that do not keep to themselves: as one process, or refused."""

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import spectral_norm, weight_norm
from torch.nn.utils.prune import random_unstructured

from torchcourse.lessons.data_parallelism.flat_shards import FlatShards
from torchcourse.lessons.data_parallelism.sharding import ShardedOptimizer, full_parameters, shard_parameters
from torchcourse.ranks import run_ranks


class Listed(nn.Module):
    """Keeps its parameters in lists and dictionaries, whose contents it reads itself."""

    def __init__(self) -> None:
        super().__init__()
        self.weights = nn.ParameterList([nn.Parameter(torch.randn(4, 5)), nn.Parameter(torch.randn(5, 3))])
        self.more = nn.ParameterDict({"bias": nn.Parameter(torch.randn(3))})

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.tanh(x @ self.weights[0]) @ self.weights[1] + self.more["bias"]


def weight_normed() -> nn.Module:
    return nn.Sequential(weight_norm(nn.Linear(4, 5)), nn.Tanh(), nn.Linear(5, 3))


def trained(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    x, y = torch.randn(2, 12, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    rank, ranks = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    for _ in range(3):
        optimizer.zero_grad()
        F.mse_loss(model(x[rank::ranks]), y[rank::ranks, :3]).backward()
        optimizer.step()


def whole(make) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    model = make().double()
    trained(model, torch.optim.SGD(model.parameters(), lr=0.1))
    return {name: parameter.detach() for name, parameter in model.named_parameters()}


def of_shards(make, flat: bool) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    model = make().double()
    if flat:
        shards = FlatShards(model)
        trained(model, torch.optim.SGD(shards.shards, lr=0.1))
        return shards.full_parameters()
    shard_parameters(model)
    trained(model, torch.optim.SGD(model.parameters(), lr=0.1))
    return full_parameters(model)


@pytest.mark.filterwarnings("ignore:.*weight_norm.*deprecated")
@pytest.mark.parametrize(
    ("make", "flat"),
    [(Listed, False), (lambda: nn.Sequential(Listed()), True), (weight_normed, True)],
    ids=["stage 3, lists", "flat, lists", "flat, weights by a hook"],
)
def test_a_layer_whose_parameters_lie_elsewhere_trains_as_in_one_process(make, flat: bool) -> None:
    right = whole(make)
    for found in run_ranks(of_shards, make, flat, world_size=2):
        for name, parameter in right.items():
            torch.testing.assert_close(found[name], parameter)


def pruned(layer: nn.Module) -> None:
    random_unstructured(layer, "weight", 0.5)


def refused(make) -> list[str]:
    said = []
    for flat in (False, True):
        try:
            of_shards(make, flat)
            said.append("")
        except ValueError as error:
            said.append(str(error))
    return said


@pytest.mark.filterwarnings("ignore:.*weight_norm.*deprecated")
@pytest.mark.parametrize(
    "change", [weight_norm, spectral_norm, lambda layer: random_unstructured(layer, "weight", 0.5)]
)
def test_a_weight_that_a_hook_computes_is_refused_before_anything_is_sharded(change) -> None:
    def make() -> nn.Module:
        model = nn.Sequential(nn.Linear(4, 3))
        change(model[0])
        return model

    assert run_ranks(refused, make, world_size=1)[0][0].startswith("A hook computes 0.weight from other parameters")


def test_lists_of_parameters_beside_units_are_refused() -> None:
    assert "(weights.0, weights.1, more.bias). Put them into a child" in run_ranks(refused, Listed, world_size=1)[0][1]


class ByNorm(torch.optim.Optimizer):
    """As LARS and LAMB, a step goes by the norm of the whole parameter."""

    def __init__(self, params, lr: float = 0.1) -> None:
        super().__init__(params, {"lr": lr})

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter -= group["lr"] * parameter.norm() / parameter.grad.norm() * parameter.grad


class Noisy(torch.optim.SGD):
    """Draws numbers, so that no two tries are alike."""

    def step(self, closure=None):
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter.grad += torch.rand(())
        return super().step(closure)


def made(make_optimizer, options: dict) -> str:
    model, before = nn.Linear(3, 3), torch.get_rng_state()
    try:
        ShardedOptimizer(model, make_optimizer, **options)
    except ValueError as error:
        return str(error)
    return "" if torch.equal(before, torch.get_rng_state()) else "drew numbers"


@pytest.mark.parametrize("name", ["Adagrad", "Adam", "AdamW", "ASGD", "NAdam", "RAdam", "RMSprop", "Rprop", "SGD"])
def test_optimizers_of_single_numbers_are_taken(name: str) -> None:
    assert run_ranks(made, getattr(torch.optim, name), {"lr": 0.1}, world_size=1) == [""]


def test_an_optimizer_that_looks_at_a_norm_is_refused() -> None:
    assert run_ranks(made, ByNorm, {}, world_size=1)[0].startswith("ByNorm does not look at each number by itself")
    assert run_ranks(made, Noisy, {"lr": 0.1}, world_size=1) == [""]
