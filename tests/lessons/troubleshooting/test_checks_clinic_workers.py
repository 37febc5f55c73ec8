"""The clinic's wards "numbers" and "workers": right repairs built in other ways, and wrong ones that people make."""

import pytest

from clinic_repairs import broken
from torchcourse.checks import Wrong
from torchcourse.data import mnist
from torchcourse.lessons.troubleshooting.checks.clinic import repair
from torchcourse.lessons.troubleshooting.clinic.cases import details_are_lost
from verdicts import accepted, refused

# nan_since_new_scanner: 0 times the logarithm of 0

LOSS = "nan_since_new_scanner"
SIGMOID = "p = torch.sigmoid(logits)"
SUM = "-(targets * p.log() + (1 - targets) * (1 - p).log()).mean()"
LOGS = "targets * torch.nn.functional.logsigmoid(logits) + (1 - targets) * torch.nn.functional.logsigmoid(-logits)"


@pytest.mark.parametrize(
    "changes",
    [
        [(SUM, f"-({LOGS}).mean()")],
        [(SUM, "(logits.clamp(min=0) - logits * targets + torch.log1p(torch.exp(-logits.abs()))).mean()")],
        [(SUM, "torch.nn.BCEWithLogitsLoss()(logits, targets)")],
    ],
)
def test_nan_since_new_scanner_accepts(changes):
    accepted(repair(LOSS, *broken(LOSS, *changes)))


@pytest.mark.parametrize(
    ("changes", "symptom"),
    [
        ([(SUM, SUM + ".nan_to_num()")], "nan_gradient"),
        ([(SIGMOID, SIGMOID + ".clamp(1e-7, 1 - 1e-7)")], "gradient_lost"),
        ([(SUM, "-(targets * (p + 1e-7).log() + (1 - targets) * (1 - p + 1e-7).log()).mean()")], "gradient_lost"),
        ([(SUM, "torch.nn.functional.binary_cross_entropy(p, targets)")], "gradient_lost"),
        ([(SIGMOID, "p = torch.sigmoid(logits.clamp(-15, 15))")], "gradient_lost"),
        ([(SIGMOID, "p = torch.sigmoid(logits.double())")], "still_there"),
        ([(SIGMOID, "p = torch.sigmoid(logits / 10)")], "other_loss"),
        ([(SUM, f"-({LOGS}).sum()")], "other_loss"),
        ([(SUM, "torch.nn.functional.mse_loss(p, targets)")], "other_loss"),
        ([(SUM, SUM + ".detach()")], "no_loss"),
    ],
)
def test_nan_since_new_scanner_refuses(changes, symptom):
    refused(repair(LOSS, *broken(LOSS, *changes)), symptom)


@pytest.mark.parametrize(
    ("loss", "says"),
    [
        (
            "(logits.detach().clamp(min=0) - logits * targets + torch.log1p(torch.exp(-logits.abs()))).mean()",
            "as before, and its gradient has changed",
        ),
        ("-(targets * logits.log()).mean()", "and is now nan."),  # its gradient has changed too
    ],
)
def test_nan_since_new_scanner_says_what_has_changed(loss, says):
    checked = repair(LOSS, *broken(LOSS, (SUM, loss)))
    refused(checked, "other_loss")
    assert says in checked.message


# details_are_lost: sys.exit in a worker

