"""Sharding (샤딩) by hand: data parallelism in which each rank keeps only 1/N of the states (ZeRO stages 1, 2 and 3).

Each parameter is cut into N parts of equal length (to within one number), and rank r looks after part r.

* Stage 1, `ShardedOptimizer(…, stage=1)`: each rank updates its parts only, so it keeps only their optimizer numbers.
  Afterwards the ranks exchange the updated parts.
* Stage 2, `ShardedOptimizer(…, stage=2)`: a gradient is summed to its owners as soon as it exists, then freed.
* Stage 3, `shard_parameters`: a layer's parameters are gathered when the layer needs them, then freed.

All follow the same course as DDP, step by step. They send one message per parameter and wait for it; real libraries put
parameters together and overlap: `shard_with_fsdp2` sets up PyTorch's own. Optimizers that look at each number by itself
(SGD, Adam, AdamW) work; those that look at a whole matrix do not. All ranks must use the same parameters in a step.

Source: Rajbhandari et al., "ZeRO: Memory Optimizations Toward Training Trillion Parameter Models", SC20,
https://arxiv.org/abs/1910.02054. What a stage saves: `torchcourse.lessons.data_parallelism.memory`.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.autograd.graph import saved_tensors_hooks
from torch.func import functional_call

from torchcourse.lessons.data_parallelism.collectives import ring_all_gather, ring_reduce_scatter
from torchcourse.lessons.data_parallelism.data_parallel import copy_from_rank_0
from torchcourse.ranks.who import device, rank_and_world_size


class ShardedOptimizer:
    """Shares out an optimizer's numbers (stage 1) and gradients (stage 2); it is not a `torch.optim.Optimizer`.

    So schedulers and GradScaler refuse it, it has no `state_dict`, and one group of options serves all parameters. In
    stage 2 the model's own `.grad` is empty after `backward()`: `clip_grad_norm_(model.parameters(), …)` would return 0
    and clip nothing. For training at work take `ZeroRedundancyOptimizer` or FSDP2, which do all of that.

        optimizer = ShardedOptimizer(model, torch.optim.Adam, stage=2, lr=1e-3)
        loss.backward(); optimizer.step(); optimizer.zero_grad()

    It copies the model of rank 0 to all ranks and averages gradients, so it takes DDP's place too.

    Args:
        model: with contiguous parameters, already on this rank's device.
        make_optimizer: such as `torch.optim.Adam`; `options` go to it.
        stage: 1 or 2.

    Attributes:
        sent: bytes that this rank has sent since the start, without the first copy of the model.

    Raises:
        RuntimeError: outside a rank.
        ValueError: for another stage.
    """

    def __init__(
        self, model: nn.Module, make_optimizer: Callable[..., torch.optim.Optimizer], stage: int = 1, **options: Any
    ) -> None:
        if stage not in (1, 2):
            raise ValueError(f"ShardedOptimizer does stages 1 and 2, but not {stage}. For stage 3: shard_parameters.")
        self.rank, self.world_size = rank_and_world_size()
        self.sent = 0
        copy_from_rank_0(model)
        self.parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        # A part is a view: updating it updates the model, and it takes no memory of its own.
        self.parts = [nn.Parameter(cut(parameter.detach())[self.rank]) for parameter in self.parameters]
        self.optimizer = make_optimizer(self.parts, **options)
        self.stage = stage
        if stage == 2:
            part_of = dict(zip(self.parameters, self.parts, strict=True))
            for parameter in self.parameters:
                parameter.register_post_accumulate_grad_hook(lambda p: self._keep_own_gradient(p, part_of[p]))

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        return self.optimizer.param_groups

    @property
    def state(self) -> Mapping[torch.Tensor, Any]:
        return self.optimizer.state

    def step(self) -> None:
        """Update this rank's parts, then give them to all ranks and take theirs."""
        if self.stage == 1:
            for parameter, part in zip(self.parameters, self.parts, strict=True):
                if parameter.grad is not None:
                    part.grad = self._own_mean(parameter.grad)
        self.optimizer.step()
        for parameter in self.parameters:
            self.sent += ring_all_gather(cut(parameter.detach()))

    def zero_grad(self) -> None:
        for parameter in (*self.parameters, *self.parts):
            parameter.grad = None

    def _keep_own_gradient(self, parameter: nn.Parameter, part: nn.Parameter) -> None:
        """Autograd calls this when `parameter.grad` is complete."""
        assert parameter.grad is not None
        mean = self._own_mean(parameter.grad).clone()  # a view would keep the whole gradient alive
        part.grad = mean if part.grad is None else part.grad + mean
        parameter.grad = None

    def _own_mean(self, gradient: torch.Tensor) -> torch.Tensor:
        """Return this rank's part of the mean gradient, as a view. The rest of `gradient` becomes meaningless."""
        parts = cut(gradient)
        self.sent += ring_reduce_scatter(parts)
        return parts[self.rank].div_(self.world_size)


