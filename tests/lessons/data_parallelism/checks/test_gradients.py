"""Averages of gradients built in different ways are accepted; each wrong one has its symptom."""

import copy

import pytest
import torch
import torch.distributed as dist
from torch import nn

from torchcourse.lessons.data_parallelism import data_parallel
from torchcourse.lessons.data_parallelism.checks import gradients as check
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


def mean_of_those_that_train(model):
    for parameter in model.parameters():
        if parameter.requires_grad:
            dist.all_reduce(parameter.grad)
            parameter.grad /= dist.get_world_size()


@pytest.mark.slow
@pytest.mark.parametrize(
    "answer",
    [
        data_parallel.average_gradients,
        mean_with_avg,
        mean_in_one_message,
        mean_by_gathering,
        mean_of_those_that_train,
    ],
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


def up_to_the_frozen_one(model):
    for parameter in model.parameters():
        if parameter.grad is None:
            break
        dist.all_reduce(parameter.grad, op=dist.ReduceOp.AVG)


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


def frozen_as_zeros(model):
    for parameter in model.parameters():
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    mean_with_avg(model)


def frozen_thawed(model):
    model.requires_grad_(True)
    mean_with_avg(model)


def gradients_cleared(model):
    mean_with_avg(model)
    model.zero_grad()


def rank_0_alone(model):
    if dist.get_rank() == 0:
        mean_with_avg(model)


def largest(model):
    for parameter in own(model):
        dist.all_reduce(parameter.grad, op=dist.ReduceOp.MAX)


def layer_by_layer(model):
    for layer in model.children():
        mean_with_avg(layer)


def leaves_only(model):
    for layer in model.modules():
        if isinstance(layer, nn.Linear):
            mean_with_avg(layer)


def divided_by_the_parameters(model):
    for parameter in own(model):
        dist.all_reduce(parameter.grad)
        parameter.grad /= len(own(model))


def added_to_its_own(model):
    for parameter in own(model):
        mean = parameter.grad.clone()
        dist.all_reduce(mean, op=dist.ReduceOp.AVG)
        parameter.grad += mean


def in_half_precision(model):
    for parameter in own(model):
        gradient = parameter.grad.half()
        dist.all_reduce(gradient)
        parameter.grad.copy_(gradient / dist.get_world_size())


def mean_over_all_places(model):
    mean_with_avg(model)
    for parameter in own(model):
        parameter.grad.fill_(parameter.grad.mean())


def pieces_from_the_front(model):
    row = torch.cat([parameter.grad.flatten() for parameter in own(model)])
    dist.all_reduce(row, op=dist.ReduceOp.AVG)
    for parameter in own(model):
        parameter.grad = row[: parameter.numel()].view_as(parameter)


CALLS = []


def in_the_first_call(model):
    if not CALLS:
        mean_with_avg(model)
    CALLS.append(model)


def group_destroyed(model):
    mean_with_avg(model)
    dist.destroy_process_group()


@pytest.mark.parametrize(
    ("answer", "symptom"),
    [
        (sum_only, "sum_not_mean"),
        (divided_before_and_after, "divided_twice"),
        (no_message, "only_divided"),
        (result_dropped, "nothing_changed"),
        (weights_only, "some_parameters"),
        (up_to_the_frozen_one, "some_parameters"),
        (reduced_to_rank_0, "one_rank_only"),
        (broadcast_instead, "copied_not_averaged"),
        (halved, "two_ranks_only"),
        (weights_averaged, "weights_changed"),
        (frozen_forgotten, "no_gradient"),
        (result_expected_back, "nothing_returned"),
        (frozen_as_zeros, "frozen"),
        (frozen_thawed, "frozen"),
        (gradients_cleared, "gradient_lost"),
        (layer_by_layer, "some_parameters"),
        (leaves_only, "some_parameters"),
        (in_the_first_call, "later_steps"),
        (group_destroyed, "raised_ValueError"),
        (divided_by_the_parameters, "divided_twice"),
        (largest, "wrong_value"),
        (added_to_its_own, "added_to_own"),
        (in_half_precision, "dtype"),
        (mean_over_all_places, "wrong_value"),
        (pieces_from_the_front, "some_parameters"),
    ],
)
def test_average_gradients_refuses(answer, symptom):
    refused(check.average_gradients(answer), symptom)


def test_a_parameter_with_its_own_gradient_is_named_as_in_the_model():
    assert "parameter scale" in check.average_gradients(lambda model: mean_with_avg(model[1])).message
    assert "parameter 1.0.weight" in check.average_gradients(up_to_the_frozen_one).message


def test_a_division_by_a_different_number_is_not_told_as_two():
    assert "or" in check.average_gradients(divided_by_the_parameters).message


@pytest.mark.slow
@pytest.mark.parametrize("limit", [1.0, 20.0], ids=["hangs", "is left alone"])
def test_ranks_that_wait_for_ever_are_named(monkeypatch, limit):
    monkeypatch.setattr(check, "TIME_LIMIT", limit)
    refused(check.average_gradients(rank_0_alone), "hang")


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


@pytest.mark.slow
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


def not_weighted(model, samples):
    total = torch.tensor(samples)
    dist.all_reduce(total)
    for parameter in own(model):
        dist.all_reduce(parameter.grad)
        parameter.grad /= total


def total_in_the_loop(model, samples):
    total = torch.tensor(samples)
    for parameter in own(model):
        dist.all_reduce(total)
        parameter.grad *= samples
        dist.all_reduce(parameter.grad)
        parameter.grad /= total


def divided_by_the_largest(model, samples):
    largest = torch.tensor(samples)
    dist.all_reduce(largest, op=dist.ReduceOp.MAX)
    for parameter in own(model):
        parameter.grad *= samples
        dist.all_reduce(parameter.grad)
        parameter.grad /= largest


def divided_by_the_product(model, samples):
    product = torch.tensor(samples)
    dist.all_reduce(product, op=dist.ReduceOp.PRODUCT)
    for parameter in own(model):
        parameter.grad *= samples / product.item()
        dist.all_reduce(parameter.grad)


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
        (weigh(lambda samples, total, ranks: 1 / ranks / total), "wrong_factor"),
        (weigh(lambda samples, total, ranks: 1 / samples), "own_total"),
        (weigh(lambda samples, total, ranks: samples // total), "whole_numbers"),
        (weigh(lambda samples, total, ranks: samples / total), "ranks_disagree"),
        (weigh(lambda samples, total, ranks: ranks / total), "wrong_factor"),
        (divided_by_the_largest, "wrong_factor"),
        (not_weighted, "not_weighted"),
        (total_in_the_loop, "total_grows"),
        (not_added, "not_added"),
        (lambda model, samples: [frozen_as_zeros(model), weighted_by_the_sum(model, samples)], "frozen"),
        (lambda model, samples: None, "nothing_changed"),
        (inverse_weights, "wrong_value"),
        (divided_by_the_product, "wrong_factor"),
    ],
)
def test_average_uneven_refuses(answer, symptom):
    refused(check.average_uneven(answer), symptom)


# both


@pytest.mark.parametrize("exercise", [check.average_gradients, check.average_uneven])
def test_a_stub_is_not_done_yet(exercise):
    assert exercise(todo).state == "not done"


def test_a_learners_error_is_told_in_one_sentence():
    def misspelt(model):
        dist.allreduce(copy.copy(model))  # type: ignore[attr-defined]  # the misspelling is what is tested

    checked = check.average_gradients(misspelt)
    assert (checked.state, checked.symptom) == ("wrong", "raised_AttributeError")
    assert "allreduce" in checked.message
    assert "Traceback" not in checked.message
