"""Each remedy saves memory in a simulated training step, and the picture says how much."""

import pytest

from torchcourse.lessons.troubleshooting.step_study import study_step
from torchcourse.lessons.troubleshooting.step_study_picture import describe_step, draw_step


@pytest.mark.slow
def test_each_remedy_saves_in_the_step_and_says_how_much():
    plain = study_step(8).peak
    for remedy in (
        {"checkpointing": True},
        {"accumulation": 4},
        {"precision": "mixed (bfloat16)"},
        {"optimizer": "SGD"},
    ):
        assert study_step(8, **remedy).peak < plain
    values = {"accumulation": 1, "checkpointing": True, "precision": "float32", "optimizer": "Adam"}
    share = study_step(8, checkpointing=True).peak / plain
    assert f"{share:.0%} of the plain step" in describe_step(8, **values)
    assert draw_step(8, **values).get_suptitle() in describe_step(8, **values)
    same = describe_step(8, **(values | {"checkpointing": False}))
    assert "as much as the plain step" in same


def test_no_grad_needs_no_activations_at_all():
    assert study_step(8, training=False).by_kind["activations"] == 0


def test_a_batch_is_not_cut_into_more_parts_than_it_has():
    with pytest.raises(ValueError, match="cannot be cut into 16 parts"):
        study_step(8, accumulation=16)
