"""Checks of lesson 06, notebook 1, on batches of sequences: `collate` and `bucket_batches`."""

from collections.abc import Callable, Iterable
from typing import Any

import torch

from torchcourse.checks import Wrong, check
from torchcourse.checks.kit import result_of, tensor_of
from torchcourse.lessons.datasets.samplers import BucketBatches, padding_share


@check
def collate(learner: Callable[[list], tuple]) -> str:
    """Compare with padding step by step, for batches of several lengths; real steps may hold any value, zero too."""
    generator = torch.Generator().manual_seed(0)
    for lengths, labels, value in (
        ((3, 5, 2), (1, 0, 7), None),
        ((4,), (2,), None),
        ((1, 6, 6, 2), (0, 0, 3, 1), None),
        *(((3, 5, 2), (1, 0, 7), value) for value in _PADDED_WITH),
    ):
        samples = [(torch.randn(n, 3, generator=generator), k) for n, k in zip(lengths, labels, strict=True)]
        if value is not None:
            _fill_steps([x for x, _ in samples], value)
        out = result_of(learner, samples, what="the list of samples, or a sequence in it")
        _judge_padded(_four(out), samples, value)
    return "All batches: real steps where they belong, zeros after them, and a mask that tells the two apart."


_PADDED_WITH = [0, 1, -1, -100, 99, -999, -9999, 1e6, -1e9, torch.finfo(torch.float32).min, -torch.inf]
"""What people pad with, to find the real steps by their values."""


def _fill_steps(sequences: list[torch.Tensor], value: float) -> None:
    """Give real steps this value: one value of a step, the middle step, the last one, all of them."""
    first, second, third = sequences
    first[0, 0] = value
    second[2] = value
    second[-1] = value
    third[:] = value


def _four(out: Any) -> tuple[torch.Tensor, ...]:
    names = "padded sequences, lengths, mask, labels"
    if not isinstance(out, (tuple, list)) or len(out) != 4:
        count = f" of length {len(out)}" if isinstance(out, (tuple, list)) else ""
        raise Wrong("wrong_type", f"Return four tensors: {names}. You return a {type(out).__name__}{count}.")
    for part, name in zip(out, names.split(", "), strict=True):
        if not isinstance(part, torch.Tensor):
            kind = type(part).__name__
            raise Wrong("wrong_type", f"Return four tensors: {names}. Of these, the {name} are of type {kind}.")
    return tuple(out)


def _judge_padded(four: tuple[torch.Tensor, ...], samples: list[tuple], value: float | None) -> None:
    x, lengths, mask, labels = four
    steps = [len(sequence) for sequence, _ in samples]
    case = f"For sequences of {steps} steps"
    if value is not None:
        case += f", where real steps hold {value:g}"
    if x.shape == (max(steps), len(steps), 3) and max(steps) != len(steps):
        raise Wrong("time_first", f"{case}, your tensor is {list(x.shape)}: time first. The batch comes first here.")
    tensor_of(x, (len(steps), max(steps), 3), f"{case}, the padded tensor is {[len(steps), max(steps), 3]}.")
    if x.dtype != torch.float32:
        raise Wrong("dtype", f"{case}, the padded tensor is {x.dtype}. The sequences are torch.float32; so is a model.")
    if lengths.tolist() != steps and sorted(lengths.flatten().tolist()) == sorted(steps):
        raise Wrong("order", f"{case}, the rows of your batch have {lengths.tolist()}. Row i belongs to sample i.")
    if lengths.tolist() != steps:
        question = " Are they counted from values?" if value is not None else ""
        raise Wrong("lengths", f"{case}, you return the lengths {lengths.tolist()}.{question}")
    if lengths.is_floating_point() or lengths.dtype == torch.bool:
        raise Wrong("dtype", f"{case}, the lengths are {lengths.dtype}. They are counts: packing takes whole numbers.")
    for row, (sequence, _) in enumerate(samples):
        _judge_row(x[row], sequence, row, case)
    _judge_mask(mask, torch.arange(max(steps)) < lengths[:, None], case, filled=value is not None)
    if labels.dtype != torch.int64 or labels.tolist() != [label for _, label in samples]:
        raise Wrong("labels", f"{case}, the labels come out as {labels}. A loss takes int64, one per sample.")


def _judge_row(padded: torch.Tensor, sequence: torch.Tensor, row: int, case: str) -> None:
    if torch.equal(padded[: len(sequence)], sequence):
        if padded[len(sequence) :].any():
            raise Wrong("not_zero", f"{case}, the padding of row {row} is not zero.")
    elif torch.equal(padded[len(padded) - len(sequence) :], sequence):
        raise Wrong("left", f"{case}, row {row} is padded in front. Packing expects the real steps first.")
    else:
        raise Wrong("steps", f"{case}, row {row} does not begin with the steps of sample {row}.")


def _judge_mask(mask: torch.Tensor, real: torch.Tensor, case: str, filled: bool) -> None:
    tensor_of(mask, real.shape, f"{case}, the mask has one value per step, {list(real.shape)}.")
    if mask.dtype != torch.bool:
        raise Wrong("dtype", f"{case}, the mask is {mask.dtype}. As truth values it can choose: x[mask].")
    if torch.equal(mask, ~real) and not real.all():
        raise Wrong("mask_inverted", f"{case}, your mask is True for padding. Here it is True for what is real.")
    if not torch.equal(mask, real):
        raise Wrong(
            "mask",
            f"{case}, the mask marks {mask.sum(1).tolist()} steps of the rows."
            + (" Is it made from values? A real step may be zero, or what you pad with." if filled else ""),
        )


