"""The check of the clinic's second notebook: right repairs built in other ways, and the wrong ones that people make."""

import re

import pytest

from clinic_repairs import broken, reference
from torchcourse.lessons.troubleshooting import clinic
from torchcourse.lessons.troubleshooting.checks.clinic import repair
from verdicts import accepted, refused

# What a user sees, before and after


def numbers(pattern, slug, *parts):
    return [float(found) for found in re.findall(pattern, clinic.find(slug).log(clinic.Program(slug, *parts)))]


@pytest.mark.parametrize(
    ("slug", "pattern", "ill", "healthy"),
    [
        ("idle_since_tuesday", r"training loss ([\d.]+)", lambda seen: seen[-1] > 1.5, lambda seen: seen[-1] < 0.3),
        ("promised_more", r"([\d.]+)%", lambda seen: seen[0] > seen[1] + 8, lambda seen: abs(seen[0] - seen[1]) < 8),
        ("good_only_in_crowds", r"([\d.]+)% right", lambda seen: seen[-1] < 20, lambda seen: min(seen) > 85),
        ("nan_since_new_scanner", r"(nan|[\d.]+)\n", lambda seen: seen[1] != seen[1], lambda seen: seen[-1] < 0.1),
        ("details_are_lost", r"worker \(pid.* exited (\d*)", None, lambda seen: seen == []),
        (
            "augmentation_adds_nothing",
            r"brightness ([\d.]+)",
            lambda seen: len(set(seen)) == len(seen) / 4,
            lambda seen: len(set(seen)) == len(seen) == 8,
        ),
        ("images_nobody_sees", r"(\d+) different", lambda seen: max(seen) < 110, lambda seen: set(seen) == {128}),
        ("closed_connection", r"(\d+)\] epochs", lambda seen: seen == [], lambda seen: len(seen) == 1),
        (
            "resumes_elsewhere",
            r"loss ([\d.]+)",
            lambda seen: abs(seen[1] - seen[0]) > 0.01,
            lambda seen: abs(seen[1] - seen[0]) < 1e-4,
        ),
    ],
)
def test_the_broken_program_shows_its_symptom_and_the_repaired_one_does_not(slug, pattern, ill, healthy):
    if ill is None:
        assert "exited unexpectedly" in clinic.find(slug).log(clinic.Program(slug))
    else:
        assert ill(numbers(pattern, slug))
    assert healthy(numbers(pattern, slug, *reference(slug)))


# idle_since_tuesday: unreadable files are left out of the images alone

SCANS = "idle_since_tuesday"
LABELS = "torch.tensor(labels[: len(images)])"
SKIP = "            continue\n"
CATCH = "        except OSError:  # the scanner sometimes leaves an unreadable file\n"


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


@pytest.mark.parametrize(
    ("changes", "symptom"),
    [
        ([("    images = []\n", "    labels = labels[1:]\n    images = []\n")], "still_shifted"),
        ([("    images = []\n", "    del labels[41]\n    images = []\n")], "still_shifted"),
        ([(LABELS, "torch.tensor(labels[-len(images) :])")], "still_shifted"),
        ([(LABELS, "torch.tensor(labels)")], "lengths_differ"),
        ([(CATCH + SKIP, CATCH + "            images.append(torch.zeros(28, 28))\n")], "invented_image"),
        (
            [(CATCH + SKIP, CATCH + "            images.append(images[-1] if images else torch.zeros(28, 28))\n")],
            "scan_twice",
        ),
        ([(SKIP, "            break\n")], "scans_lost"),
        ([(SKIP, "            raise\n")], "stops"),
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
        ([("    order =", "    torch.manual_seed(1)\n    order =")], "still_leaks"),
        ([("torch.randperm(len(images))", "torch.arange(len(images))")], "still_leaks"),
        (
            [
                (AUGMENT, "    plain, digits = images, labels\n" + AUGMENT),
                ("(images[val], labels[val])", "(plain, digits)"),
            ],
            "still_leaks",
        ),
        ([FIRST], "copies_lost"),
        (
            [
                FIRST,
                (RETURN, AUGMENTED.replace("augment(images[train], copies)", "images[train].repeat(copies, 1, 1, 1)")),
            ],
            "no_augmentation",
        ),
        ([FIRST, (RETURN, AUGMENTED), ("torch.randperm(len(images))", "torch.arange(len(images))")], "by_position"),
        ([FIRST, (RETURN, AUGMENTED), ("order[held_back:]", "order[2 * held_back :]")], "originals_lost"),
        ([FIRST, (RETURN, AUGMENTED), ("share * len(images)", "share * len(images) / copies")], "other_share"),
        ([FIRST, (RETURN, AUGMENTED.replace("repeat(copies)", "repeat_interleave(copies)"))], "labels_mixed"),
    ],
)
def test_promised_more_refuses(changes, symptom):
    refused(repair(SPLIT, *broken(SPLIT, *changes)), symptom)


