"""Collectives by hand: what `torch.distributed` does when all ranks call the same function together.

A collective (집합 통신) is a function that every rank calls at the same point. Here each is built from messages
between two ranks, so that you see who sends what to whom. Two ways to sum a tensor over all ranks:

* `naive_all_reduce`: rank 0 collects, adds and hands out. Its own wire carries 2(N−1) tensors.
* `ring_all_reduce`: the tensor is cut into N chunks, which travel round a ring. Every wire carries 2(N−1)/N tensors,
  however many ranks there are. It is made of `ring_reduce_scatter` and `ring_all_gather`, useful on their own.

Each function works in place and returns the number of bytes that *this* rank sent. All need the process group that
`run_ranks` or `torchrun` sets up. `ring_steps` plays the ring without any process, for pictures and tests.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.distributed as dist

from torchcourse.ranks.who import rank_and_world_size


def broadcast(tensor: torch.Tensor, source: int = 0) -> int:
    """Copy `tensor` (any shape) from rank `source` into the tensors of all other ranks.

    The plain way: the source sends to each rank in turn. Libraries use a tree or a pipeline, but the result is this.

    Returns:
        Bytes that this rank sent: (N−1) × the tensor at the source, 0 elsewhere.

    Raises:
        RuntimeError: outside a rank.
        ValueError: if there is no rank `source`.
    """
    rank, world_size = rank_and_world_size()
    if not 0 <= source < world_size:
        raise ValueError(f"There is no rank {source} to broadcast from: the ranks are 0 to {world_size - 1}.")
    if rank != source:
        received = torch.empty_like(tensor, memory_format=torch.contiguous_format)
        dist.recv(received, source)
        _overwrite(tensor, received)
        return 0
    others = [other for other in range(world_size) if other != source]
    for other in others:
        dist.send(tensor.detach().contiguous(), other)
    return len(others) * tensor.nbytes


def naive_all_reduce(tensor: torch.Tensor) -> int:
    """Sum `tensor` (any shape) over all ranks, in place: rank 0 gathers, adds, and broadcasts the sum.

    Returns:
        Bytes that this rank sent: one tensor, but (N−1) of them at rank 0, which receives as many besides.

    Raises:
        RuntimeError: outside a rank.
    """
    rank, world_size = rank_and_world_size()
    if rank != 0:
        dist.send(tensor.detach().contiguous(), 0)
        return tensor.nbytes + broadcast(tensor)
    total = tensor.detach().clone(memory_format=torch.contiguous_format)
    received = torch.empty_like(total)
    for other in range(1, world_size):
        dist.recv(received, other)
        total += received
    _overwrite(tensor, total)
    return broadcast(tensor)


def ring_all_reduce(tensor: torch.Tensor) -> int:
    """Sum `tensor` (any shape, any length) over all ranks, in place, by a ring.

    Returns:
        Bytes that this rank sent: 2(N−1)/N × the tensor when N divides its length; else this to within two elements,
        because the chunks then differ by one element.

    Raises:
        RuntimeError: outside a rank.

    Source: Patarasuk and Yuan, "Bandwidth optimal all-reduce algorithms for clusters of workstations", Journal of
    Parallel and Distributed Computing 69(2), 2009, https://doi.org/10.1016/j.jpdc.2008.09.002
    """
    _, world_size = rank_and_world_size()
    flat = tensor.detach().contiguous().view(-1)
    chunks = flat.tensor_split(world_size)
    sent = ring_reduce_scatter(chunks) + ring_all_gather(chunks)
    _overwrite(tensor, flat.view(tensor.shape))
    return sent


def ring_reduce_scatter(chunks: Sequence[torch.Tensor]) -> int:
    """Sum each chunk over all ranks; the sum of chunk r ends at rank r.

    Args:
        chunks: N contiguous tensors, alike on all ranks. They may differ in length, and be empty. Afterwards
            `chunks[rank]` holds the sum; the others hold partial sums, of use to nobody.

    Returns:
        Bytes that this rank sent: all its chunks but its own.

    Raises:
        RuntimeError: outside a rank.
        ValueError: if there is not one chunk for each rank.
    """
    rank, world_size = _check_chunks(chunks)
    sent = 0
    for send, receive in reduce_scatter_schedule(rank, world_size):
        arrived = torch.empty_like(chunks[receive])
        sent += _exchange(chunks[send], arrived)
        chunks[receive].add_(arrived)
    return sent


def ring_all_gather(chunks: Sequence[torch.Tensor]) -> int:
    """Give every rank all chunks, where rank r starts with a right chunk r.

    Args:
        chunks: N contiguous tensors, alike on all ranks. Only `chunks[rank]` is read; the others are overwritten.

    Returns:
        Bytes that this rank sent: N−1 chunks, each passed on to the right.

    Raises:
        RuntimeError: outside a rank.
        ValueError: if there is not one chunk for each rank.
    """
    rank, world_size = _check_chunks(chunks)
    return sum(_exchange(chunks[send], chunks[receive]) for send, receive in all_gather_schedule(rank, world_size))


def reduce_scatter_schedule(rank: int, world_size: int) -> list[tuple[int, int]]:
    """Return, step by step, which chunk `rank` sends to its right and which it receives from its left and adds.

    The chunk received in one step is the chunk sent in the next, so each partial sum grows as it travels.
    """
    return [((rank - 1 - step) % world_size, (rank - 2 - step) % world_size) for step in range(world_size - 1)]


def all_gather_schedule(rank: int, world_size: int) -> list[tuple[int, int]]:
    """Return, step by step, which chunk `rank` sends to its right and which it receives from its left and keeps."""
    return [((rank - step) % world_size, (rank - 1 - step) % world_size) for step in range(world_size - 1)]


Phase = Literal["start", "reduce-scatter", "all-gather"]


@dataclass(frozen=True)
class Message:
    """One chunk on its way from rank `source` to rank `target`."""

    source: int
    target: int
    chunk: int


@dataclass(frozen=True)
class RingStep:
    """One step of a ring all-reduce: all its messages travel at the same time.

    `summed[rank][chunk]` is the set of ranks whose numbers are in that chunk of that rank once the step is over.
    """

    phase: Phase
    messages: tuple[Message, ...]
    summed: tuple[tuple[frozenset[int], ...], ...]


def ring_steps(world_size: int) -> list[RingStep]:
    """Play a ring all-reduce without processes: the start, then N−1 steps of reduce-scatter and N−1 of all-gather.

    It follows the very schedules that `ring_all_reduce` follows.

    Raises:
        ValueError: for a world size below 1.
    """
    if world_size < 1:
        raise ValueError(f"A ring needs at least 1 rank, but world_size is {world_size}.")
    ranks = range(world_size)
    summed = [[frozenset({rank}) for _ in ranks] for rank in ranks]
    steps = [RingStep("start", (), _frozen(summed))]
    phases: list[tuple[Phase, Callable[[int, int], list[tuple[int, int]]]]] = [
        ("reduce-scatter", reduce_scatter_schedule),
        ("all-gather", all_gather_schedule),
    ]
    for phase, schedule in phases:
        for moves in zip(*(schedule(rank, world_size) for rank in ranks), strict=True):
            messages = tuple(Message(rank, (rank + 1) % world_size, send) for rank, (send, _) in enumerate(moves))
            before = _frozen(summed)
            for message in messages:
                arrived, own = before[message.source][message.chunk], before[message.target][message.chunk]
                summed[message.target][message.chunk] = arrived | own if phase == "reduce-scatter" else arrived
            steps.append(RingStep(phase, messages, _frozen(summed)))
    return steps


def _exchange(outgoing: torch.Tensor, incoming: torch.Tensor) -> int:
    """Send to the right while receiving from the left. If all ranks sent first, each would wait for a receiver."""
    rank, world_size = dist.get_rank(), dist.get_world_size()
    operations = []
    if outgoing.numel():
        operations.append(dist.P2POp(dist.isend, outgoing, (rank + 1) % world_size))
    if incoming.numel():
        operations.append(dist.P2POp(dist.irecv, incoming, (rank - 1) % world_size))
    for work in dist.batch_isend_irecv(operations) if operations else []:
        work.wait()
    return outgoing.nbytes


def _check_chunks(chunks: Sequence[torch.Tensor]) -> tuple[int, int]:
    rank, world_size = rank_and_world_size()
    if len(chunks) != world_size:
        raise ValueError(
            f"A ring of {world_size} ranks needs {world_size} chunks, but got {len(chunks)}: "
            f"cut the tensor with tensor.view(-1).tensor_split({world_size})."
        )
    return rank, world_size


def _overwrite(tensor: torch.Tensor, values: torch.Tensor) -> None:
    """Write `values` into `tensor`, also where it is a parameter, and at no cost where it shares their memory."""
    if tensor.data_ptr() != values.data_ptr():
        tensor.detach().copy_(values)


def _frozen(summed: list[list[frozenset[int]]]) -> tuple[tuple[frozenset[int], ...], ...]:
    return tuple(tuple(row) for row in summed)
