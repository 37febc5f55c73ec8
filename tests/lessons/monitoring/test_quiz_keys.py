"""The keys of lesson 04's bank, computed again or tried out: what a question says happens is what happens."""

import copy
import itertools
import os
import pickle
import re
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.distributed.checkpoint import format_utils
from torch.utils.data import DataLoader

from keys import Keys
from torchcourse.lessons.monitoring.crash_costs import daly_interval, expected_loss
from torchcourse.lessons.monitoring.save_interval import best_interval, lost_share
from torchcourse.training import checkpoint

LESSON = "04_monitoring_and_checkpoints"
keys = Keys(LESSON)
asked, key = keys.asked, keys.key


def test_the_numbers_of_the_recorded_questions(tmp_path):
    model = nn.Linear(1000, 1000, bias=False)
    torch.save(model.state_dict(), tmp_path / "rank0.pt")
    size = asked("size-of-the-file")
    assert abs((tmp_path / "rank0.pt").stat().st_size / 1e6 - size.answer) < size.tolerance
    assert key("ten-sigmoids") == pytest.approx(0.25**10, rel=1e-3)
    assert key("what-logging-costs") == pytest.approx(100 * 10 / (100 * 10))
    accuracies = [int(number) for number in re.findall(r"9\d", asked("which-weights-to-keep").text.en)]
    best = 1 + accuracies.index(max(accuracies))
    assert [f"epoch {best}," in choice.text.en for choice in asked("which-weights-to-keep").choices].index(True) == 1
    assert key("which-weights-to-keep") == "B"


def test_a_wrapper_changes_the_names():
    plain = nn.Sequential(nn.Linear(2, 2))
    wrapped = nn.DataParallel(plain).state_dict()
    result = plain.load_state_dict(wrapped, strict=False)
    assert [f"module.{name}" for name in result.missing_keys] == result.unexpected_keys == list(wrapped)
    assert key("missing-and-unexpected") == "B"


def test_a_mirrored_filter_has_the_same_histogram():
    weights = torch.randn(8, 1, 3, 3)
    assert torch.equal(torch.histc(weights), torch.histc(weights.flip(-1)))
    assert key("mirrored-digits") == "B"


def test_event_files_hold_what_the_reader_thins_out(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(tmp_path) as writer:
        for epoch in range(30):
            writer.add_histogram("conv1", torch.randn(10), epoch)
            writer.add_image("batch", torch.rand(1, 2, 2), epoch)
    reader = EventAccumulator(str(tmp_path)).Reload()
    assert [event.step for event in reader.Histograms("conv1")] == [29]
    assert len(reader.Images("batch")) == 4
    reader = EventAccumulator(str(tmp_path), size_guidance={"histograms": 0}).Reload()
    assert len(reader.Histograms("conv1")) == 30
    assert key("one-histogram-left") == "B"
    assert hasattr(SummaryWriter, key("forty-runs-in-a-table")[0])


def numbers(text: str) -> list[float]:
    return [float(number) for number in re.findall(r"\d+\.\d+", text)]


def test_runs_are_ordered_by_training_loss_first_and_by_the_gap_then():
    question = asked("from-under-to-over")
    losses = {letter: numbers(item.en) for letter, item in zip(question.letters, question.items, strict=True)}
    under = sorted((letter for letter in losses if losses[letter][0] > 0.5), key=lambda one: -losses[one][0])
    fitted = sorted(set(losses) - set(under), key=lambda one: losses[one][1] - losses[one][0])
    assert "".join(under + fitted) == question.answer


def test_patience_ends_at_the_key():
    losses = numbers(asked("patience-of-three").text.en)
    best = itertools.accumulate(losses, min)
    since = 0
    for epoch, (loss, least) in enumerate(zip(losses, best, strict=True), start=1):
        since = 0 if loss == least else since + 1
        if since == 3:
            assert epoch == key("patience-of-three")
            return
    pytest.fail("these losses do not stop the training")


def test_dropout_raises_the_loss_of_training():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(10, 64), nn.ReLU(), nn.Dropout(0.5), nn.Linear(64, 2))
    x = torch.randn(256, 10)
    y = (x[:, 0] > 0).long()
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    for _ in range(60):
        loss = nn.functional.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        training = nn.functional.cross_entropy(model(x), y)
        evaluated = nn.functional.cross_entropy(model.eval()(x), y)
    assert evaluated < training
    assert key("validation-below-training") == "B"


