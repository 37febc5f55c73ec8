"""The loader itself: read, find the weights, check everything, and only then change the model."""

import contextlib
import copy
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from torchcourse.training import wrappers
from torchcourse.training.checkpoint import CheckpointError, some
from torchcourse.training.foreign import matching, optimizers
from torchcourse.training.foreign.files import Found
from torchcourse.training.foreign.reading import read


@dataclass
class Report:
    """What loading a checkpoint took.

    `steps` are sentences, in order; `loaded` counts tensors; `rest` is what the file held besides (its epoch, its
    learning rate schedule …), for you to use; `unused` names weights that stood beside the ones that were loaded.
    """

    source: str
    kind: str
    loaded: int
    steps: list[str] = field(default_factory=list)
    unused: list[str] = field(default_factory=list)
    rest: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        head = f"{self.source}: {self.kind}, {self.loaded} tensors loaded."
        return "\n".join([head, *(f"  - {step}" for step in self.steps)])


def load_any(
    source: str | os.PathLike,
    model: nn.Module,
    *,
    optimizer: torch.optim.Optimizer | None = None,
    scheduler: Any = None,
    scaler: Any = None,
    part: str | None = None,
    leave: str | Iterable[str] = (),
    quiet: bool = False,
) -> Report:
    """Load a checkpoint of any origin into a model; print what it took.

    Names may differ by what wrappers put into them (`module.`, `_orig_mod.`) and by where the weights stand in the file
    (`state_dict`, `model.`). Everything else has to fit: otherwise nothing at all is changed.

    Args:
        source: a file or folder; see `read`.
        model: on any device, also wrapped in DistributedDataParallel or compiled.
        optimizer, scheduler, scaler: to be given their state as well, which the file then has to have. The optimizer's
            is found by the parameters' names, never by their count.
        part: which weights to take where a file has several, such as "ema" or "teacher".
        leave: beginnings of names (or one) that keep the model's values, such as a head for different classes:
            `("head.",)`.
        quiet: do not print the report.

    Raises:
        CheckpointError: one sentence of what does not fit or cannot be read, and what to do.
        ValueError: if the optimizer holds a tensor that is not a parameter of the model.
    """
    inner = wrappers.unwrap(model)
    found = read(source)
    try:
        match = matching.find(found.content, inner, part, (leave,) if isinstance(leave, str) else tuple(leave))
        states = _states(found.content, optimizer, scheduler, scaler)
        if optimizer is not None:
            named = optimizers.by_name(states["optimizer"], inner, optimizer, match.order)
            optimizers.check(named, inner, optimizer)
        if scheduler is not None:
            _check_schedule(states["scheduler"], scheduler)
    except CheckpointError as error:
        raise CheckpointError(f"{source}: {error}") from None
    report = Report(str(source), found.kind, len(match.tensors), _steps(found, match, inner), match.unused)
    report.rest = {key: value for key, value in found.content.items() if not _holds(value, match)}
    with _all_or_nothing(source, inner, match.tensors, optimizer, [scheduler, scaler]):
        inner.load_state_dict(match.tensors, strict=False)  # all that is missing was accounted for
        if optimizer is not None:
            report.steps += optimizers.changes(named, optimizer)
            optimizers.load(named, inner, optimizer)
            report.steps.append(f"gave the optimizer its state for {len(named['state'])} parameters, by name")
            if not any(key in found.content for key in ("random", "rng_state", "rng", "random_state")):
                report.steps.append("found no state of random numbers: a run that goes on from here draws others")
        for name, target in (("scheduler", scheduler), ("scaler", scaler)):
            if target is not None:
                target.load_state_dict(states[name])
                report.steps.append(f"gave the {name} its state")
    if not quiet:
        print(report)
    return report


@contextlib.contextmanager
def _all_or_nothing(
    source: str | os.PathLike,
    model: nn.Module,
    names: Iterable[str],
    optimizer: torch.optim.Optimizer | None,
    others: list[Any],
) -> Iterator[None]:
    """Put everything back as it was if loading fails after all that could be checked was."""
    own = model.state_dict()
    weights = {name: own[name].detach().clone() for name in names if not is_lazy(own[name])}
    state = None if optimizer is None else (optimizer.state, optimizer.param_groups)
    kept = [(other, copy.deepcopy(other.state_dict())) for other in others if other is not None]
    try:
        yield
    except Exception as error:
        with torch.no_grad():
            for name, tensor in weights.items():
                own[name].copy_(tensor)
        if optimizer is not None and state is not None:
            optimizer.state, optimizer.param_groups = state
        for other, before in kept:
            other.load_state_dict(before)
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise CheckpointError(f"{source} cannot be loaded ({reason}), and everything is as it was.") from error


