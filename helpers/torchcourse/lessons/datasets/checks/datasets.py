"""Checks of lesson 06, notebook 1: datasets and loaders. Each names the symptom of a mistake.

In the notebook's order: `pictures`, `batches`, `collate`, `bucket_batches`, `find_leaks`.
"""

import tempfile
from collections.abc import Callable, Iterable, Iterator, Set
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch

from torchcourse.checks import Wrong, check, errors
from torchcourse.checks.kit import numbers as numbers_in
from torchcourse.checks.kit import refuse_known, same, tensor_of
from torchcourse.lessons.datasets.checks.sequences import bucket_batches, collate
from torchcourse.lessons.datasets.folder import write_images
from torchcourse.lessons.datasets.splits import leaks

__all__ = ["batches", "bucket_batches", "collate", "find_leaks", "pictures"]


@check
def pictures(learner: Callable[[Path], Any]) -> str:
    """Make a folder with a table in an order of its own, change it under the dataset, then take an image away."""
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
            more = (
                " Is the line of column names counted, or the image in the folder that the table does not list?"
                if len(data) == 6
                else ""
            )
            raise Wrong("count", f"The table has 5 rows, and your dataset has the length {len(data)}.{more}")
        _judge_samples(data, pixels, files, labels)
        unread = learner(folder)
        write_images(folder, pixels[:1] + 100, [{"file": "m.png", "label": "fox"}], table="other.csv")
        _judge_lazy(data, unread, pixels[:1] / 255)
        (folder / "x.png").unlink()
        _judge_missing(learner, folder)
    return "Five images in the table's order, each opened when it is asked for; a missing one is named at once."


def _judge_lazy(data: Any, unread: Any, old: torch.Tensor) -> None:
    if torch.equal(unread[0][0], old):
        raise Wrong(
            "eager",
            "A file was changed after your dataset had been made, and it still returns the old image: "
            "all images are in memory. When is a file to be opened?",
        )
    if torch.equal(data[0][0], old):
        raise Wrong(
            "kept",
            "A file was changed after its image had been asked for, and your dataset still returns the old image: it "
            "keeps each image that it has opened. After one epoch the whole folder is in memory.",
        )


def _judge_missing(learner: Callable[[Path], Any], folder: Path) -> None:
    try:
        data = learner(folder)
    except FileNotFoundError as error:
        if "x.png" not in str(error):
            raise Wrong("nameless", f"Of a missing image your message says: {error}. Which one is it?") from None
        return
    except Exception as error:
        if errors.is_hole(error):
            raise
        raise Wrong(
            "other_error",
            f"An image of the table is missing, and making your dataset ends with {type(error).__name__}: {error}. "
            "FileNotFoundError was asked for, with the name of the image.",
        ) from error
    if len(data) < 5:
        raise Wrong(
            "skipped",
            f"An image of the table is missing, and your dataset leaves it out: it has {len(data)} of 5 samples, and "
            "nobody is told. Raise FileNotFoundError with its name when it is made.",
        )
    raise Wrong(
        "missing_late",
        "An image of the table is missing, and your dataset is made all the same. The error "
        "will come in the middle of an epoch. Raise FileNotFoundError with its name when it is made.",
    )


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
    found = numbers_in(given)
    if found is None or any("float" in str(getattr(value, "dtype", type(value))) for value in given):
        raise Wrong("no_number", f"The label of sample 0 is {given[0]!r}. The number of a class is one whole number.")
    numbers, by_row, by_name = [int(number) for number in found], list(dict.fromkeys(labels)), sorted(set(labels))
    if numbers == [by_row.index(label) for label in labels]:
        raise Wrong(
            "numbered_by_row",
            "Your classes are numbered as they appear in the table. The test set's table has a different order, and "
            "there the same animal gets a different number. Number the sorted labels.",
        )
    if numbers != [by_name.index(label) for label in labels]:
        raise Wrong(
            "class_number",
            f"The labels {labels} have the numbers {numbers}. A class's number is its place among the sorted labels, "
            "and places are counted from 0.",
        )


