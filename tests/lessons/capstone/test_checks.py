"""The milestones' checks refuse what learners really write, each with its own symptom."""

import base64
import copy
import io
import itertools
import re
import time
from functools import partial
from pathlib import Path

import numpy as np
import optuna
import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from matplotlib.figure import Figure
from PIL import Image
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import capstone_by_hand as right
from torchcourse.checks import Wrong
from torchcourse.error_bars import paired, standard_error, t95
from torchcourse.lessons.capstone.checks import data, search, training
from torchcourse.lessons.capstone.checks import milestones as check
from torchcourse.lessons.capstone.checks.page import _judge_interval, _pixels, _refuse_swapped, interval, made_up
from torchcourse.lessons.datasets.folder import read_image, read_table
from torchcourse.training import Monitor
from verdicts import accepted, refused, todo


@pytest.mark.parametrize("name", ["dataset", "report"])
def test_a_stub_is_not_done(name):
    assert getattr(check, name)(todo).state == "not done"


def test_a_diagnosis_with_a_hole_is_not_done():
    assert check.diagnosis((..., ..., todo)).state == "not done"
    assert check.diagnosis(("reference", "same order", todo)).state == "not done"


# M1: the dataset


def changed(**changes):
    """Return an `open_part` whose dataset has its methods or lists changed."""

    def open_part(folder, part):
        data = right.open_part(folder, part)
        data.__class__ = type("Changed", (right.Lazy,), {k: v for k, v in changes.items() if callable(v)})
        data.__dict__ |= {k: v for k, v in changes.items() if not callable(v)}
        return data

    return open_part


def all_rows(folder):
    parts = [right.open_part(folder, part) for part in ("train", "val")]
    whole = parts[0]
    for name in ("files", "skipped", "labels"):
        getattr(whole, name).extend(getattr(parts[1], name))
    return whole


def some(folder, numbers, skipped=True):
    data = all_rows(folder)
    data.files = [data.files[number] for number in numbers]
    data.labels = [data.labels[number] for number in numbers]
    return data


def by_picture(folder, part):
    return some(folder, range(0, 156, 4) if part == "val" else [n for n in range(156) if n % 4])


def drawn_again(folder, part):
    return some(folder, torch.randperm(156)[: 39 if part == "val" else 117].tolist())


def tiny_part(folder, part):
    return some(folder, range(3) if part == "val" else range(3, 156))


def stops(folder, part):
    raise ValueError("0007.png cannot be read as an image: truncated")


def lost(folder, part):
    data = right.open_part(folder, part)
    data.files, data.labels = data.files[:-1], data.labels[:-1]
    return data


def listed_twice(folder, part):
    data = right.open_part(folder, part)
    data.files, data.labels = [*data.files, *data.files[:3]], [*data.labels, *data.labels[:3]]
    return data


def framed(folder, part):
    """The pictures in their own size, in a frame."""
    data = right.open_part(folder, part)
    pictures = [F.pad(1 - read_image(folder / file), (4, 4, 4, 4)) for file in data.files]
    data.__class__ = type("Framed", (right.Lazy,), {"__getitem__": lambda self, i: (pictures[i], self.labels[i])})
    return data


def skipped_in_both(folder, part):
    data = right.open_part(folder, part)
    data.skipped = all_rows(folder).skipped
    return data


def with_paths(folder, part):
    data = right.open_part(folder, part)
    data.skipped = [str(folder / file) for file in data.skipped]
    return data


def by_cards(folder, part, chosen):
    data = all_rows(folder)
    cards = {row["file"]: row["card"] for row in read_table(folder / "labels.csv", ("file", "card"))}
    for_val = chosen(cards.values())
    kept = [n for n, file in enumerate(data.files) if (cards[file] in for_val) == (part == "val")]
    data.files, data.labels = [data.files[n] for n in kept], [data.labels[n] for n in kept]
    data.skipped = data.skipped if part == "val" else []
    return data


def by_hash(folder, part):
    """A split by Python's hash of a text, which is salted again in each process."""
    return by_cards(folder, part, lambda cards: sorted(set(cards), key=lambda card: hash(card))[::5])


def by_a_set(folder, part):
    """A split by the order of a set of texts, which is different in each process."""
    return by_cards(folder, part, lambda cards: list(set(cards))[:4])


def by_numpy(folder, part):
    """A right split whose cards are texts that NumPy made again."""
    return by_cards(folder, part, lambda cards: set(np.unique([*cards])[::5].tolist()))


def kept_from_the_first_folder():
    kept = {}

    def open_part(folder, part):
        if part not in kept:
            kept[part] = right.open_part(folder, part)
        return kept[part]

    return open_part


def brighter_each_time(folder, part):
    data = right.open_part(folder, part)
    pictures = {}

    def take(self, number):
        picture = pictures.setdefault(number, right.Lazy.__getitem__(self, number)[0])
        picture += 0.01
        return picture, self.labels[number]

    data.__class__ = type("Brighter", (right.Lazy,), {"__getitem__": take})
    return data


