"""Checks of lesson 01, notebook 2: the ring, buckets, accumulation and a hang. Each names the symptom, never the cure.

The ranks only compute and send back what came out; the judging is done here, in the notebook's process, where `Wrong`
keeps its symptom. In the notebook's order: `ring_all_reduce`, `fill_buckets`, `average_bucket`, `accumulate`,
`train_and_log`.
"""

import contextlib
import itertools
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn

from torchcourse.checks import Wrong, check
from torchcourse.ranks.run import RankError, RankTimeout, run_ranks
from torchcourse.ranks.who import device

TIME_LIMIT = 10.0  # seconds for one call; healthy ranks need a fraction of one

Tensors = list[torch.Tensor]

# The checks


@check
def ring_all_reduce(learner: Callable) -> str:
    """Compare with `dist.all_reduce` on 2 to 4 ranks, for lengths that N divides and others, and count the bytes."""
    for world_size in (3, 2, 4):
        try:
            _judge_ring(learner, (12, 24, 10, 5, 1), world_size)
        except (Wrong, RankError) as error:
            _judge_ring(learner, (12, 24), world_size)
            what = error.hint if isinstance(error, Wrong) else f"Your code stopped with {error.kind}: {error.message}."
            raise Wrong(
                "not_divisible",
                f"On {world_size} ranks the lengths 12 and 24 are right, but one of 10, 5 and 1 is not. {what}",
            ) from None
    return (
        "The sums of dist.all_reduce, on 2, 3 and 4 ranks, for lengths from 1 to 24; and no rank sent more than "
        "2(N−1)/N of the tensor: 1, 1.33 and 1.5 times its bytes."
    )


@check
def fill_buckets(learner: Callable) -> str:
    """Ask for buckets of several lists of parameters, and test the rules of the exercise one by one."""
    for sizes, limit in _BUCKET_CASES:
        parameters = [nn.Parameter(torch.zeros(size), requires_grad=size not in _FROZEN) for size in sizes]
        buckets = learner(list(parameters), limit)
        _judge_buckets(_named(buckets, parameters), parameters, limit)
    return f"Last parameter first, none lost, none too full: checked on {len(_BUCKET_CASES)} lists of parameters."


@check
def average_bucket(learner: Callable) -> str:
    """Train three steps on 2 and on 3 ranks and compare every step with one process; count the all-reduces."""
    for world_size in (2, 3):
        runs = _on_ranks(_train_with_buckets, learner, world_size=world_size)
        for step in range(_STEPS):
            _judge_bucket_step(runs, step, world_size)
        most = max(one.all_reduces for one in runs)
        if most > runs[0].buckets * _STEPS:
            raise Wrong(
                "many_messages",
                f"The averages are right, but {runs[0].buckets} buckets took {most // _STEPS} all-reduces a step. "
                "One bucket should travel as one row of numbers.",
            )
    return (
        "Step by step the weights of one process, on 2 and on 3 ranks that start from different seeds, with a tied "
        "weight and a parameter that only rank 0 uses; one all-reduce a bucket."
    )


@check
def accumulate(learner: Callable) -> str:
    """Compare two steps of 1, 3 and 4 micro-batches with one process, and count the all-reduces."""
    for world_size in (2, 3):
        for count, runs in _by_input(_accumulate, learner, (3, 1, 4), world_size=world_size):
            _judge_accumulation(runs, count)
    return "1, 3 and 4 micro-batches: the step of one big batch, and one all-reduce for each step, on 2 and on 3 ranks."


@check
def train_and_log(learner: Callable) -> str:
    """Train on 2 and 3 ranks; compare the weights and rank 0's log with one process."""
    for world_size in (2, 3):
        runs = _on_ranks(_train_and_log, learner, world_size=world_size)
        _judge_log(runs)
    return "No rank waits, rank 0's log holds the mean loss over all ranks, and the training is what it was."


