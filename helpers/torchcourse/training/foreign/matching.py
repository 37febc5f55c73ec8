"""Find a model's weights in the content of a checkpoint, under whatever names they were saved."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from torchcourse.training.checkpoint import CheckpointError, some

WRAPPERS = {
    "module": "DataParallel or DistributedDataParallel",
    "_orig_mod": "torch.compile",
    "_fsdp_wrapped_module": "FSDP",
    "_checkpoint_wrapped_module": "activation checkpointing",
    "_forward_module": "Lightning Fabric",
}
"""What wrappers put into a name, and which wrapper does it."""


@dataclass
class Match:
    """A part of a checkpoint, laid beside a model."""

    label: str  # where in the content it stands, such as "state_dict" or "state_dict/model."
    weights: dict[str, torch.Tensor]  # by the file's names
    tensors: dict[str, torch.Tensor] = field(default_factory=dict)  # what can be loaded, by the model's names
    fits: int = 0  # how many these are
    stripped: dict[str, int] = field(default_factory=dict)  # wrapper → names that it was taken from
    wrong: dict[str, list[str]] = field(default_factory=dict)  # sentence with a gap → names for the gap
    notes: list[str] = field(default_factory=list)
    unused: list[str] = field(default_factory=list)  # names beside this part that were not taken
    order: list[str] = field(default_factory=list)  # the model's names in the order of the file

    def add(self, sentence: str, name: str) -> None:
        self.wrong.setdefault(sentence, []).append(name)

    @property
    def problems(self) -> list[str]:
        return [sentence.format(some(names)) for sentence, names in self.wrong.items()]


def find(content: dict[str, Any], model: nn.Module, part: str | None, leave: tuple[str, ...]) -> Match:
    """Return the one part of a checkpoint that fits a model.

    Raises:
        CheckpointError: if none does, or several different ones do.
    """
    candidates = [_lay(label, weights, unused, model, leave) for label, weights, unused in _parts(content)]
    if not candidates:
        listed = some([str(key) for key in content]) or "nothing"
        raise CheckpointError(
            f"There are no weights in it: a dict of tensors by name is what is needed, but it has {listed}."
        )
    if part is not None:
        labels = [match.label or "weights" for match in candidates if match.fits]
        candidates = [
            match for match in candidates if part in (match.label, match.label.rpartition("/")[2].rstrip("."))
        ]
        if not candidates:
            raise CheckpointError(
                f"It has no part {part!r}. What fits this model in part or whole is in {some(labels)}."
            )
    fitting = [match for match in candidates if not match.problems]
    if not fitting:
        best = max(candidates, key=lambda match: match.fits)
        where = f" in its part {best.label!r}" if best.label else ""
        raise CheckpointError(
            f"The weights{where} do not fit this model ({type(model).__name__}), and nothing was loaded: "
            f"{'; '.join(best.problems)}.{_advice(best, model)}"
        )
    for other in fitting[1:]:
        if not _equal(fitting[0].tensors, other.tensors):
            labels = [match.label or "weights" for match in fitting]
            raise CheckpointError(
                f"Several parts fit this model, with different weights: {some(labels)}. Say which one you want, for "
                f"example part={labels[0]!r}."
            )
    return fitting[0]


def _parts(content: dict[str, Any], label: str = "", depth: int = 0) -> Iterator[tuple[str, dict, list[str]]]:
    """Yield every dict of tensors in a checkpoint, and what stands under one prefix in it, with the rest's names."""
    tensors = {
        name: value for name, value in content.items() if isinstance(name, str) and isinstance(value, torch.Tensor)
    }
    if tensors:
        yield from _under_prefixes(label, tensors, [], "/" if label else "")
    if depth < 3:
        for key, value in content.items():
            if isinstance(value, dict):
                yield from _parts(value, f"{label}/{key}" if label else str(key), depth + 1)


def _under_prefixes(
    label: str, tensors: dict[str, torch.Tensor], unused: list[str], separator: str, depth: int = 0
) -> Iterator[tuple[str, dict, list[str]]]:
    yield label, tensors, unused
    prefixes = dict.fromkeys(name.partition(".")[0] for name in tensors if "." in name)
    for prefix in [] if depth == 2 else prefixes:
        if prefix.isdigit():  # a layer of an nn.Sequential
            continue
        inside = {name[len(prefix) + 1 :]: tensor for name, tensor in tensors.items() if name.startswith(prefix + ".")}
        rest = [name for name in tensors if not name.startswith(prefix + ".")]
        yield from _under_prefixes(f"{label}{separator}{prefix}.", inside, unused + rest, "", depth + 1)


def plain_name(name: str) -> str:
    """Return a name without what wrappers put into it."""
    return ".".join(word for word in name.split(".") if word not in WRAPPERS)


