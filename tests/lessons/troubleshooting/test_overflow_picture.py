"""The overflow picture says what a format does to a step."""

import pytest
import torch

from torchcourse.lessons.troubleshooting.overflow_picture import FORMATS, draw, magnitudes, say
from torchcourse.models import mlp


@pytest.fixture
def step():
    torch.manual_seed(0)
    model, inputs = mlp(16, 16, 16, 4)[1:], torch.randn(32, 16)
    return lambda name, scale=1.0, loss_scale=1.0: magnitudes(model, inputs * scale, FORMATS[name], loss_scale)


def test_sentences_follow_the_numbers(step):
    assert say(step("fp32")) == "All numbers fit"
    assert say(step("fp16", scale=1e6)) == "Layer 1 overflows in the forward pass"
    assert say(step("bf16", scale=1e6)) != "Layer 1 overflows in the forward pass"
    assert "have become 0" in say(step("fp16", scale=1e-3))
    assert step("fp16", scale=1e-3, loss_scale=2**14).lost < step("fp16", scale=1e-3).lost
    assert say(step("fp16", loss_scale=2**24)).startswith("The gradient overflows")


@pytest.mark.parametrize("name", FORMATS)
def test_all_formats_are_drawn_with_the_finding_as_title(step, name):
    found = step(name, scale=300.0)
    assert draw(found, name).axes[0].get_title() == say(found)