def test_a_split_of_texts_that_are_made_again_is_right():
    accepted(check.dataset(by_numpy))


def test_a_split_by_the_order_of_a_set_is_different_in_another_process():
    verdict = check.dataset(by_a_set)
    refused(verdict, "split_moves")
    assert "set of texts" in verdict.message


def test_pictures_that_change_in_place_are_not_those_that_were_read_before():
    refused(check.dataset(brighter_each_time), "val_random")


def by_name(folder, part):
    """Which files are broken is known by their numbers."""
    data = right.open_part(folder, part)
    rows = read_table(folder / "labels.csv", ("file", "card", "label"))
    cards = {row["file"]: row for row in rows}
    mine = {cards[file]["card"] for file in data.files}
    listed = [row for row in rows if row["card"] in mine]
    data.skipped = [row["file"] for row in listed if int(row["file"][:4]) % 40 == 7]
    kept = [row for row in listed if row["file"] not in data.skipped]
    data.files, data.labels = [row["file"] for row in kept], [int(row["label"]) for row in kept]
    return data


def by_size(folder, part):
    data = by_name(folder, part)
    listed = [*data.files, *data.skipped]
    data.skipped = [file for file in listed if (folder / file).stat().st_size < 100]
    labels = {row["file"]: int(row["label"]) for row in read_table(folder / "labels.csv", ("file", "label"))}
    data.files = [file for file in listed if file not in data.skipped]
    data.labels = [labels[file] for file in data.files]
    return data


@pytest.mark.parametrize("learner", [by_name, by_size])
def test_a_file_that_cannot_be_read_is_found_by_reading(learner):
    refused(check.dataset(learner), "not_read")


def without_paper(light):
    """Pictures whose paper was taken away before they were scaled."""

    def open_part(folder, part):
        data = right.open_part(folder, part)

        def take(self, number):
            pixels = F.interpolate(read_image(folder / self.files[number])[None], (28, 28), mode="bilinear")[0]
            ink = (light(pixels) - pixels) / (light(pixels) - pixels.min())
            return (ink.clamp(0, 1) - 0.1307) / 0.3081, self.labels[number]

        data.__class__ = type("WithoutPaper", (right.Lazy,), {"__getitem__": take})
        return data

    return open_part


@pytest.mark.parametrize("light", [torch.median, lambda pixels: pixels.quantile(0.7), lambda pixels: pixels.max()])
def test_pictures_without_their_paper_are_as_the_backbone_wants_them(light):
    accepted(check.dataset(without_paper(light)))


@pytest.mark.parametrize(("mean", "deviation"), [(0, 1), (0.5, 0.5), (0.485, 0.229), (0.35, 0.15)])
def test_a_different_scaling_is_refused_with_and_without_paper(mean, deviation):
    def scaled_anew(open_part):
        def opened(folder, part):
            data = open_part(folder, part)
            take = type(data).__getitem__

            def anew(self, number):
                return (take(self, number)[0] * 0.3081 + 0.1307 - mean) / deviation, self.labels[number]

            data.__class__ = type("Anew", (right.Lazy,), {"__getitem__": anew})
            return data

        return opened

    for open_part in (right.open_part, without_paper(torch.median)):
        refused(check.dataset(scaled_anew(open_part)), "scaling")


def test_any_picture_may_be_stretched_from_paper_to_ink(tmp_path):
    """Also a faint one, whose paper stays gray: which cards a split takes for validation must not count."""
    folder = data.deliver(tmp_path, data.IMAGES, seed=11)
    for name in ("0026.png", "0059.png", "0152.png"):
        ink = 1 - read_image(folder / name)
        plain = data.MNIST_SCALING(ink[None], 1)[0]
        larger = F.interpolate(ink[None], (28, 28), mode="bilinear")[0]
        small = F.interpolate(_stretched(ink)[None], (28, 28), mode="bilinear")[0]
        for image in (_stretched(larger), small, (larger - larger.median()).clamp(0)):
            data._judge_pixels((image - 0.1307) / 0.3081, plain, name)
        with pytest.raises(Wrong, match="have mean"):
            data._judge_pixels(larger / 0.3081 - 0.1307, plain, name)


def _stretched(ink):
    return (ink - ink.min()) / (ink.max() - ink.min())


def noise_when_opened(folder, part):
    """Augmented once, when it is made: the next model is judged by other pictures."""
    data = right.open_part(folder, part)
    pictures = [right.Lazy.__getitem__(data, i)[0] + 0.1 * torch.randn(1, 28, 28) for i in range(len(data))]
    data.__class__ = type("Noisy", (right.Lazy,), {"__getitem__": lambda self, i: (pictures[i], self.labels[i])})
    return data


def test_validation_pictures_are_the_same_when_they_are_opened_again():
    verdict = check.dataset(noise_when_opened)
    refused(verdict, "val_random")
    assert "Opened a second time" in verdict.message