# What several checks share


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """Compute on one thread: for such small models, several only wait for each other on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _on_ranks(function: Callable, *arguments: Any, world_size: int) -> list[Any]:
    try:
        return run_ranks(function, *arguments, world_size=world_size, timeout=TIME_LIMIT)
    except RankTimeout as error:
        raise Wrong(
            "hang",
            f"After {TIME_LIMIT:g} s the {world_size} ranks still waited for one another. Either all send while nobody "
            f"receives, or a collective is called by some ranks only.{_places(error.traceback)}",
        ) from None
    except RankError as error:
        if error.kind in ("TypeError", "AttributeError") and "None" in error.message:
            raise Wrong(
                "no_gradient",
                "Your code met a parameter whose .grad is None: nothing used it in this step. "
                "It needs a place in the row all the same.",
            ) from None
        if error.left_alone:
            raise Wrong(
                "left_alone",
                f"Rank {error.rank} waited for a rank that had already finished. A message needs a sender and a "
                "receiver, and a collective all ranks: does each of them make the same calls, equally often?",
            ) from None
        if error.kind == "ProcessDied":
            raise Wrong(
                "sizes_differ",
                f"On {world_size} ranks a message was longer than what the receiver had made ready, and the process "
                "died of it. The same call must have tensors of the same length on all ranks that meet in it.",
            ) from None
        raise


def _places(stacks: str) -> str:
    """Say for each rank at which line of the learner's cell it waits, where the stacks show cells."""
    found = re.findall(r"rank (\d+) was here:\n(?:(?!rank).*\n)*?  Cell In\[\d+\], line (\d+), .*\n +(.*)", stacks)
    return "".join(f"\nRank {rank} waits in line {line}: {code}" for rank, line, code in found)


def _by_input(function: Callable, learner: Callable, inputs: Sequence, *, world_size: int) -> Iterator[tuple]:
    """Run `function(learner, inputs)` on ranks. Yield, for each input, what came out on each rank."""
    by_rank = _on_ranks(function, learner, inputs, world_size=world_size)
    return zip(inputs, zip(*by_rank, strict=True), strict=True)


def _started(model: nn.Module, start: Tensors) -> nn.Module:
    with torch.no_grad():
        for parameter, values in zip(model.parameters(), start, strict=True):
            parameter.copy_(values)
    return model


def _same(ours: Sequence[torch.Tensor], other: Sequence[torch.Tensor]) -> bool:
    return all(torch.allclose(a, b, rtol=1e-8, atol=1e-9) for a, b in zip(ours, other, strict=True))


