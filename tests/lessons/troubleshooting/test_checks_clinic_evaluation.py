"""The clinic's ward "evaluation": right repairs built in other ways, and the wrong ones that people make."""

import pytest

from clinic_repairs import broken
from torchcourse.lessons.troubleshooting.checks.clinic import repair
from verdicts import accepted, refused

# moody_score

LOOP = "    with torch.no_grad():\n"
RESULT = "    return right / count\n"
EVAL = "    model.eval()\n"
MOODY = "    moody = [m for m in model if isinstance(m, nn.BatchNorm1d | nn.Dropout) and m.training]\n"
WAKE = "    for layer in moody:\n        layer.train()\n"
COPY = "    import copy\n\n    model = copy.deepcopy(model).eval()\n"


@pytest.mark.parametrize(
    "changes",
    [
        [(LOOP, "    was = model.training\n" + EVAL + LOOP), (RESULT, "    if was:\n        model.train()\n" + RESULT)],
        [(LOOP, MOODY + "    for layer in moody:\n        layer.eval()\n" + LOOP), (RESULT, WAKE + RESULT)],
        [
            (
                "    right = count = 0\n",
                "    import copy\n\n    model = copy.deepcopy(model).eval()\n    right = count = 0\n",
            )
        ],
        [
            (LOOP, "    was = model.training\n    model.train(False)\n" + LOOP),
            (RESULT, "    model.train(was)\n" + RESULT),
        ],
    ],
)
def test_moody_score_accepts(changes):
    accepted(repair("moody_score", *broken("moody_score", *changes)))


@pytest.mark.parametrize(
    ("changes", "symptom"),
    [
        ([(LOOP, EVAL + LOOP)], "mode_left_changed"),
        ([(LOOP, EVAL + LOOP), (RESULT, "    model.train()\n" + RESULT)], "mode_left_changed"),
        ([(LOOP, COPY + "    torch.set_grad_enabled(False)\n" + LOOP)], "grad_off"),
        ([(LOOP, "    model.requires_grad_(False)\n" + COPY + LOOP)], "frozen"),
        ([(LOOP, COPY + LOOP), (RESULT, "    print(right / count)\n")], "no_number"),
        ([(LOOP, "    torch.manual_seed(0)\n" + LOOP)], "seeded"),
        ([(LOOP, "    model[4].p = 0.0\n" + LOOP)], "layer_changed"),
        ([(LOOP, "    model[2].eval()\n" + LOOP)], "still_there"),
        ([("in loader:", "in [[torch.cat(x) for x in zip(*loader, strict=True)]]:")], "still_there"),
        ([(RESULT, EVAL + RESULT)], "still_there"),
        (
            [
                (LOOP, EVAL + LOOP),
                ("right / count", "right / len(loader)"),
                (RESULT[:10], "    model.train()\n    return"),
            ],
            "wrong_value",
        ),
        ([(LOOP, COPY + LOOP.replace("torch.no_grad()", "torch.enable_grad()"))], "recorded"),
        ([(LOOP, "    torch.manual_seed(0)\n" + EVAL + LOOP), (RESULT, "    model.train()\n" + RESULT)], "seeded"),
    ],
)
def test_moody_score_refuses(changes, symptom):
    refused(repair("moody_score", *broken("moody_score", *changes)), symptom)


def test_moody_score_names_the_layers_that_are_awake():
    seed = LOOP, "    torch.manual_seed(0)\n    was = model.training\n    model[2].eval()\n" + LOOP
    checked = repair("moody_score", *broken("moody_score", seed, (RESULT, "    model.train(was)\n" + RESULT)))
    refused(checked, "seeded")
    assert checked.message.endswith("that of another model: some of its units are switched off.")


# hungry_validation

FOR = "    for images, labels in loader:\n        loss = F.cross_entropy(model(images), labels, reduction"
JOINED = "[[torch.cat(parts) for parts in zip(*loader, strict=True)]]"
VALIDATION = "def validation_loss"
BACK = "    model.train(was_training)\n"
FREEZE_ALL = "    model.requires_grad_(False)\n"
SWITCH_OFF = "    was = torch.is_grad_enabled()\n    torch.set_grad_enabled(False)\n"
FROZEN = "    learning = [p for p in model.parameters() if p.requires_grad]\n"
CHUNKS = "    for images, labels in [(i[None], l[None]) for x, y in loader for i, l in zip(x, y, strict=True)]:\n"


@pytest.mark.parametrize(
    "changes",
    [
        [(VALIDATION, "@torch.no_grad()\n" + VALIDATION)],
        [(VALIDATION, "@torch.inference_mode()\n" + VALIDATION)],
        [(VALIDATION, "@torch.no_grad()\n" + VALIDATION), ("loss.item()", "loss")],
        [(FOR, SWITCH_OFF + FOR), (BACK, "    torch.set_grad_enabled(was)\n" + BACK)],
        [(FOR, FROZEN + FREEZE_ALL + FOR), (BACK, "    for p in learning:\n        p.requires_grad_(True)\n" + BACK)],
    ],
)
def test_hungry_validation_accepts(changes):
    accepted(repair("hungry_validation", *broken("hungry_validation", *changes)))


@pytest.mark.parametrize(
    ("changes", "symptom"),
    [
        ([("loss.item()", "loss.detach().item()")], "still_there"),
        ([("        count += len(labels)\n", "        count += len(labels)\n        del loss\n")], "still_there"),
        ([("    for images, labels in loader:\n        loss", CHUNKS + "        loss")], "smaller_batches"),
        ([(FOR, "    torch.set_grad_enabled(False)\n" + FOR)], "grad_off"),
        ([(FOR, SWITCH_OFF + FOR), (BACK, "    torch.set_grad_enabled(True)\n" + BACK)], "grad_on"),
        ([(FOR, FREEZE_ALL + FOR)], "frozen"),
        ([(FOR, FREEZE_ALL + FOR), (BACK, FREEZE_ALL.replace("False", "True") + BACK)], "thawed"),
        ([(VALIDATION, "@torch.no_grad()\n" + VALIDATION), (BACK, "")], "mode_left_changed"),
        ([(VALIDATION, "@torch.no_grad()\n" + VALIDATION), (BACK, "    model.train()\n")], "mode_left_changed"),
        ([(VALIDATION, "@torch.no_grad()\n" + VALIDATION), ("    model.eval()\n", "")], "training_mode"),
        ([(VALIDATION, "@torch.no_grad()\n" + VALIDATION), ("in loader:", "in " + JOINED + ":")], "batches_joined"),
        ([(VALIDATION, "@torch.no_grad()\n" + VALIDATION), ("total / count", "total / len(loader)")], "wrong_value"),
    ],
)
def test_hungry_validation_refuses(changes, symptom):
    refused(repair("hungry_validation", *broken("hungry_validation", *changes)), symptom)
