"""TensorBoard (텐서보드): writing scalars during training, and reading them back as plain lists.

%load_ext tensorboard
%tensorboard --logdir runs        # in a notebook; in a terminal: tensorboard --logdir runs
"""

import os
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
        if self._writer is not None:
            for tag, value in values.items():
                self._writer.add_scalar(tag, value, step)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._writer is not None:
            self._writer.close()


def read_scalars(log_dir: str | os.PathLike) -> dict[str, tuple[list[int], list[float]]]:
    """Return all scalars of a run: for each tag its steps and its values.

    Raises:
        FileNotFoundError: if the folder holds no event files.
    """
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    if not any(Path(log_dir).glob("*tfevents*")):
        raise FileNotFoundError(
            f"There are no TensorBoard event files in {log_dir}. Was a Trainer with log_dir={str(log_dir)!r} run?"
        )
    accumulator = EventAccumulator(str(log_dir), size_guidance={"scalars": 0})  # 0: keep all
    accumulator.Reload()
    series = {tag: accumulator.Scalars(tag) for tag in accumulator.Tags()["scalars"]}
    return {
        tag: ([event.step for event in events], [event.value for event in events]) for tag, events in series.items()
    }
