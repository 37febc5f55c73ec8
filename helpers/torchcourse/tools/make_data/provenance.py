"""Files that the package ships: what each holds, and which command made it, when, and with which versions."""

import argparse
import contextlib
import hashlib
import os
import platform
from collections.abc import Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from datetime import date
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch


@contextlib.contextmanager
def processes(about: str) -> Iterator[ProcessPoolExecutor]:
    """Read `--processes` from the command line of a tool, and give a pool of so many, none of them forked."""
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    with ProcessPoolExecutor(parser.parse_args().processes, get_context("spawn")) as pool:
        yield pool


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


def save_data(path: Path, **arrays: np.ndarray) -> None:
    """Write arrays into an .npz file that does not depend on the day or the machine, and print size and content."""
    np.savez_compressed(path, **arrays)  # type: ignore[arg-type]  # numpy types its one option as if it were an array
    print(f"{path}: {path.stat().st_size / 1e6:.2f} MB, content {content_digest(*arrays.values())}")


def content_digest(*arrays: np.ndarray) -> str:
    """Return the SHA-256 of arrays one after the other, whatever the compression of the file that held them."""
    return hashlib.sha256(b"".join(array.tobytes() for array in arrays)).hexdigest()
