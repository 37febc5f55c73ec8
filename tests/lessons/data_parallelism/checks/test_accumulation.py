"""Micro-batches accumulated in different ways are accepted; each wrong way has its symptom."""

import contextlib

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F

from torchcourse.lessons.data_parallelism import data_parallel
from torchcourse.lessons.data_parallelism.checks import accumulation as check
from verdicts import accepted, refused, todo


def accumulate(ddp, optimizer, batches, divide=None, quiet=lambda index, last: index < last, outside=False):
    """The accumulation of the notebook, with switches for its mistakes."""
    optimizer.zero_grad()
    for index, (images, labels) in enumerate(batches):
        sync = ddp.no_sync() if quiet(index, len(batches) - 1) else contextlib.nullcontext()
        if outside:
            outputs = ddp(images)
        with sync:
            loss = F.cross_entropy(outputs if outside else ddp(images), labels)
            (loss / (len(batches) if divide is None else divide)).backward()
    optimizer.step()


def accumulate_in_two_parts(ddp, optimizer, batches):
    *first, last = batches
    optimizer.zero_grad()
    with ddp.no_sync():
        for images, labels in first:
            F.cross_entropy(ddp(images), labels).backward()
    F.cross_entropy(ddp(last[0]), last[1]).backward()
    for parameter in ddp.parameters():
        parameter.grad /= len(batches)
    optimizer.step()


def accumulate_the_loss(ddp, optimizer, batches):
    """One backward pass through all micro-batches: one all-reduce, though all graphs stay in memory."""
    losses = []
    with ddp.no_sync():
        losses += [F.cross_entropy(ddp(images), labels) for images, labels in batches[:-1]]
    losses.append(F.cross_entropy(ddp(batches[-1][0]), batches[-1][1]))
    optimizer.zero_grad()
    torch.stack(losses).mean().backward()
    optimizer.step()


def backward_at_the_end(ddp, optimizer, batches):
    optimizer.zero_grad()
    with ddp.no_sync():
        for loss in [F.cross_entropy(ddp(images), labels) / len(batches) for images, labels in batches[:-1]]:
            loss.backward()
    (F.cross_entropy(ddp(batches[-1][0]), batches[-1][1]) / len(batches)).backward()
    optimizer.step()


def averaged_by_hand(ddp, optimizer, batches, each=False):
    optimizer.zero_grad()
    with ddp.no_sync():
        for images, labels in batches:
            (F.cross_entropy(ddp(images), labels) / len(batches)).backward()
            if each:
                data_parallel.average_gradients(ddp)
    data_parallel.average_gradients(ddp)
    optimizer.step()


def averaged_in_one_row(ddp, optimizer, batches):
    optimizer.zero_grad()
    for images, labels in batches:
        (F.cross_entropy(ddp.module(images), labels) / len(batches)).backward()
    row = torch.cat([parameter.grad.flatten() for parameter in ddp.parameters()])
    dist.all_reduce(row)
    torch.nn.utils.vector_to_parameters(row / dist.get_world_size(), [p.grad for p in ddp.parameters()])
    optimizer.step()


def averaged_by_both(ddp, optimizer, batches):
    stepping = optimizer.step
    optimizer.step = lambda: None
    accumulate(ddp, optimizer, batches)
    optimizer.step = stepping
    data_parallel.average_gradients(ddp)
    optimizer.step()


def summed_by_hand(ddp, optimizer, batches):
    accumulate(ddp.module, optimizer, batches, quiet=lambda *_: False)
    dist.all_reduce(torch.zeros(1))


def looked_at_besides(ddp, optimizer, batches):
    with torch.no_grad():
        ddp.module(batches[0][0])
    accumulate(ddp, optimizer, batches)


def last_counts_whole(ddp, optimizer, batches):
    optimizer.zero_grad()
    with ddp.no_sync():
        for images, labels in batches[:-1]:
            (F.cross_entropy(ddp(images), labels) / len(batches)).backward()
    F.cross_entropy(ddp(batches[-1][0]), batches[-1][1]).backward()
    optimizer.step()


def graphs_retained(ddp, optimizer, batches):
    optimizer.zero_grad()
    losses = []
    for index, (images, labels) in enumerate(batches):
        with ddp.no_sync() if index < len(batches) - 1 else contextlib.nullcontext():
            losses.append(F.cross_entropy(ddp(images), labels) / len(batches))
            losses[-1].backward(retain_graph=True)
    optimizer.step()


def losses_listed(ddp, optimizer, batches):
    optimizer.zero_grad()
    losses = []
    for index, (images, labels) in enumerate(batches):
        with ddp.no_sync() if index < len(batches) - 1 else contextlib.nullcontext():
            losses.append(F.cross_entropy(ddp(images), labels) / len(batches))
            losses[-1].backward()
    optimizer.step()


