"""TensorBoard (텐서보드): writing scalars during training, and reading them back as plain lists.

%load_ext tensorboard
%tensorboard --logdir runs        # in a notebook; in a terminal: tensorboard --logdir runs
"""

import os
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self


class Monitor:
    """Writes scalars to a folder of event files; without a folder, does nothing. Use it in a `with` statement.

    Args:
        log_dir: the run's folder, or None.
        first_step: values that an earlier, longer run left in this folder from this step on are hidden.

    Raises:
        OSError: if the folder cannot be written.
    """

    def __init__(self, log_dir: str | os.PathLike | None, first_step: int = 0) -> None:
        self._writer = None
        self._waiting: list[tuple[float, int, Mapping[str, float]]] = []
        self._due = 0.0
        if log_dir is not None:
            from torch.utils.tensorboard import SummaryWriter  # takes half a second to import

            try:
                self._writer = SummaryWriter(log_dir, purge_step=first_step, flush_secs=10)
            except OSError as error:
                raise OSError(
                    f"TensorBoard cannot write to {log_dir} ({error.strerror or error}). Choose another log_dir."
                ) from error

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Write one value for each tag, such as "loss/train", at an optimizer step."""
        if self._writer is None:
            return
        now = time.time()
        self._waiting.append((now, step, values))
        if now > self._due:
            self._hand_over(now)

    def _hand_over(self, now: float) -> None:
        """Give the waiting values to the thread that writes them: many at once, since waking it is what costs time."""
        for moment, step, values in self._waiting:
            for tag, value in values.items():
                self._writer.add_scalar(tag, value, step, walltime=moment)
        self._waiting, self._due = [], now + _INTERVAL

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._writer is not None:
            self._hand_over(time.time())
            self._writer.close()


_INTERVAL = 1.0  # seconds


def read_scalars(log_dir: str | os.PathLike) -> dict[str, tuple[list[int], list[float]]]:
    """Return all scalars of a run: for each tag its steps and its values.

    Raises:
        FileNotFoundError: if the folder holds no event files.
    """
    from tensorboard.backend.event_processing.event_file_loader import LegacyEventFileLoader
    from tensorboard.compat.proto.event_pb2 import SessionLog

    files = sorted(Path(log_dir).glob("*tfevents*"))
    if not files:
        raise FileNotFoundError(
            f"There are no TensorBoard event files in {log_dir}. Was a Trainer with log_dir={str(log_dir)!r} run?"
        )
    events = [event for file in files for event in LegacyEventFileLoader(str(file)).Load()]
    scalars: dict[str, tuple[list[int], list[float]]] = {}
    # By time and not by file: the names of files that were begun in the same second are in no order.
    for event in sorted(events, key=lambda event: event.wall_time):
        if event.HasField("session_log") and event.session_log.status == SessionLog.START:
            for steps, values in scalars.values():
                kept = sum(step < event.step for step in steps)
                del steps[kept:], values[kept:]
        for value in event.summary.value:
            if value.HasField("simple_value"):
                steps, values = scalars.setdefault(value.tag, ([], []))
                steps.append(event.step)
                values.append(value.simple_value)
    return {tag: series for tag, series in scalars.items() if series[0]}
