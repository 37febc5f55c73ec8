"""TensorBoard (텐서보드): writing what a training run tells. `events` reads it back, `watch` looks into the model.

%load_ext tensorboard
%tensorboard --logdir runs        # in a notebook; in a terminal: tensorboard --logdir runs
"""

import functools
import os
import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, Self

import torch

from torchcourse.training.histograms import Histogram


def _goes_on(write: Callable[..., None]) -> Callable[..., None]:
    """Let a disk that is full end the log, which is told once, and not the training that is logged."""

    @functools.wraps(write)
    def written(monitor: "Monitor", *values: Any, **named: Any) -> None:
        try:
            write(monitor, *values, **named)
        except OSError as error:
            monitor._writer = None
            print(
                f"TensorBoard can no longer write to {monitor._folder} ({error.strerror or error}), so that the rest "
                "of this run is not logged. Is the disk full?"
            )

    return written


class Monitor:
    """Writes to a folder of event files; without a folder, does nothing. Use it in a `with` statement.

    Where the disk is full later, a sentence says so once, and the rest is not written.

    Args:
        log_dir: the run's folder, or None.
        first_step: values that an earlier, longer run left in this folder from this step on are hidden. None: none are.

    Raises:
        OSError: if the folder cannot be written.
    """

    def __init__(self, log_dir: str | os.PathLike | None, first_step: int | None = None) -> None:
        log_dir = None if log_dir is None else os.path.expanduser(log_dir)
        self._folder = log_dir
        self._writer: Any = None  # a SummaryWriter, whose types say that its own parts are None
        self._waiting: list[tuple[float, int, Mapping[str, float]]] = []
        self._due = 0.0
        if log_dir is not None:
            from torch.utils.tensorboard import SummaryWriter  # takes half a second to import

            from torchcourse.training.event_files import suffix

            try:
                # The suffix tells the order of the files, which the clock in their names may get wrong.
                self._writer = SummaryWriter(
                    log_dir, purge_step=first_step, flush_secs=10, filename_suffix=suffix(log_dir)
                )
            except OSError as error:
                raise OSError(
                    f"TensorBoard cannot write to {log_dir} ({error.strerror or error}). Choose a different log_dir."
                ) from error

    @property
    def writes(self) -> bool:
        """Whether there is a folder to write to."""
        return self._writer is not None

    @_goes_on
    def scalars(self, step: int, values: Mapping[str, float | torch.Tensor]) -> None:
        """Write one value for each tag, such as "loss/train", at an optimizer step.

        Raises:
            ValueError: for what is no single number; names its tag.
        """
        if self._writer is None:
            return
        now = time.time()
        self._waiting.append((now, step, {tag: _number(tag, value) for tag, value in values.items()}))
        if now > self._due:
            self._hand_over(now)

    @_goes_on
    def histograms(self, step: int, values: Mapping[str, Histogram]) -> None:
        """Write histograms that were counted already (`histograms.measure`). One of no finite value is left out."""
        if self._writer is None:
            return
        from torch.utils.tensorboard.summary import histogram_raw

        summaries = [
            histogram_raw(
                tag,
                min=histogram.low,
                max=histogram.high,
                num=histogram.number,
                sum=histogram.total,
                sum_squares=histogram.squares,
                # The first bucket only says where the second begins: TensorBoard writes down upper limits alone.
                bucket_limits=histogram.edges.tolist(),
                bucket_counts=[0.0, *histogram.counts.tolist()],
            )
            for tag, histogram in values.items()
            if histogram.number
        ]
        self._write([value for summary in summaries for value in summary.value], step)

    @_goes_on
    def images(self, step: int, values: Mapping[str, torch.Tensor]) -> None:
        """Write pictures: float tensors [1 or 3, height, width] from 0 to 1, or uint8 from 0 to 255.

        Raises:
            ValueError: for other shapes.
        """
        if self._writer is not None:
            for tag, image in values.items():
                if image.ndim != 3 or image.shape[0] not in (1, 3) or 0 in image.shape:
                    raise ValueError(
                        f"{tag} has the shape {list(image.shape)}, and a picture is [1, height, width] in gray or "
                        "[3, height, width] in colors."
                    )
                self._writer.add_image(tag, image, step)

    @_goes_on
    def texts(self, step: int, values: Mapping[str, object]) -> None:
        """Write words, in Markdown."""
        if self._writer is not None:
            for tag, text in values.items():
                self._writer.add_text(tag, str(text).encode(errors="replace").decode(), step)

    @_goes_on
    def hyperparameters(self, values: Mapping[str, Any], results: Mapping[str, float], step: int = 0) -> None:
        """Write what the run was made with and what came out: a row in TensorBoard's table of runs (HPARAMS).

        Args:
            values: such as {"lr": 0.1, "optimizer": "SGD"}; what is no number and no text is written as text.
            results: such as {"accuracy/val": 0.97}; also written as scalars, since the table reads them there.
            step: of these scalars.
        """
        if self._writer is None:
            return
        from torch.utils.tensorboard.summary import hparams

        # Not SummaryWriter.add_hparams, which makes a second run in a folder of its own.
        plain = {
            tag: value if isinstance(value, bool | int | float | str) else str(value) for tag, value in values.items()
        }
        for summary in hparams(plain, {tag: _number(tag, value) for tag, value in results.items()}):
            self._writer.file_writer.add_summary(summary)
        self.scalars(step, results)

    def _hand_over(self, now: float) -> None:
        """Give the waiting values to the thread that writes them: many at once, since waking it is what costs time."""
        from tensorboard.compat.proto.summary_pb2 import Summary

        for moment, step, values in self._waiting:
            self._write([Summary.Value(tag=tag, simple_value=value) for tag, value in values.items()], step, moment)
        self._waiting, self._due = [], now + _INTERVAL

    def _write(self, values: list[Any], step: int, moment: float | None = None) -> None:
        """Write the values of a step as one record."""
        from tensorboard.compat.proto.summary_pb2 import Summary

        if values:
            self._writer.file_writer.add_summary(Summary(value=values), step, moment)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._close()

    @_goes_on
    def _close(self) -> None:
        if self._writer is not None:
            self._hand_over(time.time())
            self._writer.close()


_INTERVAL = 1.0  # seconds


def _number(tag: str, value: Any) -> float:
    try:
        if not isinstance(value, str | bytes):
            return float(value.detach() if isinstance(value, torch.Tensor) else value)
        raise TypeError("text")
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise ValueError(f"The value of {tag!r} is no single number, but {value!r:.60}.") from error