def in_one_tensor(folder, part):
    """Every picture is written into the same tensor."""
    data, place = right.open_part(folder, part), torch.empty(1, 28, 28)
    data.__class__ = type(
        "InOneTensor",
        (right.Lazy,),
        {"__getitem__": lambda self, i: (place.copy_(right.Lazy.__getitem__(self, i)[0]), self.labels[i])},
    )
    return data


class NoMap(torch.utils.data.IterableDataset):
    files = skipped = ()

    def __iter__(self):
        return iter(())


def own_label(made):
    return changed(__getitem__=lambda self, i: (right.Lazy.__getitem__(self, i)[0], made(self.labels[i])))


DATASETS = {
    "reported_twice": skipped_in_both,
    "unknown_file": with_paths,
    "split_moves": by_hash,
    "first_folder": kept_from_the_first_folder(),
    "label_type": own_label(str),
    "sample_parts": changed(__getitem__=lambda self, i: (*right.Lazy.__getitem__(self, i), self.files[i])),
    "val_random": changed(
        __getitem__=lambda self, i: (right.Lazy.__getitem__(self, i)[0] + 0.2 * torch.randn(1, 28, 28), self.labels[i])
    ),
    "leak": by_picture,
    "one_place": in_one_tensor,
    "not_finite": changed(__getitem__=lambda self, i: (torch.full((1, 28, 28), torch.nan), self.labels[i])),
    "same_file": drawn_again,
    "val_share": tiny_part,
    "stopped_by_a_file": stops,
    "lost": lost,
    "listed_twice": listed_twice,
    "silent_skip": changed(skipped=[]),
    "wrong_type": changed(skipped=None),
    "count": changed(__len__=lambda self: len(self.files) + 1),
    "paper_and_ink": changed(__getitem__=lambda self, i: (-right.Lazy.__getitem__(self, i)[0], self.labels[i])),
    "scaling": changed(__getitem__=lambda self, i: (right.Lazy.__getitem__(self, i)[0] * 0.3, self.labels[i])),
    "label": changed(__getitem__=lambda self, i: (right.Lazy.__getitem__(self, i)[0], self.labels[i - 1])),
    "shape": changed(__getitem__=lambda self, i: (right.Lazy.__getitem__(self, i)[0][0], self.labels[i])),
    "border": framed,
    "wrong_picture": changed(__getitem__=lambda self, i: (right.Lazy.__getitem__(self, i - 1)[0], self.labels[i])),
}


@pytest.mark.parametrize("symptom", DATASETS)
def test_wrong_datasets(symptom):
    refused(check.dataset(DATASETS[symptom]), symptom)


@pytest.mark.parametrize("made", [float, torch.tensor, np.int64, lambda label: F.one_hot(torch.tensor(label), 10)])
def test_a_label_is_a_whole_number(made):
    verdict = check.dataset(own_label(made))
    accepted(verdict) if made in (torch.tensor, np.int64) else refused(verdict, "label_type")


def test_a_dictionary_is_no_pair():
    verdict = check.dataset(changed(__getitem__=lambda self, i: dict.fromkeys(("picture", "label"), 0)))
    refused(verdict, "sample_parts")
    assert "Yours is a dict." in verdict.message


def test_only_a_map_style_dataset_has_samples_by_number():
    refused(check.dataset(lambda folder, part: NoMap()), "wrong_type")


def test_the_value_that_is_named_is_the_one_that_is_no_accuracy():
    made = [
        optuna.trial.create_trial(
            params={"a": 0.5, "b": 0.5},
            distributions={name: optuna.distributions.FloatDistribution(0, 1) for name in "ab"},
            value=value,
        )
        for value in (0.9, -0.3)
    ]
    with pytest.raises(Wrong, match=r"the value -0\.3:"):
        search._judge_values(made)


# M2: the study; nothing is trained, so that only what is kept counts


def trials(url, count, value=0.5):
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(storage=url, study_name="s", load_if_exists=True, direction="maximize")

    def objective(trial):
        trial.suggest_float("a", 0, 1)
        trial.suggest_float("b", 0, 1)
        time.sleep(0.05)
        return value

    study.optimize(objective, n_trials=count)


def asked_again(url, folder, count):
    trials(url, count)


def begins_again(url, folder, count):
    Path(url.removeprefix("sqlite:///")).unlink(missing_ok=True)
    trials(url, count)


def in_memory(url, folder, count):
    trials(None, 1)


def leaves_it_running(url, folder, count, value=0.5):
    file = Path(url.removeprefix("sqlite:///"))
    known = optuna.load_study(study_name="s", storage=url).trials if file.exists() else []
    trials(url, count - sum(trial.state.name == "COMPLETE" for trial in known), value)