RECORDS = "details_are_lost"
EXIT = "sys.exit(2)"
LINES = "        self.lines = Path(path).read_text().splitlines()\n"
GET = "        return parse_record(self.lines[index])\n"
RAISE = (EXIT, 'raise ValueError("a bad record")')
COUNTED = (
    "        lines = Path(path).read_text().splitlines()\n        self.lines = [x for x in lines if len(x) == 1570]\n"
    "        print(len(lines) - len(self.lines), 'left out')\n"
)
FILTERED = LINES + "        good = [x for x in self.lines if len(x) == 1570]\n"
COLLATE = (
    "num_workers=2",
    "collate_fn=lambda rows: torch.utils.data.default_collate([r for r in rows if r]), num_workers=2",
)
TRY = "        try:\n    " + GET + "        except ValueError:\n            "


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        [(LINES, FILTERED + "        print(len(good), 'lines of', len(self.lines))\n        self.lines = good\n")],
        [(LINES, FILTERED + "        self.left_out = set(self.lines) - set(good)\n        self.lines = good\n")],
        [
            (
                LINES,
                FILTERED
                + "        __import__('logging').warning('%d lines', len(self.lines))\n        self.lines = good\n",
            )
        ],
        [
            (EXIT, "print('a bad line:', line[:5])\n        return None"),
            COLLATE,
        ],  # left out when a batch is put together
    ],
)
def test_details_are_lost_accepts(changes):
    accepted(repair(RECORDS, *broken(RECORDS, *changes)))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "symptom"),
    [
        ([("num_workers=2", "num_workers=1")], "still_there"),
        ([("num_workers=2", "num_workers=0")], "program_ends"),
        ([RAISE], "still_stops"),
        ([(LINES, COUNTED), ("int(label)", "label")], "dtype"),
        ([("    if len(values)", "    values = values.ljust(784, bytes(1))\n    if len(values)")], "invented_image"),
        ([RAISE, (GET, TRY + "return torch.zeros(784), 0\n")], "invented_image"),
        ([RAISE, (GET, TRY + "return self[(index + 1) % len(self)]\n")], "sample_twice"),
        ([(LINES, LINES.rstrip() + "[100:140]\n")], "samples_lost"),
        ([(LINES, FILTERED + "        self.lines = good\n        print(len(good), 'from', path)\n")], "silent"),
        ([(EXIT, "return None"), COLLATE], "silent"),
        ([(LINES, FILTERED + "        self.lines = good\n"), (" / 255", "")], "pixels_changed"),
        (
            [
                (LINES, LINES + "        self.lines = [x for x in self.lines if len(x) == 1570]\n"),
                ("num_workers=2", "num_workers=0"),
            ],
            "no_workers",
        ),
        (
            [
                (LINES, LINES + "        self.lines = [x for x in self.lines if len(x) == 1570]\n"),
                ("        shuffle=True,\n        generator=order,\n", ""),
            ],
            "no_shuffle",
        ),
        (
            [
                (LINES, FILTERED + "        print(len(self.lines))\n        self.lines = good\n"),
                ("num_workers=2", "num_workers=1"),
            ],
            "fewer_workers",
        ),
        (
            [
                (LINES, FILTERED + "        print(len(self.lines))\n        self.lines = good\n"),
                ("        generator=order,\n", ""),
            ],
            "not_repeatable",
        ),
        (
            [
                (LINES, FILTERED + "        print(len(self.lines))\n        self.lines = good\n"),
                ("manual_seed(seed)\n    return", "manual_seed(0)\n    return"),
            ],
            "seed_ignored",
        ),
        (
            [(LINES, FILTERED + "        self.lines = good\n        Path(path).write_text('\\n'.join(good))\n")],
            "inputs_changed",
        ),
    ],
)
def test_details_are_lost_refuses(changes, symptom):
    refused(repair(RECORDS, *broken(RECORDS, *changes)), symptom)


def test_details_are_lost_says_that_no_record_arrives():
    with pytest.raises(Wrong, match="none arrives") as refusal:
        details_are_lost._order([], 3, (1,))
    assert refusal.value.symptom == "samples_lost"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("line", "error", "at"),
    [
        ("[parse_record(x) for x in self.lines]", "ValueError: a bad record", 'raise ValueError("a bad record")'),
        ("open('index')", "FileNotFoundError: [Errno 2] No such file", "open('index')"),  # which no dead worker left
    ],
)
def test_details_are_lost_says_when_the_loader_cannot_be_made_and_at_which_line(line, error, at):
    checked = repair(RECORDS, *broken(RECORDS, RAISE, (LINES, f"{LINES}        {line}\n")))
    refused(checked, "still_stops")
    assert f"or does not begin, with {error}" in checked.message
    assert at in checked.message


def test_augmentation_adds_nothing_says_at_which_line_of_a_worker_it_stops():
    checked = repair("augmentation_adds_nothing", *broken("augmentation_adds_nothing", ("0.5, 1.5)", "0.5, 1.5) / 0")))
    refused(checked, "stops")
    assert "brightness = self.random.uniform(0.5, 1.5) / 0\nFetching stops there: it ends in " in checked.message


