"""Checks of lesson 02, notebook 2: layers split by columns and rows, heads, a mesh, dropout. Symptoms, never cures.

The ranks only compute and send back what came out; the judging is done here, in the notebook's process.
"""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn

from torchcourse.checks import Wrong, check
from torchcourse.lessons.data_parallelism.data_parallel import average_gradients
from torchcourse.lessons.model_parallelism.tensor_parallel import Dropouts, drift, outputs_of_heads, split
from torchcourse.models import TransformerBlock
from torchcourse.ranks.run import RankError, RankTimeout, run_ranks

TIME_LIMIT = 30.0  # seconds for one call; healthy ranks need a fraction of one
_ON_CPU = {"CUDA_VISIBLE_DEVICES": ""}  # the same on every machine


@check
def column_linear(learner: Callable) -> str:
    """Compare outputs and gradients with the dense layer, on 2 and on 3 ranks and for two shapes of the input."""
    for ranks, shape in ((2, (5, 4)), (3, (2, 3, 6))):
        _judge_column(_on_ranks(_one_column, learner, shape, ranks=ranks), ranks)
    return "Outputs, and the gradients of input, weight and bias, are those of the dense layer, on 2 and on 3 ranks."


@check
def row_linear(learner: Callable) -> str:
    """Compare outputs and gradients with the dense layer, on 2 and on 3 ranks and for two shapes of the input."""
    for ranks, shape in ((2, (5, 4)), (3, (2, 3, 6))):
        _judge_row(_on_ranks(_one_row, learner, shape, ranks=ranks), ranks)
    return "Outputs, and the gradients of input, weight and bias, are those of the dense layer, on 2 and on 3 ranks."


@check
def head_outputs(learner: Callable) -> str:
    """Compare with the outputs that belong to whole heads, for several sizes."""
    for heads, width, ranks in ((4, 8, 2), (4, 32, 4), (6, 12, 3), (2, 6, 1)):
        for rank in range(ranks):
            call = f"head_outputs({heads}, {width}, {rank}, {ranks})"
            _judge_heads(_indices(learner(heads, width, rank, ranks), call), heads, width, rank, ranks, call)
    return "Each rank has the queries, keys and values of its own heads, in the order that attention expects."


@check
def mesh_groups(learner: Callable) -> str:
    """Compare with a mesh of data × tensor in which a tensor group is made of neighbours."""
    for ranks, tensor in ((8, 2), (4, 2), (8, 4), (6, 3), (4, 4), (4, 1)):
        _judge_mesh(learner(ranks, tensor), ranks, tensor)
    return "Every rank is in one group of each kind, for six meshes; neighbours share the layers."


@check
def dropout_seeds(learner: Callable) -> str:
    """Judge the seeds by what must be alike and what must not, then train with them on a mesh of two by two."""
    for ranks, tensor in ((4, 2), (8, 4), (2, 2), (3, 1)):
        _judge_seeds(learner, ranks, tensor)
    for rank, apart in enumerate(_on_ranks(_train_with_dropout, learner, ranks=4)):
        if apart > 1e-9:
            raise Wrong("drift", f"Trained with these seeds, the ranks drift apart: rank {rank} by {apart:.1e}.")
    return "On a 2×2 mesh nothing drifts apart, and no two masks are alike that should not be."


# What the checks on ranks share


@dataclass
class Answer:
    """What came out on one rank, and of the dense layer what belongs there. None where there was no tensor."""

    output: torch.Tensor | None
    gradients: dict[str, torch.Tensor | None]
    right_output: torch.Tensor
    right_gradients: dict[str, torch.Tensor]
    other_outputs: dict[str, torch.Tensor]  # by symptom: what a known mistake puts out here
    other_gradients: dict[str, torch.Tensor]  # by symptom: the gradients of the input of a known mistake
    warned: bool


def _on_ranks(function: Callable, *arguments: Any, ranks: int) -> list[Any]:
    try:
        return run_ranks(function, *arguments, world_size=ranks, timeout=TIME_LIMIT, env=_ON_CPU)
    except RankTimeout:
        raise Wrong(
            "hang",
            f"After {TIME_LIMIT:g} s some rank still waited. A collective is called by all ranks, or by none: is there "
            "an `if` around yours?",
        ) from None
    except RankError as error:
        _explain(error)


def _explain(error: RankError) -> NoReturn:
    if "cannot be multiplied" in error.message or "must match the" in error.message:
        raise Wrong(
            "shapes",
            f"On rank {error.rank} the shapes do not fit: {error.message.splitlines()[0]}. PyTorch keeps `weight` as "
            "[outputs, inputs]. Which of the two does this rank have a part of? And the bias?",
        ) from None
    if error.left_alone:
        raise Wrong("left_alone", f"Rank {error.rank} waited in a collective that another rank never called.") from None
    raise error


