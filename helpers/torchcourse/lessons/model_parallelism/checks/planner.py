"""Checks of lesson 02, notebook 3: bytes of a GPU, utilisations, seconds of a step, a layout, a repair of a plan.

In the notebook's order: `gpu_bytes`, `utilisations`, `step_seconds`, `my_layout`, `repaired`.
"""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from torchcourse.checks import Wrong, check
from torchcourse.lessons.data_parallelism.memory import zero_memory
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
from torchcourse.lessons.model_parallelism.planner.memory import layer_activations

TASK = (GPT3, dgx_a100(64), 512)
"""Model, cluster and batch of `my_layout`."""
CLOSE = 1.05
"""How much slower than the best a chosen layout may be."""


@check
def gpu_bytes(learner: Callable) -> str:
    """Compare states and activations with the planner's formulas, for all ZeRO stages, with and without recomputing."""
    for case in _BYTES_CASES:
        given = _numbers(learner(*case), 4, "parameters, gradients, optimizer, activations")
        _judge_states(given[:3], case)
        _judge_activations(given[3], case)
    return (
        f"All four parts, checked on {len(_BYTES_CASES)} layouts of two models: ZeRO 0 to 3, long and short pipelines."
    )


@check
def utilisations(learner: Callable) -> str:
    """Compare with the FLOP of a token, for the model and for the hardware."""
    for case in _UTILISATION_CASES:
        _judge_utilisations(_numbers(learner(*case), 2, "MFU and HFU"), case)
    return "MFU and HFU, with and without computing again, for short and for long sequences."


@check
def step_seconds(learner: Callable) -> str:
    """Compare bubble and total, for plain and interleaved pipelines and for one rank."""
    for case in _STEP_CASES:
        _judge_step(_numbers(learner(*case), 2, "the bubble and the whole step"), case)
    return (
        f"Bubble and step, checked on {len(_STEP_CASES)} layouts: with and without pieces, and a pipeline of one rank."
    )


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
            f"It fits, and takes {chosen.seconds.total:.1f} s a step; there are layouts that take "
            f"{best.seconds.total:.1f} s. {_largest_loss(chosen)}",
        )
    return (
        f"It fits with {_gib(chosen)} and takes {chosen.seconds.total:.1f} s a step. "
        f"The fastest of all layouts takes {best.seconds.total:.1f} s."
    )


@check
def repaired(learner: Callable) -> str:
    """Give the learner's repair several sick plans, of which one does not fit without computing again."""
    for model, cluster, layout in SICK:
        cured = _planned(model, cluster, learner(model, cluster, layout), layout.batch)
        where = (
            f"{layout.tensor} tensor × {layout.pipeline} pipeline on {cluster.gpu.name}, "
            f"{cluster.gpus_per_node} a node: "
        )
        _judge_repair(plan(model, cluster, layout), cured, where)
    return f"{len(SICK)} sick plans, on nodes of 4 and of 8 GPUs, of 40 and of 80 GiB: all fit now, and none crawls."


# What several checks share


def _numbers(given: Any, count: int, names: str) -> list[float]:
    try:
        numbers = [float(number) for number in given]
    except (TypeError, ValueError):
        numbers = []
    if len(numbers) != count or not all(map(math.isfinite, numbers)):
        raise Wrong("no_numbers", f"Return {count} numbers: {names}. You returned {given!r}.")
    return numbers


def _like(a: float, b: float) -> bool:
    return math.isclose(a, b, rel_tol=1e-6, abs_tol=1e-12)


def _gib(planned: Plan) -> str:
    return f"{planned.bytes.total / 2**30:.1f} GiB"


def _planned(model: Model, cluster: Cluster, layout: Any, batch: int) -> Plan:
    if not isinstance(layout, Layout):
        raise Wrong("no_layout", f"A Layout was asked for. This is {layout!r}.")
    if layout.batch != batch:
        raise Wrong(
            "other_batch",
            f"The batch is {batch} sequences a step; your layout has {layout.batch}. That would be another training.",
        )
    if layout.recipe != Layout(batch).recipe:
        raise Wrong(
            "other_recipe", f"The recipe stays {Layout(batch).recipe!r}: another optimizer is another training."
        )
    try:
        return plan(model, cluster, layout)
    except ValueError as error:
        raise Wrong("not_possible", f"The planner refuses it: {error}") from None


def _must_fit(chosen: Plan, where: str = "") -> None:
    if not chosen.fits:
        parts = vars(chosen.bytes)
        part = max(parts, key=parts.get)
        raise Wrong(
            "does_not_fit",
            f"{where}it does not fit: {_gib(chosen)}, and a GPU has {chosen.cluster.gpu.memory / 2**30:.0f} GiB. The "
            f"largest part: {part}, {parts[part] / 2**30:.1f} GiB. What divides that part?",
        )


