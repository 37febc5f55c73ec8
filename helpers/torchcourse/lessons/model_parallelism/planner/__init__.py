"""A planner: will this model train on this cluster in this layout, how fast, and which layout is the fastest?

    cluster = dgx_a100(1024)
    print(plan(GPT3, cluster, Layout(batch=1536, tensor=8, pipeline=8, data=16, recomputation="full")))
    best = fastest(GPT3, cluster, batch=1536)
    best.layout, best.fits, best.bytes.total, best.seconds.total, best.mfu

It is arithmetic, no simulation. `models`, `clusters` and `layout` describe, `memory` has the bytes and `seconds` the
time, `search` tries all layouts. `published` has the tables of papers, and `accuracy` says how far the planner is from
them.
"""

from torchcourse.lessons.model_parallelism.planner.clusters import (
    A100,
    GPU,
    H100,
    Cluster,
    Efficiency,
    dgx_a100,
    grand_teton,
)
from torchcourse.lessons.model_parallelism.planner.layout import Layout
from torchcourse.lessons.model_parallelism.planner.memory import Bytes
from torchcourse.lessons.model_parallelism.planner.models import GPT3, LLAMA3_8B, LLAMA3_70B, LLAMA3_405B, Model
from torchcourse.lessons.model_parallelism.planner.plans import Plan, plan
from torchcourse.lessons.model_parallelism.planner.search import fastest, layouts, level
from torchcourse.lessons.model_parallelism.planner.seconds import Seconds

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
    "level",
    "plan",
]