def _dense(shape: tuple[int, ...], ranks: int, inputs: int) -> tuple[nn.Linear, torch.Tensor, torch.Tensor]:
    """A dense layer, its input, and the weights of a loss; the same on each rank."""
    torch.manual_seed(3)
    linear = nn.Linear(inputs, 2 * ranks).double()
    return linear, torch.randn(*shape[:-1], inputs).double(), torch.randn(*shape[:-1], 2 * ranks).double()


def _call(learner: Callable, x: torch.Tensor, linear: nn.Linear, weights: Callable) -> tuple[torch.Tensor | None, bool]:
    """Call the learner's layer and go backward; the output, and whether autograd warned."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        y = learner(x, linear)
        if isinstance(y, torch.Tensor) and y.requires_grad:
            factors = weights(y)
            if factors.shape == y.shape:
                (y * factors).sum().backward()
    warned = any("autograd kernel was not registered" in str(warning.message) for warning in caught)
    return (y.detach().clone() if isinstance(y, torch.Tensor) else None), warned


def _part(tensor: torch.Tensor, dimension: int) -> torch.Tensor:
    return tensor.chunk(dist.get_world_size(), dimension)[dist.get_rank()].clone()


def _gradients(x: torch.Tensor, linear: nn.Linear, dimension: int) -> dict[str, torch.Tensor | None]:
    """The gradients of the input, of this rank's part of the weight, and of the bias that belongs to it."""
    weight, bias = linear.weight.grad, linear.bias.grad
    return {
        "input": x.grad,
        "weight": None if weight is None else _part(weight, dimension),
        "bias": bias if bias is None or dimension == 1 else _part(bias, 0),
    }


def _same(ours: torch.Tensor | None, other: torch.Tensor) -> bool:
    return ours is not None and ours.shape == other.shape and torch.allclose(ours, other, rtol=1e-8, atol=1e-10)


def _judge_known(answer: Answer, rank: int, case: str, hints: dict[str, str]) -> None:
    """Refuse wrong outputs, known ones by their symptom; then say what autograd has to say."""
    if answer.output is None:
        raise Wrong("no_tensor", f"{case}rank {rank} returned no tensor.")
    for symptom, other in answer.other_outputs.items():
        if _same(answer.output, other) and not _same(answer.output, answer.right_output):
            raise Wrong(symptom, f"{case}rank {rank}: {hints[symptom]}")
    if answer.output.shape != answer.right_output.shape:
        raise Wrong(
            "shape",
            f"{case}rank {rank} returned the shape {list(answer.output.shape)}; {list(answer.right_output.shape)} was "
            "asked for.",
        )
    if not _same(answer.output, answer.right_output):
        raise Wrong(
            "wrong_output", f"{case}the outputs of rank {rank} are not the dense layer's. Print both side by side."
        )
    if answer.warned:
        raise Wrong(
            "outside_autograd",
            f"{case}the outputs are right, but autograd warns: it does not know how to go back through a bare "
            "`dist.all_reduce`. The collective belongs into the forward or the backward of your Function.",
        )
    for symptom, other in answer.other_gradients.items():
        ours = answer.gradients["input"]
        if _same(ours, other) and not _same(ours, answer.right_gradients["input"]):
            raise Wrong(symptom, f"{case}rank {rank}: {hints[symptom]}")


def _judge_gradients(answer: Answer, rank: int, case: str) -> None:
    for name, right in answer.right_gradients.items():
        ours = answer.gradients[name]
        if ours is None or not ours.any():
            raise Wrong(
                f"no_gradient_of_{name}",
                f"{case}the outputs are right, but on rank {rank} the {name} got no gradient. Where was the graph cut?",
            )
        if not _same(ours, right):
            raise Wrong(
                f"wrong_gradient_of_{name}",
                f"{case}the outputs are right, but on rank {rank} the gradient of the {name} is not the dense layer's.",
            )


# By columns