def test_costs_agree_with_the_keys():
    assert key("interval-for-one-percent") == next(steps for steps in range(1, 1000) if 0.01 * 20 * steps >= 60)
    assert 60 / (100 * 20) == 0.03
    assert f"{3800 / 2100:.1f}" == "1.8"
    assert key("better-by-which-measure") == "B"


def test_a_cosine_schedule_does_not_look_at_the_loss():
    rates = []
    for scale in (1.0, 1000.0):
        weight = nn.Parameter(torch.ones(1))
        optimizer = torch.optim.SGD([weight], 0.1)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 90)
        for _ in range(5):
            (scale * weight).sum().backward()
            optimizer.step()
            schedule.step()
        rates.append(schedule.get_last_lr())
    assert rates[0] == rates[1]
    assert key("decides-by-quality") == "ACE"


def test_a_dead_unit_has_no_gradient_and_a_saturated_one_a_small_one():
    layer = nn.Linear(4, 1)
    nn.init.constant_(layer.bias, -100.0)
    x = torch.randn(64, 4)
    layer(x).relu().sum().backward()
    assert layer.weight.grad.abs().max() == 0
    nn.init.constant_(layer.bias, 3.0)
    layer.zero_grad()
    layer(x).tanh().sum().backward()
    assert layer.weight.grad.abs().max() > 0
    assert pytest.approx(0.02, abs=2e-4) == 1 - 0.99**2
    assert key("two-piles-at-the-ends") == "B"


def test_norms_shrink_by_about_one_factor():
    norms = [float(number) for number in re.findall(r"\de-\d|0\.03", asked("norms-from-first-to-last").text.en)]
    factors = [later / earlier for earlier, later in itertools.pairwise(norms)]
    assert len(norms) == 5
    assert all(40 < factor < 65 for factor in factors)
    assert key("norms-from-first-to-last") == "B"


def test_a_model_that_is_too_small_moves_all_its_weights():
    torch.manual_seed(0)
    x = torch.randn(256, 8)
    y = torch.randint(10, (256,))
    model = nn.Sequential(nn.Linear(8, 2), nn.Tanh(), nn.Linear(2, 10))
    start = [layer.weight.detach().clone() for layer in (model[0], model[2])]
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    for _ in range(300):
        loss = nn.functional.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss > 1.9
    for before, layer in zip(start, (model[0], model[2]), strict=True):
        assert (layer.weight - before).norm() > 0.2 * before.norm()
    assert key("small-model-moves") == "B"


def growth(layers: int, width: int, std: float, activation=lambda x: x) -> float:
    torch.manual_seed(0)
    x = torch.randn(64, width)
    start = x.square().mean().sqrt()
    for _ in range(layers):
        x = activation(x) @ (std * torch.randn(width, width))
    return float(x.square().mean().sqrt() / start)


def test_scales_agree_with_the_keys():
    assert growth(10, 100, 0.2) == pytest.approx(key("back-through-ten-layers"), rel=0.3)
    assert growth(10, 400, float(key("std-that-keeps-the-size"))) == pytest.approx(1, rel=0.2)
    std = float(key("std-behind-relu"))
    assert growth(2, 200, std, torch.relu) / growth(1, 200, std, torch.relu) == pytest.approx(1, rel=0.2)
    assert pytest.approx(1 / 200, rel=1e-3) == 0.0707**2
    assert pytest.approx(0.5, abs=0.01) == 0.71**2


def test_a_save_forces_the_disk_before_it_renames(tmp_path, monkeypatch):
    calls = []
    for name in ("fsync", "replace"):
        real = getattr(os, name)
        monkeypatch.setattr(os, name, lambda *args, name=name, real=real: (calls.append(name), real(*args))[1])
    checkpoint.save({"x": 1}, tmp_path / "last.pt")
    assert calls[:2] == ["fsync", "replace"]
    assert key("order-of-a-safe-save") == "BDAC"


