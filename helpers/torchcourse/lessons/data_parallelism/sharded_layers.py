"""ZeRO stage 3 by hand, PyTorch's own (FSDP2), and the whole parameters of both. Begin with `sharding`."""

import contextlib
from collections.abc import Iterator
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import nn
from torch.autograd.graph import saved_tensors_hooks

from torchcourse.lessons.data_parallelism.collectives import ring_all_gather, ring_reduce_scatter
from torchcourse.lessons.data_parallelism.data_parallel import copy_from_rank_0
from torchcourse.lessons.data_parallelism.parts import cut, dense
from torchcourse.ranks.who import device, rank_and_world_size


def shard_parameters(model: nn.Module) -> nn.Module:
    """Return the model with every layer that has parameters turned into a `ShardedLayer` (ZeRO stage 3).

    The model is changed in place. It starts as rank 0's on all ranks. After this, make any optimizer from
    `model.parameters()`, which are this rank's parts: optimizer numbers and gradients are shared out by themselves.
    The names stay. `model.state_dict()` holds this rank's parts; `full_parameters` has the whole. Clip with
    `sharding.clip_grad_norm_`: torch's own would take the norm of this rank's parts.

    Raises:
        RuntimeError: outside a rank.
        ValueError: for tied weights, which two layers would gather and update apart; for a weight that a hook computes
            before the layer gathers; for a model that is sharded.
    """
    everywhere = [p for module in model.modules() for p in module.parameters(recurse=False)]
    if len(everywhere) > len(set(everywhere)):
        raise ValueError("Two layers of this model share a parameter. Stage 3 by hand cannot do that: untie them.")
    if any(isinstance(module, ShardedLayer) for module in model.modules()):
        raise ValueError("This model is sharded already: call shard_parameters once.")
    for name, module in model.named_modules():
        if computed := [own.rpartition("_")[0] for own in module._parameters if _is_computed(module, own)]:
            raise ValueError(
                f"A hook computes {name}.{computed[0]} from other parameters before the layer has gathered them. Use "
                "torch.nn.utils.parametrizations.weight_norm or spectral_norm, or torch.nn.utils.prune.remove."
            )
    copy_from_rank_0(model)
    _shard(model)
    return model


def _is_computed(module: nn.Module, parameter: str) -> bool:
    """Whether a hook makes a weight from this parameter: `weight` from `weight_g`, or from `weight_orig`."""
    return isinstance(vars(module).get(parameter.rpartition("_")[0]), torch.Tensor)


class ShardedLayer(nn.Module):
    """A layer that keeps 1/N of its own parameters, and has all of them only while it computes.

    Forward: gather, compute, free. Backward: gather once more where a gradient needs the parameters, then sum the
    gradients to the owners of the parts. It is of the layer's own class too, and made by `shard_parameters`.

    Attributes:
        sent: bytes that this rank has sent for this layer since the start.
        whole_shapes: the shape of each parameter, by name.
    """

    sent: int
    whole_shapes: dict[str, torch.Size]

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        full = {name: _Gather.apply(self.get_parameter(name), self, name) for name in self.whole_shapes}
        names = {tensor.untyped_storage().data_ptr(): name for name, tensor in full.items() if tensor.numel()}

        # Autograd saves tensors for the backward pass. Instead of a gathered parameter it saves how to get it again.
        def pack(tensor: torch.Tensor) -> Any:
            name = names.get(tensor.untyped_storage().data_ptr())
            return tensor if name is None else (name, tensor.size(), tensor.stride(), tensor.storage_offset())

        def unpack(saved: Any) -> torch.Tensor:
            if isinstance(saved, torch.Tensor):
                return saved
            name, *geometry = saved
            return self.gather(name).as_strided(*geometry)

        with saved_tensors_hooks(pack, unpack), self._holding(full):
            return super().forward(*args, **kwargs)

    def gather(self, name: str) -> torch.Tensor:
        """Return the whole parameter, put together from all ranks' parts. All ranks must call it."""
        part = self.get_parameter(name).detach()
        full = part.new_empty(self.whole_shapes[name])
        parts = cut(full)
        parts[dist.get_rank()].copy_(part)
        self.sent += ring_all_gather(parts)
        return full

    def own_mean(self, gradient: torch.Tensor) -> torch.Tensor:
        """Return this rank's part of the mean of all ranks' gradients."""
        parts = cut(dense(gradient).clone(memory_format=torch.contiguous_format))
        self.sent += ring_reduce_scatter(parts)
        return parts[dist.get_rank()] / dist.get_world_size()

    @contextlib.contextmanager
    def _holding(self, tensors: dict[str, torch.Tensor]) -> Iterator[None]:
        """Within the block, the layer has these instead of its parts."""
        parts = {name: self.get_parameter(name) for name in tensors}
        self._hold(tensors)
        try:
            yield
        finally:
            self._hold(parts)

    def _hold(self, tensors: dict[str, Any]) -> None:
        for name, tensor in tensors.items():
            owner, _, key = name.rpartition(".")
            self.get_submodule(owner)._parameters[key] = tensor


