"""DataParallel, the legacy way: one process, which copies the model to every device for each forward pass.

PyTorch recommends DistributedDataParallel instead, also on one machine. This shows by hand what `torch.nn.DataParallel`
does. What it costs: `torchcourse.lessons.data_parallelism.timeline` models it.
"""

from collections.abc import Sequence

import torch
from torch import nn
from torch.func import functional_call
from torch.nn.parameter import is_lazy


class DataParallel(nn.Module):
    """Share a batch among devices, inside one process.

    A forward pass scatters the batch, replicates the model to each device, lets each compute, and gathers the *outputs*
    on the first device, where you compute the loss. In the backward pass the gradients of the replicas are *summed* on
    the first device. So nothing is averaged: the mean, if any, is in your loss, over the whole batch.

    Buffers: only the first device works on the model's own, so BatchNorm counts only the first share of each batch.

    torch's own uses a thread for each device, and NCCL to copy. Here the devices get their work one after the other.

    Args:
        module: the model, on the first device.
        devices: such as `["cuda:0", "cuda:1"]`. To look at the idea without GPUs: `["cpu", "cpu"]`.

    Raises:
        ValueError: without a list of devices, or if a layer has not made its parameters yet (`nn.LazyLinear`).

    Source: `torch.nn.DataParallel`, https://docs.pytorch.org/docs/stable/generated/torch.nn.DataParallel.html
    """

    def __init__(self, module: nn.Module, devices: Sequence[str | torch.device]) -> None:
        super().__init__()
        if not devices or isinstance(devices, str):
            raise ValueError(
                'DataParallel needs a list of devices to share the batch among, such as ["cuda:0", "cuda:1"].'
            )
        if any(is_lazy(parameter) for parameter in module.parameters()):
            raise ValueError("A layer has not made its parameters yet: send one batch through the model first.")
        self.module = module
        self.devices = [torch.device(device) for device in devices]

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Return the outputs for the whole batch, [batch, …], on the first device."""
        first = self.devices[0]
        shares = inputs.tensor_split(len(self.devices))
        outputs = []
        for index, (device, share) in enumerate(zip(self.devices, shares, strict=True)):
            # Autograd goes through a copy: the gradient of each replica flows back and is added to the parameter's.
            replica = {name: tensor.to(device, copy=True) for name, tensor in self.module.named_parameters()}
            for name, buffer in self.module.named_buffers():
                replica[name] = buffer if index == 0 else buffer.to(device, copy=True)
            outputs.append(functional_call(self.module, replica, (share.to(device),)))
        return torch.cat([output.to(first) for output in outputs])
