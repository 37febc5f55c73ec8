"""Checks of lesson 06, notebook 1: data sets and loaders. Each names the symptom of a mistake.

In the notebook's order: `pictures`, `batches`, `collate`, `bucket_batches`, `find_leaks`.
"""

import tempfile
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch

from torchcourse.checks import Wrong, check
from torchcourse.checks.kit import refuse_known, same, tensor_of
from torchcourse.lessons.datasets.folder import write_images
from torchcourse.lessons.datasets.samplers import BucketBatches, padding_share
from torchcourse.lessons.datasets.splits import leaks


@check
def pictures(learner: Callable[[Path], Any]) -> str:
    """Make a folder with a table in an order of its own, change it under the data set, then take an image away."""
    labels = ["fox", "owl", "ant", "owl", "fox"]
    files = ["m.png", "c.png", "x.png", "a.png", "k.png"]
    pixels = torch.arange(5 * 12).reshape(5, 3, 4).to(torch.uint8)
    rows = [{"file": file, "label": label} for file, label in zip(files, labels, strict=True)]
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        write_images(folder, torch.cat([pixels, pixels[:1]]), [*rows, {"file": "unlisted.png", "label": "owl"}])
        write_images(folder, pixels, rows)  # the table again, now without the last image
        data = learner(folder)
        if len(data) != 5:
            more = " There is an image in the folder that the table does not list." if len(data) == 6 else ""
            raise Wrong("count", f"The table has 5 rows, and your data set has the length {len(data)}.{more}")
        _judge_samples(data, pixels, files, labels)
        write_images(folder, pixels[:1] + 100, [{"file": "m.png", "label": "fox"}], table="other.csv")
        if torch.equal(data[0][0], pixels[:1] / 255):
            raise Wrong(
                "eager",
                "A file was changed after your data set had been made, and it still returns the old image: "
                "all images are in memory. When is a file to be opened?",
            )
        (folder / "x.png").unlink()
        try:
            learner(folder)
        except FileNotFoundError as error:
            if "x.png" not in str(error):
                raise Wrong("nameless", f"Of a missing image your message says: {error}. Which one is it?") from None
        else:
            raise Wrong(
                "missing_late",
                "An image of the table is missing, and your data set is made without a word. The error "
                "will come in the middle of an epoch. Raise FileNotFoundError with its name when it is made.",
            )
    return "Five images in the table's order, each opened when it is asked for; a missing one is named at once."


def _judge_samples(data: Any, pixels: torch.Tensor, files: list[str], labels: list[str]) -> None:
    got = [data[number] for number in range(5)]
    if not all(isinstance(sample, tuple) and len(sample) == 2 for sample in got):
        raise Wrong("wrong_type", f"A sample is a pair (image, class number). You return {type(got[0]).__name__}.")
    images, numbers = zip(*got, strict=True)
    right = pixels[:, None] / 255
    for image in images:
        tensor_of(image, right[0].shape, f"An image has the shape {list(right[0].shape)}, as `read_image` returns it.")
    by_name = torch.tensor(sorted(range(5), key=files.__getitem__))
    refuse_known(
        torch.stack(images),
        {
            "folder_order": (
                right[by_name],
                "Your images come in the order of their file names, and the labels in that of the table. Image and "
                "label of a sample must come from one row.",
            )
        },
    )
    if not same(torch.stack(images), right, 1e-5):
        raise Wrong("wrong_value", "Image i is not what the file of row i holds.")
    _judge_class_numbers(numbers, labels)


def _judge_class_numbers(given: tuple, labels: list[str]) -> None:
    if any(isinstance(number, str) for number in given):
        raise Wrong("label_is_text", f"The label of sample 0 is {given[0]!r}. A loss takes the number of a class.")
    numbers, by_row, by_name = [int(number) for number in given], list(dict.fromkeys(labels)), sorted(set(labels))
    if numbers == [by_row.index(label) for label in labels]:
        raise Wrong(
            "numbered_by_row",
            "Your classes are numbered as they appear in the table. The test set's table has a different order, and "
            "there the same animal gets a different number. Number the sorted labels.",
        )
    if numbers != [by_name.index(label) for label in labels]:
        raise Wrong("class_number", f"The labels {labels} have the numbers {numbers}. Sort, then number.")


