"""A profiler trace of data-parallel training: what each rank computes, and what travels meanwhile.

In a rank, profile a step or two and export one file per rank:

    with torch.profiler.profile() as profiler:
        train_step()
    profiler.export_chrome_trace(f"trace_{rank}.json")

Then read it with `read_trace("trace_0.json")`, or draw it: `trace_picture.show_trace`.
"""

import json
from collections.abc import Iterable, Sequence
from os import PathLike
from pathlib import Path

from torchcourse.lessons.data_parallelism.timeline import Kind, Span

Interval = tuple[float, float]
"""Start and end, in milliseconds."""


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


def overlap(spans: Sequence[Span]) -> float:
    """Return which part of the time of communication, 0 to 1, the same rank also computes in. All ranks together.

    Raises:
        ValueError: if nothing was communicated.
    """
    common = total = 0.0
    for rank in {span.device for span in spans}:
        busy, copies = computing_and_sending(spans, rank)
        common += common_length(copies, busy)
        total += length(copies)
    if total == 0:
        raise ValueError("These spans hold no communication, so there is no overlap to speak of.")
    return common / total


def computing_and_sending(spans: Sequence[Span], rank: int) -> tuple[list[Interval], list[Interval]]:
    """Return when a rank computes and when it communicates, as merged intervals in milliseconds."""
    own = [span for span in spans if span.device == rank]
    computing = _merged((span.start, span.end) for span in own if span.kind != "copy")
    return computing, _merged((span.start, span.end) for span in own if span.kind == "copy")


def length(intervals: list[Interval]) -> float:
    """Return the time that merged intervals cover together."""
    return sum(end - start for start, end in intervals)


def common_length(left: list[Interval], right: list[Interval]) -> float:
    """Return the time that both lists of merged intervals cover."""
    return sum(max(0.0, min(a[1], b[1]) - max(a[0], b[0])) for a in left for b in right)


def _kind_on_cpu(name: str) -> Kind | None:
    prefixes: dict[str, Kind] = {
        "DistributedDataParallel.forward": "forward",
        "autograd::engine::evaluate_function": "backward",
        "Optimizer.step": "optimizer",
        "gloo:": "copy",
    }
    return next((kind for prefix, kind in prefixes.items() if name.startswith(prefix)), None)


def _kind_of_kernel(event: dict) -> Kind | None:
    if event.get("cat") != "kernel":
        return None
    return "copy" if "nccl" in event["name"].lower() else "backward"


def _merged(intervals: Iterable[Interval]) -> list[Interval]:
    """Join intervals that touch or overlap."""
    merged: list[Interval] = []
    for start, end in sorted(intervals):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((start, end))
    return merged
