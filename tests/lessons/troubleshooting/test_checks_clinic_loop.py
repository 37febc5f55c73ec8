"""The clinic's ward "loop": right repairs built in other ways, and the wrong ones that people make."""

import pytest

from clinic_repairs import broken, parts
from torchcourse.lessons.troubleshooting import clinic
from torchcourse.lessons.troubleshooting.checks.clinic import repair
from verdicts import accepted, refused

# learns_then_forgets

BACKWARD = "        loss.backward()\n"
STEP = "        optimizer.step()\n"
ZERO = "        optimizer.zero_grad()\n"
WEIGHTS_ALONE = "        for p in model.parameters():\n            p.grad = p.grad if p.dim() == 1 else None\n"
NEW_OPTIMIZER = "        optimizer = torch.optim.SGD(model.parameters(), lr=optimizer.param_groups[0]['lr'])\n"


def after_the_step(code):
    return STEP, STEP + f"        {code}\n"


@pytest.mark.parametrize(
    "change",
    [
        after_the_step("optimizer.zero_grad(set_to_none=False)"),
        (BACKWARD, "        model.zero_grad()\n" + BACKWARD),
        (BACKWARD, "        for p in model.parameters():\n            p.grad = None\n" + BACKWARD),
        (
            BACKWARD,
            "        optimizer.zero_grad()\n        loss = F.cross_entropy(model.forward(images.float()), labels)\n"
            + BACKWARD,
        ),
    ],
)
def test_learns_then_forgets_accepts(change):
    accepted(repair("learns_then_forgets", *broken("learns_then_forgets", change)))


def test_learns_then_forgets_accepts_a_mean_without_a_graph():
    for loss, verify in (("loss.detach()", accepted), ("loss", lambda checked: refused(checked, "graph_returned"))):
        changes = (BACKWARD, ZERO + BACKWARD), ("loss.item()", loss)
        verify(repair("learns_then_forgets", *broken("learns_then_forgets", *changes)))


CLOSURE = """
def train_epoch(model, loader, optimizer):
    model.train()
    total, count = 0.0, 0
    for images, labels in loader:
        def closure():
            optimizer.zero_grad()
            loss = F.cross_entropy(model(images), labels)
            loss.backward()
            return loss
        total += optimizer.step(closure).item() * len(labels)
        count += len(labels)
    return total / count
"""


def test_learns_then_forgets_takes_a_closure():
    accepted(repair("learns_then_forgets", *parts("learns_then_forgets", CLOSURE)))
    without = CLOSURE.replace("            optimizer.zero_grad()\n", "")
    refused(repair("learns_then_forgets", *parts("learns_then_forgets", without)), "still_there")


@pytest.mark.parametrize(
    ("changes", "symptom"),
    [
        ([(BACKWARD, BACKWARD + "        optimizer.zero_grad()\n")], "nothing_left"),
        ([("    for images", "    optimizer.zero_grad()\n    for images")], "still_there"),
        ([("    for images", "    optimizer.param_groups[0]['lr'] /= 100\n    for images")], "learning_rate"),
        ([(STEP, "        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.1)\n" + STEP)], "scaled"),
        (
            [(BACKWARD, ZERO + BACKWARD), ("in loader:", "in sorted(loader, key=lambda b: b[1][1] > 2):")],
            "still_there",
        ),
        ([(BACKWARD, WEIGHTS_ALONE + BACKWARD)], "still_there"),
        ([("    for images, labels in loader", "    for images, labels in list(loader)[:2]")], "steps"),
        (
            [(BACKWARD, "        optimizer.zero_grad()\n" + BACKWARD), ("total / count", "total / len(loader)")],
            "wrong_value",
        ),
        ([(BACKWARD, NEW_OPTIMIZER + ZERO + BACKWARD)], "other_optimizer"),
        ([(BACKWARD, "        optimizer.state.clear()\n" + ZERO + BACKWARD)], "training_changed"),
        (
            [(BACKWARD, "        optimizer.param_groups[0]['weight_decay'] = 0.1\n" + ZERO + BACKWARD)],
            "training_changed",
        ),
        (
            [(BACKWARD, "        optimizer.param_groups[0]['momentum'] = 0.9\n" + ZERO + BACKWARD)],
            "training_changed",
        ),
        ([(BACKWARD, "        if count:\n    " + ZERO + BACKWARD)], "still_there"),
        (
            [(BACKWARD, "        loss = loss + 1e-3 * model[-1].weight.square().sum()\n" + ZERO + BACKWARD)],
            "first_step",
        ),
        ([(BACKWARD, "        model[-1].bias.requires_grad_(False)\n" + ZERO + BACKWARD)], "froze"),
        ([("    model.train()\n", ""), (BACKWARD, ZERO + BACKWARD)], "evaluation_mode"),
        (
            [(BACKWARD, ZERO + BACKWARD), ("    return total / count", "    model.eval()\n    return total / count")],
            "mode_left_changed",
        ),
    ],
)
def test_learns_then_forgets_refuses(changes, symptom):
    refused(repair("learns_then_forgets", *broken("learns_then_forgets", *changes)), symptom)


