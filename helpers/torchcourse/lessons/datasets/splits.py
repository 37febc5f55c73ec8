"""Splits that do not leak: what belongs together stays on one side, and what is on both sides is found."""

import hashlib
import random
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch


def split_by_group(groups: Iterable[Any], test_share: float = 0.2, seed: int = 0) -> tuple[list[int], list[int]]:
    """Return the numbers of the samples to train on and to test on; no group (a writer, a recording) is in both.

    Groups are taken in random order into the test part as long as it does not grow beyond `test_share` of the samples.
    `groups` has one value per sample: a list, a tensor or an array.

    Raises:
        ValueError: if either part would be empty, or a sample has no group.
    """
    groups = _values(groups)
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
            f"{test_share:.0%} of {len(groups)} samples are for testing. Take a different share."
        )
    train = [number for number, group in enumerate(groups) if group not in chosen]
    test = [number for number, group in enumerate(groups) if group in chosen]
    return train, test


def leaks(
    samples: Sequence[torch.Tensor] | torch.Tensor, groups: Iterable[Any], train: Iterable[Any], test: Iterable[Any]
) -> dict[int, str]:
    """Return which test samples the training set knows already: number → "same sample", "same content", "same group".

    The strongest reason is given. The content is compared by its decoded values, since a file that was saved again has
    other bytes. `groups` is as in `split_by_group`; `train` and `test` are numbers of samples.

    Raises:
        ValueError: if a sample has no group, groups and samples are not equally many, or there is no such sample.
    """
    groups = _values(groups)
    if len(samples) != len(groups):
        raise ValueError(f"There are {len(samples)} samples and {len(groups)} groups. Give each sample its group.")
    train, test = _numbers(train, len(groups)), _numbers(test, len(groups))
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


def fingerprint(x: torch.Tensor | np.ndarray) -> str:
    """Return a text that two tensors or arrays share when they have the same type, shape and values.

    Raises:
        ValueError: for what holds no numbers, such as text.
    """
    try:
        # Pictures and lists by way of NumPy; torch takes no numbers in the byte order of a different machine.
        if isinstance(x, torch.Tensor):
            x = x.to_dense()
        else:
            array = np.asarray(x)
            x = torch.as_tensor(array.astype(array.dtype.newbyteorder("=")))
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(
            f"Samples are compared by their numbers, and this {type(x).__name__} has none: give tensors or arrays."
        ) from error
    head = f"{x.dtype} {tuple(x.shape)}".encode()
    values = x.detach().resolve_conj().resolve_neg().cpu().contiguous()
    # As bytes: NumPy does not know all types of torch, such as bfloat16.
    return hashlib.sha256(head + values.flatten().view(torch.uint8).numpy().tobytes()).hexdigest()


def _plain(values: Iterable[Any]) -> list[Any]:
    """As Python's own values: a tensor is hashed by its identity, so no two of them would be the same."""
    whole: Any = values
    plain = whole.tolist() if hasattr(whole, "tolist") else list(whole)
    return [value.tolist() if hasattr(value, "tolist") else value for value in plain]


def _values(groups: Iterable[Any]) -> list[Any]:
    values = _plain(groups)
    for number, value in enumerate(values):
        if isinstance(value, list):
            raise ValueError(f"Groups are one value per sample, but sample {number} has {value}.")
        blank = isinstance(value, str) and not value.strip()
        # NaN and NaT differ from themselves; pandas' NA is neither equal nor different.
        if value is None or blank or type(value).__name__ == "NAType" or value != value:
            raise ValueError(
                f"Sample {number} has no group ({value!r}). Leave it out, or give it a group of its own: nobody knows "
                "whether samples without a group belong together."
            )
    # A name with an accent has two forms in Unicode that look the same: macOS writes one, most others write the other.
    return [unicodedata.normalize("NFC", value) if isinstance(value, str) else value for value in values]


def _numbers(numbers: Iterable[Any], count: int) -> list[int]:
    plain = _plain(numbers)
    for number in plain:
        if isinstance(number, bool) or not isinstance(number, int):
            raise ValueError(
                f"{number!r} is not the number of a sample. Give numbers, not a mask: mask.nonzero()[:, 0]."
            )
        if not 0 <= number < count:
            raise ValueError(f"There is no sample {number}: the numbers go from 0 to {count - 1}.")
    return plain
