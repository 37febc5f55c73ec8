"""LoRA (저랭크 적응): the weights stay, and beside chosen layers a small product of two thin matrices is trained.

    freeze(model)                                       # nothing of the model learns
    add_lora(model, "body.dense", "body.conv2", rank=4) # but these adapters do
    unfreeze(model, "head")
    ...                                                 # train as ever: Trainer, fine_tune, several ranks
    torch.save(adapter_state(model), "digits.pt")       # a few kilobytes; the model itself is as it was
    with without_adapters(model): ...                   # the model as it was, at once
    merge(model)                                        # plain layers again, as fast as before

A layer with weight W gives `W x + (alpha / rank) · up (down x)`: `down` leads to `rank` numbers, `up` back to the
outputs. `up` starts at zero, so at first nothing changes.

Source: Hu et al. 2021, https://arxiv.org/abs/2106.09685
"""

import contextlib
import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call
from torch.nn.parameter import is_lazy

from torchcourse.lessons.transfer.finetune import fits
from torchcourse.units import is_whole_number


class LoRA(nn.Module):
    """A layer with an adapter (어댑터) beside it: `LoRALinear` and `LoRAConv2d` say how the adapter is computed.

    Attributes:
        base: the layer as it was, frozen.
        down, up: the adapter's two weights, the only ones that get gradients.
        scale: alpha / rank. It is saved and loaded with the weights, in `state_dict()`, too.
        weight: the base layer's weight with the adapter in it, computed again each time it is read.
        enabled: whether the adapter counts; `without_adapters` switches it.
        whole: whether the base layer does more with its weight than a plain one, such as mask it, or had hooks when the
            adapter came. Then it is called with the whole weight: a product beside it would not be what `merged` gives.

    What else is read of it (`bias`, `in_features`, `stride`, …) is the base layer's.
    """

    base: Any  # an nn.Linear or nn.Conv2d: torch types the attributes of a module as Tensor | Module
    whole = False  # of layers that were pickled before there was this attribute

    def __init__(self, base: Any, rank: int, alpha: float | None, down: tuple, up: tuple) -> None:
        super().__init__()
        if not is_whole_number(rank) or rank < 1:
            raise ValueError(f"rank={rank!r}: an adapter needs a whole number, 1 or more, between its two weights.")
        if alpha is not None and (isinstance(alpha, str) or not math.isfinite(alpha)):
            raise ValueError(f"alpha={alpha!r} is no number that an adapter can be multiplied with.")
        self.base = base.requires_grad_(False)
        self.down = nn.Parameter(base.weight.new_empty(down))
        self.up = nn.Parameter(base.weight.new_zeros(up))
        nn.init.kaiming_uniform_(self.down, a=5**0.5)  # as the layers of PyTorch themselves
        self.scale = (rank if alpha is None else alpha) / rank
        self.enabled = True
        self.whole = _does_more(base)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.whole and self.enabled:
            return functional_call(self.base, {"weight": self.weight}, x)
        out = self.base(x)
        return out + self.scale * self.adapter(x) if self.enabled else out

    def adapter(self, x: torch.Tensor) -> torch.Tensor:
        """Return what the adapter adds, without the scale."""
        raise NotImplementedError

    @property
    def weight(self) -> torch.Tensor:
        """What a caller needs that computes with the weight itself, as encoder layers of PyTorch do for speed."""
        base: torch.Tensor = self.base.weight
        if not self.enabled:
            return base
        return base + self.scale * (self.up.flatten(1) @ self.down.flatten(1)).view_as(base)

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            base = self.__dict__.get("_modules", {}).get("base")
            if base is None or name == "base":
                raise
            return getattr(base, name)

    def get_extra_state(self) -> torch.Tensor:
        """Return what `state_dict()` has of it beside the weights: the scale."""
        return torch.tensor(self.scale, dtype=torch.float64)

    def set_extra_state(self, state: torch.Tensor) -> None:
        """Take the scale with which the weights were trained."""
        self.scale = float(state)

    def change(self) -> torch.Tensor:
        """Return what the adapter adds to the weight, in its shape and in 64 bits."""
        product = self.up.detach().double().flatten(1) @ self.down.detach().double().flatten(1)
        return self.scale * product.view_as(self.base.weight)

    def merged(self) -> nn.Module:
        """Return the base layer with the adapter added to its weight. It is computed in 64 bits and rounded once."""
        weight = self.base.weight
        weight.data.copy_(weight.data.double() + self.change())
        return self.base


