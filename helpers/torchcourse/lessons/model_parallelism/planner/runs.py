"""What is known of a published training run."""

from dataclasses import dataclass
from typing import Literal

from torchcourse.lessons.model_parallelism.planner.clusters import Cluster
from torchcourse.lessons.model_parallelism.planner.layout import Layout
from torchcourse.lessons.model_parallelism.planner.models import Model


@dataclass(frozen=True)
class Run:
    """A published run.

    Attributes:
        flops: FLOP/s a GPU, as published, or from the published seconds.
        counts: whether `flops` counts recomputation ("hardware") or not ("model").
        seconds: of a step, where the table gives them.
        unstated: fields of the layout that the source does not give. The planner takes the fastest that fit, as the
            authors tuned theirs.
        calibrates: whether the planner's constants are set on this row. It is judged on the others.
    """

    name: str
    source: str
    model: Model
    cluster: Cluster
    layout: Layout
    flops: float = 0.0
    counts: Literal["hardware", "model"] = "hardware"
    seconds: float | None = None
    unstated: tuple[str, ...] = ()
    calibrates: bool = False