_LOSSES = {
    "recomputation": "What could do without computing layers again?",
    "tensor": "What sets how often and how far tensor ranks send?",
    "context": "Are sequences of this length worth a cut?",
    "bubble": "What shrinks a bubble?",
    "transfer": "How often do activations go from stage to stage?",
    "data": "How many gradients does a rank average, and how often?",
    "update": "Who updates how many parameters?",
}


def _largest_loss(chosen: Plan) -> str:
    losses = {name: value for name, value in vars(chosen.seconds).items() if name in _LOSSES}
    name = max(losses, key=losses.get)
    return f"The largest part that is not compute: {name}, {losses[name]:.1f} s. {_LOSSES[name]}"


# The bytes of a GPU

_SMALL = Model("small", layers=24, width=1024, heads=16, sequence=512)
_BYTES_CASES = [
    # model, tensor, pipeline, data, ZeRO stage, micro-batches, computed again
    (_SMALL, 1, 1, 1, 0, 1, False),
    (_SMALL, 2, 3, 4, 1, 2, False),
    (GPT3, 8, 6, 16, 0, 96, False),
    (GPT3, 8, 6, 16, 2, 96, False),
    (GPT3, 4, 6, 5, 3, 20, True),
    (GPT3, 2, 12, 3, 1, 5, True),
]


def _case_name(case: tuple) -> str:
    model, tensor, pipeline, data, stage, micro_batches, again = case
    return (
        f"{model.name}, tensor {tensor} × pipeline {pipeline} × data {data}, ZeRO {stage}, "
        f"{micro_batches} micro-batches, layers {'' if again else 'not '}computed again: "
    )


_STATE_HINTS = {
    "nothing_divided": "each GPU has all layers, whole. Who has which part of the model?",
    "tensor_ignored": "the tensor ranks share out each layer; your GPU has it whole.",
    "pipeline_ignored": "your GPU has every layer. How many layers has one stage?",
    "data_divides_all": "data-parallel ranks divide everything in your count. What do they share out at this stage?",
    "shared_over_all": "ZeRO shares out among the ranks that hold the *same* part of the model. How many are these?",
    "divided_by_zero_only": "you let ZeRO divide by all GPUs, and the layout by none.",
}


def _judge_states(given: list[float], case: tuple) -> None:
    model, tensor, pipeline, data, stage, *_ = case
    whole = model.layers * model.layer_parameters
    own = whole / (tensor * pipeline)
    right, where = _states(own, data, stage), _case_name(case)
    if all(map(_like, given, right)):
        return
    if (tensor, pipeline, data) == (1, 1, 1):
        each = ", ".join(f"{number / own:.3g}" for number in given)
        raise Wrong(
            "bytes_a_parameter",
            f"{where}you count {each} bytes a parameter. Mixed precision with Adam keeps 2 for the weight, 2 for its "
            "gradient, and three numbers in float32 in the optimizer.",
        )
    ways = {
        "nothing_divided": _states(whole, data, stage),
        "tensor_ignored": _states(whole / pipeline, data, stage),
        "pipeline_ignored": _states(whole / tensor, data, stage),
        "data_divides_all": _states(own / data, 1, 0),
        "shared_over_all": _states(own, data * tensor * pipeline, stage),
        "divided_by_zero_only": _states(whole, data * tensor * pipeline, stage),
    }
    for symptom, numbers in ways.items():
        if all(map(_like, given, numbers)):
            raise Wrong(symptom, where + _STATE_HINTS[symptom])
    for number, correct, name, first in zip(
        given, right, ("parameters", "gradients", "optimizer"), (3, 2, 1), strict=True
    ):
        if _like(number, correct):
            continue
        if stage >= first and _like(number, data * correct):
            raise Wrong(
                "not_shared", f"{where}the {name} are whole on each data-parallel rank; this stage shares them out."
            )
        if stage < first and _like(number, correct / data):
            raise Wrong("shared_too_early", f"{where}the {name} are shared out, but only from stage {first} on.")
        raise Wrong(
            "wrong_states",
            f"{where}your {name} are {number / correct:.3g} times what they should be. Count the parameters of one GPU "
            "first: all layers, divided by the ranks that share them.",
        )


def _states(parameters: float, data: int, stage: int) -> tuple[float, float, float]:
    each = zero_memory(parameters, data, stage)
    return each.parameters, each.gradients, each.optimizer


