"""Checks of lesson 02 on a linear layer that is split over ranks: by columns and by rows."""

import copy
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn

from torchcourse.checks import Wrong, check
from torchcourse.checks.kit import AnyOf, copies, on_ranks, refuse_known, same
from torchcourse.lessons.data_parallelism.checks.reference import times_as_large
from torchcourse.lessons.data_parallelism.messages import listed_messages
from torchcourse.ranks.who import ON_CPU

TIME_LIMIT = 30.0  # seconds for one call; healthy ranks need a fraction of one
_FLOAT32 = 1e-5  # how far an answer is off that went through float32
_FEW_DIGITS = "are right to a few digits only. The layer has 64 bits: is there a 32-bit number on the way?"


@check
def column_linear(learner: Callable) -> str:
    """Compare outputs and gradients with the whole layer, on 3 and on 2 ranks and for two shapes of the input."""
    for ranks, shape in ((3, (2, 3, 6)), (2, (5, 4))):  # on 2 ranks, N times is twice
        _judge_column(_answers(_one_column, learner, shape, ranks), ranks)
    return "Outputs, and the gradients of input, weight and bias, are those of the whole layer, on 2 and on 3 ranks."


@check
def row_linear(learner: Callable) -> str:
    """Compare outputs and gradients with the whole layer, on 3 and on 2 ranks and for two shapes of the input."""
    for ranks, shape in ((3, (2, 3, 6)), (2, (5, 4))):  # on 2 ranks, N times is twice
        _judge_row(_answers(_one_row, learner, shape, ranks), ranks)
    return "Outputs, and the gradients of input, weight and bias, are those of the whole layer, on 2 and on 3 ranks."


# What both share


Known = dict[str, tuple[Any, str]]
"""By symptom: what a known mistake gives on this rank, and the hint."""


@dataclass
class Answer:
    """What came out on one rank, and of the whole layer what belongs there. None where there was no tensor."""

    output: torch.Tensor | None
    gradients: dict[str, torch.Tensor | None]
    right_output: torch.Tensor
    right_gradients: dict[str, torch.Tensor]
    known_outputs: Known
    known_gradients: Known  # of the input
    others_used: bool  # whether the parts of other ranks were computed with
    warned: bool
    in_place: bool  # whether a gradient that autograd handed over was changed
    changed: bool  # whether the layer's weight or bias was changed
    sent: bool  # whether the backward pass sent anything


_SHAPES = (
    "shapes",
    "On rank {rank} of RANKS the shapes do not fit: {first_line}. PyTorch keeps `weight` as [outputs, inputs]. Which "
    "of the two does this rank have a part of? And the bias?",
)
_ERRORS = {
    "cannot be multiplied": _SHAPES,
    "must match the": _SHAPES,
    "must be a matrix": (
        "two_dimensions",
        "On rank {rank} of RANKS the input has three dimensions: [..., inputs] stands for any number of them. "
        "`F.linear` and `@` take them all.",
    ),
    "NoneType": (
        "none",
        "Rank {rank} of RANKS met None where a tensor should be. Does each function return something? "
        "`dist.all_reduce` changes its tensor in place, and returns None.",
    ),
}


def _answers(function: Callable, learner: Callable, shape: tuple[int, ...], ranks: int) -> list[Answer]:
    return on_ranks(
        function,
        learner,
        shape,
        world_size=ranks,
        seconds=TIME_LIMIT,
        known={part: (symptom, hint.replace("RANKS", str(ranks))) for part, (symptom, hint) in _ERRORS.items()},
        env=ON_CPU,
    )


def _whole(shape: tuple[int, ...], ranks: int, inputs: int) -> tuple[nn.Linear, torch.Tensor, torch.Tensor]:
    """A whole layer, its input, and the weights of a loss; the same on each rank."""
    torch.manual_seed(3)
    linear = nn.Linear(inputs, 2 * ranks).double()
    return linear, torch.randn(*shape[:-1], inputs).double(), torch.randn(*shape[:-1], 2 * ranks).double()