class _Gather(torch.autograd.Function):
    """Part → whole parameter. The gradient goes the other way: whole gradient → its part of the mean."""

    @staticmethod
    def forward(ctx: Any, part: torch.Tensor, layer: ShardedLayer, name: str) -> torch.Tensor:
        ctx.layer = layer
        return layer.gather(name)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        return ctx.layer.own_mean(gradient), None, None


def shard_with_fsdp2(model: nn.Module) -> nn.Module:
    """Shard the model with PyTorch's own stage 3 (FSDP2): each child by itself, then the rest. Starts as rank 0's.

    Source: https://docs.pytorch.org/docs/stable/distributed.fsdp.fully_shard.html

    Raises:
        RuntimeError: outside a rank.
    """
    from torch.distributed.fsdp import fully_shard

    _, world_size = rank_and_world_size()
    copy_from_rank_0(model)
    mesh = dist.init_device_mesh(device().type, (world_size,))
    for child in model.children():
        if next(child.parameters(), None) is not None:
            fully_shard(child, mesh=mesh)
    fully_shard(model, mesh=mesh)
    return model


def full_parameters(model: nn.Module) -> dict[str, torch.Tensor]:
    """Return whole parameters by the names of the unsharded model, from stage 3, FSDP2, or a plain model.

    With the model's buffers they make the `state_dict` of the unsharded model. All ranks must call it.
    """
    layers = {
        layer.get_parameter(name): (layer, name)
        for layer in model.modules()
        if isinstance(layer, ShardedLayer)
        for name in layer.whole_shapes
    }
    whole = {}
    for name, parameter in model.named_parameters():
        if parameter in layers:
            layer, own_name = layers[parameter]
            whole[name] = layer.gather(own_name)
        else:
            whole[name] = parameter.full_tensor() if hasattr(parameter, "full_tensor") else parameter
    return {name: tensor.detach() for name, tensor in whole.items()}


def _shard(module: nn.Module) -> None:
    # These compute with the weights of the layers in them, without calling those layers (the second in evaluation).
    # So does an adapter beside a layer that does more with its weight (`transfer.lora.LoRA`): it says so by `whole`.
    as_a_whole = isinstance(module, nn.MultiheadAttention | nn.TransformerEncoderLayer)
    as_a_whole = as_a_whole or getattr(module, "whole", False) is True
    names = [name for name, _ in module.named_parameters(recurse=as_a_whole)]
    if not as_a_whole:
        for own, child in module.named_children():
            if isinstance(child, nn.ParameterList | nn.ParameterDict):  # never called: the layer reads what is in them
                names += [f"{own}.{name}" for name, _ in child.named_parameters()]
            else:
                _shard(child)
    if not names:
        return
    rank, _ = rank_and_world_size()
    shapes = {}
    for name in names:
        owner, _, key = name.rpartition(".")
        parameter = module.get_parameter(name)
        shapes[name] = parameter.shape
        part = cut(parameter.detach())[rank].clone()  # a view would keep the whole parameter alive
        module.get_submodule(owner).register_parameter(key, nn.Parameter(part, parameter.requires_grad))
    module.__class__ = type(f"Sharded{type(module).__name__}", (ShardedLayer, type(module)), {})
    layer = cast(ShardedLayer, module)
    layer.sent, layer.whole_shapes = 0, shapes
