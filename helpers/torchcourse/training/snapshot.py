"""The whole state of a Trainer as the content of a checkpoint, and back: all it takes to go on exactly."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from torchcourse.ranks import who
from torchcourse.training import checkpoint, schedules
from torchcourse.training.checkpoint import CheckpointError
from torchcourse.training.generators import Generator, random_state
from torchcourse.training.history import History
from torchcourse.training.losses import Loss
from torchcourse.training.metrics import Averages, Metric, OverAll
from torchcourse.training.position import Position

FORMAT = 2


class Training(Protocol):
    """What is saved of a Trainer, and put back."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    scheduler: LRScheduler | ReduceLROnPlateau | None
    scaler: torch.amp.GradScaler
    position: Position
    history: History
    metrics: dict[str, Metric | OverAll]
    averages: Averages
    loss: Loss
    settings: dict[str, Any]
    device: torch.device


def take(trainer: Training, random_at_epoch: dict[str, Any], generators: Sequence[Generator]) -> dict[str, Any]:
    """Return the state of training. Every rank has to call it, since each has random numbers of its own.

    Within an epoch it takes two states of the random numbers to go on exactly: the one before the loader began, with
    which it deals the same batches again, and the present one, from which dropout goes on.

    Args:
        trainer: between two steps.
        random_at_epoch: the random state at which the epoch under way began.
        generators: beside the global ones.
    """
    now = random_state(generators)
    random = {"epoch": random_at_epoch, "batch": now} if trainer.position.batch else {"epoch": now, "batch": None}
    return {
        "format": FORMAT,
        "model": trainer.model.state_dict(),
        "optimizer": _optimizer_state(trainer),
        "scheduler": None if trainer.scheduler is None else schedules.state_of(trainer.scheduler),
        "scaler": trainer.scaler.state_dict(),
        "position": asdict(trainer.position),
        "history": asdict(trainer.history),
        "averages": who.gather(checkpoint.plain(trainer.averages.state())),
        "loss": who.gather(checkpoint.plain(trainer.loss.buffers.changed())),
        "random": who.gather(random),
        "settings": trainer.settings,
    }


def rehearse(trainer: Training, folder: Path) -> None:
    """Raise now what saving would raise after an epoch. Every rank has to call it.

    Raises:
        CheckpointError: if the folder cannot be written.
        TypeError: if the model or the schedule has in its state what no file can hold.
    """
    states = {"model": trainer.model.state_dict()}
    if trainer.scheduler is not None:
        states["scheduler"] = schedules.state_of(trainer.scheduler)
    for name, state in states.items():
        values = {key: value for key, value in state.items() if not isinstance(value, torch.Tensor)}
        checkpoint.plain(values, f"state[{name!r}]")
    problem = None
    if who.rank() == 0:
        try:
            checkpoint.try_folder(folder)
        except CheckpointError as error:
            problem = error
    if (problem := who.from_rank_0(problem)) is not None:
        raise problem


def _optimizer_state(trainer: Training) -> dict[str, Any]:
    """Return the optimizer's whole state, on rank 0 at least, which writes it. Every rank has to call it."""
    state = checkpoint.optimizer_state(trainer.model, trainer.optimizer)
    consolidate = getattr(trainer.optimizer, "consolidate_state_dict", None)
    if consolidate is not None:  # as of ZeroRedundancyOptimizer: a rank has the numbers of its own share
        consolidate(to=0)
        if who.rank() == 0:
            names = [name for group in state["groups"] for name in group["params"]]
            whole = trainer.optimizer.state_dict()["state"]
            state["state"] = {names[number]: values for number, values in whole.items()}
    return state


def run_in(folder: Path) -> Path | None:
    """Return a file of a run that a folder holds, or None; every rank has to call it."""
    files = [path for path in (folder / "last.pt", folder / "best.pt", *_kept(folder)) if path.exists()]
    return who.from_rank_0(files[0] if files else None)


def seal(folder: Path) -> bytes | None:
    """Return what tells the `last.pt` of a folder from every other one; None if there is none."""
    try:
        with open(folder / "last.pt", "rb") as file:
            return checkpoint.tail(file)
    except OSError:
        return None


def write(
    state: dict[str, Any], folder: Path, names: tuple[str, ...], keep: int, replaces: bool, seen: bytes | None
) -> bytes | None:
    """Save what `take` returned under each of the names in a folder. Every rank has to call it; rank 0 writes.

    With `keep`, the state is also kept as `step-N.pt`, and only the newest so many of these files stay. With
    `replaces`, the files of the run that was there before are removed, as soon as the new ones are whole.

    Args:
        seen: the `seal` of the `last.pt` that this run has read or written.

    Returns:
        The seal of the new one, on rank 0.

    Raises:
        CheckpointError: on every rank, if it could not be written, or a different run has written into the folder.
            What was saved before is still there.
    """
    problem = None
    if who.rank() == 0:
        try:
            if seal(folder) not in (None, seen):
                raise CheckpointError(
                    f"{folder / 'last.pt'} was written by a different run while this one trained: two runs in one "
                    "folder would replace each other's files. So this one ends, and saved nothing after the other "
                    "began. Give each run a checkpoint_dir of its own."
                )
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
            if replaces:
                new = {folder / f"{name}.pt" for name in names} | {folder / f"step-{state['position']['step']:08d}.pt"}
                for path in {folder / "best.pt", *_kept(folder)} - new:
                    path.unlink(missing_ok=True)
        except CheckpointError as error:
            problem = error
    problem = who.from_rank_0(problem)  # the ranks also meet here: nobody goes on before the file is whole
    if problem is not None:
        raise problem
    return seal(folder) if who.rank() == 0 else None


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