def _lay(
    label: str, weights: dict[str, torch.Tensor], unused: list[str], model: nn.Module, leave: tuple[str, ...]
) -> Match:
    """Lay one dict of tensors beside the model, name by name."""
    match = Match(label, weights, unused=unused)
    own = {name: tensor for name, tensor in model.state_dict().items() if isinstance(tensor, torch.Tensor)}
    theirs = _by_plain_name(match, {plain_name(name): name for name in own})
    ties = _ties(model)
    left = []
    for name, tensor in own.items():
        plain = plain_name(name)
        if name.startswith(leave):
            left.append(name)
            theirs.pop(plain, None)
        elif plain in theirs:
            match.order.append(name)
            _take(match, name, weights[theirs.pop(plain)], tensor)
        elif partners := [
            other for other in ties.get(name, []) if other in match.tensors or plain_name(other) in theirs
        ]:
            match.notes.append(f"{name} is the same tensor as {partners[0]} in this model, and came with it")
        elif plain.endswith("num_batches_tracked"):
            match.notes.append(f"{name} was not in the file (old PyTorch), and keeps its value")
        else:
            match.add("the file lacks {}", name)
    for plain, name in theirs.items():
        if plain.endswith("num_batches_tracked"):
            match.notes.append(f"{name} counts batches for a layer that this model does not have, and is not needed")
        elif not plain.startswith(leave):
            match.add("the file has {}, which the model lacks", name)
    for name, partners in ties.items():
        for other in partners:
            pair = [match.tensors[key] for key in (name, other) if key in match.tensors]
            if len(pair) == 2 and not torch.equal(*pair):
                match.add("in this model {} are one tensor, but the file has different values for them", name)
    if left:
        match.notes.append(f"{some(left)} kept the values of the model, as asked for")
    match.fits = len(match.tensors)
    position = {plain_name(name): number for number, name in enumerate(weights)}
    match.order.sort(key=lambda name: position[plain_name(name)])
    return match


def _by_plain_name(match: Match, ours: dict[str, str]) -> dict[str, str]:
    """Return the file's names by their plain form; note what was taken off."""
    theirs: dict[str, str] = {}
    for name in match.weights:
        plain = plain_name(name)
        if plain in theirs:
            match.add("it has the same name twice but for a wrapper: {}", f"{theirs[plain]} and {name}")
        theirs[plain] = name
        for word in set(name.split(".")) & WRAPPERS.keys() - set(ours.get(plain, "").split(".")):
            match.stripped[word] = match.stripped.get(word, 0) + 1
    return theirs


def _take(match: Match, name: str, saved: torch.Tensor, own: torch.Tensor) -> None:
    """Take a tensor if it can be copied into the model's without loss of meaning."""
    if type(saved).__name__ == "DTensor":
        match.add(_SHARE, f"{name} ({list(saved.to_local().shape)} of {list(saved.shape)})")
    elif saved.shape != own.shape:
        match.add(_RESHAPED, f"{name} {list(saved.shape)} where the model has {list(own.shape)}")
    elif saved.is_quantized or saved.is_sparse or _kind(saved) != _kind(own):
        match.add(_RETYPED, f"{name} as {_dtype(saved)} where the model has {_dtype(own)}")
    else:
        match.tensors[name] = saved


_RESHAPED, _RETYPED = "the shape differs: {}", "the numbers are of another kind: {}"
_SHARE = "the file has one rank's share of {}"


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


def _kind(tensor: torch.Tensor) -> str:
    return "complex" if tensor.is_complex() else "float" if tensor.is_floating_point() else "whole"


def _dtype(tensor: torch.Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _equal(some_tensors: dict[str, torch.Tensor], others: dict[str, torch.Tensor]) -> bool:
    return some_tensors.keys() == others.keys() and all(
        torch.equal(tensor, others[name]) for name, tensor in some_tensors.items()
    )


def _advice(match: Match, model: nn.Module) -> str:
    """Say what to try, where the names give it away."""
    if _SHARE in match.wrong:
        return " Let the ranks save together, with torch.distributed.checkpoint: its folders can be read here."
    if any("_flat_param" in name for name in match.weights):
        return " These are FSDP1's flattened weights: save them with its FULL_STATE_DICT option."
    for name, part in model.named_children():
        if match.fits == 0 and part.state_dict() and not _lay("", match.weights, [], part, ()).problems:
            return f" They fit its part {name}: load into model.{name}."
    if match.fits == 0:
        return " Not one name fits: it is another architecture."
    if _RESHAPED in match.wrong:
        layer = match.wrong[_RESHAPED][0].split(" ")[0].rpartition(".")[0]
        return f" To take the rest and leave that layer as it is: leave=('{layer}.',)."
    return " Build the model exactly as it was built for training."