def keeps_all(url, folder, count, value=0.5):
    leaves_it_running(url, folder, count, value)
    study = optuna.load_study(study_name="s", storage=url)
    for trial in study.get_trials(states=(optuna.trial.TrialState.RUNNING,)):
        study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
    return study


def one_more_each_time():
    """A search that does a trial where all are finished."""
    asked = []

    def learner(url, folder, count):
        study = keeps_all(url, folder, count)
        asked.append(count)
        if len(asked) > 1:
            trials(url, 1)
        return study

    return learner


@pytest.mark.slow
def test_a_search_that_trains_on_what_it_kept_needs_no_folder(tmp_path, monkeypatch):
    def of_the_folder(url, folder, count):
        next(folder.iterdir())
        return keeps_all(url, folder, count)

    def caught(url, folder, count):
        study = optuna.create_study(storage=url)
        study.optimize(lambda trial: next(folder.iterdir()), n_trials=1, catch=(Exception,))

    def until_one_is_finished(url, folder, count):
        study = optuna.create_study(storage=url)
        while not study.get_trials(states=[optuna.trial.TrialState.COMPLETE]):
            study.optimize(lambda trial: next(folder.iterdir()), n_trials=1, catch=(Exception,))

    with pytest.raises(Wrong, match="a folder with nothing in it"):
        search._judge_memory(keeps_all, tmp_path)
    monkeypatch.setattr(search, "EMPTY_SECONDS", 1)
    for learner in (of_the_folder, caught, until_one_is_finished):
        place = tmp_path / learner.__name__
        place.mkdir()
        search._judge_memory(learner, place)


def test_the_search_that_is_killed_is_asked_for_a_different_number(monkeypatch):
    asked = []
    monkeypatch.setattr(search, "_watch", lambda file: None)
    search._search_and_die(lambda url, folder, count: asked.append(count), "sqlite:///no.db", Path(), Path("no.db"))
    assert asked == [search.TRIALS + 1]


def test_a_search_that_keeps_nothing():
    refused(check.study(in_memory), "not_stored")


@pytest.fixture
def in_this_process(monkeypatch):
    """The kill takes a process; here one trial is finished and one under way, as if there had been one."""

    def one_and_a_half(learner, url, folder, file):
        trials(url, 1, value=0.1)
        optuna.load_study(study_name="s", storage=url).ask()

    monkeypatch.setattr(search, "_kill_in_the_second_trial", one_and_a_half)
    monkeypatch.setattr(search, "deliver", lambda folder, images, seed: folder)
    monkeypatch.setattr(search, "_with_labels_by_chance", lambda place: place)
    monkeypatch.setattr(search, "_judge_memory", lambda learner, place: None)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("learner", "symptom"),
    [
        (asked_again, "trials"),
        (begins_again, "began_anew"),
        (leaves_it_running, "left_running"),
        (partial(keeps_all, value=0.1), "chance"),
        (partial(keeps_all, value=0.8), "no_measure"),
        (one_more_each_time(), "goes_on"),
        (partial(keeps_all, value=75.0), "no_accuracy"),
    ],
)
def test_searches_that_do_not_go_on(learner, symptom, in_this_process):
    refused(check.study(learner), symptom)


def test_labels_by_chance_are_those_of_a_delivery_and_none_of_its_own(tmp_path):
    rows = {
        place: read_table(folder / "labels.csv", ("file", "card", "label"))
        for place, folder in {
            "true": search.deliver(tmp_path / "true", search.IMAGES, seed=13),
            "chance": search._with_labels_by_chance(tmp_path / "chance"),
        }.items()
    }
    labels = {place: [row["label"] for row in table] for place, table in rows.items()}
    assert sorted(labels["true"]) == sorted(labels["chance"])
    assert sum(a == b for a, b in zip(*labels.values(), strict=True)) < 0.2 * search.IMAGES
    assert [row["card"] for row in rows["true"]] == [row["card"] for row in rows["chance"]]


@pytest.mark.slow
def test_few_steps_are_told_from_none(in_this_process):
    assert "for more than a few steps" in check.study(partial(keeps_all, value=0.1)).message


@pytest.mark.slow
def test_a_search_that_keeps_all_is_right_whatever_it_trains(in_this_process):
    accepted(check.study(keeps_all))


def made(places, *, second=None, value=0.5):
    """Finished trials of two hyperparameters, numbered as in a study."""
    second = second or optuna.distributions.FloatDistribution(0, 1)
    space = {"a": optuna.distributions.FloatDistribution(0, 1), "b": second}
    study = optuna.create_study(direction="maximize")
    for at in places:
        params = {"a": at, "b": at if second.single() is False else second.to_external_repr(0)}
        study.add_trial(optuna.trial.create_trial(params=params, distributions=space, value=value))
    return study.trials


def refused_values(after):
    with pytest.raises(Wrong) as told:
        search._judge_values(after)
    return told.value.symptom, told.value.hint


