"""A profiler trace of data-parallel training as a picture: `show_trace("trace_0.json", "trace_1.json")`.

The same files open in https://ui.perfetto.dev. How to write them stands in `trace`.
"""

from collections.abc import Sequence
from os import PathLike

from matplotlib.figure import Figure

from torchcourse.figures import bars, canvas, headline, legend, show
from torchcourse.lessons.data_parallelism.timeline import Span
from torchcourse.lessons.data_parallelism.timeline_picture import KINDS, TIME_COLORS
from torchcourse.lessons.data_parallelism.trace import common_length, computing_and_sending, length, overlap, read_trace


def show_trace(*paths: str | PathLike[str]) -> None:
    """Show the traces of one or more ranks under the cell.

    Raises:
        ValueError: for a file without a step of training in it.
        FileNotFoundError: for a file that is not there.
    """
    spans = [span for path in paths for span in read_trace(path)]
    show(draw_trace(spans), describe_trace(spans))


def draw_trace(spans: Sequence[Span]) -> Figure:
    """Draw a row of computing and a row of communication for each rank, from the start of the first span (ms).

    The bar of a collective ends when its result is there: waiting for a slower rank is part of it.
    """
    ranks = sorted({span.device for span in spans})
    start = min(span.start for span in spans)
    figure, axis = canvas(9.0, 1.6 + 0.7 * len(ranks), left=1.5, right=0.2, bottom=0.9, top=0.4)
    rectangles, colors = [], []
    for span in spans:
        row = 2 * ranks.index(span.device) + (span.kind == "copy")
        rectangles.append((span.start - start, row - 0.4, span.end - span.start, 0.8))
        colors.append(TIME_COLORS[KINDS[span.kind]])
    # Buckets may travel at the same time: where two bars overlap, the color is darker.
    bars(axis, rectangles, colors, edgecolors="white", linewidths=0.3, alpha=0.85)
    axis.set(xlim=(0, max(span.end for span in spans) - start), ylim=(2 * len(ranks) - 0.5, -0.6))
    axis.set_yticks(range(2 * len(ranks)), [f"rank {rank}, {what}" for rank in ranks for what in ("compute", "send")])
    axis.set_xlabel("time (ms), measured")
    headline(figure, _finding(spans))
    legend(figure, TIME_COLORS)
    return figure


def describe_trace(spans: Sequence[Span]) -> str:
    """Say in words what `draw_trace` shows."""
    sentences = []
    for rank in sorted({span.device for span in spans}):
        busy, copies = computing_and_sending(spans, rank)
        sentences.append(
            f"Rank {rank} computes for {length(busy):.1f} ms and communicates for {length(copies):.1f} ms, "
            f"{common_length(copies, busy):.1f} ms of it at the same time."
        )
    return f"{_finding(spans)}. {' '.join(sentences)}"


def _finding(spans: Sequence[Span]) -> str:
    if not any(span.kind == "copy" for span in spans):
        return "Nothing was sent"
    return f"{overlap(spans):.0%} of the communication runs while the same rank computes"
