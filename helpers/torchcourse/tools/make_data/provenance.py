"""What a table or a file of weights says of itself: which command made it, when, and with which versions."""

import platform
from collections.abc import Mapping
from datetime import date
from pathlib import Path

import numpy as np
import torch


def made_by(module: str) -> str:
    """Return the line for `python -m torchcourse.tools.make_data.MODULE`, run now."""
    return (
        f"python -m torchcourse.tools.make_data.{module}, {date.today()}, torch {torch.__version__}, "
        f"Python {platform.python_version()}, {platform.machine()}"
    )


def save_table(path: Path, module: str, arrays: Mapping[str, np.ndarray]) -> None:
    """Write arrays into an .npz file, with the line of `made_by` as `made`, and print its size."""
    path.parent.mkdir(exist_ok=True)
    named = dict(arrays) | {"made": np.array(made_by(module))}
    np.savez_compressed(path, **named)  # type: ignore[arg-type]  # numpy types its one option as if it were an array
    print(f"{path.name}: {path.stat().st_size / 1e3:.0f} kB")
