"""One training step as a time line per device: DataParallel and DistributedDataParallel, from a cost model.

Everything here is *modeled*: a few numbers describe the model, the batch and the machine (`Workload`), and out come
the times at which each device computes or copies, and what it holds in memory. The model leaves out Python's global
lock, which slows the threads of DataParallel further, and kernels that share a device with a copy.

Units: milliseconds, MB (10⁶ bytes), GB (10⁹ bytes), and GB per second.
"""

from dataclasses import dataclass, replace
from typing import Literal

from torchcourse.lessons.data_parallelism.cost import ring_seconds

Kind = Literal["forward", "backward", "loss", "optimizer", "copy"]


@dataclass(frozen=True)
class Workload:
    """What is trained, and on what. The defaults are about ResNet-50 on images of 224 × 224 pixels, in float32.

    Attributes:
        devices: the number of GPUs, 2 or more.
        model_mb: the parameters.
        batch: samples per step, over all devices together.
        bandwidth: GB per second between two devices.
        bucket_mb: the size of a gradient bucket of DistributedDataParallel.
        latency_ms: what a message costs before its first byte.
        sample_ms: forward and backward pass of one sample; a third of it forward.
        activations_mb, input_mb, output_mb: of one sample.
        optimizer_copies: how many numbers the optimizer keeps for each parameter (Adam: 2).
    """

    devices: int = 4
    model_mb: float = 100.0
    batch: int = 128
    bandwidth: float = 10.0
    bucket_mb: float = 25.0
    latency_ms: float = 0.01
    sample_ms: float = 2.5
    activations_mb: float = 80.0
    input_mb: float = 0.6
    output_mb: float = 0.004
    optimizer_copies: int = 2

    def __post_init__(self) -> None:
        if self.devices < 2:
            raise ValueError(f"Data parallelism needs at least 2 devices, but there is {self.devices}.")
        if self.batch < self.devices:
            raise ValueError(f"A batch of {self.batch} cannot be shared by {self.devices} devices.")
        for name in ("model_mb", "bandwidth", "bucket_mb", "sample_ms"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be above 0, but is {getattr(self, name)}.")

    @property
    def share(self) -> float:
        """Samples per device."""
        return self.batch / self.devices


@dataclass(frozen=True)
class Span:
    """What one device does from `start` to `end`, in milliseconds. Copies have a lane of their own beside computing."""

    device: int
    kind: Kind
    start: float
    end: float


@dataclass(frozen=True)
class Memory:
    """What one device holds at the worst moment of a step, in MB."""

    states: float
    """Parameters, gradients, optimizer state and buckets."""
    activations: float
    batch: float
    """Inputs and outputs of the model."""

    @property
    def total(self) -> float:
        return self.states + self.activations + self.batch


@dataclass(frozen=True)
class Timeline:
    """One step: what each device does when, and the memory of each device."""

    spans: tuple[Span, ...]
    memory: tuple[Memory, ...]

    @property
    def step_ms(self) -> float:
        return max(span.end for span in self.spans)

    def busy(self, device: int) -> float:
        """Return the part of the step, 0 to 1, in which a device computes."""
        return sum(s.end - s.start for s in self.spans if s.device == device and s.kind != "copy") / self.step_ms


def dataparallel_timeline(work: Workload) -> Timeline:
    """Model a step of `torch.nn.DataParallel`: one process, and device 0 hands out and collects everything.

    Scatter the inputs, copy the model to every device, forward, gather the outputs on device 0, loss there, scatter
    its gradient, backward, sum the replicas' gradients on device 0, optimizer there. Nothing overlaps. Copying the
    model and summing the gradients each take size / bandwidth, however many devices, as NCCL's broadcast and reduce.

    Source: `torch.nn.DataParallel`, https://docs.pytorch.org/docs/stable/generated/torch.nn.DataParallel.html
    """
    everyone, first = range(work.devices), [0]
    others = work.devices - 1
    model = _copy_ms(work, work.model_mb)
    outputs = _copy_ms(work, others * work.share * work.output_mb, messages=others)
    plan: list[tuple[Kind, float, range | list[int]]] = [
        ("copy", _copy_ms(work, others * work.share * work.input_mb, messages=others) + model, everyone),
        ("forward", _forward_ms(work), everyone),
        ("copy", outputs, everyone),
        ("loss", _LOSS_MS, first),
        ("copy", outputs, everyone),
        ("backward", _backward_ms(work), everyone),
        ("copy", model, everyone),
        ("optimizer", _optimizer_ms(work), first),
    ]
    spans, now = [], 0.0
    for kind, duration, devices in plan:
        spans += [Span(device, kind, now, now + duration) for device in devices]
        now += duration

    activations = work.share * work.activations_mb
    # Device 0: parameters, the gradients of its replica, their sum, optimizer state; all inputs, all outputs with the
    # probabilities and gradients of the loss. The others: a replica, its gradients, and their share.
    memory = [
        Memory(
            (3 + work.optimizer_copies) * work.model_mb, activations, work.batch * (work.input_mb + 3 * work.output_mb)
        )
    ]
    memory += [Memory(2 * work.model_mb, activations, work.share * (work.input_mb + work.output_mb))] * others
    return Timeline(tuple(spans), tuple(memory))


def ddp_timeline(work: Workload) -> Timeline:
    """Model a step of `DistributedDataParallel`: all devices alike, each bucket all-reduced as soon as it is full.

    The gradients are taken to appear evenly over the backward pass. Buckets travel one after the other, beside it.

    Source: Li et al., "PyTorch Distributed: Experiences on Accelerating Data Parallel Training", VLDB 2020,
    https://arxiv.org/abs/2006.15704
    """
    row = ddp_rank(work)
    spans = tuple(replace(span, device=device) for device in range(work.devices) for span in row)

    # Parameters, gradients, buckets, optimizer state; its share of the batch, and the loss's two copies of outputs.
    memory = Memory(
        (3 + work.optimizer_copies) * work.model_mb,
        work.share * work.activations_mb,
        work.share * (work.input_mb + 3 * work.output_mb),
    )
    return Timeline(spans, (memory,) * work.devices)


def ddp_rank(work: Workload) -> list[Span]:
    """Return what each rank does in `ddp_timeline`, as device 0."""
    forward, backward = _forward_ms(work), _backward_ms(work)
    start_of_backward = forward + _LOSS_MS
    row = [
        Span(0, "forward", 0.0, forward),
        Span(0, "loss", forward, start_of_backward),
        Span(0, "backward", start_of_backward, start_of_backward + backward),
    ]
    sent, wire_free = 0.0, 0.0
    while sent < work.model_mb:
        size = min(work.bucket_mb, work.model_mb - sent)
        sent += size
        full = start_of_backward + backward * sent / work.model_mb
        start = max(full, wire_free)
        wire_free = start + _all_reduce_ms(work, size)
        row.append(Span(0, "copy", start, wire_free))
    # The last bucket is full when backward ends, so when it has traveled, all is done.
    return [*row, Span(0, "optimizer", wire_free, wire_free + _optimizer_ms(work))]


def hidden_communication(row: list[Span]) -> float:
    """Return which part of the all-reduces of `ddp_rank`, 0 to 1, runs while the backward pass still computes."""
    end_of_backward = next(span.end for span in row if span.kind == "backward")
    copies = [span for span in row if span.kind == "copy"]
    hidden = sum(max(0.0, min(span.end, end_of_backward) - span.start) for span in copies)
    return hidden / sum(span.end - span.start for span in copies)


_LOSS_MS = 0.5
_DEVICE_MEMORY_GB_PER_S = 1000.0  # of a data-center GPU; the optimizer is bound by it


def _forward_ms(work: Workload) -> float:
    return work.share * work.sample_ms / 3


def _backward_ms(work: Workload) -> float:
    return work.share * work.sample_ms * 2 / 3


def _optimizer_ms(work: Workload) -> float:
    """Read parameter, gradient and state; write parameter and state. (1 MB at 1 GB per second takes 1 ms.)"""
    return (3 + 2 * work.optimizer_copies) * work.model_mb / _DEVICE_MEMORY_GB_PER_S


def _copy_ms(work: Workload, size_mb: float, messages: int = 1) -> float:
    return messages * work.latency_ms + size_mb / work.bandwidth


def _all_reduce_ms(work: Workload, size_mb: float) -> float:
    return ring_seconds(size_mb, work.devices, work.latency_ms, 1 / work.bandwidth)
