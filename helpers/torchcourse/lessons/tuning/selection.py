"""Choosing among many trials on few images: what the chosen one scores there, and what it scores on fresh images.

The score that chose is too good: among many settings that are about equal, the one whose mistakes happen to fall
outside the validation images wins. Source: Cawley and Talbot, "On Over-fitting in Model Selection and Subsequent
Selection Bias in Performance Evaluation", JMLR 11, 2010, https://jmlr.org/papers/v11/cawley10a.html.
"""

import numpy as np

from torchcourse.lessons.tuning import replay
from torchcourse.lessons.tuning.digits_task import BATCHES, SPACE

ORDERS = 100


def chosen_scores(order: np.ndarray) -> np.ndarray:
    """Return accuracies [trials, 2]: validation and test, of the best on validation among the first 1, 2, … trials.

    Args:
        order: the positions of the trials [trials] in the flattened table "space". Of each trial, the epoch is chosen
            too, as whoever keeps the best state of each run does.
    """
    val = replay.accuracies("space", "val").reshape(780, -1)[order]
    test = replay.accuracies("space", "test").reshape(780, -1)[order]
    epochs = val.argmax(axis=1)
    rows = np.arange(len(order))
    best_val, its_test = val[rows, epochs], test[rows, epochs]
    leader, leaders = 0, []
    for row in range(len(order)):
        leader = row if best_val[row] > best_val[leader] else leader
        leaders.append(leader)
    return np.stack([best_val[leaders], its_test[leaders]], axis=1)


def mean_scores(orders: int = ORDERS) -> np.ndarray:
    """Return `chosen_scores` [orders, 780, 2] of so many random searches through the whole table."""
    generator = np.random.default_rng(0)
    return np.stack([chosen_scores(generator.permutation(780)) for _ in range(orders)])


def window(batch_size: int) -> list[float]:
    """Return the learning rates with which a batch size reaches 80 % on validation by the last epoch."""
    final = replay.accuracies("batches")[BATCHES.index(batch_size), :, -1]
    return [rate for rate, value in zip(SPACE["lr"], final, strict=True) if value >= 0.8]
