"""Checks of lesson 03, notebook 2, on what comes out of a study: the score to report, and the share of one axis."""

from collections.abc import Callable

import numpy as np

from torchcourse.checks import Wrong, check
from torchcourse.checks.kit import AnyOf, number, number_of, refuse_known, result_of, same


@check
def honest(learner: Callable[[np.ndarray, np.ndarray], float]) -> str:
    """Choose on validation, report on test: compare on random tables."""
    generator = np.random.default_rng(18)  # with it each known mistake gives a number of its own in the first table
    for trials, epochs, harder in ((12, 9, 0.0), (40, 3, 0.3), (1, 4, 0.0), (200, 9, 0.0)):
        val, test = (generator.uniform(0.6, 0.98, (trials, epochs)) for _ in range(2))
        val -= harder  # validation scores may all be below those on test
        given = number_of(result_of(learner, val, test, what="a table"), "the accuracy")
        _judge_honest(given, val, test)
    _judge_ties(learner)
    return "Chosen on validation alone, reported on images that chose nothing: four tables, and one with equal scores."


def _judge_ties(learner: Callable[[np.ndarray, np.ndarray], float]) -> None:
    """Three states are the best on validation. By rows and by columns, the best on test is neither first nor last."""
    val, test = np.full((6, 3), 0.7), np.linspace(0.5, 0.6, 18).reshape(6, 3)
    for place, score in (((1, 0), 0.78), ((3, 1), 0.86), ((5, 2), 0.81)):
        val[place], test[place] = 0.9, score
    if same(number(learner(val, test)), 0.86):
        raise Wrong(
            "test_chose_among_equals",
            "Three states have 0.9 on validation, and 0.78, 0.86 and 0.81 on test. You report 0.86: among equals the "
            "test images have chosen.",
        )


def _judge_honest(given: float, val: np.ndarray, test: np.ndarray) -> None:
    trial, epoch = np.unravel_index(val.argmax(), val.shape)
    right = test[trial, epoch]
    if same(given, right):
        return
    known = {
        "validation": (
            val.max(),
            f"{given:.3f} is the score that chose. It is the best of {val.size} for being so lucky.",
        ),
        "test_chose": (test.max(), f"{given:.3f} is the best test score of all: now the test images have chosen."),
        "roles_swapped": (
            val.flat[test.argmax()],
            "You choose on the test images and report the validation score. It is the other way round.",
        ),
        "last_epoch": (
            AnyOf((test[trial, -1], test[val[:, -1].argmax(), -1])),
            "The epoch belongs to the choice too: the state that was kept is not that of the last.",
        ),
        "trial_by_its_last": (
            test[val[:, -1].argmax(), val[val[:, -1].argmax()].argmax()],
            "You choose the trial by its last epoch. Which entry of the whole table is largest?",
        ),
        "test_chose_epoch": (
            test[trial].max(),
            "The trial was chosen on validation, but its epoch by the test images.",
        ),
    }
    refuse_known(given, known)
    raise Wrong("wrong_value", f"The chosen state scores {right:.3f} on the test images; you report {given:.3f}.")


@check
def main_effect(learner: Callable[[np.ndarray, int], float]) -> str:
    """Compare with the variance of an axis's means over the variance of the whole table."""
    generator = np.random.default_rng(2)
    for shape in ((4, 3), (2, 5, 3), (3, 2, 2, 4)):
        table = generator.random(shape) + generator.random((shape[0],) + (1,) * (len(shape) - 1))
        for axis in range(len(shape)):
            given = number_of(result_of(learner, table, axis, what="the table"), "the share of the axis")
            _judge_effect(given, table, axis)
    return "The share of each axis, on tables of two, three and four hyperparameters."


def _judge_effect(given: float, table: np.ndarray, axis: int) -> None:
    means = _means(table, axis)
    right = means.var() / table.var()
    if same(given, right, tolerance=1e-6):
        return
    known = {
        "no_share": (
            means.var(),
            f"{given:.4f} is a variance. A share compares it with the variance of the whole table.",
        ),
        "deviation": (means.std() / table.std(), "You divide standard deviations. Shares add up for variances only."),
        "wrong_axis": (
            table.mean(axis=axis).var() / table.var(),
            "You averaged over the axis itself: what is left is the effect of all the others.",
        ),
        "percent": (100 * means.var() / table.var(), "A share from 0 to 1 was asked for, not percent."),
        "ddof": (
            AnyOf((means.var(ddof=1) / table.var(ddof=1), means.var(ddof=1) / table.var())),
            "You divide by n − 1, as for a sample. The table holds all values: divide by n.",
        ),
        "of_main_effects": (
            means.var() / sum(_means(table, other).var() for other in range(table.ndim)),
            "You divide by the sum of all main effects. The variance of the table has more: what they do together.",
        ),
        "total_effect": (
            table.var(axis=axis).mean() / table.var(),
            "That is how much the values vary along the axis while the others are held: the total effect. Asked is the "
            "variance of the means.",
        ),
        "upside_down": (1 / right, "Your share is upside down: the variance of the whole table goes below the line."),
        "the_rest": (
            1 - right,
            "That is what this axis leaves: the mean of the variances, and asked is the variance of the means.",
        ),
        "sums": (
            right * len(means) / table.size,
            f"You divide sums of squares, one over {len(means)} means, the other over {table.size} values. Variances "
            "are means of squares.",
        ),
        "reshaped": (
            table.reshape(len(means), -1).mean(axis=1).var() / table.var(),
            "`reshape` does not move an axis to the front: each of your rows mixes several values of this axis.",
        ),
    }
    refuse_known(given, known, tolerance=1e-6)
    raise Wrong("wrong_value", f"For axis {axis} of a table of the shape {table.shape} the share is not {given:.4f}.")


def _means(table: np.ndarray, axis: int) -> np.ndarray:
    """The mean over all other axes, for each value along this one."""
    return table.mean(axis=tuple(other for other in range(table.ndim) if other != axis))
