"""What a layout costs: its bytes, its seconds, and how much of the peak it reaches."""

from dataclasses import dataclass

from torchcourse.lessons.model_parallelism.planner.clusters import Cluster
from torchcourse.lessons.model_parallelism.planner.layout import Layout
from torchcourse.lessons.model_parallelism.planner.memory import Bytes, fullest_gpu
from torchcourse.lessons.model_parallelism.planner.models import Model
from torchcourse.lessons.model_parallelism.planner.seconds import Seconds, step_seconds

RESERVE = 0.03
"""Share of a GPU's memory that a plan leaves free."""


@dataclass(frozen=True)
class Plan:
    """What a layout costs.

    Attributes:
        bytes: on the fullest GPU, by part.
        seconds: of a step, by part.
    """

    model: Model
    cluster: Cluster
    layout: Layout
    bytes: Bytes
    seconds: Seconds

    def __str__(self) -> str:
        layout = self.layout
        lines = [
            f"{self.model.name} on {self.cluster.gpus} × {self.cluster.gpu.name}: tensor {layout.tensor} × context "
            f"{layout.context} × pipeline {layout.pipeline} × data {layout.data}, ZeRO stage {layout.stage}",
            f"{layout.micro_batches} micro-batch{'es' * (layout.micro_batches > 1)} of {layout.micro_batch}, "
            f"interleaving {layout.interleaving}, recomputation {layout.recomputation}"
            + (f" of 1 layer in {layout.every}" if layout.every > 1 else ""),
            f"memory  {self.bytes.total / 2**30:7.1f} of {self.cluster.gpu.memory / 2**30:.0f} GiB"
            + ("" if self.fits else ": does not fit"),
            *(f"        {size / 2**30:7.1f} {part}" for part, size in vars(self.bytes).items() if size),
            f"a step  {self.seconds.total:7.2f} s, MFU {self.mfu:.1%}, HFU {self.hfu:.1%}",
            *(
                f"        {part_seconds:7.2f} {part}"
                for part, part_seconds in vars(self.seconds).items()
                if part_seconds
            ),
        ]
        return "\n".join(lines)

    @property
    def fits(self) -> bool:
        """Whether the bytes fit into a GPU's memory, with a reserve of 3%."""
        return self.bytes.total <= (1 - RESERVE) * self.cluster.gpu.memory

    @property
    def tokens_per_second(self) -> float:
        return self.layout.batch * self.model.sequence / self.seconds.total

    @property
    def model_flops(self) -> float:
        """FLOP/s per GPU that the model needs: without recomputation."""
        return self._a_second_and_gpu(self.model.model_flop)

    @property
    def hardware_flops(self) -> float:
        """FLOP/s per GPU that the hardware does: with recomputation."""
        return self._a_second_and_gpu(self.model.hardware_flop(self.layout.recomputation, self.layout.every))

    @property
    def mfu(self) -> float:
        """Model FLOP utilization (모델 FLOP 활용률): `model_flops` as a share of the peak."""
        return self.model_flops / self._peak

    @property
    def hfu(self) -> float:
        """Hardware FLOP utilization: `hardware_flops` as a share of the peak. Never less than `mfu`."""
        return self.hardware_flops / self._peak

    def _a_second_and_gpu(self, flop_per_sequence: float) -> float:
        return flop_per_sequence * self.layout.batch / self.seconds.total / self.cluster.gpus

    @property
    def _peak(self) -> float:
        return self.cluster.gpu.flops if self.layout.element == 2 else self.cluster.gpu.flops_float32


def plan(model: Model, cluster: Cluster, layout: Layout) -> Plan:
    """Return the bytes and the seconds of a layout, whether it fits into the memory or not.

    Raises:
        ValueError: in one sentence, if the layout does not fit the model or the cluster.
    """
    return Plan(model, cluster, layout, fullest_gpu(model, cluster, layout), step_seconds(model, cluster, layout))
