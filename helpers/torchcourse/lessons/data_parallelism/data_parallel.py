"""Data parallelism (데이터 병렬화) by hand: a part of the batch for each rank, and gradients averaged over all of them.

From simple to real:

* `average_gradients`: after `backward()`, one all-reduce for each parameter. That is the whole idea.
* `global_mean_loss`: the loss whose averaged gradient is right also when the ranks hold unequal numbers of samples.
* `DistributedDataParallel`: what training code uses. All ranks start alike, gradients travel in buckets while
  `backward()` still runs, and `no_sync()` accumulates without communication.

`largest_difference` says how far two models, or two lists of gradients, are apart.
"""

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from torchcourse.ranks.who import rank_and_world_size


def average_gradients(model: nn.Module, group: dist.ProcessGroup | None = None) -> None:
    """Replace each gradient by its mean over the ranks. Call it between `backward()` and `optimizer.step()`.

    A parameter without a gradient counts as zeros: all ranks must make the same calls, or some would wait for ever.

    Args:
        model: this rank's copy.
        group: the ranks that hold copies of the same parameters; all ranks if left out.

    Raises:
        RuntimeError: outside a rank.
    """
    rank_and_world_size()
    world_size = dist.get_world_size(group)
    for parameter in model.parameters():
        if parameter.requires_grad:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            dist.all_reduce(parameter.grad, group=group)
            parameter.grad /= world_size


def global_mean_loss(losses: torch.Tensor) -> torch.Tensor:
    """Return a loss whose gradients, averaged over the ranks, are those of the mean over all samples of all ranks.

    With `loss.mean()` on each rank, a sample on a rank that holds few of them would weigh more than the others. This
    returns `losses.sum() · N / total` for N ranks that hold `total` samples together.

    Args:
        losses: the loss of each sample on this rank, shape [n]; n may differ between ranks, and may be 0.

    Raises:
        RuntimeError: outside a rank.
        ValueError: if no rank has a sample.
    """
    _, world_size = rank_and_world_size()
    total = torch.tensor(losses.numel(), device=losses.device)
    dist.all_reduce(total)
    if total == 0:
        raise ValueError("global_mean_loss() got no samples on any rank, so there is no mean.")
    return losses.sum() * world_size / total


class DistributedDataParallel(nn.Module):
    """Train copies of `module` on all ranks as if it were one model on the whole batch.

    * Same start: parameters and buffers are copied from rank 0.
    * Same gradients: they are averaged during `backward()`. Parameters are put into buckets (버킷) in reverse order,
      since the last layer's gradients are ready first. A full bucket is averaged at once, while earlier layers still
      compute: communication and computation overlap.
    * So the same optimizer step on each rank keeps all copies equal.

    A parameter may get a gradient on some ranks only: the others count as zeros. If it gets one on no rank, its `grad`
    stays None, as in one process. Nothing hangs, as long as every rank calls `backward()` and reaches at least one
    parameter. Tied weights (one parameter used in two places) are averaged once.

    Buffers (such as BatchNorm's running mean) are copied from rank 0 again before each forward pass that trains.

    Args:
        module: the model, already on this rank's device.
        bucket_mb: the size at which a bucket is full, in MiB.

    Raises:
        RuntimeError: outside a rank.
        ValueError: if no parameter needs a gradient, or the bucket size is not positive.

    Source: Li et al., "PyTorch Distributed: Experiences on Accelerating Data Parallel Training", VLDB 2020,
    https://arxiv.org/abs/2006.15704. Unlike `torch.nn.parallel.DistributedDataParallel`, this keeps gradients and
    buckets apart (one more copy) and always allows for unused parameters.
    """

    def __init__(self, module: nn.Module, bucket_mb: float = 25.0) -> None:
        super().__init__()
        copy_from_rank_0(module)
        self.module = module
        self.buckets = fill_buckets([p for p in module.parameters() if p.requires_grad], bucket_mb)
        self._sync = True
        self._in_backward = False
        self._launched = 0
        for bucket in self.buckets:
            for parameter in bucket.parameters:
                parameter.register_post_accumulate_grad_hook(partial(self._on_gradient, bucket))

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        if self._sync and torch.is_grad_enabled():
            for buffer in self.module.buffers():
                dist.broadcast(buffer, src=0)
        return self.module(*args, **kwargs)

    @contextlib.contextmanager
    def no_sync(self) -> Iterator[None]:
        """Inside, `backward()` adds to this rank's own gradients and sends nothing: gradient accumulation (누적).

        The first `backward()` after it averages all that was accumulated.
        """
        before, self._sync = self._sync, False
        try:
            yield
        finally:
            self._sync = before

    def _on_gradient(self, bucket: "Bucket", parameter: nn.Parameter) -> None:
        """Autograd calls this when it has added to `parameter.grad` for the last time in this backward pass."""
        if not self._sync:
            return
        if not self._in_backward:
            self._in_backward = True
            torch.autograd.Variable._execution_engine.queue_callback(self._finish)
        bucket.arrived += 1
        # All ranks must launch in the same order. So a full bucket waits for those before it, which may lack the
        # gradient of a parameter that only other ranks used.
        while self._launched < len(self.buckets) and self.buckets[self._launched].is_full():
            self._launch_next()

    def _finish(self) -> None:
        """Autograd calls this once, at the end of this backward pass."""
        while self._launched < len(self.buckets):
            self._launch_next()
        for bucket in self.buckets:
            bucket.wait()
        self._in_backward = False
        self._launched = 0

    def _launch_next(self) -> None:
        self.buckets[self._launched].launch()
        self._launched += 1