def test_a_hyperparameter_of_one_value_is_not_tuned():
    symptom, hint = refused_values(made((0.1, 0.2, 0.3), second=optuna.distributions.CategoricalDistribution([32])))
    assert symptom == "one_axis"
    assert "tunes a: " in hint
    assert "one value only of b" in hint


def test_draws_that_begin_anew_are_refused():
    search._judge_values(made((0.1, 0.2, 0.3)))
    symptom, hint = refused_values(made((0.1, 0.2, 0.1)))
    assert symptom == "same_draws"
    assert "Trials 0 and 2 have the same a, 0.1," in hint


def test_a_dead_trial_has_no_value_of_its_own():
    after = made((0.1, 0.2, 0.3), value=0.0)
    search._judge({}, set(), after)
    with pytest.raises(Wrong, match="Trial 1 died") as told:
        search._judge({}, {1}, after)
    assert told.value.symptom == "dead_finished"


def test_a_study_of_accuracies_maximizes_and_is_returned():
    up, down = (optuna.create_study(direction=direction) for direction in ("maximize", "minimize"))
    search._judge_study(up.direction, up)
    for study, returned, symptom in ((down, down, "direction"), (up, None, "no_study"), (up, {"a": 1}, "no_study")):
        with pytest.raises(Wrong) as told:
            search._judge_study(study.direction, returned)
        assert told.value.symptom == symptom


# M3 and M5: a small network on noise shows what ranks and files do


