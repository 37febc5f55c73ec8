"""Sharding (샤딩) by hand: data parallelism in which each rank keeps only 1/N of the states (ZeRO stages 1, 2 and 3).

Each parameter is cut into N parts of equal length (to within one number), and rank r looks after part r.

* Stage 1, `ShardedOptimizer(…, stage=1)`: each rank updates its parts only, so it keeps only their optimizer numbers.
  Afterwards the ranks exchange the updated parts.
* Stage 2, `ShardedOptimizer(…, stage=2)`: a gradient is summed to its owners as soon as it exists, then freed.
* Stage 3, `shard_parameters`: a layer's parameters are gathered when the layer needs them, then freed.

All follow the same course as DDP, step by step. They send one message per parameter and wait for it; real libraries put
parameters together and overlap: `shard_with_fsdp2` sets up PyTorch's own. Optimizers that look at each number by itself
(SGD, Adam, AdamW) work; those that look at a whole matrix, or at its norm, do not. All ranks must use the same
parameters in a step.

No rank sees a whole gradient, so its norm takes a message too: `ShardedOptimizer.clip_grad_norm_` and, for stage 3,
`clip_grad_norm_`.

Source: Rajbhandari et al., "ZeRO: Memory Optimizations Toward Training Trillion Parameter Models", SC20,
https://arxiv.org/abs/1910.02054. What a stage saves: `torchcourse.lessons.data_parallelism.memory`.
"""

import warnings
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn

from torchcourse.lessons.data_parallelism.collectives import ring_all_gather, ring_reduce_scatter
from torchcourse.lessons.data_parallelism.data_parallel import copy_from_rank_0
from torchcourse.lessons.data_parallelism.parts import clip_grad_norm_, cut, dense
from torchcourse.lessons.data_parallelism.sharded_layers import (
    ShardedLayer,
    full_parameters,
    shard_parameters,
    shard_with_fsdp2,
)
from torchcourse.ranks.who import rank_and_world_size

__all__ = [
    "ShardedLayer",
    "ShardedOptimizer",
    "clip_grad_norm_",
    "full_parameters",
    "shard_parameters",
    "shard_with_fsdp2",
]