def test_a_save_that_breaks_off_destroys_what_was_there(tmp_path):
    class Interrupting:
        def __reduce__(self):
            raise KeyboardInterrupt

    path = tmp_path / "last.pt"
    torch.save({"w": torch.ones(1000)}, path)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(RuntimeError):  # "the first tensors" cannot be had
        torch.load(path)
    path.write_bytes(whole)
    with pytest.raises(KeyboardInterrupt):
        torch.save({"w": torch.zeros(1000), "last": Interrupting()}, path)
    with pytest.raises(RuntimeError):
        torch.load(path)
    assert key("killed-in-the-eighth-save") == "B"


class Run:
    """All that the question names: Adam (A), a schedule (C), a scaler (D), dropout (E), a place in the epoch (G)."""

    def __init__(self):
        self.model = nn.Sequential(nn.Linear(6, 8), nn.Dropout(0.5), nn.Linear(8, 1))
        adam = torch.optim.Adam(self.model.parameters(), 0.1)
        schedule = torch.optim.lr_scheduler.StepLR(adam, step_size=3)
        self.parts: dict[str, Any] = {"A": adam, "C": schedule, "D": torch.amp.GradScaler("cpu", growth_interval=4)}
        self.place = 0

    def steps(self, data, count):
        adam, schedule, scaler = self.parts.values()
        for _ in range(count):
            adam.zero_grad()
            scaler.scale(self.model(data[self.place]).square().mean()).backward()
            scaler.step(adam)
            scaler.update()
            schedule.step()
            self.place += 1
        return [value.clone() for value in self.model.state_dict().values()], scaler.get_scale()


def test_what_a_resumed_run_cannot_do_without():
    question = asked("besides-the-weights")
    torch.manual_seed(0)
    data = torch.randn(10, 5, 6)
    whole = Run()
    whole.steps(data, 5)
    weights = copy.deepcopy(whole.model.state_dict())
    states = {letter: copy.deepcopy(part.state_dict()) for letter, part in whole.parts.items()}
    random = torch.get_rng_state()
    goal, scale = whole.steps(data, 5)

    def resumed_without(left_out: str):
        run = Run()
        run.model.load_state_dict(weights)
        for letter, part in run.parts.items():
            state = copy.deepcopy(states[letter])
            if letter == left_out == "A":
                state["state"] = {}
            if letter != left_out or letter == "A":
                part.load_state_dict(state)
        if left_out == "B":
            for parameter in run.model.parameters():
                parameter.grad = torch.full_like(parameter, 7)
        torch.set_rng_state(random)
        if left_out == "E":
            torch.manual_seed(1)
        run.place = 0 if left_out == "G" else 5
        return run.steps(data, 5)

    for letter in question.letters:
        weights_after, scale_after = resumed_without(letter)
        same = scale_after == scale and all(map(torch.equal, weights_after, goal))
        assert same == (letter not in question.key), letter
    assert key("jump-after-resuming") == "A"
    assert torch.amp.GradScaler("cpu").get_scale() == 65536


def test_batches_done_in_the_epoch():
    samples: Any = range(1000)
    loader = DataLoader(samples, 32)
    assert 100 % len(loader) == key("batches-done-in-this-epoch")


def test_a_state_restored_after_iter_comes_too_late():
    samples: Any = range(20)
    loader = DataLoader(samples, 5, shuffle=True)
    state = torch.get_rng_state()
    first = torch.cat(list(loader))
    torch.set_rng_state(state)
    assert torch.equal(torch.cat(list(loader)), first)
    torch.set_rng_state(state)
    batches = iter(loader)
    torch.set_rng_state(state)
    assert not torch.equal(torch.cat(list(batches)), first)
    assert key("restored-after-iter") == "A"


def test_which_expressions_take_the_prefixes_off():
    question = asked("taking-the-prefixes-off")
    for letter, choice in zip(question.letters, question.choices, strict=True):
        name = eval(choice.text.en.strip("`"), {"name": "module._orig_mod.layer1.weight"})
        assert (name == "layer1.weight") == choice.right, letter
        if not choice.right:
            assert f"`{name}`" in choice.why.en
    assert hasattr(format_utils, key("folder-to-file")[0])