def test_learns_then_forgets_speaks_of_no_step_before_the_first():
    wiped = BACKWARD + "        for p in model.parameters():\n            p.data.zero_()\n"
    checked = repair("learns_then_forgets", *broken("learns_then_forgets", (BACKWARD, wiped)))
    refused(checked, "training_changed")
    assert checked.message.startswith("Your code changes the weights before the first step.")


def test_learns_then_forgets_refuses_sums_that_survive_the_call():
    changes = ("    total, count = 0.0, 0\n", "    global total, count\n"), (BACKWARD, ZERO + BACKWARD)
    (train_epoch,) = broken("learns_then_forgets", *changes)
    train_epoch.__globals__.update(total=0.0, count=0)
    refused(repair("learns_then_forgets", train_epoch), "wrong_value")


def test_what_may_be_wrong_with_a_gradient_or_a_log_is_not_said_as_if_it_were_known():
    smooth = f"{ZERO}        loss = F.cross_entropy(model(images), labels, label_smoothing=0.1 * (count > 0))\n"
    checked = repair("learns_then_forgets", *broken("learns_then_forgets", (BACKWARD, smooth + BACKWARD)))
    refused(checked, "still_there")
    assert "Perhaps" in checked.message
    summed = (BACKWARD, DIVIDED[0]), ("return total / len(loader)", "return total")
    checked = repair("big_batch_diverges", *broken("big_batch_diverges", *summed))
    refused(checked, "wrong_value")
    assert checked.message.endswith("too?")


# big_batch_diverges

DIVIDED = ("        (loss / accumulate).backward()\n", "        loss.backward()\n")
INDENTED_STEP = "            optimizer.step()\n"
CLIP = "            torch.nn.utils.clip_grad_norm_(model.parameters(), 0.05)\n"
ASSERTION = '    assert len(loader) % accumulate == 0, "the last step would be made of fewer batches"\n'
RAISES = '    if len(loader) % accumulate:\n        raise ValueError("the last step would be made of fewer batches")\n'
BEFORE_STEP = "        if number % accumulate == 0:\n"


WHOLE = """
def accumulated_epoch(model, loader, optimizer, accumulate):
    assert len(loader) % accumulate == 0, "the last step would be made of fewer batches"
    model.train()
    total, group = 0.0, []
    optimizer.zero_grad()
    for images, labels in loader:
        loss = F.cross_entropy(model(images), labels)
        total += loss.item()
        group.append(KEPT)
        if len(group) == accumulate:
            JOINED.backward()
            optimizer.step()
            optimizer.zero_grad()
            group = []
    return total / len(loader)
"""
GRAPHS_KEPT = WHOLE.replace("KEPT", "loss").replace("JOINED", "torch.stack(group).mean()")
JOINED_AGAIN = WHOLE.replace("KEPT", "(images, labels)").replace(
    "JOINED", "F.cross_entropy(model(torch.cat([i for i, _ in group])), torch.cat([l for _, l in group]))"
)
OWN_SUMS = """
def accumulated_epoch(model, loader, optimizer, accumulate):
    assert len(loader) % accumulate == 0, "the last step would be made of fewer batches"
    model.train()
    batches, losses = iter(loader), []
    for _ in range(len(loader) // accumulate):
        sums = [torch.zeros_like(p) for p in model.parameters()]
        for _ in range(accumulate):
            images, labels = next(batches)
            losses.append(F.cross_entropy(model(images), labels))
            for s, g in zip(sums, torch.autograd.grad(losses[-1], list(model.parameters()))):
                s += g
            losses[-1] = losses[-1].item()
        for p, s in zip(model.parameters(), sums):
            p.grad = s / accumulate
        optimizer.step()
    return sum(losses) / len(losses)
"""


