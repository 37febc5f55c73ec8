"""Learning rate schedules: do they fit the training that is to come, and where are they after so many steps?"""

import bisect
import copy
import math
import sys
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch.optim import lr_scheduler
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from torchcourse.data.loaders import steps_left
from torchcourse.training.plain_values import plain
from torchcourse.training.position import Position

Schedule = LRScheduler | ReduceLROnPlateau


def check_made_for(schedule: Any, optimizer: torch.optim.Optimizer) -> None:
    """Raise ValueError for what is no schedule, or one that moves the rate of a different optimizer."""
    if schedule is None:
        return
    if not (hasattr(schedule, "step") and hasattr(schedule, "state_dict")):
        raise ValueError(
            f"scheduler has to be one learning rate schedule of torch, but is a {type(schedule).__name__}. Several "
            "make one as a SequentialLR or ChainedScheduler, and schedule_by says when it moves."
        )
    held = getattr(schedule, "optimizer", optimizer)
    if held is not optimizer and getattr(held, "param_groups", None) is not optimizer.param_groups:
        raise ValueError(
            f"The {type(schedule).__name__} was made for a different optimizer, so the rate would never change. Make "
            "it after the optimizer that the Trainer gets."
        )
    try:
        schedule.state_dict()
    except Exception as error:
        raise ValueError(
            f"The state of the {type(schedule).__name__} cannot be saved ({error}). Give it functions that were "
            "written with def or lambda."
        ) from error


def check_mode(schedule: Schedule | None, monitor: str, mode: str) -> None:
    """Raise ValueError for a ReduceLROnPlateau that takes for better what the Trainer takes for worse."""
    if isinstance(schedule, ReduceLROnPlateau) and schedule.mode != mode:
        raise ValueError(
            f"The Trainer keeps the epoch with the {mode}imum of {monitor}, but ReduceLROnPlateau(mode="
            f"{schedule.mode!r}) lowers the rate while it gets better. Give both the same mode."
        )