class ShardedOptimizer(torch.optim.Optimizer):
    """Shares out an optimizer's numbers (stage 1) and gradients (stage 2) among the ranks.

        optimizer = ShardedOptimizer(model, torch.optim.Adam, stage=2, lr=1e-3)
        loss.backward()
        optimizer.clip_grad_norm_(1.0)
        optimizer.step()
        optimizer.zero_grad()

    It copies the model of rank 0 to all ranks and averages gradients, so it takes DDP's place too. Schedulers, closures
    and groups work as with any optimizer; `param_groups` and `state` hold this rank's parts. Three things differ:

    * `parameter.grad` is no mean: in stage 1 it is this rank's own until `step()`, and in stage 2 there is none. So
      clip with `optimizer.clip_grad_norm_` and clear with `optimizer.zero_grad`. Asking for a gradient that is shared
      out raises an error.
    * `state_dict()` is this rank's share. Each rank saves and loads its own.
    * It refuses GradScaler, which would see the overflows of one rank only. bfloat16 needs no scaler.

    Args:
        model: with contiguous parameters, already on this rank's device.
        make_optimizer: such as `torch.optim.Adam`; `options` go to it.
        stage: 1 or 2.
        groups: groups of the model's parameters with options of their own, as torch's optimizers take them; all
            parameters that need a gradient if left out.

    Attributes:
        sent: bytes that this rank has sent since the start, without the first copy of the model.

    Raises:
        RuntimeError: outside a rank.
        ValueError: for a different stage, an optimizer that needs whole matrices, parameters that are not contiguous,
            or a model that has nothing to train or a ShardedOptimizer already.
    """

    # GradScaler then calls `step` on all ranks, also where it found an overflow on one: `step` can refuse it.
    _step_supports_amp_scaling = True

    def __init__(
        self,
        model: nn.Module,
        make_optimizer: Callable[..., torch.optim.Optimizer],
        stage: int = 1,
        groups: Iterable[dict[str, Any]] | None = None,
        **options: Any,
    ) -> None:
        if stage not in (1, 2):
            raise ValueError(f"ShardedOptimizer does stages 1 and 2, but not {stage}. For stage 3: shard_parameters.")
        self.rank, self.world_size = rank_and_world_size()
        self.sent = 0
        self.stage = stage
        self.parameters: list[_Shared] = []
        copy_from_rank_0(model)
        if groups is None:
            groups = [{"params": [parameter for parameter in model.parameters() if parameter.requires_grad]}]
        groups = [self._share_out(group) for group in groups]
        if not self.parameters:
            raise ValueError("No parameter of this model needs a gradient: there is nothing to train.")
        self.optimizer = make_optimizer(groups, **options)
        _refuse_whole_matrices(self.optimizer, make_optimizer, options)
        super().__init__(groups, self.optimizer.defaults)
        self._follow()

    @property
    def parts(self) -> list[nn.Parameter]:
        """This rank's part of each parameter, flat. A part is a view: updating it updates the model."""
        return [parameter.part for parameter in self.parameters]

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update this rank's parts, then give them to all ranks and take theirs. Returns what the closure returns.

        Raises:
            RuntimeError: under a GradScaler.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        if hasattr(self, "found_inf"):
            raise RuntimeError(
                "GradScaler looks for overflows on this rank only, so the ranks would not agree on whether to take a "
                "step. Train in bfloat16, which needs no scaler, or use FSDP2 with ShardedGradScaler."
            )
        self._average()
        self.optimizer.step()
        for parameter in self.parameters:
            self.sent += ring_all_gather(cut(parameter.detach()))
        return loss

    def zero_grad(self, set_to_none: bool = True) -> None:
        for parameter in self.parameters:
            for tensor in (parameter, parameter.part):
                if set_to_none or tensor is parameter:
                    tensor.grad = None
                elif tensor.grad is not None:
                    tensor.grad.zero_()

    @torch.no_grad()
    def clip_grad_norm_(
        self, max_norm: float, norm_type: float = 2.0, error_if_nonfinite: bool = False
    ) -> torch.Tensor:
        """Scale the mean gradients down to the norm `max_norm`, if theirs is larger. All ranks must call it.

        Returns:
            The norm before, over all parameters and parts: the same scalar on all ranks.
        """
        self._average()
        return clip_grad_norm_(self.parts, max_norm, norm_type, error_if_nonfinite)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Train more parameters of the model, such as a part that was frozen, with options of their own."""
        if not hasattr(self, "param_groups") or self.param_groups is not self.optimizer.param_groups:
            return super().add_param_group(param_group)  # torch's constructor is adding the first groups
        param_group = {**param_group, "params": _listed(param_group["params"])}
        copy_from_rank_0(nn.ParameterList(param_group["params"]))
        return self.optimizer.add_param_group(self._share_out(param_group))

    def state_dict(self) -> dict[str, Any]:
        """Return the optimizer's numbers of this rank's parts, with a note on whose they are."""
        return {**self.optimizer.state_dict(), "share": self._share()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up what this rank's `state_dict` gave.

        Raises:
            ValueError: for the share of a different rank, number of ranks or model, or a whole optimizer's state.
        """
        share = state_dict.get("share")
        if share != self._share():
            whose = "a whole model" if share is None else f"rank {share['rank']} of {share['world_size']}"
            raise ValueError(
                f"This optimizer state is that of {whose}, with other parts than those of rank {self.rank} of "
                f"{self.world_size}. Save the state_dict() of each rank, and give each its own, on as many ranks."
            )
        self.optimizer.load_state_dict({key: value for key, value in state_dict.items() if key != "share"})
        self._follow()

    def _follow(self) -> None:
        """Have one list of groups and one state: a scheduler that changes a rate here changes it for the parts."""
        self.param_groups, self.state = self.optimizer.param_groups, self.optimizer.state

    def _share(self) -> dict[str, Any]:
        return {"rank": self.rank, "world_size": self.world_size, "sizes": [part.numel() for part in self.parts]}

    def _share_out(self, group: dict[str, Any]) -> dict[str, Any]:
        """Return the group with this rank's parts instead of the parameters."""
        parts = []
        for parameter in _listed(group["params"]):
            if any(parameter is other for other in self.parameters):
                raise ValueError(f"A parameter of shape {list(parameter.shape)} is in two groups. Leave it in one.")
            if isinstance(parameter, _Shared) and parameter.own_part() is not None:
                raise ValueError("This model has a ShardedOptimizer already. For a new one, make the model again.")
            part = nn.Parameter(cut(parameter.detach())[self.rank], requires_grad=parameter.requires_grad)
            parameter.__class__ = _Shared
            parameter.part = part
            parameter.register_post_accumulate_grad_hook(self._on_gradient)
            self.parameters.append(parameter)
            parts.append(part)
        return {**group, "params": parts}

    def _on_gradient(self, parameter: "_Shared") -> None:
        """Autograd calls this when `parameter.grad` is complete."""
        if self.stage == 2:
            with torch.no_grad():
                self._keep_own_part(parameter)
        elif (gradient := parameter.grad_here()) is not None:
            parameter.version = gradient._version

    def _average(self) -> None:
        """Give each part the mean of all ranks' gradients. In stage 2 the backward pass has done that."""
        for parameter in self.parameters:
            gradient = parameter.grad_here()
            if self.stage == 1 and gradient is not None:
                if gradient._version != parameter.version:
                    warnings.warn(
                        "A gradient was changed after backward(), before the ranks averaged it. That is right for a "
                        "factor that all ranks share, and wrong for clipping: use optimizer.clip_grad_norm_().",
                        stacklevel=3,
                    )
                self._keep_own_part(parameter)

    def _keep_own_part(self, parameter: "_Shared") -> None:
        """Move the mean gradient of this rank's part to the part."""
        gradient, part = parameter.grad_here(), parameter.part
        if gradient is None:
            return
        mean = self._own_mean(gradient)
        if self.stage == 2:
            mean = mean.clone()  # a view would keep the whole gradient alive
        part.grad = mean if part.grad is None else part.grad + mean
        parameter.grad = None

    def _own_mean(self, gradient: torch.Tensor) -> torch.Tensor:
        """Return this rank's part of the mean gradient, as a view. The rest of `gradient` becomes meaningless."""
        parts = cut(dense(gradient))
        self.sent += ring_reduce_scatter(parts)
        return parts[self.rank].div_(self.world_size)


