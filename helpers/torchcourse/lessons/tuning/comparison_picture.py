"""Pictures of comparisons: methods at one budget, and what a number of seeds can show."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from torchcourse import figures
from torchcourse.error_bars import paired, standard_error, t95
from torchcourse.figures import COLORS, CYCLE
from torchcourse.lessons.tuning.comparison import clear_share


def draw_methods(scores: Mapping[str, np.ndarray], budgets: Sequence[int], budget: int) -> Figure:
    """Draw each method's runs at one budget, and its mean with the 95% interval.

    Args:
        scores: name → scores [budgets, seeds] in percent, as `compare` returns them.
        budgets: in epochs.
        budget: the one to draw.
    """
    figure, axis = figures.new(height=3.2)
    row = list(budgets).index(budget)
    for place, table in enumerate(scores.values()):
        runs = table[row]
        half = t95(len(runs) - 1) * standard_error(runs)
        spots = place + np.linspace(-0.25, 0.25, len(runs))
        axis.plot(runs, spots, "o", color=COLORS["gray"], ms=2, alpha=min(0.5, 100 / len(runs)), mew=0)
        axis.errorbar(runs.mean(), place, xerr=half, fmt="D", color=CYCLE[place], capsize=6, ms=6, zorder=3)
        axis.annotate(f"{runs.mean():.1f}", (runs.mean(), place + 0.38), ha="center", va="center", fontsize=8)
    axis.set_yticks(range(len(scores)), list(scores))
    low = min(table[row].min() for table in scores.values())
    axis.set(xlim=(max(min(low, 94), 80), 99), ylim=(len(scores) - 0.4, -0.5))
    axis.set_xlabel("test accuracy of the chosen trial (%); runs below 80% are not shown")
    axis.set_title(methods_finding(scores, budgets, budget))
    return figure


def methods_finding(scores: Mapping[str, np.ndarray], budgets: Sequence[int], budget: int) -> str:
    """Say what ASHA gains over random search, and whether that is clear."""
    row = list(budgets).index(budget)
    gain = paired(scores["ASHA"][row], scores["random"][row])
    verdict = "" if gain.clear else " (not clear)"
    text = f"ASHA − random {gain.mean:+.2f} points, 95% {gain.low:+.2f} to {gain.high:+.2f}{verdict}"
    return f"{budget} epochs: {text}".replace("-", "−")


def draw_clear_share(pairs: Mapping[str, tuple[np.ndarray, np.ndarray]], seeds: Sequence[int]) -> Figure:
    """Draw for each pair of settings how often an experiment with so many seeds a side finds a difference."""
    figure, axis = figures.new(height=3.2)
    for name, (first, second) in pairs.items():
        shares = [100 * clear_share(first, second, count) for count in seeds]
        axis.plot(seeds, shares, "o-", ms=4, label=name)
    axis.axhline(80, color=COLORS["gray"], linewidth=0.8)
    axis.axhline(5, color=COLORS["gray"], linewidth=0.8, linestyle=":")
    axis.set(xscale="log", xlabel="seeds a side", ylabel="experiments that find it (%)", ylim=(0, 103))
    axis.set_xticks(list(seeds), [str(count) for count in seeds])
    axis.minorticks_off()
    axis.legend(frameon=False, fontsize=8)
    axis.set_title(clear_share_finding(pairs, seeds))
    return figure


def clear_share_finding(pairs: Mapping[str, tuple[np.ndarray, np.ndarray]], seeds: Sequence[int]) -> str:
    """Say how many of these seeds each pair needs to be found in four experiments of five."""
    parts = []
    for name, (first, second) in pairs.items():
        enough = [count for count in seeds if clear_share(first, second, count) >= 0.8]
        parts.append(f"{name}: {enough[0]}" if enough else f"{name}: over {seeds[-1]}")
    return "Seeds for 80%: " + "; ".join(parts)
