"""Fine-tuning (미세 조정): which parts of a pretrained model learn, and how fast.

    freeze(model, "body")                                        # by name
    groups = rate_groups(model, {"head": 1e-2, "body": 1e-4})    # discriminative rates (차등 학습률)
    for stage in gradually(model, ["head", "body.dense", "body"]):   # gradual unfreezing (점진적 동결 해제)
        Trainer(model, AdamW(rate_groups(model, rates)), …).fit(loader, 2)
    freeze_norms(model)                                          # BatchNorm keeps its statistics

A name stands for a parameter or for all parameters under it: "body" is `body.conv1.weight`, `body.norm1.bias` …; a name
with a star is a pattern: "*.bias". A parameter that layers share goes by each of its names. Freeze before you make a
Trainer: DistributedDataParallel asks only once which parameters have gradients.
"""

from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from typing import Any, ClassVar, Self

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.lazy import LazyModuleMixin
from torch.utils.data import Dataset

from torchcourse.data.loaders import make_loader
from torchcourse.training import Trainer
from torchcourse.units import is_whole_number


def freeze(model: nn.Module, *names: str) -> list[str]:
    """Let the parameters under these names (all, if there is none) get no gradients; return their names.

    A BatchNorm among them still moves its running mean and variance with each batch in training mode, which a later
    `model.train()` brings back: `freeze_norms` stops that.

    Raises:
        ValueError: for a name that no parameter has.
    """
    return _switch(model, names or ("*",), on=False)


def unfreeze(model: nn.Module, *names: str) -> list[str]:
    """Let the parameters under these names (all, if there is none) get gradients; return their names.

    Raises:
        ValueError: for a name that no parameter has.
    """
    return _switch(model, names or ("*",), on=True)


def trainable_bytes(model: nn.Module) -> int:
    """Return how many bytes of parameters get gradients."""
    return sum(p.numel() * p.element_size() for p in model.parameters() if p.requires_grad)


def rate_groups(model: nn.Module, rates: Mapping[str, float]) -> list[dict]:
    """Return parameter groups for an optimizer, with a learning rate for each name; what is frozen is left out.

    Args:
        model: some of whose parameters get gradients.
        rates: name → learning rate. Where several names fit a parameter, the longest counts: with
            `{"body": 1e-4, "body.dense": 1e-3}` the dense layer has a rate of its own.

    Raises:
        ValueError: for a name that no parameter has, or a parameter to be trained without a rate.
    """
    for name in rates:
        _under(model, name)
    groups: dict[str, dict[str, Any]] = {name: {"name": name, "params": [], "lr": rate} for name, rate in rates.items()}
    for parameter, own in _names(model).items():
        if not parameter.requires_grad:
            continue
        fitting = [name for name in rates if any(fits(one, name) for one in own)]
        if not fitting:
            raise ValueError(f"{own[0]} is to be trained, but none of {', '.join(rates)} gives it a rate.")
        groups[max(fitting, key=len)]["params"].append(parameter)
    return [group for group in groups.values() if group["params"]]


def falling_rates(names: list[str], top: float, factor: float = 2.6) -> dict[str, float]:
    """Return a rate for each name: `top` for the first, for each next one smaller by `factor`.

    Source: Howard and Ruder 2018, https://arxiv.org/abs/1801.06146, section 3.2, which found 2.6 to work well.
    """
    return {name: top / factor**depth for depth, name in enumerate(names)}


def gradually(model: nn.Module, names: list[str]) -> Iterator[str]:
    """Freeze everything, then unfreeze one name after the other, from the head down; yield each when it is unfrozen.

    Each stage needs an optimizer and a Trainer of its own, made while it lasts.

    Raises:
        ValueError: for a name that no parameter has.

    Source: Howard and Ruder 2018, https://arxiv.org/abs/1801.06146, section 3.3.
    """
    for name in names:
        _under(model, name)
    freeze(model)
    for name in names:
        unfreeze(model, name)
        yield name


