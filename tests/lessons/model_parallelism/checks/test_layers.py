"""Split layers built in different ways are accepted; each wrong one has its symptom."""

import time

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn
from torch.distributed._functional_collectives import all_reduce

from torchcourse.lessons.model_parallelism import tensor_parallel as tp
from torchcourse.lessons.model_parallelism.checks import layers as check
from verdicts import accepted, refused, todo


def place():
    return dist.get_rank(), dist.get_world_size()


def mine(tensor, dimension=0):
    rank, ranks = place()
    return tensor.chunk(ranks, dimension)[rank]


def total(tensor):
    tensor = tensor.clone()
    dist.all_reduce(tensor)
    return tensor


class Function(torch.autograd.Function):
    """Two given functions, for the way forward and the way back."""

    @staticmethod
    def forward(ctx, x, there, back):
        ctx.back = back
        return there(x)

    @staticmethod
    def backward(ctx, gradient):
        return ctx.back(gradient), None, None


def same(x):
    return x.view_as(x)


# column_linear


def column(x, linear, *, back=total, there=same, part=mine, bias=mine):
    """The layer of the notebook, with switches for its mistakes."""
    x = Function.apply(x, there, back)
    return F.linear(x, part(linear.weight), None if bias is None else bias(linear.bias))


def column_by_the_package(x, linear):
    layer = tp.ColumnParallelLinear(linear)
    y = layer(x)
    for name, parameter in layer.named_parameters():  # hand the gradients to the dense layer, as slices of it would
        parameter.register_hook(lambda gradient, name=name: put(linear, name, gradient))
    return y


def put(linear, name, gradient):
    rank, ranks = place()
    whole = torch.zeros_like(getattr(linear, name))
    whole.chunk(ranks)[rank].copy_(gradient)
    getattr(linear, name).grad = whole


class WholeColumn(torch.autograd.Function):
    """Forward and backward of the whole layer written out."""

    @staticmethod
    def forward(ctx, x, weight, bias):
        ctx.save_for_backward(x, weight)
        return x @ weight.T + bias

    @staticmethod
    def backward(ctx, gradient):
        x, weight = ctx.saved_tensors
        rows = gradient.flatten(0, -2)
        return total(gradient @ weight), rows.T @ x.flatten(0, -2), rows.sum(0)


def column_written_out(x, linear):
    rank, ranks = place()
    size = linear.out_features // ranks
    here = slice(rank * size, (rank + 1) * size)
    return WholeColumn.apply(x, linear.weight[here], linear.bias[here])


def every_nth(tensor):
    rank, ranks = place()
    return tensor[rank::ranks]


def column_by_a_functional_collective(x, linear):
    """What comes back is waited for only when somebody reads it, and one rank comes late."""

    def summed(gradient):
        time.sleep(0.3 * (dist.get_rank() == 0))
        return all_reduce(gradient, "sum", dist.group.WORLD)

    return column(x, linear, back=summed)


def column_that_cuts_the_layer(x, linear):
    linear.weight, linear.bias = nn.Parameter(mine(linear.weight)), nn.Parameter(mine(linear.bias))
    return linear(Function.apply(x, same, total))


@pytest.mark.slow
@pytest.mark.parametrize(
    "answer", [column, column_by_the_package, column_written_out, column_by_a_functional_collective]
)
def test_column_linear_accepts(answer):
    accepted(check.column_linear(answer))


