"""Check of lesson 01 on micro-batches that are accumulated under DDP: the step of one big batch, one all-reduce."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any
from weakref import WeakSet

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn

from torchcourse.checks import Wrong, check
from torchcourse.checks.kit import copies, on_ranks, refuse_known, same
from torchcourse.lessons.data_parallelism.checks.reference import (
    EVALUATING,
    Batches,
    Tensors,
    classifier,
    on_device,
    one_process,
    refuse_shortened,
    samples,
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
            _refuse_waste(runs[0], case)
            if runs[0].evaluating:
                raise Wrong("mode_left_changed", case + EVALUATING)
            refuse_shortened(count, runs[0].left)
    return "1, 3 and 4 micro-batches: the step of one big batch, and one average for each step, on 2 and on 3 ranks."


@dataclass
class Accumulated:
    """One rank's two steps.

    `syncs`: how often DDP averaged. `by_hand`: collectives that the learner called. `forwards`: the samples of each
    forward pass. `quiet`: of these, the passes that will not lead to an average. `kept`: the most tensors that earlier
    passes still kept for their backward pass when one began. `left`: how many are in their list at the end.
    """

    weights: list[Tensors]
    syncs: int = 0
    by_hand: int = 0
    optimizer_steps: int = 0
    forwards: list[int] = field(default_factory=list)
    quiet: int = 0
    kept: int = 0
    evaluating: bool = False
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
            batches = on_device(_micro_batches(count, step, dist.get_rank()))
            syncs = seen.syncs
            with watched() as traffic, _noted_in(saved):
                learner(ddp, optimizer, batches)
            seen.left = len(batches)
            seen.by_hand += len(traffic.collectives) - (seen.syncs - syncs)
            seen.weights.append(copies(model.parameters()))
        runs.append(seen)
    return runs


def _micro_batches(count: int, step: int, rank: int) -> Batches:
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

    def note_kept(*_: Any) -> None:
        seen.kept = max(seen.kept, len(saved))

    def note_forward(_: nn.Module, inputs: tuple[torch.Tensor, ...], outputs: torch.Tensor) -> None:
        if outputs.requires_grad:  # whoever only looks at a loss does not train on it
            seen.forwards.append(len(inputs[0]))
            seen.evaluating |= not model.training
            seen.quiet += not ddp.require_backward_grad_sync

    def note_step(*_: Any) -> None:
        seen.optimizer_steps += 1

    model.register_forward_pre_hook(note_kept)
    model.register_forward_hook(note_forward)
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
    if same([one.weights[1] for one in runs], [runs[0].weights[1]] * len(runs)):
        return
    if runs[0].syncs:
        raise Wrong(
            "averaged_too_early",
            f"{case}the ranks hold different weights after one step: what was added after the all-reduce never "
            "reached the other ranks. Which of the backward passes must be the one that averages?",
        )
    if runs[0].by_hand:
        raise Wrong(
            "ranks_disagree",
            f"{case}your code calls collectives itself, and the ranks hold different weights after one step. Does each "
            "gradient become the mean over the ranks, after the last backward pass?",
        )
    raise Wrong(
        "never_averaged",
        f"{case}no all-reduce took place, and the ranks' weights part. Which backward pass should send?",
    )


def _judge_weights(one: Accumulated, count: int, n: int, case: str) -> None:
    """Compare with one process that adds up the micro-batches of all ranks: the first step, then the second."""
    losses = [partial(_loss, count=count, step=step, n=n) for step in range(_STEPS)]
    right = one_process(classifier(), one.weights[0], _RATE, losses)
    if same(one.weights, right):
        return
    if same(one.weights[1], right[1]):
        raise Wrong("later_steps", f"{case}the first step is right, the second is not. What is left over?")
    counted = _shares_counted(one, n, count)
    if counted is None:
        raise Wrong(
            "wrong_value",
            f"{case}all ranks agree, but on other weights than one process has. Do the outputs go into cross_entropy "
            "as they come, and does nothing else change the loss or the gradients?",
        )
    listed = ", ".join(f"{share:.3g}" for share in counted)
    if counted[0] == 0 != counted[-1]:
        raise Wrong(
            "early_ones_lost",
            f"{case}the step counts the micro-batches {listed} times. Who throws the earlier gradients away?",
        )
    known = {
        "not_divided": (
            [1.0] * count,
            f"your step is {count} times too long: the gradients of {count} micro-batches were added. What turns a "
            "sum into a mean, and where can you divide each part?",
        ),
        "divided_twice": ([1 / count**2] * count, f"your step is {count} times too short: you divide twice."),
        "divided_by_ranks": ([1 / count / n] * count, f"your step is {n} times too short: DDP divides by N already."),
    }
    refuse_known(counted, known, 1e-6, where=case)
    raise Wrong(
        "wrong_share",
        f"{case}the step counts the micro-batches {listed} times. Each should count 1/{count}: by what is each loss "
        "divided, and is it a mean over its samples?",
    )


def _loss(model: nn.Module, count: int, step: int, n: int, chosen: slice = slice(None)) -> torch.Tensor:
    """The mean over the chosen micro-batches of all ranks."""
    batches = [batch for rank in range(n) for batch in _micro_batches(count, step, rank)[chosen]]
    return torch.stack([F.cross_entropy(model(images), labels) for images, labels in batches]).mean()


def _shares_counted(one: Accumulated, n: int, count: int) -> list[float] | None:
    """How often each micro-batch counts in the first step; None if the step is no sum of their gradients."""

    def moved(weights: list[Tensors]) -> torch.Tensor:
        return torch.cat([(after - before).flatten() for before, after in zip(*weights[:2], strict=True)])

    alone = [partial(_loss, count=count, step=0, n=n, chosen=slice(k, k + 1)) for k in range(count)]
    each = torch.stack([moved(one_process(classifier(), one.weights[0], _RATE, [loss])) for loss in alone], dim=1)
    step = moved(one.weights)[:, None]
    shares = torch.linalg.lstsq(each, step).solution
    shares[shares.abs() < 1e-9] = 0
    return shares.flatten().tolist() if torch.allclose(each @ shares, step, atol=1e-9) else None


def _refuse_waste(one: Accumulated, case: str) -> None:
    """Refuse graphs that were kept, and averages that were not needed: by DDP, by hand, or by both."""
    if one.kept > 0:
        raise Wrong(
            "graphs_kept",
            f"{case}the weights are right, but when a micro-batch is computed, the graph of one before it is still in "
            "memory, as that of the big batch would be. When can backward() be called? It frees a graph, unless it is "
            "told to retain it.",
        )
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
        raise Wrong(
            "too_many_messages",
            f"{case}the weights are right, but each step took {one.syncs / _STEPS:g} all-reduces, and all but the last "
            f"were sent for nothing. DDP decides during the forward pass: {one.quiet / _STEPS:g} of "
            f"{len(one.forwards) / _STEPS:g} forward passes were inside no_sync(). Which one only has to send?",
        )
