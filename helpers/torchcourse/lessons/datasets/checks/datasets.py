"""Checks of lesson 06, notebook 1: datasets and loaders. Each names the symptom of a mistake.

In the notebook's order: `pictures`, `batches`, `collate`, `bucket_batches`, `find_leaks`.
"""

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence, Set
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch

from torchcourse.checks import Wrong, check
from torchcourse.checks.kit import result_of
from torchcourse.lessons.datasets.checks.image_files import pictures
from torchcourse.lessons.datasets.checks.sequences import bucket_batches, collate
from torchcourse.lessons.datasets.splits import leaks

__all__ = ["batches", "bucket_batches", "collate", "find_leaks", "pictures"]


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
                outer, self.executor.inside = self.executor.inside, True  # one's work may ask for another's result
                try:
                    self.value = self.work()
                finally:
                    self.executor.inside, self.done = outer, True
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


class _Mixing(_Sampler):
    """A sampler that mixes: its order is a different one each time that somebody goes through it."""

    def __iter__(self) -> Iterator[int]:
        order, self.order = self.order, [*self.order[3:], *self.order[:3]]
        return iter(order)


def _collate_in(executor: _Executor, in_front: list[list]) -> Callable[[list], tuple]:
    """Return a collate that notes what it was given outside of the executor's work."""

    def collate(samples: list) -> tuple:
        if not executor.inside:
            in_front.append(samples)
        if not isinstance(samples, Sequence):
            raise Wrong(
                "lazy_samples",
                f"`collate` was given a value of type {type(samples).__name__}. It takes a list of samples: PyTorch's "
                "own looks at the first of them, and then at all.",
            )
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
        ([4, 2, 9], 200, 2),
        ([], 4, 2),
    ):
        right = [tuple(10 * n for n in list(order)[at : at + size]) for at in range(0, len(order), size)]
        executor = _Executor()
        dataset = _Watched(executor)
        got: list[Any] = []
        collated_in_front: list[list] = []
        collate = _collate_in(executor, collated_in_front)
        case = f"With {len(order)} samples, batch_size={size}, ahead={ahead}"
        under_way: list[int] = []
        early: list[int] = []
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
            early.append(executor.submitted - executor.open - len(got))
            _refuse_outside(dataset, executor, case)
            if len(got) > len(right) + 3:
                break
        _judge_batches(got, right, case)
        if collated_in_front:
            raise Wrong(
                "collated_in_front", f"{case}, `collate` runs in your generator: fetch *and* collate elsewhere."
            )
        if executor.submitted > len(got):
            raise Wrong(
                "in_pieces",
                f"{case}, you gave `submit` {executor.submitted} pieces of work for {len(got)} batches. Fetching and "
                "collating a batch is one piece.",
            )
        if max(early, default=0) > 0:
            raise Wrong(
                "waited_for",
                f"{case}, before batch {early.index(max(early))} is handed over, you wait for {max(early)} of the "
                "later ones with `result()`. Ask for a result when its turn comes.",
            )
        _judge_under_way(under_way, ahead, case)
    with ThreadPoolExecutor(3) as pool:
        got = list(learner(_Watched(None), _Sampler(range(50)), 4, tuple, pool.submit, 3))
    _judge_batches(got, [tuple(range(10 * at, min(10 * at + 40, 500), 10)) for at in range(0, 50, 4)], "With threads")
    _judge_error(learner)
    _judge_second_epoch(learner)
    _judge_mixed_order(learner)
    return "Right batches in the right order, as many under way as asked for, also with three threads."


class _Unreadable(_Watched):
    """A dataset with one sample that cannot be read."""

    def __getitem__(self, number: int) -> int:
        if number == 5:
            raise ValueError("sample 5 cannot be read")
        return super().__getitem__(number)


def _judge_error(learner: Callable[..., Iterable]) -> None:
    executor = _Executor()
    try:
        for _ in learner(_Unreadable(executor), _Sampler(range(8)), 2, tuple, executor.submit, 2):
            pass
    except ValueError as error:
        if "sample 5" in str(error):
            return
        raise
    raise Wrong(
        "swallowed",
        "A sample cannot be read: the dataset raises a ValueError, and your loader goes on without a word. Nobody "
        "hears that the batch is not whole. Let the error through.",
    )


