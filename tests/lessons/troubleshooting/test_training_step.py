"""The recorder sees passes and steps of programs that know nothing of it, and leaves nothing behind."""

import gc
import weakref

import pytest
import torch
from torch import nn

from torchcourse.lessons.troubleshooting.training_step import TrainingRecorder

X, Y = torch.ones(5, 3), torch.zeros(5, 2)


def train(model: nn.Module, optimizer: torch.optim.Optimizer) -> torch.Tensor:
    optimizer.zero_grad()
    loss = nn.MSELoss()(model(X), Y)
    loss.backward()
    optimizer.step()
    with torch.no_grad():
        return model.eval()(X[:2])


def network() -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))


def test_passes_of_outermost_modules_and_steps_of_any_optimizer() -> None:
    model = network()
    with TrainingRecorder(gradients=True) as record:
        train(model, torch.optim.SGD(model.parameters(), lr=0.25))
    assert [(seen.model, seen.training, seen.recorded, seen.samples) for seen in record.passes] == [
        (model, True, True, 5),
        (model, False, False, 2),
    ]
    (step,) = record.steps
    assert step.rates == (0.25,)
    assert step.passes == 1
    assert torch.equal(step.gradient, torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]))


def test_without_gradients_no_tensor_is_kept_alive() -> None:
    model = network()
    with TrainingRecorder() as record:
        result = weakref.ref(train(model, torch.optim.SGD(model.parameters(), lr=0.1)))
        gc.collect()
        assert result() is None
    assert record.steps[0].gradient.numel() == 0


@pytest.mark.parametrize("fails", [False, True])
def test_hooks_are_gone_afterwards_and_a_failed_pass_does_no_harm(fails: bool) -> None:
    model = network()
    with TrainingRecorder() as record:
        if fails:
            with pytest.raises(RuntimeError):
                model(torch.ones(5, 7))
        train(model, torch.optim.SGD(model.parameters(), lr=0.1))
    seen = len(record.passes), len(record.steps)
    assert seen == (2 + fails, 1)
    train(model, torch.optim.SGD(model.parameters(), lr=0.1))
    assert (len(record.passes), len(record.steps)) == seen
