"""Find a model's weights in the content of a checkpoint, under whatever names they were saved."""

import re
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

import torch
from torch import nn
from torch.distributed.tensor import DTensor
from torch.nn.parameter import is_lazy

from torchcourse.training.checkpoint import CheckpointError, some
from torchcourse.training.foreign.places import nested, parts, spelled
from torchcourse.training.plain_values import loss_of_copying

WRAPPERS = {
    "module": "DataParallel or DistributedDataParallel",
    "_orig_mod": "torch.compile",
    "_fsdp_wrapped_module": "FSDP",
    "_checkpoint_wrapped_module": "activation checkpointing",
    "_forward_module": "Lightning Fabric",
}
"""What wrappers put into a name, and which wrapper does it."""


class Misfit(Enum):
    """What keeps a part of a checkpoint from being loaded: sentences with a gap for names."""

    TWICE = "it has the same name twice but for a wrapper: {}"
    SHARE = "the file has one rank's share of {}"
    HOLLOW = "the file has no numbers for {}"
    EMPTY = "the file has names without values (of the meta device): {}"
    NOWHERE = "the model is on the meta device and has no memory for {} (call model.to_empty(device=…) first)"
    SHARDED = (
        "this model has one rank's share of {} (load before sharding it, or read with torch.distributed.checkpoint)"
    )
    RESHAPED = "the shape differs: {}"
    RETYPED = "the numbers are of a different kind: {}"
    LACKING = "the file lacks {}"
    LEFT_OVER = "the file has {}, which the model lacks"
    TORN = "in this model {} are one tensor, but the file has different values for them"


@dataclass
class Match:
    """A part of a checkpoint, laid beside a model."""

    label: str  # where in the content it stands, such as "state_dict" or "state_dict/model."
    weights: dict[str, torch.Tensor]  # by the file's names
    unused: list[str]  # names beside this part that were not taken
    tensors: dict[str, torch.Tensor] = field(default_factory=dict)  # what can be loaded, by the model's names
    order: list[str] = field(default_factory=list)  # the model's names in the order of the file
    stripped: dict[str, int] = field(default_factory=dict)  # wrapper → names that it was taken from
    notes: list[str] = field(default_factory=list)
    misfits: dict[Misfit, dict[str, str]] = field(default_factory=dict)  # by name, with a detail or ""

    def add(self, misfit: Misfit, name: str, detail: str = "") -> None:
        self.misfits.setdefault(misfit, {})[name] = detail

    def problems(self) -> str:
        """Return all misfits as one sentence."""
        return "; ".join(
            misfit.value.format(some([f"{name} {detail}".rstrip() for name, detail in names.items()]))
            for misfit, names in self.misfits.items()
        )


def find(content: dict[str, Any], model: nn.Module, part: str | None, leave: tuple[str, ...]) -> Match:
    """Return the one part of a checkpoint that fits a model.

    Raises:
        CheckpointError: if none does, or several different ones do.
    """
    candidates = [_lay(label, weights, unused, model, leave) for label, weights, unused in parts(content)]
    if candidates and all(match.misfits for match in candidates):
        candidates += [_lay(*found, model, leave) for found in nested(content)]
    if all(match.misfits for match in candidates):
        as_text, changed = spelled(content)
        respelled = [_lay(*found, model, leave) for found in parts(as_text)] if changed else []
        for match in respelled:
            match.notes.append("read names such as {} as {}".format(*next(iter(changed.items()))))
        candidates += respelled
    if all(match.misfits for match in candidates):
        candidates += _renamed(candidates, model, leave)
    if not candidates:
        listed = some([str(key) for key in content]) or "nothing"
        raise CheckpointError(
            f"There are no weights in it: a dict of tensors by name is what is needed, but it has {listed}."
        )
    if part is not None:
        candidates = _called(part, candidates)
    _check_leave(leave, model, candidates)
    fitting = [match for match in candidates if not match.misfits]
    if not fitting:
        best = max(candidates, key=lambda match: len(match.tensors))
        where = f" in its part {best.label!r}" if best.label else ""
        raise CheckpointError(
            f"The weights{where} do not fit this model ({type(model).__name__}), and nothing was loaded: "
            f"{best.problems()}.{_advice(best, model)}"
        )
    if not all(_equal(fitting[0].tensors, other.tensors) for other in fitting[1:]):
        labels = [match.label or "weights" for match in fitting]
        raise CheckpointError(
            f"Several parts fit this model, with different weights: {some(labels)}. Say which one you want, for "
            f"example part={labels[0]!r}."
        )
    return fitting[0]