class LoRALinear(LoRA):
    """A linear layer with an adapter: [..., in] → [..., out]. `down` is [rank, in], `up` [out, rank]."""

    def __init__(self, base: nn.Linear, rank: int = 4, alpha: float | None = None) -> None:
        super().__init__(base, rank, alpha, (rank, base.in_features), (base.out_features, rank))

    def adapter(self, x: torch.Tensor) -> torch.Tensor:
        return F.linear(F.linear(x, self.down), self.up)


class LoRAConv2d(LoRA):
    """A convolution with an adapter: a convolution like it with `rank` channels, then one of 1×1.

    `down` is [rank, in, kH, kW], `up` [out, rank, 1, 1].

    Raises:
        ValueError: for a convolution in groups.
    """

    def __init__(self, base: nn.Conv2d, rank: int = 4, alpha: float | None = None) -> None:
        if base.groups != 1:
            raise ValueError(f"A convolution in {base.groups} groups has no adapter: its channels do not mix.")
        shape = (rank, base.in_channels, *base.kernel_size)
        super().__init__(base, rank, alpha, shape, (base.out_channels, rank, 1, 1))

    def adapter(self, x: torch.Tensor) -> torch.Tensor:
        # Stride, padding and all else as the base layer has them, without its hooks.
        return F.conv2d(self.base._conv_forward(x, self.down, None), self.up)


def add_lora(model: nn.Module, *names: str, rank: int = 4, alpha: float | None = None) -> list[str]:
    """Put an adapter beside each linear layer and each convolution under these names; return the layers' names.

    That is nn.Linear and nn.Conv2d without groups. The layers are frozen; what else is to be frozen says `freeze`.
    Adapters start from random numbers, so seed them. Make optimizer and Trainer afterwards.

    Args:
        model: changed in place.
        names: as in `freeze`: a layer's name, a name above it, or a pattern with stars; none for all layers.
        rank: how many numbers lie between `down` and `up`.
        alpha: the adapter counts `alpha / rank` times; by default once.

    Raises:
        ValueError: for a name without such a layer, a layer that has an adapter, or one whose weight another uses, too,
            is computed from others (weight normalization, pruning) or is not made yet (a lazy layer); for a rank or an
            alpha that is no such number.
    """
    layers = _layers(model)
    chosen: dict[str, nn.Module] = {}
    for name in names or ("*",):
        found = {own: layer for own, layer in layers.items() if fits(own, name)}
        if not found:
            raise ValueError(
                "Inside this model there is no nn.Linear, and no nn.Conv2d without groups, that lacks an adapter "
                f"under {name!r}. There are: {', '.join(layers) or 'none'}."
            )
        chosen |= found
    _must_have_weights(model, chosen)
    for name, layer in chosen.items():
        kind: type[Any] = LoRALinear if isinstance(layer, nn.Linear) else LoRAConv2d
        _replace(model, name, kind(layer, rank, alpha))
    return list(chosen)


def merge(model: nn.Module) -> list[str]:
    """Replace each layer with an adapter by the plain layer that computes the same; return the layers' names.

    The layers stay frozen. What was the model before cannot be had back from it: keep `adapter_state` and the weights.

    Raises:
        ValueError: for a model without adapters.
    """
    adapted = _adapted(model)
    for name, layer in adapted.items():
        _replace(model, name, layer.merged())
    return list(adapted)


@contextlib.contextmanager
def without_adapters(model: nn.Module) -> Iterator[None]:
    """Inside the block, the layers compute what they did before they had adapters.

    Raises:
        ValueError: for a model without adapters.
    """
    layers = list(_adapted(model).values())
    before = [layer.enabled for layer in layers]
    for layer in layers:
        layer.enabled = False
    try:
        yield
    finally:
        for layer, enabled in zip(layers, before, strict=True):
            layer.enabled = enabled


def adapter_state(model: nn.Module) -> dict[str, torch.Tensor]:
    """Return copies of the adapters' weights and their scales under their names: all to be kept of a training run.

    Raises:
        ValueError: for a model without adapters.
    """
    state: dict[str, torch.Tensor] = {}
    for name, layer in _adapted(model).items():
        state |= {f"{name}.{part}": getattr(layer, part).detach().clone() for part in ("down", "up")}
        state[f"{name}.scale"] = layer.get_extra_state()
    return state


