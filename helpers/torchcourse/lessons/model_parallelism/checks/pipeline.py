"""Checks of lesson 02, notebook 1: a split by hand, the bubble, the order of 1F1B, a deadlock. Symptoms, never cures.

The ranks only compute and send back what came out; the judging is done here, in the notebook's process.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NoReturn

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn

from torchcourse.checks import Wrong, check
from torchcourse.lessons.model_parallelism.pipeline import Action, Deadlock, Schedule, simulate
from torchcourse.lessons.model_parallelism.pipeline import bubble as right_bubble
from torchcourse.ranks.run import RankError, RankTimeout, run_ranks

TIME_LIMIT = 8.0  # seconds for one call; healthy ranks need a fraction of one
_ON_CPU = {"CUDA_VISIBLE_DEVICES": ""}  # gloo sends CPU tensors, and a hang is the same on every machine

Gradients = list[torch.Tensor | None]


@check
def split_step(learner: Callable) -> str:
    """Compare loss and gradients of two halves on two ranks with the whole model, for two shapes of the border."""
    for width, batch in ((5, 6), (8, 3)):
        first, second = _on_ranks(_one_split_step, learner, width, batch)
        _judge_split_step(first, second, width, batch)
    return "Loss and gradients of both halves are those of the whole model, for two shapes of what travels."


@check
def bubble(learner: Callable) -> str:
    """Compare with the formula, which the simulation of every schedule reproduces."""
    for pieces in (1, 2, 3):
        for ranks, micro_batches in ((4, 8), (2, 6), (5, 5), (3, 12), (1, 3)):
            _judge_bubble(learner(ranks, micro_batches, pieces), ranks, micro_batches, pieces)
    return "The waiting of the simulated schedules, with one piece a rank and with several; one rank never waits."


@check
def one_f_one_b_order(learner: Callable) -> str:
    """Simulate the learner's orders: all passes, no deadlock, the bubble of 1F1B and no more memory than it needs."""
    for ranks, micro_batches in ((2, 4), (4, 8), (3, 5), (1, 2)):
        _judge_orders(learner, ranks, micro_batches)
    for ranks, micro_batches in ((4, 2), (5, 1)):
        try:
            _judge_orders(learner, ranks, micro_batches)
        except Wrong as wrong:
            raise Wrong(
                "few_micro_batches",
                f"Right while there are as many micro-batches as ranks, but not with {micro_batches} on {ranks} ranks. "
                f"{wrong.hint}",
            ) from None
    return "No rank waits longer than in 1F1B, and rank r of p never holds more than p−r micro-batches."


@check
def repaired_step(learner: Callable) -> str:
    """Compare loss and gradients with the whole model, for 1 to 6 micro-batches and the second rank of the lab."""
    for count in (1, 2, 3, 6):
        first, second = _on_ranks(_one_repaired_step, learner, count)
        _judge_repair(first, second, count)
    return (
        "Rank 1 fetches early and nobody waits for ever; loss and gradients are right for 1, 2, 3 and 6 micro-batches."
    )


# What the checks on ranks share


@dataclass
class Half:
    """One rank's half after the learner's step, and the gradients of the whole model for the same half."""

    answer: Any
    gradients: Gradients
    right: Gradients
    loss: float
    wrong_ways: dict[str, Gradients]  # by symptom: the gradients that a known mistake leaves here


def _on_ranks(function: Callable, *arguments: Any) -> tuple[Half, Half]:
    try:
        first, second = run_ranks(function, *arguments, world_size=2, timeout=TIME_LIMIT, env=_ON_CPU)
    except RankTimeout as error:
        raise Wrong(
            "hang",
            f"After {TIME_LIMIT:g} s both ranks still waited. Write their sends and receives in two columns: does each "
            f"have its partner, in the same order?{_places(error.traceback)}",
        ) from None
    except RankError as error:
        _explain(error)
    return first, second