_ACTIVATION_HINTS = {
    "all_micro_batches": "you keep every micro-batch, as GPipe does. How many does the first rank of 1F1B keep?",
    "one_micro_batch": "you keep one micro-batch. How many has the first rank of 1F1B under way at its worst moment?",
    "more_than_there_are": "you keep as many micro-batches as there are stages, but there are fewer.",
    "all_layers": "you count all layers of the model. How many has one stage?",
    "tensor_ignored_in_activations": "the tensor ranks share out the activations, too.",
    "one_layer": "you count one layer. How many has a stage?",
    "working_forgotten": "you count the inputs only. While a layer is computed again, its inside is there, too.",
    "nothing_saved": "that is without computing again. What does a layer keep now?",
    "input_counted_twice": "one layer's input is counted twice: it is among the inputs already.",
}


def _judge_activations(given: float, case: tuple) -> None:
    model, tensor, pipeline, _, _, micro_batches, again = case
    right = _activations(case)
    if _like(given, right):
        return
    layers, where = model.layers / pipeline, _case_name(case)
    in_flight = min(pipeline, micro_batches)
    whole = layer_activations(model, Layout(1, tensor=tensor))
    kept = layer_activations(model, Layout(1, tensor=tensor, recomputation="full")) if again else whole
    working = whole - kept
    ways = {
        "all_micro_batches": kept * layers * micro_batches + working,
        "one_micro_batch": kept * layers + working,
        "more_than_there_are": kept * layers * pipeline + working,
        "all_layers": kept * model.layers * in_flight + working,
        "tensor_ignored_in_activations": tensor * right,
        "one_layer": kept * in_flight + working,
        "working_forgotten": kept * layers * in_flight,
        "nothing_saved": whole * layers * in_flight,
        "input_counted_twice": kept * layers * in_flight + whole,
    }
    for symptom, number in ways.items():
        if _like(given, number):
            raise Wrong(symptom, where + _ACTIVATION_HINTS[symptom])
    raise Wrong(
        "wrong_activations",
        f"{where}your activations are {given / right:.3g} times what they should be. Bytes of a layer, times layers of "
        "the stage, times micro-batches under way.",
    )


def _activations(case: tuple) -> float:
    model, tensor, pipeline, _, _, micro_batches, again = case
    whole = layer_activations(model, Layout(1, tensor=tensor))
    kept = layer_activations(model, Layout(1, tensor=tensor, recomputation="full")) if again else whole
    return kept * model.layers / pipeline * min(pipeline, micro_batches) + (whole - kept)


# Utilisations

_UTILISATION_CASES = [
    # parameters, layers, width, sequence, tokens a second and GPU, peak, computed again
    (7e9, 32, 4096, 2048, 3000.0, 312e12, False),
    (7e9, 32, 4096, 2048, 3000.0, 312e12, True),
    (1.3e9, 24, 2048, 65_536, 2500.0, 312e12, True),
    (405e9, 126, 16_384, 8192, 160.0, 989e12, False),
]


_UTILISATION_HINTS = {
    "forward_only": "that is the forward pass alone. What does the backward pass cost?",
    "backward_once": "the backward pass makes two gradients, those of the inputs and those of the weights.",
    "no_attention": "the weights are right; the attention scores are left out.",
    "attention_once": "the scores go through the backward pass, too.",
    "one_layers_scores": "each *layer* has scores.",
    "recomputation_counts": "the MFU counts what the *model* needs. Does it need a layer twice?",
}


def _judge_utilisations(given: list[float], case: tuple) -> None:
    parameters, layers, width, sequence, tokens, peak, again = case
    rate, scores = tokens / peak, 4 * layers * width * sequence
    forward = rate * (2 * parameters + scores)
    model = 3 * forward
    hardware = 4 * forward if again else model
    mfu, hfu = given
    if _like(mfu, model) and _like(hfu, hardware):
        return
    where = (
        f"{parameters / 1e9:g} billion parameters, {sequence:,} tokens a sequence, layers "
        f"{'' if again else 'not '}computed again: "
    )
    if mfu > 1.5 or hfu > 1.5:
        if _like(mfu, 100 * model):
            raise Wrong("percent", f"{where}a share between 0 and 1 was asked for, not per cent.")
        raise Wrong(
            "not_a_share", f"{where}you return {mfu:.3g} and {hfu:.3g}, and a share is below 1. Is everything a second?"
        )
    ways = {
        "forward_only": forward,
        "backward_once": 2 * forward,
        "no_attention": rate * 6 * parameters,
        "attention_once": rate * (6 * parameters + scores),
        "one_layers_scores": rate * (6 * parameters + 3 * scores / layers),
        "recomputation_counts": 4 * forward,
    }
    if again and _like(mfu, hardware) and _like(hfu, model):
        raise Wrong("swapped", f"{where}the two are swapped: which of them can be the larger one?")
    for symptom, number in ways.items():
        if _like(mfu, number) and not _like(number, model):
            raise Wrong(symptom, where + _UTILISATION_HINTS[symptom])
    if not _like(mfu, model):
        raise Wrong(
            "wrong_mfu",
            f"{where}your MFU is {mfu / model:.3g} times what it should be. Begin with the FLOP of a token.",
        )
    if again and _like(hfu, model):
        raise Wrong(
            "hfu_is_mfu",
            f"{where}the HFU is the MFU. What does the hardware do here that the model needs no second time?",
        )
    if again and _like(hfu, rate * (8 * parameters + 3 * scores)):
        raise Wrong("scores_not_again", f"{where}whole layers are computed again: their scores, too.")
    if not again:
        raise Wrong(
            "recomputation_always", f"{where}nothing is computed twice here, but your HFU differs from your MFU."
        )
    raise Wrong("wrong_hfu", f"{where}your HFU is {hfu / hardware:.3g} times what it should be. One more forward pass.")


