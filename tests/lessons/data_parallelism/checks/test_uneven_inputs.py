"""Ways to use all batches of ranks that have unequal numbers are accepted; wrong ones have their symptom."""

import pytest
import torch
import torch.distributed as dist

from torchcourse.lessons.data_parallelism.checks import uneven_inputs as check
from verdicts import accepted, refused, todo


def one_step(model, optimizer, loss_of, batch):
    optimizer.zero_grad()
    loss_of(model(batch)).backward()
    optimizer.step()


def joined(ddp, optimizer, loss_of, batches):
    with ddp.join():
        for batch in batches:
            one_step(ddp, optimizer, loss_of, batch)
    return len(batches)


def zeros_by_hand(ddp, optimizer, loss_of, batches):
    most = torch.tensor(len(batches))
    dist.all_reduce(most, op=dist.ReduceOp.MAX)
    parameters = list(ddp.module.parameters())
    for step in range(most.item()):
        optimizer.zero_grad()
        if step < len(batches):
            loss_of(ddp.module(batches[step])).backward()
        for parameter in parameters:
            parameter.grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            dist.all_reduce(parameter.grad)
            parameter.grad /= dist.get_world_size()
        optimizer.step()
    return len(batches)


def mean_of_the_active(ddp, optimizer, loss_of, batches):
    with ddp.join(divide_by_initial_world_size=False):
        for batch in batches:
            one_step(ddp, optimizer, loss_of, batch)
    return len(batches)


@pytest.mark.parametrize("learner", [joined, zeros_by_hand, mean_of_the_active])
def test_train_on_all_accepts(learner):
    accepted(check.train_on_all(learner))


def ignores_it(ddp, optimizer, loss_of, batches):
    for batch in batches:
        one_step(ddp, optimizer, loss_of, batch)
    return len(batches)


def shortest(ddp, optimizer, loss_of, batches):
    least = torch.tensor(len(batches))
    dist.all_reduce(least, op=dist.ReduceOp.MIN)
    for batch in batches[: least.item()]:
        one_step(ddp, optimizer, loss_of, batch)
    return least.item()


def repeats(ddp, optimizer, loss_of, batches):
    most = torch.tensor(len(batches))
    dist.all_reduce(most, op=dist.ReduceOp.MAX)
    for step in range(most.item()):
        one_step(ddp, optimizer, loss_of, batches[step % len(batches)])
    return len(batches)


def alone_at_the_end(ddp, optimizer, loss_of, batches):
    least = torch.tensor(len(batches))
    dist.all_reduce(least, op=dist.ReduceOp.MIN)
    for step, batch in enumerate(batches):
        one_step(ddp if step < least.item() else ddp.module, optimizer, loss_of, batch)
    return len(batches)


def never_averages(ddp, optimizer, loss_of, batches):
    for batch in batches:
        one_step(ddp.module, optimizer, loss_of, batch)
    dist.broadcast(ddp.module.weight.data, 0)
    return len(batches)


def returns_all(ddp, optimizer, loss_of, batches):
    joined(ddp, optimizer, loss_of, batches)
    total = torch.tensor(len(batches))
    dist.all_reduce(total)
    return total.item()


@pytest.mark.parametrize(
    ("learner", "symptom"),
    [
        (ignores_it, "left_alone"),
        (shortest, "left_out"),
        (repeats, "used_twice"),
        (alone_at_the_end, "ranks_disagree"),
        (never_averages, "wrong_value"),
        (returns_all, "count"),
    ],
)
def test_train_on_all_refuses(learner, symptom):
    refused(check.train_on_all(learner), symptom)


def test_a_stub_is_not_done_yet():
    assert check.train_on_all(todo).state == "not done"