def load_adapters(model: nn.Module, state: Mapping[str, torch.Tensor]) -> None:
    """Put saved adapters into a model that has adapters of the same names and ranks. Nothing is loaded if one differs.

    They count as they did when they were saved, whatever `alpha` this model's adapters were made with.

    Raises:
        ValueError: for adapters of other layers, or of another rank, or without a finite scale; names the first. Also
            for what is no dict of tensors.
    """
    adapted = _adapted(model)
    if not isinstance(state, Mapping):
        raise ValueError("The state of adapters is a dict of tensors, as adapter_state() gives it.")
    for name, value in state.items():
        if not isinstance(value, torch.Tensor) or value.is_meta or value.layout != torch.strided:
            raise ValueError(f"{name} is no dense tensor with values. adapter_state() gives a dict of these.")
    scales = {f"{name}.scale": layer for name, layer in adapted.items()}
    own = {f"{n}.{part}": getattr(layer, part) for n, layer in adapted.items() for part in ("down", "up")}
    for name in sorted(scales.keys() - state.keys()):
        if own.keys() <= state.keys():
            raise ValueError(f"The file has no {name}. Add it, torch.tensor(alpha / rank) of that training.")
    for name in sorted({*own, *scales} ^ state.keys()):
        where = "file has" if name in state else "model has"
        raise ValueError(f"Only the {where} {name} of an adapter. Call add_lora() with the same names as before.")
    for name, parameter in own.items():
        if parameter.shape != state[name].shape:
            raise ValueError(
                f"{name} has the shape {list(parameter.shape)}, and {list(state[name].shape)} in the file."
            )
    for name in scales:
        if state[name].numel() != 1 or not state[name].isfinite():
            raise ValueError(f"{name} is {state[name].tolist()} in the file, and has to be one finite number.")
    for name, value in state.items():
        if value.is_complex() and not (name in own and own[name].is_complex()):
            raise ValueError(f"{name} is complex in the file, and loading it would lose the imaginary part.")
    with torch.no_grad():
        for name, parameter in own.items():
            parameter.copy_(state[name])
    for name, layer in scales.items():
        layer.set_extra_state(state[name])


def _does_more(layer: nn.Module) -> bool:
    plain = nn.Linear.forward, nn.Conv2d.forward
    own = type(layer).forward not in plain or getattr(type(layer), "_conv_forward", None) not in (
        None,
        nn.Conv2d._conv_forward,
    )
    return own or bool(layer._forward_hooks or layer._forward_pre_hooks)


def _layers(model: nn.Module) -> dict[str, nn.Module]:
    """The layers that can have an adapter, by name, without those that have one."""
    inside = {id(module) for layer in model.modules() if isinstance(layer, LoRA) for module in layer.modules()}
    return {
        name: module
        for name, module in model.named_modules()
        if name
        and id(module) not in inside
        and (isinstance(module, nn.Linear) or (isinstance(module, nn.Conv2d) and module.groups == 1))
        # Attention of PyTorch reads the weight of this layer and never calls it: an adapter would not count.
        and not isinstance(module, nn.modules.linear.NonDynamicallyQuantizableLinear)
    }


def _must_have_weights(model: nn.Module, layers: Mapping[str, nn.Module]) -> None:
    owners = [id(parameter) for _, parameter in model.named_parameters(remove_duplicate=False)]
    for name, layer in layers.items():
        weight = layer._parameters.get("weight")
        if weight is None:
            raise ValueError(
                f"The weight of {name} is computed from other parameters, as weight normalization and pruning do, and "
                "merging would be lost. Make it a plain weight first."
            )
        if is_lazy(weight):
            raise ValueError(f"The weight of {name} is not made yet. Run a batch through the model first.")
        if owners.count(id(weight)) > 1:
            raise ValueError(f"The weight of {name} is used in another place, too, which merging would change as well.")


def _adapted(model: nn.Module) -> dict[str, LoRA]:
    adapted = {name: module for name, module in model.named_modules() if name and isinstance(module, LoRA)}
    if not adapted:
        raise ValueError("This model has no adapters: add_lora(model, …) puts them in.")
    return adapted


def _replace(model: nn.Module, name: str, layer: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, layer)
