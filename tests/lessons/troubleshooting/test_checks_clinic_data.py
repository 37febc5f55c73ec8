"""The clinic's ward "data": right repairs built in other ways, and the wrong ones that people make."""

import pytest

from clinic_repairs import broken
from torchcourse.lessons.troubleshooting import clinic
from torchcourse.lessons.troubleshooting.checks.clinic import repair
from verdicts import accepted, refused

# idle_since_tuesday: unreadable files are left out of the images alone

SCANS = "idle_since_tuesday"
LABELS = "torch.tensor(labels[: len(images)])"
SKIP = "            continue\n"
DELETED = "        except OSError:\n            del labels[len(images)]\n"
CATCH = "        except OSError:  # the scanner sometimes leaves an unreadable file\n"
OPENED = "            images.append(torch.tensor(asarray(Image.open(path))) / 255)\n"


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        [
            (SKIP, "            labels[int(path.stem)] = None\n"),
            (LABELS, "torch.tensor([x for x in labels if x is not None])"),
        ],
        [
            ("    images = []\n", "    images, kept = [], []\n"),
            (SKIP, SKIP + "        kept.append(int(path.stem))\n"),
            (LABELS, "torch.tensor(labels)[kept]"),
        ],
    ],
)
def test_idle_since_tuesday_accepts(changes):
    accepted(repair(SCANS, *broken(SCANS, *changes)))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "symptom"),
    [
        ([("    images = []\n", "    labels = labels[1:]\n    images = []\n")], "still_there"),
        ([("    images = []\n", "    del labels[41]\n    images = []\n")], "still_there"),
        ([(LABELS, "torch.tensor(labels[-len(images) :])")], "still_there"),
        ([(LABELS, "torch.tensor(labels)")], "lengths_differ"),
        ([(CATCH + SKIP, CATCH + "            images.append(torch.zeros(28, 28))\n")], "invented_image"),
        (
            [(CATCH + SKIP, CATCH + "            images.append(images[-1] if images else torch.zeros(28, 28))\n")],
            "sample_twice",
        ),
        ([(SKIP, "            break\n")], "samples_lost"),
        ([(CATCH + SKIP, DELETED), (".unsqueeze(1)", "")], "wrong_type"),
        ([(CATCH + SKIP, DELETED + "            path.unlink()\n")], "inputs_changed"),
        (
            [
                (CATCH + SKIP, DELETED),
                ("    return torch", "    (folder / 'labels.csv').write_text('')\n    return torch"),
            ],
            "inputs_changed",
        ),
        ([(CATCH + SKIP, DELETED), ("torch.tensor(labels[: len(images)])", "labels")], "wrong_type"),
        ([(CATCH + SKIP, DELETED), (LABELS, "torch.tensor(labels).float()")], "wrong_type"),
        ([(CATCH + SKIP, DELETED), (f", {LABELS}", "")], "wrong_type"),
        ([(CATCH + SKIP, DELETED), (" / 255", " / 256")], "pixels_changed"),
        ([(SKIP, "            raise\n")], "stops"),
        (  # opened, and not read: the header of a file can be whole
            [
                (OPENED, "            scan = Image.open(path)\n"),
                (CATCH + SKIP, DELETED + SKIP + OPENED.replace("Image.open(path)", "scan")[4:]),
            ],
            "stops",
        ),
        ([("    return torch.stack", "    assert len(images) == len(rows)\n    return torch.stack")], "stops"),
    ],
)
def test_idle_since_tuesday_refuses(changes, symptom):
    refused(repair(SCANS, *broken(SCANS, *changes)), symptom)


# promised_more: copies of one original on both sides of the split

SPLIT = "promised_more"
AUGMENT = "    images, labels = augment(images, copies), labels.repeat(copies)\n"
RETURN = "    return (images[train], labels[train]), (images[val], labels[val])\n"
AUGMENTED = "    return (augment(images[train], copies), labels[train].repeat(copies)), (images[val], labels[val])\n"
FIRST = (AUGMENT, "")
ORDER = "    order = torch.randperm(len(images))\n"
BY_CLASS = """\
    order = torch.empty(len(images))  # of each image its place in its class, as a share
    for digit in labels.unique():
        count = int((labels == digit).sum())
        order[labels == digit] = torch.randperm(count) / count
"""