@check
def bucket_batches(learner: Callable[..., list[list[int]]]) -> str:
    """Ask for the properties of an epoch: each sample once, sizes, little padding, and chance where it belongs."""
    draw = torch.Generator().manual_seed(3)
    for count, size, pool in ((96, 8, 4), (101, 8, 6), (5, 8, 3), (240, 6, 10)):
        lengths = torch.randint(1, 60, (count,), generator=draw).tolist()
        case = f"With {count} samples, batch_size={size}, pool={pool}"
        given = list(lengths)
        epochs = [batches_of(learner(given, size, pool, torch.Generator().manual_seed(0)))]
        if given != lengths:
            raise Wrong("inputs_changed", f"{case}, `lengths` is different after the call. Sort the samples' numbers.")
        epochs += [
            batches_of(learner(list(lengths), size, pool, torch.Generator().manual_seed(s))) for s in range(1, 5)
        ]
        generator = torch.Generator().manual_seed(99)
        epochs += [batches_of(learner(list(lengths), size, pool, generator)) for _ in range(2)]
        for epoch in epochs:
            _judge_epoch(epoch, count, size, case)
            pools, enough = -(-count // (size * pool)), -(-count // size)
            if len(epoch) > enough + pools:  # one short batch in each pool at most
                raise Wrong(
                    "too_many_batches",
                    f"{case}, an epoch has {len(epoch)} batches, where {enough} are enough: some have a single sample, "
                    f"or few. How many samples of a pool go into a batch?",
                )
        again = batches_of(learner(list(lengths), size, pool, torch.Generator().manual_seed(0)))
        if again != epochs[0]:
            raise Wrong("not_repeatable", f"{case}, the same generator gives a different order. Draw from it alone.")
        if count > size and all(epoch == epochs[0] for epoch in epochs):
            raise Wrong("never_shuffled", f"{case}, all epochs are the same.")
        if count > size and epochs[-1] == epochs[-2]:
            raise Wrong(
                "not_drawn",
                f"{case}, two epochs in turn from one generator are the same. Draw from the generator that you get; a "
                "new one with its seed begins again.",
            )
        _judge_padding(lengths, epochs, size, pool, case)
    return "Four datasets, six epochs each: every sample once, little padding, and long batches at no special place."


def batches_of(batches: Any) -> list[list[int]]:
    """Return an epoch's batches as lists of numbers, or say that they are none."""
    if batches is None:
        raise Wrong("nothing_returned", "It returned None. Return the list of an epoch's batches.")
    batches = list(batches) if isinstance(batches, Iterable) else [batches]
    if any(not isinstance(batch, Iterable) or getattr(batch, "ndim", 1) == 0 for batch in batches):
        raise Wrong(
            "wrong_type", f"Return a list of batches, each a list of numbers. Yours begins with {batches[0]!r}."
        )
    return [[int(number) for number in batch] for batch in batches]


def _judge_epoch(epoch: list[list[int]], count: int, size: int, case: str) -> None:
    numbers = [number for batch in epoch for number in batch]
    if len(numbers) < count and len(set(numbers)) == len(numbers):
        raise Wrong("lost", f"{case}, an epoch has {len(numbers)} of {count} samples. What of the last, short batch?")
    if sorted(numbers) != list(range(count)):
        raise Wrong("not_once", f"{case}, some sample comes twice, or its number is not one of 0 to {count - 1}.")
    if any(len(batch) > size for batch in epoch):
        raise Wrong("too_large", f"{case}, one batch has {max(map(len, epoch))} samples.")


def _judge_padding(lengths: list[int], epochs: list[list[list[int]]], size: int, pool: int, case: str) -> None:
    if len(lengths) < 2 * size * pool:
        return
    mine = sum(padding_share(lengths, epoch) for epoch in epochs) / len(epochs)
    ours = sum(padding_share(lengths, BucketBatches(lengths, size, pool, seed=s)) for s in range(6)) / 6
    if mine > 1.4 * ours:  # half as many batches in a pool: 1.5 times as much; of right answers, 1.1 at most
        raise Wrong(
            "too_much_padding",
            f"{case}, {mine:.0%} is padding, where {ours:.0%} is enough. Does a pool have the samples of {pool} "
            "batches, and are they in order of length when you cut it?",
        )
    if mine < 0.8 * ours:  # twice as many batches in a pool: 0.7; of right answers, 0.9 at least
        raise Wrong(
            "one_pool",
            f"{case}, {mine:.0%} is padding, where pools of {pool} batches have {ours:.0%}. Yours are larger, or the "
            "whole dataset is one pool: so much the more often do the same samples meet. Mix first, then cut into "
            "pools, then sort within each.",
        )
    if _samples_that_meet(epochs[0]) == _samples_that_meet(epochs[1]):
        raise Wrong(
            "same_batches",
            f"{case}, the same samples meet in every epoch, in batches that only change their order. Mix the samples, "
            "then cut into pools.",
        )
    turns = []
    for epoch in epochs:
        means = torch.tensor([sum(lengths[n] for n in batch) / len(batch) for batch in epoch])
        rises = means[1:] > means[:-1]
        turns.append((rises[1:] != rises[:-1]).float().mean())
    if sum(turns) / len(turns) < 0.45:  # 2 of 3 where batches are mixed; in sorted pools 2 of the batches of a pool
        raise Wrong(
            "by_length",
            f"{case}, the batches of an epoch go from short to long, again and again, or to and fro. The model "
            "sees the lengths in an order; mix the batches, too.",
        )


def _samples_that_meet(epoch: list[list[int]]) -> set[frozenset[int]]:
    return {frozenset(batch) for batch in epoch}
