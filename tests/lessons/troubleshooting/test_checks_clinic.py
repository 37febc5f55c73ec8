"""The check of the clinic's first notebook: right repairs built in other ways, and the wrong ones that people make."""

import re

import pytest

from clinic_repairs import broken, parts, reference
from torchcourse.lessons.troubleshooting import clinic
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
        ([("        loss.backward()", "        loss = loss / accumulate\n        loss.backward()")], "report"),
        ([("        if number % accumulate == 0", "        if True")], "steps"),
        ([(BACKWARD, DIVIDED[0]), ("    assert len(loader) % accumulate == 0, ", "    _ = ")], "no_assertion"),
    ],
)
def test_big_batch_diverges_refuses(changes, symptom):
    refused(repair("big_batch_diverges", *broken("big_batch_diverges", *changes)), symptom)


def last_losses(*given):
    rows = [line.split() for line in clinic.Program("big_batch_diverges", *given).log().splitlines()]
    return [float(row[-1]) for row in rows if "×" in row]


def test_big_batch_diverges_shows_its_symptom():
    whole, quarters, sixteenths = last_losses()
    assert whole < 0.5 < quarters < sixteenths
    healed = last_losses(*reference("big_batch_diverges"))
    assert healed == pytest.approx([healed[0]] * 3, abs=0.01)


# loss_with_a_floor

SOFTMAX, WITHOUT = ".softmax(dim=1)\n\n\ndef loss_of", "\n\n\ndef loss_of"
LOSS = "return F.cross_entropy(outputs, labels)"
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
        ([(LOSS, "return F.nll_loss(outputs.log(), labels)")], "unstable"),
        ([(LOSS, "return F.nll_loss((outputs + 1e-8).log(), labels)")], "unstable"),
        ([(SOFTMAX, WITHOUT)], "no_probabilities"),
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


def test_loss_with_a_floor_shows_its_symptom():
    assert losses("loss_with_a_floor")[-1] > 1.4612  # log(e + 9) - 1
    assert losses("loss_with_a_floor", *reference("loss_with_a_floor"))[-1] < 0.1


# head_that_sleeps