def _check_leave(leave: tuple[str, ...], model: nn.Module, candidates: list[Match]) -> None:
    """Raise CheckpointError if a beginning of names is that of no name, or of all names."""
    own = list(model.state_dict())
    names = own + [name for match in candidates for name in match.weights]
    for beginning in leave:
        if not any(_begins(name, (beginning,)) for name in names):
            firsts = list(dict.fromkeys(name.partition(".")[0] for name in own))
            raise CheckpointError(
                f"No name of the model or the file begins with leave={beginning!r}, so nothing was loaded. "
                f"The model's names begin with {some(firsts)}."
            )
    if own and leave and all(_begins(name, leave) for name in own):
        raise CheckpointError(f"leave={leave!r} leaves all of the model as it is: there is nothing to load.")


def _called(part: str, candidates: list[Match]) -> list[Match]:
    """Return the candidates whose label, or a word of it, is `part`: also what stands under a prefix within it."""
    words = {id(match): [match.label, *re.split(r"[/.]", match.label)] for match in candidates}
    chosen = [match for match in candidates if part in words[id(match)]]
    if not chosen:
        labels = [match.label or "weights" for match in candidates if match.tensors]
        raise CheckpointError(f"It has no part {part!r}. What fits this model in part or whole is in {some(labels)}.")
    return chosen


def _renamed(matches: list[Match], model: nn.Module, leave: tuple[str, ...]) -> list[Match]:
    """Lay again what the model itself renames when it loads, such as the `weight_g` of the old weight normalization."""
    found = []
    for match in matches:
        named = {plain_name(name): tensor for name, tensor in match.weights.items()}
        once = _through_hooks(named, model)
        if once is None or once.keys() == named.keys():
            continue
        twice = _through_hooks(once, model)  # as loading will
        if twice is not None and _equal(once, twice):
            found.append(_lay(match.label, once, match.unused, model, leave))
            found[-1].notes.append("read old names as the model renames them when it loads")
    return found


def _through_hooks(weights: dict[str, torch.Tensor], model: nn.Module) -> dict[str, torch.Tensor] | None:
    """Return what a model's `load_state_dict` makes of weights before it compares names; None if that fails.

    The model stays as it is: what takes its shape from the weights (a lazy layer, a queue) waits until they are loaded.
    """
    changed = dict(weights)
    places: list[dict[str, Any]] = [one for part in model.modules() for one in (part._parameters, part._buffers)]
    own = [(place, dict(place)) for place in places]
    try:
        for name, module in model.named_modules():
            if any(map(is_lazy, (*module._parameters.values(), *module._buffers.values()))):
                continue
            for hook in module._load_state_dict_pre_hooks.values():
                hook(changed, f"{name}." if name else "", {}, True, [], [], [])
    except Exception:  # of whatever kind: it is the model's own code, and meant for other names
        return None
    finally:
        for place, before in own:
            place.clear()
            place.update(before)
    return changed


def plain_name(name: str) -> str:
    """Return a name without what wrappers put into it."""
    return ".".join(word for word in name.split(".") if word not in WRAPPERS)


