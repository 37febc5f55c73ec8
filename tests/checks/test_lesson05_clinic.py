"""The check of the clinic's first notebook: right repairs built in other ways, and the wrong ones that people make."""

import re

import pytest

from clinic_repairs import broken, reference
from torchcourse.checks.lesson05_clinic import repair
from torchcourse.troubleshooting import clinic
from verdicts import accepted, refused

# learns_then_forgets

BACKWARD = "        loss.backward()\n"
STEP = "        optimizer.step()\n"


def after_the_step(code):
    return STEP, STEP + f"        {code}\n"


@pytest.mark.parametrize(
    "change",
    [
        after_the_step("optimizer.zero_grad(set_to_none=False)"),
        (BACKWARD, "        model.zero_grad()\n" + BACKWARD),
        (BACKWARD, "        for p in model.parameters():\n            p.grad = None\n" + BACKWARD),
    ],
)
def test_learns_then_forgets_accepts(change):
    accepted(repair("learns_then_forgets", *broken("learns_then_forgets", change)))


@pytest.mark.parametrize(
    ("changes", "symptom"),
    [
        ([(BACKWARD, BACKWARD + "        optimizer.zero_grad()\n")], "nothing_left"),
        ([("    for images", "    optimizer.zero_grad()\n    for images")], "still_there"),
        ([("    for images", "    optimizer.param_groups[0]['lr'] /= 100\n    for images")], "learning_rate"),
        ([(STEP, "        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.1)\n" + STEP)], "scaled"),
        ([("    for images, labels in loader", "    for images, labels in list(loader)[:2]")], "steps"),
        ([(BACKWARD, "        optimizer.zero_grad()\n" + BACKWARD), ("total / count", "total / len(loader)")], "loss"),
    ],
)
def test_learns_then_forgets_refuses(changes, symptom):
    refused(repair("learns_then_forgets", *broken("learns_then_forgets", *changes)), symptom)


def losses(slug, *given):
    return [float(loss) for loss in re.findall(r"loss ([\d.]+)", clinic.Program(slug, *given).log())]


def test_learns_then_forgets_shows_its_symptom():
    sick, healed = losses("learns_then_forgets"), losses("learns_then_forgets", *reference("learns_then_forgets"))
    assert sick[-1] > sick[0]
    assert healed[-1] < healed[0] / 3
