"""An optimizer's state from elsewhere, turned from counting parameters to calling them by name."""

from itertools import chain
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from torchcourse.training import checkpoint
from torchcourse.training.checkpoint import CheckpointError, some
from torchcourse.training.foreign.matching import plain_name


def by_name(
    saved: dict[str, Any], model: nn.Module, optimizer: torch.optim.Optimizer, order: list[str]
) -> dict[str, Any]:
    """Return an optimizer's state as `checkpoint.optimizer_state` gives it.

    Args:
        saved: by `Optimizer.state_dict`, by `checkpoint.optimizer_state`, or by `get_optimizer_state_dict` of DCP.
        model: unwrapped.
        optimizer: the one that is to get the state.
        order: the model's names of the weights, in the order of the file.

    Raises:
        CheckpointError: if numbers cannot be turned into names without guessing.
        ValueError: if the optimizer holds a tensor that is not a parameter of the model.
    """
    own = checkpoint.parameter_names(model, optimizer)
    ours = [[own[parameter] for parameter in group["params"]] for group in optimizer.param_groups]
    try:
        if "groups" in saved and "class" in saved:
            return saved
        names = _names(saved, model, ours, order)
        groups = [
            {key: value for key, value in group.items() if key not in ("params", "param_names")}
            | {"params": [names[key] for key in group["params"]]}
            for group in saved["param_groups"]
        ]
        return {
            "class": None,
            "state": {names[key]: dict(saved["state"][key]) for key in saved["state"]},
            "groups": groups,
        }
    except (KeyError, TypeError, AttributeError, IndexError, ValueError):
        raise CheckpointError(
            "what is kept for the optimizer is not the state of a torch optimizer. Load without optimizer=…."
        ) from None


def _names(saved: dict[str, Any], model: nn.Module, ours: list[list[str]], order: list[str]) -> dict[Any, str]:
    """Return the model's names of the parameters, by what the state calls them: other names, or numbers.

    `ours` has the names in each group of the optimizer, and `order` is as `by_name` takes it.
    """
    groups, own = saved["param_groups"], {plain_name(name): name for name, _ in model.named_parameters()}
    members = [key for group in groups for key in group["params"]]
    named = all(isinstance(key, str) for key in members)
    # Given named parameters, PyTorch writes their names beside the numbers.
    written = members if named else [name for group in groups for name in group.get("param_names", [])]
    if len(written) == len(members):
        unknown = [name for name in written if plain_name(name) not in own]
        if unknown:
            raise CheckpointError(f"the optimizer's state is of {some(unknown)}, which this model lacks.")
        return {key: own[plain_name(name)] for key, name in zip(members, written, strict=True)}
    return _by_count(saved, model, ours, [name for name in order if name in own.values()])


def _by_count(saved: dict[str, Any], model: nn.Module, ours: list[list[str]], trained: list[str]) -> dict[int, str]:
    """Tell by their order which parameters the numbers mean.

    PyTorch counts parameters in the order in which the optimizer got them. That is the order of this optimizer, made
    as the one that was saved; or, if the file lists its weights in a different order from this model, the file's.
    """
    counted = [group["params"] for group in saved["param_groups"]]
    members, flat = [list(chain.from_iterable(groups)) for groups in (counted, ours)]
    ways = [flat] if [*map(len, ours)] == [*map(len, counted)] else []
    if len(counted) == 1 and trained not in ways:
        ways.append(trained)
    fitting = [dict(zip(members, way, strict=True)) for way in ways if len(way) == len(members)]
    if len(fitting) > 1:
        shapes = _shapes(model)
        fitting = [names for names in fitting if not _misshapen(saved["state"], names, shapes)] or fitting[:1]
    if len(fitting) > 1:
        fitting = _told_by_listing(fitting, flat, trained, [name for name, _ in model.named_parameters()])
    if not fitting:
        raise CheckpointError(
            f"the optimizer's state counts {len(members)} parameters in {len(counted)} group(s), and the weights are "
            f"{len(trained)} parameters: which is which cannot be told. Load without optimizer=…, or save it by name."
        )
    return fitting[0]


def _told_by_listing(
    ways: list[dict[int, str]], flat: list[str], trained: list[str], listed: list[str]
) -> list[dict[int, str]]:
    """Return which of two ways is right, this optimizer's order or the file's, or neither; by how the model lists."""
    if trained == [name for name in listed if name in set(trained)]:
        return ways[:1]
    # The file's model lists otherwise, and its optimizer took the parameters as they came; unless somebody sorted them.
    return ways[1:] if flat == listed and trained != sorted(trained) else []


