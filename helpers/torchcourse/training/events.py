"""Reading TensorBoard's event files (이벤트 파일) back into plain lists and arrays.

    run = read_run("runs/a")
    steps, losses = run.scalars["loss/train"]
    step, histogram = run.histograms["gradients/0.weight"][-1]

A file that ends in the middle of a value, because its writer was killed or is still at work, gives all values before
that. `run.notes` then says so in a sentence, which is printed as well.
"""

import io
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from torchcourse.training.checkpoint import some
from torchcourse.training.event_files import in_order
from torchcourse.training.histograms import Histogram

if TYPE_CHECKING:
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import HistogramProto, Summary


@dataclass
class RunLog:
    """What a run's event files hold, by tag. Images are uint8 arrays [height, width, channels]."""

    folder: Path
    scalars: dict[str, tuple[list[int], list[float]]] = field(default_factory=dict)
    histograms: dict[str, list[tuple[int, Histogram]]] = field(default_factory=dict)
    images: dict[str, list[tuple[int, np.ndarray]]] = field(default_factory=dict)
    texts: dict[str, list[tuple[int, str]]] = field(default_factory=dict)
    hyperparameters: dict[str, bool | str | float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def last(self, prefix: str) -> dict[str, float]:
        """Return the last value of each scalar under a prefix, by the rest of its tag, in the order of writing.

        `run.last("gradient_norm")` gives {"0.weight": 0.02, "0.bias": 0.01, …}.
        """
        start = f"{prefix}/"
        return {tag[len(start) :]: values[-1] for tag, (_, values) in self.scalars.items() if tag.startswith(start)}


def read_run(log_dir: str | os.PathLike, every: bool = False) -> RunLog:
    """Return all that a run wrote, in the order of its steps.

    Args:
        log_dir: the run's folder.
        every: where two runs share the folder, keep each value, as TensorBoard draws them; else the later value of each
            step counts, and a note says so.

    Raises:
        FileNotFoundError: if the folder holds no event files, or does not exist.
        OSError: if it is not a folder or cannot be read.
    """
    run = RunLog(Path(os.path.expanduser(log_dir)))
    series: _Series = {}
    unknown: dict[str, None] = {}
    twice: dict[str, set[int]] = {}
    for _, events in in_order(run.folder, run.notes):
        fresh: _Series = {}
        for event in events:
            if _goes_on(event):
                for written in (series, fresh):
                    _forget_from(event.step, written)
            for value in event.summary.value:
                if not _keep(run, fresh, event.step, value):
                    unknown[value.tag] = None
        _append(series, fresh, twice, every)
    if twice and not every:
        steps = set.union(*twice.values())
        run.notes.append(
            f"Steps {min(steps)} to {max(steps)} of {some(list(twice))} were written twice: two runs share this "
            "folder. Of each step the later value is shown. Give each run a log_dir of its own."
        )
    if unknown:
        run.notes.append(f"Damaged, or of a kind that is not read here: {some(list(unknown))}.")
    for note in run.notes:
        print(note)
    for (kind, tag), pairs in series.items():
        if kind == "scalars" and pairs:
            run.scalars[tag] = ([step for step, _ in pairs], [value for _, value in pairs])
        elif pairs:
            getattr(run, kind)[tag] = pairs
    return run


def read_scalars(log_dir: str | os.PathLike, every: bool = False) -> dict[str, tuple[list[int], list[float]]]:
    """Return all scalars of a run: for each tag its steps and its values. Takes and raises what `read_run` does."""
    return read_run(log_dir, every).scalars


_Series = dict[tuple[str, str], list[tuple[int, Any]]]
"""Steps and values by the field of RunLog that they belong to, and their tag."""


def _goes_on(event: "Event") -> bool:
    """Whether a writer begins here that goes on from a step: what was written from that step on no longer counts."""
    from tensorboard.compat.proto.event_pb2 import SessionLog

    return bool(event.HasField("session_log") and event.session_log.status == SessionLog.START)


def _forget_from(first: int, series: _Series) -> None:
    for key, pairs in series.items():
        series[key] = [(step, value) for step, value in pairs if step < first]


def _append(series: _Series, fresh: _Series, twice: dict[str, set[int]], every: bool) -> None:
    """Put what a file holds to what the files before it did, in the order of the steps.

    Where steps are there already, two runs were written into one folder: they are noted in `twice`, by tag, and unless
    `every` value is wanted, the later one of a step counts.
    """
    for (kind, tag), pairs in fresh.items():
        parts: list[list[tuple[int, Any]]] = [series.get((kind, tag), []), []]
        for step, value in pairs:
            if parts[-1] and step < parts[-1][-1][0]:  # the same writer began again
                parts.append([])
            parts[-1].append((step, value))
        merged = parts[0]
        for part in parts[1:]:
            later = {step for step, _ in part}
            if again := {step for step, _ in merged} & later:
                twice.setdefault(tag, set()).update(again)
                merged = [(step, value) for step, value in merged if every or step not in later]
            merged = sorted(merged + part, key=lambda pair: pair[0])
        series[kind, tag] = merged


def _keep(run: RunLog, series: _Series, step: int, value: "Summary.Value") -> bool:
    """Take in a value; return whether it could be read."""
    try:
        kind, tag, content = _read(value)
    except Exception:  # a damaged value: each decoder raises its own kinds of errors
        return False
    if kind == "hyperparameters":
        run.hyperparameters |= content
    elif kind:
        series.setdefault((kind, tag), []).append((step, content))
    return bool(kind)


def _read(value: "Summary.Value") -> tuple[str, str, Any]:
    """Return the field of RunLog that a value belongs to ("" for none), its tag and its content."""
    from tensorboard.util.tensor_util import make_ndarray

    plugin = value.metadata.plugin_data.plugin_name
    if value.HasField("simple_value"):
        return "scalars", value.tag, value.simple_value
    if value.HasField("histo"):
        return "histograms", value.tag, _histogram(value.histo)
    if value.HasField("image"):
        return "images", value.tag, _image(value.image.encoded_image_string)
    if plugin == "scalars":  # as TensorFlow 2 writes them
        return "scalars", value.tag, float(make_ndarray(value.tensor))
    if plugin == "text":
        text = b"\n".join(value.tensor.string_val).decode(errors="replace")
        return "texts", value.tag.removesuffix("/text_summary"), text
    if plugin == "hparams":
        return "hyperparameters", value.tag, _hyperparameters(value.metadata.plugin_data.content)
    return "", value.tag, None


def _histogram(proto: "HistogramProto") -> Histogram:
    limits, counts = np.array(proto.bucket_limit), np.array(proto.bucket)
    if len(counts) and counts[0]:  # a different writer's: the first bucket begins at the lowest value
        limits, counts = np.concatenate([[min(proto.min, limits[0])], limits]), np.concatenate([[0.0], counts])
    return Histogram(limits, counts[1:], proto.min, proto.max, proto.sum, proto.sum_squares)


def _image(encoded: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(encoded)))


def _hyperparameters(content: bytes) -> dict[str, bool | str | float]:
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

    start = HParamsPluginData.FromString(content).session_start_info
    return {name: getattr(value, value.WhichOneof("kind")) for name, value in start.hparams.items()}
