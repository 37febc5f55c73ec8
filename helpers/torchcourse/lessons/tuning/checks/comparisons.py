"""Checks of lesson 03, notebook 1, on comparisons: a fair report, and how often a difference is found."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from torchcourse.checks import Wrong, check
from torchcourse.checks.kit import AnyOf, number_of, numbers, refuse_known, result_of, same
from torchcourse.error_bars import t95
from torchcourse.lessons.tuning.comparison import clear_share

Method = Callable[[int, int], tuple[np.ndarray, np.ndarray]]


@check
def report(learner: Callable[[Method, Method, int, Sequence[int]], tuple[float, float]]) -> str:
    """Let it compare planted methods that note how they are called."""
    for budget, seeds in ((90, range(8)), (30, (11, 4, 7, 2, 9))):
        calls: dict[str, list[tuple[int, int]]] = {"ours": [], "theirs": []}
        ours, theirs = (_method(name, shift, calls[name]) for name, shift in (("ours", 0.01), ("theirs", 0.0)))
        given = numbers(learner(ours, theirs, budget, seeds))
        if given is None or len(given) != 2:
            raise Wrong("wrong_type", "Return two numbers: the mean difference, and half the width of its interval.")
        _judge_calls(calls, budget, list(seeds))
        runs = [[method(budget, seed) for seed in seeds] for method in (ours, theirs)]
        chosen = np.array([[test[val.argmax()] for val, test in side] for side in runs])
        _judge_mean(given[0], runs, chosen)
        _judge_half(given[1], chosen)
    return "Equal budgets, the same seeds, chosen on validation, every seed counted: on two planted comparisons."


def _method(name: str, shift: float, calls: list[tuple[int, int]]) -> Method:
    def run(budget: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
        calls.append((budget, seed))
        common = np.random.default_rng([budget, seed]).normal(0, 0.02)
        own = np.random.default_rng([budget, seed, len(name)])
        val = own.uniform(0.8, 0.95, 12)
        return val, val + shift + common + own.normal(0, 0.02, 12)

    return run


def _judge_calls(calls: dict[str, list[tuple[int, int]]], budget: int, seeds: list[int]) -> None:
    if not all(calls.values()):
        raise Wrong("not_run", "One of the two methods was never run.")
    if any({seed for _, seed in made} != set(seeds) for made in calls.values()):
        raise Wrong("seeds", f"Both methods should run with each of the seeds {seeds}, and with no others.")
    spent = {name: sum(epochs for epochs, _ in made) for name, made in calls.items()}
    made = [*calls["ours"], *calls["theirs"]]
    if spent["ours"] != spent["theirs"] or any(epochs != budget for epochs, _ in made):
        raise Wrong(
            "budgets",
            f"Ours had {spent['ours']} epochs in total, theirs {spent['theirs']}. Each search should get {budget}.",
        )


def _judge_mean(mean: float, runs: list, chosen: np.ndarray) -> None:
    """Compare with the mean difference of the test scores that validation chose, `chosen` [2, seeds]."""
    right = (chosen[0] - chosen[1]).mean()
    if same(mean, right, tolerance=1e-6):
        return
    by_test = np.array([[test.max() for _, test in side] for side in runs])
    by_val = np.array([[val.max() for val, _ in side] for side in runs])
    others = (*chosen.max(1), *chosen.mean(1), *by_test.max(1))
    known = {
        "test_chose": (
            AnyOf(by_test[0].mean() - other[1].mean() for other in (by_test, chosen)),
            "The test images choose the trial: each method is flattered by its luckiest one.",
        ),
        "validation": (
            by_val[0].mean() - by_val[1].mean(),
            "You compare the scores that chose. Choose on validation, then compare on test.",
        ),
        "best_of_seeds": (
            AnyOf(ours[0].max() - other for ours in (chosen, by_test) for other in others),
            "A lucky seed stands for a method. Every seed counts.",
        ),
        "sign": (-right, "The sign is turned round: ours − theirs is asked for."),
        "points": (
            100 * right,
            "Your mean is in percent. The accuracies go from 0 to 1, and so does their difference.",
        ),
        "roles_swapped": (
            np.mean([one[0][one[1].argmax()] - two[0][two[1].argmax()] for one, two in zip(*runs, strict=True)]),
            "You choose on test and compare on validation. A method returns its validation accuracies first.",
        ),
        "swapped": (_half(chosen), "Your first number is half the width of the interval. The mean comes first."),
        "ends": (
            right - _half(chosen),
            "Your first number is where the interval begins. Return its middle, the mean, and half its width.",
        ),
    }
    refuse_known(mean, known, tolerance=1e-6)
    raise Wrong("mean", f"The mean difference here is {right:+.4f}, and not {mean:+.4f}.")


def _judge_half(half: float, chosen: np.ndarray) -> None:
    """Compare with half the width of the 95% interval of the pairs' mean difference."""
    gaps, count = chosen[0] - chosen[1], chosen.shape[1]
    deviation, factor, root = gaps.std(ddof=1), t95(count - 1), math.sqrt(count)
    right = _half(chosen)
    if same(half, right, tolerance=1e-6):
        return
    apart = math.hypot(*chosen.std(axis=1, ddof=1)) / root
    known = {
        "deviation": (
            AnyOf((factor * deviation, deviation)),
            "That is how far single pairs spread. The mean of n pairs is more certain than one pair.",
        ),
        "whole_width": (2 * right, "That is the whole width of the interval. Asked for is half of it."),
        "one_error": (
            deviation / root,
            "That is one standard error: an interval that holds the truth in 68% of cases or fewer.",
        ),
        "unpaired": (
            AnyOf((factor * apart, t95(2 * count - 2) * apart)),
            "The interval ignores the pairs. Both methods had the same seed: take differences first.",
        ),
        "ddof": (
            factor * gaps.std() / root,
            "The deviation of a sample divides by n − 1; yours divides by n and is too small.",
        ),
    }
    refuse_known(half, known, tolerance=1e-6)
    raise Wrong("half", f"Half the interval should be {right:.4f} for these {count} pairs. You return {half:.4f}.")