GROUPS = '{"params": groups["fc"], "lr": lr}'
NEW = """
def make_optimizer(model, lr):
    old = list(model.backbone.parameters())
    new = [p for p in model.parameters() if not any(p is q for q in old)]
    return torch.optim.SGD([{"params": new}, {"params": old, "lr": 0.1 * lr}], lr=lr, momentum=0.9)
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
        (parts("head_that_sleeps", NEW.replace(', "lr": 0.1 * lr', "")), "one_rate"),
        (parts("head_that_sleeps", NEW.replace("0.1 * lr", "0.5 * lr")), "rate"),
        (parts("head_that_sleeps", NEW.replace('{"params": new}', '{"params": new, "lr": 10 * lr}')), "rate"),
        (parts("head_that_sleeps", NEW.replace('{"params": old, "lr": 0.1 * lr}', "")), "backbone_left_out"),
        (
            parts(
                "head_that_sleeps", NEW.replace("    return", "    model.backbone.requires_grad_(False)\n    return")
            ),
            "froze",
        ),
        (parts("head_that_sleeps", NEW.replace(", momentum=0.9", "").replace("SGD", "Adam")), "other_optimizer"),
    ],
)
def test_head_that_sleeps_refuses(given, symptom):
    refused(repair("head_that_sleeps", *given), symptom)


def test_head_that_sleeps_shows_its_symptom():
    assert losses("head_that_sleeps")[-1] > 2 * losses("head_that_sleeps", *reference("head_that_sleeps"))[-1]


# loss_that_stands_still

FREEZE = "    for parameter in model.parameters():\n        parameter.requires_grad_(False)\n"
REPLACE = "    model[-1] = nn.Linear(model[-1].in_features, classes)\n"
RETURN = "    return model, optimizer\n"


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
        ([(REPLACE, "")], "old_layer"),
        (
            [
                (REPLACE, REPLACE + "    model[-1].weight.data.copy_(weight[:classes])\n"),
                ("    trainable", "    weight = model[-1].weight\n    trainable"),
            ],
            "old_layer",
        ),
        ([(RETURN, "    model[-1].requires_grad_(False)\n" + RETURN)], "head_frozen"),
        ([(REPLACE, ""), (FREEZE, REPLACE + FREEZE), ("lr=lr", "lr=lr / 10")], "learning_rate"),
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


def test_loss_that_stands_still_shows_its_symptom():
    sick = losses("loss_that_stands_still")
    assert len(set(sick)) == 1
    healed = losses("loss_that_stands_still", *reference("loss_that_stands_still"))
    assert healed[-1] < healed[0] / 2


# moody_score

LOOP = "    with torch.no_grad():\n"
RESULT = "    return right / count\n"
EVAL = "    model.eval()\n"
COPY = "    import copy\n\n    model = copy.deepcopy(model).eval()\n"


@pytest.mark.parametrize(
    "changes",
    [
        [(LOOP, EVAL + LOOP), (RESULT, "    model.train()\n" + RESULT)],
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
        ([(LOOP, EVAL + LOOP)], "stays_in_eval"),
        ([(LOOP, "    torch.manual_seed(0)\n" + LOOP)], "seeded"),
        ([(LOOP, "    model[4].p = 0.0\n" + LOOP)], "changed_model"),
        ([(LOOP, "    model[2].eval()\n" + LOOP)], "still_there"),
        ([("in loader:", "in [[torch.cat(x) for x in zip(*loader, strict=True)]]:")], "still_there"),
        ([(RESULT, EVAL + RESULT)], "still_there"),
        (
            [
                (LOOP, EVAL + LOOP),
                ("right / count", "right / len(loader)"),
                (RESULT[:10], "    model.train()\n    return"),
            ],
            "score",
        ),
        ([(LOOP, "    torch.manual_seed(0)\n" + EVAL + LOOP), (RESULT, "    model.train()\n" + RESULT)], "seeded"),
    ],
)
def test_moody_score_refuses(changes, symptom):
    refused(repair("moody_score", *broken("moody_score", *changes)), symptom)


def scores(*given):
    log = clinic.Program("moody_score", *given).log()
    return [float(score) for score in re.findall(r"batches of +\d+: ([\d.]+)%", log)]


def test_moody_score_shows_its_symptom():
    sick = scores()
    assert len(sick) == 4
    assert max(sick) - min(sick) > 5
    assert len(set(scores(*reference("moody_score")))) == 1


# hungry_validation

FOR = "    for images, labels in loader:\n        loss = F.cross_entropy(model(images), labels, reduction"
VALIDATION = "def validation_loss"
BACK = "    model.train(was_training)\n"
FREEZE_ALL = "    model.requires_grad_(False)\n"
CHUNKS = "    for images, labels in [(i[None], l[None]) for x, y in loader for i, l in zip(x, y, strict=True)]:\n"


@pytest.mark.parametrize(
    "changes",
    [
        [(VALIDATION, "@torch.no_grad()\n" + VALIDATION)],
        [(VALIDATION, "@torch.inference_mode()\n" + VALIDATION)],
        [(FOR, "    torch.set_grad_enabled(False)\n" + FOR), (BACK, "    torch.set_grad_enabled(True)\n" + BACK)],
        [(FOR, FREEZE_ALL + FOR), (BACK, FREEZE_ALL.replace("False", "True") + BACK)],
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
        ([(FOR, FREEZE_ALL + FOR)], "frozen"),
        ([(VALIDATION, "@torch.no_grad()\n" + VALIDATION), (BACK, "")], "mode"),
        ([(VALIDATION, "@torch.no_grad()\n" + VALIDATION), ("total / count", "total / len(loader)")], "loss"),
    ],
)
def test_hungry_validation_refuses(changes, symptom):
    refused(repair("hungry_validation", *broken("hungry_validation", *changes)), symptom)


def peaks(*given):
    log = clinic.Program("hungry_validation", *given).log(epochs=1)
    return [float(size) for size in re.findall(r"([\d.]+) MB", log)]


def test_hungry_validation_shows_its_symptom():
    training, validation = peaks()
    assert validation > 2 * training
    assert peaks(*reference("hungry_validation"))[1] < 0.8 * validation


# swelling_run

FLAT = "        images = images.flatten(1)\n"
SKIP = (FLAT, FLAT + "        if images[0, 0] > 0:\n            continue\n")
RUNNING, PROBED = "        running += loss\n", "        probed += F.mse_loss(model(probe), probe)\n"
NO_GRAD = "        with torch.no_grad():\n            probed += F.mse_loss(model(probe), probe)\n"
TRAINS_ON_IT = """\
        clean = F.mse_loss(model(probe), probe)
        clean.backward()
        probed += clean.item()
