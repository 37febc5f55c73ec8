"""Checks of lesson 01 on dealing the samples of an epoch to the ranks: by any fair rule, and by PyTorch's."""

import operator
import random
from collections import Counter
from collections.abc import Callable
from itertools import chain, combinations, pairwise
from typing import Any

import numpy as np
import torch
from torch.utils.data import DistributedSampler, TensorDataset

from torchcourse.checks import Wrong, check
from torchcourse.checks.kit import other_text_hashes

Shares = list[list[int]]
"""The sample numbers of each rank."""

Deal = Callable[[int, int, int, int], list[int]]
"""From the number of samples, epoch, rank and number of ranks to the samples of the rank."""


@check
def samples_of_rank(learner: Deal) -> str:
    """Deal out several datasets, with a different state of the global random generator on every rank."""
    if _dealt(learner, 40, 1, 0, 2) != _dealt(learner, 40, 1, 0, 2):
        raise Wrong(
            "not_repeatable",
            "Called twice as the same rank, with the same four numbers, your function deals out different samples. "
            "What does it keep from one call to the next? A new generator in each call starts from its seed.",
        )
    for total, world_size in ((40, 2), (40, 3), (100, 8)):
        epochs = [[_dealt(learner, total, epoch, rank, world_size) for rank in range(world_size)] for epoch in range(4)]
        first = epochs[0]
        if world_size == 2:
            _judge_deal(first, epochs[1], total)
            _judge_later(epochs)
        elif not _fair(first, total):
            raise Wrong(
                "two_ranks_only",
                f"Right for 40 samples and 2 ranks. For {total} samples and {world_size} ranks the parts are "
                f"{[len(part) for part in first]} samples long and hold {len(set().union(*first))} different samples. "
                "All parts must be equally long, with no sample twice; what does not fit is left out.",
            )
        _judge_left_out(epochs, total)
    _refuse_moved_generators(learner)
    with other_text_hashes():
        there = _as_list(learner(40, 1, 0, 2))
    if there != _as_list(learner(40, 1, 0, 2)):
        raise Wrong(
            "other_process",
            "In a different process the same four numbers give other samples, and each rank is a process of its own. "
            "What goes into your seed? hash() of a text is different in each process.",
        )
    return (
        "Each sample goes to one rank at most, all ranks get equally many, every epoch is mixed again, and no global "
        "random generator is seeded."
    )


@check
def share_of_epoch(learner: Deal) -> str:
    """Compare index for index with `torch.utils.data.DistributedSampler`."""
    for length, epoch, world_size in ((12, 0, 3), (12, 3, 3), (10, 1, 4), (101, 2, 2), (3, 1, 8), (2, 1, 9)):
        right = [torchs_share(length, epoch, rank, world_size) for rank in range(world_size)]
        given = [_as_list(learner(length, epoch, rank, world_size)) for rank in range(world_size)]
        if given != right:
            where = f"{length} samples, {world_size} ranks, epoch {epoch}: "
            _judge_sizes(given, len(right[0]), where, length)
            if sorted(chain(*given)) == sorted(chain(*right)):
                _judge_order(given, length, epoch, where)
            _judge_choice(given, length, where)
    return "Index for index PyTorch's DistributedSampler: on 2, 3, 4, 8 and 9 ranks, with padding, in several epochs."


def _as_list(share: Any) -> list[int]:
    try:
        return [operator.index(index) for index in share]
    except TypeError:
        raise Wrong("wrong_type", f"Return a list of sample numbers, whole ones. You returned {share!r}.") from None


# Any fair rule


_DRAWS: dict[str, Callable[[], float]] = {
    "PyTorch": lambda: float(torch.rand(())),
    "Python": random.random,
    "NumPy": np.random.random_sample,
}
"""A number from each global random generator."""


