"""Measured communication and scaling beside what the formulas say, as pictures."""

from collections.abc import Sequence

from matplotlib.figure import Figure

from torchcourse.figures import COLORS, headline, new
from torchcourse.lessons.data_parallelism.cost import AlphaBeta, Scaling, amdahl_speedup, serial_fraction


def draw_alpha_beta(network: AlphaBeta) -> Figure:
    """Draw the measured all-reduces of `measure_alpha_beta` as points and the fitted line, on logarithmic axes."""
    figure, axis = new()
    first, last = min(network.sizes), max(network.sizes)
    sizes = [first * (last / first) ** (index / 50) for index in range(51)]
    axis.plot(sizes, [1e3 * network.all_reduce(size) for size in sizes], color=COLORS["blue"], label="α–β model")
    axis.plot(network.sizes, [1e3 * s for s in network.seconds], "o", color=COLORS["vermillion"], label="measured")
    axis.set(xscale="log", yscale="log", xlabel="size of the tensor (bytes)", ylabel="one all-reduce (ms)")
    headline(
        figure,
        f"{network.world_size} ranks: α = {1e6 * network.alpha:.0f} µs per message, "
        f"1/β = {network.bandwidth / 1e9:.2g} GB per second",
    )
    axis.legend(frameon=False)
    return figure


def draw_scaling(measured: Sequence[Scaling], predicted_seconds: Sequence[float]) -> Figure:
    """Draw the measured speed-up over one rank beside three expectations.

    They are: N times as fast; the α–β prediction; and Amdahl's law with the serial fraction that the first
    measurement on more than one rank shows.

    Args:
        measured: from `measure_scaling`, the first with one rank.
        predicted_seconds: of a step, from `predict_step`, one for each measurement.

    Raises:
        ValueError: if the first measurement is not with one rank, or there is no other.
    """
    if len(measured) < 2 or measured[0].world_size != 1:
        raise ValueError("A speed-up is over one rank: measure world_sizes=(1, 2, …), with 1 first.")
    ranks = [point.world_size for point in measured]
    one = measured[0].step_seconds
    speedups = [one / point.step_seconds for point in measured]
    fraction = min(1.0, max(0.0, serial_fraction(speedups[1], ranks[1])))
    expectations = {
        "N times as fast": (ranks, COLORS["gray"], ":"),
        "α–β prediction": ([one / seconds for seconds in predicted_seconds], COLORS["blue"], "--"),
        f"Amdahl, {fraction:.0%} serial": ([amdahl_speedup(n, fraction) for n in ranks], COLORS["green"], "-."),
    }
    figure, axis = new()
    for name, (values, color, style) in expectations.items():
        axis.plot(ranks, values, style, color=color, label=name)
    axis.plot(ranks, speedups, "o-", color=COLORS["vermillion"], label="measured")
    axis.set(xlabel="ranks", ylabel="times as fast as 1 rank", ylim=(0, None))
    axis.set_xticks(ranks)
    efficiency = speedups[-1] / ranks[-1]
    headline(figure, f"{ranks[-1]} ranks train {speedups[-1]:.2g} times as fast as one: {efficiency:.0%} efficient")
    axis.legend(frameon=False)
    return figure