def _explain(error: RankError) -> NoReturn:
    if "NoneType" in error.message:
        raise Wrong(
            "nothing_to_send",
            f"Rank {error.rank} met None where a tensor should be. Autograd keeps the gradient of a tensor only if "
            "that tensor asked for one before the forward pass.",
        ) from None
    if "only for scalar outputs" in error.message:
        raise Wrong(
            "backward_without_gradient",
            f"Rank {error.rank} calls backward() on a whole tensor, as if that were the loss. What has to be known "
            "about it, and who knows that?",
        ) from None
    if "does not require grad" in error.message:
        raise Wrong(
            "no_graph",
            f"Rank {error.rank} calls backward() on a tensor without a graph. Which tensor came out of the forward "
            "pass here, and was it kept?",
        ) from None
    if error.left_alone:
        raise Wrong(
            "left_alone",
            f"Rank {error.rank} waited for a rank that had already finished. Count the messages each way: as many "
            "sends as receives?",
        ) from None
    raise error


def _places(stacks: str) -> str:
    """Say for each rank at which line of the learner's cell it waits, where the stacks show cells."""
    found = re.findall(r"rank (\d+) was here:\n(?:(?!rank).*\n)*?  Cell In\[\d+\], line (\d+), .*\n +(.*)", stacks)
    return "".join(f"\nRank {rank} waits in line {line}: {code}" for rank, line, code in found)


def _halves(width: int) -> tuple[nn.Sequential, nn.Sequential]:
    torch.manual_seed(1)
    first = nn.Sequential(nn.Linear(4, width), nn.Tanh(), nn.Linear(width, width), nn.Tanh())
    return first.double(), nn.Sequential(nn.Linear(width, width), nn.Tanh(), nn.Linear(width, 3)).double()