class _Executor:
    """Takes work as an executor does, does it when the result is asked for, and remembers what was under way."""

    def __init__(self) -> None:
        self.inside, self.open = False, 0

    def submit(self, function: Callable, *args: Any, **options: Any) -> "_Executor._Future":
        self.open += 1
        return self._Future(self, lambda: function(*args, **options))

    class _Future:
        def __init__(self, executor: "_Executor", work: Callable[[], Any]) -> None:
            self.executor, self.work, self.done = executor, work, False

        def result(self, timeout: float | None = None) -> Any:
            if not self.done:
                self.executor.inside = True
                try:
                    self.value = self.work()
                finally:
                    self.executor.inside, self.done = False, True
                    self.executor.open -= 1
            return self.value


class _Watched:
    """A data set that remembers which samples were fetched, and which of them not by the executor."""

    def __init__(self, executor: _Executor | None) -> None:
        self.executor, self.outside = executor, 0

    def __len__(self) -> int:
        return 100

    def __getitem__(self, number: int) -> int:
        if self.executor is not None and not self.executor.inside:
            self.outside += 1
        return 10 * number


@check
def batches(learner: Callable[..., Iterable]) -> str:
    """Hand over an executor that records what is under way while a batch is used; then a real one."""
    for order, size, ahead in ((range(8), 2, 1), ([5, 3, 9, 1, 4, 0, 7], 3, 2), (range(20), 2, 3), ([], 4, 2)):
        right = [tuple(10 * n for n in list(order)[at : at + size]) for at in range(0, len(order), size)]
        executor = _Executor()
        dataset = _Watched(executor)
        got: list[Any] = []
        collated_in_front: list[list] = []

        def collate(samples: list, executor=executor, collated_in_front=collated_in_front) -> tuple:
            if not executor.inside:
                collated_in_front.append(samples)
            return tuple(samples)

        case = f"With {len(order)} samples, batch_size={size}, ahead={ahead}"
        under_way = []
        for batch in learner(dataset, order, size, collate, executor.submit, ahead):
            got.append(batch)
            under_way.append(executor.open)
            if dataset.outside:
                raise Wrong(
                    "fetched_in_front",
                    f"{case}, `dataset[…]` is called by your generator itself, so whoever uses the "
                    "batches waits for it. Give `submit` the function and its arguments, not its result.",
                )
        _judge_batches(got, right, case)
        if collated_in_front:
            raise Wrong(
                "collated_in_front", f"{case}, `collate` runs in your generator: fetch *and* collate elsewhere."
            )
        _judge_under_way(under_way, ahead, case)
    with ThreadPoolExecutor(3) as pool:
        got = list(learner(_Watched(None), range(50), 4, tuple, pool.submit, 3))
    _judge_batches(got, [tuple(range(10 * at, min(10 * at + 40, 500), 10)) for at in range(0, 50, 4)], "With threads")
    return "Right batches in the right order, as many under way as asked for, also with three threads."


def _judge_under_way(under_way: list[int], ahead: int, case: str) -> None:
    for number, count in enumerate(under_way):
        should = min(ahead, len(under_way) - 1 - number)
        if count == 0 and should:
            raise Wrong(
                "not_ahead",
                f"{case}, nothing is under way while batch {number} is used: the next is started when it is asked for.",
            )
        if count > ahead + 1:
            raise Wrong(
                "too_far", f"{case}, {count} batches are under way at once. A long epoch would fill the memory."
            )
        if count < should:
            raise Wrong(
                "not_far_enough",
                f"{case}, {count} batch(es) are under way while batch {number} is used. It should be "
                f"{should}: start more before you hand this one over.",
            )