def _copy(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().cpu().clone()


def _copies(tensors: Any) -> Tensors:
    return [_copy(tensor) for tensor in tensors]


# The ring


@dataclass
class Traffic:
    """What one rank sent by itself, and the collectives it called."""

    bytes: int = 0
    targets: set[int] = field(default_factory=set)
    collectives: list[str] = field(default_factory=list)


_COLLECTIVES = (
    "allreduce",
    "allgather",
    "_allgather_base",
    "reduce",
    "reduce_scatter",
    "_reduce_scatter_base",
    "gather",
    "scatter",
    "broadcast",
    "alltoall",
    "alltoall_base",
)


@contextlib.contextmanager
def _watched() -> Iterator[Traffic]:
    """Count messages and collectives where all functions of `torch.distributed` meet: at the process group."""
    traffic, group = Traffic(), dist.ProcessGroup
    originals = {name: vars(group)[name] for name in ("send", *_COLLECTIVES)}

    send_on = group.send

    def send(self: Any, tensors: Sequence[torch.Tensor], target: int, *rest: Any) -> Any:
        traffic.bytes += sum(tensor.numel() * tensor.element_size() for tensor in tensors)
        traffic.targets.add(target)
        return send_on(self, tensors, target, *rest)

    def watched(name: str) -> Callable:
        original = getattr(group, name)

        def call(*arguments: Any, **named: Any) -> Any:
            traffic.collectives.append(name.strip("_"))
            return original(*arguments, **named)

        return call

    group.send = send
    for name in _COLLECTIVES:
        setattr(group, name, watched(name))
    try:
        yield traffic
    finally:
        for name, original in originals.items():
            setattr(group, name, original)


@dataclass
class RingRun:
    """One rank, one length: random numbers before and after, what `dist.all_reduce` gives, and what was sent.

    `times[k]` says for each element how many times the number of rank k is in it.
    """

    before: torch.Tensor
    after: torch.Tensor
    expected: torch.Tensor
    times: torch.Tensor
    traffic: Traffic


def _ring(learner: Callable, lengths: Sequence[int]) -> list[RingRun]:
    runs = []
    generator = torch.Generator().manual_seed(dist.get_rank())
    for length in lengths:
        tensor = torch.randn(length, generator=generator, dtype=torch.float64).to(device())
        before, expected = tensor.clone(), tensor.clone()
        dist.all_reduce(expected)
        with _watched() as traffic:
            learner(tensor)
        # Rank k sends the number 100^k: the digits of a sum then tell how often each rank is in it.
        marks = torch.full((length,), 100.0 ** dist.get_rank(), dtype=torch.float64, device=device())
        learner(marks)
        times = torch.stack([marks // 100.0**rank % 100 for rank in range(dist.get_world_size())])
        runs.append(RingRun(before.cpu(), tensor.cpu(), expected.cpu(), times.cpu(), traffic))
    return runs


def _judge_ring(learner: Callable, lengths: Sequence[int], world_size: int) -> None:
    for length, runs in _by_input(_ring, learner, lengths, world_size=world_size):
        _judge_sums(runs, length)
        _judge_bytes(runs, length)


def _judge_sums(runs: Sequence[RingRun], length: int) -> None:
    n = len(runs)
    if used := sorted({name for one in runs for name in one.traffic.collectives}):
        raise Wrong(
            "library_collective",
            f"Your function calls a ready collective ({', '.join(used)}). Here it is to be built from single messages: "
            "pass_right() is all you need.",
        )
    if all(_same([one.after], [one.expected]) for one in runs):
        return
    if all(_same([one.after], [one.before]) for one in runs):
        raise Wrong(
            "nothing_changed",
            "After your function the tensor is what it was. The sum must arrive in the tensor itself: write into its "
            "chunks, which are views of it. A return value or a new tensor does not reach it.",
        )
    if all(_same([one.after], [one.expected / n]) for one in runs):
        raise Wrong("mean_not_sum", f"Your result is {n} times too small: it is the mean. All-reduce gives the sum.")
    complete = [one.times.eq(1).all(dim=0) for one in runs]
    if (many := max(int(one.times.max()) for one in runs)) > 1:
        rank = next(rank for rank, one in enumerate(runs) if one.times.max() > 1)
        source, element = divmod(int(runs[rank].times.flatten().argmax()), length)
        raise Wrong(
            "added_twice",
            f"With {n} ranks, element {element} of {length} on rank {rank} holds the number of rank {source} {many} "
            "times. In the first half a chunk that arrives is added; what should happen to it in the second half?",
        )
    if all(done.any() and not done.all() for done in complete) and torch.stack(complete).sum(dim=0).eq(1).all():
        raise Wrong(
            "only_reduce_scatter",
            "Each rank has the sum of one chunk, and a different one: reduce-scatter is right. "
            "The finished chunks still have to reach the other ranks.",
        )
    if all(done.all() for done in complete):
        raise Wrong("wrong_place", "All numbers were added, but some sums stand where another chunk belongs.")
    rank = next(rank for rank, done in enumerate(complete) if not done.all())
    element = int(complete[rank].int().argmin())
    inside = [source for source in range(n) if runs[rank].times[source, element]]
    raise Wrong(
        "incomplete",
        f"With {n} ranks, element {element} of {length} on rank {rank} holds the numbers of rank "
        f"{' and '.join(map(str, inside)) or 'nobody'} only. Follow that chunk with the slider of the ring: who holds "
        "it in each step, and how many steps are there?",
    )


def _judge_bytes(runs: Sequence[RingRun], length: int) -> None:
    n = len(runs)
    element = runs[0].before.element_size()
    most = 2 * (n - 1) * -(-length // n) * element
    for rank, one in enumerate(runs):
        if one.traffic.bytes > most:
            raise Wrong(
                "too_many_bytes",
                f"The sums are right, but rank {rank} of {n} sent {one.traffic.bytes} bytes of a tensor of "
                f"{length * element}: {one.traffic.bytes / (length * element):.2f} times its size, where a ring needs "
                f"{most / (length * element):.2f}. Do whole tensors travel, or chunks?",
            )
        if not one.traffic.targets <= {(rank - 1) % n, (rank + 1) % n}:
            raise Wrong(
                "not_a_ring",
                f"The sums and the bytes are right, but rank {rank} sent to the ranks {sorted(one.traffic.targets)}. "
                "In a ring every rank talks to its neighbours only.",
            )


# Buckets

_FROZEN = (7, 9)  # parameters of these sizes are frozen
_BUCKET_CASES = (  # numbers in each parameter of 4 bytes, limit in bytes
    ((3, 2, 4, 1), 20),
    ((1, 1, 1, 1, 1, 1), 12),
    ((2, 7, 3, 9, 1), 16),
    ((50, 2, 3), 24),
    ((2, 3, 50), 24),
    ((2, 50, 1), 24),
    ((5,), 1000),
    ((2, 2, 2), 24),
)


def _named(buckets: Any, parameters: Sequence[nn.Parameter]) -> list[list[int]]:
    """Say which parameters are in each bucket, by their place in the list."""
    places = {id(parameter): place for place, parameter in enumerate(parameters)}
    try:
        return [[places[id(parameter)] for parameter in bucket] for bucket in buckets]
    except (TypeError, KeyError):
        raise Wrong(
            "no_lists", "Return a list of buckets, each of them a list of the very parameters that came in."
        ) from None


def _judge_buckets(buckets: list[list[int]], parameters: Sequence[nn.Parameter], limit: int) -> None:
    size = [4 * parameter.numel() for parameter in parameters]
    case = f"For parameters of {size} bytes and a limit of {limit}"
    shown = f"your buckets hold {[[size[place] for place in bucket] for bucket in buckets]} bytes"
    trained = [place for place, parameter in enumerate(parameters) if parameter.requires_grad]
    flat = [place for bucket in buckets for place in bucket]
    if frozen := [place for place in flat if place not in trained]:
        raise Wrong("frozen", f"{case}, number {frozen[0]} is frozen and gets no gradient, but it is in a bucket.")
    if lost := [place for place in trained if place not in flat]:
        raise Wrong(
            "lost",
            f"{case}, {shown}: the parameter of {size[lost[0]]} bytes (number {lost[0]}) is in none, so its gradient "
            "would never be averaged. What happens to the last bucket, and to a parameter larger than the limit?",
        )
    if len(flat) > len(trained):
        raise Wrong("twice", f"{case}, {shown}: some parameter is there twice and would be averaged twice.")
    if [] in buckets:
        raise Wrong("empty", f"{case}, {shown}: a bucket is empty.")
    if flat == trained and len(trained) > 1:
        raise Wrong(
            "forward_order",
            f"{case}, {shown}, in the order of the forward pass. Which gradient is ready first in the backward pass?",
        )
    if flat != trained[::-1]:
        raise Wrong("other_order", f"{case}, {shown}. Last parameter first, also inside a bucket: {trained[::-1]}.")
    for bucket in buckets:
        total = sum(size[place] for place in bucket)
        if total > limit and len(bucket) > 1:
            in_numbers = total > limit + max(size)
            raise Wrong(
                "numbers_not_bytes" if in_numbers else "too_full",
                f"{case}, {shown}: one has {total} bytes. "
                + ("Does your code count bytes, or numbers?" if in_numbers else "When do you look if it still fits?"),
            )
    for bucket, following in itertools.pairwise(buckets):
        if sum(size[place] for place in bucket) + size[following[0]] <= limit:
            raise Wrong(
                "closed_early",
                f"{case}, {shown}: there was still room in a bucket when the next one was begun. "
                "More buckets than needed are more messages than needed.",
            )


_STEPS = 3
_RATE = 0.5


class _Tied(nn.Module):
    """A model with what trips up an averaging: a tied weight, a layer that only rank 0 uses, one that nobody uses."""

    def __init__(self) -> None:
        super().__init__()
        self.encode = nn.Linear(4, 6)
        self.decode = nn.Linear(6, 4)
        self.back = nn.Linear(4, 6)
        self.back.weight = self.encode.weight
        self.only_rank_0 = nn.Linear(4, 2)
        self.unused = nn.Linear(2, 2)
        self.double()

    def forward(self, inputs: torch.Tensor, extra: bool) -> torch.Tensor:
        outputs = self.decode(torch.tanh(self.encode(inputs)))
        loss = (outputs - inputs).square().mean() + self.back(outputs).square().mean()
        return loss + self.only_rank_0(outputs).square().mean() if extra else loss


def _tied_inputs(step: int, rank: int) -> torch.Tensor:
    return torch.randn(5, 4, generator=torch.Generator().manual_seed(10 * step + rank), dtype=torch.float64)


@dataclass
class BucketRun:
    """One rank's training: weights before and after each step, own and averaged gradients of the first step."""

    names: list[str]
    weights: list[Tensors]
    own: Tensors
    averaged: list[torch.Tensor | None]
    buckets: int
    all_reduces: int


def _zeros_for_none(gradients: Sequence[torch.Tensor | None], like: Tensors) -> Tensors:
    return [torch.zeros_like(b) if a is None else a for a, b in zip(gradients, like, strict=True)]


def _train_with_buckets(learner: Callable) -> BucketRun:
    torch.manual_seed(dist.get_rank())
    model = _Tied().to(device())
    parameters = list(model.parameters())
    for parameter in parameters:
        dist.broadcast(parameter.detach(), src=0)
    cut = 3
    buckets = [parameters[cut:][::-1], parameters[:cut][::-1]]
    optimizer = torch.optim.SGD(parameters, lr=_RATE)
    weights, own, averaged, all_reduces = [_copies(parameters)], [], [], 0
    for step in range(_STEPS):
        optimizer.zero_grad()
        model(_tied_inputs(step, dist.get_rank()).to(device()), extra=dist.get_rank() == 0).backward()
        own = own or _copies(_zeros_for_none([p.grad for p in parameters], parameters))
        with _watched() as traffic:
            for bucket in buckets:
                learner(list(bucket))
        all_reduces += len(traffic.collectives)
        averaged = averaged or [None if p.grad is None else _copy(p.grad) for p in parameters]
        optimizer.step()
        weights.append(_copies(parameters))
    names = [name for name, _ in model.named_parameters()]
    return BucketRun(names, weights, own, averaged, len(buckets), all_reduces)


@_one_thread()
def _tied_reference(start: Tensors, world_size: int) -> list[Tensors]:
    """Train as one process that sees all ranks' inputs."""
    model = _started(_Tied(), start)
    optimizer = torch.optim.SGD(model.parameters(), lr=_RATE)
    weights = [_copies(model.parameters())]
    for step in range(_STEPS):
        optimizer.zero_grad()
        losses = [model(_tied_inputs(step, rank), extra=rank == 0) for rank in range(world_size)]
        (sum(losses) / world_size).backward()
        optimizer.step()
        weights.append(_copies(model.parameters()))
    return weights


def _judge_bucket_step(runs: Sequence[BucketRun], step: int, n: int) -> None:
    expected = _tied_reference(runs[0].weights[0], n)[step + 1]
    if all(_same(one.weights[step + 1], expected) for one in runs):
        return
    if step > 0:
        raise Wrong("later_steps", f"The first step is right on {n} ranks, step {step + 1} is not. What is left over?")
    mean = [sum(rows) / n for rows in zip(*(one.own for one in runs), strict=True)]
    averaged = [_zeros_for_none(one.averaged, mean) for one in runs]
    names = runs[0].names
    if any(g.shape != m.shape for ours in averaged for g, m in zip(ours, mean, strict=True)):
        raise Wrong("flat_gradient", "A gradient came back as a flat row. It needs the shape of its parameter again.")
    if all(_same(ours, mean) for ours in averaged):
        raise Wrong("weights_changed", "Your function changed the weights. Only the gradients are to be averaged.")
    if all(_same(ours, one.own) for ours, one in zip(averaged, runs, strict=True)):
        raise Wrong(
            "nothing_changed",
            "Each rank still has its own gradients. torch.cat copies: the averages are in the row, and somebody has to "
            "put them back into p.grad.",
        )
    if all(_same(ours, [n * row for row in mean]) for ours in averaged):
        raise Wrong("sum_not_mean", f"With {n} ranks your gradients are {n} times too large: they are the sum.")
    if all(_same(ours, [row / n for row in mean]) for ours in averaged):
        raise Wrong("divided_twice", f"With {n} ranks your gradients are {n} times too small: you divide twice.")
    if all(_same(ours, [row / n for row in one.own]) for ours, one in zip(averaged, runs, strict=True)):
        raise Wrong("only_divided", f"Each rank has its own gradients, only {n} times smaller: nothing was added up.")
    if n > 2 and all(_same(ours, [row * n / 2 for row in mean]) for ours in averaged):
        raise Wrong("two_ranks_only", "Right on 2 ranks, wrong on 3. Which number should be the number of ranks?")
    wrong = [
        name
        for name, *columns in zip(names, mean, *averaged, strict=True)
        if any(not _same([column], [columns[0]]) for column in columns[1:])
    ]
    if all(name.startswith("only_rank_0") for name in wrong):
        raise Wrong(
            "missing_gradient",
            f"Wrong for {' and '.join(wrong)} alone: only rank 0 has a gradient there, on the other ranks p.grad is "
            "None. What does None count as, and do all ranks hold the mean in the end?",
        )
    if len(wrong) < len(names):
        raise Wrong(
            "some_parameters",
            f"With {n} ranks, right for some parameters, wrong for {', '.join(wrong)}. "
            "Is the row cut where it was joined?",
        )
    raise Wrong("wrong_value", f"With {n} ranks the gradients are neither their own nor the mean over the ranks.")


# Accumulation


@dataclass
class Accumulated:
    """One rank's two steps: the weights, how often DDP averaged, and the samples of each forward pass."""

    weights: list[Tensors]
    syncs: int = 0
    optimizer_steps: int = 0
    forwards: list[int] = field(default_factory=list)
    used_no_sync: bool = False


_ACCUMULATED_STEPS = 2


def _accumulate(learner: Callable, counts: Sequence[int]) -> list[Accumulated]:
    runs = []
    for count in counts:
        torch.manual_seed(0)
        model = _classifier().to(device())
        ddp = nn.parallel.DistributedDataParallel(model)
        seen = Accumulated([_copies(model.parameters())])
        ddp.register_comm_hook(seen, _count_and_average)
        model.register_forward_pre_hook(lambda _, inputs, seen=seen: seen.forwards.append(len(inputs[0])))
        ddp.no_sync = _noted(ddp.no_sync, seen)
        optimizer = torch.optim.SGD(model.parameters(), lr=_RATE)
        optimizer.register_step_post_hook(lambda *_, seen=seen: _note_step(seen))
        for step in range(_ACCUMULATED_STEPS):
            batches = _micro_batches(count, step, dist.get_rank())
            learner(ddp, optimizer, [(images.to(device()), labels.to(device())) for images, labels in batches])
            seen.weights.append(_copies(model.parameters()))
        runs.append(seen)
    return runs


def _classifier() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3)).double()


def _micro_batches(count: int, step: int, rank: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(100 * step + rank)
    images = torch.randn(count, 6, 4, generator=generator, dtype=torch.float64)
    labels = torch.randint(3, (count, 6), generator=generator)
    return list(zip(images, labels, strict=True))


def _count_and_average(seen: Accumulated, bucket: dist.GradBucket) -> torch.futures.Future[torch.Tensor]:
    seen.syncs += bucket.is_last()
    row = bucket.buffer() / dist.get_world_size()
    return dist.all_reduce(row, async_op=True).get_future().then(lambda future: future.value()[0])


def _note_step(seen: Accumulated) -> None:
    seen.optimizer_steps += 1


def _noted(no_sync: Callable, seen: Accumulated) -> Callable:
    def noted() -> Any:
        seen.used_no_sync = True
        return no_sync()

    return noted


def _judge_accumulation(runs: Sequence[Accumulated], count: int) -> None:
    n, one = len(runs), runs[0]
    case = f"{count} micro-batch{'es' * (count > 1)} on {n} ranks"
    if count > 1 and max(one.forwards, default=0) > 6:
        raise Wrong(
            "one_big_batch",
            f"With {case}, one forward pass saw {max(one.forwards)} samples. The gradient is right, but the memory is "
            "that of the big batch: accumulation is there to avoid it.",
        )
    if len(one.forwards) != count * _ACCUMULATED_STEPS:
        raise Wrong(
            "batches_left_out",
            f"With {case}, {_ACCUMULATED_STEPS} steps made {len(one.forwards)} forward passes: one a micro-batch would "
            f"be {count * _ACCUMULATED_STEPS}.",
        )
    if one.optimizer_steps != _ACCUMULATED_STEPS:
        raise Wrong(
            "steps_each",
            f"With {case}, the optimizer stepped {one.optimizer_steps} times in {_ACCUMULATED_STEPS} calls. "
            "All micro-batches of a call belong to one step, which the last line takes.",
        )
    agree = all(_same(other.weights[1], one.weights[1]) for other in runs)
    if one.syncs == 0:
        raise Wrong(
            "never_averaged",
            f"With {case}, no all-reduce took place, and the ranks' weights part. Which backward pass should send?",
        )
    if not agree:
        raise Wrong(
            "averaged_too_early",
            f"With {case}, the ranks hold different weights after one step: what was added after the all-reduce never "
            "reached the other ranks. Which of the backward passes must be the one that averages?",
        )
    right = _accumulated_by_one(one.weights[0], n, range(count), count, 1 / count)
    if not _same(one.weights[1], right[1]):
        _refuse_accumulation(one, count, n, case)
    if not _same(one.weights[2], right[2]):
        raise Wrong("second_step", f"With {case}, the first step is right, the second is not. What is left over?")
    if one.syncs > _ACCUMULATED_STEPS:
        each = one.syncs / _ACCUMULATED_STEPS
        hint = (
            "You use no_sync(), yet DDP sends: it decides during the forward pass. Is that inside too?"
            if one.used_no_sync
            else "The weights are right, but all messages but the last were sent for nothing."
        )
        raise Wrong("too_many_messages", f"With {case}, each step took {each:g} all-reduces instead of 1. {hint}")


def _refuse_accumulation(one: Accumulated, count: int, n: int, case: str) -> None:
    """Raise what is wrong with a first step on which all ranks agree."""
    every, last = range(count), range(count - 1, count)
    not_divided = (
        f"Your step is {count} times too long: the gradients of {count} micro-batches were added. What makes a mean of "
        "a sum, and where can you divide each part?"
    )
    only_last = "Only the last micro-batch moved the weights. Who throws the earlier gradients away?"
    known = (
        ("not_divided", every, 1.0, not_divided),
        ("divided_twice", every, 1 / count**2, f"Your step is {count} times too short: you divide twice."),
        (
            "divided_by_ranks",
            every,
            1 / count / n,
            f"Your step is {n} times too short: DDP divides by N already.",
        ),
        ("only_last", last, 1 / count, only_last),
        ("only_last", last, 1.0, only_last),
    )
    for symptom, chosen, weight, hint in known:
        if _same(one.weights[1], _accumulated_by_one(one.weights[0], n, chosen, count, weight)[1]):
            raise Wrong(symptom, f"With {case}: {hint}")
    raise Wrong("wrong_step", f"With {case}, all ranks agree, but on other weights than one process has.")


@_one_thread()
def _accumulated_by_one(start: Tensors, n: int, chosen: Sequence[int], count: int, weight: float) -> list[Tensors]:
    """Return the weights of one process, step by step, that adds up the chosen micro-batches of all ranks."""
    model = _started(_classifier(), start)
    optimizer = torch.optim.SGD(model.parameters(), lr=_RATE)
    history = [_copies(model.parameters())]
    for step in range(_ACCUMULATED_STEPS):
        optimizer.zero_grad()
        for rank in range(n):
            batches = _micro_batches(count, step, rank)
            for images, labels in (batches[index] for index in chosen):
                (F.cross_entropy(model(images), labels) * weight / n).backward()
        optimizer.step()
        history.append(_copies(model.parameters()))
    return history


# The lab: a collective that only some ranks call


@dataclass
class Logged:
    """One rank's training: start, end, and what the learner's function returned."""

    start: Tensors
    end: Tensors
    log: Any


_LOG_STEPS = 4
LOG_RATE = 0.1  # the learning rate in the frame of the exercise


def _train_and_log(learner: Callable) -> Logged:
    torch.manual_seed(0)
    model = _classifier().to(device())
    start = _copies(model.parameters())
    batches = _micro_batches(_LOG_STEPS, 0, dist.get_rank())
    log = learner(model, [(images.to(device()), labels.to(device())) for images, labels in batches])
    return Logged(start, _copies(model.parameters()), log)


def _judge_log(runs: Sequence[Logged]) -> None:
    n = len(runs)
    ends, losses = _log_reference(runs[0].start, n)
    if not all(_same(one.end, ends) for one in runs):
        raise Wrong(
            "training_changed",
            f"No rank waits any more, but on {n} ranks the weights are no longer those of one process: "
            "the repair touched the training itself.",
        )
    logs = [_numbers(one.log) for one in runs]
    means = [sum(row) / n for row in losses]
    if logs[0] is None or len(logs[0]) != len(means):
        raise Wrong(
            "missing_entries",
            f"{_LOG_STEPS} steps, and every second one is logged: rank 0's log should be a list of {len(means)} "
            f"numbers, but your function returned {runs[0].log!r}.",
        )
    if not _close(logs[0], means):
        _refuse_log(logs[0], losses, n)
    if any(log and not _close(log, means) for log in logs[1:]):
        raise Wrong(
            "other_ranks_log",
            f"Rank 0's log is right, but another rank logged {next(filter(None, logs[1:]))}. After dist.reduce "
            "only its destination holds the sum.",
        )


def _refuse_log(log: list[float], losses: list[list[float]], n: int) -> None:
    if _close(log, [row[0] for row in losses]):
        raise Wrong(
            "own_loss",
            f"Nothing hangs, but rank 0 logs {log[0]:.4f}, its own loss, where the mean over {n} ranks is "
            f"{sum(losses[0]) / n:.4f}. The collective was not wrong; who called it was.",
        )
    if _close(log, [sum(row) for row in losses]):
        raise Wrong("sum_not_mean", f"Rank 0 logs {n} times the mean loss: it is the sum over the ranks.")
    if _close(log, [row[0] / n for row in losses]):
        raise Wrong("only_divided", f"Rank 0 logs its own loss divided by {n}: nothing came from the other ranks.")
    raise Wrong(
        "wrong_log",
        f"With {n} ranks rank 0 logs {[round(value, 4) for value in log]}; the mean losses of every second step are "
        f"{[round(sum(row) / n, 4) for row in losses]}.",
    )


@_one_thread()
def _log_reference(start: Tensors, n: int) -> tuple[Tensors, list[list[float]]]:
    """Return the weights at the end and, for every second step, the loss of each rank."""
    model = _started(_classifier(), start)
    optimizer = torch.optim.SGD(model.parameters(), lr=LOG_RATE)
    batches = [_micro_batches(_LOG_STEPS, 0, rank) for rank in range(n)]
    logged = []
    for step in range(_LOG_STEPS):
        optimizer.zero_grad()
        losses = [F.cross_entropy(model(images), labels) for images, labels in (own[step] for own in batches)]
        (sum(losses) / n).backward()
        optimizer.step()
        if step % 2 == 1:
            logged.append([loss.item() for loss in losses])
    return _copies(model.parameters()), logged


def _numbers(log: Any) -> list[float] | None:
    try:
        return [float(value) for value in log]
    except (TypeError, ValueError):
        return None


def _close(ours: Sequence[float], other: Sequence[float]) -> bool:
    return all(abs(a - b) <= 1e-6 * max(1, abs(b)) for a, b in zip(ours, other, strict=True))
