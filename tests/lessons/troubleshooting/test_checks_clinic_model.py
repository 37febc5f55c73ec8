"""The clinic's ward "model and optimizer": right repairs built in other ways, and the wrong ones that people make."""

import pytest
import torch.nn.functional as F
from torch import nn

from clinic_repairs import broken, parts, reference
from torchcourse.lessons.troubleshooting.checks.clinic import repair
from verdicts import accepted, refused

# loss_with_a_floor

SOFTMAX, WITHOUT = ".softmax(dim=1)\n\n\ndef loss_of", "\n\n\ndef loss_of"
LOSS = "return F.cross_entropy(outputs, labels)"
BORROWED = (  # the value of the one, the gradient of the other
    "sick = F.cross_entropy(outputs.softmax(1), labels)\n"
    "    return F.cross_entropy(outputs, labels).detach() + sick - sick.detach()"
)
WITH_GRAPH = "    return model(images).softmax(1)\n"
SHARES = "\n        return e / e.sum(1, keepdim=True)\n"
MODEL_OF_IMAGES = "        return model(images)\n"


@pytest.mark.parametrize(
    "changes",
    [
        [
            (SOFTMAX, ".log_softmax(dim=1)\n\n\ndef loss_of"),
            (LOSS, "return F.nll_loss(outputs, labels)"),
            (MODEL_OF_IMAGES, "        return model(images).exp()\n"),
        ],
        [
            (SOFTMAX, WITHOUT),
            (LOSS, "return torch.nn.CrossEntropyLoss()(outputs, labels)"),
            (MODEL_OF_IMAGES, "        return F.softmax(model(images), -1)\n"),
        ],
        [
            (SOFTMAX, WITHOUT),
            (MODEL_OF_IMAGES, "        return model(images).softmax(1)\n"),
            ("        self.hidden = nn.Linear(inputs, hidden)\n", ""),
            ("(hidden, classes)\n", "(hidden, classes)\n        self.hidden = nn.Linear(inputs, hidden)\n"),
            ("self.hidden", "self.first"),
            ("self.output", "self.last"),
        ],
    ],
)
def test_loss_with_a_floor_accepts(changes):
    accepted(repair("loss_with_a_floor", *broken("loss_with_a_floor", *changes)))


@pytest.mark.parametrize(
    ("changes", "symptom"),
    [
        ([("hidden(images.flatten(1)).relu()", "hidden(images.flatten(1)).tanh()")], "not_cross_entropy"),
        ([(LOSS, "return F.cross_entropy(outputs, labels) - 1.4")], "cosmetic"),
        ([(LOSS, "return F.cross_entropy(10 * outputs, labels)")], "not_cross_entropy"),
        ([(LOSS, "return F.nll_loss(outputs, labels)")], "negative"),
        ([(SOFTMAX, WITHOUT), (LOSS, "return F.cross_entropy(outputs.detach(), labels)")], "no_loss"),
        ([(SOFTMAX, WITHOUT), (LOSS, "F.cross_entropy(outputs, labels)")], "no_loss"),
        ([(SOFTMAX, WITHOUT), (LOSS, BORROWED)], "cosmetic"),
        ([(SOFTMAX, WITHOUT), (MODEL_OF_IMAGES, "        return model(images).argmax(1)\n")], "wrong_type"),
        (
            [(SOFTMAX, WITHOUT), ("    with torch.no_grad():\n        return model(images)\n", WITH_GRAPH)],
            "graph_returned",
        ),
        ([(LOSS, "return F.nll_loss(outputs.log(), labels)")], "unstable"),
        ([(LOSS, "return F.nll_loss((outputs + 1e-8).log(), labels)")], "unstable"),
        ([(SOFTMAX, WITHOUT)], "no_probabilities"),
        ([(SOFTMAX, WITHOUT), (MODEL_OF_IMAGES, f"        e = model(images).exp(){SHARES}")], "unstable"),
        ([(SOFTMAX, WITHOUT), (MODEL_OF_IMAGES, "        return model(images).softmax(0)\n")], "no_probabilities"),
        ([(MODEL_OF_IMAGES, "        return model(images).softmax(1)\n")], "still_there"),
        (
            [
                (LOSS, "return F.nll_loss(outputs.log(), labels)"),
                (MODEL_OF_IMAGES, "        return model(images).softmax(1)\n"),
            ],
            "twice_elsewhere",
        ),
        ([("hidden=64, classes=10):", "hidden=64, classes=10):\n        hidden = 2 * hidden")], "other_network"),
    ],
)
def test_loss_with_a_floor_refuses(changes, symptom):
    refused(repair("loss_with_a_floor", *broken("loss_with_a_floor", *changes)), symptom)


