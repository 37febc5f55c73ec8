"""Repairs of the log that hangs are accepted; each that logs or trains otherwise has its symptom."""

import copy

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F

from torchcourse.lessons.data_parallelism import data_parallel
from torchcourse.lessons.data_parallelism.checks import rank_0_log as check
from verdicts import accepted, refused, todo


def trained(model, batches, log, rate=check.LOG_RATE, second=1):
    """The training loop of the lab; `log(loss, entries)` is called by every rank after each second step."""
    optimizer = torch.optim.SGD(model.parameters(), lr=rate)
    entries = []
    for step, (images, labels) in enumerate(batches):
        loss = F.cross_entropy(model(images), labels)
        optimizer.zero_grad()
        loss.backward()
        data_parallel.average_gradients(model)
        optimizer.step()
        if step % 2 == second:
            log(loss.detach().clone(), entries)
    return entries


def reduced(loss, entries):
    dist.reduce(loss, dst=0)
    if dist.get_rank() == 0:
        entries.append(loss.item() / dist.get_world_size())


def all_reduced(loss, entries):
    dist.all_reduce(loss, op=dist.ReduceOp.AVG)
    if dist.get_rank() == 0:
        entries.append(loss)


def gathered(loss, entries):
    losses = [None] * dist.get_world_size()
    dist.all_gather_object(losses, loss.item())
    entries.append(sum(losses) / len(losses))


def only_rank_0_calls(loss, entries):
    if dist.get_rank() == 0:
        reduced(loss, entries)


def halved(loss, entries):
    dist.all_reduce(loss)
    entries.append(loss.item() / 2)


def own_loss(loss, entries):
    if dist.get_rank() == 0:
        entries.append(loss.item())


def summed(loss, entries):
    dist.reduce(loss, dst=0)
    if dist.get_rank() == 0:
        entries.append(loss.item())


def only_divided(loss, entries):
    if dist.get_rank() == 0:
        entries.append(loss.item() / dist.get_world_size())


def all_ranks_log_a_reduce(loss, entries):
    dist.reduce(loss, dst=0)
    entries.append(loss.item() / dist.get_world_size())


def reduced_to_rank_1(loss, entries):
    total = loss.clone()
    dist.all_reduce(total)  # what rank 0 holds after a reduce to rank 1 is not promised
    dist.reduce(loss, dst=1)
    entries.append(total.item() / dist.get_world_size())


def result_of_a_reduce(loss, entries):
    entries.append(dist.reduce(loss, dst=0) / dist.get_world_size())


def largest(loss, entries):
    dist.all_reduce(loss, op=dist.ReduceOp.MAX)
    entries.append(loss.item())


def stacked_at_the_end(model, batches, padded=False):
    """The losses of all ranks in one message: right, but for a run that has nothing to log."""
    losses = []
    trained(model, batches, lambda loss, _: losses.append(loss.detach()))
    row = torch.stack(losses if losses or not padded else [torch.zeros(())])
    dist.all_reduce(row)
    return (row / dist.get_world_size()).tolist()


@pytest.mark.slow
@pytest.mark.parametrize("log", [reduced, all_reduced, gathered])
def test_train_and_log_accepts(log):
    accepted(check.train_and_log(lambda model, batches: trained(model, batches, log)))


@pytest.mark.parametrize(
    ("answer", "symptom"),
    [
        (lambda model, batches: trained(model, batches, own_loss), "own_loss"),
        (lambda model, batches: trained(model, batches, summed), "sum_not_mean"),
        (lambda model, batches: trained(model, batches, only_divided), "only_divided"),
        (lambda model, batches: trained(model, batches, all_ranks_log_a_reduce), "other_ranks_log"),
        (lambda model, batches: trained(model, batches, largest), "wrong_value"),
        (lambda model, batches: trained(model, batches, halved), "two_ranks_only"),
        (lambda model, batches: [trained(model, batches, reduced), batches.clear()][0], "list_changed"),
        (lambda model, batches: dict(enumerate(trained(model, batches, reduced))), "missing_entries"),
        (lambda model, batches: trained(model, batches, reduced, second=0), "even_steps"),
        (lambda model, batches: trained(model, batches, reduced_to_rank_1), "other_destination"),
        (lambda model, batches: trained(model, batches, result_of_a_reduce), "nothing_returned"),
        (lambda model, batches: trained(model, batches, reduced)[:1], "missing_entries"),
        (lambda model, batches: trained(model, batches, lambda *_: None), "missing_entries"),
        (lambda model, batches: print(trained(model, batches, reduced)), "missing_entries"),
        (lambda model, batches: trained(model, batches[:-1], reduced), "training_changed"),
        (lambda model, batches: stacked_at_the_end(model, batches, padded=True), "missing_entries"),
        (lambda model, batches: trained(copy.deepcopy(model), batches, reduced), "training_changed"),
    ],
)
def test_train_and_log_refuses(answer, symptom):
    refused(check.train_and_log(answer), symptom)


def test_a_run_that_has_nothing_to_log_is_tried():
    assert check.train_and_log(stacked_at_the_end).symptom == "raised_RuntimeError"


@pytest.mark.slow
def test_train_and_log_sees_the_hang_of_the_lab(monkeypatch):
    monkeypatch.setattr(check, "TIME_LIMIT", 3.0)
    refused(check.train_and_log(lambda model, batches: trained(model, batches, only_rank_0_calls)), "hang")


def test_a_stub_is_not_done_yet():
    assert check.train_and_log(todo).state == "not done"
