"""FSDP by hand: each unit of a model keeps one flat shard per rank, and is whole only while it computes.

A unit (유닛) is a child of the model with all its parameters. They are laid end to end in one flat tensor, with zeros
added until N divides it, and rank r keeps shard r. So a unit needs one message where stage 3 of `sharded_layers` sends
one per parameter.

    sharded = FlatShards(model)
    optimizer = torch.optim.Adam(sharded.shards)
    loss_of(model(batch)).backward()
    clip_grad_norm_(sharded.shards, 1.0)
    optimizer.step()
    optimizer.zero_grad()

In a step, each unit is gathered before its forward pass, freed after it, gathered again before its backward pass, and
then its gradients are reduced and scattered: rank r gets the mean of shard r. FSDP1 was built so. FSDP2 (`fully_shard`)
cuts each parameter along its first dimension and lays the pieces end to end for the message.

Source: Zhao et al., "PyTorch FSDP: Experiences on Scaling Fully Sharded Data Parallel", 2023,
https://arxiv.org/abs/2304.11277
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import nn

from torchcourse.lessons.data_parallelism.data_parallel import copy_from_rank_0
from torchcourse.ranks.who import rank_and_world_size


def flatten(tensors: Iterable[torch.Tensor], world_size: int) -> torch.Tensor:
    """Return the tensors end to end in one flat tensor, with zeros added until `world_size` divides its length."""
    flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
    return nn.functional.pad(flat, (0, -len(flat) % world_size))


def own_shard(tensors: Iterable[torch.Tensor], rank: int, world_size: int) -> torch.Tensor:
    """Return the shard that this rank keeps of the tensors, as a copy that keeps nothing else alive."""
    return flatten(tensors, world_size).chunk(world_size)[rank].clone()


def unflatten(flat: torch.Tensor, shapes: Sequence[torch.Size]) -> list[torch.Tensor]:
    """Return views of these shapes, one after the other, of a flat tensor that `flatten` made. Zeros are left out."""
    lengths = [shape.numel() for shape in shapes]
    pieces = flat[: sum(lengths)].split(lengths)
    return [piece.view(shape) for piece, shape in zip(pieces, shapes, strict=True)]


def gather_flat(shard: torch.Tensor) -> torch.Tensor:
    """Return the shards of all ranks end to end (all-gather). All ranks must call it."""
    full = shard.new_empty(shard.numel() * dist.get_world_size())
    dist.all_gather(list(full.chunk(dist.get_world_size())), shard.detach())
    return full


def mean_shard(gradients: Iterable[torch.Tensor]) -> torch.Tensor:
    """Return this rank's shard of the mean of all ranks' gradients (reduce-scatter). All ranks must call it."""
    world_size = dist.get_world_size()
    parts = flatten(gradients, world_size).chunk(world_size)
    own = torch.empty_like(parts[0])
    dist.reduce_scatter(own, list(parts))
    return own / world_size


def reshard(
    open_shard: Callable[[int], torch.Tensor], saved_ranks: int, length: int, rank: int, world_size: int
) -> torch.Tensor:
    """Return this rank's shard, of `world_size` ranks, from shards that were saved on `saved_ranks` ranks.

    Args:
        open_shard: gives the saved shard of a rank. It is called for those shards only that are needed.
        saved_ranks: how many ranks saved.
        length: how many numbers the unit has, without the zeros at the end.
        rank: for which rank.
        world_size: of how many ranks.
    """
    old, new = -(-length // saved_ranks), -(-length // world_size)
    start, stop = min(rank * new, length), min((rank + 1) * new, length)
    # An empty share opens one shard too: it has the right dtype and device.
    first, last = min(start, length - 1) // old, max(start, stop - 1, 0) // old
    opened = torch.cat([open_shard(source) for source in range(first, min(last, saved_ranks - 1) + 1)])
    own = opened[start - first * old : stop - first * old]
    return nn.functional.pad(own, (0, new - len(own)))


@dataclass(frozen=True)
class Event:
    """Something that a unit did in a step, and the bytes of parameters that the rank held afterwards."""

    action: Literal["start gather", "gathered", "computed", "freed", "reduced"]
    unit: str
    held: int


class FlatShards:
    """Turns the children of a model into units, each with one flat shard on this rank. It starts as rank 0's model.

    The model is changed in place. Its units must run in order, once per step, with every parameter used; each takes
    tensors and returns one tensor. `model.parameters()` are whole tensors that are empty most of the time: give the
    optimizer `shards` instead.

    Args:
        model: its children hold all parameters; all of them need gradients.
        reshard_after_forward: whether a unit is freed after its forward pass, or kept until its backward pass.
        prefetch: how many units ahead are gathered while a unit computes.
        param_dtype: the type to gather and to compute in; shards and gradients keep the type of the parameters.

    Attributes:
        shards: this rank's shard of each unit.
        events: what happened since the start, or since the list was last cleared.

    Raises:
        RuntimeError: outside a rank; in a step, if a unit did not use all its parameters in the step before.
        ValueError: for parameters outside children, tied, frozen, or of several types.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        reshard_after_forward: bool = True,
        prefetch: int = 0,
        param_dtype: torch.dtype | None = None,
    ) -> None:
        rank_and_world_size()
        _refuse(model)
        copy_from_rank_0(model)
        self.reshard_after_forward, self.prefetch = reshard_after_forward, prefetch
        self.events: list[Event] = []
        self.units: list[_Unit] = []
        for name, child in model.named_children():
            if next(child.parameters(), None) is not None:
                self.units.append(_Unit(self, name, child, param_dtype))
        self.events.clear()

    @property
    def shards(self) -> list[nn.Parameter]:
        return [unit.shard for unit in self.units]

    @property
    def held(self) -> int:
        """The bytes of parameters on this rank now: its shards, and the units that are gathered."""
        shards = sum(shard.nbytes for shard in self.shards)
        return shards + sum(unit.full.untyped_storage().nbytes() for unit in self.units)

    def full_parameters(self) -> dict[str, torch.Tensor]:
        """Return whole parameters by the names of the unsharded model. All ranks must call it."""
        whole: dict[str, torch.Tensor] = {}
        for unit in self.units:
            views = unflatten(gather_flat(unit.shard), unit.shapes)
            whole |= {f"{unit.name}.{name}": view for name, view in zip(unit.names, views, strict=True)}
        return whole

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Return copies of this rank's shards by the names of the units. Each rank saves its own."""
        return {unit.name: unit.shard.detach().clone() for unit in self.units}

    @torch.no_grad()
    def load_state_dicts(self, saved: Sequence[Mapping[str, torch.Tensor]]) -> None:
        """Take up what the ranks of a run saved, one `state_dict()` per rank, on however many ranks that was."""
        rank, world_size = rank_and_world_size()
        for unit in self.units:
            length = sum(shape.numel() for shape in unit.shapes)
            shards = [state[unit.name] for state in saved]
            unit.shard.copy_(reshard(shards.__getitem__, len(saved), length, rank, world_size))

    def note(self, action: Any, unit: str) -> None:
        self.events.append(Event(action, unit, self.held))