def test_a_file_that_asks_for_eval_is_refused(tmp_path):
    class Asking:
        def __reduce__(self):
            return eval, ("1 + 1",)

    torch.save({"w": Asking()}, tmp_path / "weights.pt")
    with pytest.raises(pickle.UnpicklingError, match="GLOBAL eval was not an allowed global by default"):
        torch.load(tmp_path / "weights.pt", map_location="cpu")
    assert key("refused-for-eval") == "D"


def flip_a_bit(path):
    data = bytearray(path.read_bytes())
    data[data.find(torch.ones(8).numpy().tobytes()) + 402] ^= 1
    path.write_bytes(data)


def test_only_a_checksum_notices_a_flipped_bit(tmp_path):
    state = {"w": torch.ones(1000)}
    torch.save(state, tmp_path / "a.pt")
    save_file(state, tmp_path / "a.safetensors")
    checkpoint.save(state, tmp_path / "c.pt")
    for path in tmp_path.iterdir():
        flip_a_bit(path)
    assert torch.load(tmp_path / "a.pt")["w"].ne(1).sum() == 1
    assert load_file(tmp_path / "a.safetensors")["w"].ne(1).sum() == 1
    with pytest.raises(checkpoint.CheckpointError, match="damaged"):
        checkpoint.load(tmp_path / "c.pt")
    assert key("one-bit-flipped") == "C"


def test_what_strict_false_loads():
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 10))
    before = copy.deepcopy(model.state_dict())
    result = model.load_state_dict({f"module.{name}": value + 1 for name, value in before.items()}, strict=False)
    assert len(result.missing_keys) == len(result.unexpected_keys) == len(before)
    changed = sum(not torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert changed == key("loaded-with-strict-false")
    smaller = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 5)).state_dict()
    with pytest.raises(RuntimeError, match="size mismatch"):
        model.load_state_dict(smaller, strict=False)
    assert key("head-of-another-size") == "B"


def test_the_interval_follows_the_root():
    hour = 3600.0
    for name, (save, between) in {
        "interval-on-four-times-the-machines": (1.0, 1 / 4),
        "interval-of-a-shorter-wait": (4 / 64, 1.0),
    }.items():
        factor = best_interval(save, between * hour) / best_interval(1.0, hour)
        assert key(name) == pytest.approx(40 * factor)


def test_what_a_restart_repeats_and_leaves_out():
    assert key("steps-done-twice") == 137 % 50
    repeated = 100 * 32 * 8 - 100 * 32 * 4
    assert key("batch-one-hundred-on-half-the-ranks") == repeated
    right = next(choice for choice in asked("batch-one-hundred-on-more-ranks").choices if choice.right)
    assert f"{repeated:,} of them were never taken" in right.text.en


def test_who_waits_for_a_slow_machine():
    """Of 16 machines: the time of 100 steps is that of the last to arrive, with an average after each step or one."""
    random = np.random.default_rng(0)
    always = np.ones((16, 100))
    always[0] = 2
    in_turn = 1 + (random.random((16, 100)) < 0.1)
    together = np.tile(1 + (random.random(100) < 0.1), (16, 1))
    saved = [steps.max(axis=0).sum() - steps.sum(axis=1).max() for steps in (in_turn, always, together)]
    assert saved[1] == saved[2] == 0 < saved[0]
    assert (key("one-machine-is-always-slow"), key("slow-in-turn")) == ("A", "A")


def test_a_long_save_costs_more_than_the_formula_says():
    save, between = 600, 3600
    interval = best_interval(save, between)
    assert round(interval / 60) == 35
    assert f"{lost_share(interval, save, between):.0%}" == "58%"
    assert expected_loss(interval, save, between) > 0.9
    assert expected_loss(interval, save, between) < 1.05 * expected_loss(daly_interval(save, between), save, between)
    assert key("a-save-of-ten-minutes") == "A"
    assert 100 * lost_share(3600, 36, 5 * 3600) == pytest.approx(key("lost-at-once-an-hour"))
    assert key("room-for-the-copy") == 96 / 8