def _check_schedule(state: dict[str, Any], scheduler: Any) -> None:
    if other := set(scheduler.state_dict()) ^ set(state):
        raise CheckpointError(
            f"the scheduler's state is of a different kind from {type(scheduler).__name__}: only one of them has "
            f"{some(sorted(map(str, other)))}. Make the scheduler that the run was trained with."
        )
    optimizers.refuse_other_kinds(scheduler.state_dict(), state, "scheduler")


_KEYS = {
    "optimizer": ("optimizer", "optimizer_state_dict", "optimizer_states", "optim", "optimizer_state", "opt"),
    "scheduler": ("scheduler", "scheduler_state_dict", "lr_schedulers", "lr_scheduler", "lr_scheduler_state_dict"),
    "scaler": ("scaler", "scaler_state_dict", "grad_scaler", "amp_scaler", "MixedPrecision"),
}
"""Under which keys programs keep them: the first is this course's, the plural ones are Lightning's."""


def _states(content: dict[str, Any], optimizer: Any, scheduler: Any, scaler: Any) -> dict[str, Any]:
    states = {}
    for name, target in (("optimizer", optimizer), ("scheduler", scheduler), ("scaler", scaler)):
        if target is None:
            continue
        kept = [content[key] for key in _KEYS[name] if isinstance(content.get(key), dict | list)]
        state = next((state for state in kept if state), None)
        if isinstance(state, list) and len(state) == 1:
            state = state[0]
        if not isinstance(state, dict):
            raise CheckpointError(
                f"there is no state of one {name} in it, so nothing was loaded. "
                f"Load without {name}=…, and it begins again."
            )
        states[name] = state
    return states


def _steps(found: Found, match: matching.Match, model: nn.Module) -> list[str]:
    steps = list(found.notes)
    here = _devices(model)
    if away := sorted(found.devices - here.keys() - {"cpu"}):
        steps.append(f"moved tensors that were saved on {some(away)} to {next(iter(here), 'cpu')}")
    if match.label:
        steps.append(f"took the weights from {match.label!r}")
    for word, count in match.stripped.items():
        steps.append(f'took "{word}." of {matching.WRAPPERS[word]} off {count} names')
    own = model.state_dict()
    changes: dict[tuple[str, str], int] = {}
    for name, tensor in match.tensors.items():
        if tensor.dtype != own[name].dtype:
            pair = (str(tensor.dtype).removeprefix("torch."), str(own[name].dtype).removeprefix("torch."))
            changes[pair] = changes.get(pair, 0) + 1
    steps += [f"converted {count} tensors from {old} to {new}" for (old, new), count in changes.items()]
    spoiled = [name for name, tensor in match.tensors.items() if _has_nan(tensor)]
    if spoiled:
        steps.append(f"CAUTION: {some(spoiled)} holds values that are not numbers (NaN)")
    endless = [name for name, _ in model.named_parameters() if _has_inf(match.tensors.get(name))]
    if endless:
        steps.append(f"CAUTION: {some(endless)} holds infinite values")
    if match.unused:
        steps.append(f"did not use {some(match.unused)}, which is beside the weights")
    return steps + match.notes


def _has_inf(tensor: torch.Tensor | None) -> bool:
    return tensor is not None and tensor.is_floating_point() and tensor.itemsize > 1 and bool(tensor.isinf().any())


def _has_nan(tensor: torch.Tensor) -> bool:
    if not (tensor.is_floating_point() or tensor.is_complex()) or tensor.is_quantized:
        return False
    return bool((tensor.float() if tensor.is_floating_point() and tensor.itemsize == 1 else tensor).isnan().any())


def _devices(model: nn.Module) -> dict[str, None]:
    return dict.fromkeys(
        str(tensor.device) for tensor in model.state_dict().values() if isinstance(tensor, torch.Tensor)
    )


def _holds(value: Any, match: matching.Match) -> bool:
    """Whether a value of the content is, or has in it, the weights that were loaded."""
    if isinstance(value, torch.Tensor):
        return any(value is tensor for tensor in match.tensors.values())
    return isinstance(value, dict) and any(_holds(inner, match) for inner in value.values())
