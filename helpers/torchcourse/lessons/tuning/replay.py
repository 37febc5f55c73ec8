"""The table of trained settings as objectives for a study: a replayed trial takes microseconds and yields real results.

`python -m torchcourse.tools.make_data.tuning_table` trained the table; its field `made` says when and with what.
"""

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from torchcourse.lessons.tuning.digits_task import SPACE, TEST, VALIDATION

PATH = Path(__file__).parent / "tables" / "digits.npz"


@functools.cache
def accuracies(table: str = "space", part: str = "val") -> np.ndarray:
    """Return the accuracies, from 0 to 1, that the runs of a table had after each epoch on a part of the images.

    Args:
        table: "space", "seeds", "scaling", "batches" or "longer"; the last axis is the epoch. See
            `tools.make_data.tuning_table`.
        part: "val" or "test".
    """
    with np.load(PATH) as file:
        correct = file[f"{table}/{part}"]
    shares = correct / {"val": VALIDATION, "test": TEST}[part]
    shares.flags.writeable = False
    return shares


@functools.cache
def right_images() -> np.ndarray:
    """Return which images each setting of `SPACE` gave their labels: bool [13, 5, 3, 4, 9 epochs, 1297 images].

    The first 500 images are those of validation, the others those of test. None of them was trained on.
    """
    with np.load(PATH) as file:
        right = np.unpackbits(file["space/right"], axis=-1, count=VALIDATION + TEST).view(bool)
    right.flags.writeable = False
    return right


def replayed(settings: dict[str, Any]) -> Iterator[float]:
    """Yield the validation accuracy after each epoch of a setting of `SPACE`, as its training did."""
    yield from accuracies()[position(settings)].tolist()


def position(settings: dict[str, Any]) -> tuple[int, ...]:
    """Return where a setting of `SPACE` is in the table "space"."""
    return tuple(values.index(settings[name]) for name, values in SPACE.items())