def _dealt(learner: Deal, total: int, epoch: int, rank: int, world_size: int) -> list[int]:
    """Call the learner as rank `rank` would: every process has global random generators in a state of its own."""
    states = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1000 + rank)
        random.seed(1000 + rank)
        np.random.seed(1000 + rank)
        try:
            share = _as_list(learner(total, epoch, rank, world_size))
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])
    if any(not 0 <= number < total for number in share):
        raise Wrong("out_of_range", f"With {total} samples the numbers run from 0 to {total - 1}; yours do not.")
    return share


def _refuse_moved_generators(learner: Deal) -> None:
    """Refuse a function that deals correctly and sets a global random generator on the way."""
    drawn: list[list[float]] = []

    def drawing(*given: int) -> list[int]:
        share = learner(*given)
        drawn.append([draw() for draw in _DRAWS.values()])
        return share

    for rank in (0, 1):
        _dealt(drawing, 40, 0, rank, 2)
    for name, one, other in zip(_DRAWS, *drawn, strict=True):
        if one == other:
            raise Wrong(
                "global_seed",
                f"The samples are dealt correctly, but afterwards the global random generator of {name} is in the same "
                "state on all ranks: your function seeds it. Whatever a rank draws from it next is equal on all ranks, "
                "as in the lab. Draw from a generator of your own.",
            )


def _fair(parts: Shares, total: int) -> bool:
    """Whether all parts are equally long, hold no sample twice, and leave out no more than does not fit."""
    flat = list(chain(*parts))
    return len(set(flat)) == len(flat) == total - total % len(parts) and len({len(part) for part in parts}) == 1


def _judge_deal(first: Shares, second: Shares, total: int) -> None:
    """Refuse an unfair deal among two ranks: `first` in epoch 0, `second` in epoch 1."""
    for epoch, (one, two) in enumerate((first, second)):
        where = f"In epoch {epoch}, "
        if one == two:
            raise Wrong(
                "same_data",
                f"{where}both ranks get the same {len(one)} samples: that is the fault of the lab itself.",
            )
        if shared := set(one) & set(two):
            raise Wrong(
                "overlap",
                f"{where}the ranks get different lists, but share {len(shared)} of {total} samples. Does each rank mix "
                "in its own way? They must cut up one and the same order.",
            )
        if len(one) != len(two):
            raise Wrong(
                "uneven",
                f"{where}rank 0 gets {len(one)} samples and rank 1 gets {len(two)}: one would wait for the other.",
            )
        if not _fair([one, two], total):
            raise Wrong(
                "samples_lost",
                f"{where}of {total} samples only {len({*one, *two})} are used, and {len(one) + len(two)} places are "
                "dealt out.",
            )
    if any(part == sorted(part) and len({b - a for a, b in pairwise(part)}) > 1 for part in first):
        raise Wrong(
            "sorted",
            "The samples of a rank come in rising order. Whatever was mixed before: a rank needs them in mixed order.",
        )
    if any(_in_order(part) for part in (*first, *second)):
        epoch = 0 if any(_in_order(part) for part in first) else 1
        raise Wrong(
            "not_mixed",
            f"In epoch {epoch} the samples come in the order of the dataset. Mix them before you deal them out.",
        )
    if first == second:
        raise Wrong(
            "same_every_epoch",
            "Epoch 1 brings the same samples to the same ranks in the same order as epoch 0. Which of the arguments "
            "should the order depend on?",
        )
    if {frozenset(part) for part in first} == {frozenset(part) for part in second}:
        raise Wrong(
            "same_parts",
            f"The parts of epoch 1 hold the same {len(one)} samples each as those of epoch 0: only their order, or the "
            "rank that gets them, has changed. Mix all samples before you cut.",
        )