class _Shared(nn.Parameter):
    """A whole parameter, of which each rank looks after a part. Its gradient may be with the parts."""

    part: nn.Parameter
    version: int

    def own_part(self) -> nn.Parameter | None:
        """Return the part, or None for the copy of a parameter, which no optimizer trains."""
        return self.__dict__.get("part")

    def grad_here(self) -> torch.Tensor | None:
        return super().grad

    @property  # autograd itself does not come by here
    def grad(self) -> torch.Tensor | None:
        gradient = self.grad_here()
        part = self.own_part()
        if gradient is None and part is not None and part.grad is not None:
            raise RuntimeError(
                "This gradient is shared out: each rank has a part, and none has the whole. To clip, call "
                "optimizer.clip_grad_norm_(); to clear, optimizer.zero_grad()."
            )
        return gradient

    @grad.setter
    def grad(self, gradient: torch.Tensor | None) -> None:
        torch.Tensor.grad.__set__(self, gradient)  # type: ignore[union-attr]  # torch declares a plain attribute


def _refuse_whole_matrices(
    optimizer: torch.optim.Optimizer, make_optimizer: Callable[..., torch.optim.Optimizer], options: dict[str, Any]
) -> None:
    known = {"Adafactor", "LBFGS", "Muon", "SparseAdam"} & {base.__name__ for base in type(optimizer).__mro__}
    if known or not _looks_at_single_numbers(make_optimizer, options):
        name = min(known, default=type(optimizer).__name__)
        raise ValueError(
            f"{name} does not look at each number by itself, so parts of parameters would be trained differently from "
            "whole ones. Use SGD, Adam or AdamW."
        )


@torch.enable_grad()
def _looks_at_single_numbers(make_optimizer: Callable[..., torch.optim.Optimizer], options: dict[str, Any]) -> bool:
    """Try the optimizer on a small matrix, whole and in two parts. True where it cannot be tried, or draws numbers."""

    def after_two_steps(parts: int) -> torch.Tensor:
        values, gradients = torch.arange(1.0, 9.0).view(2, 4), torch.tensor([[3.0, -1, 2, 5], [0.1, -0.2, 0.3, 0.1]])
        split = [values] if parts == 1 else list(values.view(-1).chunk(parts))
        parameters = [nn.Parameter(part.clone()) for part in split]
        trial = make_optimizer([{"params": parameters}], **options)
        for _ in range(2):
            for parameter, gradient in zip(parameters, gradients.view(-1).chunk(parts), strict=True):
                parameter.grad = gradient.view_as(parameter).clone()
            trial.step()
        return torch.cat([parameter.detach().view(-1) for parameter in parameters])

    try:
        with torch.random.fork_rng(devices=[]):
            whole, again, parted = after_two_steps(1), after_two_steps(1), after_two_steps(2)
    except Exception:
        return True
    return not torch.equal(whole, again) or torch.allclose(whole, parted, rtol=1e-4, atol=1e-6)


def _listed(parameters: Any) -> list[Any]:
    """Return a group's parameters without their names."""
    listed = [parameters] if isinstance(parameters, torch.Tensor) else list(parameters)
    return [entry[1] if isinstance(entry, tuple) else entry for entry in listed]