@pytest.mark.slow
def test_big_batch_diverges_asks_for_the_memory_of_a_small_batch():
    for text in (GRAPHS_KEPT, JOINED_AGAIN):
        refused(repair("big_batch_diverges", *parts("big_batch_diverges", text)), "no_memory_saved")
    accepted(repair("big_batch_diverges", *parts("big_batch_diverges", OWN_SUMS)))


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        [(BACKWARD, "        (loss * (1 / accumulate)).backward()\n")],
        [(BACKWARD, "        loss.backward(torch.tensor(1 / accumulate, dtype=loss.dtype))\n")],
        [(BACKWARD, DIVIDED[0]), (ASSERTION, RAISES)],
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
        ([(INDENTED_STEP, "            optimizer.zero_grad()\n" + INDENTED_STEP)], "nothing_left"),
        ([("        loss.backward()", "        loss = loss / accumulate\n        loss.backward()")], "wrong_value"),
        ([("        if number % accumulate == 0", "        if True")], "steps"),
        ([(BACKWARD, DIVIDED[0]), ("    assert len(loader) % accumulate == 0, ", "    _ = ")], "no_assertion"),
        ([(BACKWARD, DIVIDED[0]), ("    return total / len(loader)", "    print(total / len(loader))")], "no_number"),
        ([(BACKWARD, DIVIDED[0]), ("total += loss.item()", "total += loss")], "graph_returned"),
        ([(BACKWARD, DIVIDED[0]), ("    model.train()\n", "")], "evaluation_mode"),
        ([(BACKWARD, DIVIDED[0]), ("    return total", "    model.eval()\n    return total")], "mode_left_changed"),
        ([(BACKWARD, DIVIDED[0]), (INDENTED_STEP, "    " + NEW_OPTIMIZER + INDENTED_STEP)], "other_optimizer"),
    ],
)
def test_big_batch_diverges_refuses(changes, symptom):
    refused(repair("big_batch_diverges", *broken("big_batch_diverges", *changes)), symptom)


def test_big_batch_diverges_takes_a_share_in_float32_for_one_in_float64():
    in_32_bits = BACKWARD, "        loss.backward(torch.tensor(1 / accumulate))\n"
    assert clinic.symptom("big_batch_diverges", *broken("big_batch_diverges", in_32_bits), seed=1) is None


def test_a_learning_rate_is_told_only_what_is_true_of_it():
    halved = "model.train()\n    optimizer.param_groups[0]['lr'] /= 10\n"
    healed = repair(
        "learns_then_forgets", *broken("learns_then_forgets", (BACKWARD, ZERO + BACKWARD), ("model.train()\n", halved))
    )
    refused(healed, "learning_rate")
    assert "direction" not in healed.message
    by_ten = repair(
        "big_batch_diverges", *broken("big_batch_diverges", (BACKWARD, DIVIDED[0]), ("model.train()\n", halved))
    )
    refused(by_ten, "learning_rate")
    assert by_ten.message.endswith("is 0.01 instead of 0.1. It is the caller's, and it was not at fault.")
    by_count = repair(
        "big_batch_diverges", *broken("big_batch_diverges", ("model.train()\n", halved.replace("10", "accumulate")))
    )
    assert "For plain SGD that comes to the same" in by_count.message