@pytest.mark.parametrize(
    "changes",
    [
        [  # copies in the validation set too
            FIRST,
            (
                RETURN,
                AUGMENTED.replace("(images[val], labels[val])", "(augment(images[val], 2), labels[val].repeat(2))"),
            ),
        ],
        [  # the share of each class
            FIRST,
            (RETURN, AUGMENTED),
            (ORDER, BY_CLASS),
            ("order[:held_back], order[held_back:]", "order < share, order >= share"),
        ],
        [  # all copies made first, and cut by the number of the original
            (
                AUGMENT,
                "    originals = len(images)\n" + AUGMENT + "    number = torch.arange(originals).repeat(copies)\n",
            ),
            ("torch.randperm(len(images))", "torch.randperm(originals)"),
            ("share * len(images)", "share * originals"),
            (
                "order[:held_back], order[held_back:]",
                "torch.isin(number, order[:held_back]), torch.isin(number, order[held_back:])",
            ),
        ],
    ],
)
def test_promised_more_accepts(changes):
    accepted(repair(SPLIT, *broken(SPLIT, *changes)))


@pytest.mark.parametrize(
    ("changes", "symptom"),
    [
        ([("    order =", "    torch.manual_seed(1)\n    order =")], "still_there"),
        ([("torch.randperm(len(images))", "torch.arange(len(images))")], "still_there"),
        (
            [
                (AUGMENT, "    plain, digits = images, labels\n" + AUGMENT),
                ("(images[val], labels[val])", "(plain, digits)"),
            ],
            "still_there",
        ),
        ([FIRST], "copies_lost"),
        ([FIRST, (RETURN, AUGMENTED), ("round(share", "round(0.2")], "other_share"),
        ([FIRST, (RETURN, AUGMENTED), ("val, train = order", "train, val = order")], "other_share"),
        ([FIRST, (RETURN, AUGMENTED.replace("copies", "(copies + 1)"))], "too_many_copies"),
        ([FIRST, (RETURN, AUGMENTED), ("    order =", "    torch.manual_seed(0)\n    order =")], "seeded"),
        ([FIRST, (RETURN, AUGMENTED), ("    order =", "    images -= images.mean()\n    order =")], "inputs_changed"),
        ([FIRST, (RETURN, "    return images[train], images[val]\n")], "wrong_type"),
        (
            [
                FIRST,
                (RETURN, AUGMENTED.replace("augment(images[train], copies)", "images[train].repeat(copies, 1, 1, 1)")),
            ],
            "no_augmentation",
        ),
        ([FIRST, (RETURN, AUGMENTED), ("torch.randperm(len(images))", "torch.arange(len(images))")], "by_position"),
        ([FIRST, (RETURN, AUGMENTED), ("order[held_back:]", "order[2 * held_back :]")], "samples_lost"),
        (
            [
                FIRST,
                (RETURN, AUGMENTED.replace("(images[train], copies)", "(images[train], 1).repeat(copies, 1, 1, 1)")),
            ],
            "copies_alike",
        ),
        ([FIRST, (RETURN, AUGMENTED), ("share * len(images)", "share * len(images) / copies")], "other_share"),
        ([FIRST, (RETURN, AUGMENTED.replace("repeat(copies)", "repeat_interleave(copies)"))], "labels_mixed"),
        (
            [
                FIRST,
                (RETURN, AUGMENTED.replace("(images[val], labels[val])", "(augment(images[val], 2), labels[val])")),
            ],
            "lengths_differ",
        ),
        (
            [FIRST, (RETURN, AUGMENTED.replace("(images[val], labels[val])", "(images[val].flatten(1), labels[val])"))],
            "wrong_type",
        ),
        (
            [FIRST, (RETURN, AUGMENTED.replace("(images[val], labels[val])", "(images[val], labels[val].tolist())"))],
            "wrong_type",
        ),
    ],
)
def test_promised_more_refuses(changes, symptom):
    refused(repair(SPLIT, *broken(SPLIT, *changes)), symptom)


