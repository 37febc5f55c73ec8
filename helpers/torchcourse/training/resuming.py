"""Going on with a saved run: what a new Trainer asks for otherwise is honored, or said, or refused."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal, Protocol

from torch.optim.lr_scheduler import LambdaLR, ReduceLROnPlateau

from torchcourse.data.loaders import length
from torchcourse.ranks import who
from torchcourse.training import checkpoint, schedules, snapshot
from torchcourse.training.checkpoint import CheckpointError
from torchcourse.training.generators import Generator, are_those_of, set_random_state
from torchcourse.training.position import Position
from torchcourse.training.schedules import Length
from torchcourse.training.snapshot import Training


class Resuming(Training, Protocol):
    """A Trainer at the beginning of a fit."""

    generators: list[Generator]
    accumulate: int
    clip_norm: float | None
    precision: Literal["fp32", "bf16", "fp16"]
    schedule_by: Literal["step", "epoch"] | None
    monitor: str
    mode: Literal["min", "max"]
    patience: int | None


def resume(trainer: Resuming, folder: Path, length_of: Length) -> tuple[bool, dict[str, Any] | None]:
    """Put a Trainer back to where a folder's run was saved, and say what is not as it was. Every rank has to call it.

    Returns:
        Whether there was a run; and the random state from which an epoch under way goes on, or None.

    Raises:
        CheckpointError: if no file can be read, or the Trainer does not fit. Then nothing has changed.
        ValueError: if the schedule does not fit the rest of the training. Then neither.
    """
    says = print if who.rank() == 0 else lambda *_: None
    state = snapshot.read(folder)
    if state is None:
        says(f"There is no checkpoint in {folder} yet: training begins at the first epoch.")
        schedules.check_length(trainer.scheduler, trainer.schedule_by, length_of, trainer.position)
        return False, None
    snapshot.check(trainer, state)
    check_loader(state, trainer.settings)
    if state["scheduler"] is not None:
        moved = schedules.moved_so_far(state["scheduler"])
        position = Position(**state["position"])
        schedules.check_length(trainer.scheduler, trainer.schedule_by, length_of, position, moved)
    old, schedule_news = ignored(trainer, state), news_of_schedule(trainer, state)
    functions = snapshot.new_rates(trainer, state)
    new = news(state, trainer.settings)
    snapshot.put_back(trainer, state)
    if old:
        says(
            f"Going on with the checkpoint's {checkpoint.some(old)}. For new settings, begin a new fit "
            "from its weights, without resume: restore('last')."
        )
    if schedule_news or functions is not None:
        schedule_news += ["the function of the LambdaLR"] if functions is not None else []
        rate = trainer.optimizer.param_groups[0]["lr"]
        says(f"From here on the new schedule holds: {checkpoint.some(schedule_news)}. The rate is now {rate:.3g}.")
    if new:
        says(f"From here on: {checkpoint.some(new)}.")
    if trainer.position.epoch >= length_of.last_epoch:
        says(f"The checkpoint has had {trainer.position.epoch} epochs already: nothing is left to train.")
    if stopped_early(trainer):
        length_of.last_step = trainer.position.step
        says(
            f"Early stopping has ended this run: nothing better in {trainer.history.since_best()} epochs. "
            f"To go on, give the Trainer more patience than {trainer.patience}."
        )
    random = snapshot.random_of_this_rank(state)
    if random is None:
        return True, None
    if not are_those_of(trainer.generators, random["epoch"]):
        says("The loader and the model draw from other generators than the run did, so that its order does not go on.")
    if 0 < trainer.position.epoch < length_of.last_epoch and getattr(length_of.loader, "persistent_workers", False):
        # Such workers start in the first epoch only, which takes a random number from those that shuffle.
        iter(length_of.loader)
    set_random_state(random["epoch"], trainer.generators)
    return True, random["batch"]


def stopped_early(trainer: Resuming) -> bool:
    """Return whether early stopping has ended the run that goes on, which it would do again after one more epoch."""
    if trainer.patience is None:
        return False
    names = (trainer.monitor, trainer.monitor.removeprefix("val_"))
    same = trainer.position.watched in [f"{trainer.mode} {name}" for name in names]
    return same and trainer.history.since_best() >= trainer.patience


def settings(loader: Iterable, trainer: Resuming) -> dict[str, Any]:
    """Return what a checkpoint keeps of a fit's settings; sizes count the samples of all ranks together."""
    size = getattr(loader, "batch_size", None)
    return {
        "samples per batch": size * who.world_size() if isinstance(size, int) else None,
        "batches per epoch": length(loader),
        "accumulate": trainer.accumulate,
        "precision": trainer.precision,
        "clip_norm": "none" if trainer.clip_norm is None else float(trainer.clip_norm),
        "monitor": trainer.monitor,
        "mode": trainer.mode,
    }


