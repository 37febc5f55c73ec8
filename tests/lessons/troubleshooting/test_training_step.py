"""The recorder sees passes and steps of programs that know nothing of it, and leaves nothing behind."""

import gc
import weakref

import pytest
import torch
import torch.nn.functional as F
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
    assert record.passes[0].inputs is record.passes[0].output is None
    assert record.losses == []


def test_of_a_watched_model_and_optimizer_others_are_left_out_and_batches_are_kept() -> None:
    model, other = network(), network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with TrainingRecorder(model, optimizer, batches=True) as record:
        train(other, torch.optim.SGD(other.parameters(), lr=0.3))
        train(model, optimizer)
        train(model, optimizer)
    assert len(record.trained) == len(record.evaluated) == 2
    assert torch.equal(record.trained[0].inputs, X)  # type: ignore[arg-type]  # it is kept
    assert [loss.function for loss in record.losses] == [F.mse_loss] * 3  # loss functions know no model
    first, second = record.steps
    assert first.rates == (0.1,)
    assert first.gradient.numel() == 0
    assert list(first.norms) == [name for name, _ in model.named_parameters()]
    assert second.backwards == (record.losses[2].value,)
    assert not first.stale
    assert not second.stale
    assert 0 < record.moved() < 1


def test_gradients_that_were_not_cleared_are_stale_in_the_next_step() -> None:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with TrainingRecorder(model, optimizer, batches=True) as record:
        for _ in range(2):
            F.mse_loss(model(X), Y).backward()
            optimizer.step()
    assert [step.stale for step in record.steps] == [False, True]


def test_without_gradients_and_batches_no_tensor_is_kept_alive() -> None:
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
