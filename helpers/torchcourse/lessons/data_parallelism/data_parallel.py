"""Data parallelism (데이터 병렬화) by hand: a part of the batch for each rank, and gradients averaged over all of them.

From simple to real:

* `average_gradients`: after `backward()`, one all-reduce for each parameter. That is the whole idea.
* `global_mean_loss`: the loss whose averaged gradient is right also when the ranks hold unequal numbers of samples.
* `DistributedDataParallel`: what training code uses. All ranks start alike, gradients travel in buckets while
  `backward()` still runs, and `no_sync()` accumulates without communication.

`largest_difference` says how far two models, or two lists of gradients, are apart.
"""

import contextlib
from collections.abc import Collection, Iterable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parameter import is_lazy
from torch.utils._pytree import tree_leaves

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
    sparse = with_sparse_gradients(model)
    for parameter in model.parameters():
        if parameter.requires_grad:
            if parameter.grad is None:
                parameter.grad = _no_rows(parameter) if parameter in sparse else torch.zeros_like(parameter)
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


OUTSIDE = -1  # of any backward pass


class DistributedDataParallel(nn.Module):
    """Train copies of `module` on all ranks as if it were one model on the whole batch.

    * Same start: parameters and buffers are copied from rank 0.
    * Same gradients: they are averaged during `backward()`. Parameters are put into buckets (버킷) in reverse order,
      since the last layer's gradients are ready first. A full bucket is averaged at once, while earlier layers still
      compute: communication and computation overlap.
    * So the same optimizer step on each rank keeps all copies equal.

    A parameter may get a gradient on some ranks only: the others count as zeros. If it gets one on no rank, its `grad`
    stays None, as in one process. Nothing hangs, as long as every rank calls `backward()` and reaches at least one
    parameter. Tied weights (one parameter used in two places) are averaged once. The sparse gradient of an
    `nn.Embedding(…, sparse=True)` stays sparse, and travels alone.

    Buffers (such as BatchNorm's running mean) are copied from rank 0 again before each forward pass that trains.

    Args:
        module: the model, already on this rank's device.
        bucket_mb: the size at which a bucket is full, in MiB.

    Raises:
        RuntimeError: outside a rank; in a forward pass, if a parameter needs a gradient that did not when the model was
            wrapped; in a backward pass, if a gradient grows after its bucket was sent (a layer that is used twice under
            re-entrant checkpointing).
        ValueError: if no parameter needs a gradient, a parameter is not made yet, or the bucket size is not positive.

    Source: Li et al., "PyTorch Distributed: Experiences on Accelerating Data Parallel Training", VLDB 2020,
    https://arxiv.org/abs/2006.15704. Unlike `torch.nn.parallel.DistributedDataParallel`, this keeps gradients and
    buckets apart (one more copy) and always allows for unused parameters.
    """

    def __init__(self, module: nn.Module, bucket_mb: float = 25.0) -> None:
        super().__init__()
        copy_from_rank_0(module)
        self.module = module
        trained = [p for p in module.parameters() if p.requires_grad]
        self.buckets = fill_buckets(trained, bucket_mb, with_sparse_gradients(module))
        self._trained = set(trained)
        self._sync = True
        self._backward: int | None = None  # the backward pass that runs now
        self._launched = 0
        for bucket in self.buckets:
            for parameter in bucket.parameters:
                parameter.register_post_accumulate_grad_hook(partial(self._on_gradient, bucket))

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        if self._sync and torch.is_grad_enabled():
            self._refuse_new_parameters()
            for buffer in self.module.buffers():
                dist.broadcast(buffer, src=0)
        if _pass_of_autograd() == OUTSIDE:
            self._backward = None  # a pass that ended in an error has left its number
        outputs = self.module(*args, **kwargs)
        # The outputs come first in the backward pass. Re-entrant checkpointing starts further passes inside that pass:
        # only here is it certain that this is the outer one, at whose end all gradients are complete.
        for output in tree_leaves(outputs):
            if isinstance(output, torch.Tensor) and output.grad_fn is not None:
                output.register_hook(lambda _: self._begin())
        return outputs

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

    def _refuse_new_parameters(self) -> None:
        for name, parameter in self.module.named_parameters():
            if parameter.requires_grad and parameter not in self._trained:
                raise RuntimeError(
                    f"{name} needs a gradient now, but did not when the model was wrapped, so the ranks would not "
                    "average it. Change the model first, and wrap it in DistributedDataParallel afterwards."
                )

    def _begin(self) -> None:
        """Note that a backward pass has begun. What a pass left that ended in an error is dropped."""
        current = _pass_of_autograd()
        if not self._sync or self._backward == current:
            return
        for bucket in self.buckets:
            bucket.drop()
        self._launched = 0
        self._backward = current
        torch.autograd.Variable._execution_engine.queue_callback(self._finish)

    def _on_gradient(self, bucket: "Bucket", parameter: nn.Parameter) -> None:
        """Autograd calls this when it has added to `parameter.grad` for the last time in this backward pass."""
        if not self._sync:
            return
        if self._backward is None:  # the output was no tensor, nor one in a list or dict
            self._begin()
        if bucket.is_launched():
            raise RuntimeError(
                f"A parameter of shape {list(parameter.shape)} got a second gradient in this backward pass, after the "
                "ranks had averaged the first. Its layer is used twice under re-entrant checkpointing: call "
                "checkpoint(…, use_reentrant=False)."
            )
        bucket.arrived.add(parameter)
        # All ranks must launch in the same order. So a full bucket waits for those before it, which may lack the
        # gradient of a parameter that only other ranks used.
        while self._launched < len(self.buckets) and self.buckets[self._launched].is_full():
            self._launch_next()

    def _finish(self) -> None:
        """Autograd calls this once, at the end of this backward pass."""
        self._backward = None
        if not any(bucket.arrived for bucket in self.buckets):  # torch.autograd.grad() asks for other gradients
            return
        while self._launched < len(self.buckets):
            self._launch_next()
        for bucket in self.buckets:
            bucket.finish()
        self._launched = 0

    def _launch_next(self) -> None:
        self.buckets[self._launched].launch()
        self._launched += 1