def test_loss_with_a_floor_says_of_shares_that_they_add_up_to_one():
    divided = MODEL_OF_IMAGES, f"        e = model(images){SHARES}"
    checked = repair("loss_with_a_floor", *broken("loss_with_a_floor", (SOFTMAX, WITHOUT), divided))
    refused(checked, "no_probabilities")
    assert "adds up to 1.00 to 1.00 per row, from numbers between " in checked.message


def test_parts_that_have_another_name_or_none_are_taken_for_what_they_are_handed_in_as():
    net, _, probabilities = broken("loss_with_a_floor", (SOFTMAX, WITHOUT), (MODEL_OF_IMAGES, "    " + WITH_GRAPH))
    named_otherwise = type("BetterNet", (net,), {})
    for loss in (nn.CrossEntropyLoss(), F.cross_entropy):
        accepted(repair("loss_with_a_floor", named_otherwise, loss, probabilities))


# head_that_sleeps

GROUPS = '{"params": groups["fc"], "lr": lr}'
NEW = """
def make_optimizer(model, lr):
    old = list(model.backbone.parameters())
    new = [p for p in model.parameters() if not any(p is q for q in old)]
    return torch.optim.SGD([{"params": new}, {"params": old, "lr": 0.1 * lr}], lr=lr, momentum=0.9)
"""
BY_NAME = """
def make_optimizer(model, lr):
    groups = [{"params": [p], "lr": lr / 10 if "backbone" in name else lr} for name, p in model.named_parameters()]
    return torch.optim.SGD(groups, lr=lr, momentum=0.9)
"""


def test_head_that_sleeps_accepts():
    accepted(repair("head_that_sleeps", *parts("head_that_sleeps", NEW)))
    per_tensor = NEW.replace('{"params": new}', '*({"params": [p]} for p in new)')
    accepted(repair("head_that_sleeps", *parts("head_that_sleeps", per_tensor)))


@pytest.mark.parametrize(
    ("given", "symptom"),
    [
        (broken("head_that_sleeps", ('"fc"', '"head"')), "left_out"),
        (broken("head_that_sleeps", ("lr / 10", "lr")), "still_there"),
        (parts("head_that_sleeps", BY_NAME), "learning_rate"),
        (parts("head_that_sleeps", NEW.replace(', "lr": 0.1 * lr', "")), "learning_rate"),
        (parts("head_that_sleeps", NEW.replace("0.1 * lr", "0.5 * lr")), "learning_rate"),
        (parts("head_that_sleeps", NEW.replace('{"params": new}', '{"params": new, "lr": 10 * lr}')), "learning_rate"),
        (parts("head_that_sleeps", NEW.replace('{"params": old, "lr": 0.1 * lr}', "")), "left_out"),
        (
            parts(
                "head_that_sleeps", NEW.replace("    return", "    model.backbone.requires_grad_(False)\n    return")
            ),
            "froze",
        ),
        (parts("head_that_sleeps", NEW.replace(", momentum=0.9", "").replace("SGD", "Adam")), "other_optimizer"),
        (parts("head_that_sleeps", NEW.replace("momentum=0.9", "momentum=0.9, weight_decay=0.1")), "other_optimizer"),
        (parts("head_that_sleeps", NEW.replace("momentum=0.9", "momentum=0.9, nesterov=True")), "other_optimizer"),
        (parts("head_that_sleeps", NEW.replace("    return torch", "    found = torch")), "wrong_type"),
    ],
)
def test_head_that_sleeps_refuses(given, symptom):
    refused(repair("head_that_sleeps", *given), symptom)


def test_head_that_sleeps_speaks_of_no_settings_that_an_optimizer_does_not_have():
    adam = parts("head_that_sleeps", NEW.replace(", momentum=0.9", "").replace("SGD", "Adam"))
    assert repair("head_that_sleeps", *adam).message.endswith("Yours is Adam.")


# loss_that_stands_still

