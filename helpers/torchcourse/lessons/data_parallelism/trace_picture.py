"""A profiler trace of data-parallel training as a picture: what each rank computes, and what travels meanwhile.

In a rank, profile a step or two and export one file a rank:

    with torch.profiler.profile() as profiler:
        train_step()
    profiler.export_chrome_trace(f"trace_{rank}.json")

Then, in the notebook: `show_trace("trace_0.json", "trace_1.json")`. The same files open in https://ui.perfetto.dev.
"""

import json
from collections.abc import Iterable, Sequence
from os import PathLike
from pathlib import Path

from matplotlib.figure import Figure

from torchcourse.figures import bars, canvas, headline, legend, show
from torchcourse.lessons.data_parallelism.timeline import Span
from torchcourse.lessons.data_parallelism.timeline_picture import KINDS, TIME_COLORS


def show_trace(*paths: str | PathLike[str]) -> None:
    """Show the traces of one or more ranks under the cell.

    Raises:
        ValueError: for a file without a step of training in it.
        FileNotFoundError: for a file that is not there.
    """
    spans = [span for path in paths for span in read_trace(path)]
    show(draw_trace(spans), describe_trace(spans))


def read_trace(path: str | PathLike[str]) -> list[Span]:
    """Return what one rank did, from a file of `export_chrome_trace`: times in milliseconds, `device` is the rank.

    On CPU ranks it finds the forward pass of DDP, each piece of the backward pass, the optimizer, and gloo's
    collectives. On GPUs it finds kernels, which count as "backward" unless they are NCCL's, as a kernel does not say
    which pass started it.

    Raises:
        ValueError: for a file without a step of training in it.
    """
    trace = json.loads(Path(path).read_text())
    events = [event for event in trace.get("traceEvents", []) if event.get("ph") == "X"]
    rank = trace.get("distributedInfo", {}).get("rank", 0)
    on_gpu = any(event.get("cat") == "kernel" for event in events)
    start = trace.get("baseTimeNanoseconds", 0) / 1e6
    spans = []
    for event in events:
        kind = _kind_of_kernel(event) if on_gpu else _kind_on_cpu(event["name"])
        if kind is not None:
            begin = start + event["ts"] / 1e3
            spans.append(Span(rank, kind, begin, begin + event["dur"] / 1e3))
    if not spans:
        raise ValueError(f"{path} holds no step of training: call the model and backward() inside the profiler.")
    return spans


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
    # Buckets may travel at the same time: where two bars overlap, the colour is darker.
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
        copies = _merged((s.start, s.end) for s in spans if s.device == rank and s.kind == "copy")
        busy = _merged((s.start, s.end) for s in spans if s.device == rank and s.kind != "copy")
        sentences.append(
            f"Rank {rank} computes for {_length(busy):.1f} ms and communicates for {_length(copies):.1f} ms, "
            f"{_common(copies, busy):.1f} ms of it at the same time."
        )
    return f"{_finding(spans)}. {' '.join(sentences)}"


def overlap(spans: Sequence[Span]) -> float:
    """Return which part of the time of communication, 0 to 1, the same rank also computes in. All ranks together.

    Raises:
        ValueError: if nothing was communicated.
    """
    common = total = 0.0
    for rank in {span.device for span in spans}:
        copies = _merged((s.start, s.end) for s in spans if s.device == rank and s.kind == "copy")
        busy = _merged((s.start, s.end) for s in spans if s.device == rank and s.kind != "copy")
        common += _common(copies, busy)
        total += _length(copies)
    if total == 0:
        raise ValueError("These spans hold no communication, so there is no overlap to speak of.")
    return common / total


def _finding(spans: Sequence[Span]) -> str:
    if not any(span.kind == "copy" for span in spans):
        return "Nothing was sent"
    return f"{overlap(spans):.0%} of the communication runs while the same rank computes"


def _kind_on_cpu(name: str) -> str | None:
    prefixes = {
        "DistributedDataParallel.forward": "forward",
        "autograd::engine::evaluate_function": "backward",
        "Optimizer.step": "optimizer",
        "gloo:": "copy",
    }
    return next((kind for prefix, kind in prefixes.items() if name.startswith(prefix)), None)


def _kind_of_kernel(event: dict) -> str | None:
    if event.get("cat") != "kernel":
        return None
    return "copy" if "nccl" in event["name"].lower() else "backward"


Interval = tuple[float, float]


def _merged(intervals: Iterable[Interval]) -> list[Interval]:
    """Join intervals that touch or overlap."""
    merged: list[Interval] = []
    for start, end in sorted(intervals):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((start, end))
    return merged


def _length(intervals: list[Interval]) -> float:
    return sum(end - start for start, end in intervals)


def _common(left: list[Interval], right: list[Interval]) -> float:
    """The time that both lists of merged intervals cover."""
    return sum(max(0.0, min(a[1], b[1]) - max(a[0], b[0])) for a in left for b in right)
