"""The checks of lesson 01 accept right answers built in different ways, and name the symptom of each wrong one."""

import copy

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn

from torchcourse.lessons.data_parallelism import averaging, data_parallel
from torchcourse.lessons.data_parallelism.checks import averaging as check
from verdicts import accepted, refused, todo


def own(model):
    return [parameter for parameter in model.parameters() if parameter.grad is not None]


# average_gradients


def mean_with_avg(model):
    for parameter in own(model):
        dist.all_reduce(parameter.grad, op=dist.ReduceOp.AVG)


def mean_in_one_message(model):
    flat = nn.utils.parameters_to_vector([parameter.grad for parameter in own(model)])
    dist.all_reduce(flat.div_(dist.get_world_size()))
    for parameter, part in zip(own(model), flat.split([p.numel() for p in own(model)]), strict=True):
        parameter.grad = part.view_as(parameter)


def mean_by_gathering(model):
    for parameter in own(model):
        everyone = [torch.empty_like(parameter.grad) for _ in range(dist.get_world_size())]
        dist.all_gather(everyone, parameter.grad)
        parameter.grad.copy_(torch.stack(everyone).mean(dim=0))


@pytest.mark.parametrize(
    "answer", [data_parallel.average_gradients, mean_with_avg, mean_in_one_message, mean_by_gathering]
)
def test_average_gradients_accepts(answer):
    accepted(check.average_gradients(answer))


def sum_only(model):
    for parameter in own(model):
        dist.all_reduce(parameter.grad)


def divided_before_and_after(model):
    for parameter in own(model):
        parameter.grad /= dist.get_world_size()
        dist.all_reduce(parameter.grad)
        parameter.grad /= dist.get_world_size()


def no_message(model):
    for parameter in own(model):
        parameter.grad /= dist.get_world_size()


def result_dropped(model):
    for parameter in own(model):
        gradient = parameter.grad.clone()
        dist.all_reduce(gradient)
        gradient /= dist.get_world_size()


def weights_only(model):
    for parameter in own(model):
        if parameter.dim() > 1:
            dist.all_reduce(parameter.grad)
            parameter.grad /= dist.get_world_size()


def reduced_to_rank_0(model):
    for parameter in own(model):
        dist.reduce(parameter.grad, dst=0)
        parameter.grad /= dist.get_world_size()


def broadcast_instead(model):
    for parameter in own(model):
        dist.broadcast(parameter.grad, src=0)


def halved(model):
    for parameter in own(model):
        dist.all_reduce(parameter.grad)
        parameter.grad /= 2


def weights_averaged(model):
    for parameter in model.parameters():
        dist.all_reduce(parameter.data)
        parameter.data /= dist.get_world_size()


def frozen_forgotten(model):
    for parameter in model.parameters():
        dist.all_reduce(parameter.grad)
        parameter.grad /= dist.get_world_size()


def result_expected_back(model):
    for parameter in own(model):
        parameter.grad = dist.all_reduce(parameter.grad) / dist.get_world_size()


def gradients_cleared(model):
    mean_with_avg(model)
    model.zero_grad()


def rank_0_alone(model):
    if dist.get_rank() == 0:
        mean_with_avg(model)


def largest(model):
    for parameter in own(model):
        dist.all_reduce(parameter.grad, op=dist.ReduceOp.MAX)


@pytest.mark.parametrize(
    ("answer", "symptom"),
    [
        (sum_only, "sum_not_mean"),
        (divided_before_and_after, "divided_twice"),
        (no_message, "only_divided"),
        (result_dropped, "nothing_changed"),
        (weights_only, "some_parameters"),
        (reduced_to_rank_0, "one_rank_only"),
        (broadcast_instead, "copied_not_averaged"),
        (halved, "two_ranks_only"),
        (weights_averaged, "weights_changed"),
        (frozen_forgotten, "no_gradient"),
        (result_expected_back, "nothing_returned"),
        (gradients_cleared, "gradient_lost"),
        (largest, "wrong_value"),
    ],
)
def test_average_gradients_refuses(answer, symptom):
    refused(check.average_gradients(answer), symptom)