FREEZE = "    for parameter in model.parameters():\n        parameter.requires_grad_(False)\n"
REPLACE = "    model[-1] = nn.Linear(model[-1].in_features, classes)\n"
RETURN = "    return model, optimizer\n"
HEAD_ALONE = ("SGD(trainable", "SGD(model[-1].parameters()")


@pytest.mark.parametrize(
    "changes",
    [
        [("SGD(trainable", "SGD(model[-1].parameters()")],
        [("SGD(trainable", "SGD(model.parameters()")],
        [(REPLACE, "    model = nn.Sequential(*list(model)[:-1], nn.Linear(model[-1].in_features, classes))\n")],
        [(RETURN, "    optimizer.param_groups[0]['params'] = list(model[-1].parameters())\n" + RETURN)],
    ],
)
def test_loss_that_stands_still_accepts(changes):
    accepted(repair("loss_that_stands_still", *reference("loss_that_stands_still", *changes)))


@pytest.mark.parametrize(
    ("changes", "symptom"),
    [
        ([("lr=lr", "lr=100 * lr")], "still_there"),
        ([(FREEZE, ""), ("SGD(trainable", "SGD(model.parameters()")], "thawed"),
        ([(RETURN, "    optimizer.add_param_group({'params': model[-1].parameters()})\n" + RETURN)], "stale"),
        ([(FREEZE, ""), (REPLACE, ""), ("    trainable", REPLACE + "    trainable"), HEAD_ALONE], "not_frozen"),
        ([(REPLACE, "")], "old_layer"),
        ([(REPLACE, REPLACE.replace("classes)", "classes, bias=False)"))], "other_layer"),
        ([(REPLACE, "    model.append(nn.Linear(model[-1].out_features, classes))\n")], "other_layer"),
        ([(RETURN, "    return model\n")], "wrong_type"),
        ([(RETURN, "    return optimizer, model\n")], "wrong_type"),
        ([(RETURN, "    return model[-1], optimizer\n")], "wrong_type"),
        ([(REPLACE, ""), (FREEZE, FREEZE + REPLACE.replace("classes)", "3)"))], "old_layer"),
        ([(REPLACE, ""), (FREEZE, FREEZE + REPLACE.replace("-1", "3"))], "old_layer"),
        (
            [
                (REPLACE, REPLACE + "    model[-1].weight.data.copy_(weight[:classes])\n"),
                ("    trainable", "    weight = model[-1].weight\n    trainable"),
            ],
            "old_layer",
        ),
        ([(RETURN, "    model[-1].requires_grad_(False)\n" + RETURN)], "head_frozen"),
        ([(REPLACE, ""), (FREEZE, FREEZE + REPLACE), ("lr=lr", "lr=0.05")], "learning_rate"),
        (
            [(REPLACE, ""), ("    trainable", REPLACE + "    trainable"), ("=0.9", "=0.9, dampening=0.5")],
            "other_optimizer",
        ),
        (
            [
                (REPLACE, ""),
                (FREEZE, REPLACE + FREEZE),
                ("SGD(trainable, lr=lr, momentum=0.9)", "Adam(trainable, lr=lr)"),
            ],
            "other_optimizer",
        ),
    ],
)
def test_loss_that_stands_still_refuses(changes, symptom):
    refused(repair("loss_that_stands_still", *broken("loss_that_stands_still", *changes)), symptom)


def test_loss_that_stands_still_names_what_of_the_new_layer_the_optimizer_lacks():
    weight_alone = [(REPLACE, ""), (FREEZE, FREEZE + REPLACE), ("SGD(trainable", "SGD(trainable[:1]")]
    checked = repair("loss_that_stands_still", *broken("loss_that_stands_still", *weight_alone))
    refused(checked, "still_there")
    assert "holds 1 tensor, and of the new layer's these are not among them: bias." in checked.message


@pytest.mark.parametrize(
    ("change", "layer"),
    [
        ((REPLACE, ""), "10 outputs and weights of the old task."),
        ((REPLACE, REPLACE.replace("classes)", "classes + 1)")), "4 outputs."),
    ],
)
def test_loss_that_stands_still_says_what_is_old_in_the_last_layer(change, layer):
    checked = repair("loss_that_stands_still", *broken("loss_that_stands_still", change))
    refused(checked, "old_layer")
    assert checked.message.endswith(f"Yours has {layer}")