def careless(mistake, folder, run_dir, seed):
    torch.manual_seed(seed)
    rank = dist.get_rank()
    model = nn.Sequential(nn.Conv2d(1, 2, 3, stride=3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(162, 10))
    replica = model if mistake == "ranks_apart" else DistributedDataParallel(model)
    generator = torch.Generator().manual_seed(0 if mistake == "same_data" else rank)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(5):
        images = torch.randn(12, 1, 28, 28, generator=generator)
        optimizer.zero_grad()
        F.cross_entropy(replica(images), torch.arange(12) % 10).backward()
        optimizer.step()
    if rank == 0 or mistake == "two_writers":
        with Monitor(run_dir) as board:
            for step in range(2):
                board.scalars(step, {"loss": 1.0, "val": 0.1})
    if rank == 0:
        run_dir.mkdir(exist_ok=True, parents=True)
        torch.save(replica.state_dict(), run_dir / "w.pt")
    return model


@pytest.mark.parametrize("symptom", ["ranks_apart", "same_data", "two_writers", "not_learned"])
def test_wrong_runs(symptom):
    refused(check.ddp_run(partial(careless, symptom)), symptom)


def test_wrong_logs(tmp_path):
    with pytest.raises(Wrong, match="no event files"):
        training._judge_log(tmp_path)
    with Monitor(tmp_path / "run") as board:
        for step in range(2):
            board.scalars(step, {"loss": 1.0})
    with pytest.raises(Wrong, match=r"validation part.*It has loss \(2 points\)"):
        training._judge_log(tmp_path)


@pytest.mark.parametrize(
    ("values", "steps", "said"),
    [
        ({"train/loss": 1.0, "val/accuracy": 0.1}, [0], r"It has train/loss \(1 point\), val/accuracy \(1 point\)"),
        ({"loss": 1.0, "val": 0.1}, [0, 0], r"It has loss \(2 points, all at step 0\)"),  # no step was given
        ({"val/loss": 1.0}, [0, 1], "has one curve, val/loss"),
    ],
)
def test_a_log_says_what_it_has(values, steps, said, tmp_path):
    with Monitor(tmp_path / "run") as board:
        for step in steps:
            board.scalars(step, values)
    with pytest.raises(Wrong, match=said):
        training._judge_log(tmp_path)


@pytest.mark.parametrize(
    ("ones", "others", "symptom", "said"),
    [
        ({"kind": "DistributedDataParallel"}, {"kind": "DistributedDataParallel"}, "wrapped", "`module`"),
        ({"parameters": []}, {"kind": "NoneType"}, "not_on_every_rank", "Rank 1 returns a value of type NoneType"),
        ({"kind": "NoneType"}, {"parameters": []}, "not_on_every_rank", "Rank 0 returns a value of type NoneType"),
        ({"kind": "float"}, {"kind": "float"}, "no_model", "a value of type float"),
        ({"dtype": torch.float16}, {"parameters": []}, "dtype", "weights of the type torch.float16"),
    ],
)
def test_every_rank_returns_the_model_itself(ones, others, symptom, said):
    with pytest.raises(Wrong, match=said) as told:
        training._judge_ranks(ones, others)
    assert told.value.symptom == symptom


def test_a_wrapper_stays_among_the_ranks():
    def train(folder, run_dir, seed):
        return DistributedDataParallel(careless("", folder, run_dir, seed))

    refused(check.one_device((train, loaded)), "wrapped")


def loaded(run_dir, device, prefix="module.", strict=True, mode=False):
    model = nn.Sequential(nn.Conv2d(1, 2, 3, stride=3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(162, 10))
    weights = torch.load(run_dir / "w.pt")
    model.load_state_dict({name.removeprefix(prefix): tensor for name, tensor in weights.items()}, strict=strict)
    return model.train(mode)


def test_pictures_come_in_a_new_order_each_epoch():
    epoch = list(range(30))
    for seen in ([*epoch, *epoch[::-1]], list(range(60)), [0] * 60, [*epoch, *epoch[:20]], []):
        training._judge_order(seen)
    with pytest.raises(Wrong, match="its 30 pictures in the very order"):
        training._judge_order(epoch * 2)


def test_a_checkpoint_is_loaded_more_than_once_and_only_where_there_is_one(tmp_path):
    (tmp_path / "w.pt").touch()
    with pytest.raises(Wrong) as told:
        training._judge_loading_again(lambda *_: nn.Identity(), tmp_path, [tmp_path / "w.pt"])
    assert told.value.symptom == "no_run_needed"
    with pytest.raises(Wrong, match=r"taken w\.pt away"):
        training._judge_loading_again(lambda *_: nn.Identity(), tmp_path, [tmp_path / "gone" / "w.pt"])
    training._judge_loading_again(lambda folder, _: nn.Unflatten(0, (folder / "w.pt").stat()[:1]), tmp_path, [])


@pytest.mark.slow
def test_wrong_loading():
    train = partial(careless, "")
    accepted(check.one_device((train, loaded)))
    refused(check.one_device((train, partial(loaded, mode=True))), "training_mode")
    refused(check.one_device((train, partial(loaded, prefix="", strict=False))), "different_model")


@pytest.mark.parametrize(
    ("change", "symptom", "said"),
    [
        (lambda model: model.half(), "dtype", "weights of the type torch.float16"),
        (lambda model: nn.Sequential(model, nn.Softmax(1)), "different_model", "the same digit for 100%"),
        (lambda model: model[:1], "shape", r"the trained one \[8, 10\]"),
        (lambda model: nn.Sequential(model, nn.Linear(10, 10)), "different_model", "for [0-9]+% of"),
    ],
)
def test_what_a_loaded_model_does_differently_is_said(change, symptom, said):
    torch.manual_seed(0)
    model, pictures = nn.Sequential(nn.Flatten(), nn.Linear(784, 10)), torch.randn(8, 1, 28, 28)
    with torch.no_grad():
        first = {"logits": model(pictures)}
    training._judge_loaded(model.eval(), first, pictures)
    with pytest.raises(Wrong, match=said) as told:
        training._judge_loaded(change(model).eval(), first, pictures)
    assert told.value.symptom == symptom


def test_a_run_that_leaves_only_its_log(tmp_path):
    with Monitor(tmp_path) as board:
        for step in range(2):
            board.scalars(step, {"loss": 1.0, "val": 0.1})
    with pytest.raises(Wrong) as wrong:
        training._judge_log(tmp_path)
    assert wrong.value.symptom == "no_checkpoint"


# M4: the diagnosis


def empties(records):
    records.files[0].clear()
    return False


def test_records_that_one_test_changes_are_whole_for_the_next():
    check.diagnosis(("reference", "same order", empties))
    accepted(check.diagnosis(("reference", "same order", right.shows)))


@pytest.mark.parametrize(
    ("cause", "shows", "symptom"),
    [
        ("same order", lambda records: True, "rings_for_healthy"),
        ("same order", lambda records: records.val_accuracy[-1] < 0.5, "misses_own"),
        ("same order", lambda records: records.files[0][0] == ["a"], "misses_own"),
        ("same data", lambda records: records.files[0][:7] == records.files[0][7:14], "wrong_name"),
        ("bad luck", lambda records: True, "unknown_cause"),
        (["same order"], lambda records: True, "unknown_cause"),
        ("same order", lambda records: None, "not_one_answer"),
        ("same order", lambda records: records.loss[0] > 1, "not_one_answer"),
        ("same order", lambda records: torch.tensor(records.loss) > 1, "not_one_answer"),
        ("same data", lambda records: [one == other for one, other in zip(*records.files)], "not_one_answer"),  # noqa: B905
        ("same data", lambda records: "yes" if records.files[0] == records.files[1] else "no", "not_one_answer"),
        ("same order", empties, "inputs_changed"),
    ],
)
def test_wrong_diagnoses(cause, shows, symptom):
    refused(check.diagnosis(("reference", cause, shows)), symptom)


def test_a_test_that_only_sees_that_something_is_wrong():
    def falls_little(records):
        return records.val_accuracy[-1] < 0.5

    refused(check.diagnosis(("Kim Minji", "body left out", falls_little)), "rings_for_others")


# M6: the report


@pytest.fixture(autouse=True)
def pictures_made_once(monkeypatch):
    """Drawing costs more than judging: all pages of these tests have two of the same few pictures in turn."""
    turn = itertools.cycle(PICTURES)
    monkeypatch.setattr(right, "embedded", lambda figure: next(turn))


PICTURES = []
for slope in (1, 2, 3, 4):
    figure = Figure(figsize=(2, 1))
    figure.subplots().plot([0, slope])
    figure.axes[0].set_ylim(0, 4)
    PICTURES.append(right.embedded(figure))


def with_interval(make):
    """Return a `write_report` with different ends of the interval."""

    def write(measured, page):
        right.write_report(measured, page)
        tuned, present = 100 * np.array(measured.tuned), 100 * np.array(measured.present)
        mean = tuned.mean() - present.mean()
        reach = make(tuned, present)
        gain = paired(tuned.mean(0), present)
        text = page.read_text()
        text = text.replace(f"({gain.low:.2f} to {gain.high:.2f}", f"({mean - reach:.2f} to {mean + reach:.2f}")
        page.write_text(text)

    return write


def se(values):
    return standard_error(values).item()


def spread(new, old):
    return np.std(new.mean(0) - old, ddof=1)


INTERVALS = [
    ("spread", lambda new, old: t95(len(old) - 1) * spread(new, old)),
    ("spread", spread),
    ("no_interval", lambda new, old: t95(len(old) - 1) * spread(new, old) / len(new) ** 0.5),
    ("other_t", lambda new, old: t95(len(new) - 1) * se(new.mean(0) - old)),
    ("over_seeds", lambda new, old: t95(len(new) - 1) * se(new.mean(1) - old.mean())),
    ("one_error", lambda new, old: se(new.mean(0) - old)),
    ("other_t", lambda new, old: 1.96 * se(new.mean(0) - old)),
    ("unpaired", lambda new, old: t95(len(old) - 1) * np.hypot(se(new.mean(0)), se(old))),
    ("over_all", lambda new, old: t95(new.size - 1) * se((new - old).flatten())),
    ("divided_by_n", lambda new, old: t95(len(old) - 1) * se(new.mean(0) - old) * np.sqrt(1 - 1 / len(old))),
    ("no_interval", lambda new, old: 0.01),
]


@pytest.mark.parametrize(("symptom", "make"), INTERVALS)
def test_wrong_intervals(symptom, make):
    refused(check.report(with_interval(make)), symptom)


def whole_points(measured, page):
    with_interval(lambda new, old: 0.0)(measured, page)
    _, low, high = interval(measured)
    mean = 100 * (np.mean(measured.tuned) - np.mean(measured.present))
    page.write_text(page.read_text().replace(f"({mean:.2f} to {mean:.2f}", f"({low:.0f} to {high:.0f}"))


def without_signs(measured, page):
    right.write_report(measured, page)
    page.write_text(re.sub(r"-(\d)", r"\1", page.read_text()))


def nothing_below_zero(measured, page):
    right.write_report(measured, page)
    _, low, _ = interval(measured)
    page.write_text(page.read_text().replace(f"({low:.2f} to", f"({max(low, 0):.2f} to"))


def in_latin_1(measured, page):
    right.write_report(measured, page)
    page.write_text(page.read_text() + "±", encoding="latin-1")


def emptied(measured, page):
    right.write_report(measured, page)
    measured.tuned.clear()


def with_fixed_plots(measured, page):
    right.write_report(measured, page)
    text = page.read_text()
    for image in PICTURES[2:]:
        text = text.replace(image, PICTURES[PICTURES.index(image) - 2])
    page.write_text(text)


def swapped_readers(measured, page):
    right.write_report(measured, page)
    old, new = 100 * np.mean(measured.present), 100 * np.mean(measured.tuned)
    said = f"The present reader reads {old:.2f}%, the new one {new:.2f}%."
    page.write_text(page.read_text().replace(said, f"Present reader: {new:.1f}%. Tuned reader: {old:.1f}%."))


def swapped_counts(measured, page):
    right.write_report(measured, page)
    seeds, cards = len(measured.tuned), len(measured.present)
    text = page.read_text().replace(f"{seeds} seeds", "A seeds").replace(f"{cards} cards", f"{seeds} cards")
    page.write_text(text.replace("A seeds", f"{cards} seeds"))


COSTS = [
    "It took {spent:.1f} CPU-seconds of a budget of {budget:.0f}.",
    "CPU-seconds spent: {spent:.0f} (budget: {budget:.0f}).",
    "Budget {budget:.0f} CPU-seconds, cost {spent:.1f}.",
    "The budget was {budget:.1f} s, and we used {spent:.1f} s of it.",
    "The budget was {budget:.1f} s, and {spent:.1f} s of it are spent.",
    "Of the budget, {spent:.0f} of {budget:.0f} CPU-seconds were spent.",
    "We spent, of the {budget:.0f} CPU-seconds in the budget, {spent:.0f}.",
    "budget spent {budget:.1f} {spent:.1f}",
    "spent budget {spent:.1f} {budget:.1f}",
    "{spent:.0f} of {budget:.0f} CPU-seconds.",
]


@pytest.mark.parametrize("said", COSTS)
def test_the_cost_may_be_said_in_many_ways(said):
    told(said, spent=198.25, budget=240.0)


@pytest.mark.parametrize("said", COSTS[:4])
def test_cost_and_budget_in_each_others_place(said):
    with pytest.raises(Wrong) as wrong:
        told(said, spent=240.0, budget=198.25)
    assert wrong.value.symptom == "cost_swapped"
    assert "240 CPU-seconds were spent of a budget of 198" in wrong.value.hint


def told(said, **numbers):
    counts = {"present": 71.0, "tuned": 83.0, "seeds": 3, "cards": 62, "spent": 198.25, "budget": 240.0}
    _refuse_swapped(said.format(**numbers), counts)


def edited(old, new):
    def write(measured, page):
        right.write_report(measured, page)
        page.write_text(page.read_text().replace(old, new))

    return write


@pytest.mark.parametrize(
    ("write", "symptom"),
    [
        (whole_points, "whole_points"),
        (without_signs, "sign_lost"),
        (nothing_below_zero, "clipped"),
        (edited("data:image/png;base64,", "plot.png?"), "not_alone"),
        (edited(' alt="Accuracy of both readers on each card"', ""), "no_alt"),
        (edited("<html>", "<html><img>"), "two_plots"),
        (edited("<html>", "<html>" + "many words " * 250), "one_page"),
        (edited("Cost: ", "Cost: 1"), "number_missing"),
        (lambda measured, page: None, "no_page"),
        (in_latin_1, "not_utf8"),
        (swapped_readers, "readers_swapped"),
        (swapped_counts, "counts_swapped"),
        (emptied, "inputs_changed"),
        (with_fixed_plots, "same_for_all"),
        (edited("<html>", '<html><body style="background: url(logo.png)">'), "not_alone"),
        (edited("<html>", "<html><style>@import 'page.css';</style>"), "not_alone"),
        (edited("<html>", '<html><iframe src="https://example.org"></iframe>'), "not_alone"),
        (edited("base64,", "base64,AAAA"), "no_picture"),
        (edited("base64,", "base64,b'"), "no_picture"),
        (lambda *given: edited(PICTURES[0].partition(",")[2], "")(*given), "no_picture"),
    ],
)
def test_wrong_pages(write, symptom):
    refused(check.report(write), symptom)


def once(measured, page, kept=[]):  # noqa: B006 - the mistake to be refused: numbers of an earlier call
    kept.append(copy.deepcopy(measured))
    right.write_report(kept[0], page)


def test_numbers_that_do_not_come_from_what_was_measured():
    refused(check.report(once), "no_gain")


def test_an_interval_may_be_written_by_its_half():
    def write(measured, page):
        right.write_report(measured, page)
        gain = paired(np.mean(measured.tuned, axis=0), measured.present)
        ends = f"({100 * gain.low:.2f} to {100 * gain.high:.2f} at 95%)"
        page.write_text(page.read_text().replace(ends, f"± {100 * gain.high - 100 * gain.mean:.1f}, at 95%"))

    accepted(check.report(write))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("<html>", "<html><head><title>The reader</title>"),  # HTML need not close a head
        ("<html>", "<html><title>The reader</title></head>"),
        ("base64,iVBORw0KGgo", "base64,iVBORw0\nKGgo"),  # as base64.encodebytes writes it
    ],
)
def test_a_page_that_a_browser_shows_is_read(old, new):
    accepted(check.report(edited(old, new)))


