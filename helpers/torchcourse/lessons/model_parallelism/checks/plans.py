"""Checks of lesson 02 on plans: a layout of one's own, and a function that repairs sick ones."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from torchcourse.checks import Wrong, check
from torchcourse.lessons.model_parallelism.planner import (
    A100,
    GPT3,
    Cluster,
    Layout,
    Model,
    Plan,
    dgx_a100,
    fastest,
    plan,
)
from torchcourse.lessons.model_parallelism.planner.search import LEVEL
from torchcourse.units import format_bytes

TASK = (GPT3, dgx_a100(64), 512)
"""Model, cluster and batch of `my_layout`."""
CLOSE = 1 + LEVEL
"""How much slower than the best a chosen layout may be: as much as the planner cannot tell apart."""
ENOUGH = 0.85
"""The part of the sick plan's time that a repaired one may take, as its exercise says."""


@check
def my_layout(layout: Layout) -> str:
    """Compare a layout's step with the fastest of all layouts that fit."""
    model, cluster, batch = TASK
    chosen = _planned(model, cluster, layout, batch)
    _must_fit(chosen)
    best = fastest(model, cluster, batch)
    if chosen.seconds.total > CLOSE * best.seconds.total:
        raise Wrong(
            "slow",
            f"It fits, and takes {chosen.seconds.total:.1f} s per step; there are layouts that take "
            f"{best.seconds.total:.1f} s. {_largest_loss(chosen, best)}",
        )
    return (
        f"It fits with {_total(chosen)} and takes {chosen.seconds.total:.1f} s per step. "
        f"The fastest of all layouts takes {best.seconds.total:.1f} s."
    )


@check
def repaired(learner: Callable) -> str:
    """Give the learner's repair several sick plans, of which one does not fit without computing again."""
    for model, cluster, layout in SICK:
        where = (
            f"{model.name}, {layout.tensor} tensor × {layout.pipeline} pipeline on {cluster.gpu.name}, "
            f"{cluster.gpus_per_node} per node: "
        )
        cured = _planned(model, cluster, learner(model, cluster, layout), layout.batch, where)
        _judge_repair(plan(model, cluster, layout), cured, where)
    return f"{len(SICK)} sick plans, on nodes of 4 and of 8 GPUs, of 40 and of 80 GiB: all fit now, and none crawls."


# What both share


def _total(planned: Plan) -> str:
    return format_bytes(planned.bytes.total)


def _planned(model: Model, cluster: Cluster, layout: Any, batch: int, where: str = "") -> Plan:
    if not isinstance(layout, Layout):
        shown = repr(layout) if len(repr(layout)) < 100 else f"of type {type(layout).__name__}"
        within = " Its `.layout` is one." if isinstance(layout, Plan) else ""
        raise Wrong("wrong_type", f"A Layout was asked for. This is {shown}.{within}")
    for name in ("batch", "micro_batch", "tensor", "pipeline", "data", "context", "stage", "interleaving"):
        if not isinstance(value := getattr(layout, name), int):
            raise Wrong("no_number", f"In your layout `{name}` is {value!r}. A whole number, an int, was asked for.")
    if layout.batch != batch:
        raise Wrong(
            "other_batch",
            f"The batch is {batch} sequences per step; your layout has {layout.batch}. That would be "
            "a different training run.",
        )
    if layout.recipe != Layout(batch).recipe:
        raise Wrong(
            "other_recipe",
            f"The recipe stays {Layout(batch).recipe!r}: a different optimizer is a different training run.",
        )
    try:
        return plan(model, cluster, layout)
    except ValueError as error:
        raise Wrong("not_possible", f"{where}The planner refuses it: {error}") from None


def _must_fit(chosen: Plan, where: str = "") -> None:
    if not chosen.fits:
        parts = vars(chosen.bytes)
        part = max(parts, key=lambda name: parts[name])
        room = format_bytes(chosen.cluster.gpu.memory, decimals=0)
        raise Wrong(
            "does_not_fit",
            f"{where or 'Your layout: '}it does not fit: {_total(chosen)}, and a GPU has {room}. The largest part: "
            f"{part}, {format_bytes(parts[part])}. What divides that part?",
        )


_LOSSES = {
    "compute": "How large are the matrix products of a micro-batch?",
    "recomputation": "What could do without computing layers again?",
    "tensor": "What sets how often and how far tensor ranks send?",
    "context": "Are sequences of this length worth a cut?",
    "bubble": "What shrinks a bubble?",
    "transfer": "How often do activations go from stage to stage?",
    "data": "How many gradients does a rank average, and how often?",
    "update": "Who updates how many parameters?",
}


def _largest_loss(chosen: Plan, best: Plan) -> str:
    """The part of the step that is longest beside the same part of the fastest plan's."""
    ours, theirs = vars(chosen.seconds), vars(best.seconds)
    name = max(_LOSSES, key=lambda name: ours[name] - theirs[name])
    return f"It loses most in {name}: {ours[name]:.1f} s, and the fastest has {theirs[name]:.1f} s. {_LOSSES[name]}"


# The repair

_WIDER = Model("GPT 238B", layers=96, width=14_336, heads=112)
_SMALLER = replace(A100, name="A100 40 GB", memory=40 * 2**30)
SICK = [
    (GPT3, dgx_a100(128), Layout(256, 8, tensor=16, pipeline=8, recomputation="full")),
    (_WIDER, Cluster(A100, 128, gpus_per_node=4), Layout(512, 4, tensor=8, pipeline=16, recomputation="full")),
    (GPT3, Cluster(_SMALLER, 128, gpus_per_node=4), Layout(256, 4, tensor=8, pipeline=16, recomputation="full")),
]
"""Model, cluster and layout: tensor groups over nodes, few large micro-batches, and recomputation, which only the last
one needs. The batches and the models differ, so that neither is a constant: what is best for GPT-3 does not fit for the
second."""


def _judge_repair(sick: Plan, cured: Plan, where: str) -> None:
    _must_fit(cured, where)
    layout, cluster = cured.layout, cured.cluster
    if layout.tensor > cluster.gpus_per_node:
        raise Wrong(
            "still_across",
            f"{where}tensor groups of {layout.tensor} still reach over nodes, and spend {cured.seconds.tensor:.1f} of "
            f"{cured.seconds.total:.1f} s sending. What do you know about the cluster?",
        )
    if cured.seconds.bubble > 0.12 * cured.seconds.total:
        raise Wrong(
            "bubble",
            f"{where}the bubble takes {cured.seconds.bubble / cured.seconds.total:.0%} of the step, with "
            f"{layout.micro_batches} micro-batches on {layout.pipeline} ranks.",
        )
    if layout.recomputation != "none" and plan(cured.model, cluster, replace(layout, recomputation="none")).fits:
        raise Wrong(
            "computed_again_for_nothing",
            f"{where}it fits with {_total(cured)}, and would also fit without computing layers again, which takes "
            f"{cured.seconds.recomputation:.1f} of {cured.seconds.total:.1f} s. Ask the planner.",
        )
    if cured.seconds.total > ENOUGH * sick.seconds.total:
        before, after = sick.seconds.total, cured.seconds.total
        raise Wrong(
            "slow",
            f"{where}{before:.1f} s before the repair, {after:.1f} s after; at most {ENOUGH:.0%} of it was asked for. "
            f"{_largest_loss(cured, fastest(cured.model, cluster, layout.batch))}",
        )