def _judge_batches(got: list, right: list[tuple], case: str) -> None:
    if got == right:
        return
    if any(not isinstance(batch, tuple) for batch in got):
        raise Wrong("not_collated", f"{case}, you yield {type(got[0]).__name__}s that `collate` did not make.")
    if got == right[:-1] and len(right[-1]) < len(right[0]):
        raise Wrong("last_lost", f"{case}, the last batch is missing: it has only {len(right[-1])} sample(s).")
    if got == right[: len(got)]:
        raise Wrong("end_lost", f"{case}, you yield {len(got)} of {len(right)} batches. What is still under way?")
    if sorted(got) == sorted(right):
        raise Wrong("order", f"{case}, the batches come in another order than the sampler's.")
    raise Wrong("wrong_value", f"{case}, the first batches are {got[:2]}, and should be {right[:2]}.")


@check
def collate(learner: Callable[[list], tuple]) -> str:
    """Compare with padding step by step, for batches of several lengths."""
    generator = torch.Generator().manual_seed(0)
    for lengths, labels in (((3, 5, 2), (1, 0, 7)), ((4,), (2,)), ((1, 6, 6, 2), (0, 0, 3, 1))):
        samples = [(torch.randn(n, 3, generator=generator), k) for n, k in zip(lengths, labels, strict=True)]
        out = learner([(x.clone(), label) for x, label in samples])
        if not isinstance(out, tuple) or len(out) != 4 or not all(isinstance(part, torch.Tensor) for part in out):
            raise Wrong("wrong_type", "Return four tensors: padded sequences, lengths, mask, labels.")
        _judge_padded(*out, samples)
    return "Three batches: real steps where they belong, zeros after them, and a mask that tells the two apart."


def _judge_padded(
    x: torch.Tensor, lengths: torch.Tensor, mask: torch.Tensor, labels: torch.Tensor, samples: list[tuple]
) -> None:
    steps = [len(sequence) for sequence, _ in samples]
    case = f"For sequences of {steps} steps"
    if x.shape == (max(steps), len(steps), 3) and max(steps) != len(steps):
        raise Wrong("time_first", f"{case}, your tensor is {list(x.shape)}: time first. The batch comes first here.")
    tensor_of(x, (len(steps), max(steps), 3), f"{case}, the padded tensor is {[len(steps), max(steps), 3]}.")
    if lengths.tolist() != steps:
        raise Wrong("lengths", f"{case}, you return the lengths {lengths.tolist()}.")
    for row, (sequence, _) in enumerate(samples):
        _judge_row(x[row], sequence, row, case)
    _judge_mask(mask, torch.arange(max(steps)) < lengths[:, None], case)
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


def _judge_mask(mask: torch.Tensor, real: torch.Tensor, case: str) -> None:
    tensor_of(mask, real.shape, f"{case}, the mask has one value per step, {list(real.shape)}.")
    if mask.dtype != torch.bool:
        raise Wrong("dtype", f"{case}, the mask is {mask.dtype}. As truth values it can choose: x[mask].")
    if torch.equal(mask, ~real) and not real.all():
        raise Wrong("mask_inverted", f"{case}, your mask is True for padding. Here it is True for what is real.")
    if not torch.equal(mask, real):
        raise Wrong(
            "mask",
            f"{case}, the mask marks {mask.sum(1).tolist()} steps of the rows. Is it made from values? A real step may "
            "be zero.",
        )


@check
def bucket_batches(learner: Callable[..., list[list[int]]]) -> str:
    """Ask for the properties of an epoch: each sample once, sizes, little padding, and chance where it belongs."""
    draw = torch.Generator().manual_seed(3)
    for count, size, pool in ((96, 8, 4), (101, 8, 6), (5, 8, 3), (240, 6, 10)):
        lengths = torch.randint(1, 60, (count,), generator=draw).tolist()
        case = f"With {count} samples, batch_size={size}, pool={pool}"
        epochs = [_as_lists(learner(list(lengths), size, pool, torch.Generator().manual_seed(s))) for s in range(6)]
        for epoch in epochs:
            _judge_epoch(epoch, count, size, case)
        again = _as_lists(learner(list(lengths), size, pool, torch.Generator().manual_seed(0)))
        if again != epochs[0]:
            raise Wrong("not_repeatable", f"{case}, the same generator gives another order. Draw from it alone.")
        if count > size and all(epoch == epochs[0] for epoch in epochs):
            raise Wrong("never_shuffled", f"{case}, all epochs are the same.")
        _judge_padding(lengths, epochs, size, pool, case)
    return "Four data sets, six epochs each: every sample once, little padding, and long batches at no special place."