def _lay(
    label: str, weights: dict[str, torch.Tensor], unused: list[str], model: nn.Module, leave: tuple[str, ...]
) -> Match:
    """Lay one dict of tensors beside the model, name by name."""
    match = Match(label, weights, unused)
    own = {name: tensor for name, tensor in model.state_dict().items() if isinstance(tensor, torch.Tensor)}
    ours = {plain_name(name): name for name in own}
    theirs = _by_plain_name(match, ours)
    wanted = {plain: name for plain, name in ours.items() if not _begins(name, leave)}
    for plain, saved in theirs.items():
        if plain in wanted:
            match.order.append(wanted[plain])
            _take(match, wanted[plain], weights[saved], own[wanted[plain]])
    ties = _ties(model)
    _explain_lacks(match, [name for plain, name in wanted.items() if plain not in theirs], ties)
    _explain_surplus(match, [theirs[plain] for plain in theirs if plain not in ours], leave)
    _find_torn(match, ties)
    match.notes += _kept(model, leave)
    return match


def _kept(model: nn.Module, leave: tuple[str, ...]) -> list[str]:
    """Say what keeps the model's values whatever the file has."""
    notes = []
    values = model.state_dict()
    if left := [name for name, value in values.items() if isinstance(value, torch.Tensor) and _begins(name, leave)]:
        notes.append(f"{some(left)} kept the values of the model, as asked for")
    if others := [name for name, value in values.items() if not isinstance(value, torch.Tensor)]:
        notes.append(f"{some(others)} is not a tensor, and kept the value of the model")
    return notes


def _begins(name: str, leave: tuple[str, ...]) -> bool:
    return name.startswith(leave) or plain_name(name).startswith(leave)


def _by_plain_name(match: Match, ours: dict[str, str]) -> dict[str, str]:
    """Return the file's names by their plain form; note what was taken off."""
    theirs: dict[str, str] = {}
    for name in match.weights:
        plain = plain_name(name)
        if plain in theirs:
            match.add(Misfit.TWICE, f"{theirs[plain]} and {name}")
        theirs[plain] = name
        for word in set(name.split(".")) & WRAPPERS.keys() - set(ours.get(plain, "").split(".")):
            match.stripped[word] = match.stripped.get(word, 0) + 1
    return theirs


def _take(match: Match, name: str, saved: torch.Tensor, own: torch.Tensor) -> None:
    """Take a tensor if it can be copied into the model's without loss of meaning."""
    if isinstance(saved, DTensor):
        match.add(Misfit.SHARE, name, f"({list(saved.to_local().shape)} of {list(saved.shape)})")
    elif isinstance(own, DTensor):
        match.add(Misfit.SHARDED, name)
    elif saved.is_meta:
        match.add(Misfit.EMPTY, name)
    elif own.is_meta and not is_lazy(own):
        match.add(Misfit.NOWHERE, name)
    elif not is_lazy(own) and own.numel() and not saved.is_nested and not saved.numel():
        match.add(Misfit.HOLLOW, name, f"({list(saved.shape)})")
    elif loss := loss_of_copying(saved, own):
        same_shape = not saved.is_nested and saved.shape == own.shape
        match.add(Misfit.RETYPED if same_shape else Misfit.RESHAPED, name, loss)
    elif saved.layout != own.layout and own.layout == torch.strided:
        match.tensors[name] = saved.to_dense()
        match.notes.append(f"{name} was saved as a sparse tensor, and was made dense")
    else:
        match.tensors[name] = saved


def _explain_lacks(match: Match, names: list[str], ties: dict[str, list[str]]) -> None:
    """Say of names of the model why they need not be in the file, or that they are missing."""
    found = set(match.order)
    for name in names:
        if partners := [other for other in ties.get(name, []) if other in found]:
            match.notes.append(f"{name} is the same tensor as {partners[0]} in this model, and came with it")
        elif name.endswith("num_batches_tracked"):
            match.notes.append(f"{name} was not in the file (old PyTorch), and keeps its value")
        else:
            match.add(Misfit.LACKING, name)