def _call(
    learner: Callable, x: torch.Tensor, linear: nn.Linear, weights: Callable
) -> tuple[torch.Tensor | None, bool, bool, bool, bool]:
    """Return the output, and whether: autograd warned, a gradient or the layer was changed, backward sent anything."""
    before = copies(linear.parameters())
    handed_over: list[tuple[torch.Tensor, torch.Tensor]] = []
    messages: Sequence[object] = ()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        y = learner(x, linear)
        if isinstance(y, torch.Tensor) and y.requires_grad:
            factors = weights(y)
            _watch(y, handed_over)
            with listed_messages() as messages:
                if factors.shape == y.shape:
                    (y * factors).sum().backward()
    warned = any("autograd kernel was not registered" in str(warning.message) for warning in caught)
    in_place = any(not torch.equal(gradient, original) for gradient, original in handed_over)
    changed = not same(copies(linear.parameters()), before)
    return (y.detach().clone() if isinstance(y, torch.Tensor) else None), warned, in_place, changed, bool(messages)


def _watch(y: torch.Tensor, handed_over: list[tuple[torch.Tensor, torch.Tensor]]) -> None:
    """Note each gradient that a Function of the learner's gets in the backward pass, and a copy of it."""

    def note(gradients: Sequence[torch.Tensor | None]) -> None:
        handed_over.extend((gradient, gradient.clone()) for gradient in gradients if gradient is not None)

    seen, ahead = set(), [y.grad_fn]
    while ahead:
        node = ahead.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if isinstance(node, torch.autograd.function.BackwardCFunction):
            node.register_prehook(note)
        ahead += [following for following, _ in node.next_functions]


def _part(tensor: torch.Tensor, dimension: int) -> torch.Tensor:
    return tensor.chunk(dist.get_world_size(), dimension)[dist.get_rank()].clone()


def _gradients(x: torch.Tensor, parameters: Sequence[torch.Tensor], dimension: int) -> dict[str, torch.Tensor | None]:
    """The gradients of the input, of this rank's part of the weight, and of the bias that belongs to it."""
    weight, bias = (parameter.grad for parameter in parameters)
    return {
        "input": None if x.grad is None else x.grad.clone(),  # a functional collective is waited for when read
        "weight": None if weight is None else _part(weight, dimension),
        "bias": bias if bias is None or dimension == 1 else _part(bias, 0),
    }


def _uses_other_parts(learner: Callable, linear: nn.Linear, x: torch.Tensor, weights: Callable, dimension: int) -> bool:
    """Whether NaN in the other ranks' rows (dimension 0) or columns (1) reaches the output or the input's gradient."""
    linear, x = copy.deepcopy(linear), x.clone().requires_grad_()
    with torch.no_grad():
        for parameter in (linear.weight, linear.bias)[: 2 - dimension]:  # by rows each rank needs the whole bias
            own = _part(parameter, dimension)
            parameter.fill_(torch.nan).chunk(dist.get_world_size(), dimension)[dist.get_rank()].copy_(own)
    output, *_ = _call(learner, x, linear, weights)
    return any(tensor is not None and bool(tensor.isnan().any()) for tensor in (output, x.grad))


_FOR_RANK_0 = "Which collective, or which line of yours, serves rank 0 only?"


def _judge_outputs(answer: Answer, rank: int, case: str, first: Answer) -> None:
    """Refuse wrong outputs, known ones by their symptom; then known gradients of the input. `first`: of rank 0."""
    where, right = f"{case}rank {rank}: ", answer.right_output
    if answer.changed:
        raise Wrong(
            "weights_changed",
            f"{case}your function changed `linear.weight` or `linear.bias` on rank {rank}. It is to read them only.",
        )
    if answer.output is None:
        raise Wrong("wrong_type", f"{case}rank {rank} returned no tensor.")
    if not same(answer.output, right):
        refuse_known(answer.output, answer.known_outputs, where=where)
        if answer.output.shape != right.shape:
            raise Wrong("shape", f"{where}the shape is {list(answer.output.shape)}; {list(right.shape)} was asked for.")
        if same(answer.output, right, _FLOAT32):
            raise Wrong("precision", f"{where}the outputs {_FEW_DIGITS}")
        if same(first.output, first.right_output):
            raise Wrong("one_rank_only", f"{case}the outputs are right on rank 0, not on rank {rank}. {_FOR_RANK_0}")
        raise Wrong(
            "wrong_value", f"{case}the outputs of rank {rank} are not the whole layer's. Print both side by side."
        )
    if answer.warned:
        raise Wrong(
            "outside_autograd",
            f"{case}the outputs are right, but autograd warns: it does not know how to go back through a bare "
            "`dist.all_reduce`. The collective belongs in the forward or the backward of your Function.",
        )
    if not same(answer.gradients["input"], answer.right_gradients["input"]):
        refuse_known(answer.gradients["input"], answer.known_gradients, where=where)