def _one_column(learner: Callable, shape: tuple[int, ...]) -> Answer:
    rank, ranks = dist.get_rank(), dist.get_world_size()
    linear, x, weights = _dense(shape, ranks, shape[-1])
    right = x.clone().requires_grad_()
    y = linear(right)
    mine = (_part(y, -1) * _part(weights, -1)).sum()
    (own,) = torch.autograd.grad(mine, right, retain_graph=True)
    (y * weights).sum().backward()
    right_gradients = _gradients(right, linear, 0)
    plain = F.linear(x, linear.weight.detach())
    summed = _part(y, -1).detach().contiguous()
    dist.all_reduce(summed)
    other_outputs = {
        "whole_output": y.detach(),
        "no_bias": _part(plain, -1),
        "same_part": y.detach().chunk(ranks, -1)[0].clone(),
        "every_nth": y.detach()[..., rank::ranks].clone(),
        "summed_forward": summed,
    }
    other_gradients = {"not_summed": own, "averaged": right.grad / ranks, "too_often": right.grad * ranks}
    ours = x.clone().requires_grad_()
    linear.zero_grad()
    output, warned = _call(learner, ours, linear, lambda _: _part(weights, -1))
    gradients = _gradients(ours, linear, 0)
    return Answer(output, gradients, _part(y, -1).detach(), right_gradients, other_outputs, other_gradients, warned)


_COLUMN_HINTS = {
    "whole_output": "it computed all outputs. Then nothing is saved; which of them are this rank's?",
    "no_bias": "the outputs lack the bias. Each output has its own: which entries are this rank's?",
    "same_part": "it computed the outputs of rank 0. Does the part depend on the rank?",
    "every_nth": "it computed every n-th output. A block of neighbours was asked for: the r-th of N.",
    "summed_forward": "the outputs are summed over the ranks, but each rank has other ones. What has to be summed?",
    "not_summed": "the outputs are right, but the gradient of the input is only the part that this rank's outputs "
    "gave. The input went into the outputs of all ranks.",
    "averaged": "the gradient of the input is N times too small. Each rank gives a *part* of it: mean or sum?",
    "too_often": "the gradient of the input is N times too large. How often is it summed over the ranks?",
}


def _judge_column(answers: Sequence[Answer], ranks: int) -> None:
    # From the last rank on: on rank 0, the part of rank 0 is right.
    for rank, answer in reversed(list(enumerate(answers))):
        case = f"On {ranks} ranks, "
        _judge_known(answer, rank, case, _COLUMN_HINTS)
        _judge_gradients(answer, rank, case)


# By rows


def _one_row(learner: Callable, shape: tuple[int, ...]) -> Answer:
    ranks = dist.get_world_size()
    linear, x, weights = _dense(shape, ranks, 3 * ranks)
    right = x.clone().requires_grad_()
    y = linear(right)
    (y * weights).sum().backward()
    right_gradients = _gradients(right, linear, 1) | {"input": _part(right.grad, -1)}
    bias, y = linear.bias.detach(), y.detach()
    partial = F.linear(_part(x, -1), _part(linear.weight.detach(), 1))
    first = F.linear(_part(x, -1), linear.weight.detach().chunk(ranks, 1)[0])
    dist.all_reduce(first)
    other_outputs = {
        "bias_on_every_rank": y + (ranks - 1) * bias,
        "no_bias": y - bias,
        "not_summed": partial + bias,
        "not_summed_no_bias": partial,
        "averaged": (y - bias) / ranks + bias,
        "averaged_all": y / ranks,
        "same_part": first + bias,
    }
    other_gradients = {
        "gradient_too_large": right_gradients["input"] * ranks,
        "gradient_too_small": right_gradients["input"] / ranks,
    }
    ours = _part(x, -1).requires_grad_()
    linear.zero_grad()
    output, warned = _call(learner, ours, linear, lambda _: weights)
    gradients = _gradients(ours, linear, 1)
    return Answer(output, gradients, y, right_gradients, other_outputs, other_gradients, warned)


_ROW_HINTS = {
    "bias_on_every_rank": "the bias is in the sum once for each rank. Where must it be added to count once?",
    "no_bias": "the outputs lack the bias.",
    "not_summed": "the outputs are only what this rank's inputs give. The other inputs are on other ranks.",
    "not_summed_no_bias": "the outputs are only what this rank's inputs give. The other inputs are on other ranks.",
    "averaged": "the ranks' parts were averaged. Each is a part of one sum.",
    "averaged_all": "the outputs are N times too small. The ranks' parts are parts of one sum.",
    "same_part": "every rank multiplied by the weights of rank 0. Does the part depend on the rank?",
    "gradient_too_large": "the outputs are right, but the gradient of the input is N times too large. The loss is the "
    "same on each rank, and so is the gradient that comes back: is there anything to sum?",
    "gradient_too_small": "the outputs are right, but the gradient of the input is N times too small. Each rank's part "
    "went into the sum once: by how much does the sum change with it?",
}


