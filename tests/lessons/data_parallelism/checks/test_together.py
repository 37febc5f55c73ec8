"""Training runs that ranks do together are accepted when they end as one process does."""

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn

from torchcourse.lessons.data_parallelism import averaging, data_parallel
from torchcourse.lessons.data_parallelism.checks import together as check
from verdicts import accepted, refused, todo


def trained_by_the_package(model, batches, lr):
    averaging.copy_from_rank_0(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    for images, labels in batches:
        averaging.step(model, optimizer, averaging.shard(images), averaging.shard(labels))


def trained_without_an_optimizer(model, batches, lr):
    weights = [parameter.detach().clone() for parameter in model.parameters()]
    dist.broadcast_object_list(weights, src=0)
    with torch.no_grad():
        for parameter, start in zip(model.parameters(), weights, strict=True):
            parameter.copy_(start)
    for images, labels in batches:
        mine = slice(dist.get_rank(), None, dist.get_world_size())
        loss = F.cross_entropy(model(images[mine]), labels[mine])
        for parameter, gradient in zip(
            model.parameters(), torch.autograd.grad(loss, list(model.parameters())), strict=True
        ):
            dist.all_reduce(gradient)
            parameter.data -= lr * gradient / dist.get_world_size()


def trained_by_torch(model, batches, lr):
    parallel = nn.parallel.DistributedDataParallel(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    for images, labels in batches:
        optimizer.zero_grad()
        F.cross_entropy(parallel(averaging.shard(images)), averaging.shard(labels)).backward()
        optimizer.step()


def trained_in_pieces(model, batches, lr):
    """One forward pass per sample, and a look at the loss of the whole batch besides."""
    averaging.copy_from_rank_0(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    for images, labels in batches:
        mine, labels_of_mine = averaging.shard(images), averaging.shard(labels)
        optimizer.zero_grad()
        for image, label in zip(mine, labels_of_mine, strict=True):
            (F.cross_entropy(model(image[None]), label[None]) / len(mine)).backward()
        data_parallel.average_gradients(model)
        optimizer.step()
        with torch.no_grad():
            F.cross_entropy(model(images), labels)


def trained_in_uneven_parts(model, batches, lr):
    averaging.copy_from_rank_0(model)
    for images, labels in batches:
        sizes = [3, 9] if dist.get_world_size() == 2 else [3, 3, 6]
        mine, labels_of_mine = images.split(sizes)[dist.get_rank()], labels.split(sizes)[dist.get_rank()]
        model.zero_grad()
        (F.cross_entropy(model(mine), labels_of_mine, reduction="sum") / len(images)).backward()
        for parameter in model.parameters():
            dist.all_reduce(parameter.grad)
            parameter.data -= lr * parameter.grad


@pytest.mark.slow
@pytest.mark.parametrize(
    "answer",
    [
        trained_by_the_package,
        trained_without_an_optimizer,
        trained_by_torch,
        trained_in_pieces,
        trained_in_uneven_parts,
    ],
)
def test_train_together_accepts(answer):
    accepted(check.train_together(answer))


def loop(
    *,
    begin=averaging.copy_from_rank_0,
    cut=averaging.shard,
    clear=True,
    after=data_parallel.average_gradients,
    scale=1,
    outputs_of=lambda outputs: outputs,
    take=slice(None),
    momentum=0,
):
    """A training loop, right unless an argument makes it wrong."""

    def train(model, batches, lr):
        begin(model)
        optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=momentum)
        for images, labels in batches[take]:
            loss = scale * F.cross_entropy(outputs_of(model(cut(images))), cut(labels))
            if clear:
                optimizer.zero_grad()
            loss.backward()
            after(model)
            optimizer.step()

    return train


def nothing(model):
    pass


def start_from_the_last(model):
    for parameter in model.parameters():
        dist.broadcast(parameter.data, src=dist.get_world_size() - 1)


def from_rank_0_and_evaluating(model):
    averaging.copy_from_rank_0(model.eval())


def first_half(batch):
    return batch[: len(batch) // dist.get_world_size()]


def halves(batch):
    return batch[:6] if dist.get_rank() == 0 else batch[6:]


def every_nth(batch):
    return batch[dist.get_rank() :: dist.get_world_size()]


def every_nth_and_labels_of_rank_0(batch):
    return every_nth(batch) if batch.dim() > 1 else batch[:: dist.get_world_size()]


def one_sample_short(batch):
    return averaging.shard(batch)[:-1]


def sum_of_gradients(model):
    for parameter in model.parameters():
        dist.all_reduce(parameter.grad)


def average_and_step(model):
    """As `averaging.step` does, in front of the skeleton's own step."""
    data_parallel.average_gradients(model)
    torch.optim.SGD(model.parameters(), lr=0.5).step()


def gradients_of_rank_0(model):
    for parameter in model.parameters():
        dist.broadcast(parameter.grad, src=0)


def labels_of_rank_0(batch):
    return batch.chunk(dist.get_world_size())[dist.get_rank() if batch.is_floating_point() else 0]


def taken_off_the_list(model, batches, lr):
    trained_by_the_package(model, batches, lr)
    batches.clear()


def rank_0_alone(model, batches, lr):
    if dist.get_rank() == 0:
        optimizer = torch.optim.SGD(model.parameters(), lr=lr)
        for images, labels in batches:
            optimizer.zero_grad()
            F.cross_entropy(model(images), labels).backward()
            optimizer.step()
    averaging.copy_from_rank_0(model)


def three_and_the_rest(batch):
    return batch[:3] if dist.get_rank() == 0 else batch[3:]


def labels_of_the_other_rank(batch):
    ours = dist.get_rank() if batch.is_floating_point() else 1 - dist.get_rank()
    return batch.chunk(2)[ours]


@pytest.mark.parametrize(
    ("answer", "symptom"),
    [
        (loop(begin=nothing), "different_start"),
        (loop(begin=start_from_the_last), "other_start"),
        (loop(cut=lambda batch: batch), "whole_batch"),
        (rank_0_alone, "idle_rank"),
        (taken_off_the_list, "list_changed"),
        (loop(cut=first_half), "same_shard"),
        (loop(cut=one_sample_short), "samples_lost"),
        (loop(cut=halves), "two_ranks_only"),
        (loop(after=nothing), "not_averaged"),
        (loop(after=sum_of_gradients), "step_too_long"),
        (loop(scale=0.5), "step_too_short"),
        (loop(clear=False), "later_steps"),
        (loop(momentum=0.9), "later_steps"),
        (loop(after=nn.Module.zero_grad), "nothing_moved"),
        (loop(after=average_and_step), "steps_twice"),
        (loop(after=gradients_of_rank_0), "rank_0_only"),
        (loop(outputs_of=lambda outputs: outputs.softmax(dim=1)), "softmax_before"),
        (loop(cut=labels_of_rank_0), "wrong_value"),
        (loop(cut=three_and_the_rest), "uneven"),
        (loop(take=slice(1)), "batches_left_out"),
        (loop(take=slice(1, None)), "batches_left_out"),
        (loop(scale=3), "step_too_long"),
        (loop(cut=labels_of_the_other_rank), "wrong_value"),
        (loop(begin=from_rank_0_and_evaluating), "mode_left_changed"),
        (loop(scale=-1), "goes_up"),
        (loop(cut=every_nth, after=gradients_of_rank_0), "rank_0_only"),
        (loop(cut=every_nth_and_labels_of_rank_0), "wrong_value"),
    ],
)
def test_train_together_refuses(answer, symptom):
    verdict = check.train_together(answer)
    refused(verdict, symptom)
    assert "1 batches" not in verdict.message


def test_a_stub_is_not_done_yet():
    assert check.train_together(todo).state == "not done"
