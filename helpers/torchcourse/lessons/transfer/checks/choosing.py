"""The check of lesson 07's exercise 5: the cheapest of the methods that are as good as the best."""

from collections.abc import Callable

import numpy as np

from torchcourse.checks import Wrong, check
from torchcourse.checks.kit import result_of


@check
def choose(learner: Callable[[dict[str, list[float]], dict[str, float], float], str]) -> str:
    """Ask for the choice where the best mean, the cheapest, an open difference or a wrong error would mislead."""
    comparisons = _choices()
    for accuracies, seconds, margin, right, misled in comparisons:
        lists = {name: values.tolist() for name, values in accuracies.items()}
        got = result_of(learner, lists, seconds, margin, what="accuracies or seconds")
        if got == right:
            continue
        if not isinstance(got, str) or got not in accuracies:
            raise Wrong("no_method", f"Return one of the names {', '.join(accuracies)}. You return {got!r}.")
        raise Wrong(*misled)
    return f"{len(comparisons)} comparisons: the cheapest of those that are less than the margin below the best."


Comparison = tuple[dict[str, np.ndarray], dict[str, float], float, str, tuple[str, str]]


def _choices() -> list[Comparison]:
    """Comparisons of 16 seeds: accuracies, seconds, margin, the right choice, and the mistake that leads elsewhere."""
    generator = np.random.Generator(np.random.PCG64(5))
    wave = np.array([1.0, -1.0] * 8) * 15**0.5 / 4  # mean 0 and standard deviation 1
    luck, none = generator.permutation(np.linspace(0.6, 0.9, 16)), np.full(16, 0.8)
    more = {
        "middle": luck - 0.002 + 0.001 * wave,
        "large": luck,
        "small": luck - 0.003 + 0.001 * wave,
        "tiny": luck - 0.2,
    }

    lucky = {"small": np.array([0.99, *none[1:]]) - 0.02, "large": none + 0.01 * wave}
    failed = {"small": np.array([0.5, *none[1:]]) + 0.002, "large": none}
    steps = {"large": none, "middle": none - 0.006 + 0.001 * wave, "small": none - 0.012 + 0.001 * wave}
    mixed = {"small": luck, "large": luck[::-1] + 0.002}
    dear = {"large": none - 0.006 + 0.001 * wave, "middle": none, "small": none - 0.012 + 0.001 * wave}

    def two(seeds: np.ndarray, mean: float, error: float) -> dict[str, np.ndarray]:
        """A cheap and an expensive method whose paired difference has this mean and this standard error."""
        return {"small": seeds, "large": seeds + mean + 4 * error * wave}

    costs, cost = {"large": 60.0, "middle": 20.0, "small": 5.0, "tiny": 0.1}, {"small": 1.0, "large": 60.0}
    return [
        (two(none, 0.004, 0.0005), cost, 0.01, "small", _MISLED["highest_mean"]),
        (two(luck, 0.1, 0.001), cost, 0.01, "large", _MISLED["cheapest"]),
        (two(luck, 0.004, 0.0002), cost, 0.01, "small", _MISLED["unpaired"]),
        (two(luck, 0.002, 0.001), cost, 0.01, "small", _MISLED["deviation"]),
        (two(luck, 0.002, 0.0025), cost, 0.01, "small", _MISLED["absolute"]),
        (two(luck, 0.015, 0.01), cost, 0.01, "large", _MISLED["open"]),
        (two(luck, 0.006, 0.005), cost, 0.01, "large", _MISLED["mean_only"]),
        (mixed, cost, 0.01, "large", _MISLED["sorted"]),
        (two(luck, 0.001, 0.00424), cost, 0.01, "large", _MISLED["short_interval"]),
        (two(luck, 0.001, 0.0042), cost, 0.01, "small", _MISLED["wide_interval"]),
        (two(luck, 0.012, 0.002), cost, 0.02, "small", _MISLED["other_margin"]),
        (more, costs, 0.01, "small", _MISLED["not_cheapest"]),
        (lucky, cost, 0.01, "large", _MISLED["luckiest_seed"]),
        (failed, cost, 0.01, "large", _MISLED["median"]),
        (two(none, 0.004, 0.0005), {"small": 60.0, "large": 1.0}, 0.01, "large", _MISLED["best_left_out"]),
        (steps, {name: costs[name] for name in steps}, 0.01, "middle", _MISLED["step_by_step"]),
        (dear, {name: costs[name] for name in dear}, 0.01, "middle", _MISLED["dearest"]),
    ]


_MISLED = {
    symptom: (symptom, hint)
    for symptom, hint in {
        "highest_mean": "The best mean is 0.004 above the cheap method's, with a standard error of 0.0005. That "
        "is clear, and yet less than the margin of 0.01: it would not matter, and it costs 60 "
        "times as much.",
        "cheapest": "The cheapest method is 0.1 below the best one, and the margin is 0.01. Cheap is not enough.",
        "unpaired": "Both methods had easy and hard seeds, the same ones. Seed by seed, one is above the "
        "other by the same amount every time. Whose error do you compare it with?",
        "deviation": "The mean difference is 0.002, its standard deviation 0.004 and there are 16 seeds. How "
        "sure is the *mean* of 16 differences?",
        "absolute": "The mean difference is 0.002, its standard error 0.0025. In some seeds one method is ahead, in "
        "others the other one, by up to 0.012: with their signs these differences cancel, without them they add up.",
        "open": "The mean difference is 0.015, its standard error 0.01. It is not clear, but nothing "
        "shows that it is small: it may be 0.036, and the margin is 0.01.",
        "mean_only": "The mean difference is 0.006, its standard error 0.005. The mean is within the margin "
        "of 0.01; where does the interval of 95% end?",
        "short_interval": "The mean difference is 0.001, its standard error 0.00424 (deviation of a sample: "
        "ddof=1). For 16 pairs an interval of 95% reaches t95(15) = 2.13 of them, to 0.01003. "
        "The margin is 0.01.",
        "sorted": "Seed by seed, one method is above the other by up to 0.3, or below it by as much. Put in order, the "
        "values are no pairs any more: they no longer have the same seed.",
        "wide_interval": "The mean difference is 0.001, its standard error 0.0042. For 16 pairs an interval of 95% "
        "reaches t95(15) = 2.13 of them, to 0.00995, which is less than the margin of 0.01.",
        "other_margin": "The mean difference is 0.012, its standard error 0.002. The interval ends at 0.016, "
        "and the margin of this comparison is 0.02.",
        "luckiest_seed": "The cheap method has the best single seed, 0.97. Its mean is 0.008 below the other one's. "
        "The best method is the one with the best mean.",
        "median": "In one seed the cheap method fails, with 0.502. Its median is above the other one's, and its mean "
        "0.017 below. The best method is the one with the best mean.",
        "best_left_out": "The best method is also the cheapest here. It is one of those to choose from.",
        "step_by_step": "The second method is 0.006 below the best one, the third 0.006 below the second. The "
        "margin is 0.01. Each is compared with the best one.",
        "dearest": "The best of three methods costs less than a second one, and the cheapest is 0.012 below it. The "
        "margin is 0.01. The best method is the one with the best mean, whatever it costs.",
        "not_cheapest": "Of the methods that are less than the margin below the best, take the one that costs least.",
    }.items()
}
