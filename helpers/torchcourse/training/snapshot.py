"""The whole state of a Trainer as the content of a checkpoint, and back: all it takes to go on exactly."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from torchcourse.ranks import who
from torchcourse.training import checkpoint
from torchcourse.training.checkpoint import CheckpointError
from torchcourse.training.history import History
from torchcourse.training.metrics import Averages

FORMAT = 2


@dataclass
class Position:
    """How far training has come."""

    epoch: int = 0  # finished epochs
    batch: int = 0  # batches done of the epoch under way
    step: int = 0  # optimizer steps
    logged: int = 0  # the step at which values were last logged
    best: float | None = None  # the monitored value at its best


class Training(Protocol):
    """What is saved of a Trainer, and put back."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    scheduler: LRScheduler | ReduceLROnPlateau | None
    scaler: torch.amp.GradScaler
    position: Position
    history: History
    averages: Averages


def take(trainer: Training, random_at_epoch: dict[str, Any], generator: torch.Generator | None) -> dict[str, Any]:
    """Return the state of training. Every rank has to call it, since each has random numbers of its own.

    Within an epoch it takes two states of the random numbers to go on exactly: the one before the loader began, with
    which it deals the same batches again, and the present one, from which dropout goes on.

    Args:
        trainer: between two steps.
        random_at_epoch: the random state at which the epoch under way began.
        generator: the loader's own, if it has one.
    """
    now = checkpoint.random_state(generator)
    random = {"epoch": random_at_epoch, "batch": now} if trainer.position.batch else {"epoch": now, "batch": None}
    return {
        "format": FORMAT,
        "model": trainer.model.state_dict(),
        "optimizer": checkpoint.optimizer_state(trainer.model, trainer.optimizer),
        "scheduler": None if trainer.scheduler is None else trainer.scheduler.state_dict(),
        "scaler": trainer.scaler.state_dict(),
        "position": asdict(trainer.position),
        "history": asdict(trainer.history),
        "averages": who.gather(checkpoint.plain(trainer.averages.state())),
        "random": who.gather(random),
    }


def write(state: dict[str, Any], folder: Path, names: tuple[str, ...], keep: int) -> None:
    """Save what `take` returned under each of the names in a folder. Every rank has to call it; rank 0 writes.

    With `keep`, the state is also kept as `step-N.pt`, and only the newest so many of these files stay.

    Raises:
        CheckpointError: on every rank, if it could not be written. What was saved before is still there.
    """
    problem = None
    if who.rank() == 0:
        try:
            for name in names:
                checkpoint.save(state, folder / f"{name}.pt")
            if keep:
                step = state["position"]["step"]
                checkpoint.save_as_well(folder / "last.pt", f"step-{step:08d}.pt")
                kept = _kept(folder)
                # Later steps are from a longer run that was here before, and do not belong to this one.
                later = [path for path in kept if _step(path) > step]
                too_old = [path for path in kept if _step(path) <= step][keep:]
                for path in [*later, *too_old]:
                    path.unlink(missing_ok=True)
        except CheckpointError as error:
            problem = error
    problem = who.from_rank_0(problem)  # the ranks also meet here: nobody goes on before the file is whole
    if problem is not None:
        raise problem


def read(folder: Path) -> dict[str, Any] | None:
    """Return what `last.pt` holds or, if it is damaged, the newest other file that is whole; None if there is none.

    Every rank has to call it: rank 0 reads and tells the others, which on other machines may not see the same disk.

    Raises:
        CheckpointError: if none of the files can be read.
    """
    state = who.from_rank_0(_read(folder) if who.rank() == 0 else None)
    if isinstance(state, CheckpointError):
        raise state
    return state


def put_back(trainer: Training, state: dict[str, Any]) -> None:
    """Give a Trainer everything that was saved but the random numbers, which come last (`random_of_this_rank`).

    Raises:
        CheckpointError: if the Trainer was built otherwise than the one that saved.
    """
    if (trainer.scheduler is None) != (state["scheduler"] is None):
        raise CheckpointError(
            f"The checkpoint was saved {'without' if state['scheduler'] is None else 'with'} a learning rate "
            "scheduler. Give the Trainer what the run began with."
        )
    names = state["averages"][0]["names"]
    if state["position"]["batch"] and names != trainer.averages.names:
        raise CheckpointError(
            f"The checkpoint was saved within an epoch, whose means are of {', '.join(names)}. "
            "Give the Trainer the same metrics."
        )
    if trainer.scheduler is not None and (other := set(trainer.scheduler.state_dict()) ^ set(state["scheduler"])):
        raise CheckpointError(
            f"The checkpoint was saved with a learning rate scheduler of a different kind: only one of them has "
            f"{checkpoint.some(sorted(other))}. Give the Trainer what the run began with."
        )
    # All is checked before anything is changed.
    checkpoint.check_weights(trainer.model, state["model"])
    checkpoint.matching_groups(trainer.model, trainer.optimizer, state["optimizer"])
    checkpoint.load_weights(trainer.model, state["model"])
    checkpoint.load_optimizer_state(trainer.model, trainer.optimizer, state["optimizer"])
    if trainer.scheduler is not None:
        trainer.scheduler.load_state_dict(state["scheduler"])
    if trainer.scaler.is_enabled() and state["scaler"]:
        trainer.scaler.load_state_dict(state["scaler"])
    trainer.position = Position(**state["position"])
    trainer.history = History(**state["history"])
    if trainer.position.batch:
        trainer.averages.load_state(state["averages"])