def _judge_in_place(answer: Answer, rank: int, case: str) -> None:
    if answer.in_place:
        raise Wrong(
            "in_place",
            f"{case}the values are right, but on rank {rank} the backward pass changes the gradient that it was given. "
            "Other code may still need it: let the collective work on a copy.",
        )


def _judge_gradients(answer: Answer, rank: int, case: str, first: Answer) -> None:
    for name, right in answer.right_gradients.items():
        ours = answer.gradients[name]
        if ours is None or not ours.any():
            got = "got no gradient" if ours is None else "has a gradient of zeros"
            raise Wrong(
                f"no_gradient_of_{name}",
                f"{case}the outputs are right, but on rank {rank} the {name} {got}. Is the graph cut somewhere, or "
                f"does {'a `backward` return nothing' if ours is None else 'it cancel out'}?",
            )
        if same(ours, right):
            continue
        if same(ours, right, _FLOAT32):
            raise Wrong(
                "precision", f"{case}rank {rank}: the outputs are right, but the gradients of the {name} {_FEW_DIGITS}"
            )
        if same(first.gradients[name], first.right_gradients[name]):
            raise Wrong(
                "one_rank_only",
                f"{case}the outputs are right; the gradient of the {name} is so on rank 0, not on rank {rank}. "
                + _FOR_RANK_0,
            )
        times = times_as_large(ours, right)
        raise Wrong(
            f"wrong_gradient_of_{name}",
            f"{case}the outputs are right, but on rank {rank} the gradient of the {name} is "
            f"{'not' if times is None else f'{times:.3g} times'} the whole layer's. Which gradients are parts of a "
            "sum here, which are the same on each rank, and how often is each summed?",
        )


def _judge_parts(answer: Answer, rank: int, case: str, parts: str) -> None:
    if answer.others_used:
        raise Wrong(
            "others_used",
            f"{case}the values are right, but rank {rank} computes with {parts} that belong to other ranks. Then "
            f"nothing is saved: take this rank's {parts.split()[0]} before you multiply.",
        )


# By columns


def _one_column(learner: Callable, shape: tuple[int, ...]) -> Answer:
    rank, ranks = dist.get_rank(), dist.get_world_size()
    linear, x, weights = _whole(shape, ranks, shape[-1])
    right = x.clone().requires_grad_()
    y = linear(right)
    mine = (_part(y, -1) * _part(weights, -1)).sum()
    (own,) = torch.autograd.grad(mine, right, retain_graph=True)
    whole, of_weight, of_bias = torch.autograd.grad((y * weights).sum(), [right, linear.weight, linear.bias])
    right_gradients = {"input": whole, "weight": _part(of_weight, 0), "bias": _part(of_bias, 0)}
    summed = _part(y, -1).detach().contiguous()
    dist.all_reduce(summed)
    known_outputs: Known = {
        "whole_output": (y.detach(), "it computed all outputs. Then nothing is saved; which of them are this rank's?"),
        "no_bias": (
            _part(F.linear(x, linear.weight.detach()), -1),
            "the outputs lack the bias. Each output has its own: which entries are this rank's?",
        ),
        "other_part": (
            AnyOf((y.detach().chunk(ranks, -1)[0].clone(), y.detach()[..., rank::ranks].clone())),
            "it computed the outputs of rank 0, or every n-th one. Which block of neighbors is this rank's?",
        ),
        "input_summed": (
            _part(F.linear(ranks * x, linear.weight, linear.bias).detach(), -1),
            "the outputs are those of N times x: it was summed on the way in. `Enter` passes x on as it is.",
        ),
        "summed_forward": (
            summed,
            "the outputs are summed over the ranks, but each rank has other ones. What has to be summed?",
        ),
    }
    mixed = _part(weights, -1).contiguous()
    dist.all_reduce(mixed)
    known_gradients: Known = {
        "not_summed": (
            own,
            "the outputs are right, but the gradient of the input is only the part that this rank's outputs gave. The "
            "input went into the outputs of all ranks.",
        ),
        "entered_late": (
            mixed @ _part(linear.weight.detach(), 0),
            "the outputs are right, but the gradients of the *outputs* are summed over the ranks, and each rank has "
            "different outputs. Is `Enter` where x comes in?",
        ),
    }
    ours, parameters = x.clone().requires_grad_(), list(linear.parameters())
    others_used = _uses_other_parts(learner, linear, x, lambda _: _part(weights, -1), 0)
    output, *noted = _call(learner, ours, linear, lambda _: _part(weights, -1))
    gradients, y = _gradients(ours, parameters, 0), _part(y, -1).detach()
    return Answer(output, gradients, y, right_gradients, known_outputs, known_gradients, others_used, *noted)


