"""The picture of local SGD: the waiting and the accuracy over the number of local steps."""

from collections.abc import Mapping, Sequence

from torchcourse import figures
from torchcourse.error_bars import paired, t95
from torchcourse.figures import COLORS


def waiting_and_accuracy(waited: Mapping[str, Mapping[int, float]], accuracies: Mapping[int, Sequence[float]]) -> None:
    """Show both.

    Args:
        waited: what is slow → H → the share of the time spent waiting.
        accuracies: H → the accuracy for each seed; the first H is what the others are compared with.
    """
    figure, (left, right) = figures.new(height=3.3, ncols=2)
    for (name, shares), color in zip(waited.items(), (COLORS["blue"], COLORS["vermillion"]), strict=True):
        left.plot(list(shares), list(shares.values()), "o-", color=color, label=f"slow: {name}")
    left.set(xlabel="local steps H between two averages", ylabel="share of the time spent waiting", ylim=(0, 1))
    left.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    left.legend(frameon=False)
    (at_random, always) = waited.values()
    first, last = min(at_random), max(at_random)
    found = (
        f"From H = {first} to {last}, waiting falls from {at_random[first]:.0%} to {at_random[last]:.0%} where ranks "
        f"are slow now and then, and goes from {always[first]:.0%} to {always[last]:.0%} with one slow rank"
    )
    figures.headline(figure, found.replace(" where ", "\nwhere ").replace("then, ", "then,\n"))
    base = next(iter(accuracies))
    gains = {every: paired(values, accuracies[base]) for every, values in accuracies.items() if every != base}
    right.axhline(0, color=COLORS["gray"])
    right.errorbar(
        [str(every) for every in gains],
        [100 * gain.mean for gain in gains.values()],
        yerr=[100 * gain.error * t95(gain.pairs - 1) for gain in gains.values()],
        fmt="o",
        color="black",
        capsize=4,
    )
    pairs = next(iter(gains.values())).pairs
    right.set(
        xlabel="local steps H between two averages",
        ylabel=f"accuracy against H = {base}\n(points, {pairs} seeds, 95% intervals)",
    )
    text = "; ".join(f"H = {every}: {100 * gain.mean:+.1f} points" for every, gain in gains.items())
    figures.show(figure, f"{found}. Accuracy against H = {base}: {text}.")
