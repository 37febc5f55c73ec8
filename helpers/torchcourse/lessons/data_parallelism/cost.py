"""What communication costs, and how far more ranks can speed up training: formulas beside measurements.

* `ring_seconds` and `AlphaBeta`: the time of an all-reduce as a fixed cost a message (α) and a cost a byte (β).
  `measure_alpha_beta` measures both on the ranks that it runs on.
* `amdahl_speedup` and `serial_fraction`: the limit that the part which does not get faster sets.
* `measure_scaling` trains with 1, 2, 4 … ranks, all on the same kind of device (`alike`); `predict_step` says
  beforehand how long a step should take.

Units: seconds, bytes, and bytes per second, unless a name says otherwise.
"""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from torchcourse.ranks.run import run_ranks
from torchcourse.ranks.who import ON_CPU, device, gpus_for, rank_and_world_size


def ring_bytes(size: float, world_size: int) -> float:
    """Return the bytes that each rank sends in a ring all-reduce of a tensor of `size` bytes: 2(N−1)/N · size.

    Source: Patarasuk and Yuan 2009, https://doi.org/10.1016/j.jpdc.2008.09.002
    """
    return 2 * (world_size - 1) / world_size * size


def ring_seconds(size: float, world_size: int, alpha: float, beta: float) -> float:
    """Return the seconds of a ring all-reduce: 2(N−1) messages one after the other, and 2(N−1)/N · size bytes.

    Args:
        size: of the tensor, in bytes.
        world_size: the number of ranks N. With one rank nothing is sent, and the answer is 0.
        alpha: seconds per message, whatever its size.
        beta: seconds per byte, that is 1 / bandwidth.

    Source: Thakur, Rabenseifner and Gropp, "Optimization of Collective Communication Operations in MPICH",
    International Journal of High Performance Computing Applications 19(1), 2005,
    https://doi.org/10.1177/1094342005051521 (their formula also counts the additions, here part of β).
    """
    return 2 * (world_size - 1) * alpha + ring_bytes(size, world_size) * beta


@dataclass(frozen=True)
class AlphaBeta:
    """The two constants of a ring all-reduce, and the measurements that they were fitted to.

    Attributes:
        alpha: seconds per message.
        beta: seconds per byte.
        world_size: the number of ranks that measured.
        sizes: of the measured tensors, in bytes.
        seconds: of one all-reduce of each size.
    """

    alpha: float
    beta: float
    world_size: int
    sizes: tuple[int, ...] = ()
    seconds: tuple[float, ...] = ()

    def all_reduce(self, size: float, world_size: int | None = None) -> float:
        """Return the predicted seconds of an all-reduce of `size` bytes, by default on as many ranks as measured."""
        return ring_seconds(size, world_size or self.world_size, self.alpha, self.beta)

    @property
    def bandwidth(self) -> float:
        """Bytes per second that a rank sends when the tensor is large."""
        return 1 / self.beta if self.beta else float("inf")


def measure_alpha_beta(
    sizes: Sequence[int] = (1 << 10, 1 << 13, 1 << 16, 1 << 18, 1 << 20, 1 << 22, 1 << 23), repeats: int = 9
) -> AlphaBeta:
    """Time all-reduces of several sizes on the running ranks and fit α and β. Call it on all ranks at once.

    Args:
        sizes: of the tensors, in bytes.
        repeats: how often each is timed. The shortest counts, since disturbances only add; of the ranks, the slowest.

    Raises:
        RuntimeError: outside a rank.
        ValueError: with fewer than two ranks, or fewer than two sizes.
    """
    _, world_size = rank_and_world_size()
    if world_size < 2:
        raise ValueError("With one rank nothing is sent: measure with run_ranks(measure_alpha_beta, world_size=2).")
    seconds = [_slowest(_seconds_of_all_reduce(size, repeats)) for size in sizes]
    alpha, beta = fit_alpha_beta(sizes, seconds, world_size)
    return AlphaBeta(alpha, beta, world_size, tuple(sizes), tuple(seconds))


def fit_alpha_beta(sizes: Sequence[int], seconds: Sequence[float], world_size: int) -> tuple[float, float]:
    """Return the α and β, neither below 0, whose `ring_seconds` have the least squares of *relative* errors.

    Relative, because otherwise the largest tensors alone would decide, and α would be noise.

    Raises:
        ValueError: for fewer than two sizes.
    """
    if len(set(sizes)) < 2:
        raise ValueError("Two unknowns need all-reduces of at least two sizes.")
    # Each measurement, divided by its time, says: α · messages + β · sent = 1. The sums solve that for all of them.
    messages = [2 * (world_size - 1) / time_taken for time_taken in seconds]
    sent = [ring_bytes(size, world_size) / time_taken for size, time_taken in zip(sizes, seconds, strict=True)]
    mm, ss = sum(m * m for m in messages), sum(s * s for s in sent)
    ms = sum(m * s for m, s in zip(messages, sent, strict=True))
    determinant = mm * ss - ms * ms
    alpha = (sum(messages) * ss - sum(sent) * ms) / determinant
    beta = (sum(sent) * mm - sum(messages) * ms) / determinant
    if alpha < 0:
        return 0.0, sum(sent) / ss
    if beta < 0:
        return sum(messages) / mm, 0.0
    return alpha, beta


