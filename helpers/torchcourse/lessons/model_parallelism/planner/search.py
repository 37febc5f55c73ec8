"""The fastest layout that fits into the memory: every one is tried."""

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import fields, replace
from typing import Any

from torchcourse.lessons.model_parallelism.planner.clusters import Cluster
from torchcourse.lessons.model_parallelism.planner.layout import (
    RECOMPUTATION,
    Layout,
    check_alone,
    check_kinds,
    check_layout,
    layers_per_stage,
)
from torchcourse.lessons.model_parallelism.planner.models import Model
from torchcourse.lessons.model_parallelism.planner.plans import RESERVE, Plan, plan
from torchcourse.units import format_bytes


def fastest(model: Model, cluster: Cluster, batch: int, **fixed: Any) -> Plan:
    """Return the plan with the shortest step among all layouts that fit into the memory.

    Of layouts that are equally fast, the one that needs the least memory.

    Args:
        batch: sequences per step.
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
        if fixed.get("every", 1) > model.layers:
            raise ValueError(f"every is {fixed['every']}, but {model.name} has {model.layers} layers.")
        raise ValueError(
            f"No layout spreads {model.name} and a batch of {batch} over {cluster.gpus} GPUs evenly: "
            "change the batch, the number of GPUs, or what is fixed."
        )
    if best is None:
        needed = format_bytes(smallest.bytes.total)
        or_free = f", or leave free what is fixed ({', '.join(fixed)})" if fixed else ""
        raise ValueError(
            f"{model.name} does not fit: even the smallest layout needs {needed} per GPU, more than {1 - RESERVE:.0%} "
            f"of the {format_bytes(cluster.gpu.memory, decimals=0)} of {cluster.gpu.name}. Take more GPUs{or_free}."
        )
    return best


LEVEL = 0.1
"""Step times that differ by less than this are level: the planner does not know well enough which is shorter. Of pairs
of published layouts that set nothing, 96% are in the planned order above it, 88% from half of it, and 67% below
(`accuracy.order_by_gap`)."""


def level(model: Model, cluster: Cluster, batch: int, **fixed: Any) -> list[Plan]:
    """Return all plans that fit and are level with the fastest, the fastest first. Arguments as of `fastest`."""
    limit = (1 + LEVEL) * fastest(model, cluster, batch, **fixed).seconds.total
    plans = (plan(model, cluster, layout) for layout in layouts(model, cluster, batch, **fixed))
    return sorted((each for each in plans if each.fits and each.seconds.total <= limit), key=_order)


def layouts(model: Model, cluster: Cluster, batch: int, **fixed: Any) -> Iterator[Layout]:
    """Yield every layout that fits the model and the cluster, whether or not it fits into the memory.

    Tensor groups stay inside a node; micro-batches and context groups are powers of two up to 16, and a context rank
    has at least 2,048 tokens.

    Args:
        batch: sequences per step.
        fixed: fields of `Layout` that stay as they are.

    Raises:
        ValueError: in one sentence, for what is fixed and never possible.
    """
    names = [field.name for field in fields(Layout)]
    if unknown := [name for name in fixed if name not in names]:
        raise ValueError(f"A layout has no {unknown[0]!r}. What can be fixed is {', '.join(names[1:])}.")
    start = Layout(batch=batch, **fixed)
    check_kinds(model, cluster, start)
    check_alone(start)

    def choices(name: str, values: Iterable) -> list:
        return [fixed[name]] if name in fixed else list(values)

    inside_a_node = [size for size in _divisors(cluster.gpus) if cluster.in_a_node(size)]
    for tensor, pipeline, context in itertools.product(
        choices("tensor", inside_a_node),
        choices("pipeline", _divisors(cluster.gpus)),
        choices("context", [c for c in _POWERS if model.sequence // c >= 2048 or c == 1]),
    ):
        data = cluster.gpus // (tensor * pipeline * context)
        spread = replace(start, tensor=tensor, pipeline=pipeline, context=context, data=data)
        if fixed.get("data", data) != data or not _possible(model, cluster, replace(spread, micro_batch=1, shard=0)):
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