@pytest.mark.parametrize(
    ("answer", "symptom"),
    [
        (lambda x, linear: column(x, linear, back=same), "not_summed"),
        (lambda x, linear: F.linear(x, mine(linear.weight), mine(linear.bias)), "not_summed"),
        (lambda x, linear: column(x, linear, back=lambda g: total(g) / place()[1]), "wrong_gradient_of_input"),
        (lambda x, linear: column(x, linear, back=lambda g: total(total(g))), "wrong_gradient_of_input"),
        (lambda x, linear: linear(x), "whole_output"),
        (lambda x, linear: column(x, linear, bias=None), "no_bias"),
        (lambda x, linear: column(x, linear, part=first, bias=first), "other_part"),
        (lambda x, linear: column(x, linear, part=every_nth, bias=every_nth), "other_part"),
        (lambda x, linear: Function.apply(column(x, linear), total, same), "summed_forward"),
        (lambda x, linear: column(x, linear, part=lambda w: mine(w, 1)), "shapes"),
        (lambda x, linear: column(x, linear, bias=same), "shapes"),
        (lambda x, linear: column(x.detach(), linear), "no_gradient_of_input"),
        (lambda x, linear: column(x, linear, part=lambda w: mine(w.detach())), "no_gradient_of_weight"),
        (lambda x, linear: column(x, linear, there=lambda x: 5 * x), "wrong_value"),
        (lambda x, linear: column(x, linear, there=total), "input_summed"),
        (lambda x, linear: column(x, linear, back=reduced_to_rank_0), "one_rank_only"),
        (lambda x, linear: column(x, others_cleared(linear)), "weights_changed"),
        (column_that_cuts_the_layer, "weights_changed"),
        (lambda x, linear: column(x, linear, back=lambda g: total(g) ** 2), "wrong_gradient_of_input"),
        (lambda x, linear: tp.join(column(x, linear))[..., :1], "shape"),
        (lambda x, linear: None, "wrong_type"),
        (lambda x, linear: column(x, linear, back=only_rank_0), "left_alone"),
        (lambda x, linear: column(x, linear, back=total_in_place), "in_place"),
        (lambda x, linear: column(x, linear, back=lambda g: g * place()[1]), "wrong_gradient_of_input"),
        (
            lambda x, linear: Function.apply(F.linear(x, mine(linear.weight), mine(linear.bias)), same, total),
            "entered_late",
        ),
        (lambda x, linear: column(x, linear, back=lambda g: total(g.float()).double()), "precision"),
        (
            lambda x, linear: torch.mm(Function.apply(x, same, total), mine(linear.weight).T) + mine(linear.bias),
            "two_dimensions",
        ),
        (lambda x, linear: mine(linear(Function.apply(x, same, total)).movedim(-1, 0)).movedim(0, -1), "others_used"),
    ],
)
def test_column_linear_refuses(answer, symptom):
    refused(check.column_linear(answer), symptom)


def reduced_to_rank_0(tensor):
    tensor = tensor.clone()
    dist.reduce(tensor, 0)
    return tensor


def others_cleared(linear):
    rank, ranks = place()
    for other in range(ranks):
        if other != rank:
            linear.weight.data.chunk(ranks)[other].zero_()
    return linear


def test_a_gradient_that_is_multiplied_says_by_how_much():
    verdict = check.column_linear(lambda x, linear: column(x, linear, back=lambda g: -total(g)))
    refused(verdict, "wrong_gradient_of_input")
    assert "is -1 times the whole layer's" in verdict.message


def total_in_place(gradient):
    dist.all_reduce(gradient)
    return gradient


def first(tensor):
    return tensor.chunk(place()[1])[0]


def only_rank_0(gradient):
    return total(gradient) if place()[0] == 0 else gradient


# row_linear


def row(part, linear, *, there=total, back=same, weight=lambda w: mine(w, 1), before=None, after=same):
    """The layer of the notebook, with switches for its mistakes."""
    y = F.linear(part, weight(linear.weight))
    if before is not None:
        y = y + before(linear.bias)
    y = Function.apply(y, there, back)
    return y if after is None else y + after(linear.bias)


def row_by_the_package(part, linear):
    return tp.leave(part @ mine(linear.weight, 1).T) + linear.bias


class InPlace(torch.autograd.Function):
    @staticmethod
    def forward(ctx, part):
        dist.all_reduce(part)
        ctx.mark_dirty(part)
        return part

    @staticmethod
    def backward(ctx, gradient):
        return gradient


def row_in_place(part, linear):
    return InPlace.apply(F.linear(part, mine(linear.weight, 1))) + linear.bias


def row_bare(part, linear):
    y = F.linear(part, mine(linear.weight, 1))
    dist.all_reduce(y)
    return y + linear.bias


def row_of_torch(part, linear):
    import torch.distributed.nn.functional as distributed

    return distributed.all_reduce(F.linear(part, mine(linear.weight, 1))) + linear.bias


def row_of_all_inputs(part, linear):
    """The whole layer on each rank: right, and nothing is split."""
    rank, ranks = place()
    parts = [torch.empty_like(part) for _ in range(ranks)]
    dist.all_gather(parts, part.detach().contiguous())
    parts[rank] = part
    return linear(torch.cat(parts, -1))


def row_of_zeros(part, linear):
    """All columns of the weight on each rank, times zeros where the inputs are another rank's."""
    rank, ranks = place()
    parts = [torch.zeros_like(part) for _ in range(ranks)]
    parts[rank] = part
    return Function.apply(F.linear(torch.cat(parts, -1), linear.weight), total, same) + linear.bias


def on_rank_0(bias):
    return bias if place()[0] == 0 else torch.zeros_like(bias)


@pytest.mark.parametrize("answer", [row, row_by_the_package, row_in_place])
def test_row_linear_accepts(answer):
    accepted(check.row_linear(answer))


