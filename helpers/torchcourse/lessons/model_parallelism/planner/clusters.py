"""A cluster for the planner: what data sheets promise, and how much of it arrives.

Units: bytes, seconds, floating-point operations, and each of them per second.
"""

import math
from dataclasses import dataclass, replace

from torchcourse.lessons.model_parallelism.planner.given_numbers import (
    check_kind,
    check_not_negative,
    check_seconds,
    check_share,
    check_unit,
    check_whole,
    count_as_python,
)


@dataclass(frozen=True)
class Efficiency:
    """How much of what the data sheets promise arrives.

    Attributes:
        matmul: share of the peak FLOP/s that matrix products reach when all their sides are long.
        traffic: how often each activation that is kept inside the attention and feed-forward parts moves between
            memory and chip in the forward pass: activation functions, softmax.
        link: share of the bandwidth inside a node that collectives reach.
        network: share of the bandwidth between nodes that collectives and messages reach.
        between_traffic: as `traffic`, of what is kept between these parts: norms, sums, dropout.
        pass_overhead: seconds that one pass through one layer takes however small the layer is: starting its kernels.
        contention: by how much computing gets longer beside messages of data parallelism, as a share of the time that
            they hide behind it: they take cores and memory bandwidth.
        step_overhead: seconds of a step that no size changes: the loader, the optimizer's kernels, the log.
    """

    matmul: float
    traffic: float
    link: float
    network: float
    between_traffic: float = 0.0
    pass_overhead: float = 0.0
    step_overhead: float = 0.0
    contention: float = 0.0

    def __post_init__(self) -> None:
        check_share("the efficiency", matmul=self.matmul, link=self.link, network=self.network)
        rest = ("traffic", "between_traffic", "pass_overhead", "step_overhead", "contention")
        check_not_negative("the efficiency", **{name: getattr(self, name) for name in rest})


A100_EFFICIENCY = Efficiency(
    matmul=0.84,
    traffic=1.0,
    link=0.78,
    network=0.91,
    between_traffic=12.1,
    pass_overhead=0.61e-3,
    step_overhead=0.01,
    contention=0.32,
)
"""`matmul`, `between_traffic`, `contention` and the two overheads are set on the sources in `published.SETTING`;
`traffic` is taken as 1. `link` and `network` are bus bandwidths measured with nccl-tests: about 235 of 300 GB/s between
8 A100 (https://github.com/NVIDIA/nccl/issues/583) and 91 of 100 GB/s over four network cards
(https://github.com/NVIDIA/nccl-tests/issues/100)."""
H100_EFFICIENCY = replace(A100_EFFICIENCY, matmul=0.72, link=0.82)
"""`link`: 370 of 450 GB/s (https://github.com/NVIDIA/nccl-tests/issues/212). The rest, but `matmul`, is taken over."""


@dataclass(frozen=True)
class GPU:
    """A GPU by its data sheet: peak FLOP/s without sparsity, memory in bytes, memory bandwidth in bytes per second."""

    name: str
    flops: float
    flops_float32: float
    memory: float
    memory_bandwidth: float

    def __post_init__(self) -> None:
        each_second = "floating-point operations per second"
        check_unit(self.name, each_second, flops=self.flops, flops_float32=self.flops_float32)
        check_unit(self.name, "bytes", memory=self.memory)
        check_unit(self.name, "bytes per second", memory_bandwidth=self.memory_bandwidth)


A100 = GPU("A100 80 GB", 312e12, 19.5e12, 80 * 2**30, 2.039e12)
"""https://www.nvidia.com/en-us/data-center/a100/"""
H100 = GPU("H100 SXM", 989e12, 67e12, 80 * 2**30, 3.35e12)
"""https://www.nvidia.com/en-us/data-center/h100/"""


@dataclass(frozen=True)
class Cluster:
    """GPUs in nodes. Bandwidths are bytes per second that one GPU sends, in one direction.

    Attributes:
        link: bandwidth of a GPU to the others in its node (NVLink).
        network: bandwidth of a GPU to other nodes (its network card).
        link_latency, network_latency: seconds per message, those with which NCCL chooses its algorithms (hwLatencies of
            a ring with the Simple protocol, https://github.com/NVIDIA/nccl/blob/v2.19.3-1/src/graph/tuning.cc).
    """

    gpu: GPU
    gpus: int
    gpus_per_node: int = 8
    link: float = 300e9
    network: float = 25e9
    link_latency: float = 3.4e-6
    network_latency: float = 14e-6
    efficiency: Efficiency = A100_EFFICIENCY

    def __post_init__(self) -> None:
        count_as_python(self)
        check_kind("the cluster", gpu=(self.gpu, GPU), efficiency=(self.efficiency, Efficiency))
        check_whole("the cluster", gpus=self.gpus, gpus_per_node=self.gpus_per_node)
        check_unit("the cluster", "bytes per second", link=self.link, network=self.network)
        check_seconds("the cluster", link_latency=self.link_latency, network_latency=self.network_latency)

    def in_a_node(self, span: int) -> bool:
        """Whether each group of `span` neighbors lies in one node. In nodes of 8, the third group of 3 lies in two."""
        return self.gpus <= self.gpus_per_node or self.gpus_per_node % span == 0

    def members_per_node(self, ranks: int, stride: int = 1) -> int:
        """How many members of a group of every `stride`-th GPU share a node; the fewest, where nodes differ."""
        span = ranks * stride
        return ranks if self.in_a_node(span) else max(1, math.gcd(span, self.gpus_per_node) // stride)

    def bandwidth(self, ranks: int, stride: int = 1) -> float:
        """Bytes per second that each GPU of a ring of every `stride`-th GPU really sends.

        Where the ring crosses nodes, it divides over the network cards of all its members in a node.
        """
        link = self.link * self.efficiency.link
        if self.in_a_node(ranks * stride):
            return link
        return min(link, self.members_per_node(ranks, stride) * self.message_bandwidth(ranks * stride))

    def message_bandwidth(self, span: int) -> float:
        """Bytes per second of a message from one GPU to another, `span` GPUs apart at most."""
        if self.in_a_node(span):
            return self.link * self.efficiency.link
        return self.network * self.efficiency.network

    def latency(self, span: int) -> float:
        """Seconds per message in a group that spans `span` neighboring GPUs."""
        return self.link_latency if self.in_a_node(span) else self.network_latency

    def ring_latency(self, ranks: int, stride: int) -> float:
        """Seconds in which a message goes from member to member through a ring of every `stride`-th GPU."""
        nodes = math.ceil(ranks / self.members_per_node(ranks, stride))
        return (ranks - nodes) * self.link_latency + (nodes - 1) * self.network_latency


def dgx_a100(gpus: int) -> Cluster:
    """Return NVIDIA's Selene, on which Megatron-LM's tables were measured: 8 A100, NVLink 3, HDR InfiniBand per GPU.

    Source: Narayanan et al. 2021, section 5, https://arxiv.org/abs/2104.04473
    """
    return Cluster(A100, gpus)


def grand_teton(gpus: int) -> Cluster:
    """Return Meta's H100 cluster, on which Llama 3 was trained: 8 H100, NVLink 4, 400 Gb/s Ethernet per GPU.

    Source: Llama team 2024, section 3.3.1, https://arxiv.org/abs/2407.21783
    """
    return Cluster(H100, gpus, link=450e9, network=50e9, efficiency=H100_EFFICIENCY)
