"""Micro-batches accumulated in different ways are accepted; each wrong way has its symptom."""

import contextlib

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F

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


def never_cleared(ddp, optimizer, batches):
    optimizer.zero_grad = lambda: None
    accumulate(ddp, optimizer, batches)


def through_the_module(ddp, optimizer, batches):
    accumulate(ddp.module, optimizer, batches, quiet=lambda *_: False)


@pytest.mark.parametrize("answer", [accumulate, accumulate_in_two_parts])
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
        (zero_grad_in_the_loop, "only_last"),
        (step_in_the_loop, "steps_each"),
        (one_big_batch, "one_big_batch"),
        (first_only, "batches_left_out"),
        (never_cleared, "later_steps"),
    ],
)
def test_accumulate_refuses(answer, symptom):
    refused(check.accumulate(answer), symptom)


def test_a_stub_is_not_done_yet():
    assert check.accumulate(todo).state == "not done"