def _explain_surplus(match: Match, names: list[str], leave: tuple[str, ...]) -> None:
    """Say of names of the file why they are not needed, or that the model lacks them."""
    for name in names:
        if _begins(name, leave):
            continue
        if name.endswith("num_batches_tracked"):
            match.notes.append(f"{name} counts batches for a layer that this model does not have, and is not needed")
        else:
            match.add(Misfit.LEFT_OVER, name)


def _find_torn(match: Match, ties: dict[str, list[str]]) -> None:
    """Find tied weights for which the file has different values."""
    for name, partners in ties.items():
        pairs = [
            (match.tensors[name], match.tensors[other]) for other in partners if {name, other} <= match.tensors.keys()
        ]
        if not all(torch.equal(*pair) for pair in pairs):
            match.add(Misfit.TORN, name)


def _ties(model: nn.Module) -> dict[str, list[str]]:
    """Return, for each parameter with several names (tied weights), the other names of each name."""
    names: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    return {
        name: [other for other in group if other != name]
        for group in names.values()
        for name in group
        if len(group) > 1
    }


def _equal(some_tensors: dict[str, torch.Tensor], others: dict[str, torch.Tensor]) -> bool:
    return some_tensors.keys() == others.keys() and all(
        torch.equal(tensor, others[name]) for name, tensor in some_tensors.items()
    )


def _advice(match: Match, model: nn.Module) -> str:
    """Say what to try, where the names give it away."""
    if Misfit.SHARE in match.misfits:
        return " Let the ranks save together, with torch.distributed.checkpoint: its folders can be read here."
    if Misfit.HOLLOW in match.misfits:
        return (
            " DeepSpeed's ZeRO 3 leaves such places where each rank has its share: run zero_to_fp32.py in its folder, "
            "if you trust it, and load what that writes."
        )
    if any("_flat_param" in name for name in match.weights):
        return " These are FSDP1's flattened weights: save them with its FULL_STATE_DICT option."
    if any(".lora_" in name for name in match.weights) and Misfit.LACKING in match.misfits:
        return " These are LoRA's additions without the weights that they add to: load those first, then the additions."
    if not match.tensors:
        for name, part in model.named_children():
            if part.state_dict() and not _lay("", match.weights, [], part, ()).misfits:
                return f" They fit its part {name}: load into model.{name}."
        return " Not one name fits: it is a different architecture."
    if reshaped := match.misfits.get(Misfit.RESHAPED):
        first = next(iter(reshaped))
        layer = f"{first.rpartition('.')[0]}." if "." in first else first
        return f" To take the rest and leave that layer as it is: leave=('{layer}',)."
    if Misfit.EMPTY in match.misfits:
        return " Save the weights where they are, before they are moved to the meta device or offloaded."
    if match.misfits.keys() <= {Misfit.LACKING, Misfit.LEFT_OVER} and 2 * len(match.tensors) >= len(model.state_dict()):
        lacking, left_over = (_beginnings(match, kind) for kind in (Misfit.LACKING, Misfit.LEFT_OVER))
        if both := [layer for layer in lacking if layer in left_over]:
            return f" Within {some(both)} the names differ: rename those of the file first."
        if len(lacking + left_over) <= 5:
            return (
                f" If that is meant, take the rest: leave={tuple(lacking + left_over)!r}. Else build the model exactly "
                "as it was built for training."
            )
    return " Build the model exactly as it was built for training."


def _beginnings(match: Match, misfit: Misfit) -> list[str]:
    """Return beginnings of all names that do not fit in this way, and of none that fits."""
    names = list(match.misfits.get(misfit, ()))
    layers = {name: name[: name.rfind(".") + 1] for name in names}
    taken = [layer for layer in layers.values() if not layer or any(one.startswith(layer) for one in match.tensors)]
    return list(dict.fromkeys(name if layers[name] in taken else layers[name] for name in names))