def _judge_column(answers: Sequence[Answer], ranks: int) -> None:
    # From the last rank on: on rank 0, the part of rank 0 is right.
    for rank, answer in reversed(list(enumerate(answers))):
        case = f"On {ranks} ranks, "
        _judge_outputs(answer, rank, case, answers[0])
        _judge_gradients(answer, rank, case, answers[0])
        _judge_in_place(answer, rank, case)
        _judge_parts(answer, rank, case, "rows of `linear.weight` or `linear.bias`")


# By rows


def _one_row(learner: Callable, shape: tuple[int, ...]) -> Answer:
    ranks = dist.get_world_size()
    linear, x, weights = _whole(shape, ranks, 3 * ranks)
    right = x.clone().requires_grad_()
    y = linear(right)
    whole, of_weight, of_bias = torch.autograd.grad((y * weights).sum(), [right, linear.weight, linear.bias])
    right_gradients = {"input": _part(whole, -1), "weight": _part(of_weight, 1), "bias": of_bias}
    bias, y = linear.bias.detach(), y.detach()
    partial = F.linear(_part(x, -1), _part(linear.weight.detach(), 1))
    other_columns = (linear.weight.detach().chunk(ranks, 1)[0], linear.weight.detach()[:, dist.get_rank() :: ranks])
    of_other_columns = [F.linear(_part(x, -1), columns) for columns in other_columns]
    for sums in of_other_columns:
        dist.all_reduce(sums)
    known_outputs: Known = {
        "bias_on_every_rank": (
            y + (ranks - 1) * bias,
            "the bias is in the sum once for each rank. Where must it be added to count once?",
        ),
        "no_bias": (y - bias, "the outputs lack the bias."),
        "not_summed": (
            AnyOf((partial + bias, partial)),
            "the outputs are only what this rank's inputs give. The other inputs are on other ranks.",
        ),
        "averaged": (
            AnyOf(((y - bias) / ranks + bias, y / ranks)),
            "the ranks' parts were averaged. Each is a part of one sum.",
        ),
        "other_part": (
            AnyOf(sums + bias for sums in of_other_columns),
            "each rank multiplied by the columns of rank 0, or by every n-th one. Its inputs are a block of neighbors.",
        ),
    }
    ours, parameters = _part(x, -1).requires_grad_(), list(linear.parameters())
    others_used = _uses_other_parts(learner, linear, _part(x, -1), lambda _: weights, 1)
    output, *noted = _call(learner, ours, linear, lambda _: weights)
    gradients = _gradients(ours, parameters, 1)
    return Answer(output, gradients, y, right_gradients, known_outputs, {}, others_used, *noted)


def _judge_row(answers: Sequence[Answer], ranks: int) -> None:
    case = f"On {ranks} ranks, "
    for rank, answer in reversed(list(enumerate(answers))):
        _judge_outputs(answer, rank, case, answers[0])
    for rank, answer in enumerate(answers):
        bias, right = answer.gradients["bias"], answer.right_gradients["bias"]
        if bias is None or not bias.any():
            if not any(other.gradients["bias"] is not None and other.gradients["bias"].any() for other in answers):
                _judge_gradients(answer, rank, case, answers[0])
            raise Wrong(
                "bias_on_one_rank",
                f"{case}the outputs are right, but on rank {rank} the bias got no gradient: after one step of the "
                "optimizer the ranks hold different biases. Let each rank add its own, where it counts once.",
            )
        if same(bias * ranks, right):
            raise Wrong(
                "bias_shared_out",
                f"{case}the outputs are right, but the gradient of the bias is N times too small. Each rank adds only "
                "a share of it. Is there a place where the whole bias can be added, and count once?",
            )
        _judge_gradients(answer, rank, case, answers[0])
        _judge_in_place(answer, rank, case)
        if answer.sent:
            raise Wrong(
                "sent_backward",
                f"{case}the values are right, but the backward pass sends. The gradient of the output is the same on "
                "each rank, and each has it.",
            )
        _judge_parts(answer, rank, case, "columns of `linear.weight`")
