"""Checks of lesson 02 on a model in two halves: one step through both by hand, and the lab's two ranks that listen."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn

from torchcourse.checks import Wrong, check
from torchcourse.checks.kit import AnyOf, number, on_ranks, refuse_known, same
from torchcourse.lessons.data_parallelism.checks.reference import EVALUATING, added, times_as_large
from torchcourse.lessons.data_parallelism.messages import listed_messages
from torchcourse.ranks.who import ON_CPU

TIME_LIMIT = 8.0  # seconds for one call; healthy ranks need a fraction of one

Gradients = list[torch.Tensor | None]

Known = dict[str, tuple[Any, str]]
"""By symptom: the gradients that a known mistake leaves on this rank, and the hint."""


@check
def split_step(learner: Callable) -> str:
    """Compare loss and gradients of two halves with the whole model, for two shapes of the border and two calls."""
    for width, batch, calls in ((5, 6, 1), (8, 3, 1), (5, 6, 2)):
        first, second = _on_two_ranks(_split_step, learner, width, batch, calls)
        case = f"With {batch} samples and {width} numbers between the halves: "
        if calls > 1:
            case = "The first call is right. In a second one, with the same `between` and cleared gradients: "
        _judge_parameters(first, second, case)
        for rank, half in ((1, second), (0, first)):
            _judge_half(half, rank, case, calls)
        _judge_answers(first, second, case)
    return "Loss and gradients of both halves are those of the whole model, for two shapes of what travels."


@check
def repaired_step(learner: Callable) -> str:
    """Compare loss and gradients with the whole model, for 1 to 6 micro-batches and the second rank of the lab."""
    for count in (1, 2, 3, 6):
        first, second = _on_two_ranks(_repaired_step, learner, count)
        case = f"With {count} micro-batch{'es' * (count > 1)}: "
        _judge_parameters(first, second, case)
        _judge_repair(first, second, count, case)
        _judge_answers(first, second, case)
    return (
        "Rank 1 fetches early and nobody waits for ever; loss and gradients are right for 1, 2, 3 and 6 micro-batches."
    )


@dataclass
class Half:
    """One rank's half after the learner's step, and the gradients of the whole model for the same half."""

    answer: Any
    gradients: Gradients
    right: Gradients
    loss: float
    known: Known
    changed: bool  # whether the learner changed the parameters
    passes: list[bool]  # for each forward pass with gradients, whether it was in evaluation mode
    wanted: int  # how many forward passes were enough
    messages: list[str] = field(default_factory=list)  # "send" and "receive" in the order of the calls, of the lab


HANG = (
    "After {seconds:g} s both ranks still waited. Write their sends and receives in two columns: does each have its "
    "partner, in the same order?"
)
ONLY_BEGUN = (
    " `{name}` only begins to {what}, and your function never waits for it: keep the handle that it returns, and call "
    "its `wait()` before {until}."
)
LEFT_ALONE = (
    "Rank {rank} waited for a rank that had already finished. Count the messages each way: as many sends as receives?"
)
_TO_ITSELF = ("to_itself", "Rank {rank} sends to itself, or receives from itself. Which is the other rank?")
ERRORS = {
    "'NoneType' object has no attribute 'wait'": (
        "nothing_to_wait_for",
        "Rank {rank} calls `wait()` on None. `dist.send` and `dist.recv` give no handle: they wait by themselves. "
        "`isend` and `irecv` give one.",
    ),
    "NoneType": (
        "nothing_to_send",
        "Rank {rank} met None where a tensor should be. Autograd keeps the gradient of a tensor only if that tensor "
        "asked for one before the forward pass.",
    ),
    "only for scalar outputs": (
        "backward_without_gradient",
        "Rank {rank} calls backward() on a whole tensor, as if that were the loss. What has to be known about it, and "
        "who knows that?",
    ),
    "does not require grad": (
        "no_graph",
        "Rank {rank} calls backward() on a tensor without a graph. Which tensor came out of the forward pass here, was "
        "it kept, and were gradients on?",
    ),
    "through the graph a second time": (
        "same_output_again",
        "Rank {rank} goes backward through one output a second time. Each output goes back once, with the gradient "
        "that came back for it: is it kept until then? `retain_graph=True` would hide the mistake.",
    ),
    "Pair is not connected": _TO_ITSELF,  # of gloo, from recv
    "should not be the same as the rank of": _TO_ITSELF,
}
# What both exercises say.
_HOW_OFTEN = "By what is the loss, or what arrives, multiplied or divided, and how often is backward() called?"
_SUM = "rank 0's gradients are those of the *sum* of its outputs. Nothing of the loss is in them."


def _on_two_ranks(function: Callable[..., Half], learner: Callable, *arguments: Any) -> tuple[Half, Half]:
    names = set(getattr(getattr(learner, "__code__", None), "co_names", ()))
    begun = ""
    for name, what, until in (("isend", "send", "the function ends"), ("irecv", "receive", "you use the tensor")):
        if name in names and not {"wait", "synchronize"} & names:
            begun += ONLY_BEGUN.format(name=name, what=what, until=until)
    first, second = on_ranks(
        function,
        learner,
        *arguments,
        world_size=2,
        seconds=TIME_LIMIT,
        hang=HANG + begun,
        left_alone=LEFT_ALONE + begun,
        known=ERRORS,
        env=ON_CPU,
    )
    return first, second


def _halves(width: int) -> tuple[nn.Sequential, nn.Sequential]:
    torch.manual_seed(1)
    first = nn.Sequential(nn.Linear(4, width), nn.Tanh(), nn.Linear(width, width), nn.Tanh())
    return first.double(), nn.Sequential(nn.Linear(width, width), nn.Tanh(), nn.Linear(width, 3)).double()


def _data(batch: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(2)
    return torch.randn(batch, 4, generator=generator, dtype=torch.float64), torch.arange(batch) % 3


def _forward_passes(half: nn.Module) -> list[bool]:
    """Return a list that gets an entry for each forward pass with gradients: whether it was in evaluation mode."""
    passes: list[bool] = []
    half.register_forward_pre_hook(
        lambda module, _: passes.append(not module.training) if torch.is_grad_enabled() else None
    )
    return passes


def _half(
    answer: Any,
    own: nn.Module,
    before: nn.Module,
    right: Gradients,
    loss: float,
    known: Known,
    passes: list[bool],
    wanted: int,
) -> Half:
    """What this rank sends back: copies, without a graph."""
    changed = not same(list(own.parameters()), list(before.parameters()))
    gradients = [None if p.grad is None else p.grad.detach().clone() for p in own.parameters()]
    answer = answer.detach().clone() if isinstance(answer, torch.Tensor) else answer
    return Half(answer, gradients, right, loss, known, changed, passes, wanted)


def _judge_parameters(first: Half, second: Half, case: str) -> None:
    for rank, half in enumerate((first, second)):
        if half.changed:
            raise Wrong(
                "weights_changed",
                f"{case}the parameters of rank {rank}'s half are not what they were. Leave the gradients there; the "
                "optimizer's step is not part of this function.",
            )


def _judge_answers(first: Half, second: Half, case: str) -> None:
    """Judge what the two ranks returned, where the gradients are right."""
    loss = number(second.answer)
    if loss is None:
        raise Wrong(
            "no_loss",
            f"{case}the gradients are right, but rank 1 returned {_shown(second.answer)} instead of the loss.",
        )
    if not same(loss, second.loss):
        raise Wrong(
            "wrong_loss",
            f"{case}the gradients are right, but rank 1 returned {loss:.4f}; the mean loss is {second.loss:.4f}.",
        )
    if first.answer is not None:
        raise Wrong("loss_on_rank_0", f"{case}rank 0 returned {_shown(first.answer)}, but only rank 1 knows the loss.")
    if any(first.passes + second.passes):
        raise Wrong("mode_left_changed", case + EVALUATING)
    for rank, half in enumerate((first, second)):
        if len(half.passes) > half.wanted:
            raise Wrong(
                "forward_again",
                f"{case}the gradients are right, but rank {rank}'s half went forward {len(half.passes)} times, and "
                f"{half.wanted} would do. Keep what came out for the way back: with dropout, a second pass is a "
                "different one.",
            )


def _shown(answer: Any) -> str:
    """An answer in a few words: a tensor of many numbers by its shape."""
    many = isinstance(answer, torch.Tensor) and answer.numel() > 1
    return f"a tensor of shape {list(answer.shape)}" if many else repr(answer)


def _refuse_gradients(half: Half, rank: int, case: str, question: str) -> None:
    """Refuse gradients of a known mistake, with few digits, or all of them too large; `question`: about these."""
    refuse_known(half.gradients, half.known, where=case)
    if same(half.gradients, half.right, tolerance=1e-5):
        raise Wrong(
            "precision",
            f"{case}the gradients of rank {rank} are right to a few digits only. The model has 64 bits, and so has "
            "`between`: is there a 32-bit number on the way?",
        )
    mine = torch.cat([gradient.flatten() for gradient in half.gradients if gradient is not None])
    right = torch.cat([gradient.flatten() for gradient in half.right if gradient is not None])
    if len(mine) == len(right) and (times := times_as_large(mine, right)) is not None:
        raise Wrong(
            f"wrong_size_on_rank_{rank}",
            f"{case}the gradients of rank {rank} are {times:.3g} times those of the whole model. {question}",
        )


# The split by hand


def _split_step(learner: Callable, width: int, batch: int, calls: int) -> Half:
    rank, (x, y) = dist.get_rank(), _data(batch)
    halves, whole = _halves(width), _halves(width)
    passes, between = _forward_passes(halves[rank]), torch.empty(batch, width, dtype=torch.float64)
    for _ in range(calls):
        halves[rank].zero_grad()
        answer = learner(halves[rank], x, y, between)
    border = whole[0](x)
    loss = F.cross_entropy(whole[1](border), y)
    first, second = (list(half.parameters()) for half in whole)
    right = torch.autograd.grad(loss, first + second, retain_graph=True)
    known: Known = {}
    if rank == 0:
        hint = "rank 0 went backward with the activations themselves, where their gradient should be."
        for symptom, back, words in (
            ("sum_of_the_border", torch.ones_like(border), _SUM),
            ("border_came_back", border.detach(), hint),
        ):
            known[symptom] = (list(torch.autograd.grad(border, first, back, retain_graph=True)), words)
    mine = right[: len(first)] if rank == 0 else right[len(first) :]
    return _half(answer, halves[rank], whole[rank], list(mine), loss.item(), known, passes, calls)


def _judge_half(half: Half, rank: int, case: str, calls: int) -> None:
    if None in half.gradients:
        missing = "Is its half gone through backward" if rank else "Did one come back, is its half gone through with it"
        raise Wrong(
            f"no_gradient_on_rank_{rank}",
            f"{case}some parameters of rank {rank} have no gradient at the end. {missing}, and is the gradient kept?",
        )
    if same(half.gradients, half.right):
        return
    loss = number(half.answer)
    if rank == 1 and loss is not None and not same(loss, half.loss):
        raise Wrong(
            "wrong_loss",
            f"{case}rank 1 returned the loss {loss:.4f}; the mean cross-entropy of the whole model is {half.loss:.4f}. "
            "Its gradients are others too. What goes into the loss, and what into rank 1's half?",
        )
    question = "What of the first call is still there: in `between`, its gradient, or a name of yours?"
    _refuse_gradients(half, rank, case, _HOW_OFTEN if calls == 1 else question)
    raise Wrong(
        f"wrong_gradient_on_rank_{rank}",
        f"{case}the gradients of rank {rank} are not those of the whole model. Print what is sent and what arrives on "
        "both sides: the same numbers?",
    )


# The lab: two ranks that both listen

_WIDTH, _BATCH = 5, 12


def _repaired_step(learner: Callable, count: int) -> Half:
    rank, (x, y) = dist.get_rank(), _data(_BATCH)
    halves, whole = _halves(_WIDTH), _halves(_WIDTH)
    between = torch.empty(_BATCH // count, _WIDTH, dtype=torch.float64)
    passes = _forward_passes(halves[rank])
    with listed_messages() as messages:
        answer = learner(halves[rank], x.chunk(count), y.chunk(count), between)
    own = list(whole[rank].parameters())
    loss, parts, sums = 0.0, [], []
    for inputs, targets in zip(x.chunk(count), y.chunk(count), strict=True):
        border = whole[0](inputs)
        part = F.cross_entropy(whole[1](border), targets) / count
        loss += part.item()
        parts.append(torch.autograd.grad(part, own, retain_graph=True))
        if rank == 0:
            sums.append(torch.autograd.grad(border, own, torch.ones_like(border)))
    known: Known = {"sum_of_the_border": ([*added(sums)], _SUM)} if rank == 0 else {}
    if rank == 0 and count > 1:
        known |= {
            "last_left_out": ([*added(parts[:-1])], "rank 0 never went backward through the last micro-batch."),
            "early_ones_lost": (
                AnyOf([[*added(parts[-last:])] for last in range(1, min(count, 3))]),
                "rank 0's gradients are those of the last one or two micro-batches alone. Who clears the earlier ones?",
            ),
        }
    half = _half(answer, halves[rank], whole[rank], [*added(parts)], loss, known, passes, count)
    half.messages = [message.kind for message in messages]
    return half


def _judge_repair(first: Half, second: Half, count: int, case: str) -> None:
    if count > 1 and second.messages[:2] == ["receive", "send"]:
        raise Wrong(
            "fetches_late",
            f"{case}rank 1 sends a gradient back before it fetches the next micro-batch. It was to stay as it is: "
            "`second_rank` fetches one ahead. Write the loop of rank 0 that goes with it.",
        )
    if all(gradient is None for gradient in first.gradients):
        raise Wrong("no_gradient_on_rank_0", f"{case}nobody hangs, but rank 0's half has no gradient at all.")
    if not same(first.gradients, first.right):
        _refuse_gradients(first, 0, case, _HOW_OFTEN)
        question = (
            "Print what is sent and what arrives on both sides: the same numbers?"
            if count == 1
            else "Does each gradient that comes back meet the output of its own micro-batch?"
        )
        raise Wrong("mixed_up", f"{case}rank 0's gradients are wrong. {question}")
    if not same(second.gradients, second.right):
        raise Wrong(
            "second_rank_changed", f"{case}rank 1's gradients are wrong. Its part was right: what reaches it now?"
        )
    if second.messages != ["receive"] + ["receive", "send"] * (count - 1) + ["send"]:
        raise Wrong(
            "another_second_rank",
            f"{case}the gradients are right, but rank 1 does not receive and send as `second_rank` does, one ahead: "
            f"{', '.join(second.messages)}. Leave rank 1 to it, and write the loop of rank 0 that goes with it.",
        )