def amdahl_speedup(world_size: int, serial_fraction: float) -> float:
    """Return how many times faster N ranks are when `serial_fraction` (0 to 1) of the work does not get faster.

    Source: Amdahl, "Validity of the single processor approach to achieving large scale computing capabilities",
    AFIPS 1967, https://doi.org/10.1145/1465482.1465560
    """
    return 1 / (serial_fraction + (1 - serial_fraction) / world_size)


def serial_fraction(speedup: float, world_size: int) -> float:
    """Return the serial fraction that Amdahl's law needs to explain a measured speed-up on two or more ranks.

    If it grows with the number of ranks, communication or shared processors are to blame, not serial code.

    Raises:
        ValueError: for fewer than two ranks, which say nothing about it.

    Source: Karp and Flatt, "Measuring Parallel Processor Performance", Communications of the ACM 33(5), 1990,
    https://doi.org/10.1145/78607.78614
    """
    if world_size < 2:
        raise ValueError("The serial fraction shows only with two or more ranks.")
    return (1 / speedup - 1 / world_size) / (1 - 1 / world_size)


@dataclass(frozen=True)
class Scaling:
    """How fast training runs with `world_size` ranks: the seconds of a step, and the samples of the whole batch."""

    world_size: int
    step_seconds: float
    batch: int


def alike(ranks: int) -> dict[str, str]:
    """Return the `env=` with which one rank and up to `ranks` of them compute on the same kind of device.

    A GPU each where there are so many, else the CPU. Without it, one rank would have the only GPU of a machine for
    itself and two ranks the CPU, and their times would compare these devices.
    """
    return {} if gpus_for(ranks) else ON_CPU


def measure_scaling(
    make_model: Callable[[], nn.Module],
    inputs: torch.Tensor,
    targets: torch.Tensor,
    world_sizes: Sequence[int] = (1, 2, 4),
    steps: int = 10,
    samples_per_rank: int | None = None,
) -> list[Scaling]:
    """Train with torch's DistributedDataParallel on 1, 2, 4 … ranks, all `alike`; call it outside the ranks.

    By default the batch stays the same (strong scaling), so the best possible is N times faster. With
    `samples_per_rank` it grows with the ranks (weak scaling), so the best possible is a step that takes as long.

    Args:
        make_model: returns a new classifier.
        inputs, targets: the whole batch, shapes [batch, …] and [batch]; each rank takes its part.
        world_sizes: the numbers of ranks to try.
        steps: how many steps are timed, after two to warm up. The median counts, on the slowest rank.
        samples_per_rank: N ranks train on the first N times as many of the batch.

    Raises:
        ValueError: if the batch has too few samples for the ranks.
    """
    most = max(world_sizes)
    if most * (samples_per_rank or 1) > len(inputs):
        raise ValueError(f"A batch of {len(inputs)} cannot be shared by {most} ranks.")

    def batch_of(ranks: int) -> int:
        return ranks * samples_per_rank if samples_per_rank else len(inputs)

    def seconds_of_a_step() -> float:
        rank, world_size = rank_and_world_size()
        samples = batch_of(world_size)
        x, y = (tensor[:samples].tensor_split(world_size)[rank].to(device()) for tensor in (inputs, targets))
        model = DistributedDataParallel(make_model().to(device()))
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)

        def step() -> None:
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()

        return _slowest(statistics.median(_seconds(step, steps, warm_up=2)))

    return [
        Scaling(ranks, run_ranks(seconds_of_a_step, world_size=ranks, env=alike(most))[0], batch_of(ranks))
        for ranks in world_sizes
    ]


def predict_step(
    one_rank: Scaling, world_size: int, network: AlphaBeta, gradient_bytes: float, processors: int | None = None
) -> float:
    """Return the predicted seconds of a step: the work shared out, plus one all-reduce of all gradients.

    Communication that hides behind `backward()` would make it shorter: this is the cautious end.

    Args:
        one_rank: measured with one rank, which communicates nothing.
        world_size: the number of ranks to predict for.
        network: the measured constants.
        gradient_bytes: of all gradients together.
        processors: how many ranks can really compute at once (GPUs, or CPU cores); by default all of them.
    """
    at_once = min(world_size, processors or world_size)
    return one_rank.step_seconds / at_once + network.all_reduce(gradient_bytes, world_size)


def _seconds_of_all_reduce(size: int, repeats: int) -> float:
    tensor = torch.zeros(max(1, size // 4), device=device())
    return min(_seconds(lambda: dist.all_reduce(tensor), repeats, warm_up=3))


def _seconds(call: Callable[[], None], repeats: int, warm_up: int) -> list[float]:
    """Time single calls, each started by all ranks together and waited for on a GPU too."""
    seconds = []
    for _ in range(warm_up + repeats):
        dist.barrier()
        start = time.perf_counter()
        call()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    return seconds[warm_up:]


def _slowest(seconds: float) -> float:
    slowest = torch.tensor(seconds, dtype=torch.float64, device=device())
    dist.all_reduce(slowest, op=dist.ReduceOp.MAX)
    return slowest.item()