def _judge_later(epochs: list[Shares]) -> None:
    """Refuse an epoch that brings the order of an earlier one again, also from a different place on, or backwards."""
    neighbors = [{frozenset(pair) for part in parts for pair in pairwise(part)} for parts in epochs]
    for early, late in combinations(range(len(epochs)), 2):
        if len(neighbors[early] & neighbors[late]) > len(neighbors[early]) / 2:
            raise Wrong(
                "same_order",
                f"In epoch {late} most samples follow the same one as in epoch {early}: it is the old order again, "
                "perhaps begun at a different place or turned round. Mix all samples in each epoch.",
            )


def _judge_left_out(epochs: list[Shares], total: int) -> None:
    left_out = [set(range(total)).difference(*parts) for parts in epochs]
    if left_out[0] and all(one == left_out[0] for one in left_out):
        raise Wrong(
            "same_left_out",
            f"With {total} samples and {len(epochs[0])} ranks, {sorted(left_out[0])} are left out in every epoch, and "
            "so never seen. Mix all samples, then leave out.",
        )


def _in_order(part: list[int]) -> bool:
    """Whether most neighbors in this part are equally far apart, as in a slice of the dataset."""
    steps = Counter(after - before for before, after in pairwise(part))
    return steps.most_common(1)[0][1] > len(part) / 2


# PyTorch's rule


def torchs_share(length: int, epoch: int, rank: int, world_size: int) -> list[int]:
    """Return what PyTorch's sampler gives to a rank."""
    dataset = TensorDataset(torch.arange(length))
    sampler: DistributedSampler[int] = DistributedSampler(dataset, world_size, rank, shuffle=True, seed=0)
    sampler.set_epoch(epoch)
    return list(sampler)


def _judge_sizes(given: Shares, each: int, where: str, length: int) -> None:
    """Refuse shares that are not `each` samples long."""
    sizes = [len(share) for share in given]
    if min(sizes) < each and length < len(given):
        raise Wrong(
            "tiny",
            f"{where}the ranks get {sizes} samples, and each should get {each}: {sum(sizes)} places are filled, of "
            f"{each * len(given)}. Here one lap is not enough, and two may not be, either.",
        )
    if len(set(sizes)) > 1:
        raise Wrong(
            "uneven",
            f"{where}the ranks get {sizes} samples. Equally many is a must: the rank that is done first would leave "
            "the others waiting in their all-reduce.",
        )
    if sizes[0] != each:
        raise Wrong("count", f"{where}each rank gets {sizes[0]} samples. It takes {each}, no more, to use each one.")


def _judge_order(given: Shares, length: int, epoch: int, where: str) -> None:
    """Raise what is wrong with the right samples that are not where they should be."""
    ranks, each = len(given), len(given[0])
    order = torch.randperm(length, generator=torch.Generator().manual_seed(epoch)).tolist()
    if epoch and given == [torchs_share(length, 0, rank, ranks) for rank in range(ranks)]:
        raise Wrong("same_every_epoch", f"{where}the order is that of epoch 0. What does your order depend on?")
    if sorted(given[0]) == sorted(order[:each]) and ranks > 1:
        raise Wrong(
            "blocks",
            f"{where}you cut the order into blocks. PyTorch deals it like cards: the first to rank 0, the second "
            "to rank 1, and so on.",
        )
    if given[0] == list(range(length))[::ranks][:each]:
        raise Wrong("not_mixed", f"{where}the samples come in their own order. Where is the shuffle?")
    raise Wrong("order", f"{where}the right samples, in a different order than PyTorch's.")


def _judge_choice(given: Shares, length: int, where: str) -> None:
    """Raise what is wrong with shares of the right size that hold other samples."""
    counted = [sum(share.count(index) for share in given) for index in range(length)]
    if min(counted) == 0 and max(counted) > 1 and length % len(given) == 0:
        raise Wrong(
            "own_shuffle",
            f"{where}some samples go to two ranks, some to none. Do all ranks mix in the same way before they deal?",
        )
    raise Wrong(
        "padding",
        f"{where}the numbers of samples are right, but not which ones come twice. PyTorch fills up with the samples "
        "from the front of the mixed order.",
    )