def _judge_second_epoch(learner: Callable[..., Iterable]) -> None:
    """Leave an epoch after its first batch; the next one has its own batches alone."""
    executor = _Executor()
    left = iter(learner(_Watched(executor), _Sampler(range(8)), 2, tuple, executor.submit, 2))
    next(left)
    got = list(learner(_Watched(executor), _Sampler([9, 4]), 2, tuple, executor.submit, 2))
    if got != [(90, 40)]:
        raise Wrong(
            "left_over",
            f"An epoch was left after its first batch, and the next, of the samples 9 and 4, gives {got}. What is "
            "still there from the one before?",
        )


def _judge_mixed_order(learner: Callable[..., Iterable]) -> None:
    executor = _Executor()
    got = list(itertools.islice(learner(_Watched(executor), _Mixing(range(8)), 2, tuple, executor.submit, 2), 8))
    numbers = sorted(value // 10 for batch in got for value in batch)
    if numbers != list(range(8)):
        raise Wrong(
            "drawn_again",
            f"With a sampler whose order is new each time it is gone through, an epoch of the samples 0 to 7 has the "
            f"samples {numbers}. Go through the sampler once.",
        )


def _judge_under_way(under_way: list[int], ahead: int, case: str) -> None:
    for number, count in enumerate(under_way):
        should = min(ahead, len(under_way) - 1 - number)
        if count > ahead + 1:
            raise Wrong(
                "too_far", f"{case}, {count} batches are under way at once. A long epoch would fill the memory."
            )
        if count < should:
            raise Wrong(
                "not_far_enough",
                f"{case}, {count} batch(es) are under way while batch {number} is used. It should be {should}: start "
                "more before you hand this one over.",
            )


def _judge_batches(got: list, right: list[tuple], case: str) -> None:
    if got == right:
        return
    for batch in got:
        if not isinstance(batch, tuple):
            kind = type(batch).__name__.lstrip("_")
            raise Wrong("not_collated", f"{case}, you yield a value of type {kind} that `collate` did not make.")
    if got == right[: len(got)]:
        raise Wrong(
            "end_lost",
            f"{case}, you yield {len(got)} of {len(right)} batches, and the last has {len(right[-1])} sample(s). What "
            "is still under way, or left out because it does not fill a batch?",
        )
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
        ([2, 0, 3, 1], [2, 5, 7, 9, 11, 15]),
        ([0, 1, 5], [6, 7, 9, 11]),
        ([8, 11], [1, 2, 6]),
        ([11, 6, 10], [2, 3, 4, 5, 7]),
        ([8, 5], [0, 1, 3]),
        ([12, 5], [0, 13, 14, 15]),
        ([16], [17, 18]),
    ]
    for train, test in cases:
        right = leaks(samples, groups, train, test)
        # Built again for each sample: equal names need not be one object.
        got = result_of(learner, samples, ["".join(name) for name in groups], train, test)
        if not isinstance(got, (Set, list, tuple)):
            raise Wrong("wrong_type", f"Return a set of numbers of test samples. You return {type(got).__name__}.")
        if any(isinstance(number, bool) for number in got):
            raise Wrong("wrong_type", "Return a set of numbers of test samples. You return True and False.")
        case = f"Trained on {train}, tested on {test}"
        _judge_leaks(set(map(int, got)), right, set(test), case)
    return "Eight splits: the same number, the same picture, the same writer, and no leak where there is none."


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
    samples.append(torch.rand(4, 4, generator=generator))
    samples.append(samples[16] * (1 + 1e-6))  # the next recording, nearly the same
    samples.append(samples[16].clone())
    writers = [1, 1, 2, 3, 3, 4, 5, 6, 7, 8, 2, *range(9, 17)]  # "writer 13" begins as "writer 1" does
    return samples, [f"writer {number}" for number in writers]


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
            + (" They differ from a training sample in one number." if 14 in wrongly else "")
            + (" It is nearly the same as a training sample, and nearly is not equal." if 17 in wrongly else ""),
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
