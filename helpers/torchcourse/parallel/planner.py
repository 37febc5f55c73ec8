"""A planner: will this model train on this cluster in this layout, how fast, and which layout is the fastest?

    cluster = dgx_a100(1024)
    print(plan(GPT3, cluster, Layout(batch=1536, tensor=8, pipeline=8, data=16, recomputation="full")))
    best = fastest(GPT3, cluster, batch=1536)
    best.layout, best.fits, best.bytes.total, best.seconds.total, best.mfu

It is arithmetic, no simulation: `planner_memory` has the bytes, `planner_time` the seconds, and `planner_accuracy`
compares both with published runs.
"""

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from torchcourse.parallel.planner_cluster import A100, GPU, H100, Cluster, Efficiency, dgx_a100, grand_teton
from torchcourse.parallel.planner_layout import RECOMPUTATION, Layout, check_layout, layers_per_stage
from torchcourse.parallel.planner_memory import Bytes, memory
from torchcourse.parallel.planner_model import Model
from torchcourse.parallel.planner_time import Seconds, step_seconds

__all__ = [
    "A100",
    "GPT3",
    "GPU",
    "H100",
    "LLAMA3_8B",
    "LLAMA3_70B",
    "LLAMA3_405B",
    "Bytes",
    "Cluster",
    "Efficiency",
    "Layout",
    "Model",
    "Plan",
    "Seconds",
    "dgx_a100",
    "fastest",
    "grand_teton",
    "layouts",
    "plan",
]

GPT3 = Model("GPT-3 175B", layers=96, width=12288, heads=96)
"""As Narayanan et al. 2021 ran it: vocabulary 51,200, sequences of 2,048 tokens, https://arxiv.org/abs/2104.04473"""

_LLAMA3 = {
    "vocabulary": 128_256,
    "sequence": 8192,
    "key_value_heads": 8,
    "gated": True,
    "dropout": False,
    "tied": False,
}
LLAMA3_8B = Model("Llama 3 8B", layers=32, width=4096, heads=32, feed_forward=14_336, **_LLAMA3)
LLAMA3_70B = Model("Llama 3 70B", layers=80, width=8192, heads=64, feed_forward=28_672, **_LLAMA3)
LLAMA3_405B = Model("Llama 3 405B", layers=126, width=16_384, heads=128, feed_forward=53_248, **_LLAMA3)
"""Llama team 2024, table 3 and section 3.2, https://arxiv.org/abs/2407.21783"""


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
            f"{layout.micro_batches} micro-batches of {layout.micro_batch}, interleaving {layout.interleaving}, "
            f"recomputation {layout.recomputation}",
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
        """Whether the bytes fit into a GPU's memory."""
        return self.bytes.total <= self.cluster.gpu.memory

    @property
    def tokens_per_second(self) -> float:
        return self.layout.batch * self.model.sequence / self.seconds.total

    @property
    def model_flops(self) -> float:
        """FLOP/s a GPU that the model needs: without recomputation."""
        return self._a_second_and_gpu(self.model.model_flop)

    @property
    def hardware_flops(self) -> float:
        """FLOP/s a GPU that the hardware does: with recomputation."""
        return self._a_second_and_gpu(self.model.hardware_flop(self.layout.recomputation))

    @property
    def mfu(self) -> float:
        """Model FLOP utilisation (모델 FLOP 활용률): `model_flops` as a share of the peak."""
        return self.model_flops / self._peak

    @property
    def hfu(self) -> float:
        """Hardware FLOP utilisation: `hardware_flops` as a share of the peak. Never less than `mfu`."""
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
    return Plan(model, cluster, layout, memory(model, cluster, layout), step_seconds(model, cluster, layout))


def fastest(model: Model, cluster: Cluster, batch: int, **fixed: object) -> Plan:
    """Return the plan with the shortest step among all layouts that fit into the memory.

    Of layouts that are equally fast, the one that needs the least memory.

    Args:
        batch: sequences a step.
        fixed: fields of `Layout` that the search must leave as they are, such as `tensor=8`.

    Raises:
        ValueError: if nothing fits: the message names the layout that comes closest.
    """
    smallest: Plan | None = None
    best: Plan | None = None
    for layout in layouts(model, cluster, batch, **fixed):
        candidate = plan(model, cluster, layout)
        if smallest is None or candidate.bytes.total < smallest.bytes.total:
            smallest = candidate
        if candidate.fits and (best is None or _order(candidate) < _order(best)):
            best = candidate
    if smallest is None:
        raise ValueError(
            f"No layout spreads {model.name} and a batch of {batch} over {cluster.gpus} GPUs evenly: "
            "change the batch, the number of GPUs, or what is fixed."
        )
    if best is None:
        raise ValueError(
            f"{model.name} does not fit: even the smallest layout needs {smallest.bytes.total / 2**30:.1f} GiB a GPU, "
            f"and a {cluster.gpu.name} has {cluster.gpu.memory / 2**30:.0f} GiB. Take more GPUs."
        )
    return best


def layouts(model: Model, cluster: Cluster, batch: int, **fixed: object) -> Iterator[Layout]:
    """Yield every layout that fits the model and the cluster, whether or not it fits into the memory.

    Tensor groups stay inside a node; micro-batches and context groups are powers of two up to 16, and a context rank
    has at least 2,048 tokens.

    Args:
        batch: sequences a step.
        fixed: fields of `Layout` that stay as they are.
    """
    start = Layout(batch=batch, **fixed)

    def choices(name: str, values: Iterable) -> list:
        return [fixed[name]] if name in fixed else list(values)

    inside_a_node = [size for size in _divisors(cluster.gpus) if size <= cluster.gpus_per_node]
    for tensor, pipeline, context in itertools.product(
        choices("tensor", inside_a_node),
        choices("pipeline", _divisors(cluster.gpus)),
        choices("context", [c for c in _POWERS if model.sequence // c >= 2048 or c == 1]),
    ):
        data = cluster.gpus // (tensor * pipeline * context)
        spread = replace(start, tensor=tensor, pipeline=pipeline, context=context, data=data)
        if fixed.get("data", data) != data or not _possible(model, cluster, replace(spread, micro_batch=1)):
            continue
        layers, _ = layers_per_stage(model, spread)
        for micro_batch, interleaving, stage, recomputation in itertools.product(
            choices("micro_batch", _POWERS),
            choices("interleaving", _divisors(layers) if pipeline > 1 else [1]),
            choices("stage", range(4) if data * context > 1 else [0]),
            choices("recomputation", RECOMPUTATION),
        ):
            layout = replace(
                spread, micro_batch=micro_batch, interleaving=interleaving, stage=stage, recomputation=recomputation
            )
            if _possible(model, cluster, layout):
                yield layout


_POWERS = (1, 2, 4, 8, 16)


def _possible(model: Model, cluster: Cluster, layout: Layout) -> bool:
    try:
        check_layout(model, cluster, layout)
    except ValueError:
        return False
    return True


def _order(plan: Plan) -> tuple[float, float]:
    return plan.seconds.total, plan.bytes.total


def _divisors(number: int) -> list[int]:
    return [size for size in range(1, number + 1) if number % size == 0]