def _data(batch: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(2)
    return torch.randn(batch, 4, generator=generator, dtype=torch.float64), torch.arange(batch) % 3


def _gradients_of(module: nn.Module) -> Gradients:
    return [None if p.grad is None else p.grad.detach().clone() for p in module.parameters()]


def _same(ours: Gradients, other: Gradients) -> bool:
    return all(
        a is not None and b is not None and a.shape == b.shape and torch.allclose(a, b, rtol=1e-8, atol=1e-10)
        for a, b in zip(ours, other, strict=True)
    )


def _number(value: Any) -> float | None:
    try:
        return float(value)
    except (TypeError, ValueError, RuntimeError):
        return None


# The split by hand


def _one_split_step(learner: Callable, width: int, batch: int) -> Half:
    rank, (x, y) = dist.get_rank(), _data(batch)
    halves, whole = _halves(width), _halves(width)
    answer = learner(halves[rank], x, y, torch.empty(batch, width, dtype=torch.float64))
    border = whole[0](x)
    loss = F.cross_entropy(whole[1](border), y)
    first, second = (list(half.parameters()) for half in whole)
    right = torch.autograd.grad(loss, first + second, retain_graph=True)
    wrong_ways = {}
    if rank == 0:
        for symptom, back in (("sum_of_the_border", torch.ones_like(border)), ("border_came_back", border.detach())):
            wrong_ways[symptom] = list(torch.autograd.grad(border, first, back, retain_graph=True))
    else:
        summed = F.cross_entropy(whole[1](border), y, reduction="sum")
        wrong_ways["sum_not_mean"] = list(torch.autograd.grad(summed, second))
    mine = right[: len(first)] if rank == 0 else right[len(first) :]
    answer = answer.detach().clone() if isinstance(answer, torch.Tensor) else answer
    return Half(answer, _gradients_of(halves[rank]), list(mine), loss.item(), wrong_ways)


_SPLIT_HINTS = {
    "sum_of_the_border": "Rank 0's gradients are those of the *sum* of its outputs. Nothing of the loss is in them.",
    "border_came_back": "Rank 0 went backward with the activations themselves, where their gradient should be.",
    "sum_not_mean": "Rank 1's gradients are those of the summed loss. The mean cross-entropy was asked for.",
}


def _judge_split_step(first: Half, second: Half, width: int, batch: int) -> None:
    case = f"With {batch} samples and {width} numbers between the halves: "
    for rank, half in ((1, second), (0, first)):
        if any(gradient is None for gradient in half.gradients):
            missing = "half has not been gone through backward." if rank else "half got no gradient: did it come back?"
            raise Wrong(
                f"no_gradient_on_rank_{rank}", f"{case}some parameters of rank {rank} have no gradient; its {missing}"
            )
        for symptom, gradients in half.wrong_ways.items():
            if _same(half.gradients, gradients):
                raise Wrong(symptom, case + _SPLIT_HINTS[symptom])
        if not _same(half.gradients, half.right):
            raise Wrong(
                f"wrong_gradient_on_rank_{rank}",
                f"{case}the gradients of rank {rank} are not those of the whole model. Print what is sent and what "
                "arrives on both sides: the same numbers?",
            )
    _judge_answers(first, second, case)


def _judge_answers(first: Half, second: Half, case: str) -> None:
    loss = _number(second.answer)
    if loss is None:
        raise Wrong(
            "no_loss", f"{case}the gradients are right, but rank 1 returned {second.answer!r} in place of the loss."
        )
    if abs(loss - second.loss) > 1e-9:
        raise Wrong(
            "wrong_loss",
            f"{case}the gradients are right, but rank 1 returned {loss:.4f}; the mean loss is {second.loss:.4f}.",
        )
    if first.answer is not None:
        raise Wrong("loss_on_rank_0", f"{case}rank 0 returned {first.answer!r}, but only rank 1 knows the loss.")


# The bubble


def _judge_bubble(answer: Any, ranks: int, micro_batches: int, pieces: int) -> None:
    p, m, v = ranks, micro_batches, pieces
    right = float(right_bubble(p, m, v))
    value = _number(answer)
    if value is None:
        raise Wrong("no_number", f"bubble({p}, {m}, {v}) is {answer!r}. A number from 0 to 1 was asked for.")
    if abs(value - right) < 1e-9:
        return
    case = f"bubble({p}, {m}, {v}) is {value:.4f}. "
    plain = (p - 1) / (m + p - 1)
    known = {
        "relative_to_work": ((p - 1) / (v * m), "That is the waiting divided by the work, not by all of the time."),
        "one_too_many": (
            (p - 1) / (v * m + p),
            "Close. Count the parts of time once more: when does the last rank begin?",
        ),
        "utilisation": (1 - right, "That is the part in which a rank works."),
        "percent": (100 * right, "That is in percent; a part from 0 to 1 was asked for."),
        "pieces_ignored": (plain, "Right for one piece a rank; several pieces change the work or the waiting. Which?"),
        "pieces_divide_all": (
            plain / v,
            "You divide the whole share by the pieces. Filling and draining take 1/v of the time, but the work does "
            "not change: so what becomes of the sum of the two?",
        ),
        "all_ranks_counted": (p / (v * m + p), "How many other ranks does rank 0 wait for?"),
        "pieces_count_as_ranks": (
            (v * p - 1) / (m + v * p - 1),
            "You count each piece as a rank of its own. But the pieces of one rank share its time.",
        ),
    }
    for symptom, (wrong, hint) in known.items():
        if abs(value - wrong) < 1e-9:
            raise Wrong(symptom, case + hint)
    raise Wrong("wrong_value", f"{case}Draw {p} ranks and {m} micro-batches with the slider, and count parts of time.")


# The order of 1F1B


def _judge_orders(learner: Callable, ranks: int, micro_batches: int) -> None:
    orders = tuple(_actions(learner(rank, ranks, micro_batches), rank, ranks, micro_batches) for rank in range(ranks))
    case = f"{ranks} ranks, {micro_batches} micro-batches: "
    try:
        line = simulate(Schedule("the learner's", micro_batches, 1, orders))
    except Deadlock as error:
        raise Wrong("deadlock", case + str(error)) from None
    for rank in range(ranks):
        most = min(ranks - rank, micro_batches)
        if line.peak(rank) == micro_batches > most and orders[rank][micro_batches - 1].kind == "F":
            raise Wrong(
                "gpipe",
                f"{case}rank {rank} does all forward passes first, and holds {micro_batches} micro-batches: GPipe.",
            )
        if line.peak(rank) > most:
            raise Wrong(
                "holds_too_many",
                f"{case}rank {rank} holds {line.peak(rank)} micro-batches at its worst moment; in 1F1B it is {most}. "
                "How many forward passes does it do before its first backward pass?",
            )
    if line.bubble > right_bubble(ranks, micro_batches):
        raise Wrong(
            "waits_too_long",
            f"{case}the ranks wait {float(line.bubble):.0%} of the time; in 1F1B it is "
            f"{float(right_bubble(ranks, micro_batches)):.0%}. Some rank has too few forward passes under way while it "
            "waits for its first gradient.",
        )


def _actions(order: Any, rank: int, ranks: int, micro_batches: int) -> tuple[Action, ...]:
    call = f"one_f_one_b_order({rank}, {ranks}, {micro_batches})"
    if not isinstance(order, list | tuple) or not all(isinstance(entry, str) for entry in order):
        raise Wrong("no_list", f"{call} is {order!r}. A list of entries like 'F0' was asked for.")
    actions = []
    for entry in order:
        match = re.fullmatch(r"([FB])(\d+)", entry)
        if not match or int(match[2]) >= micro_batches:
            raise Wrong(
                "unknown_entry", f"{call} has the entry {entry!r}: no pass of micro-batch 0 to {micro_batches - 1}."
            )
        actions.append(Action(match[1], rank, int(match[2])))
    for kind in "FB":
        for number in range(micro_batches):
            times = actions.count(Action(kind, rank, number))
            if times != 1:
                symptom = "twice" if times else "missing"
                raise Wrong(symptom, f"{call} has {kind}{number} {times} times. Each pass is done once.")
    for number in range(micro_batches):
        if actions.index(Action("B", rank, number)) < actions.index(Action("F", rank, number)):
            raise Wrong(
                "backward_first", f"{call} has B{number} before F{number}: there is nothing to go backward through."
            )
    return tuple(actions)


# The lab: two ranks that both listen


_LAB_WIDTH, _LAB_BATCH = 5, 12


def _one_repaired_step(learner: Callable, count: int) -> Half:
    rank, (x, y) = dist.get_rank(), _data(_LAB_BATCH)
    halves, whole = _halves(_LAB_WIDTH), _halves(_LAB_WIDTH)
    between = torch.empty(_LAB_BATCH // count, _LAB_WIDTH, dtype=torch.float64)
    answer = learner(halves[rank], x.chunk(count), y.chunk(count), between)
    first, second = (list(half.parameters()) for half in whole)
    parts = []
    for inputs, targets in zip(x.chunk(count), y.chunk(count), strict=True):
        loss = F.cross_entropy(whole[1](whole[0](inputs)), targets) / count
        parts.append((loss.item(), torch.autograd.grad(loss, first + second)))
    right = [sum(columns) for columns in zip(*(gradients for _, gradients in parts), strict=True)]
    wrong_ways = {
        "last_left_out": [sum(columns) for columns in zip(*(g for _, g in parts[:-1]), strict=True)],
        "only_last": list(parts[-1][1]),
    }
    mine = slice(len(first)) if rank == 0 else slice(len(first), None)
    answer = answer.detach().clone() if isinstance(answer, torch.Tensor) else answer
    return Half(
        answer,
        _gradients_of(halves[rank]),
        right[mine],
        sum(loss for loss, _ in parts),
        {symptom: gradients[mine] for symptom, gradients in wrong_ways.items() if count > 1},
    )


def _judge_repair(first: Half, second: Half, count: int) -> None:
    case = f"With {count} micro-batch{'es' * (count > 1)}: "
    if all(gradient is None for gradient in first.gradients):
        raise Wrong("no_gradient_on_rank_0", f"{case}nobody hangs, but rank 0's half has no gradient at all.")
    if count > 1 and _same(first.gradients, first.wrong_ways["last_left_out"]):
        raise Wrong("last_left_out", f"{case}rank 0 never went backward through the last micro-batch.")
    if count > 1 and _same(first.gradients, first.wrong_ways["only_last"]):
        raise Wrong("only_last", f"{case}rank 0's gradients are those of the last micro-batch alone.")
    if not _same(first.gradients, first.right):
        raise Wrong(
            "mixed_up",
            f"{case}rank 0's gradients are wrong. Does each gradient that comes back meet the output of its own "
            "micro-batch?",
        )
    if not _same(second.gradients, second.right):
        raise Wrong(
            "second_rank_changed", f"{case}rank 1's gradients are wrong. Its part was right: what reaches it now?"
        )
    _judge_answers(first, second, case)
