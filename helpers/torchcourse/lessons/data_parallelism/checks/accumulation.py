"""Check of lesson 01 on micro-batches that are accumulated under DDP: the step of one big batch, one all-reduce."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakSet

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn

from torchcourse.checks import Wrong, check
from torchcourse.checks.kit import AnyOf, copies, on_ranks, one_thread, refuse_known, same
from torchcourse.lessons.data_parallelism.checks.reference import (
    EVALUATING,
    Tensors,
    classifier,
    refuse_shortened,
    samples,
    started,
)
from torchcourse.lessons.data_parallelism.checks.traffic import watched
from torchcourse.ranks.who import device

TIME_LIMIT = 10.0  # seconds for one call; healthy ranks need a fraction of one

_COUNTS = (3, 1, 4)
_EACH = 6
_STEPS = 2
_RATE = 0.5


@check
def accumulate(learner: Callable) -> str:
    """Compare two steps of 1, 3 and 4 micro-batches with one process, and count the all-reduces."""
    for world_size in (2, 3):
        by_rank = on_ranks(_accumulate, learner, world_size=world_size, seconds=TIME_LIMIT)
        for count, runs in zip(_COUNTS, zip(*by_rank, strict=True), strict=True):
            case = f"With {count} micro-batch{'es' * (count > 1)} on {world_size} ranks, "
            _refuse_passes(runs[0], count, case)
            _refuse_averages(runs, case)
            _judge_weights(runs[0], count, world_size, case)
            _refuse_graphs(runs[0], case)
            _refuse_messages(runs[0], case)
            if runs[0].evaluating:
                raise Wrong("mode_left_changed", case + EVALUATING)
            refuse_shortened(count, runs[0].left)
    return "1, 3 and 4 micro-batches: the step of one big batch, and one average for each step, on 2 and on 3 ranks."


@dataclass
class Accumulated:
    """One rank's two steps.

    `syncs`: how often DDP averaged. `by_hand`: collectives that the learner called. `forwards`: the samples of each
    forward pass. `quiet`: of these, the passes that will not lead to an average. `waiting`: the most forward passes at
    a time whose backward pass was still to come. `kept`: the most tensors that earlier passes still kept for their
    backward pass when one began. `left`: the length of the list of micro-batches afterwards.
    """

    weights: list[Tensors]
    syncs: int = 0
    by_hand: int = 0
    optimizer_steps: int = 0
    forwards: list[int] = field(default_factory=list)
    quiet: int = 0
    waiting: int = 0
    kept: int = 0
    evaluating: bool = False
    used_no_sync: bool = False
    backwards: int = 0
    left: int = 0


def _accumulate(learner: Callable) -> list[Accumulated]:
    runs = []
    for count in _COUNTS:
        torch.manual_seed(0)
        model = classifier().to(device())
        seen = Accumulated([copies(model.parameters())])
        saved: WeakSet[_Saved] = WeakSet()
        ddp, optimizer = _watched(model, seen, saved)
        for step in range(_STEPS):
            batches = [
                (images.to(device()), labels.to(device()))
                for images, labels in _micro_batches(count, step, dist.get_rank())
            ]
            syncs = seen.syncs
            with watched() as traffic, _noted_in(saved):
                learner(ddp, optimizer, batches)
            seen.left = len(batches)
            seen.by_hand += len(traffic.collectives) - (seen.syncs - syncs)
            seen.weights.append(copies(model.parameters()))
        runs.append(seen)
    return runs


def _micro_batches(count: int, step: int, rank: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    return samples(count, _EACH, seed=100 * step + rank)


class _Saved:
    """A tensor that autograd keeps for a backward pass."""

    def __init__(self, tensor: torch.Tensor) -> None:
        self.tensor = tensor


def _noted_in(saved: "WeakSet[_Saved]") -> torch.autograd.graph.saved_tensors_hooks:
    """While this is entered, what autograd keeps is in `saved`, for as long as it is kept."""

    def pack(tensor: torch.Tensor) -> _Saved:
        box = _Saved(tensor)
        saved.add(box)
        return box

    return torch.autograd.graph.saved_tensors_hooks(pack, lambda box: box.tensor)


def _watched(model: nn.Module, seen: Accumulated, saved: "WeakSet[_Saved]") -> tuple[nn.Module, torch.optim.Optimizer]:
    """Return the model in DDP and its optimizer; what happens to them is written into `seen`."""
    ddp = nn.parallel.DistributedDataParallel(model)
    ddp.register_comm_hook(seen, _count_and_average)
    no_sync = ddp.no_sync

    def note_kept(*_: Any) -> None:
        seen.kept = max(seen.kept, len(saved))

    def note_forward(_: nn.Module, inputs: tuple[torch.Tensor, ...], outputs: torch.Tensor) -> None:
        if outputs.requires_grad:  # whoever only looks at a loss does not train on it
            seen.forwards.append(len(inputs[0]))
            seen.evaluating |= not model.training
            seen.quiet += not ddp.require_backward_grad_sync
            seen.waiting = max(seen.waiting, len(seen.forwards) - seen.backwards)
            outputs.register_hook(note_backward)

    def note_backward(_: torch.Tensor) -> None:
        seen.backwards += 1

    def noted() -> Any:
        seen.used_no_sync = True
        return no_sync()

    def note_step(*_: Any) -> None:
        seen.optimizer_steps += 1

    model.register_forward_pre_hook(note_kept)
    model.register_forward_hook(note_forward)
    setattr(ddp, "no_sync", noted)  # noqa: B010  # mypy refuses to assign to a method
    optimizer = torch.optim.SGD(model.parameters(), lr=_RATE)
    optimizer.register_step_post_hook(note_step)
    return ddp, optimizer


def _count_and_average(seen: Accumulated, bucket: dist.GradBucket) -> torch.futures.Future[torch.Tensor]:
    seen.syncs += bucket.is_last()
    row = bucket.buffer() / dist.get_world_size()
    return dist.all_reduce(row, async_op=True).get_future().then(lambda future: future.value()[0])


def _refuse_passes(one: Accumulated, count: int, case: str) -> None:
    """Refuse other forward passes than one per micro-batch, and other steps than one per call."""
    if count > 1 and max(one.forwards, default=0) > _EACH:
        raise Wrong(
            "one_big_batch",
            f"{case}one forward pass saw {max(one.forwards)} samples. The gradient is right, but the memory is "
            "that of the big batch: accumulation is there to avoid it.",
        )
    if len(one.forwards) != count * _STEPS:
        raise Wrong(
            "batches_left_out",
            f"{case}{_STEPS} steps made {len(one.forwards)} forward passes: one per micro-batch would be "
            f"{count * _STEPS}.",
        )
    if one.optimizer_steps != _STEPS:
        raise Wrong(
            "steps_each",
            f"{case}the optimizer that you are given stepped {one.optimizer_steps} times in {_STEPS} calls. "
            "All micro-batches of a call belong to one step, which the last line takes.",
        )


def _refuse_averages(runs: Sequence[Accumulated], case: str) -> None:
    """Refuse a first step after which the ranks disagree."""
    agree = all(same(other.weights[1], runs[0].weights[1]) for other in runs)
    if not agree and runs[0].syncs == runs[0].by_hand == 0:
        raise Wrong(
            "never_averaged",
            f"{case}no all-reduce took place, and the ranks' weights part. Which backward pass should send?",
        )
    if not agree and runs[0].syncs == 0:
        raise Wrong(
            "ranks_disagree",
            f"{case}your code calls collectives itself, and the ranks hold different weights after one step. Does each "
            "gradient become the mean over the ranks, after the last backward pass?",
        )
    if not agree:
        raise Wrong(
            "averaged_too_early",
            f"{case}the ranks hold different weights after one step: what was added after the all-reduce never "
            "reached the other ranks. Which of the backward passes must be the one that averages?",
        )


def _judge_weights(one: Accumulated, count: int, n: int, case: str) -> None:
    """Compare with one process: the first step, its known mistakes, and the second step."""
    every, last = range(count), range(count - 1, count)
    first, second = _one_process(one.weights[0], n, every, count, 1 / count)
    if same([one.weights[1], one.weights[2]], [first, second]):
        return
    if same(one.weights[1], first):
        raise Wrong("later_steps", f"{case}the first step is right, the second is not. What is left over?")

    def step(chosen: Sequence[int], weight: float) -> Tensors:
        return _one_process(one.weights[0], n, chosen, count, weight)[0]

    known = {
        "not_divided": (
            step(every, 1.0),
            f"your step is {count} times too long: the gradients of {count} micro-batches were added. What turns a "
            "sum into a mean, and where can you divide each part?",
        ),
        "divided_twice": (step(every, 1 / count**2), f"your step is {count} times too short: you divide twice."),
        "divided_by_ranks": (
            step(every, 1 / count / n),
            f"your step is {n} times too short: DDP divides by N already.",
        ),
        "only_last": (
            AnyOf((step(last, 1 / count), step(last, 1.0))),
            "only the last micro-batch moved the weights. Who throws the earlier gradients away?",
        ),
    }
    refuse_known(one.weights[1], known, where=case)
    if (counted := _shares_counted(one, n, count)) is not None:
        if same(counted[-1], 1 / count, 1e-6) and counted[0] == 0:
            raise Wrong(
                "early_ones_lost",
                f"{case}the last micro-batch counts as it should, and the first does not count at all. Who throws the "
                "earlier gradients away?",
            )
        raise Wrong(
            "wrong_share",
            f"{case}the step counts the micro-batches {', '.join(f'{share:.3g}' for share in counted)} times. Each "
            f"should count 1/{count}: by what is each loss divided, and is it a mean over its samples?",
        )
    raise Wrong(
        "wrong_value",
        f"{case}all ranks agree, but on other weights than one process has. Do the outputs go into cross_entropy as "
        "they come, and does nothing else change the loss or the gradients?",
    )


def _shares_counted(one: Accumulated, n: int, count: int) -> list[float] | None:
    """How often each micro-batch counts in the first step; None if the step is no sum of their gradients."""
    start = torch.cat([tensor.flatten() for tensor in one.weights[0]])

    def moved(weights: Tensors) -> torch.Tensor:
        return torch.cat([tensor.flatten() for tensor in weights]) - start

    each = torch.stack(
        [moved(_one_process(one.weights[0], n, range(k, k + 1), count, 1.0)[0]) for k in range(count)], dim=1
    )
    step = moved(one.weights[1])
    shares = torch.linalg.lstsq(each, step[:, None]).solution
    shares[shares.abs() < 1e-9] = 0
    return shares.flatten().tolist() if torch.allclose(each @ shares, step[:, None], atol=1e-9) else None


def _refuse_graphs(one: Accumulated, case: str) -> None:
    if one.waiting > 1:
        raise Wrong(
            "graphs_kept",
            f"{case}the weights are right, but up to {one.waiting} forward passes came before the backward pass of the "
            "first of them: their graphs are in memory together, as those of the big batch are. When can backward() "
            "be called?",
        )
    if one.kept > 0:
        raise Wrong(
            "graphs_kept",
            f"{case}the weights are right, but when a micro-batch is computed, the graph of one before it is still in "
            "memory, as that of the big batch would be. backward() frees a graph, unless it is told to retain it.",
        )


def _refuse_messages(one: Accumulated, case: str) -> None:
    """Refuse averages that were not needed: by DDP, by hand, or by both."""
    if one.syncs and one.by_hand:
        raise Wrong(
            "averaged_twice",
            f"{case}the weights are right, but DDP averaged the gradients, and your code did so again.",
        )
    if one.by_hand > _STEPS * len(one.weights[0]):
        raise Wrong(
            "too_many_messages",
            f"{case}your code calls {one.by_hand / _STEPS:g} collectives per step for {len(one.weights[0])} "
            "parameters. One average is enough, after the last backward pass.",
        )
    if one.syncs > _STEPS:
        hint = "The weights are right, but all messages but the last were sent for nothing."
        if one.used_no_sync and not one.quiet:
            hint = "You use no_sync(), yet DDP sends: it decides during the forward pass. Is that inside too?"
        elif one.used_no_sync:
            hint = (
                f"{one.quiet / _STEPS:g} of {len(one.forwards) / _STEPS:g} forward passes were inside no_sync(). Which "
                "one only has to send?"
            )
        raise Wrong(
            "too_many_messages", f"{case}each step took {one.syncs / _STEPS:g} all-reduces instead of 1. {hint}"
        )


@one_thread()
def _one_process(start: Tensors, n: int, chosen: Sequence[int], count: int, weight: float) -> list[Tensors]:
    """Return the weights of one process, after each step, that adds up the chosen micro-batches of all ranks."""
    model = started(classifier(), start)
    optimizer = torch.optim.SGD(model.parameters(), lr=_RATE)
    history = []
    for step in range(_STEPS):
        optimizer.zero_grad()
        for rank in range(n):
            batches = _micro_batches(count, step, rank)
            for images, labels in (batches[index] for index in chosen):
                (F.cross_entropy(model(images), labels) * weight / n).backward()
        optimizer.step()
        history.append(copies(model.parameters()))
    return history