def zero_grad_in_the_loop(ddp, optimizer, batches):
    for index, (images, labels) in enumerate(batches):
        optimizer.zero_grad()
        with ddp.no_sync() if index < len(batches) - 1 else contextlib.nullcontext():
            (F.cross_entropy(ddp(images), labels) / len(batches)).backward()
    optimizer.step()


def step_in_the_loop(ddp, optimizer, batches):
    for images, labels in batches:
        optimizer.zero_grad()
        F.cross_entropy(ddp(images), labels).backward()
        optimizer.step()


def one_big_batch(ddp, optimizer, batches):
    images, labels = (torch.cat(parts) for parts in zip(*batches, strict=True))
    step_in_the_loop(ddp, optimizer, [(images, labels)])


def first_only(ddp, optimizer, batches):
    accumulate(ddp, optimizer, batches[:1])


def taken_off_the_list(ddp, optimizer, batches):
    accumulate(ddp, optimizer, batches)
    batches.pop()


def cleared_in_no_sync(ddp, optimizer, batches):
    *first, (images, labels) = batches
    with ddp.no_sync():
        for early, of_early in first:
            optimizer.zero_grad()
            (F.cross_entropy(ddp(early), of_early) / len(batches)).backward()
    (F.cross_entropy(ddp(images), labels) / len(batches)).backward()
    optimizer.step()


def never_cleared(ddp, optimizer, batches):
    optimizer.zero_grad = lambda: None
    accumulate(ddp, optimizer, batches)


def through_the_module(ddp, optimizer, batches):
    accumulate(ddp.module, optimizer, batches, quiet=lambda *_: False)


def with_an_optimizer_of_its_own(ddp, _, batches):
    accumulate(ddp, torch.optim.SGD(ddp.parameters(), lr=0.1), batches)


def softmax_before_the_loss(ddp, optimizer, batches):
    handle = ddp.register_forward_hook(lambda module, inputs, output: output.softmax(dim=1))
    accumulate(ddp, optimizer, batches)
    handle.remove()


@pytest.mark.slow
@pytest.mark.parametrize(
    "answer",
    [accumulate, accumulate_in_two_parts, averaged_by_hand, averaged_in_one_row, looked_at_besides, losses_listed],
)
def test_accumulate_accepts(answer):
    accepted(check.accumulate(answer))


@pytest.mark.parametrize(
    ("answer", "symptom"),
    [
        (lambda *given: accumulate(*given, quiet=lambda *_: False), "too_many_messages"),
        (lambda *given: accumulate(*given, outside=True), "too_many_messages"),
        (lambda *given: accumulate(*given, quiet=lambda *_: True), "never_averaged"),
        (through_the_module, "never_averaged"),
        (lambda *given: accumulate(*given, quiet=lambda index, last: index > 0), "averaged_too_early"),
        (lambda *given: accumulate(*given, divide=1), "not_divided"),
        (lambda *given: accumulate(*given, divide=len(given[2]) ** 2), "divided_twice"),
        (lambda *given: accumulate(*given, divide=len(given[2]) * dist.get_world_size()), "divided_by_ranks"),
        (zero_grad_in_the_loop, "early_ones_lost"),
        (step_in_the_loop, "steps_each"),
        (with_an_optimizer_of_its_own, "steps_each"),
        (softmax_before_the_loss, "wrong_value"),
        (one_big_batch, "one_big_batch"),
        (first_only, "batches_left_out"),
        (taken_off_the_list, "list_changed"),
        (cleared_in_no_sync, "early_ones_lost"),
        (never_cleared, "later_steps"),
        (accumulate_the_loss, "graphs_kept"),
        (backward_at_the_end, "graphs_kept"),
        (graphs_retained, "graphs_kept"),
        (lambda ddp, *given: accumulate(ddp.eval(), *given), "mode_left_changed"),
        (lambda *given: averaged_by_hand(*given, each=True), "too_many_messages"),
        (averaged_by_both, "averaged_twice"),
        (summed_by_hand, "ranks_disagree"),
        (last_counts_whole, "wrong_share"),
        (lambda *given: accumulate(*given, divide=0.5), "wrong_share"),
    ],
)
def test_accumulate_refuses(answer, symptom):
    refused(check.accumulate(answer), symptom)


@pytest.mark.parametrize(
    ("switches", "words"),
    [
        ({"outside": True}, "decides during the forward pass"),
        ({"quiet": lambda index, last: index == 0}, "1 of 3 forward passes"),
        ({"quiet": lambda *_: False}, "sent for nothing"),
    ],
)
def test_accumulate_says_of_no_sync_what_was_seen(switches, words):
    assert words in check.accumulate(lambda *given: accumulate(*given, **switches)).message


def test_a_step_of_another_optimizer_is_not_said_to_be_none():
    message = check.accumulate(with_an_optimizer_of_its_own).message
    assert "the optimizer that you are given stepped 0 times" in message


def test_what_follows_a_comma_is_written_small():
    assert ", The" not in check.accumulate(taken_off_the_list).message


def test_a_stub_is_not_done_yet():
    assert check.accumulate(todo).state == "not done"