class Bucket:
    """Some parameters whose gradients travel together, as one row of numbers in one all-reduce."""

    def __init__(self, parameters: Sequence[nn.Parameter]) -> None:
        self.parameters = list(parameters)
        self.bytes = sum(parameter.nbytes for parameter in parameters)
        self.arrived: set[nn.Parameter] = set()
        self._work: dist.Work | None = None

    def is_full(self) -> bool:
        """Whether this backward pass has produced all its gradients."""
        return len(self.arrived) == len(self.parameters)

    def is_launched(self) -> bool:
        """Whether its gradients are on their way."""
        return self._work is not None

    def launch(self) -> None:
        """Start averaging, without waiting."""
        self._row = self._packed().div_(dist.get_world_size())
        self._work = dist.all_reduce(self._row, async_op=True)

    def finish(self) -> None:
        """Wait for the averages and write them into the gradients."""
        row = self.drop()
        if row is not None:
            self._unpack(row)

    def drop(self) -> torch.Tensor | None:
        """Wait for the averages, if they are on their way, and return them. The bucket is empty afterwards."""
        self.arrived.clear()
        if self._work is None:
            return None
        self._work.wait()
        row = self._row
        del self._row
        self._work = None
        return row

    def _packed(self) -> torch.Tensor:
        """Return all gradients in one row, and after them one number per parameter: 1 if it has a gradient."""
        has_gradient = [parameter.grad is not None for parameter in self.parameters]
        rows = [
            (torch.zeros_like(parameter) if parameter.grad is None else parameter.grad).reshape(-1)
            for parameter in self.parameters
        ]
        return torch.cat([*rows, rows[0].new_tensor(has_gradient)])

    def _unpack(self, row: torch.Tensor) -> None:
        sizes = [parameter.numel() for parameter in self.parameters]
        *averages, has_gradient = row.split([*sizes, len(sizes)])
        for parameter, average, anywhere in zip(self.parameters, averages, has_gradient, strict=True):
            if parameter.grad is None:
                if not anywhere:
                    continue
                parameter.grad = torch.empty_like(parameter)
            parameter.grad.copy_(average.view_as(parameter))


class SparseBucket(Bucket):
    """One parameter whose gradient holds only the rows that the batch used. The average has the rows of all ranks."""

    def _packed(self) -> torch.Tensor:
        (parameter,) = self.parameters
        return _no_rows(parameter) if parameter.grad is None else parameter.grad.coalesce().clone()

    def _unpack(self, row: torch.Tensor) -> None:
        (parameter,) = self.parameters
        if parameter.grad is not None or row._nnz() > 0:
            parameter.grad = row


def fill_buckets(
    parameters: Sequence[nn.Parameter], bucket_mb: float, sparse: Collection[torch.Tensor] = ()
) -> list[Bucket]:
    """Put parameters into buckets of about `bucket_mb` MiB, last parameter first.

    A bucket holds one data type and one device. A parameter larger than a bucket gets one to itself, and so does one
    with `sparse` gradients.

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
        if (
            not groups
            or size + parameter.nbytes > bucket_mb * 2**20
            or not _may_share(groups[-1][-1], parameter, sparse)
        ):
            groups.append([])
            size = 0
        groups[-1].append(parameter)
        size += parameter.nbytes
    return [SparseBucket(group) if group[0] in sparse else Bucket(group) for group in groups]


def with_sparse_gradients(model: nn.Module) -> set[torch.Tensor]:
    """Return the parameters whose gradients are sparse: the tables of embeddings made with `sparse=True`."""
    return {
        module.weight
        for module in model.modules()
        if isinstance(module, (nn.Embedding, nn.EmbeddingBag)) and module.sparse
    }


def copy_from_rank_0(model: nn.Module) -> None:
    """Overwrite the parameters and buffers of all ranks with those of rank 0: the same start.

    Raises:
        RuntimeError: outside a rank.
        ValueError: if a layer has not made its parameters yet (`nn.LazyLinear`).
    """
    rank_and_world_size()
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if is_lazy(tensor):
            raise ValueError(f"{name} is not made yet: send one batch through the model before you share it.")
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


def _pass_of_autograd() -> int:
    """Return autograd's number of the backward pass that runs now, or OUTSIDE. There is no public way to ask."""
    return torch._C._current_graph_task_id()


def _may_share(one: nn.Parameter, other: nn.Parameter, sparse: Collection[torch.Tensor]) -> bool:
    """Whether two parameters can travel in one row of numbers."""
    return (one.dtype, one.device) == (other.dtype, other.device) and one not in sparse and other not in sparse


def _no_rows(parameter: nn.Parameter) -> torch.Tensor:
    """Return the sparse gradient of an embedding that no sample used."""
    indices = torch.empty(1, 0, dtype=torch.int64, device=parameter.device)
    rows = parameter.detach().new_empty(0, *parameter.shape[1:])
    return torch.sparse_coo_tensor(indices, rows, parameter.shape, is_coalesced=True, check_invariants=False)