@dataclass
class Length:
    """How long a fit will be.

    Args:
        loader: of its training batches.
        accumulate: batches per optimizer step.
        last_epoch, last_step: where it ends, in whichever comes first.
    """

    loader: Iterable
    accumulate: int
    last_epoch: int
    last_step: int

    def steps_per_epoch(self) -> int | None:
        return steps_left(self.loader, self.accumulate, 1, 0)

    def steps_left(self, position: Position) -> int | None:
        """Return the optimizer steps from a position on, or None if unknown."""
        steps = steps_left(self.loader, self.accumulate, self.last_epoch - position.epoch, position.batch)
        to_last = self.last_step - position.step
        known = [number for number in (steps, to_last) if number is not None and number < sys.maxsize // 2]
        return max(0, min(known)) if known else None


def check_length(
    schedule: Schedule | None, by: str | None, length: Length, position: Position, moved: int | None = None
) -> None:
    """Raise ValueError for a schedule that does not fit the training that is to come.

    Args:
        schedule: with the settings that will hold.
        by: "step" or "epoch": when it moves. None: at every step, and nobody said so.
        length: of the fit.
        position: where the fit begins.
        moved: how often the schedule will have moved by then; None: as often as it has.
    """
    if schedule is None or isinstance(schedule, ReduceLROnPlateau):
        return
    left = length.steps_left(position) if by != "epoch" else length.last_epoch - position.epoch
    per_epoch = length.steps_per_epoch()
    if left is None or left > sys.maxsize // 2:
        return
    moves = (moved_so_far(schedule.state_dict()) if moved is None else moved) + left
    if isinstance(schedule, lr_scheduler.OneCycleLR) and schedule.total_steps < moves:
        unit = "epochs" if by == "epoch" else "optimizer steps"
        raise ValueError(
            f"OneCycleLR has total_steps={schedule.total_steps}, but this fit ends after {moves} {unit}. Make it with "
            f"total_steps={moves}{_ALSO_ON_RESUME if moved else ''}."
        )
    if left and by is None and per_epoch is not None and (words := _surprise(schedule, moves, per_epoch)):
        raise ValueError(
            f"{type(schedule).__name__} moves at every optimizer step, {per_epoch} per epoch and {moves} by the "
            f"end of this fit, and {words}. Count in steps; or count in epochs and give the Trainer "
            "schedule_by='epoch'. If it is meant so: schedule_by='step'."
        )


def state_of(schedule: Schedule) -> dict[str, Any]:
    """Return what a checkpoint keeps of a schedule: its state without functions, which are those of a new schedule.

    A LambdaLR leaves out its functions itself; a schedule of one's own seldom does.
    """
    return _without_functions(schedule.state_dict())


def _without_functions(state: dict[str, Any]) -> dict[str, Any]:
    kept = {key: value for key, value in state.items() if not _has_function(value)}
    if "_schedulers" in state:
        kept["_schedulers"] = [_without_functions(part) for part in state["_schedulers"]]
    return kept


def _has_function(value: Any) -> bool:
    inside = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
    return callable(value) or any(map(_has_function, inside))


def moved_so_far(state: dict[str, Any]) -> int:
    """Return how often the schedule of a `state_dict` has moved; a ChainedScheduler lets its parts count.

    It is 0 for a schedule of one's own that does not count.
    """
    parts = state.get("_schedulers")
    return moved_so_far(parts[0]) if parts and "last_epoch" not in state else state.get("last_epoch", 0)


def move_on(schedule: Schedule, *value: float) -> None:
    """Let a schedule take its step; a ReduceLROnPlateau gets the monitored value.

    Raises:
        ValueError: if it knows fewer groups than the optimizer has by now.
    """
    try:
        schedule.step(*value)  # type: ignore[arg-type]
    except (ValueError, KeyError, IndexError, RuntimeError) as error:
        known = len(getattr(schedule, "base_lrs", ()) or getattr(schedule, "min_lrs", ()))
        groups = len(schedule.optimizer.param_groups) if known else 0
        if groups == known:
            raise
        raise _about_groups(schedule, groups, known) from error


def _about_groups(schedule: Schedule, groups: int, known: int) -> ValueError:
    return ValueError(
        f"The optimizer has {groups} groups of parameters, but {type(schedule).__name__} was made when it had {known}. "
        "Make the optimizer with all groups, also those that are frozen at first (requires_grad_(False)), and the "
        "schedule after it."
    )


_ALSO_ON_RESUME = "; with resume=True its rate then follows the longer schedule"


def _surprise(schedule: Any, moves: int, steps_per_epoch: int) -> str | None:
    """Return what a schedule would do that hardly anybody wants of one that moves `moves` times, or None."""
    match schedule:
        case lr_scheduler.SequentialLR():
            return _surprise(schedule._schedulers[-1], moves - schedule._milestones[-1], steps_per_epoch)
        case lr_scheduler.ChainedScheduler():
            of_parts = (_surprise(part, moves, steps_per_epoch) for part in schedule._schedulers)
            return next((words for words in of_parts if words), None)
        case lr_scheduler.CosineAnnealingLR() if schedule.T_max < moves:
            return f"with T_max={schedule.T_max} its rate would fall, and rise again"
        case lr_scheduler.StepLR() if schedule.step_size < 2 * steps_per_epoch:
            share = schedule.gamma ** (moves // schedule.step_size)
            words = f"with step_size={schedule.step_size} the rate would be multiplied by {share:.2g}"
            return words if share < 0.01 else None
        case lr_scheduler.MultiStepLR() if max(schedule.milestones, default=moves) <= moves / 4:
            return f"with its last milestone at {max(schedule.milestones)} most of the fit would have the lowest rate"
        case lr_scheduler.ExponentialLR() if schedule.gamma**moves < 1e-3:
            return f"with gamma={schedule.gamma} the rate would be multiplied by {schedule.gamma**moves:.2g}"
        case lr_scheduler.PolynomialLR() if schedule.total_iters <= moves / 2:
            return f"with total_iters={schedule.total_iters} the rate would be 0 for most of it"
    return None


def differences(new: dict[str, Any], saved: dict[str, Any]) -> list[tuple[str, Any, Any]]:
    """Return in which settings two `state_dict`s of schedules differ: name, old and new value.

    What has grown by as much as the schedule has moved is a counter of its own. Of one that does not count its moves,
    nobody can tell what is a setting.
    """
    if "last_epoch" not in saved and "_schedulers" not in saved:
        return []
    moved = moved_so_far(saved) - moved_so_far(new)
    counters = {key for key in new if isinstance(new[key], int) and new[key] in (0, 1)}
    found = [
        (key, saved[key], new[key])
        for key in new
        if key in saved and key not in _PROGRESS and plain(new[key]) != plain(saved[key])
        if key not in counters or saved[key] != new[key] + moved
    ]
    for inner in zip(new.get("_schedulers", ()), saved.get("_schedulers", ()), strict=False):
        found += differences(*inner)
    return found


def rates_of_new_functions(schedule: Schedule, saved: dict[str, Any], rates: list[float]) -> list[float] | None:
    """Return what the functions of a LambdaLR say where a saved one was, unless these are its rates.

    A state has no functions in it, so that new ones show by the rates alone. In a SequentialLR the part counts whose
    turn it is.

    Args:
        schedule: a new one.
        saved: the state of the saved one.
        rates: the rates of the optimizer's groups when it was saved.
    """
    while isinstance(schedule, lr_scheduler.SequentialLR):
        turn = bisect.bisect_right(schedule._milestones, saved["last_epoch"])
        schedule, saved = schedule._schedulers[turn], saved["_schedulers"][turn]
    if type(schedule) is not lr_scheduler.LambdaLR or any(saved["lr_lambdas"]):
        return None  # a state has what callable objects hold, and brings it along
    pairs = zip(saved["base_lrs"], schedule.lr_lambdas, strict=True)
    new = [float(base * function(saved["last_epoch"])) for base, function in pairs]
    same = all(math.isclose(one, other, rel_tol=1e-9) for one, other in zip(new, rates, strict=True))
    return None if same else new


def set_rates(schedule: Schedule, optimizer: torch.optim.Optimizer, rates: list[float]) -> None:
    """Let the optimizer's groups have these rates, until the schedule moves on."""
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        if isinstance(group["lr"], torch.Tensor):
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate
    schedule._last_lr = list(rates)


_PROGRESS = {
    *("last_epoch", "best", "cooldown_counter", "num_bad_epochs", "base_lrs", "lr_lambdas", "_step_count", "_last_lr"),
    *("T_cur", "T_i", "_is_initial", "_get_lr_called_within_step", "_schedule_phases", "_schedulers", "verbose"),
}
"""What a schedule keeps besides its settings: how far it has come, and what follows from the optimizer's."""


def wound_on(schedule: LRScheduler, optimizer: torch.optim.Optimizer, moves: int) -> list[dict[str, Any]]:
    """Let a new schedule move so many times, and return what the optimizer's groups then hold of it, such as "lr".

    Raises:
        ValueError: if it cannot move so often; then it and the optimizer are as they were.
    """
    groups = [{key: value for key, value in group.items() if key != "params"} for group in optimizer.param_groups]
    before = copy.deepcopy(schedule.state_dict())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that no optimizer step came between
        try:
            for _ in range(moves):
                schedule.step()
        except ValueError:
            schedule.load_state_dict(before)
            for group, old in zip(optimizer.param_groups, groups, strict=True):
                group.update(old)
            raise
    keys = ("lr", "initial_lr", "max_lr", "min_lr", "momentum", "betas", "base_momentum", "max_momentum")
    return [{key: group[key] for key in keys if key in group} for group in optimizer.param_groups]