@pytest.mark.parametrize("numbers", [[0, 2, 2], [0, 0, 0]])
def test_details_are_lost_says_that_a_record_comes_twice(numbers):
    pixels, labels = mnist()[:3]
    pixels = ((pixels - pixels.min()) / (pixels.max() - pixels.min()) * 255).byte().flatten(1) / 255
    with pytest.raises(Wrong, match=r"Of 3, 2 can be read: \d come twice\.") as refusal:
        details_are_lost._order([(pixels[numbers], labels[numbers])], 3, (1,))
    assert refusal.value.symptom == "sample_twice"


# augmentation_adds_nothing: one generator, copied into each worker

JITTER = "augmentation_adds_nothing"
MADE = "        self.random = np.random.default_rng(seed)\n"
DRAW = "        brightness = self.random.uniform(0.5, 1.5)\n"
FROM_TORCH = "        brightness = 0.5 + torch.rand(()).item()\n"
OPTION = "num_workers=2"
BY_WORKER = (
    (
        MADE,
        "        self.random = None\n",
    ),
    (
        DRAW,
        "        if self.random is None:\n            self.random = np.random.default_rng({})\n" + DRAW,
    ),
)


def by_worker(what):
    return [BY_WORKER[0], (BY_WORKER[1][0], BY_WORKER[1][1].format(what))]


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        by_worker("torch.utils.data.get_worker_info().seed"),
        [(DRAW, "        brightness = 0.5 + torch.rand(1)\n")],  # a tensor with a dimension more
        [(DRAW, "        brightness = np.random.uniform(0.5, 1.5)\n")],  # which PyTorch seeds in each worker
        [  # reseeded when a worker starts
            (
                OPTION,
                "worker_init_fn=lambda _: setattr("
                "torch.utils.data.get_worker_info().dataset, 'random', np.random.default_rng(torch.initial_seed())), "
                + OPTION,
            )
        ],
    ],
)
def test_augmentation_adds_nothing_accepts(changes):
    accepted(repair(JITTER, *broken(JITTER, *changes)))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "symptom"),
    [
        (by_worker("torch.utils.data.get_worker_info().id"), "same_in_epochs"),
        ([(DRAW, "        brightness = np.random.default_rng(index).uniform(0.5, 1.5)\n")], "same_in_epochs"),
        ([(OPTION, OPTION + ", persistent_workers=True")], "still_there"),
        ([(MADE, "        np.random.seed(seed)\n" + MADE)], "still_there"),
        ([(OPTION, "num_workers=0")], "no_workers"),
        (by_worker(""), "not_repeatable"),
        ([(DRAW, "        brightness = 1.0\n")], "no_augmentation"),
        ([(DRAW, "        brightness = 0.5 + 0.25 * int(torch.randint(5, ()))\n")], "no_augmentation"),
        (
            [
                ("generator=order,", ""),
                ("shuffle=True", "shuffle=False"),
                (DRAW, FROM_TORCH),
            ],
            "no_shuffle",
        ),
        (
            [("        generator=order,\n", ""), (DRAW, FROM_TORCH)],
            "not_repeatable",
        ),
        ([(OPTION, "num_workers=1"), *by_worker("torch.utils.data.get_worker_info().seed")], "fewer_workers"),
        (
            [
                (DRAW, "        brightness = 0.5 + torch.rand(()).item()\n        self.images[index] *= brightness\n"),
                ("self.images[index] * brightness", "self.images[index].clone()"),
            ],
            "inputs_changed",
        ),
        (
            [("manual_seed(seed)", "manual_seed(0)"), (DRAW, FROM_TORCH)],
            "seed_ignored",
        ),
        ([("batch_size=32", "batch_size=8"), (DRAW, FROM_TORCH)], "other_batches"),
        ([(OPTION, OPTION + ", drop_last=True"), (DRAW, FROM_TORCH)], "samples_lost"),
    ],
)
def test_augmentation_adds_nothing_refuses(changes, symptom):
    refused(repair(JITTER, *broken(JITTER, *changes)), symptom)


@pytest.mark.slow
def test_augmentation_adds_nothing_says_that_the_labels_are_different_ones():
    scaled = [(DRAW, FROM_TORCH), ("self.labels[index],", "0 * index,")]
    checked = repair(JITTER, *broken(JITTER, *scaled))
    refused(checked, "samples_lost")
    assert "images with 1 different labels." in checked.message
