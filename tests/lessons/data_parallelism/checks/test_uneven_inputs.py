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


def zeros_by_hand(ddp, optimizer, loss_of, batches, clear=True, divide=True):
    """By hand, with switches for its mistakes."""
    most = torch.tensor(len(batches))
    dist.all_reduce(most, op=dist.ReduceOp.MAX)
    parameters = list(ddp.module.parameters())
    for step in range(most.item()):
        if clear or step < len(batches):
            optimizer.zero_grad()
        if step < len(batches):
            loss_of(ddp.module(batches[step])).backward()
        for parameter in parameters:
            parameter.grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            dist.all_reduce(parameter.grad)
            parameter.grad /= dist.get_world_size() if divide else 1
        optimizer.step()
    return len(batches)


def mean_of_the_active(ddp, optimizer, loss_of, batches):
    with ddp.join(divide_by_initial_world_size=False):
        for batch in batches:
            one_step(ddp, optimizer, loss_of, batch)
    return len(batches)


def dummy_counted_0_times(ddp, optimizer, loss_of, batches, weight=0):
    most = torch.tensor(len(batches))
    dist.all_reduce(most, op=dist.ReduceOp.MAX)
    for step in range(most.item()):
        optimizer.zero_grad()
        batch = batches[step] if step < len(batches) else torch.ones_like(batches[0])
        (loss_of(ddp(batch)) * (1 if step < len(batches) else weight)).backward()
        optimizer.step()
    return len(batches)


def last_batch_first(ddp, optimizer, loss_of, batches):
    return joined(ddp, optimizer, loss_of, batches[::-1])


@pytest.mark.slow
@pytest.mark.parametrize(
    "learner", [joined, zeros_by_hand, mean_of_the_active, dummy_counted_0_times, last_batch_first]
)
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


def joined_with(ddp, optimizer, batches, one):
    with ddp.join():
        for batch in batches:
            one(batch)
    return len(batches)


def never_cleared(ddp, optimizer, loss_of, batches):
    def one(batch):
        loss_of(ddp(batch)).backward()
        optimizer.step()

    return joined_with(ddp, optimizer, batches, one)


def no_step(ddp, optimizer, loss_of, batches):
    return joined_with(ddp, optimizer, batches, lambda batch: loss_of(ddp(batch)).backward())


def one_step_at_the_end(ddp, optimizer, loss_of, batches):
    def one(batch):
        optimizer.zero_grad()
        loss_of(ddp(batch)).backward()

    joined_with(ddp, optimizer, batches, one)
    optimizer.step()
    return len(batches)


def through_the_module(ddp, optimizer, loss_of, batches):
    return ignores_it(ddp.module, optimizer, loss_of, batches)


def dealt_anew(ddp, optimizer, loss_of, batches):
    everyone: list[list] = [[] for _ in range(dist.get_world_size())]
    dist.all_gather_object(everyone, batches)
    return joined(ddp, optimizer, loss_of, [batch for each in everyone for batch in each])


def all_in_one(ddp, optimizer, loss_of, batches):
    joined(ddp, optimizer, loss_of, [torch.cat(batches)])
    return len(batches)


def taken_off_the_list(ddp, optimizer, loss_of, batches):
    count = joined(ddp, optimizer, loss_of, batches)
    batches.clear()
    return count


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
        (never_averages, "own_steps"),
        (never_cleared, "not_cleared"),
        (no_step, "nothing_moved"),
        (one_step_at_the_end, "one_step"),
        (through_the_module, "not_averaged"),
        (dealt_anew, "not_its_own"),
        (lambda *given: dummy_counted_0_times(*given, weight=1), "not_its_own"),
        (returns_all, "count"),
        (all_in_one, "one_big_batch"),
        (taken_off_the_list, "list_changed"),
        (lambda *given: zeros_by_hand(*given, clear=False), "last_gradient_again"),
        (lambda *given: zeros_by_hand(*given, divide=False), "not_divided"),
        (lambda ddp, *given: joined(ddp.eval(), *given), "mode_left_changed"),
    ],
)
def test_train_on_all_refuses(learner, symptom):
    refused(check.train_on_all(learner), symptom)


def test_a_stub_is_not_done_yet():
    assert check.train_on_all(todo).state == "not done"
