"""The picture of a range test: the loss over the learning rate."""

from matplotlib.figure import Figure

from torchcourse import figures
from torchcourse.figures import COLORS
from torchcourse.lessons.tuning.lr_range import RangeTest


def draw_range_test(curve: RangeTest, good: tuple[float, float] | None = None) -> Figure:
    """Draw loss over rate, with the suggestion; `good` marks rates that are known to train well."""
    figure, axis = figures.new(height=3.2)
    axis.plot(curve.rates, curve.losses, color=COLORS["light gray"], label="loss of the batch")
    axis.plot(curve.rates, curve.smoothed, color=COLORS["blue"], label="smoothed")
    axis.axvline(curve.suggestion, color=COLORS["vermillion"], label="suggestion")
    if good:
        axis.axvspan(*good, color=COLORS["green"], alpha=0.15, label="reach 90% in 9 epochs")
    axis.set(xscale="log", xlabel="learning rate", ylabel="loss before the step (nats)")
    axis.set_ylim(0, 1.6 * curve.losses[0])
    axis.legend(frameon=False, fontsize=9)
    axis.set_title(range_finding(curve))
    return figure


def range_finding(curve: RangeTest) -> str:
    """Say what a range test found."""
    return f"The loss is lowest at {curve.lowest:.2g}; start with a tenth of it, {curve.suggestion:.2g}"
