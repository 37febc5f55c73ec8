"""Who loads, trains and waits, when: a row for the training loop and one for each worker."""

from matplotlib.figure import Figure

from torchcourse import figures
from torchcourse.lessons.datasets.waiting import simulate, timeline_finding


def draw_timeline(workers: int, load: float, step: float = 10.0, send: float = 1.0) -> Figure:
    """Draw who does what, when: a row for each worker and one for the training loop."""
    run = simulate(load, step, workers, send=send, batches=12)
    figure, axes = figures.new(7.5, 1.5 + 0.3 * max(workers, 1))
    rows = {worker: row for row, worker in enumerate(range(workers), 1)} | {None: 0}
    for number, (worker, begin, end) in enumerate(run.made):
        axes.barh(
            rows[worker], end - begin, 0.7, left=begin, color=figures.COLORS["sky"], edgecolor="white", linewidth=1
        )
        if workers and end - begin >= 6:
            axes.text((begin + end) / 2, rows[worker], str(number), ha="center", va="center", fontsize=8)
    for number, (begin, end) in enumerate(run.steps):
        axes.barh(0, end - begin, 0.7, left=begin, color=figures.COLORS["green"], edgecolor="white", linewidth=1)
        axes.text((begin + end) / 2, 0, str(number), ha="center", va="center", fontsize=8)
    axes.set_yticks([0, *range(1, workers + 1)], ["training loop", *(f"worker {worker}" for worker in range(workers))])
    axes.invert_yaxis()
    axes.set_xlabel("time [ms]; numbers are batches, green trains, blue loads, white waits")
    axes.set_title(timeline_finding(workers, load, step, send))
    return figure
