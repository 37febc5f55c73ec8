"""Reading TensorBoard's event files (이벤트 파일) back into plain lists and arrays.

    run = read_run("runs/a")
    steps, losses = run.scalars["loss/train"]
    step, histogram = run.histograms["gradients/0.weight"][-1]

A file that ends in the middle of a value, because its writer was killed or is still at work, gives all values before
that. `run.notes` then says so in a sentence, which is printed as well.
"""

import io
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

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

    @property
    def lists(self) -> tuple[dict[str, list[tuple[int, Any]]], ...]:
        """What is kept as lists of steps and values, as all but scalars are."""
        return self.histograms, self.images, self.texts

    def last(self, prefix: str) -> dict[str, float]:
        """Return the last value of each scalar under a prefix, by the rest of its tag, in the order of writing.

        `run.last("gradient_norm")` gives {"0.weight": 0.02, "0.bias": 0.01, …}.
        """
        start = f"{prefix}/"
        return {tag[len(start) :]: values[-1] for tag, (_, values) in self.scalars.items() if tag.startswith(start)}


def read_run(log_dir: str | os.PathLike) -> RunLog:
    """Return all that a run wrote, in the order of its steps.

    Raises:
        FileNotFoundError: if the folder holds no event files, or does not exist.
        OSError: if it is not a folder or cannot be read.
    """
    run = RunLog(Path(log_dir))
    events = [event for file in _files(run.folder) for event in _events(file, run.notes)]
    # By time and not by file: the names of files that were begun in the same second are in no order.
    for event in sorted(events, key=lambda event: event.wall_time):
        _hide_what_is_redone(run, event)
        for value in event.summary.value:
            _keep(run, event.step, value)
    for note in run.notes:
        print(note)
    run.scalars = {tag: series for tag, series in run.scalars.items() if series[0]}
    for series in run.lists:
        for tag in [tag for tag, pairs in series.items() if not pairs]:
            del series[tag]
    return run


def read_scalars(log_dir: str | os.PathLike) -> dict[str, tuple[list[int], list[float]]]:
    """Return all scalars of a run: for each tag its steps and its values. Raises what `read_run` raises."""
    return read_run(log_dir).scalars


def _files(folder: Path) -> list[Path]:
    try:
        names = sorted(name for name in os.listdir(folder) if "tfevents" in name)
    except FileNotFoundError:
        names = []
    except OSError as error:
        raise type(error)(
            f"The folder {folder} cannot be read ({error.strerror or error}). Give the log_dir of a run."
        ) from error
    if not names:
        raise FileNotFoundError(
            f"There are no TensorBoard event files in {folder}. Was a Trainer with log_dir={str(folder)!r} run?"
        )
    return [folder / name for name in names]


def _events(file: Path, notes: list[str]) -> Iterator["Event"]:
    """Yield the events of a file, up to the first that is damaged.

    A record is its length (8 bytes), a checksum of the length (4), the data, and a checksum of the data (4).
    Source: TensorFlow, https://www.tensorflow.org/tutorials/load_data/tfrecord#tfrecords_format_details
    """
    from google.protobuf.message import DecodeError
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import masked_crc32c

    content, place, count = file.read_bytes(), 0, 0
    while place < len(content):
        head = content[place : place + 12]
        length = struct.unpack("<Q", head[:8])[0] if len(head) == 12 else 0
        data = content[place + 12 : place + 12 + length]
        tail = content[place + 12 + length : place + 16 + length]
        problem = None
        if len(head) < 12 or len(tail) < 4:
            problem = "it ends in the middle of a value, as when its writer was killed or is still writing"
        # The checksum of the data is left to TensorBoard: in Python it takes longer than all the rest together.
        if len(head) == 12 and struct.unpack("<I", head[8:])[0] != masked_crc32c(head[:8]):
            problem = "the bytes are not an event"
        if problem is None:
            try:
                event = Event.FromString(data)
            except DecodeError:
                problem = "the bytes are not an event"
        if problem is not None:
            notes.append(f"{file} is damaged after {count} events: {problem}. All before that was read.")
            return
        yield event
        place, count = place + 16 + length, count + 1


def _hide_what_is_redone(run: RunLog, event: "Event") -> None:
    """At the start of a writer that goes on from a step: forget what an earlier one wrote from that step on."""
    from tensorboard.compat.proto.event_pb2 import SessionLog

    if not (event.HasField("session_log") and event.session_log.status == SessionLog.START):
        return
    for steps, values in run.scalars.values():
        kept = sum(step < event.step for step in steps)
        del steps[kept:], values[kept:]
    for series in run.lists:
        for tag, pairs in series.items():
            series[tag] = [(step, value) for step, value in pairs if step < event.step]


def _keep(run: RunLog, step: int, value: "Summary.Value") -> None:
    plugin = value.metadata.plugin_data.plugin_name
    if value.HasField("simple_value"):
        steps, values = run.scalars.setdefault(value.tag, ([], []))
        steps.append(step)
        values.append(value.simple_value)
    elif value.HasField("histo"):
        run.histograms.setdefault(value.tag, []).append((step, _histogram(value.histo)))
    elif value.HasField("image"):
        run.images.setdefault(value.tag, []).append((step, _image(value.image.encoded_image_string)))
    elif plugin == "text":
        text = b"\n".join(value.tensor.string_val).decode(errors="replace")
        run.texts.setdefault(value.tag.removesuffix("/text_summary"), []).append((step, text))
    elif plugin == "hparams":
        run.hyperparameters |= _hyperparameters(value.metadata.plugin_data.content)


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
