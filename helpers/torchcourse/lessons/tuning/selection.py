"""Choosing among many trials on few images: what the chosen one scores there, and what it scores on fresh images.

The score used for choosing is too optimistic: among many settings that are about equal, the one whose mistakes happen
to fall outside the validation images wins. Source: Cawley and Talbot, "On Overfitting in Model Selection and Subsequent
Selection Bias in Performance Evaluation", JMLR 11, 2010, https://jmlr.org/papers/v11/cawley10a.html.

What one split of the images shows may be its own luck. The table knows of each image whether each state of each setting
reads it, so the 1,297 images outside training can be split again, many times, without training anything again.
"""

import numpy as np

from torchcourse.lessons.tuning import replay
from torchcourse.lessons.tuning.digits_task import BATCHES, SPACE, VALIDATION

ORDERS, SPLITS = 50, 200


def split_accuracies(
    splits: int = SPLITS, validation: int = VALIDATION, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Return accuracies on validation and on test [splits, 780, 9] for new splits of the 1,297 images.

    Args:
        splits: how many.
        validation: how many images of each are for validation; the others are for test.
        seed: of the splits.

    Raises:
        ValueError: for a validation set that leaves nothing to test on, or holds nothing.
    """
    right = replay.right_images().reshape(-1, replay.right_images().shape[-1])
    images = right.shape[1]
    if not 1 <= validation < images:
        raise ValueError(f"A validation set has 1 to {images - 1} of the {images} images, but not {validation}.")
    generator = np.random.default_rng(seed)
    chosen = np.zeros((images, splits), dtype=np.float32)
    for split in range(splits):
        chosen[generator.permutation(images)[:validation], split] = 1
    correct = (right.astype(np.float32) @ chosen).T  # whole numbers below 2^24, which float32 holds exactly
    rest = right.sum(axis=1) - correct
    shape = (splits, *_settings().shape)
    return (correct / validation).reshape(shape), (rest / (images - validation)).reshape(shape)


def own_split() -> tuple[np.ndarray, np.ndarray]:
    """Return the accuracies on validation and on test [1, 780, 9] of the split that the course uses."""
    return _settings("val")[None], _settings("test")[None]


def chosen_scores(val: np.ndarray, test: np.ndarray) -> np.ndarray:
    """Return accuracies [trials, 2]: validation and test, of the best on validation among the first 1, 2, … trials.

    Args:
        val, test: [trials, epochs], in the order of the search. Of each trial, the epoch is chosen too, as whoever
            keeps the best state of each run does.
    """
    epochs, rows = val.argmax(axis=1), np.arange(len(val))
    best_val, its_test = val[rows, epochs], test[rows, epochs]
    before = np.concatenate([[-1], np.maximum.accumulate(best_val)[:-1]])
    leaders = np.maximum.accumulate(np.where(best_val > before, rows, 0))
    return np.stack([best_val[leaders], its_test[leaders]], axis=1)


def mean_scores(val: np.ndarray, test: np.ndarray, orders: int = ORDERS) -> np.ndarray:
    """Return `chosen_scores` for each split, the mean over random orders of its trials: [splits, trials, 2].

    Args:
        val, test: [splits, trials, epochs].
        orders: random searches through the whole table, the same for each split.
    """
    generator = np.random.default_rng(0)
    drawn = [generator.permutation(val.shape[1]) for _ in range(orders)]
    return np.stack(
        [
            np.mean([chosen_scores(v[order], t[order]) for order in drawn], axis=0)
            for v, t in zip(val, test, strict=True)
        ]
    )


def window(batch_size: int) -> list[float]:
    """Return the learning rates with which a batch size reaches 80% on validation by the last epoch."""
    final = replay.accuracies("batches")[BATCHES.index(batch_size), :, -1]
    return [rate for rate, value in zip(SPACE["lr"], final, strict=True) if value >= 0.8]


def _settings(part: str = "val") -> np.ndarray:
    """Return the accuracies of the table "space", a row for each setting: [780, 9]."""
    table = replay.accuracies("space", part)
    return table.reshape(-1, table.shape[-1])