@pytest.mark.parametrize("limit", [1.0, 20.0], ids=["hangs", "is left alone"])
def test_ranks_that_wait_for_ever_are_named(monkeypatch, limit):
    monkeypatch.setattr(check, "TIME_LIMIT", limit)
    refused(check.average_gradients(rank_0_alone), "hang")


# train_together


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


@pytest.mark.parametrize("answer", [trained_by_the_package, trained_without_an_optimizer, trained_by_torch])
def test_train_together_accepts(answer):
    accepted(check.train_together(answer))


def loop(
    *, begin=averaging.copy_from_rank_0, cut=averaging.shard, clear=True, after=data_parallel.average_gradients, scale=1
):
    """A training loop, right unless an argument makes it wrong."""

    def train(model, batches, lr):
        begin(model)
        optimizer = torch.optim.SGD(model.parameters(), lr=lr)
        for images, labels in batches:
            loss = scale * F.cross_entropy(model(cut(images)), cut(labels))
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


def first_half(batch):
    return batch[: len(batch) // dist.get_world_size()]


def halves(batch):
    return batch[:6] if dist.get_rank() == 0 else batch[6:]


def one_sample_short(batch):
    return averaging.shard(batch)[:-1]


def sum_of_gradients(model):
    for parameter in model.parameters():
        dist.all_reduce(parameter.grad)


def labels_of_the_other_rank(batch):
    ours = dist.get_rank() if batch.is_floating_point() else 1 - dist.get_rank()
    return batch.chunk(2)[ours]


@pytest.mark.parametrize(
    ("answer", "symptom"),
    [
        (loop(begin=nothing), "different_start"),
        (loop(begin=start_from_the_last), "other_start"),
        (loop(cut=lambda batch: batch), "whole_batch"),
        (loop(cut=first_half), "same_shard"),
        (loop(cut=one_sample_short), "samples_lost"),
        (loop(cut=halves), "two_ranks_only"),
        (loop(after=nothing), "not_averaged"),
        (loop(after=sum_of_gradients), "step_too_long"),
        (loop(scale=0.5), "step_too_short"),
        (loop(clear=False), "later_steps"),
        (loop(cut=labels_of_the_other_rank), "wrong_step"),
    ],
)
def test_train_together_refuses(answer, symptom):
    refused(check.train_together(answer), symptom)


# average_uneven


def weighted_by_the_sum(model, samples):
    total = torch.tensor(samples)
    dist.all_reduce(total)
    for parameter in own(model):
        parameter.grad = parameter.grad * samples
        dist.all_reduce(parameter.grad)
        parameter.grad /= total


def weighted_after_gathering(model, samples):
    everyone = [None] * dist.get_world_size()
    dist.all_gather_object(everyone, samples)
    for parameter in own(model):
        parameter.grad.mul_(samples / sum(everyone))
        dist.all_reduce(parameter.grad)


@pytest.mark.parametrize("answer", [weighted_by_the_sum, weighted_after_gathering])
def test_average_uneven_accepts(answer):
    accepted(check.average_uneven(answer))


def weigh(factor):
    """An answer that multiplies the summed gradients by `factor(own samples, all samples, ranks)`."""

    def answer(model, samples):
        total = torch.tensor(samples)
        dist.all_reduce(total)
        for parameter in own(model):
            parameter.grad *= samples
            dist.all_reduce(parameter.grad)
            parameter.grad *= factor(samples, total.item(), dist.get_world_size())

    return answer


def plain_mean(model, samples):
    mean_with_avg(model)


def not_added(model, samples):
    total = torch.tensor(samples)
    dist.all_reduce(total)
    for parameter in own(model):
        parameter.grad *= samples / total.item()


def inverse_weights(model, samples):
    for parameter in own(model):
        parameter.grad /= samples
        dist.all_reduce(parameter.grad)


@pytest.mark.parametrize(
    ("answer", "symptom"),
    [
        (plain_mean, "plain_mean"),
        (weigh(lambda samples, total, ranks: 1), "not_divided"),
        (weigh(lambda samples, total, ranks: 1 / ranks), "divided_by_ranks"),
        (weigh(lambda samples, total, ranks: 1 / ranks / total), "divided_twice"),
        (weigh(lambda samples, total, ranks: 1 / samples), "own_total"),
        (weigh(lambda samples, total, ranks: samples // total), "whole_numbers"),
        (weigh(lambda samples, total, ranks: samples / total), "ranks_disagree"),
        (not_added, "not_added"),
        (lambda model, samples: None, "nothing_changed"),
        (inverse_weights, "wrong_value"),
    ],
)
def test_average_uneven_refuses(answer, symptom):
    refused(check.average_uneven(answer), symptom)


# samples_of_rank


def mixed(total, epoch):
    return torch.randperm(total, generator=torch.Generator().manual_seed(epoch))


def every_nth(total, epoch, rank, world_size):
    return mixed(total, epoch)[: total - total % world_size][rank::world_size].tolist()


def own_block(total, epoch, rank, world_size):
    each = total // world_size
    return mixed(total, epoch)[rank * each : (rank + 1) * each]


def drawn_from_a_numpy_generator(total, epoch, rank, world_size):
    import numpy as np

    order = np.random.default_rng(7 + epoch).permutation(total)
    return order[: total // world_size * world_size].reshape(world_size, -1)[rank]


@pytest.mark.parametrize("answer", [every_nth, own_block, drawn_from_a_numpy_generator])
def test_samples_of_rank_accepts(answer):
    accepted(check.samples_of_rank(answer))


@pytest.mark.parametrize(
    ("answer", "symptom"),
    [
        (lambda total, epoch, rank, ranks: mixed(total, epoch)[: total // ranks], "same_data"),
        (lambda total, epoch, rank, ranks: torch.randperm(total)[rank::ranks], "overlap"),
        (lambda total, epoch, rank, ranks: mixed(total, epoch + rank)[: total // ranks], "overlap"),
        (lambda total, epoch, rank, ranks: mixed(total, epoch)[rank : total - 1 : ranks], "uneven"),
        (lambda total, epoch, rank, ranks: mixed(total, epoch)[rank * 10 : rank * 10 + 10], "samples_lost"),
        (lambda total, epoch, rank, ranks: mixed(total, 0)[rank::ranks], "same_every_epoch"),
        (lambda total, epoch, rank, ranks: list(range(rank, total, ranks))[:: 1 - 2 * (epoch % 2)], "not_mixed"),
        (lambda total, epoch, rank, ranks: mixed(total, epoch)[: total - total % 2][rank::2], "two_ranks_only"),
        (lambda total, epoch, rank, ranks: mixed(total, epoch)[rank::ranks] + 1, "out_of_range"),
        (lambda total, epoch, rank, ranks: None, "no_list"),
        (lambda total, epoch, rank, ranks: every_nth(total, 0, rank, ranks)[: 20 - epoch], "second_epoch"),
    ],
)
def test_samples_of_rank_refuses(answer, symptom):
    refused(check.samples_of_rank(answer), symptom)


def test_samples_of_rank_leaves_the_random_generator_alone():
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    check.samples_of_rank(every_nth)
    assert torch.equal(torch.rand(2), expected)


# all of them


@pytest.mark.parametrize("name", ["average_gradients", "train_together", "average_uneven", "samples_of_rank"])
def test_a_stub_is_not_done_yet(name):
    assert getattr(check, name)(todo).state == "not done"


def test_a_learners_error_is_told_in_one_sentence():
    def misspelt(model):
        dist.allreduce(copy.copy(model))

    checked = check.average_gradients(misspelt)
    assert (checked.state, checked.symptom) == ("wrong", "raised_AttributeError")
    assert "allreduce" in checked.message
    assert "Traceback" not in checked.message