@pytest.mark.parametrize(
    ("answer", "symptom"),
    [
        (lambda part, linear: row(part, linear, before=same, after=None), "bias_on_every_rank"),
        (lambda part, linear: row(part, linear, after=None), "no_bias"),
        (lambda part, linear: row(part, linear, there=same), "not_summed"),
        (lambda part, linear: row(part, linear, there=same, after=None), "not_summed"),
        (lambda part, linear: row(part, linear, there=lambda y: total(y) / place()[1]), "averaged"),
        (lambda part, linear: row(part, linear, before=same, after=None, there=average), "wrong_value"),
        (lambda part, linear: row(part, linear, back=total), "wrong_gradient_of_input"),
        (row_of_torch, "wrong_gradient_of_input"),
        (lambda part, linear: row(part, linear, back=lambda g: g / place()[1]), "wrong_gradient_of_input"),
        (lambda part, linear: row(part, linear, back=lambda g: total(g) / place()[1]), "sent_backward"),
        (lambda part, linear: row(part, linear, weight=lambda w: w.chunk(place()[1], 1)[0]), "other_part"),
        (lambda part, linear: row(part, linear, there=reduced_to_rank_0), "one_rank_only"),
        (lambda part, linear: row(part, others_cleared(linear)), "weights_changed"),
        (lambda part, linear: row(part, linear, after=lambda b: 2 * b), "wrong_value"),  # on 2 ranks, once for each
        (lambda part, linear: row(part, linear, weight=mine), "shapes"),
        (row_bare, "outside_autograd"),
        (lambda part, linear: row(part, linear, before=on_rank_0, after=None), "bias_on_one_rank"),
        (lambda part, linear: row(part, linear, before=lambda b: b / place()[1], after=None), "bias_shared_out"),
        (lambda part, linear: total(row(part, linear).detach()) / place()[1], "no_gradient_of_input"),
        (lambda part, linear: row(part, linear, after=torch.detach), "no_gradient_of_bias"),
        (lambda part, linear: row(part.detach(), linear), "no_gradient_of_input"),
        (lambda part, linear: print("nothing"), "wrong_type"),
        (lambda part, linear: row(part, linear, there=lambda y: total(y.float()).double()), "precision"),
        (lambda part, linear: row(part, linear, weight=lambda w: every_nth(w.T).T), "other_part"),
        (lambda part, linear: row(part, linear, there=dist.all_reduce), "none"),
        (row_of_all_inputs, "others_used"),
        (row_of_zeros, "others_used"),
        (
            lambda part, linear: row(part, linear, before=same, after=cancelled),
            "no_gradient_of_bias",
        ),
    ],
)
def test_row_linear_refuses(answer, symptom):
    refused(check.row_linear(answer), symptom)


@pytest.mark.slow
def test_a_way_back_that_returns_nothing_is_among_the_questions_about_a_missing_gradient():
    for verdict in (
        check.column_linear(lambda x, linear: column(x, linear, back=lambda g: None)),
        check.row_linear(lambda part, linear: row(part, linear, back=lambda g: None)),
    ):
        refused(verdict, "no_gradient_of_input")
        assert "or does a `backward` return nothing?" in verdict.message


def test_shapes_that_fit_two_ranks_alone_say_of_how_many_ranks():
    verdict = check.row_linear(lambda part, linear: row(part, linear, weight=lambda w: w.chunk(2, 1)[place()[0] % 2]))
    refused(verdict, "shapes")
    assert " of 3 the shapes do not fit" in verdict.message


def cancelled(bias):
    """What leaves the bias in the outputs once where each rank added it to its addend, and leaves it no gradient."""
    ranks = place()[1]
    return bias - ranks * bias + (ranks - 2) * (bias - bias.detach())


def average(y):
    return total(y) / place()[1] * 1.5


@pytest.mark.slow
def test_a_rank_that_waits_is_named(monkeypatch):
    """The time limit is the point: rank 0 waits for a message that nobody sends."""
    monkeypatch.setattr(check, "TIME_LIMIT", 3.0)
    refused(check.row_linear(waits), "hang")


def waits(part, linear):
    if place()[0] == 0:
        dist.recv(torch.empty(1), 1)
    return row(part, linear)


# both


@pytest.mark.parametrize("exercise", [check.column_linear, check.row_linear])
def test_a_stub_is_not_done_yet(exercise):
    assert exercise(todo).state == "not done"
    assert exercise(...).state == "not done"


def test_a_way_back_that_is_not_written_is_undone():
    assert check.column_linear(lambda x, linear: column(x, linear, back=todo)).state == "not done"
