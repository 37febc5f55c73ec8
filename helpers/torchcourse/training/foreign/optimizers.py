"""An optimizer's state from elsewhere, turned from counting parameters to calling them by name."""

from typing import Any

import torch
from torch import nn

from torchcourse.training import checkpoint
from torchcourse.training.checkpoint import CheckpointError, some
from torchcourse.training.foreign.matching import plain_name


def by_name(saved: dict[str, Any], model: nn.Module, order: list[str]) -> dict[str, Any]:
    """Return an optimizer's state as `checkpoint.optimizer_state` gives it.

    PyTorch counts parameters in the order in which the optimizer got them: the order of the weights in the same file,
    which need not be the order of this model.

    Args:
        saved: by `Optimizer.state_dict`, by `checkpoint.optimizer_state`, or by `get_optimizer_state_dict` of DCP.
        model: unwrapped.
        order: the model's names of the weights, in the order of the file.

    Raises:
        CheckpointError: if numbers cannot be turned into names without guessing.
    """
    if "groups" in saved and "class" in saved:
        return saved
    if "state" not in saved or not isinstance(saved.get("param_groups"), list):
        raise CheckpointError(
            "what is kept for the optimizer is not the state of a torch optimizer. Load without optimizer=…."
        )
    names = _names(saved["param_groups"], {plain_name(name): name for name, _ in model.named_parameters()}, order)
    groups = [
        {key: value for key, value in group.items() if key not in ("params", "param_names")}
        | {"params": [names[key] for key in group["params"]]}
        for group in saved["param_groups"]
    ]
    return {"class": None, "state": {names[key]: value for key, value in saved["state"].items()}, "groups": groups}


def _names(groups: list[dict[str, Any]], own: dict[str, str], order: list[str]) -> dict[Any, str]:
    """Return the model's names of the parameters, by what the state calls them: other names, or numbers.

    `own` has the model's names by their plain form, and `order` as `by_name` takes it.
    """
    members = [key for group in groups for key in group["params"]]
    named = all(isinstance(key, str) for key in members)
    # Given named parameters, PyTorch writes their names beside the numbers.
    written = members if named else [name for group in groups for name in group.get("param_names", [])]
    if len(written) == len(members):
        unknown = [name for name in written if plain_name(name) not in own]
        if unknown:
            raise CheckpointError(f"the optimizer's state is of {some(unknown)}, which this model lacks.")
        return {key: own[plain_name(name)] for key, name in zip(members, written, strict=True)}
    return _by_count(groups, members, [name for name in order if name in own.values()])


def _by_count(groups: list[dict[str, Any]], members: list[int], trained: list[str]) -> dict[Any, str]:
    if len(groups) > 1 or len(trained) != len(members):
        raise CheckpointError(
            f"the optimizer's state counts {len(members)} parameters in {len(groups)} group(s), and the weights are "
            f"{len(trained)} parameters: which is which cannot be told. Load without optimizer=…, or save it by name."
        )
    return dict(zip(members, trained, strict=True))


def check(named: dict[str, Any], model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Raise CheckpointError if the state is of a different kind of optimizer, or has different groups or shapes."""
    ours = optimizer.param_groups[0].keys() - {"params", "param_names"}
    theirs = named["groups"][0].keys() - {"params"}
    kinds = {key for key in ours ^ theirs if key in _TELLING}
    if kinds:
        raise CheckpointError(
            f"the optimizer's state is of a different kind from {type(optimizer).__name__}: only one of them has "
            f"{some(sorted(kinds))}. Make the optimizer that the run was trained with."
        )
    names = {parameter: name for name, parameter in model.named_parameters()}
    own = [{names.get(parameter) for parameter in group["params"]} for group in optimizer.param_groups]
    if own != [set(group["params"]) for group in named["groups"]]:
        raise CheckpointError(
            f"the optimizer's {len(own)} parameter group(s) hold different parameters from the {len(named['groups'])} "
            "in the file. Build the groups as they were built for training."
        )
    _check_shapes(named["state"], {name: parameter.shape for name, parameter in model.named_parameters()})


def _check_shapes(state: dict[str, dict[str, Any]], shapes: dict[str, torch.Size]) -> None:
    for name, values in state.items():
        tensors = {key: value for key, value in values.items() if isinstance(value, torch.Tensor) and value.numel() > 1}
        for key, tensor in tensors.items():
            if tensor.shape != shapes[name]:
                raise CheckpointError(
                    f"the optimizer's {key} for {name} has shape {list(tensor.shape)}, and the parameter "
                    f"{list(shapes[name])}: its parameters came in a different order. Load without optimizer=…."
                )


_TELLING = {"betas", "momentum", "alpha", "rho", "lr_decay", "lambd", "etas"}
"""Settings that only some optimizers have: Adam, SGD and RMSprop, RMSprop, Adadelta, Adagrad, ASGD, Rprop."""


def load(named: dict[str, Any], model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Give the optimizer the state, parameter by parameter."""
    own = type(optimizer).__name__
    defaults = {key: value for key, value in optimizer.param_groups[0].items() if key not in ("params", "param_names")}
    groups = [defaults | group for group in named["groups"]]
    checkpoint.load_optimizer_state(model, optimizer, named | {"class": named["class"] or own, "groups": groups})