class _Executor:
    """Takes work as an executor does, does it when the result is asked for, and remembers what was under way."""

    def __init__(self) -> None:
        self.inside, self.open, self.submitted = False, 0, 0

    def submit(self, function: Callable, *args: Any, **options: Any) -> "_Executor._Future":
        if not callable(function):
            raise Wrong(
                "no_function",
                f"`submit` was given a value of type {type(function).__name__}: the work was done before. It takes the "
                "function and its arguments, and calls it elsewhere.",
            )
        self.open += 1
        self.submitted += 1
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
    """A dataset that remembers which samples were fetched, and which of them not by the executor."""

    def __init__(self, executor: _Executor | None) -> None:
        self.executor, self.outside = executor, 0

    def __len__(self) -> int:
        return 100

    def __getitem__(self, number: int) -> int:
        if self.executor is not None and not self.executor.inside:
            self.outside += 1
        return 10 * number


def _refuse_outside(dataset: _Watched, executor: _Executor, case: str) -> None:
    """Refuse samples that were fetched by the generator itself, or by an executor of its own."""
    if dataset.outside:
        hint = "Give `submit` the function and its arguments, not its result."
        if not executor.submitted:
            hint = "You gave it nothing yet."
        raise Wrong("fetched_in_front", f"{case}, `dataset[…]` is called outside of what you gave to `submit`. {hint}")


class _Sampler:
    """Numbers to be taken one after the other: a sampler has no places, unlike a list."""

    def __init__(self, order: Iterable[int]) -> None:
        self.order = list(order)

    def __iter__(self) -> Iterator[int]:
        return iter(self.order)

    def __len__(self) -> int:
        return len(self.order)


def _collate_in(executor: _Executor, in_front: list[list]) -> Callable[[list], tuple]:
    """Return a collate that notes what it was given outside of the executor's work."""

    def collate(samples: list) -> tuple:
        if not executor.inside:
            in_front.append(samples)
        return tuple(samples)

    collate.__qualname__ = "collate"  # what an error of a wrong call says
    return collate


@check
def batches(learner: Callable[..., Iterable]) -> str:
    """Hand over an executor that records what is under way while a batch is used; then a real one."""
    for order, size, ahead in (
        ([6, 0, 3, 1, 7, 2, 5, 4], 2, 1),
        ([5, 3, 9, 1, 4, 0, 7], 3, 2),
        (range(20), 2, 3),
        ([], 4, 2),
    ):
        right = [tuple(10 * n for n in list(order)[at : at + size]) for at in range(0, len(order), size)]
        executor = _Executor()
        dataset = _Watched(executor)
        got: list[Any] = []
        collated_in_front: list[list] = []
        collate = _collate_in(executor, collated_in_front)
        case = f"With {len(order)} samples, batch_size={size}, ahead={ahead}"
        under_way = []
        given = learner(dataset, _Sampler(order), size, collate, executor.submit, ahead)
        _refuse_outside(dataset, executor, case)
        if given is None or isinstance(given, (list, tuple)):
            raise Wrong(
                "not_yielded",
                f"{case}, you return {'nothing' if given is None else 'all batches at once'}. "
                "Hand over one batch at a time with `yield`.",
            )
        for batch in given:
            got.append(batch)
            under_way.append(executor.open)
            _refuse_outside(dataset, executor, case)
            if len(got) > len(right) + 3:
                break
        _judge_batches(got, right, case)
        if collated_in_front:
            raise Wrong(
                "collated_in_front", f"{case}, `collate` runs in your generator: fetch *and* collate elsewhere."
            )
        _judge_under_way(under_way, ahead, case)
    with ThreadPoolExecutor(3) as pool:
        got = list(learner(_Watched(None), _Sampler(range(50)), 4, tuple, pool.submit, 3))
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
    for batch in got:
        if not isinstance(batch, tuple):
            kind = type(batch).__name__.lstrip("_")
            raise Wrong("not_collated", f"{case}, you yield a value of type {kind} that `collate` did not make.")
    if got == right[:-1] and len(right[-1]) < len(right[0]):
        raise Wrong("last_lost", f"{case}, the last batch is missing: it has only {len(right[-1])} sample(s).")
    if got == right[: len(got)]:
        raise Wrong("end_lost", f"{case}, you yield {len(got)} of {len(right)} batches. What is still under way?")
    if got[: len(right)] == right:
        raise Wrong("too_many", f"{case}, you yield more than the {len(right)} batches. The next is {got[len(right)]}.")
    if sorted(got) == sorted(right):
        raise Wrong("order", f"{case}, the batches come in a different order than the sampler's.")
    number = next(number for number, pair in enumerate(zip(got, right, strict=False)) if pair[0] != pair[1])
    raise Wrong("wrong_value", f"{case}, batch {number} is {got[number]}, and should be {right[number]}.")


