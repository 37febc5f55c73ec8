"""Kill a process in the midst of its work, as an operating system does, and look at what is left on the disk."""

import os
import random
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from torchcourse.ranks.run import RankError, run_ranks
from torchcourse.training import checkpoint
from torchcourse.training.trainer import Trainer

KILL = getattr(signal, "SIGKILL", signal.SIGTERM)  # Windows knows one way to end a process, and calls it SIGTERM
"""The signal that no program can answer: `kill -9`, the out-of-memory killer, a lost machine."""


def run_and_kill(fn: Callable[..., Any], *args: Any, after: float) -> bool:
    """Call `fn(*args)` in a process of its own and kill that process `after` so many seconds.

    Returns:
        Whether it was killed; False if it had ended before.
    """
    return _dies(_call, fn, args, after)


def kill_while_saving(
    save: Callable[[dict[str, Any], Path], Any], folder: Path, kills: int = 5, seed: int = 0
) -> list[Literal["whole", "unreadable", "missing"]]:
    """Let a process save 20 MB again and again, kill it at a random moment, and look at the file; `kills` times.

    Args:
        save: `save(state, path)`, such as `torch.save` or `checkpoint.save`.
    """
    moments = random.Random(seed)
    outcomes: list[Literal["whole", "unreadable", "missing"]] = []
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(kills):
        path = folder / f"saved_{number}.pt"
        _dies(_save_until_killed, save, path, moments.uniform(0.02, 0.2))
        outcomes.append(_look_at(path))
        for left in folder.glob(f"saved_{number}.pt*"):
            left.unlink()
    return outcomes


def kill_at_step(trainer: Trainer, step: int) -> None:
    """Let this process be killed when the trainer is about to take the step after `step`."""

    def kill(model: nn.Module, *_: Any) -> None:
        if model.training and trainer.position.step == step:
            os.kill(os.getpid(), KILL)

    trainer.model.register_forward_hook(kill)


def _dies(fn: Callable[..., Any], *args: Any) -> bool:
    """Call `fn` in a process of its own and return whether that process died."""
    try:
        run_ranks(fn, *args, world_size=1, timeout=None)
    except RankError as error:
        if error.kind != "ProcessDied":
            raise
        return True
    return False


def _call(fn: Callable[..., Any], args: tuple, after: float) -> Any:
    _kill_this_process(after)
    return fn(*args)


def _save_until_killed(save: Callable[[dict[str, Any], Path], Any], path: Path, after: float) -> None:
    state = {str(number): torch.full((1000, 1000), float(number)) for number in range(5)}
    checkpoint.save(state, path)  # so that there is something to lose
    _kill_this_process(after)
    while True:
        save(state, path)


def _kill_this_process(after: float) -> None:
    timer = threading.Timer(after, os.kill, (os.getpid(), KILL))
    timer.daemon = True
    timer.start()


def _look_at(path: Path) -> Literal["whole", "unreadable", "missing"]:
    try:
        state = torch.load(path, weights_only=True)
    except FileNotFoundError:
        return "missing"
    except Exception:
        return "unreadable"
    whole = all(bool((tensor == float(name)).all()) for name, tensor in state.items()) and len(state) == 5
    return "whole" if whole else "unreadable"