def freeze_norms(model: nn.Module) -> int:
    """Let every BatchNorm layer keep its running mean and variance, even in training; return how many there are.

    So does every layer made from one, SyncBatchNorm, and InstanceNorm where it keeps statistics. Their weights and
    biases stay as they are: freeze them by name. `model.train()` does not undo it, so it holds inside a Trainer.

    Raises:
        ValueError: for a lazy layer that has seen no batch.
    """
    norms = [module for module in model.modules() if isinstance(module, _NormBase) and module.track_running_stats]
    for module in norms:
        if isinstance(module, LazyModuleMixin) and module.has_uninitialized_params():
            raise ValueError("A BatchNorm of this model is not made yet. Run a batch through the model first.")
    for module in norms:
        if not isinstance(module, _KeepsStatistics):
            module.__class__ = _frozen(type(module))  # the same tensors, under the same names
            module.train(False)
    return len(norms)


def fine_tune(
    model: nn.Module,
    data: Dataset,
    rates: Mapping[str, float],
    epochs: int,
    batch_size: int,
    seed: int = 0,
    device: torch.device | str | None = None,
) -> nn.Module:
    """Train what is not frozen, for cross entropy, with AdamW and a rate for each name; return the model.

    Each rate rises to its value in the first 30% of the steps and then falls to nearly nothing (OneCycleLR). On
    several ranks the batch is dealt to them.

    Raises:
        ValueError: for a name that no parameter has, a parameter to be trained without a rate, or no epochs.
    """
    if not is_whole_number(epochs) or epochs < 1:
        raise ValueError(f"Fine-tuning takes one epoch or more, but epochs is {epochs!r}.")
    loader = make_loader(data, batch_size, seed=seed)
    groups = rate_groups(model, rates)
    optimizer = torch.optim.AdamW(groups, weight_decay=1e-2, fused=True)  # a third less of a small network's step
    peaks = [group["lr"] for group in groups]
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=peaks, total_steps=epochs * len(loader))
    trainer = Trainer(model, optimizer, F.cross_entropy, scheduler=scheduler, progress=False, device=device)
    trainer.fit(loader, epochs)
    return model


class _KeepsStatistics(nn.Module):
    """Mixed into a BatchNorm layer: it is in evaluation mode for ever."""

    made_from: ClassVar[type[nn.Module]]

    def train(self, mode: bool = True) -> Self:
        return super().train(False)

    def __reduce_ex__(self, protocol: Any) -> Any:
        reduced = super().__reduce_ex__(protocol)
        return _empty, (self.made_from,), *reduced[2:]


_FROZEN: dict[type[nn.Module], type[Any]] = {}


def _frozen(kind: type[nn.Module]) -> type[Any]:
    """Return the class of a layer of this kind that keeps its statistics, and make it if there is none yet."""
    if kind not in _FROZEN:
        _FROZEN[kind] = type(f"Frozen{kind.__name__}", (_KeepsStatistics, kind), {"made_from": kind})
    return _FROZEN[kind]


def _empty(kind: type[nn.Module]) -> nn.Module:
    """Return what pickle and `copy` fill: they could not find a class that was made while the program ran."""
    empty: nn.Module = object.__new__(_frozen(kind))
    return empty


def __getattr__(name: str) -> Any:
    """Return the class of a frozen layer by its name: a model that an earlier version saved whole asks for it."""
    kind = getattr(nn, name.removeprefix("Frozen"), None) if name.startswith("FrozenBatchNorm") else None
    if kind is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return _frozen(kind)


def _switch(model: nn.Module, names: tuple[str, ...], on: bool) -> list[str]:
    chosen = {found: parameter for name in names for found, parameter in _under(model, name).items()}
    for parameter in chosen.values():
        parameter.requires_grad_(on)
        if not on:
            parameter.grad = None  # an optimizer would go on with an old one
    return list(chosen)


def _under(model: nn.Module, name: str) -> dict[str, nn.Parameter]:
    found = {
        fitting[0]: parameter
        for parameter, own in _names(model).items()
        if (fitting := [one for one in own if fits(one, name)])
    }
    if not found:
        parts = dict.fromkeys(".".join(own.split(".")[:2]) for own, _ in model.named_parameters())
        raise ValueError(f"No parameter is called {name!r}, or lies under that name. There are {', '.join(parts)}.")
    return found


def _names(model: nn.Module) -> dict[nn.Parameter, list[str]]:
    """Return the names of each parameter: several where layers share it, such as an embedding and an output layer."""
    names: dict[nn.Parameter, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(parameter, []).append(name)
    return names


def fits(parameter_name: str, name: str) -> bool:
    """Whether `name` means this parameter or module: its own name, that of a module around it, or a pattern with *."""
    return parameter_name == name or parameter_name.startswith(name + ".") or fnmatchcase(parameter_name, name)