def differences(trainer: Training, state: dict[str, Any]) -> list[str]:
    """Return in which settings of the optimizer and the schedule a new Trainer differs from the checkpoint, in words.

    A checkpoint brings its own settings along, so those of the new Trainer have no effect.
    """
    found: list[str] = []
    groups = list(zip(trainer.optimizer.param_groups, state["optimizer"]["groups"], strict=False))
    for number, (new, saved) in enumerate(groups, 1):
        left_out = {"params", "param_names", "foreach", "fused", "capturable", "differentiable"}
        if trainer.scheduler is not None:
            left_out |= {"lr"} | ({"momentum", "betas"} if "max_momentum" in new else set())
        where = f" of group {number}" if len(groups) > 1 else ""
        found += _unequal(new, saved, left_out, where)
    rates = [row["lr"] for row in state["history"]["rows"][:1]]
    if isinstance(trainer.scheduler, ReduceLROnPlateau) and rates:
        found += _unequal({"lr": float(trainer.optimizer.param_groups[0]["lr"])}, {"lr": rates[0]}, set(), "")
    if trainer.scheduler is not None and state["scheduler"] is not None:
        found += _unequal_schedules(trainer.scheduler.state_dict(), state["scheduler"])
    return found


def _unequal_schedules(new: dict[str, Any], saved: dict[str, Any]) -> list[str]:
    found = _unequal(new, saved, _PROGRESS, " of the schedule")
    for inner in zip(new.get("_schedulers", ()), saved.get("_schedulers", ()), strict=False):
        found += _unequal_schedules(*inner)
    return found


def _unequal(new: dict[str, Any], saved: dict[str, Any], left_out: set[str], where: str) -> list[str]:
    """Return "lr 0.1 (not 0.01)" for each key that both have with different values."""
    pairs = [(key, new[key], checkpoint.plain(saved[key])) for key in new if key in saved and key not in left_out]
    return [f"{key}{where} {old} (not {fresh})" for key, fresh, old in pairs if checkpoint.plain(fresh) != old]


_PROGRESS = {
    *("last_epoch", "best", "cooldown_counter", "num_bad_epochs", "base_lrs", "lr_lambdas", "_step_count", "_last_lr"),
    *("_is_initial", "_get_lr_called_within_step", "_schedule_phases", "_schedulers"),
}
"""What a schedule keeps besides its settings: how far it has come, and what follows from the optimizer's."""


def random_of_this_rank(state: dict[str, Any]) -> dict[str, Any] | None:
    """Return this rank's random states, or None if the checkpoint was saved by a different number of ranks."""
    return state["random"][who.rank()] if len(state["random"]) == who.world_size() else None


def _kept(folder: Path) -> list[Path]:
    """Return the files `step-N.pt`, that of the last step first, whatever the clock said when they were written."""
    files = [path for path in folder.glob("step-*.pt") if path.stem.removeprefix("step-").isdecimal()]
    return sorted(files, key=_step, reverse=True)


def _step(path: Path) -> int:
    return int(path.stem.removeprefix("step-"))


def _read(folder: Path) -> dict[str, Any] | CheckpointError | None:
    problems = []
    for path in (folder / "last.pt", *_kept(folder), folder / "best.pt"):
        if not path.exists():
            continue
        try:
            state = checkpoint.load(path)
            if state.get("format") != FORMAT:
                raise CheckpointError(f"{path} was not written by this version of the Trainer.")
        except CheckpointError as error:
            problems.append(str(error))
            continue
        if problems:
            print(f"{problems[0]} Going on from {path} (epoch {state['position']['epoch']}) instead.")
        if len(state["random"]) != who.world_size():
            print(
                f"{path} was saved by {len(state['random'])} rank(s), and now there are {who.world_size()}: "
                "training goes on, but with different random numbers."
            )
        return state
    return CheckpointError(" ".join(problems)) if problems else None