def _half(chosen: np.ndarray) -> float:
    gaps = chosen[0] - chosen[1]
    return t95(len(gaps) - 1) * gaps.std(ddof=1) / math.sqrt(len(gaps))


@check
def share_found(learner: Callable[..., float]) -> str:
    """Compare with a simulation of our own for planted runs that lie from -1 to 3 standard deviations apart."""
    first = np.random.default_rng(0).normal(90, 0.4, 40)
    cases = [(shift, first + shift, seeds) for shift, seeds in ((0.0, 10), (0.4, 10), (-0.4, 10), (0.2, 10), (1.2, 2))]
    shares = _repeatable_shares(learner, first, cases)
    for given, (shift, second, seeds) in zip(shares, cases, strict=True):
        wanted = clear_share(first, second, seeds, 4000)
        if abs(given - wanted) > 0.07:
            where = f"{seeds} seeds per side, runs {shift:.1f} points apart: you find it in "
            if 1 > given > wanted and _share(learner, first, first, seeds) == 0:
                raise Wrong(
                    "tied_draws",
                    f"{where}{given:.0%}, and between two equal sides never. Does one draw serve for both sides? Each "
                    "draws its own runs.",
                )
            other_way = _share(learner, second, first, seeds)
            if abs(other_way - wanted) < 0.07:
                raise Wrong(
                    "one_sided",
                    f"{where}{given:.1%}, and with the two sides exchanged in {other_way:.1%}. A difference may have "
                    "either sign.",
                )
            _refuse_share(where, given, wanted, first, second, seeds)
    few, wide = np.array([90.0, 91.0, 92.0]), np.array([90.0, 94.0, 98.0])  # 10 of 3 need draws with replacement
    given, wanted = _share(learner, few, wide, 10), clear_share(few, wide, 10, 4000)
    if abs(given - wanted) > 0.07:
        raise Wrong(
            "few_runs",
            f"With 3 runs of each side, one side spread wider, and 10 seeds you find it in {given:.0%}, and it should "
            f"be {wanted:.0%}. Do you draw 10 with replacement, and take the deviation of each side?",
        )
    return "The shares agree with another simulation for five experiments, and without a difference it is about 5%."


