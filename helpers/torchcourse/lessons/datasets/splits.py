"""Splits that do not leak: what belongs together stays on one side, and what is on both sides is found."""

import hashlib
import random
from collections import Counter
from collections.abc import Hashable, Iterable, Sequence

import torch


def split_by_group(groups: Sequence[Hashable], test_share: float = 0.2, seed: int = 0) -> tuple[list[int], list[int]]:
    """Return the numbers of the samples to train on and to test on; no group (a writer, a recording) is in both.

    Groups are taken in random order into the test part as long as it does not grow beyond `test_share` of the samples.

    Raises:
        ValueError: if either part would be empty.
    """
    sizes = Counter(groups)
    order = sorted(sizes, key=repr)  # whatever order the samples came in
    random.Random(seed).shuffle(order)
    wanted, chosen, count = test_share * len(groups), set(), 0
    for group in order:
        if count + sizes[group] <= wanted:
            chosen.add(group)
            count += sizes[group]
    if not chosen or len(chosen) == len(sizes):
        raise ValueError(
            f"{len(sizes)} group(s), the smallest of {min(sizes.values(), default=0)} samples, cannot be split so that "
            f"{test_share:.0%} of {len(groups)} samples are for testing. Take another share."
        )
    train = [number for number, group in enumerate(groups) if group not in chosen]
    test = [number for number, group in enumerate(groups) if group in chosen]
    return train, test


def leaks(
    samples: Sequence[torch.Tensor], groups: Sequence[Hashable], train: Iterable[int], test: Iterable[int]
) -> dict[int, str]:
    """Return which test samples the training set knows already: number → "same sample", "same content", "same group".

    The strongest reason is given. The content is compared by its decoded values, since a file that was saved again has
    other bytes.
    """
    train = list(train)
    numbers = set(train)
    contents = {fingerprint(samples[number]) for number in train}
    trained_groups = {groups[number] for number in train}
    found = {}
    for number in test:
        if number in numbers:
            found[number] = "same sample"
        elif fingerprint(samples[number]) in contents:
            found[number] = "same content"
        elif groups[number] in trained_groups:
            found[number] = "same group"
    return found


def fingerprint(x: torch.Tensor) -> str:
    """Return a text that two tensors share when they have the same type, shape and values."""
    head = f"{x.dtype} {tuple(x.shape)}".encode()
    return hashlib.sha256(head + x.contiguous().cpu().numpy().tobytes()).hexdigest()