def check_loader(state: dict[str, Any], now: dict[str, Any]) -> None:
    """Raise CheckpointError if the rest of an epoch cannot be found, since its batches are not what they were."""
    changed = _changed(state, now)
    for name in ("samples per batch", "batches per epoch"):
        if state["position"]["batch"] and name in changed:
            raise CheckpointError(
                f"The checkpoint was saved within an epoch, after {state['position']['batch']} of its batches, with "
                f"{changed[name]} {name}; now there are {now[name]}, so that the rest of the epoch cannot be told. "
                "Give the loader that the run had, or begin a new fit from its weights: restore('last')."
            )


def news(state: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Return which settings are different from here on: "accumulate 4 (was 2)"."""
    return [f"{name} {now[name]} (was {was})" for name, was in _changed(state, now).items()]


def _changed(state: dict[str, Any], now: dict[str, Any]) -> dict[str, Any]:
    """Return what the settings were that are different now; None is one that is not known."""
    saved = state.get("settings", {})
    return {name: saved[name] for name in now if None not in (saved.get(name), now[name]) and saved[name] != now[name]}


def news_of_schedule(trainer: Training, state: dict[str, Any]) -> list[str]:
    """Return which settings of the schedule are new: "T_max 20 (was 10)". The rate then follows the new schedule."""
    if trainer.scheduler is None or state["scheduler"] is None or isinstance(trainer.scheduler, ReduceLROnPlateau):
        return []
    found = schedules.differences(trainer.scheduler.state_dict(), state["scheduler"])
    return [f"{key} {new} (was {old})" for key, old, new in found]


def ignored(trainer: Training, state: dict[str, Any]) -> list[str]:
    """Return in which settings of the optimizer and of a ReduceLROnPlateau a new Trainer differs from the checkpoint.

    A checkpoint brings these along, so those of the new Trainer have no effect.
    """
    found: list[str] = []
    schedule = trainer.scheduler
    new_schedule = bool(news_of_schedule(trainer, state))
    groups = list(zip(trainer.optimizer.param_groups, state["optimizer"]["groups"], strict=False))
    for number, (new, saved) in enumerate(groups, 1):
        left_out = {"params", "param_names", *checkpoint.HOW}
        if schedule is not None:
            left_out |= {"lr"} | ({"momentum", "betas"} if "max_momentum" in new else set())
        if new_schedule:  # all of these are the schedule's
            left_out |= {"initial_lr", "max_lr", "min_lr", "max_momentum", "base_momentum"}
        found += _unequal(new, saved, left_out, f" of group {number}" if len(groups) > 1 else "")
    if isinstance(schedule, LambdaLR) and state["scheduler"] is not None:
        for function, held in zip(schedule.lr_lambdas, state["scheduler"]["lr_lambdas"], strict=False):
            found += _unequal(vars(function), held or {}, set(), " of the schedule's function")
    rates = [row["lr"] for row in state["history"]["rows"][:1]]
    if isinstance(schedule, ReduceLROnPlateau):
        if rates:
            found += _unequal({"lr": float(trainer.optimizer.param_groups[0]["lr"])}, {"lr": rates[0]}, set(), "")
        if state["scheduler"] is not None:
            unlike = schedules.differences(schedule.state_dict(), state["scheduler"])
            found += [f"{key} of the schedule {old} (not {new})" for key, old, new in unlike]
    return found


def _unequal(new: dict[str, Any], saved: dict[str, Any], left_out: set[str], where: str) -> list[str]:
    """Return "lr 0.1 (not 0.01)" for each key that both have with different values."""
    pairs = [(key, new[key], checkpoint.plain(saved[key])) for key in new if key in saved and key not in left_out]
    return [f"{key}{where} {old} (not {fresh})" for key, fresh, old in pairs if checkpoint.plain(fresh) != old]