# good_only_in_crowds: statistics of the request at hand

READER = "good_only_in_crowds"
INPUTS = "        inputs = standardise(scans.flatten(1))\n"
PREDICT = "standardise(scans.flatten(1))).argmax"
STATISTICS = "(pixels - pixels.mean(dim=0)) / pixels.std()"
KEEP = "        self.seen = scans.flatten(1)\n"


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


@pytest.mark.parametrize(
    ("changes", "symptom"),
    [
        (
            [("    def predict(self, scans):\n", "    def predict(self, scans):\n        assert len(scans) >= 50\n")],
            "refuses_requests",
        ),
        ([("pixels.std()", "(pixels.std() + 1e-6)")], "depends_on_request"),
        (
            [
                (INPUTS, "        self.mean = scans.flatten(1).mean(dim=0)\n" + INPUTS),
                (PREDICT, "(scans.flatten(1) - self.mean) / scans.std()).argmax"),
            ],
            "depends_on_request",
        ),
        ([(PREDICT, "scans.flatten(1)).argmax")], "other_numbers"),
        ([(PREDICT, "(scans.flatten(1) / 255 - 0.1307) / 0.3081).argmax")], "only_this_scanner"),
        ([(STATISTICS, "(pixels / 255 - 0.1307) / 0.3081")], "only_this_scanner"),
        ([(STATISTICS, "(pixels - 30) / 70"), ("lr=0.02", "lr=0.005")], "training_changed"),
    ],
)
def test_good_only_in_crowds_refuses(changes, symptom):
    refused(repair(READER, *broken(READER, *changes)), symptom)


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
        ([(SIGMOID, SIGMOID + ".clamp(1e-7, 1 - 1e-7)")], "no_gradient"),
        ([(SUM, "-(targets * (p + 1e-7).log() + (1 - targets) * (1 - p + 1e-7).log()).mean()")], "no_gradient"),
        ([(SUM, "torch.nn.functional.binary_cross_entropy(p, targets)")], "no_gradient"),
        ([(SIGMOID, "p = torch.sigmoid(logits.clamp(-15, 15))")], "no_gradient"),
        ([(SIGMOID, "p = torch.sigmoid(logits.double())")], "still_nan"),
        ([(SIGMOID, "p = torch.sigmoid(logits / 10)")], "other_loss"),
        ([(SUM, f"-({LOGS}).sum()")], "other_loss"),
        ([(SUM, "torch.nn.functional.mse_loss(p, targets)")], "other_loss"),
        ([(SUM, SUM + ".detach()")], "no_loss"),
    ],
)
def test_nan_since_new_scanner_refuses(changes, symptom):
    refused(repair(LOSS, *broken(LOSS, *changes)), symptom)


# details_are_lost: sys.exit in a worker

RECORDS = "details_are_lost"
EXIT = "sys.exit(2)"
LINES = "        self.lines = Path(path).read_text().splitlines()\n"
GET = "        return parse_record(self.lines[index])\n"
RAISE = (EXIT, 'raise ValueError("a bad record")')
TRY = "        try:\n    " + GET + "        except ValueError:\n            "


@pytest.mark.parametrize(
    "changes",
    [
        [(LINES, LINES + "        self.lines = [x for x in self.lines if len(x.partition(' ')[2]) == 1568]\n")],
        [  # left out when a batch is put together
            (EXIT, "return None"),
            (
                "multiprocessing_context=",
                "collate_fn=lambda rows: torch.utils.data.default_collate("
                "[r for r in rows if r]), multiprocessing_context=",
            ),
        ],
    ],
)
def test_details_are_lost_accepts(changes):
    accepted(repair(RECORDS, *broken(RECORDS, *changes)))


@pytest.mark.parametrize(
    ("changes", "symptom"),
    [
        ([("num_workers=2", "num_workers=1")], "worker_dies"),
        ([('num_workers=2, multiprocessing_context="fork"', "num_workers=0")], "program_ends"),
        ([RAISE], "still_stops"),
        ([("    if len(values)", "    values = values.ljust(784, bytes(1))\n    if len(values)")], "invented_image"),
        ([RAISE, (GET, TRY + "return torch.zeros(784), 0\n")], "invented_image"),
        ([RAISE, (GET, TRY + "return self[(index + 1) % len(self)]\n")], "record_twice"),
        ([(LINES, LINES.rstrip() + "[100:140]\n")], "records_lost"),
        (
            [
                (LINES, LINES + "        self.lines = [x for x in self.lines if len(x) == 1570]\n"),
                ('num_workers=2, multiprocessing_context="fork"', "num_workers=0"),
            ],
            "no_workers",
        ),
        (
            [
                (LINES, LINES + "        self.lines = [x for x in self.lines if len(x) == 1570]\n"),
                ("shuffle=True, generator=order, ", ""),
            ],
            "no_shuffle",
        ),
    ],
)
def test_details_are_lost_refuses(changes, symptom):
    refused(repair(RECORDS, *broken(RECORDS, *changes)), symptom)


