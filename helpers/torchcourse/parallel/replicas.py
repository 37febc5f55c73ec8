"""DataParallel, the legacy way: one process, which copies the model to every device for each forward pass.

PyTorch recommends DistributedDataParallel instead, also on one machine. `DataParallel` here shows by hand what
`torch.nn.DataParallel` does. Where there are two or more GPUs, `measure_devices` measures torch's own beside DDP;
without them, `torchcourse.parallel.timeline` models both.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call

from torchcourse.parallel import run_ranks
from torchcourse.parallel.collectives import rank_and_world_size


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
        ValueError: without devices.

    Source: `torch.nn.DataParallel`, https://docs.pytorch.org/docs/stable/generated/torch.nn.DataParallel.html
    """

    def __init__(self, module: nn.Module, devices: Sequence[str | torch.device]) -> None:
        super().__init__()
        if not devices:
            raise ValueError("DataParallel needs a list of devices to share the batch among, but it is empty.")
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


@dataclass(frozen=True)
class Use:
    """What training used: milliseconds a step, and the largest memory (GB) that each device had allocated."""

    step_ms: float
    memory_gb: tuple[float, ...]


def measure_devices(
    make_model: Callable[[], nn.Module], inputs: torch.Tensor, targets: torch.Tensor, steps: int = 5
) -> dict[str, Use]:
    """Train torch's DataParallel and DDP on all GPUs of this machine, and return the use of each by name.

    Args:
        make_model: returns a new classifier.
        inputs, targets: the whole batch, [batch, …] and [batch], on the CPU.
        steps: how many steps are timed, after two to warm up.

    Raises:
        RuntimeError: with fewer than two GPUs.
    """
    gpus = torch.cuda.device_count()
    if gpus < 2:
        raise RuntimeError(
            f"This measures how GPUs share the work, but the machine has {gpus}. "
            "The modelled picture needs none: dataparallel_picture()."
        )

    def one_rank() -> Use:
        rank, world_size = rank_and_world_size()
        model = nn.parallel.DistributedDataParallel(make_model().cuda())
        return _train(model, *(tensor.tensor_split(world_size)[rank].cuda() for tensor in (inputs, targets)), steps)

    old = _train(nn.DataParallel(make_model().cuda()), inputs.cuda(), targets.cuda(), steps)
    torch.cuda.empty_cache()
    ranks = run_ranks(one_rank, world_size=gpus)
    own_memory = tuple(use.memory_gb[rank] for rank, use in enumerate(ranks))
    return {"DataParallel": old, "DDP": Use(max(use.step_ms for use in ranks), own_memory)}


def _train(model: nn.Module, inputs: torch.Tensor, targets: torch.Tensor, steps: int) -> Use:
    """Return the use of all GPUs that this process sees."""
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4)
    for step in range(2 + steps):
        if step == 2:
            _wait_for_all_gpus()
            start = time.perf_counter()
        optimizer.zero_grad()
        F.cross_entropy(model(inputs), targets).backward()
        optimizer.step()
    _wait_for_all_gpus()
    step_ms = (time.perf_counter() - start) / steps * 1000
    gpus = range(torch.cuda.device_count())
    return Use(step_ms, tuple(torch.cuda.max_memory_allocated(gpu) / 1e9 for gpu in gpus))


def _wait_for_all_gpus() -> None:
    for gpu in range(torch.cuda.device_count()):
        torch.cuda.synchronize(gpu)