def _judge_row(answers: Sequence[Answer], ranks: int) -> None:
    case = f"On {ranks} ranks, "
    for rank, answer in reversed(list(enumerate(answers))):
        _judge_known(answer, rank, case, _ROW_HINTS)
    for rank, answer in enumerate(answers):
        bias, right = answer.gradients["bias"], answer.right_gradients["bias"]
        if bias is None or not bias.any():
            raise Wrong(
                "bias_on_one_rank",
                f"{case}the outputs are right, but on rank {rank} the bias got no gradient: after one step of the "
                "optimizer the ranks hold different biases. Let each rank add its own, where it counts once.",
            )
        if _same(bias * ranks, right):
            raise Wrong(
                "bias_shared_out",
                f"{case}the outputs are right, but the gradient of the bias is N times too small. Each rank adds only "
                "a share of it. Is there a place where the whole bias can be added, and count once?",
            )
        _judge_gradients(answer, rank, case)


# Heads


def _indices(answer: Any, call: str) -> list[int]:
    """The learner's answer as a list of whole numbers; a mask counts as the places where it is true."""
    try:
        tensor = torch.as_tensor(answer)
    except (TypeError, ValueError, RuntimeError):
        tensor = None
    if tensor is not None and tensor.dtype == torch.bool:
        tensor = tensor.nonzero().flatten()
    if tensor is None or tensor.ndim != 1 or tensor.is_floating_point() or tensor.is_complex():
        raise Wrong("no_indices", f"{call} is {answer!r}. A list or a tensor of whole numbers was asked for.")
    return tensor.tolist()