def shard_parameters(model: nn.Module) -> nn.Module:
    """Return the model with every layer that has parameters inside a `ShardedLayer` (ZeRO stage 3).

    The model is changed in place. It starts as rank 0's on all ranks. After this, make any optimizer from
    `model.parameters()`, which are this rank's parts: optimizer numbers and gradients are shared out by themselves.
    The parts have names of their own, so that a `state_dict` from before does not fit, nor one from here elsewhere; and
    a norm over them is that of this rank's parts. FSDP2 keeps the names, and its norms are those of the whole model.

    Raises:
        RuntimeError: outside a rank.
        ValueError: for tied weights, which two layers would gather and update apart.
    """
    everywhere = [p for module in model.modules() for p in module.parameters(recurse=False)]
    if len(everywhere) > len(set(everywhere)):
        raise ValueError("Two layers of this model share a parameter. Stage 3 by hand cannot do that: untie them.")
    copy_from_rank_0(model)
    return _wrap(model)


class ShardedLayer(nn.Module):
    """A layer that keeps 1/N of its own parameters, and has all of them only while it computes.

    Forward: gather, compute, free. Backward: gather once more where a gradient needs the parameters, then sum the
    gradients to the owners of the parts.

    Attributes:
        sent: bytes that this rank has sent for this layer since the start.
    """

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.rank, self.world_size = rank_and_world_size()
        self.sent = 0
        self.shapes = {name: parameter.shape for name, parameter in layer.named_parameters(recurse=False)}
        self.parts = nn.ParameterDict()
        for name in self.shapes:
            parameter = getattr(layer, name)
            part = cut(parameter.detach())[self.rank].clone()  # a view would keep the whole parameter alive
            self.parts[name] = nn.Parameter(part, requires_grad=parameter.requires_grad)
            layer.register_parameter(name, None)
        self.layer = layer

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        full = {name: _Gather.apply(part, self, name) for name, part in self.parts.items()}
        names = {tensor.untyped_storage().data_ptr(): name for name, tensor in full.items()}

        # Autograd saves tensors for the backward pass. Instead of a gathered parameter it saves how to get it again.
        def pack(tensor: torch.Tensor) -> Any:
            name = names.get(tensor.untyped_storage().data_ptr())
            return tensor if name is None else (name, tensor.size(), tensor.stride(), tensor.storage_offset())

        def unpack(saved: Any) -> torch.Tensor:
            if isinstance(saved, torch.Tensor):
                return saved
            name, *geometry = saved
            return self.gather(name).as_strided(*geometry)

        with saved_tensors_hooks(pack, unpack):
            return functional_call(self.layer, full, args, kwargs)

    def gather(self, name: str) -> torch.Tensor:
        """Return the whole parameter, put together from all ranks' parts. All ranks must call it."""
        part = self.parts[name].detach()
        full = part.new_empty(self.shapes[name])
        parts = cut(full)
        parts[self.rank].copy_(part)
        self.sent += ring_all_gather(parts)
        return full

    def own_mean(self, gradient: torch.Tensor) -> torch.Tensor:
        """Return this rank's part of the mean of all ranks' gradients."""
        parts = cut(gradient.clone(memory_format=torch.contiguous_format))
        self.sent += ring_reduce_scatter(parts)
        return parts[self.rank] / self.world_size


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


def full_parameters(model: nn.Module) -> list[torch.Tensor]:
    """Return whole parameters in the order of the unsharded model, from stage 3, FSDP2, or a plain model.

    All ranks must call it.
    """
    whole = []
    for module in model.modules():
        if isinstance(module, ShardedLayer):
            whole += [module.gather(name) for name in module.shapes]
        elif not isinstance(module, nn.ParameterDict):
            for parameter in module.parameters(recurse=False):
                whole.append(parameter.full_tensor() if hasattr(parameter, "full_tensor") else parameter)
    return [tensor.detach() for tensor in whole]


def cut(tensor: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Return N parts of a contiguous tensor as flat views, one per rank. Lengths differ by at most one number."""
    return tensor.view(-1).tensor_split(dist.get_world_size())


def _wrap(module: nn.Module) -> nn.Module:
    for name, child in list(module.named_children()):
        setattr(module, name, _wrap(child))
    has_own = next(module.parameters(recurse=False), None) is not None
    return ShardedLayer(module) if has_own else module
