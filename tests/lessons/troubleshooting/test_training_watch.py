"""The watch tells which passes a step has learned from, and leaves torch as it was."""

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, DistributedSampler

from torchcourse.lessons.troubleshooting.training_watch import TrainingWatch

X, Y = torch.arange(15.0).view(5, 3), torch.zeros(5, 2)


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))


def train(model: nn.Module, optimizer: torch.optim.Optimizer, clear: bool = True) -> None:
    if clear:
        optimizer.zero_grad()
    nn.MSELoss()(model(X), Y).backward()
    optimizer.step()


def test_of_a_watched_model_passes_losses_and_steps_are_kept_and_others_are_left_out() -> None:
    model, other = network(), network()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    with TrainingWatch(model, optimizer) as watch:
        train(other, torch.optim.SGD(other.parameters(), lr=0.3))
        train(model, optimizer)
        train(model, optimizer)
        with torch.no_grad():
            model(X)
    assert (len(watch.trained), len(watch.evaluated), watch.others) == (2, 1, 1)
    kept = watch.trained[0].inputs
    assert kept is not None
    assert torch.equal(kept, X)
    assert [loss.function for loss in watch.losses] == [F.mse_loss] * 3  # loss functions know no model
    first, second = watch.steps
    assert first.rates == (1e-3,)
    assert list(first.norms) == [name for name, _ in model.named_parameters()]
    assert second.backwards == (watch.losses[2].value,)
    assert second.passes == (watch.passes[1],)
    assert second.made == second.norm > 0
    assert not first.stale
    assert not second.stale
    assert 0 < watch.moved() < 1


def test_gradients_that_were_not_cleared_are_stale_in_the_next_step() -> None:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    with TrainingWatch(model, optimizer) as watch:
        train(model, optimizer, clear=False)
        train(model, optimizer, clear=False)
    assert [step.stale for step in watch.steps] == [False, True]


def test_passes_whose_gradient_was_cleared_were_not_learned_from() -> None:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    with TrainingWatch(model, optimizer) as watch:
        torch.autograd.backward(model(X + 1).sum())  # the other way to call it
        train(model, optimizer)
        torch.autograd.grad(model(X).sum(), list(model.parameters()))
    assert [seen.used for seen in watch.passes] == [False, True, False]
    assert watch.steps[0].lost == ((watch.passes[0],),)


def test_of_a_model_whose_parts_are_called_one_by_one_each_call_is_a_pass() -> None:
    model = nn.ModuleDict({"body": nn.Linear(3, 4), "head": nn.Linear(4, 2)})
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    with TrainingWatch(model, optimizer) as watch:
        model["head"](model["body"](X)).sum().backward()
        optimizer.step()
    assert [seen.used for seen in watch.passes] == [True, True]
    assert watch.called == {"body": 1, "head": 1}


def test_torch_is_as_it_was_afterwards() -> None:
    model = network()
    before = [nn.Module.train, nn.Module.state_dict, DataLoader.__iter__, DistributedSampler.__iter__]
    with TrainingWatch(model, torch.optim.SGD(model.parameters(), lr=1e-3)):
        assert nn.Module.train is not before[0]
    assert [nn.Module.train, nn.Module.state_dict, DataLoader.__iter__, DistributedSampler.__iter__] == before
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
