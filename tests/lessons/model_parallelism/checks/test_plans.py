"""Layouts and repairs found in different ways are accepted; each bad one has its symptom."""

from dataclasses import replace

import pytest

from torchcourse.lessons.model_parallelism.checks import plans as check
from torchcourse.lessons.model_parallelism.planner import GPT3, Layout, fastest, plan
from torchcourse.tools.repository import ROOT
from verdicts import accepted, refused, todo

# my_layout


@pytest.mark.slow
@pytest.mark.parametrize(
    "layout",
    [
        Layout(512, 2, tensor=8, pipeline=8),
        Layout(512, tensor=4, pipeline=16),
    ],
)
def test_my_layout_accepts(layout):
    accepted(check.my_layout(layout))


@pytest.mark.slow
def test_my_layout_accepts_what_the_search_finds():
    accepted(check.my_layout(fastest(*check.TASK).layout))


@pytest.mark.parametrize(
    ("layout", "symptom"),
    [
        (Layout(512, data=64, stage=3), "does_not_fit"),
        (Layout(512, tensor=8, pipeline=8), "slow"),
        (Layout(512, data=64, stage=3, recomputation="full"), "slow"),
        (Layout(512, tensor=8, pipeline=8, recomputation="full"), "slow"),
        (Layout(512, tensor=8, pipeline=8, micro_batch=16, recomputation="full"), "slow"),
        (Layout(512, tensor=8, pipeline=4), "not_possible"),
        (Layout(64, tensor=8, pipeline=8), "other_batch"),
        (Layout(512, tensor=8, pipeline=8, recipe="float32, SGD"), "other_recipe"),
        ({"tensor": 8, "pipeline": 8}, "wrong_type"),
        (Layout(512, tensor="8", pipeline=8), "no_number"),
        (Layout(512, tensor=8.0, pipeline=8), "no_number"),
    ],
)
def test_my_layout_refuses(layout, symptom):
    refused(check.my_layout(layout), symptom)


@pytest.mark.slow
def test_a_slow_layout_is_told_the_part_that_it_loses_in():
    for layout, part in (
        (Layout(512, tensor=8, pipeline=8), "compute"),  # micro-batches of one sequence
        (Layout(512, tensor=16, pipeline=4), "tensor"),
        (Layout(512, data=64, stage=3, recomputation="full"), "recomputation"),
    ):
        verdict = check.my_layout(layout)
        refused(verdict, "slow")
        assert f"It loses most in {part}: " in verdict.message


# repaired


def inside_nodes(model, cluster, layout):
    tensor = min(layout.tensor, cluster.gpus_per_node)
    pipeline = layout.pipeline * layout.tensor // tensor
    return replace(layout, tensor=tensor, pipeline=pipeline, micro_batch=1)


def as_in_the_notebook(model, cluster, layout):
    repaired = inside_nodes(model, cluster, layout)
    lighter = replace(repaired, recomputation="none")
    return lighter if plan(model, cluster, lighter).fits else repaired


def by_the_search(model, cluster, layout):
    return fastest(model, cluster, layout.batch).layout


def by_trying_some(model, cluster, layout):
    plans = [
        plan(model, cluster, replace(layout, tensor=t, pipeline=layout.gpus // t, micro_batch=1, recomputation=again))
        for t in (4, 8)
        for again in ("none", "full")
        if t <= cluster.gpus_per_node
    ]
    return min((each for each in plans if each.fits), key=lambda each: each.seconds.total).layout


@pytest.mark.slow
@pytest.mark.parametrize("answer", [as_in_the_notebook, by_the_search, by_trying_some])
def test_repaired_accepts(answer):
    accepted(check.repaired(answer))


@pytest.mark.parametrize(
    ("answer", "symptom"),
    [
        (lambda m, c, layout: layout, "still_across"),
        (lambda m, c, layout: replace(layout, micro_batch=1, recomputation="none"), "still_across"),
        (lambda m, c, layout: replace(as_in_the_notebook(m, c, layout), tensor=8, pipeline=16), "still_across"),
        (lambda m, c, layout: replace(inside_nodes(m, c, layout), micro_batch=layout.micro_batch), "bubble"),
        (inside_nodes, "computed_again_for_nothing"),
        (lambda m, c, layout: replace(inside_nodes(m, c, layout), recomputation="none"), "does_not_fit"),
        (lambda m, c, layout: replace(layout, tensor=c.gpus_per_node), "not_possible"),
        (lambda m, c, layout: replace(layout, batch=2 * layout.batch), "other_batch"),
        (lambda m, c, layout: replace(layout, recipe="float32, SGD"), "other_recipe"),
        (
            lambda m, c, layout: replace(
                layout, tensor=2, pipeline=1, data=64, micro_batch=1, stage=2, recomputation="full"
            ),
            "does_not_fit",
        ),
        (
            lambda m, c, layout: replace(
                layout,
                tensor=4,
                pipeline=4,
                data=8,
                micro_batch=1,
                stage=3,
                recomputation="full" if c.gpu.memory < 80e9 else "none",
            ),
            "slow",
        ),
        (lambda m, c, layout: as_in_the_notebook(m, c, replace(layout, batch=256)), "other_batch"),
        (lambda m, c, layout: fastest(GPT3, c, layout.batch).layout, "does_not_fit"),
        (lambda m, c, layout: None, "wrong_type"),
    ],
)
def test_repaired_refuses(answer, symptom):
    refused(check.repaired(answer), symptom)


def test_a_layout_that_the_planner_refuses_is_told_with_the_plan_that_it_was_to_repair():
    verdict = check.repaired(lambda m, c, layout: replace(as_in_the_notebook(m, c, layout), pipeline=16))
    refused(verdict, "not_possible")
    assert verdict.message.startswith("GPT 238B, 8 tensor × 16 pipeline")


def test_only_the_last_sick_plan_needs_to_compute_layers_again():
    fits = [plan(m, c, replace(inside_nodes(m, c, sick), recomputation="none")).fits for m, c, sick in check.SICK]
    assert fits == [True, True, False]


def test_the_exercise_says_how_much_time_a_repaired_plan_may_take():
    source = (ROOT / "solutions/02_model_parallelism/3_planner.py").read_text(encoding="utf-8")
    assert f"It takes at most {check.ENOUGH:.0%} of the time." in source
    assert f"<= {check.ENOUGH} * plan(" in source  # the hidden test


# both


@pytest.mark.slow
def test_a_plan_in_the_place_of_its_layout_is_told_where_that_is():
    best = fastest(*check.TASK)
    for verdict in (check.my_layout(best), check.repaired(lambda *case: best)):
        refused(verdict, "wrong_type")
        assert verdict.message.endswith("This is of type Plan. Its `.layout` is one.")


@pytest.mark.parametrize(("exercise", "stub"), [(check.my_layout, ...), (check.repaired, ...), (check.repaired, todo)])
def test_a_stub_is_not_done_yet(exercise, stub):
    assert exercise(stub).state == "not done"