def test_a_loss_may_be_said_in_words_and_a_dash_may_be_a_minus():
    measured = made_up(2)
    mean, low, high = interval(measured)
    _judge_interval(
        f"{-mean:.1f} points below the present one (interval \N{EN DASH}{-low:.1f} to {high:.1f})", measured
    )


def test_a_right_interval_without_its_gain_is_not_said_to_be_clipped():
    _, low, high = interval(made_up(1))
    with pytest.raises(Wrong) as told:
        _judge_interval(f"95% interval {low:.1f} to {high:.1f}", made_up(1))
    assert told.value.symptom == "no_gain"


def test_ends_to_a_tenth_are_not_said_to_be_whole_points():
    measured = made_up(1)
    mean, low, high = interval(measured)
    for ends, symptom in (
        (f"{low:.0f} to {high:.0f}", "whole_points"),
        (f"{low:.0f}.0 to {high:.0f}.0", "no_interval"),
    ):
        with pytest.raises(Wrong) as told:
            _judge_interval(f"a gain of {mean:.1f} points, 95% interval {ends}", measured)
        assert told.value.symptom == symptom


def test_a_gray_picture_is_not_said_to_be_empty():
    file = io.BytesIO()
    Image.linear_gradient("L").save(file, format="png")
    assert _pixels(base64.b64encode(file.getvalue()).decode()).std() > 0.1