def _judge_heads(answer: list[int], heads: int, width: int, rank: int, ranks: int, call: str) -> None:
    right = outputs_of_heads(heads, width, rank, ranks).tolist()
    if answer == right:
        return
    share, total = 3 * width // ranks, 3 * width
    if answer and (min(answer) < 0 or max(answer) >= total):
        raise Wrong("no_such_output", f"{call} names the output {max(answer)}; they are numbered 0 to {total - 1}.")
    if answer == list(range(rank * share, (rank + 1) * share)):
        thirds = sorted({"qkv"[index // width] for index in answer}, key="qkv".index)
        raise Wrong(
            "one_block",
            f"{call} is one block of neighbours. It holds only outputs of {' and '.join(thirds)}: print which third "
            "each of them lies in.",
        )
    if set(answer) < set(right):
        raise Wrong(
            "some_missing", f"{call} has {len(answer)} outputs, but a rank holds {share}: queries, keys *and* values."
        )
    if set(answer) == set(right):
        raise Wrong(
            "other_order",
            f"{call} has the right outputs in another order. Attention takes the rank's outputs apart in three equal "
            "blocks: what must stand in the first?",
        )
    if len(answer) != share:
        raise Wrong("too_many", f"{call} has {len(answer)} outputs; a rank's share of {total} is {share}.")
    size = width // heads
    here = {(index % width) // size for index in answer}
    if len(here) * size * 3 == share:
        raise Wrong(
            "other_heads",
            f"{call} holds whole heads, {sorted(here)}, but they are not this rank's: rank r has the r-th block of "
            "neighbours.",
        )
    raise Wrong(
        "torn_heads",
        f"{call} holds parts of the heads {sorted(here)}. A head that lies on two ranks can compute no attention: it "
        "needs all of its numbers in one place.",
    )


# The mesh


def _judge_mesh(answer: Any, ranks: int, tensor: int) -> None:
    call = f"mesh_groups({ranks}, {tensor})"
    try:
        tensor_groups, data_groups = ([sorted(int(rank) for rank in group) for group in kind] for kind in answer)
    except (TypeError, ValueError):
        raise Wrong("no_groups", f"{call} is {answer!r}. Two lists of groups were asked for.") from None
    order = torch.arange(ranks).view(-1, tensor)
    right_tensor, right_data = order.tolist(), order.T.tolist()
    if (sorted(tensor_groups), sorted(data_groups)) == (right_tensor, right_data):
        return
    if (sorted(tensor_groups), sorted(data_groups)) == (right_data, right_tensor):
        raise Wrong(
            "swapped",
            f"{call}: these are the groups, but the two kinds are exchanged. It is neighbours that share layers.",
        )
    other = torch.arange(ranks).view(tensor, -1)
    if sorted(tensor_groups) == other.tolist():
        raise Wrong(
            "number_for_size", f"{call} has {tensor} tensor groups. {tensor} is how many ranks are *in* each of them."
        )
    if sorted(tensor_groups) == sorted(other.T.tolist()):
        raise Wrong(
            "not_neighbours",
            f"{call}: the tensor groups have the right size, but {tensor_groups[0]} are no neighbours. Which ranks sit "
            "in one machine?",
        )
    for name, groups in (("tensor", tensor_groups), ("data", data_groups)):
        if sorted(rank for group in groups for rank in group) != list(range(ranks)):
            raise Wrong(
                "not_once",
                f"{call}: each of the {ranks} ranks is in one {name} group, and in one only. Here: {groups}.",
            )
    if sorted(tensor_groups) == right_tensor:
        raise Wrong(
            "wrong_data_groups",
            f"{call}: the tensor groups are right, but not the data groups, {data_groups}. Who holds the *same* part "
            "of each layer as rank 0?",
        )
    raise Wrong("wrong_tensor_groups", f"{call}: the tensor groups are {tensor_groups}. Write the ranks down in rows.")


# The lab: dropout


def _judge_seeds(learner: Callable, ranks: int, tensor: int) -> None:
    seeds = {}
    for step in range(6):
        for rank in range(ranks):
            call = f"dropout_seeds({step}, {rank}, {ranks}, {tensor})"
            seeds[step, rank] = pair = _pair(learner(step, rank, ranks, tensor), call)
            if pair != _pair(learner(step, rank, ranks, tensor), call):
                raise Wrong("not_repeatable", f"{call} gives other seeds each time. No other rank could agree on them.")
    on = f"{ranks} ranks in tensor groups of {tensor}: "
    for rank in range(ranks):
        neighbour = rank - rank % tensor
        if seeds[0, rank][1] != seeds[0, neighbour][1]:
            raise Wrong(
                "outer_by_rank",
                f"{on}the ranks {neighbour} and {rank} share their layers, but their *outer* masks differ. The sum "
                "behind the layer was the same on both; after this dropout it is not.",
            )
        if rank != neighbour and seeds[0, rank][0] == seeds[0, neighbour][0]:
            raise Wrong(
                "inner_alike",
                f"{on}the ranks {neighbour} and {rank} have the same *inner* mask. They hold different hidden units, "
                "which would always fall out in pairs.",
            )
        if rank == neighbour != 0 and seeds[0, rank][1] == seeds[0, 0][1]:
            raise Wrong(
                "data_alike",
                f"{on}the ranks 0 and {rank} have different samples, but the same outer mask (lesson 01).",
            )
    if len({seeds[step, 0] for step in range(6)}) < 6:
        raise Wrong("every_step", f"{on}rank 0 gets the same seeds in several steps, so the same units fall out again.")
    _judge_uniqueness(seeds, on, tensor)


def _judge_uniqueness(seeds: dict[tuple[int, int], tuple[int, int]], on: str, tensor: int) -> None:
    """Refuse one seed that is used for two masks, of other steps, ranks or places."""
    used: dict[int, tuple] = {}
    for (step, rank), pair in seeds.items():
        for place, seed in zip(("inner", "outer"), pair, strict=True):
            who = (step, place, rank if place == "inner" else rank - rank % tensor)
            before = used.setdefault(seed, who)
            if before != who:
                (step_0, place_0, rank_0), (step_1, place_1, rank_1) = before, who
                raise Wrong(
                    "repeats",
                    f"{on}the seed {seed} is used twice: for the {place_0} dropout of rank {rank_0} in step {step_0}, "
                    f"and for the {place_1} one of rank {rank_1} in step {step_1}. The same numbers come again.",
                )


def _pair(answer: Any, call: str) -> tuple[int, int]:
    if (
        not isinstance(answer, tuple | list)
        or len(answer) != 2
        or not all(isinstance(seed, int) and not isinstance(seed, bool) and -(2**63) <= seed < 2**63 for seed in answer)
    ):
        raise Wrong("no_pair", f"{call} is {answer!r}. Two whole numbers were asked for: the inner and the outer seed.")
    return tuple(answer)


def _train_with_dropout(seeds: Callable) -> float:
    """Three steps on a mesh of two by two; how far what all ranks should hold alike is apart."""
    rank, half = dist.get_rank(), dist.get_rank() // 2
    tensor_groups = [dist.new_group([0, 1]), dist.new_group([2, 3])]
    data_groups = [dist.new_group([0, 2]), dist.new_group([1, 3])]
    torch.manual_seed(4)
    model = split(TransformerBlock(8, 2).double(), tensor_groups[half])
    dropouts = Dropouts(model, 0.3)
    x = torch.randn(2, 4, 3, 8, dtype=torch.float64)[half]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for step in range(3):
        dropouts.seed(*seeds(step, rank, 4, 2))
        optimizer.zero_grad()
        model(x).square().mean().backward()
        average_gradients(model, data_groups[rank % 2])
        optimizer.step()
    return max(drift(model).values())