# augmentation_adds_nothing: one generator, copied into each worker

JITTER = "augmentation_adds_nothing"
MADE = "        self.random = np.random.default_rng(seed)\n"
DRAW = "        brightness = self.random.uniform(0.5, 1.5)\n"
OPTION = 'multiprocessing_context="fork"'
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


@pytest.mark.parametrize(
    "changes",
    [
        by_worker("torch.utils.data.get_worker_info().seed"),
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


@pytest.mark.parametrize(
    ("changes", "symptom"),
    [
        (by_worker("torch.utils.data.get_worker_info().id"), "same_in_epochs"),
        ([(DRAW, "        brightness = np.random.default_rng(index).uniform(0.5, 1.5)\n")], "same_in_epochs"),
        ([(OPTION, OPTION + ", persistent_workers=True")], "same_in_workers"),
        ([(MADE, "        np.random.seed(seed)\n" + MADE)], "same_in_workers"),
        ([("num_workers=2", "num_workers=0"), (OPTION, "timeout=0")], "no_workers"),
        (by_worker(""), "not_repeatable"),
        ([(DRAW, "        brightness = 1.0\n")], "no_augmentation"),
        (
            [
                ("generator=order,", ""),
                ("shuffle=True", "shuffle=False"),
                (DRAW, "        brightness = 0.5 + torch.rand(()).item()\n"),
            ],
            "no_shuffle",
        ),
        (
            [("manual_seed(seed)", "manual_seed(0)"), (DRAW, "        brightness = 0.5 + torch.rand(()).item()\n")],
            "seed_ignored",
        ),
    ],
)
def test_augmentation_adds_nothing_refuses(changes, symptom):
    refused(repair(JITTER, *broken(JITTER, *changes)), symptom)


# images_nobody_sees: another epoch number on each rank

SAMPLED = "images_nobody_sees"
EPOCH = "epoch * dist.get_world_size() + dist.get_rank()"
SET = f"        sampler.set_epoch({EPOCH})"
BATCHES = "        for images, labels in loader:\n"


@pytest.mark.parametrize(
    "changes",
    [
        [(EPOCH, "epoch * dist.get_world_size()")],
        [
            (
                "    sampler = DistributedSampler(data, seed=seed)\n"
                "    loader = DataLoader(data, batch_size=16, sampler=sampler)\n",
                "",
            ),
            (
                f"        sampler.set_epoch({EPOCH})",
                "        order = torch.randperm(len(data), "
                "generator=torch.Generator().manual_seed(100 * seed + epoch)).tolist()\n"
                "        order = (order + order)[: -(-len(data) // dist.get_world_size()) * dist.get_world_size()]\n"
                "        loader = DataLoader(data, batch_size=16, "
                "sampler=order[dist.get_rank() :: dist.get_world_size()])",
            ),
        ],
    ],
)
def test_images_nobody_sees_accepts(changes):
    accepted(repair(SAMPLED, *broken(SAMPLED, *changes)))


@pytest.mark.parametrize(
    ("changes", "symptom"),
    [
        ([(SET, "        pass")], "order_repeats"),
        ([(EPOCH, "seed")], "order_repeats"),
        (
            [
                (SET, "        pass"),
                ("            optimizer.step()\n", "            optimizer.step()\n        sampler.set_epoch(epoch)\n"),
            ],
            "order_repeats",
        ),
        ([(EPOCH, "epoch + dist.get_rank()")], "images_missed"),
        ([(EPOCH, "epoch"), ("seed=seed", "seed=seed + dist.get_rank()")], "images_missed"),
        ([("seed=seed", "shuffle=False")], "no_shuffle"),
        ([("sampler=sampler", "shuffle=True")], "whole_set"),
        ([(EPOCH, "epoch"), ("lr=lr", "lr=lr / 10")], "training_changed"),
        ([(EPOCH, "epoch"), ("            average_gradients(model)\n", "")], "training_changed"),
    ],
)
def test_images_nobody_sees_refuses(changes, symptom):
    refused(repair(SAMPLED, *broken(SAMPLED, *changes)), symptom)


# closed_connection: each rank decides alone when to stop

STALE = "closed_connection"
ITEM = "        loss = validation_loss(model, *val).item()\n"
STOP = "        if stale == patience:\n            break\n"


@pytest.mark.parametrize(
    "changes",
    [
        [  # rank 0 decides
            (
                STOP,
                "        done = torch.tensor([stale >= patience])\n        dist.broadcast(done, src=0)\n"
                "        if done:\n            break\n",
            )
        ],
        [  # one vote is enough
            (
                STOP,
                "        votes = torch.tensor(float(stale >= patience))\n"
                "        dist.all_reduce(votes, dist.ReduceOp.MAX)\n"
                "        if votes:\n            break\n",
            )
        ],
    ],
)
def test_closed_connection_accepts(changes):
    accepted(repair(STALE, *broken(STALE, *changes)))


@pytest.mark.parametrize(
    ("changes", "symptom"),
    [
        ([(STOP, "")], "never_stops"),
        ([("stale == patience", "stale == patience and dist.get_rank() == 0")], "left_alone"),
        (
            [
                (
                    "            average_gradients(model)\n",
                    "            try:\n                average_gradients(model)\n"
                    "            except RuntimeError:\n                pass\n",
                )
            ],
            "ranks_part",
        ),
        ([("            average_gradients(model)\n", "")], "training_changed"),
        ([(STOP, "        if epoch == 0:\n            break\n")], "too_early"),
        ([(STOP, "        dist.barrier()\n" + STOP)], "left_alone"),
        (
            [
                (
                    ITEM,
                    "        loss = validation_loss(model, *val)\n"
                    "        dist.all_reduce(loss)\n        loss = loss.item()\n",
                ),
                ("lr=lr, momentum", "lr=lr / 10, momentum"),
            ],
            "never_stops",
        ),
    ],
)
def test_closed_connection_refuses(changes, symptom):
    refused(repair(STALE, *broken(STALE, *changes)), symptom)


def test_closed_connection_refuses_ranks_that_wait_for_one_another(monkeypatch):
    monkeypatch.setattr("torchcourse.lessons.troubleshooting.clinic.cases.closed_connection.TIME_LIMIT", 3.0)
    waits = STOP.replace("            break", "            dist.barrier()\n            break")
    refused(repair(STALE, *broken(STALE, (STOP, waits))), "hang")


# resumes_elsewhere: a checkpoint that counts a step too many

RESUMED = "resumes_elsewhere"
SAVE = """\
        if (step + 1) % every == 0:
            torch.save({"step": step + 1} | {name: part.state_dict() for name, part in run.items()}, path)
"""
OPTIMIZER = '        run["optimizer"].step()\n'
SCHEDULER = '        run["scheduler"].step()\n'


def saved_after(line, save=SAVE):
    return [(SAVE, ""), (line, line + save)]


@pytest.mark.parametrize(
    "changes",
    [
        [('{"step": step + 1}', '{"step": step}')],  # the step is done again
        saved_after(
            SCHEDULER,
            SAVE.replace("torch.save(", "state = ")
            .replace("items()}, path", "items()}")
            .replace("items()})", "items()}")
            + "            torch.save(state, path)\n",
        ),
        [
            (SAVE, ""),
            (
                "        images, labels = batch_of(step)\n",
                SAVE.replace("(step + 1) % every", "step and step % every").replace("step + 1", "step")
                + "        images, labels = batch_of(step)\n",
            ),
        ],
    ],
)
def test_resumes_elsewhere_accepts(changes):
    accepted(repair(RESUMED, *broken(RESUMED, *changes)))


@pytest.mark.parametrize(
    ("changes", "symptom"),
    [
        (saved_after(SCHEDULER, SAVE.replace('"step": step + 1', '"step": step')), "step_twice"),
        (saved_after(OPTIMIZER), "rate_off"),
        ([('start = saved.pop("step")', 'start = saved.pop("step") + 1')], "other_interval"),
        ([("if path.exists()", "if False")], "starts_over"),
        ([(SAVE, "")], "starts_over"),
        (saved_after(SCHEDULER, SAVE.replace("(step + 1) % every == 0", "True")), "other_interval"),
        (
            [
                *saved_after(SCHEDULER),
                ("run[name].load_state_dict(state)", "name == 'optimizer' or run[name].load_state_dict(state)"),
            ],
            "rate_off",
        ),
        (
            [
                *saved_after(SCHEDULER),
                (
                    "run[name].load_state_dict(state)",
                    "state.get('state', {}).clear() if name == 'optimizer' else None\n"
                    "            run[name].load_state_dict(state)",
                ),
            ],
            "drifts",
        ),
        ([("(step + 1) % every == 0", "(step + 1) % every == 0 and step + 1 != every")], "step_lost"),
        (
            [*saved_after(SCHEDULER), ("        loss.backward()\n", "        (loss / 2).backward()\n")],
            "training_changed",
        ),
    ],
)
def test_resumes_elsewhere_refuses(changes, symptom):
    refused(repair(RESUMED, *broken(RESUMED, *changes)), symptom)