# The seconds of a step

_STEP_CASES = [
    # compute, tensor, pipeline ranks, micro-batches, pieces, data
    (0.8, 0.12, 4, 16, 1, 0.09),
    (0.8, 0.12, 1, 16, 1, 0.09),
    (2.0, 0.5, 8, 32, 3, 0.0),
    (1.0, 0.0, 16, 8, 2, 0.2),
]


_STEP_HINTS = {
    "share_of_all": "your share is of work *and* waiting together. Compared with the work alone it is larger.",
    "no_bubble": "you have no bubble. For how many micro-batches does a rank wait?",
    "compute_only": "the rank before is late by its messages, too.",
    "one_rank_too_many": "a rank waits for the *others*. How many are these?",
    "pieces_ignored": "a pipeline of small pieces fills and drains faster.",
    "whole_step_a_rank": "a rank waits for p − 1 *micro-batches*, not for whole steps.",
    "data_in_the_bubble": "the gradients are averaged once, at the end. Nobody waits for that in the bubble.",
}


def _judge_step(given: list[float], case: tuple) -> None:
    compute, tensor, ranks, micro_batches, pieces, data = case
    work = compute + tensor
    bubble = (ranks - 1) / (pieces * micro_batches) * work
    if _like(given[0], bubble) and _like(given[1], work + bubble + data):
        return
    where = (
        f"{compute} s compute, {tensor} s tensor, {ranks} ranks, {micro_batches} micro-batches, {pieces} pieces, "
        f"{data} s data: "
    )
    one = work / micro_batches  # seconds of a micro-batch on a rank
    ways = {
        "share_of_all": (ranks - 1) / (pieces * micro_batches + ranks - 1) * work,
        "no_bubble": 0.0,
        "compute_only": (ranks - 1) / pieces * compute / micro_batches,
        "one_rank_too_many": ranks / pieces * one,
        "pieces_ignored": (ranks - 1) * one,
        "whole_step_a_rank": (ranks - 1) / pieces * work,
        "data_in_the_bubble": (ranks - 1) / pieces * (work + data) / micro_batches,
    }
    for symptom, number in ways.items():
        if _like(given[0], number) and not _like(number, bubble):
            raise Wrong(symptom, where + _STEP_HINTS[symptom])
    if not _like(given[0], bubble):
        raise Wrong(
            "wrong_bubble",
            f"{where}you have a bubble of {given[0]:.4g} s. How long is one micro-batch on a rank, and how many are "
            "waited for?",
        )
    if _like(given[1], work + bubble):
        raise Wrong("data_forgotten", f"{where}the bubble is right; the average of the gradients is not in the step.")
    raise Wrong(
        "wrong_total", f"{where}the bubble is right; your step of {given[1]:.4g} s is not the sum of its parts."
    )


# The repair

_SMALLER = replace(A100, name="A100 40 GB", memory=40 * 2**30)
SICK = [
    (GPT3, dgx_a100(128), Layout(256, 8, tensor=16, pipeline=8, recomputation="full")),
    (GPT3, Cluster(A100, 128, gpus_per_node=4), Layout(256, 4, tensor=8, pipeline=16, recomputation="full")),
    (GPT3, Cluster(_SMALLER, 128, gpus_per_node=4), Layout(256, 4, tensor=8, pipeline=16, recomputation="full")),
]
"""Model, cluster and layout: tensor groups over nodes, few large micro-batches, and recomputation, which only the last
one needs."""


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
            f"{where}it fits with {_gib(cured)}, and would also fit without computing layers again, which takes "
            f"{cured.seconds.recomputation:.1f} of {cured.seconds.total:.1f} s. Ask the planner.",
        )
    if cured.seconds.total > 0.85 * sick.seconds.total:
        before, after = sick.seconds.total, cured.seconds.total
        raise Wrong("slow", f"{where}{before:.1f} s before the repair, {after:.1f} s after. {_largest_loss(cured)}")
