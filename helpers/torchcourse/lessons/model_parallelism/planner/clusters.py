"""A cluster for the planner: what data sheets promise, and how much of it arrives.

Units: bytes, seconds, floating-point operations, and each of them per second.
"""

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Efficiency:
    """How much of what the data sheets promise arrives. These are set on published runs (see `planner.accuracy`).

    Attributes:
        matmul: share of the peak FLOP/s that large matrix products reach.
        traffic: how often each activation that is kept moves between memory and chip in the forward pass. This is the
            time of everything that is no matrix product: norms, dropout, softmax, activation functions.
        link: share of the bandwidth inside a node that all-reduces reach.
        network: share of the bandwidth between nodes that collectives and messages reach.
    """

    matmul: float
    traffic: float
    link: float
    network: float


A100_EFFICIENCY = Efficiency(matmul=0.667, traffic=2.29, link=0.9, network=0.9)
"""Set on eight runs of Megatron-LM, as `test_calibration.py` does again. The last two end at the most they may be:
large models hardly show how fast links are. Tensor groups across nodes come out too fast (figure 13 of the paper)."""
H100_EFFICIENCY = replace(A100_EFFICIENCY, matmul=0.564)
"""The share of the H100's peak is set on one run of Llama 3. The rest is taken over."""
DEEPSPEED_2021 = replace(A100_EFFICIENCY, network=0.0905)
"""ZeRO stage 3 as it was measured in 2021 gathered parameters at a tenth of the network's rate. Set on one run of six;
FSDP in 2023 is at the full rate (the runs of MPT in `published`)."""


@dataclass(frozen=True)
class GPU:
    """A GPU by its data sheet: peak FLOP/s without sparsity, memory in bytes, memory bandwidth in bytes per second."""

    name: str
    flops: float
    flops_float32: float
    memory: float
    memory_bandwidth: float


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
        link_latency, network_latency: seconds per message; an assumption, and of little weight in large models.
    """

    gpu: GPU
    gpus: int
    gpus_per_node: int = 8
    link: float = 300e9
    network: float = 25e9
    link_latency: float = 2e-6
    network_latency: float = 5e-6
    efficiency: Efficiency = A100_EFFICIENCY

    def __post_init__(self) -> None:
        if self.gpus < 1 or self.gpus_per_node < 1:
            raise ValueError(f"A cluster needs GPUs, but this one has {self.gpus}, {self.gpus_per_node} a node.")

    def bandwidth(self, span: int, stride: int = 1) -> float:
        """Bytes per second that each GPU of a ring really sends.

        Where the ring crosses nodes, it divides over the network cards of all its members in a node.

        Args:
            span: how many neighbouring GPUs lie between the first and the last member, both counted.
            stride: how many lie from one member to the next.
        """
        link = self.link * self.efficiency.link
        if span <= self.gpus_per_node:
            return link
        return min(link, max(1, self.gpus_per_node // stride) * self.message_bandwidth(span))

    def message_bandwidth(self, span: int) -> float:
        """Bytes per second of a message from one GPU to another, `span` GPUs apart at most."""
        if span <= self.gpus_per_node:
            return self.link * self.efficiency.link
        return self.network * self.efficiency.network

    def latency(self, span: int) -> float:
        """Seconds per message in a group that spans `span` neighbouring GPUs."""
        return self.link_latency if span <= self.gpus_per_node else self.network_latency


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
