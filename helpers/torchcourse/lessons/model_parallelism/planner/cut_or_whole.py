"""The fastest layout of all, beside the fastest that cuts no model: a table, one line per model and cluster."""

from torchcourse.lessons.model_parallelism.planner.clusters import Cluster
from torchcourse.lessons.model_parallelism.planner.models import Model
from torchcourse.lessons.model_parallelism.planner.search import fastest, level

HEAD = f"{'model':13}{'GPUs':>7}{'batch':>7}    {'the fastest layout':25}{'level':>5}  data parallelism alone"


def compared(model: Model, cluster: Cluster, batch: int) -> str:
    """Return the line of a model: the fastest layout (tensor × pipeline × data, ZeRO), how many are level with it,
    and how data parallelism alone compares.
    """
    alike = level(model, cluster, batch, context=1)
    best = alike[0]
    layout = best.layout
    spread = f"{layout.tensor} × {layout.pipeline:2} × {layout.data:4}, ZeRO {layout.stage}"
    line = f"{model.name:13}{cluster.gpus:7}{batch:7}    {spread:25}{len(alike):5}  "
    if batch < cluster.gpus:
        return line + "impossible: fewer sequences than GPUs"
    try:
        alone = fastest(model, cluster, batch, tensor=1, pipeline=1, context=1)
    except ValueError:
        return line + "does not fit"
    longer, waits = alone.seconds.total / best.seconds.total, alone.seconds.data / alone.seconds.total
    return f"{line}{longer:.2f} times as long, waits {waits:3.0%}, recomputation {alone.layout.recomputation}"