def check(trainer: Training, state: dict[str, Any]) -> None:
    """Raise CheckpointError if the Trainer was built otherwise than the one that saved."""
    if (trainer.scheduler is None) != (state["scheduler"] is None):
        raise CheckpointError(
            f"The checkpoint was saved {'without' if state['scheduler'] is None else 'with'} a learning rate "
            "scheduler. Give the Trainer what the run began with."
        )
    names = state["averages"][0]["names"]
    if state["position"]["batch"] and names != _no_averages(trainer).names:
        raise CheckpointError(
            f"The checkpoint was saved within an epoch, whose means are of {', '.join(names)}. "
            "Give the Trainer the same metrics."
        )
    if trainer.scheduler is not None and (
        other := set(schedules.state_of(trainer.scheduler)) ^ set(state["scheduler"])
    ):
        raise CheckpointError(
            f"The checkpoint was saved with a learning rate scheduler of a different kind: only one of them has "
            f"{checkpoint.some(sorted(other))}. Give the Trainer what the run began with."
        )
    checkpoint.check_weights(trainer.model, state["model"])
    checkpoint.matching_groups(trainer.model, trainer.optimizer, state["optimizer"])
    trainer.loss.buffers.check(_of_this_rank(state.get("loss", [{}])))


def put_back(trainer: Training, state: dict[str, Any]) -> None:
    """Give a Trainer everything that was saved but the random numbers, which come last (`random_of_this_rank`).

    Raises:
        CheckpointError: if the Trainer was built otherwise than the one that saved. Then nothing has changed.
    """
    check(trainer, state)
    rates, of_functions = _wound_on(trainer, state), new_rates(trainer, state)
    checkpoint.load_weights(trainer.model, state["model"])
    checkpoint.load_optimizer_state(trainer.model, trainer.optimizer, state["optimizer"])
    if rates is not None:
        for group, held in zip(trainer.optimizer.param_groups, rates, strict=True):
            group.update(held)
    elif trainer.scheduler is not None:
        trainer.scheduler.load_state_dict(state["scheduler"])
        if of_functions is not None:
            schedules.set_rates(trainer.scheduler, trainer.optimizer, of_functions)
    if trainer.scaler.is_enabled() and state["scaler"]:
        trainer.scaler.load_state_dict(state["scaler"])
    trainer.position = Position(**state["position"])
    trainer.history = History(**state["history"])
    trainer.loss.buffers.load(_of_this_rank(state.get("loss", [{}])), trainer.device)
    trainer.averages = _no_averages(trainer)
    if trainer.position.batch:
        trainer.averages.load_state(state["averages"])


def _no_averages(trainer: Training) -> Averages:
    """Return the averages of an epoch that has had no batch."""
    return Averages(trainer.metrics, trainer.device, trainer.loss.ignored)


def new_rates(trainer: Training, state: dict[str, Any]) -> list[float] | None:
    """Return the rates of a LambdaLR whose functions are not those that were saved; None where they are."""
    if trainer.scheduler is None or state["scheduler"] is None:
        return None
    rates = [float(group["lr"]) for group in state["optimizer"]["groups"]]
    return schedules.rates_of_new_functions(trainer.scheduler, state["scheduler"], rates)


def _wound_on(trainer: Training, state: dict[str, Any]) -> list[dict[str, Any]] | None:
    """If the schedule has new settings, let it move to where the checkpoint is, and return the rates there."""
    schedule = trainer.scheduler
    if schedule is None or isinstance(schedule, ReduceLROnPlateau):
        return None
    if not schedules.differences(schedule.state_dict(), state["scheduler"]):
        return None
    moves = schedules.moved_so_far(state["scheduler"]) - schedules.moved_so_far(schedule.state_dict())
    try:
        return schedules.wound_on(schedule, trainer.optimizer, moves)
    except ValueError as error:
        raise CheckpointError(
            f"The checkpoint's schedule has moved {moves} times, the new {type(schedule).__name__} cannot: {error} "
            "Make it as long as the whole training run."
        ) from None


def _of_this_rank(shares: list[dict[str, Any]]) -> dict[str, Any]:
    """Return what this rank had, or rank 0, if there were other ranks."""
    return shares[who.rank()] if len(shares) == who.world_size() else shares[0]


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