def _repeatable_shares(learner: Callable[..., float], first: np.ndarray, cases: list) -> list[float]:
    """Return what it finds in each case (shift, second, seeds), if it finds that twice, in enough experiments."""
    shares = []
    for _, second, seeds in cases:
        given, again = (_share(learner, first, second, seeds) for _ in range(2))
        if given != again:
            raise Wrong(
                "not_repeatable",
                f"A generator with the same seed gives {given:.1%} and {again:.1%}. Draw from it alone.",
            )
        shares.append(given)
    whole = all(share <= 1 and abs(share - round(share, 2)) < 1e-9 for share in shares)
    if whole and sum(0 < share < 1 for share in shares) > 2:
        raise Wrong(
            "too_few",
            f"Your shares are {', '.join(f'{share:.2f}' for share in shares)}: whole hundredths, as of 100 "
            "experiments. Simulate 1,000.",
        )
    return shares


def _share(learner: Callable[..., float], first: np.ndarray, second: np.ndarray, seeds: int) -> float:
    generator = np.random.default_rng(7)
    answer = result_of(lambda *sides: learner(*sides, seeds, generator), first, second, what="the runs")
    share = number_of(answer, "the share from 0 to 1")
    if 0 < share < 1 and _state(generator) == _state(np.random.default_rng(7)):
        raise Wrong("not_drawn", "Your function draws nothing from the generator that it is given. Draw from it alone.")
    return share


def _state(generator: np.random.Generator) -> tuple[Any, ...]:
    """What changes with each draw, and with each generator that is spawned."""
    bits = generator.bit_generator
    return bits.state, getattr(bits.seed_seq, "n_children_spawned", 0)


def _refuse_share(where: str, given: float, wanted: float, first: np.ndarray, second: np.ndarray, seeds: int) -> None:
    if given > 1:
        raise Wrong("no_share", f"{given:g} is not a share. A share goes from 0 to 1.")
    if given in (0.0, 1.0):
        raise Wrong("always_the_same", f"{where}{given:.0%}. Does each repeat draw again, and each side by itself?")
    generator = np.random.default_rng(1)
    draws = [generator.choice(side, (4000, seeds)) for side in (first, second)]
    gaps = draws[1].mean(axis=1) - draws[0].mean(axis=1)
    one, two = (draw.std(axis=1, ddof=1) / math.sqrt(seeds) for draw in draws)
    both, t = np.hypot(one, two), t95(2 * seeds - 2)
    for symptom, share, near, hint in (
        (
            "the_others_counted",
            1 - wanted,
            0.03,
            f"which is what {wanted:.0%} leaves. Do you count the experiments that do not find it?",
        ),
        (
            "no_difference",
            clear_share(first, first, seeds, 4000),
            0.02,
            "as often as between two equal sides. Does each side draw from its own runs?",
        ),
        ("sign", np.mean(gaps > 0), 0.05, "as often as one mean is merely above the other."),
        *(
            (
                "other_factor",
                np.mean(abs(gaps) > factor * both),
                0.02,
                f"as often as where an interval ends {factor:.2f} standard errors from the middle. With {seeds} seeds "
                f"it is t95({2 * seeds - 2}) = {t:.2f}.",
            )
            for factor in (t95(2 * seeds), t95(2 * seeds - 1), t95(seeds), t95(seeds - 1), 1.96)
        ),
        (
            "ddof",
            np.mean(abs(gaps) > t * both * math.sqrt(1 - 1 / seeds)),
            0.02,
            "as often as with deviations that divide by n. Those of a sample divide by n − 1.",
        ),
        (
            "one_error",
            np.mean(abs(gaps) > t * one),
            0.05,
            "as often as with the error of one mean. Both means are uncertain.",
        ),
    ):
        if abs(given - share) < near:
            raise Wrong(symptom, f"{where}{given:.0%}, {hint}")
    raise Wrong(
        "too_rarely" if given < wanted else "too_often",
        f"{where}{given:.0%}, and it should be {wanted:.0%}. How wide is the interval?",
    )
