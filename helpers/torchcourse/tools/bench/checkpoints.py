"""Saving and loading against torch.save and safetensors, and a hundred kills in the midst of saving."""

import os
import statistics
import tempfile
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from torchcourse.timing import in_turn, spread
from torchcourse.tools.bench.report import Table
from torchcourse.training import checkpoint
from torchcourse.training.crash import kill_while_saving

ROUNDS, KILLS = 7, 100
TENSORS, NUMBERS = 50, 500_000  # 100 MB in float32


def table() -> Table:
    weights = {f"layer.{number}": torch.randn(NUMBERS) for number in range(TENSORS)}
    size = TENSORS * NUMBERS * 4 / 1e6
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        saves: dict[str, Callable[[dict, Path], object]] = {
            "torch.save, in place": torch.save,
            "torch.save, fsync, rename": _save_and_sync,
            "safetensors": save_file,
            "checkpoint.save": checkpoint.save,
        }
        loads: dict[str, Callable[[Path], object]] = {
            "torch.save, in place": partial(torch.load, weights_only=True),
            "torch.save, fsync, rename": partial(torch.load, weights_only=True),
            "safetensors": load_file,
            "checkpoint.save": checkpoint.load,
        }
        paths = {name: folder / f"{number}.pt" for number, name in enumerate(saves)}
        saving = in_turn({name: partial(save, weights, paths[name]) for name, save in saves.items()}, ROUNDS)
        loading = in_turn({name: partial(load, paths[name]) for name, load in loads.items()}, ROUNDS)
        killed = {
            name: Counter(kill_while_saving(save, folder / "kills", KILLS))
            for name, save in (("torch.save, in place", torch.save), ("checkpoint.save", checkpoint.save))
        }
    rows = []
    for name in saves:
        rate = size / statistics.median(saving[name])
        outcome = f"{killed[name]['whole']} of {KILLS} whole" if name in killed else "–"
        rows.append([name, spread(saving[name], "s"), f"{rate:.0f} MB/s", spread(loading[name], "s"), outcome])
    return Table(
        "Checkpoints: saving, loading, and what a kill leaves",
        ["way", "saving: median (range)", "rate", "loading: median (range)", "kill -9 while saving"],
        rows,
        f"{size:.0f} MB in {TENSORS} tensors, {ROUNDS} rounds in turn, on a warm cache. checkpoint.save "
        "computes a SHA-256 on the way and waits for the disk; checkpoint.load checks it. "
        "safetensors maps the file into memory: its numbers are read later, when they are used.",
    )


def _save_and_sync(weights: dict[str, torch.Tensor], path: Path) -> None:
    temporary = path.with_suffix(".tmp")
    with open(temporary, "wb") as file:
        torch.save(weights, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