class Bucket:
    """Some parameters whose gradients travel together, as one row of numbers in one all-reduce."""

    def __init__(self, parameters: Sequence[nn.Parameter]) -> None:
        self.parameters = list(parameters)
        self.bytes = sum(_bytes(parameter) for parameter in parameters)
        self.arrived = 0

    def is_full(self) -> bool:
        """Whether this backward pass has produced all its gradients."""
        return self.arrived == len(self.parameters)

    def launch(self) -> None:
        """Start averaging, without waiting. After the gradients comes one number per parameter: 1 if it has one."""
        has_gradient = [parameter.grad is not None for parameter in self.parameters]
        rows = [
            (torch.zeros_like(parameter) if parameter.grad is None else parameter.grad).reshape(-1)
            for parameter in self.parameters
        ]
        self._row = torch.cat([*rows, rows[0].new_tensor(has_gradient)]).div_(dist.get_world_size())
        self._work = dist.all_reduce(self._row, async_op=True)

    def wait(self) -> None:
        """Wait for the averages and write them into the gradients."""
        self._work.wait()
        sizes = [parameter.numel() for parameter in self.parameters]
        *averages, has_gradient = self._row.split([*sizes, len(sizes)])
        for parameter, average, anywhere in zip(self.parameters, averages, has_gradient, strict=True):
            if parameter.grad is None:
                if not anywhere:
                    continue
                parameter.grad = torch.empty_like(parameter)
            parameter.grad.copy_(average.view_as(parameter))
        self.arrived = 0
        del self._row, self._work


def fill_buckets(parameters: Sequence[nn.Parameter], bucket_mb: float) -> list[Bucket]:
    """Put parameters into buckets of about `bucket_mb` MiB, last parameter first.

    A bucket holds one data type and one device. A parameter larger than a bucket gets one to itself.

    Raises:
        ValueError: if there is no parameter, or the bucket size is not positive.
    """
    if not parameters:
        raise ValueError("No parameter of this module needs a gradient: there is nothing to average.")
    if bucket_mb <= 0:
        raise ValueError(f"bucket_mb must be a size above 0 MiB, but is {bucket_mb}.")
    groups: list[list[nn.Parameter]] = []
    size = 0
    for parameter in reversed(parameters):
        alike = groups and (groups[-1][-1].dtype, groups[-1][-1].device) == (parameter.dtype, parameter.device)
        if not alike or size + _bytes(parameter) > bucket_mb * 2**20:
            groups.append([])
            size = 0
        groups[-1].append(parameter)
        size += _bytes(parameter)
    return [Bucket(group) for group in groups]


def copy_from_rank_0(model: nn.Module) -> None:
    """Overwrite the parameters and buffers of all ranks with those of rank 0: the same start.

    Raises:
        RuntimeError: outside a rank.
    """
    rank_and_world_size()
    for tensor in (*model.parameters(), *model.buffers()):
        dist.broadcast(tensor.detach(), src=0)


def largest_difference(ours: Iterable[torch.Tensor], reference: Iterable[torch.Tensor]) -> float:
    """Return how far two lists of tensors are apart: per tensor, the largest difference ÷ the largest reference value.

    Of all tensors it returns the largest such ratio (no unit). In float32, about 1e-6 is rounding and 1e-2 is a bug.

    Raises:
        ValueError: if the lists or two tensors differ in length or shape.
    """
    ratios = [0.0]
    for index, (left, right) in enumerate(zip(ours, reference, strict=True)):
        left, right = left.detach().double().cpu(), right.detach().double().cpu()
        if left.shape != right.shape:
            raise ValueError(
                f"Tensor {index} has shape {list(left.shape)} here and {list(right.shape)} in the reference."
            )
        if right.numel():
            difference = (left - right).abs().max()
            ratios.append((difference / right.abs().max().clamp_min(1e-30)).item())
    return max(ratios)


def _bytes(parameter: nn.Parameter) -> int:
    return parameter.numel() * parameter.element_size()
