"""The clinic's ward "memory": right repairs built in other ways, and the wrong ones that people make."""

import pytest

from clinic_repairs import broken, parts
from torchcourse.lessons.troubleshooting.checks.clinic import repair
from verdicts import accepted, refused

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


@pytest.mark.slow
def test_swelling_run_accepts_detached_losses_and_says_what_they_hold():
    lists = [
        ("running, probed = 0.0, 0.0", "running, probed = [], []"),
        (RUNNING, "        running.append(loss.detach())\n"),
        (PROBED, "        probed.append(F.mse_loss(model(probe), probe).detach())\n"),
        (DENOISED, "    return torch.stack(running).mean(), torch.stack(probed).mean()\n"),
    ]
    checked = repair("swelling_run", *broken("swelling_run", *lists))
    accepted(checked)
    assert "still leaves 5120 bytes" in checked.message
    with_graphs = [(old, new.replace(".detach()", "")) for old, new in lists]
    refused(repair("swelling_run", *broken("swelling_run", *with_graphs)), "still_there")


@pytest.mark.parametrize(
    ("changes", "symptom"),
    [
        ([(PROBED, PROBED + "        del loss\n        torch.cuda.empty_cache()\n")], "still_there"),
        ([(DENOISED, "    running, probed = running.detach(), probed.detach()\n" + DENOISED)], "still_there"),
        ([(RUNNING, "        running += loss.item()\n")], "still_there"),
        ([(PROBED, NO_GRAD)], "graph_grows"),
        ([(RUNNING, "        running += loss.item()\n"), (PROBED, "")], "wrong_value"),
        ([(RUNNING, "        running = loss.item()\n"), (PROBED, NO_GRAD)], "wrong_value"),
        (  # each sample alike, where it was each batch
            [
                (RUNNING, "        running += loss.item() * len(images) * len(loader) / len(loader.dataset)\n"),
                (PROBED, NO_GRAD),
            ],
            "wrong_value",
        ),
        (
            [
                (FLAT, "        torch.set_grad_enabled(True)\n" + FLAT),
                (RUNNING, "        running += loss.item()\n"),
                (PROBED, "        torch.set_grad_enabled(False)\n" + PROBED),
            ],
            "grad_off",
        ),
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
        (
            [
                (RUNNING, "        running += loss.item()\n"),
                (PROBED, "        model.eval()\n" + NO_GRAD),
            ],
            "mode_left_changed",
        ),
        (
            [
                (RUNNING, "        running += loss.item()\n        if running > 3:\n            break\n"),
                (PROBED, NO_GRAD),
            ],
            "steps",
        ),
        (
            [(RUNNING, "        running += loss.item()\n"), (PROBED, NO_GRAD), (DENOISED, "    return running\n")],
            "wrong_type",
        ),
    ],
)
def test_swelling_run_refuses(changes, symptom):
    refused(repair("swelling_run", *broken("swelling_run", *changes)), symptom)


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


def counted(first: str, each: str, last: str) -> str:
    """An epoch whose own lines stand before the loop, at the end of each step, and at the end."""
    return f"""
def reconstruction_epoch(model, loader, optimizer, near=0.5):
    {first}
    for images, _ in loader:
        images = images.flatten(1)
        optimizer.zero_grad()
        output = model(images)
        F.mse_loss(output, images).backward()
        optimizer.step()
        off = (output.detach() - images).abs()
        {each}
    {last}
"""


PIXELS = "loader.dataset[0][0].numel()"
BUFFER = counted(
    f"kept, done = torch.empty(len(loader.dataset), {PIXELS}), 0",
    "kept[done : done + len(off)] = off; done += len(off)",
    "return kept.square().mean().item(), (kept < near).float().mean().item()",
)
NUMPY = counted(
    "kept = []",
    "kept.append(off.numpy().copy())",
    "import numpy; a = numpy.concatenate(kept); return (a**2).mean(), (a < near).mean()",
)
NUMPY_BUFFER = counted(
    f"import numpy; kept, done = numpy.empty((len(loader.dataset), {PIXELS}), 'float32'), 0",
    "kept[done : done + len(off)] = off.numpy(); done += len(off)",
    "return (kept**2).mean(), (kept < near).mean()",
)
PYTHON = counted(
    "kept = []",
    "kept += off.flatten().tolist()",
    "return sum(x * x for x in kept) / len(kept), sum(x < near for x in kept) / len(kept)",
)
PER_SAMPLE = counted(
    "squares, close = [], []",
    "squares += off.square().mean(1).tolist(); close += (off < near).float().mean(1).tolist()",
    "return sum(squares) / len(squares), sum(close) / len(close)",
)


LAST_FEW = counted(
    "squares, close, count, last = 0.0, 0, 0, []",
    "last = [*last, off][-5:]; squares += off.square().sum(); close += (off < near).sum(); count += off.numel()",
    "return squares / count, close / count",
)


@pytest.mark.slow
def test_sawtooth_accepts_what_keeps_the_last_few_batches():
    accepted(repair("sawtooth", *parts("sawtooth", LAST_FEW)))


@pytest.mark.slow
def test_sawtooth_lends_a_loader_that_can_be_asked_for_its_batch_size():
    skips = (
        "        images = images.flatten(1)\n",
        "        if len(images) < loader.batch_size:\n            continue\n",
    )
    refused(repair("sawtooth", *parts("sawtooth", ONLY_SUMS.replace(skips[0], skips[1] + skips[0]))), "steps")


@pytest.mark.slow
def test_sawtooth_accepts_a_number_for_each_sample():
    accepted(repair("sawtooth", *parts("sawtooth", PER_SAMPLE)))


@pytest.mark.slow
def test_sawtooth_accepts():
    accepted(repair("sawtooth", *parts("sawtooth", ONLY_SUMS)))
    numbers = ONLY_SUMS.replace("(total[0] / total[2]).item()", "total[0] / total[2]")
    accepted(repair("sawtooth", *parts("sawtooth", numbers)))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("given", "symptom"),
    [
        (broken("sawtooth", (APPEND, "        outputs.append(output.detach())\n")), "still_there"),
        (broken("sawtooth", (APPEND, "        outputs.append(output.detach().half())\n")), "half"),
        (broken("sawtooth", (APPEND, "        outputs.append(output.detach().cpu())\n")), "still_there"),
        (broken("sawtooth", (OFF, "    torch.cuda.empty_cache()\n" + OFF)), "still_there"),
        (parts("sawtooth", MEANS), "mean_of_means"),
        (parts("sawtooth", MEANS.replace("sum(errors) / len(errors)", "errors[-1]")), "last_batch"),
        (parts("sawtooth", AFTERWARDS), "wrong_value"),
        (parts("sawtooth", ONLY_SUMS.replace("loss.backward()", "(2 * loss).backward()")), "training_changed"),
        (parts("sawtooth", ONLY_SUMS.replace(*SKIP)), "steps"),
        (
            parts("sawtooth", ONLY_SUMS.replace("    return (total", "    model.eval()\n    return (total")),
            "mode_left_changed",
        ),
        (parts("sawtooth", BUFFER), "grows_with_epoch"),
        (parts("sawtooth", NUMPY), "grows_outside"),
        (parts("sawtooth", NUMPY_BUFFER), "grows_outside"),
        (parts("sawtooth", PYTHON), "grows_outside"),
        (parts("sawtooth", ONLY_SUMS.replace("    return (total", "    return None, (total")), "wrong_type"),
    ],
)
def test_sawtooth_refuses(given, symptom):
    refused(repair("sawtooth", *given), symptom)