def test_promised_more_counts_the_versions_of_each_original():
    assert "the training set has 1 of each original, and 4 versions" in repair(SPLIT, *broken(SPLIT, FIRST)).message


# good_only_in_crowds: statistics of the request at hand

READER = "good_only_in_crowds"
INPUTS = "        inputs = standardize(scans.flatten(1))\n"
PREDICT = "standardize(scans.flatten(1))).argmax"
STATISTICS = "(pixels - pixels.mean(dim=0)) / pixels.std()"
CLASS_WIDE = "        DigitReader.seen = scans.flatten(1)\n"
LIKE = [
    ("def standardize(pixels)", "def standardize(pixels, like=None)"),
    (
        STATISTICS,
        "(pixels - (pixels if like is None else like).mean(dim=0)) / (pixels if like is None else like).std()",
    ),
]


@pytest.mark.parametrize(
    "changes",
    [
        [  # each scan by itself
            (STATISTICS, "(pixels - pixels.mean(dim=1, keepdim=True)) / pixels.std(dim=1, keepdim=True)")
        ],
        [  # kept in a layer of the model
            (STATISTICS, "pixels"),
            (
                "mlp(784, 32, 10)",
                "torch.nn.Sequential(torch.nn.BatchNorm1d(784, affine=False, momentum=None), mlp(784, 32, 10))",
            ),
            (
                INPUTS,
                "        inputs = scans.flatten(1)\n        self.model.train()\n"
                "        self.model[0](inputs)\n        self.model.eval()\n",
            ),
        ],
    ],
)
def test_good_only_in_crowds_accepts(changes):
    accepted(repair(READER, *broken(READER, *changes)))


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2, 4])  # of the check that is seen, and of hidden tests
@pytest.mark.parametrize("layer", ["BatchNorm1d(784)", "BatchNorm1d(784, affine=False)"])
def test_good_only_in_crowds_accepts_batch_norm_for_each_scanner(layer, seed):
    changes = [
        (STATISTICS, "pixels"),
        ("mlp(784, 32, 10)", f"torch.nn.Sequential(torch.nn.{layer}, mlp(784, 32, 10))"),
        (INPUTS, "        self.model.train()\n" + INPUTS),
        ("        return self.model(", "        self.model.eval()\n        return self.model("),
    ]
    assert clinic.examine(READER, *broken(READER, *changes), seed=seed).startswith("Healed")


@pytest.mark.parametrize(
    ("changes", "symptom"),
    [
        (
            [("    def predict(self, scans):\n", "    def predict(self, scans):\n        assert len(scans) >= 50\n")],
            "refuses_requests",
        ),
        ([("pixels.std()", "(pixels.std() + 1e-6)")], "still_there"),
        (
            [
                (INPUTS, "        self.mean = scans.flatten(1).mean(dim=0)\n" + INPUTS),
                (PREDICT, "(scans.flatten(1) - self.mean) / scans.std()).argmax"),
            ],
            "still_there",
        ),
        ([(PREDICT, "scans.flatten(1)).argmax")], "other_numbers"),
        ([("argmax(dim=1)", "argmax(dim=0)")], "shape"),
        ([(".argmax(dim=1)", ".argmax().item()")], "wrong_type"),
        ([(PREDICT, "(scans.flatten(1) / 255 - 0.1307) / 0.3081).argmax")], "only_this_scanner"),
        ([(STATISTICS, "(pixels / 255 - 0.1307) / 0.3081")], "only_this_scanner"),
        (
            [
                (INPUTS, CLASS_WIDE + INPUTS),
                (PREDICT, "standardize(scans.flatten(1), DigitReader.seen)).argmax"),
                *LIKE,
            ],
            "shared_numbers",
        ),
        ([(STATISTICS, "pixels.sub_(pixels.mean(dim=1, keepdim=True)).div_(pixels.std())")], "inputs_changed"),
        ([(STATISTICS, "(pixels - 30) / 70"), ("lr=0.02", "lr=0.005")], "training_changed"),
    ],
)
def test_good_only_in_crowds_refuses(changes, symptom):
    refused(repair(READER, *broken(READER, *changes)), symptom)