"""
DENOISED = "    return running / len(loader), probed / len(loader)\n"


@pytest.mark.parametrize(
    "changes",
    [
        [(RUNNING, "        running += loss.detach()\n"), (PROBED, NO_GRAD)],
        [
            (RUNNING, "        running += float(loss.detach())\n"),
            (PROBED, PROBED.replace("probe)\n", "probe).item()\n")),
        ],
        [
            ("running, probed = 0.0, 0.0", "running, probed = [], []"),
            (RUNNING, "        running.append(loss.item())\n"),
            (PROBED, "        probed.append(F.mse_loss(model(probe), probe).item())\n"),
            (DENOISED, "    return sum(running) / len(running), sum(probed) / len(probed)\n"),
        ],
    ],
)
def test_swelling_run_accepts(changes):
    accepted(repair("swelling_run", *broken("swelling_run", *changes)))


@pytest.mark.parametrize(
    ("changes", "symptom"),
    [
        ([(PROBED, PROBED + "        del loss\n        torch.cuda.empty_cache()\n")], "still_there"),
        ([(DENOISED, "    running, probed = running.detach(), probed.detach()\n" + DENOISED)], "still_there"),
        ([(RUNNING, "        running += loss.item()\n")], "still_there"),
        ([(PROBED, NO_GRAD)], "graph_grows"),
        ([(RUNNING, "        running += loss.item()\n"), (PROBED, "")], "loss_value"),
        ([(RUNNING, "        running = loss.item()\n"), (PROBED, NO_GRAD)], "loss_value"),
        (
            [
                (RUNNING, "        running += loss.item()\n"),
                (
                    PROBED,
                    TRAINS_ON_IT,
                ),
                ("        optimizer.zero_grad()\n", ""),
                ("        optimizer.step()\n", "        optimizer.step()\n        optimizer.zero_grad(False)\n"),
            ],
            "training_changed",
        ),
        (
            [
                (RUNNING, "        running += loss.item()\n"),
                (PROBED, NO_GRAD),
                SKIP,
            ],
            "steps",
        ),
        (
            [
                (RUNNING, "        running += loss.item()\n"),
                (PROBED, NO_GRAD),
                (DENOISED, "    return running / len(loader), F.mse_loss(model(probe), probe)\n"),
            ],
            "graph_returned",
        ),
    ],
)
def test_swelling_run_refuses(changes, symptom):
    refused(repair("swelling_run", *broken("swelling_run", *changes)), symptom)


def memory_of_epochs(slug, *given):
    return [float(size) for size in re.findall(r"([\d.]+) MB", clinic.Program(slug, *given).log())]


def test_swelling_run_shows_its_symptom():
    first, *_, last = memory_of_epochs("swelling_run")
    assert last > 2 * first
    first, *_, last = memory_of_epochs("swelling_run", *reference("swelling_run"))
    assert last == pytest.approx(first, abs=0.11)


# sawtooth

APPEND = "        outputs.append(output)\n"
OFF = "    off = ("
ONLY_SUMS = """
def reconstruction_epoch(model, loader, optimizer, near=0.5):
    total = torch.zeros(3)
    for images, _ in loader:
        images = images.flatten(1)
        optimizer.zero_grad()
        output = model(images)
        loss = F.mse_loss(output, images)
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            close = ((output - images).abs() < near).sum()
            total += torch.stack([loss.detach() * images.numel(), close.float(), torch.tensor(1.0 * images.numel())])
    return (total[0] / total[2]).item(), (total[1] / total[2]).item()
"""
MEANS = """
def reconstruction_epoch(model, loader, optimizer, near=0.5):
    errors, close = [], []
    for images, _ in loader:
        images = images.flatten(1)
        optimizer.zero_grad()
        output = model(images)
        loss = F.mse_loss(output, images)
        loss.backward()
        optimizer.step()
        errors.append(loss.item())
        close.append(((output - images).abs() < near).float().mean().item())
    return sum(errors) / len(errors), sum(close) / len(close)
"""
AFTERWARDS = """
def reconstruction_epoch(model, loader, optimizer, near=0.5):
    for images, _ in loader:
        images = images.flatten(1)
        optimizer.zero_grad()
        F.mse_loss(model(images), images).backward()
        optimizer.step()
    with torch.no_grad():
        total, close, count = 0.0, 0.0, 0
        for images, _ in loader:
            images = images.flatten(1)
            off = (model(images) - images).abs()
            total, close, count = total + off.square().sum(), close + (off < near).sum(), count + off.numel()
    return (total / count).item(), (close / count).item()
"""


def test_sawtooth_accepts():
    accepted(repair("sawtooth", *parts("sawtooth", ONLY_SUMS)))
    numbers = ONLY_SUMS.replace("(total[0] / total[2]).item()", "total[0] / total[2]")
    accepted(repair("sawtooth", *parts("sawtooth", numbers)))


@pytest.mark.parametrize(
    ("given", "symptom"),
    [
        (broken("sawtooth", (APPEND, "        outputs.append(output.detach())\n")), "still_there"),
        (broken("sawtooth", (APPEND, "        outputs.append(output.detach().half())\n")), "half"),
        (broken("sawtooth", (APPEND, "        outputs.append(output.detach().cpu())\n")), "still_there"),
        (broken("sawtooth", (OFF, "    torch.cuda.empty_cache()\n" + OFF)), "still_there"),
        (parts("sawtooth", MEANS), "mean_of_means"),
        (parts("sawtooth", MEANS.replace("sum(errors) / len(errors)", "errors[-1]")), "last_batch"),
        (parts("sawtooth", AFTERWARDS), "value"),
        (parts("sawtooth", ONLY_SUMS.replace("loss.backward()", "(2 * loss).backward()")), "training_changed"),
        (parts("sawtooth", ONLY_SUMS.replace(*SKIP)), "steps"),
    ],
)
def test_sawtooth_refuses(given, symptom):
    refused(repair("sawtooth", *given), symptom)


def test_sawtooth_shows_its_symptom():
    assert min(memory_of_epochs("sawtooth")) > 5 * max(memory_of_epochs("sawtooth", *reference("sawtooth")))