class _Unit:
    """A child of the model: its shard, and room for the whole unit that comes and goes.

    The parameters are views of `full`. Freeing takes the memory from under them and gathering puts it back, so what
    autograd saved in the forward pass is right again in the backward pass.
    """

    def __init__(self, group: FlatShards, name: str, module: nn.Module, param_dtype: torch.dtype | None) -> None:
        self.group, self.name, self.place = group, name, len(group.units)
        self.names = [key for key, _ in module.named_parameters()]
        whole = [parameter.detach() for parameter in module.parameters()]
        self.shapes = [tensor.shape for tensor in whole]
        self.shard = nn.Parameter(own_shard(whole, dist.get_rank(), dist.get_world_size()))
        self.full = flatten(whole, dist.get_world_size()).to(param_dtype or whole[0].dtype)
        self.work: Any = None
        self.views = [nn.Parameter(view) for view in unflatten(self.full, self.shapes)]
        for key, view in zip(self.names, self.views, strict=True):
            owner, _, last = key.rpartition(".")
            module.get_submodule(owner).register_parameter(last, view)
            view.register_post_accumulate_grad_hook(self._on_gradient)
        self._free()
        module.register_forward_pre_hook(self._before_forward, prepend=True)  # others may compute with the parameters
        module.register_forward_hook(self._after_forward)

    def start_gather(self) -> None:
        """Make room and let the shards come, unless they are on the way."""
        if self.work is not None:
            return
        self.full.untyped_storage().resize_(self.full.nbytes)
        # `.data` counts its own changes: autograd would otherwise refuse the tensors that it saved as changed.
        parts = list(self.full.data.chunk(dist.get_world_size()))
        self.work = dist.all_gather(parts, self.shard.detach().to(self.full.dtype), async_op=True)
        self.group.note("start gather", self.name)

    def _gather(self, ahead: Iterable[int]) -> None:
        self.start_gather()
        for place in ahead:
            if 0 <= place < len(self.group.units):
                self.group.units[place].start_gather()
        self.work.wait()
        self.work = None
        self.group.note("gathered", self.name)

    def _free(self) -> None:
        self.full.untyped_storage().resize_(0)
        self.group.note("freed", self.name)

    def _before_forward(self, module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        if any(view.grad is not None for view in self.views):
            raise RuntimeError(
                f"Unit {self.name} used only some of its parameters in the last step, so its gradients were not "
                "reduced. Make a model whose units use all their parameters."
            )
        with torch.no_grad():
            self._gather(range(self.place + 1, self.place + 1 + self.group.prefetch))
        # A unit in 16 bits takes its inputs in 16 bits; in float32 there is nothing to change.
        dtype = self.full.dtype if self.full.dtype != self.shard.dtype else None
        return tuple(
            value.to(dtype) if dtype and isinstance(value, torch.Tensor) and value.is_floating_point() else value
            for value in inputs
        )

    def _after_forward(self, module: nn.Module, inputs: Any, output: Any) -> None:
        if not isinstance(output, torch.Tensor):
            raise TypeError(f"Unit {self.name} returned a {type(output).__name__}. A unit must return one tensor.")
        self.group.note("computed", self.name)
        if self.group.reshard_after_forward or not output.requires_grad:
            self._free()
            if output.requires_grad:
                output.register_hook(self._before_backward)

    def _before_backward(self, gradient: torch.Tensor) -> None:
        with torch.no_grad():
            self._gather(range(self.place - 1, self.place - 1 - self.group.prefetch, -1))

    @torch.no_grad()
    def _on_gradient(self, view: torch.Tensor) -> None:
        """Autograd calls this when the gradient of one parameter is complete; the last one of the unit counts."""
        gradients = [view.grad for view in self.views if view.grad is not None]
        if len(gradients) < len(self.views):
            return
        self.group.note("computed", self.name)
        self._free()
        mean = mean_shard(gradient.to(self.shard.dtype) for gradient in gradients)
        self.shard.grad = mean if self.shard.grad is None else self.shard.grad + mean
        for view in self.views:
            view.grad = None
        self.group.note("reduced", self.name)


def _refuse(model: nn.Module) -> None:
    everywhere = [p for module in model.modules() for p in module.parameters(recurse=False)]
    if len(everywhere) > len(set(everywhere)):
        raise ValueError("Two layers of this model share a parameter. Their units would train it apart: untie them.")
    outside = [name for name, _ in model.named_parameters(recurse=False)]
    for name, child in model.named_children():
        if isinstance(child, nn.ParameterList | nn.ParameterDict):  # never called, so it could not be gathered
            outside += [f"{name}.{own}" for own, _ in child.named_parameters()]
    if outside:
        raise ValueError(f"The model itself holds parameters ({', '.join(outside)}). Put them into a child: a unit.")
    if not all(parameter.requires_grad for parameter in everywhere):
        raise ValueError("Some parameters of this model are frozen. A flat shard trains all of its numbers.")
    if len({parameter.dtype for parameter in everywhere}) > 1:
        raise ValueError("The parameters of this model have several types. One flat tensor has one: convert the model.")