def check(named: dict[str, Any], model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Raise CheckpointError if the state is of a different kind of optimizer, or has different groups or shapes."""
    if not named["groups"]:
        raise CheckpointError("what is kept for the optimizer has no group of parameters. Load without optimizer=….")
    settings = optimizer.param_groups[0].keys() - {"params", "param_names"}
    kinds = {key for key in settings ^ (named["groups"][0].keys() - {"params"}) if key in _TELLING}
    if kinds:
        raise CheckpointError(
            f"the optimizer's state is of a different kind from {type(optimizer).__name__}: only one of them has "
            f"{some(sorted(kinds))}. Make the optimizer that the run was trained with."
        )
    for ours, theirs in zip(optimizer.param_groups, named["groups"], strict=False):
        refuse_other_kinds({key: ours[key] for key in ours.keys() - {"params", "param_names"}}, theirs, "optimizer")
    checkpoint.matching_groups(model, optimizer, named)
    of_torch = type(optimizer).__module__.startswith("torch.optim.")
    needed = _KEEPS.get(type(optimizer).__name__, set()) if of_torch else set()
    if lacking := {key for values in named["state"].values() if values for key in needed - values.keys()}:
        raise CheckpointError(
            f"the optimizer's state lacks {some(sorted(lacking))}, which {type(optimizer).__name__} keeps for each "
            "parameter. Make the optimizer that the run was trained with."
        )
    for name, values in named["state"].items():
        for key, value in values.items():
            no_tensor = key in _SHAPED and not isinstance(value, torch.Tensor)
            if (no_tensor and not (value is None and key == "momentum_buffer")) or isinstance(
                value, str | bytes | dict
            ):
                raise CheckpointError(
                    f"the optimizer's {key} for {name} is a {type(value).__name__}, where a tensor belongs. Load "
                    "without optimizer=…."
                )
    shapes = _shapes(model)
    for name, key, shape in _misshapen(named["state"], {name: name for name in named["state"]}, shapes):
        raise CheckpointError(
            f"the optimizer's {key} for {name} has shape {list(shape)}, and the parameter {list(shapes[name])}: its "
            "parameters came in a different order. Load without optimizer=…."
        )


def refuse_other_kinds(ours: dict[str, Any], theirs: dict[str, Any], whose: str) -> None:
    """Raise CheckpointError if a setting is no number where ours is one, or not as many numbers.

    A wrong one would be found at the next step only, when the state before is gone.
    """
    for key in sorted(ours.keys() & theirs.keys()):
        own, other = ours[key], theirs[key]
        if _is_number(own):
            fits = _is_number(other)
        elif isinstance(own, list | tuple) and own and all(map(_is_number, own)):
            fits = isinstance(other, list | tuple) and len(other) == len(own) and all(map(_is_number, other))
        elif own is None or isinstance(own, bool):
            fits = other is None or isinstance(other, bool) or _is_number(other)
        else:
            fits = True
        if not fits:
            raise CheckpointError(
                f"the {whose}'s {key} is {_shortly(other)}, which cannot stand for {_shortly(own)}. Load without "
                f"{whose}=…."
            )


def _is_number(value: Any) -> bool:
    if isinstance(value, torch.Tensor):
        return value.numel() == 1
    return isinstance(value, int | float) and not isinstance(value, bool)


def _shortly(value: Any) -> str:
    text = repr(value)
    return text if len(text) < 40 else f"a {type(value).__name__}"


def _shapes(model: nn.Module) -> dict[str, torch.Size]:
    return {name: parameter.shape for name, parameter in model.named_parameters() if not is_lazy(parameter)}


def _misshapen(
    state: dict[Any, Any], names: dict[Any, str], shapes: dict[str, torch.Size]
) -> list[tuple[str, str, torch.Size]]:
    """Return which values do not have the shape of the parameter that they are for: its name, theirs, their shape."""
    return [
        (names[key], kind, value.shape)
        for key, values in state.items()
        for kind, value in values.items()
        if isinstance(value, torch.Tensor)
        if kind in _SHAPED or (value.numel() > 1 and kind not in _SHAPED_OTHERWISE)
        if names[key] in shapes and value.shape != shapes[names[key]]
    ]


_KEEPS = {
    "Adam": {"exp_avg", "exp_avg_sq"},
    "AdamW": {"exp_avg", "exp_avg_sq"},
    "RAdam": {"exp_avg", "exp_avg_sq"},
    "NAdam": {"exp_avg", "exp_avg_sq", "mu_product"},
    "Adamax": {"exp_avg", "exp_inf"},
    "RMSprop": {"square_avg"},
    "Adadelta": {"square_avg", "acc_delta"},
    "Adagrad": {"sum"},
    "Rprop": {"prev", "step_size"},
    "ASGD": {"eta", "mu", "ax"},
}
"""What the optimizers of torch keep for every parameter that had a gradient, and cannot do without."""

_SHAPED = {
    *("exp_avg", "exp_avg_sq", "max_exp_avg_sq", "exp_inf", "momentum_buffer", "square_avg", "grad_avg", "acc_delta")
}
"""What optimizers keep for each number of a parameter."""

_SHAPED_OTHERWISE = {"row_var", "col_var"}
"""What Adafactor keeps for the rows and columns of a parameter."""

_TELLING = {"betas", "momentum", "alpha", "rho", "lr_decay", "lambd", "etas"}
"""Settings that only some optimizers have: Adam, SGD and RMSprop, RMSprop, Adadelta, Adagrad, ASGD, Rprop."""


def load(named: dict[str, Any], model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Give the optimizer the state, parameter by parameter."""
    own = type(optimizer).__name__
    groups = [
        {key: value for key, value in ours.items() if key not in ("params", "param_names")} | saved
        for ours, saved in zip(optimizer.param_groups, named["groups"], strict=True)
    ]
    checkpoint.load_optimizer_state(model, optimizer, named | {"class": named["class"] or own, "groups": groups})


def changes(named: dict[str, Any], optimizer: torch.optim.Optimizer) -> list[str]:
    """Return sentences on the settings that come with the state instead of the optimizer's own."""
    sentences = []
    for number, (ours, saved) in enumerate(zip(optimizer.param_groups, named["groups"], strict=True), 1):
        where = f" of group {number}" if len(named["groups"]) > 1 else ""
        for key in ("lr", "weight_decay", "momentum", "betas", "eps", "alpha"):
            if key in ours and key in saved and ours[key] != (tuple(saved[key]) if key == "betas" else saved[key]):
                sentences.append(f"set the optimizer's {key}{where} to {saved[key]}, instead of {ours[key]}")
    return sentences