def _as_lists(batches: Iterable) -> list[list[int]]:
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
    if mine > 2 * ours:
        raise Wrong(
            "too_much_padding",
            f"{case}, {mine:.0%} is padding, where {ours:.0%} is enough. Are a pool's samples in "
            "order of length when you cut it?",
        )
    sorted_all = padding_share(lengths, BucketBatches(lengths, size, shuffle=False))
    if len(lengths) >= 4 * size * pool and mine < sorted_all + 0.2 * (ours - sorted_all):
        raise Wrong(
            "one_pool",
            f"{case}, the whole data set is one pool: the same samples meet in every epoch. Mix first, "
            "then cut into pools, then sort within each.",
        )
    place = torch.linspace(-1, 1, len(epochs[0]))
    trends = []
    for epoch in epochs:
        means = torch.tensor([sum(lengths[n] for n in batch) / len(batch) for batch in epoch])
        # Within a pool, short batches before long ones: neighbours then rise more often than they fall.
        trends.append(((means[1:] > means[:-1]).float().mean() - 0.5) * 2)
        trends.append(torch.corrcoef(torch.stack([place, means]))[0, 1])
    rising, slope = torch.stack(trends).reshape(-1, 2).mean(0).abs().tolist()
    if rising > 0.5 or slope > 0.6:
        raise Wrong(
            "by_length",
            f"{case}, the batches of an epoch go from short to long, again and again. The model sees the "
            "lengths in an order; mix the batches, too.",
        )


@check
def find_leaks(learner: Callable[..., set[int]]) -> str:
    """Plant three kinds of leaks, and what only looks like one."""
    generator = torch.Generator().manual_seed(4)
    samples = [torch.randint(0, 256, (4, 4), dtype=torch.uint8, generator=generator) for _ in range(12)]
    samples[8] = samples[1].clone()  # saved again under another name and writer
    samples[9] = samples[7].clone()  # twice, but both in the test part
    groups = ["ann", "ann", "bob", "cho", "cho", "dan", "eva", "fay", "gil", "hal", "bob", "ivo"]
    cases = [
        ([0, 1, 2, 3], [4, 5, 6, 7, 8, 9, 10]),
        ([0, 1, 2, 3], [2, 5, 7, 9, 11]),
        ([0, 1, 5], [6, 7, 9, 11]),
        ([8, 11], [1, 2, 6]),
    ]
    for train, test in cases:
        right = set(leaks(samples, groups, train, test))
        got = learner([sample.clone() for sample in samples], list(groups), list(train), list(test))
        if not isinstance(got, (set, list, tuple)):
            raise Wrong("wrong_type", f"Return a set of numbers of test samples. You return {type(got).__name__}.")
        got = set(map(int, got))
        case = f"Trained on {train}, tested on {test}"
        if got == right:
            continue
        if got - set(test):
            raise Wrong("train_side", f"{case}: your {sorted(got - set(test))} are not in the test part.")
        found, wrongly = leaks(samples, groups, train, test), sorted(got - right)
        if wrongly:
            raise Wrong(
                "no_leak",
                f"{case}: you name {wrongly}, of which the training part knows nothing. Two equal samples "
                "that are both in the test part are no leak.",
            )
        missed = {found[number]: number for number in sorted(right - got)}
        hints = {
            "same sample": ("misses_samples", "is in both parts itself"),
            "same group": ("misses_groups", "has no twin in the training part, but its writer is there"),
            "same content": ("misses_contents", "has another number and another writer than its twin in training"),
        }
        symptom, hint = next(hints[reason] for reason in hints if reason in missed)
        number = next(missed[reason] for reason in hints if reason in missed)
        raise Wrong(symptom, f"{case}: you miss {number}, which {hint}.")
    return "Four splits: the same number, the same picture, the same writer. And nothing that is none."
