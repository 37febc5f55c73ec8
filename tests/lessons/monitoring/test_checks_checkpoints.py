"""The checks of notebook 3 of lesson 04 accept right answers built in different ways and name wrong ones' symptoms."""

import contextlib
import copy
import io
import os
import pathlib
import pickle
import random
import re
import shutil
import tempfile

import numpy as np
import pytest
import torch

from torchcourse.lessons.monitoring import checks as check
from torchcourse.lessons.monitoring.by_hand import capture, restore
from torchcourse.lessons.monitoring.checks import saving
from torchcourse.training import checkpoint
from torchcourse.training.foreign import load_any
from verdicts import accepted, refused, todo


@pytest.mark.parametrize("name", ["save_whole", "noisy_image", "load_on_one"])
def test_a_stub_is_not_done(name):
    assert getattr(check, name)(todo).state == "not done"


def test_a_stub_of_two_functions_is_not_done():
    assert check.resume((todo, todo)).state == "not done"


# Saving


def save_beside(state, path):
    temporary = path + ".tmp"
    with open(temporary, "wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def save_with_pathlib(state, path):
    path = pathlib.Path(path)
    new = path.with_suffix(".new")
    torch.save(state, new)
    descriptor = os.open(new, os.O_RDWR)
    os.fsync(descriptor)
    os.close(descriptor)
    new.rename(path)


def save_with_the_package(state, path):
    checkpoint.save(state, path)


def in_place(state, path):
    torch.save(state, path)


def in_place_by_bytes(state, path):
    temporary = path + ".tmp"
    torch.save(state, temporary)
    pathlib.Path(path).write_bytes(pathlib.Path(temporary).read_bytes())


def by_copy(state, path):
    torch.save(state, path + ".tmp")
    shutil.copy(path + ".tmp", path)


def removes_first(state, path):
    torch.save(state, path + ".tmp")
    os.remove(path)
    os.rename(path + ".tmp", path)


def before_it_is_closed(state, path):
    content = io.BytesIO()
    torch.save(state, content)
    with open(path + ".tmp", "wb") as file:
        file.write(content.getvalue()[:-10])
        os.replace(path + ".tmp", path)
        file.write(content.getvalue()[-10:])
        file.flush()
        os.fsync(file.fileno())


def without_fsync(state, path):
    torch.save(state, path + ".tmp")
    os.replace(path + ".tmp", path)


def in_another_folder(state, path):
    folder = tempfile.mkdtemp()
    temporary = os.path.join(folder, "new.pt")
    with open(temporary, "wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def synced_before_it_is_handed_over(state, path):
    content = io.BytesIO()
    torch.save(state, content)
    with open(path + ".tmp", "wb") as file:
        file.write(content.getvalue()[:-100])
        file.write(content.getvalue()[-100:])  # few enough for Python to keep
        os.fsync(file.fileno())
    os.replace(path + ".tmp", path)


def syncs_the_folder_only(state, path):
    torch.save(state, path + ".tmp")
    folder = os.open(os.path.dirname(path), os.O_RDONLY)
    os.fsync(folder)
    os.close(folder)
    os.replace(path + ".tmp", path)


def syncs_what_it_copies(state, path):
    with open(path + ".tmp", "wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())
    shutil.copyfile(path + ".tmp", path + ".new")
    os.replace(path + ".new", path)


def forgets_the_name(state, path):
    torch.save(state, path + ".tmp")


def save_with_sync(state, path):
    torch.save(state, path + ".tmp")
    os.sync()
    os.replace(path + ".tmp", path)


def save_with_fdatasync(state, path):
    with open(path + ".tmp", "wb") as file:
        torch.save(state, file)
        file.flush()
        getattr(os, "fdatasync", os.fsync)(file.fileno())
    os.replace(path + ".tmp", path)


def whatever_happens(state, path):
    try:
        with open(path + ".tmp", "wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
    finally:
        os.replace(path + ".tmp", path)


def tidying_up_too_much(state, path):
    try:
        save_beside(state, path)
    except OSError:
        os.remove(path)
        raise


def silently(state, path):
    with contextlib.suppress(Exception):
        save_beside(state, path)


def in_half_precision(state, path):
    save_beside(state | {"weights": state["weights"].half()}, path)


def in_two_saves(state, path):
    save_beside({}, path)
    save_beside(state, path)


@pytest.mark.slow
@pytest.mark.parametrize("learner", [save_beside, save_with_pathlib, save_with_the_package])
def test_a_file_that_survives_every_kill_is_accepted(learner):
    accepted(check.save_whole(learner))


@pytest.mark.parametrize("learner", [save_with_sync, save_with_fdatasync])
def test_other_calls_than_fsync_force_a_file_to_the_disk_as_well(learner, monkeypatch):
    monkeypatch.setattr(saving, "MOST_KILLS", 0)
    accepted(check.save_whole(learner))


@pytest.mark.parametrize(
    ("learner", "symptom"),
    [
        (in_place, "torn"),
        (in_place_by_bytes, "torn"),
        (by_copy, "torn"),
        (removes_first, "gone"),
        (before_it_is_closed, "too_early"),
        (in_two_saves, "too_early"),
        (without_fsync, "no_fsync"),
        (in_another_folder, "elsewhere"),
        (forgets_the_name, "not_saved"),
        (synced_before_it_is_handed_over, "synced_too_early"),
        (syncs_the_folder_only, "another_file_synced"),
        (syncs_what_it_copies, "another_file_synced"),
        (lambda state, path: os.replace(path, path + ".tmp"), "gone"),
        (lambda state, path: pathlib.Path(path).write_bytes(pickle.dumps(state)), "unreadable"),
        (lambda state, path: save_beside(state["model"], path), "other_state"),
        (in_half_precision, "other_state"),
        (whatever_happens, "spoiled"),
        (silently, "swallowed"),
        (tidying_up_too_much, "spoiled"),
        (lambda state, path: save_beside({"weights": state["weights"]}, path), "other_state"),
        (lambda state, path: save_beside(None, path), "other_state"),
    ],
)
def test_a_file_that_a_kill_or_a_power_cut_can_cost_is_refused(learner, symptom):
    refused(check.save_whole(learner), symptom)


# Resuming


def capture_by_hand(run):
    pieces = {name: copy.deepcopy(getattr(run, name).state_dict()) for name in ("model", "optimizer", "scheduler")}
    return {"states": pieces, "rng": torch.random.get_rng_state(), "epoch": run.epoch, "batch": run.batch}


def restore_by_hand(run, state):
    run.optimizer = torch.optim.AdamW(run.model.parameters(), lr=0.01)
    run.scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(run.optimizer, T_max=100)
    for name, piece in state["states"].items():
        getattr(run, name).load_state_dict(piece)
    run.epoch, run.batch = state["epoch"], state["batch"]
    torch.random.set_rng_state(state["rng"])


@pytest.mark.slow
def test_a_run_that_goes_on_exactly_is_accepted():
    accepted(check.resume((capture, restore)))
    accepted(check.resume((capture_by_hand, restore_by_hand)))


def without(piece):
    return lambda run: {name: value for name, value in capture(run).items() if name != piece}


@pytest.mark.parametrize("piece", ["model", "optimizer", "scheduler", "random", "position"])
def test_a_run_without_one_piece_is_refused_by_its_name(piece):
    refused(check.resume((without(piece), restore)), piece)


def only_parameters(run):
    state = capture(run)
    names = dict(run.model.named_parameters())
    return state | {"model": {name: tensor for name, tensor in state["model"].items() if name in names}}


def loosely(run, state):
    run.model.load_state_dict(state["model"], strict=False)
    restore(run, {name: value for name, value in state.items() if name != "model"})


def new_optimizer(run, state):
    run.optimizer = torch.optim.AdamW(run.model.parameters(), lr=0.01)
    restore(run, state)


def draws_afterwards(run, state):
    restore(run, state)
    torch.rand(1)


def capture_that_seeds(run):
    state = capture(run)
    torch.manual_seed(0)
    return state


kept = {}


def capture_beside(run):
    kept.update(capture_by_hand(run))
    return {}


def trained_again(run, state):
    run.__init__()
    run.train(state["steps"])


def another_rate(run, state):
    restore(run, state)
    run.optimizer.param_groups[0]["lr"] = 0.5


def another_schedule(run, state):
    restore(run, state)
    run.scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(run.optimizer, T_max=100)


@pytest.mark.parametrize(
    ("learner", "symptom"),
    [
        ((only_parameters, loosely), "buffers"),
        ((lambda run: {"run": run}, restore), "unsavable"),
        ((lambda run: pickle.dumps(run.epoch), restore), "wrong_type"),
        ((capture, new_optimizer), "unlinked"),
        ((capture, draws_afterwards), "random"),
        ((capture, another_schedule), "scheduler"),
        ((capture, another_rate), "rate"),
        ((capture_that_seeds, restore), "inputs_changed"),
        ((lambda run: run.scheduler.step() or capture(run), restore), "inputs_changed"),
        ((lambda run: (capture_by_hand(run), run.optimizer.state.clear())[0], restore_by_hand), "inputs_changed"),
        ((capture_beside, lambda run, state: restore_by_hand(run, kept)), "kept_elsewhere"),
        ((lambda run: {"steps": 20 * run.epoch + run.batch}, trained_again), "model"),  # knows the seed of a run only
    ],
)
def test_other_ways_to_go_on_differently_are_refused(learner, symptom):
    checked = check.resume(learner)
    refused(checked, symptom)
    assert ("BatchNorm" in checked.message) == (symptom == "buffers"), "of other weights, statistics say nothing"


# Samples


def by_own_generator(image, seed, epoch, index):
    generator = torch.Generator().manual_seed(hash((seed, epoch, index)))
    return image + 0.1 * torch.randn(image.shape, generator=generator)


def by_forked_stream(image, seed, epoch, index):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed((seed * 10_007 + epoch) * 100_003 + index)
        return image + 0.1 * torch.randn_like(image)


@pytest.mark.slow
def test_noise_that_depends_on_three_numbers_alone_is_accepted():
    accepted(check.noisy_image(by_own_generator))
    accepted(check.noisy_image(by_forked_stream))


def generator_of(*numbers):
    return torch.Generator().manual_seed(hash(numbers))


def with_manual_seed(image, seed, epoch, index):
    torch.manual_seed(hash((seed, epoch, index)))
    return image + 0.1 * torch.randn_like(image)


def with_the_seed_put_back(image, *key):
    seed = torch.initial_seed()
    noisy = with_manual_seed(image, *key)
    torch.manual_seed(seed)
    return noisy


def with_numpys_stream(image, *key):
    np.random.seed(key)
    return image + torch.from_numpy(0.1 * np.random.standard_normal(tuple(image.shape))).to(image.dtype)


def with_pythons_stream(image, *key):
    random.seed(str(key))
    return image + 0.1 * torch.tensor([random.gauss(0, 1) for _ in range(image.numel())]).view_as(image)


def by_31(seed, epoch, index):
    return (31 * seed + epoch) * 31 + index


def shifted(seed, epoch, index):
    return (seed << 40) + (epoch << 20) + index  # beyond the 32 bits that a generator reads


def draw(image, generator):
    return image + 0.1 * torch.randn(image.shape, generator=generator)


@pytest.mark.parametrize(
    ("learner", "symptom"),
    [
        (lambda image, seed, epoch, index: image + 0.1 * torch.randn_like(image), "stream"),
        (with_manual_seed, "global"),
        (with_the_seed_put_back, "global"),
        (lambda image, seed, epoch, index: draw(image, generator_of(seed, index)), "same_every_epoch"),
        (lambda image, seed, epoch, index: draw(image, generator_of(seed, epoch)), "same_for_all"),
        (lambda image, seed, epoch, index: draw(image, generator_of(epoch, index)), "seed_ignored"),
        (
            lambda image, seed, epoch, index: draw(image, torch.Generator().manual_seed(seed + epoch + index)),
            "collision",
        ),
        (lambda image, seed, epoch, index: image.add_(by_own_generator(image, seed, epoch, index)), "inputs_changed"),
        (lambda image, seed, epoch, index: image * 1, "other_noise"),
        (lambda image, *key: image * draw(torch.ones_like(image), generator_of(*key)), "depends_on_image"),
        (lambda image, *key: draw(image, generator_of(*key, image.sum().item())), "depends_on_image"),
        (lambda image, *key: draw(image, torch.Generator().manual_seed(shifted(*key))), "seed_ignored"),
        (lambda image, *key: draw(image, torch.Generator().manual_seed(by_31(*key))), "collision"),
        (lambda image, *key: image + draw(torch.zeros(image.shape[1:]), generator_of(*key)), "repeated"),
        (lambda image, seed, epoch, index: random.random(), "wrong_type"),
        (lambda image, *key: by_own_generator(torch.zeros_like(image), *key), "image_lost"),
        (lambda image, *key: by_own_generator(image, *key).clamp(0, 1), "clamped"),
        (lambda image, *key: by_own_generator(image, *key) + 0.1, "other_noise"),
        (lambda image, *key: image + 1.3 * (by_own_generator(image, *key) - image), "other_noise"),
        (
            lambda image, *key: image + 0.346 * (torch.rand(image.shape, generator=generator_of(*key)) - 0.5),
            "other_noise",
        ),
        (lambda image, *key: draw(image, torch.Generator().manual_seed(hash(str(key)))), "other_process"),
        (with_numpys_stream, "global"),
        (with_pythons_stream, "global"),
        (lambda image, *key: by_own_generator(image.double(), *key), "dtype"),
        (lambda image, *key: image + 0.1 * torch.randn(image.shape[-1], generator=generator_of(*key)), "repeated"),
        (lambda image, *key: image + 0.1 * torch.randn(1, generator=generator_of(*key)), "repeated"),
        (lambda image, *key: image + 0.1 * torch.randn(3, 28, 28, generator=generator_of(*key)), "raised_RuntimeError"),
    ],
)
def test_noise_that_depends_on_more_or_less_is_refused(learner, symptom):
    checked = check.noisy_image(learner)
    assert (checked.state, checked.symptom, checked.score) == ("wrong", symptom, 0), checked.message


def test_a_number_beyond_the_bits_that_a_generator_reads_is_explained():
    def wide(image, seed, epoch, index):
        return draw(image, torch.Generator().manual_seed((seed << 48) + (epoch << 32) + index))

    wrong = check.noisy_image(wide)
    assert wrong.symptom == "same_every_epoch"
    assert "the lower 32 bits" in wrong.message


def test_two_keys_with_the_same_noise_are_named():
    checked = check.noisy_image(
        lambda image, seed, epoch, index: draw(image, torch.Generator().manual_seed(int(f"{seed}{epoch}{index}")))
    )
    refused(checked, "collision")
    one, other = re.search(r"(\(.*?\)) and (\(.*?\)), say", checked.message).groups()
    assert one != other
    assert re.sub(r"\D", "", one).lstrip("0") == re.sub(r"\D", "", other).lstrip("0")  # (0, 1, 10) and (1, 1, 0), say


# Loading


def load(path, strip, map_location="cpu", weights_only=True):
    weights = torch.load(path, map_location=map_location, weights_only=weights_only)
    return {strip(name): tensor for name, tensor in weights.items()}


def plain(name):
    return name.removeprefix("module.")


def load_right(path, model):
    model.load_state_dict(load(path, plain))


def load_with_the_package(path, model):
    load_any(path, model, quiet=True)


def load_into_the_wrapped(path, model):
    weights = torch.load(path, map_location=lambda storage, _: storage)
    wrapped = any(name.startswith("module.") for name in weights)
    (torch.nn.DataParallel(model) if wrapped else model).load_state_dict(weights)


@pytest.mark.parametrize("learner", [load_right, load_with_the_package, load_into_the_wrapped])
def test_a_loader_that_takes_both_kinds_of_names_is_accepted(learner):
    accepted(check.load_on_one(learner))


@pytest.mark.parametrize(
    ("learner", "symptom"),
    [
        (lambda path, model: model.load_state_dict(load(path, plain, map_location=None)), "device"),
        (lambda path, model: model.load_state_dict(torch.load(path, map_location="cpu")), "prefix"),
        (
            lambda path, model: model.load_state_dict(torch.load(path, map_location="cpu"), strict=False),
            "nothing_loaded",
        ),
        (lambda path, model: load_right(path, copy.deepcopy(model)), "nothing_loaded"),
        (lambda path, model: load_by_copying(path, model), "prefix"),
        (lambda path, model: model.load_state_dict(load(path, lambda name: name[7:])), "plain_file"),
        (
            lambda path, model: model.load_state_dict(load(path, lambda name: name.replace("module.", ""))),
            "replaced_inside",
        ),
        (
            lambda path, model: model.load_state_dict(load(path, lambda name: name.replace("module.", "", 1))),
            "replaced_inside",
        ),
        (lambda path, model: model.load_state_dict(load(path, after_the_first_dot)), "not_the_prefix"),
        (lambda path, model: model.load_state_dict(load(path, plain_for_good)), "taken_off_twice"),
        (lambda path, model: load_right(path, model.double()), "model_changed"),
        (lambda path, model: model.load_state_dict(halves(load(path, plain))), "partly"),
        (lambda path, model: load_right(path, model.requires_grad_(False)), "model_changed"),
        (lambda path, model: load_right(path, torch.nn.Linear(2, 2)), "raised_RuntimeError"),
        (lambda path, model: [load_right(path, model), delattr(model, "head")], "partly"),
        (lambda path, model: model.load_state_dict(load(path, plain), strict=False), "silent"),
        (lambda path, model: model.load_state_dict(load(path, plain, weights_only=False)), "ran_code"),
        (lambda path, model: model["head"].load_state_dict(only_head(load(path, plain))), "partly"),
        (lambda path, model: load_parameters(load(path, plain), model), "partly"),
        (lambda path, model: model.load_state_dict(load(path, lambda name: name.lstrip("module."))), "letters"),
        (lambda path, model: load_by_order(load(path, plain), model), "other_names"),
        (lambda path, model: load_what_it_has(load(path, plain), model), "surplus"),
        (lambda path, model: load_whatever_the_shape(load(path, plain), model), "other_shape"),
    ],
)
def test_a_loader_that_fails_somewhere_is_refused(learner, symptom):
    checked = check.load_on_one(learner)
    assert (checked.state, checked.symptom, checked.score) == ("wrong", symptom, 0), checked.message


def halves(weights):
    return {name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in weights.items()}


def after_the_first_dot(name):
    return name.split(".", 1)[1] if name.startswith("module") else name


def plain_for_good(name):
    return re.sub(r"^(module\.)+", "", name)


def load_parameters(weights, model):
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(weights[name])


def load_by_order(weights, model):
    model.load_state_dict(dict(zip(model.state_dict(), weights.values(), strict=True)))


def load_what_it_has(weights, model):
    model.load_state_dict({name: weights[name] for name in model.state_dict()})


def load_whatever_the_shape(weights, model):
    own = model.state_dict()
    if own.keys() != weights.keys():
        raise ValueError("other names")
    for name, tensor in weights.items():
        own[name].copy_(tensor)


def load_by_copying(path, model):
    own = model.state_dict()
    for name, tensor in torch.load(path, map_location="cpu").items():
        own[name].copy_(tensor)


def load_what_is_not_there(path, model):
    model.load_state_dict(torch.load(path, map_location="cpu")["model"])


def refuse_with_a_wrong_name(path, model):
    weights = load(path, plain)
    if weights.keys() != model.state_dict().keys():
        raise NameError("name 'missing' is not defined")  # as Python does for a misspelled name
    model.load_state_dict(weights)


@pytest.mark.parametrize(
    ("learner", "name"), [(load_what_is_not_there, "KeyError"), (refuse_with_a_wrong_name, "NameError")]
)
def test_an_error_of_the_learners_own_is_no_word_on_the_file(learner, name):
    checked = check.load_on_one(learner)
    assert (checked.state, checked.score) == ("wrong", 0)
    assert name in checked.message, checked.message


def only_head(weights):
    return {name.removeprefix("head."): tensor for name, tensor in weights.items() if name.startswith("head.")}
