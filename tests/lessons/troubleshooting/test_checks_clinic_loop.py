"""The clinic's ward "loop": right repairs built in other ways, and the wrong ones that people make."""

import pytest

from clinic_repairs import broken
from torchcourse.lessons.troubleshooting.checks.clinic import repair
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
        (
            [(BACKWARD, "        optimizer.zero_grad()\n" + BACKWARD), ("total / count", "total / len(loader)")],
            "wrong_value",
        ),
    ],
)
def test_learns_then_forgets_refuses(changes, symptom):
    refused(repair("learns_then_forgets", *broken("learns_then_forgets", *changes)), symptom)


# big_batch_diverges

DIVIDED = ("        (loss / accumulate).backward()\n", "        loss.backward()\n")
INDENTED_STEP = "            optimizer.step()\n"
CLIP = "            torch.nn.utils.clip_grad_norm_(model.parameters(), 0.05)\n"
BEFORE_STEP = "        if number % accumulate == 0:\n"


@pytest.mark.parametrize(
    "changes",
    [
        [(BACKWARD, "        (loss * (1 / accumulate)).backward()\n")],
        [(BACKWARD, "        loss.backward(torch.tensor(1 / accumulate, dtype=loss.dtype))\n")],
        [
            (
                BEFORE_STEP,
                BEFORE_STEP + "            for p in model.parameters():\n                p.grad /= accumulate\n",
            )
        ],
    ],
)
def test_big_batch_diverges_accepts(changes):
    accepted(repair("big_batch_diverges", *broken("big_batch_diverges", *changes)))


@pytest.mark.parametrize(
    ("changes", "symptom"),
    [
        ([("model.train()\n", "model.train()\n    optimizer.param_groups[0]['lr'] /= accumulate\n")], "learning_rate"),
        ([(BACKWARD, "        (loss / 4).backward()\n")], "scaled"),
        (
            [(INDENTED_STEP, CLIP + INDENTED_STEP)],
            "scaled",
        ),
        ([(BACKWARD, "        optimizer.zero_grad()\n" + BACKWARD)], "not_all_batches"),
        ([("        loss.backward()", "        loss = loss / accumulate\n        loss.backward()")], "wrong_value"),
        ([("        if number % accumulate == 0", "        if True")], "steps"),
        ([(BACKWARD, DIVIDED[0]), ("    assert len(loader) % accumulate == 0, ", "    _ = ")], "no_assertion"),
    ],
)
def test_big_batch_diverges_refuses(changes, symptom):
    refused(repair("big_batch_diverges", *broken("big_batch_diverges", *changes)), symptom)
