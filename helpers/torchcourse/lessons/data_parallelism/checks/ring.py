"""Check of lesson 01 on an all-reduce in a ring, made of single messages: its sums, its bytes, its neighbors."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist

from torchcourse.checks import Wrong, check
from torchcourse.checks.errors import sentence
from torchcourse.checks.kit import on_ranks, refuse_known, same
from torchcourse.lessons.data_parallelism.checks.reference import FLOAT32
from torchcourse.lessons.data_parallelism.checks.traffic import Traffic, watched
from torchcourse.ranks.run import RankError
from torchcourse.ranks.who import device

TIME_LIMIT = 10.0  # seconds for one call; healthy ranks need a fraction of one


@check
def ring_all_reduce(learner: Callable) -> str:
    """Compare with `dist.all_reduce` on 2 to 4 ranks, for lengths that N divides and others, and count the bytes."""
    for world_size in (3, 2, 4):
        try:
            _judge_ring(learner, (12, 24, 10, 5, 1), world_size)
        except (Wrong, RankError) as error:
            _judge_ring(learner, (12, 24), world_size)
            what = error.hint if isinstance(error, Wrong) else sentence(error)
            raise Wrong(
                "not_divisible",
                f"{what}\nOn {world_size} ranks the lengths 12 and 24 are right; this came of 10, 5 or 1.",
            ) from None
    return (
        "The sums of dist.all_reduce, on 2, 3 and 4 ranks, for lengths from 1 to 24; and no rank sent more than "
        "2(N−1)/N of the tensor: 1, 1.33 and 1.5 times its bytes."
    )


HANG = (
    "After {seconds:g} s the {ranks} ranks still waited for one another. Either all send while nobody receives, or a "
    "message is expected that nobody sends, or a loop of messages never ends."
)
LEFT_ALONE = (
    "Rank {rank} waited for a rank that had already finished. A message needs a sender and a receiver: does each rank "
    "make the same calls, equally often?"
)
SIZES_DIFFER = (
    "A message was longer than what the receiver had made ready, and the process of a rank died of it. Compare what "
    "one rank sends with the `incoming` of its right neighbor: is it as many numbers, and of the same dtype?"
)
TUPLE = (
    "`chunks` is a tuple: Python lets nobody put another tensor in the place of an entry, as `chunks[i] = …` and "
    "`chunks[i] += …` do. What an entry holds can be changed all the same, by a method that works in place."
)
NONE = (
    "Your code used None where it wanted a tensor. pass_right() returns nothing: it fills the tensor that it is given "
    "as `incoming`, which must be there, and as long as what arrives, before the call."
)


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


def _judge_ring(learner: Callable, lengths: Sequence[int], world_size: int) -> None:
    by_rank = on_ranks(
        _ring,
        learner,
        lengths,
        world_size=world_size,
        seconds=TIME_LIMIT,
        hang=HANG,
        left_alone=LEFT_ALONE,
        known={
            "ProcessDied": ("sizes_differ", SIZES_DIFFER),
            "'tuple' object does not support item assignment": ("tuple", TUPLE),
            "NoneType": ("nothing_returned", NONE),
        },
    )
    for length, runs in zip(lengths, zip(*by_rank, strict=True), strict=True):
        if used := sorted({name for one in runs for name in one.traffic.collectives}):
            raise Wrong(
                "library_collective",
                f"Your function calls a ready collective ({', '.join(used)}). Here it is to be built from single "
                "messages: pass_right() is all you need.",
            )
        if not same([one.after for one in runs], [one.expected for one in runs]):
            _judge_sums(runs, length)
        _judge_messages(runs, length)


def _ring(learner: Callable, lengths: Sequence[int]) -> list[RingRun]:
    runs = []
    generator = torch.Generator().manual_seed(dist.get_rank())
    for length in lengths:
        tensor = torch.randn(length, generator=generator, dtype=torch.float64).to(device())
        before, expected = tensor.clone(), tensor.clone()
        dist.all_reduce(expected)
        with watched() as traffic:
            learner(tensor)
        # Rank k sends the number 100^k: the digits of a sum then tell how often each rank is in it.
        marks = torch.full((length,), 100.0 ** dist.get_rank(), dtype=torch.float64, device=device())
        learner(marks)
        times = torch.stack([marks // 100.0**rank % 100 for rank in range(dist.get_world_size())])
        runs.append(RingRun(before.cpu(), tensor.cpu(), expected.cpu(), times.cpu(), traffic))
    return runs


def _judge_sums(runs: Sequence[RingRun], length: int) -> None:
    """Raise what is wrong with the sums."""
    n = len(runs)
    known = {
        "nothing_changed": (
            [one.before for one in runs],
            "After your function the tensor is what it was. The sum must arrive in the tensor itself: write into its "
            "chunks, which are views of it. A return value or a new tensor does not reach it.",
        ),
        "mean_not_sum": (
            [one.expected / n for one in runs],
            f"Your result is {n} times too small: it is the mean. All-reduce gives the sum.",
        ),
    }
    refuse_known([one.after for one in runs], known)
    if same([one.after for one in runs], [one.expected for one in runs], FLOAT32):
        raise Wrong(
            "dtype",
            "The sums are right to a few digits only: the numbers passed through a shorter dtype than that of the "
            "tensor. What dtype do the tensors have that you send and receive?",
        )
    for rank, one in enumerate(runs):
        if (many := int(one.times.max())) > 1:
            source, element = divmod(int(one.times.flatten().argmax()), length)
            question = (
                "In the first half a chunk that arrives is added; what should happen to it in the second half?"
                if one.traffic.messages > n - 1
                else "Does each rank send a different chunk in each step, the one that it has just added to?"
            )
            raise Wrong(
                "added_twice",
                f"With {n} ranks, element {element} of {length} on rank {rank} holds the number of rank {source} "
                f"{many} times. {question}",
            )
    complete = torch.stack([one.times.eq(1).all(dim=0) for one in runs])  # [ranks, length]
    all_sent = all(one.traffic.messages >= 2 * (n - 1) for one in runs)
    if complete.any(dim=1).all() and complete.sum(dim=0).eq(1).all():
        if all_sent:
            raise Wrong("not_in_the_tensor", f"Each rank's tensor holds the sum of one chunk. {_ELSEWHERE}")
        raise Wrong(
            "only_reduce_scatter",
            "Each rank has the sum of one chunk, and a different one: reduce-scatter is right. "
            "The finished chunks still have to reach the other ranks.",
        )
    if complete.all():
        raise Wrong("wrong_place", "All numbers were added, but some sums are where a different chunk belongs.")
    rank, element = (int(place) for place in complete.logical_not().nonzero()[0])
    inside = [source for source in range(n) if runs[rank].times[source, element]]
    held = f"the numbers of rank {' and '.join(map(str, inside))} only" if inside else "the number of no rank"
    raise Wrong(
        "incomplete",
        f"With {n} ranks, element {element} of {length} on rank {rank} holds {held}. Follow that chunk with the slider "
        "of the ring: who holds it in each step"
        + (", and is each sum written into the chunk itself?" if all_sent else ", and how many steps are there?"),
    )


_ELSEWHERE = (
    "The messages of both halves were sent, so the other sums have arrived, but not in the tensor: a name or a list "
    "entry that gets a new tensor leaves the old one as it was. What writes into a chunk?"
)


def _judge_messages(runs: Sequence[RingRun], length: int) -> None:
    n, element = len(runs), runs[0].before.element_size()
    most = 2 * (n - 1) * -(-length // n) * element
    for rank, one in enumerate(runs):
        if one.traffic.bytes > most and one.traffic.largest <= -(-length // n) * element:
            raise Wrong(
                "too_many_steps",
                f"The sums are right, and chunks travel, but rank {rank} of {n} sent {one.traffic.messages} of them. "
                f"Each half of the ring has {n - 1} steps. Which of your steps brings nothing new?",
            )
        if one.traffic.bytes > most:
            raise Wrong(
                "too_many_bytes",
                f"The sums are right, but rank {rank} of {n} sent {one.traffic.bytes} bytes of a tensor of "
                f"{length * element}: {one.traffic.bytes / (length * element):.2f} times its size, where a ring needs "
                f"{most / (length * element):.2f}. The largest message, {one.traffic.largest} bytes, is more than a "
                "chunk.",
            )
        if not one.traffic.targets <= {(rank - 1) % n, (rank + 1) % n}:
            raise Wrong(
                "not_a_ring",
                f"The sums and the bytes are right, but rank {rank} sent to the ranks {sorted(one.traffic.targets)}. "
                "In a ring every rank talks to its neighbors only.",
            )