@check
def find_leaks(learner: Callable[..., set[int]]) -> str:
    """Plant three kinds of leaks, and what only looks like one."""
    samples, groups = _samples_with_twins()
    cases = [
        ([3, 1, 2, 0], [4, 5, 6, 7, 8, 9, 10]),
        ([2, 0, 3, 1], [2, 5, 7, 9, 11]),
        ([0, 1, 5], [6, 7, 9, 11]),
        ([8, 11], [1, 2, 6]),
        ([11, 6, 10], [2, 3, 4, 5, 7]),
        ([8, 5], [0, 1, 3]),
        ([12, 5], [0, 13, 14, 15]),
    ]
    for train, test in cases:
        right = leaks(samples, groups, train, test)
        # Built again for each sample: equal names need not be one object.
        given = [sample.clone() for sample in samples], ["".join(name) for name in groups], list(train), list(test)
        got = learner(*given)
        if not isinstance(got, (Set, list, tuple)):
            raise Wrong("wrong_type", f"Return a set of numbers of test samples. You return {type(got).__name__}.")
        if any(isinstance(number, bool) for number in got):
            raise Wrong("wrong_type", "Return a set of numbers of test samples. You return True and False.")
        case = f"Trained on {train}, tested on {test}"
        _judge_leaks(set(map(int, got)), right, set(test), case)
        if not same(given, (samples, groups, train, test)):
            raise Wrong("inputs_changed", f"{case}: the function changed what it was given to read.")
    return "Seven splits: the same number, the same picture, the same writer. And nothing that is none."


def _samples_with_twins() -> tuple[list[torch.Tensor], list[str]]:
    generator = torch.Generator().manual_seed(4)
    samples = [torch.randint(0, 256, (4, 4), dtype=torch.uint8, generator=generator) for _ in range(12)]
    samples[8] = samples[1].clone()  # saved again under a different name and writer
    samples[9] = samples[7].clone()  # twice, but both in the test part
    samples[6] = samples[3].clone()
    samples[6][-1] = samples[6][-1].flip(0)  # almost the same, and the same sum
    samples.append(torch.randint(0, 256, (40, 50), dtype=torch.uint8, generator=generator))
    samples.append(samples[12].reshape(50, 40))  # the same bytes in a different shape
    samples.append(samples[12].clone())
    samples[14][20, 25] += 1  # different in the middle, which a large tensor's text leaves out
    samples.append(samples[12].clone())
    return samples, [f"writer {letter}" for letter in "aabccdefghbijklm"]


def _judge_leaks(got: set[int], found: dict[int, str], test: set[int], case: str) -> None:
    right = set(found)
    if got == right:
        return
    if got - test:
        raise Wrong("train_side", f"{case}: your {sorted(got - test)} are not in the test part.")
    wrongly = sorted(got - right)
    if wrongly:
        raise Wrong(
            "no_leak",
            f"{case}: you name {wrongly}. The training part has neither these numbers, nor their contents, nor "
            "their writers."
            + (" Two equal samples that are both in the test part are no leak." if {7, 9} & set(wrongly) else "")
            + (" The same bytes in a different shape are different content." if 13 in wrongly else "")
            + (" They differ from a training sample in one number." if 14 in wrongly else ""),
        )
    missed = {found[number]: number for number in sorted(right - got)}
    hints = {
        "same sample": ("misses_samples", "is in both parts itself"),
        "same group": ("misses_groups", "has no twin in the training part, but its writer is there"),
        "same content": (
            "misses_contents",
            "has a different number and a different writer than its twin in training",
        ),
    }
    symptom, hint = next(hints[reason] for reason in hints if reason in missed)
    number = next(missed[reason] for reason in hints if reason in missed)
    raise Wrong(symptom, f"{case}: you miss {number}, which {hint}.")
