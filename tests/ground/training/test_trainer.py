"""The Trainer trains exactly as a loop written by hand does, and says in one sentence what is wrong."""

import contextlib
import copy
import math
import os
import random
import signal
import sys
from types import FrameType
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.amp import grad_scaler
from torch.utils.data import BatchSampler, DataLoader, Dataset, RandomSampler, TensorDataset

from torchcourse import training
from torchcourse.data import SeededSamples, make_loader
from torchcourse.models import mlp
from torchcourse.ranks import who
from torchcourse.training import CheckpointError, History, Trainer, checkpoint, read_scalars

SAMPLES, WIDTH, CLASSES = 52, 6, 3


def data(samples=SAMPLES, seed=1):
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(samples, WIDTH, generator=generator)
    return TensorDataset(inputs, torch.randint(CLASSES, (samples,), generator=generator))


def batches(dataset, size):
    inputs, targets = dataset.tensors
    return list(zip(inputs.split(size), targets.split(size), strict=True))


def parts(optimizer=torch.optim.SGD, model=None, **options):
    torch.manual_seed(0)
    model = mlp(WIDTH, 8, CLASSES) if model is None else model()
    return model, optimizer(model.parameters(), **({"lr": 0.1} | options))


def trainer(model=None, optimizer=None, loss_fn=None, **options):
    if model is None:
        model, optimizer = parts()
    return Trainer(model, optimizer, loss_fn or nn.CrossEntropyLoss(), **({"progress": False} | options))


def equal_weights(left, right):
    return all(torch.equal(a, b) for a, b in zip(left.state_dict().values(), right.state_dict().values(), strict=True))


def close_weights(left, right):
    return all(
        torch.allclose(a, b, atol=1e-6)
        for a, b in zip(left.state_dict().values(), right.state_dict().values(), strict=True)
    )


@pytest.mark.parametrize("clip_norm", [None, 0.05])
def test_weights_are_bit_for_bit_those_of_a_raw_loop(clip_norm):
    model, optimizer = parts(momentum=0.9)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, step_size=4, gamma=0.5)
    torch.manual_seed(3)
    for _ in range(2):
        for inputs, targets in DataLoader(data(), batch_size=8, shuffle=True):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(inputs), targets).backward()
            if clip_norm:
                nn.utils.clip_grad_norm_(model.parameters(), clip_norm)
            optimizer.step()
            schedule.step()

    ours, our_optimizer = parts(momentum=0.9)
    our_schedule = torch.optim.lr_scheduler.StepLR(our_optimizer, step_size=4, gamma=0.5)
    torch.manual_seed(3)
    history = trainer(ours, our_optimizer, scheduler=our_schedule, clip_norm=clip_norm).fit(
        DataLoader(data(), batch_size=8, shuffle=True), epochs=2
    )
    assert equal_weights(ours, model)
    assert history["lr"] == pytest.approx([0.1 * 0.5, 0.1 * 0.5**3])  # 7 and 14 steps
    assert history["step"] == [7, 14]


def calls(steps: int) -> int:
    """Python functions that a fit of so many steps calls in the Trainer's files, and in contexts and loss scaling."""
    watched = (os.path.dirname(training.__file__), contextlib.__file__, grad_scaler.__file__)
    count = 0

    def note(frame: FrameType, event: str, _: object) -> None:
        nonlocal count
        count += event == "call" and frame.f_code.co_filename.startswith(watched)

    one, loader = trainer(log_every=1000), batches(data(8), 8) * steps
    sys.setprofile(note)
    try:
        one.fit(loader, 1)
    finally:
        sys.setprofile(None)
    return count


def test_a_step_calls_few_functions():
    """What the Trainer costs per step is mostly calls: a busy machine counts as many of them as an idle one."""
    assert (calls(40) - calls(20)) / 20 <= 17


@pytest.mark.parametrize("samples", [48, 44, 52])  # even; a smaller last batch; a smaller last window as well
def test_accumulated_batches_make_the_gradient_of_one_big_batch(samples):
    dataset = data(samples)
    big, big_optimizer = parts()
    for inputs, targets in batches(dataset, 24):
        big_optimizer.zero_grad()
        nn.functional.cross_entropy(big(inputs), targets).backward()
        big_optimizer.step()
    model, optimizer = parts()
    accumulating = trainer(model, optimizer, accumulate=3)
    accumulating.fit(DataLoader(dataset, batch_size=8), epochs=1)
    assert accumulating.position.step == math.ceil(samples / 24)
    assert close_weights(model, big)


def test_a_loss_for_each_sample_is_averaged():
    means, each = parts(), parts()
    trainer(*means).fit(batches(data(), 8), 1)
    trainer(each[0], each[1], nn.CrossEntropyLoss(reduction="none")).fit(batches(data(), 8), 1)
    assert close_weights(means[0], each[0])


def test_means_count_samples_and_not_batches():
    model, optimizer = parts(lr=0.0)  # never changes, so that training and evaluation see the same model
    dataset = data()
    scores = model(dataset.tensors[0])
    loss = nn.functional.cross_entropy(scores, dataset.tensors[1]).item()
    accuracy = (scores.argmax(1) == dataset.tensors[1]).float().mean().item()
    metrics = {
        "each": lambda outputs, targets: outputs.argmax(1) == targets,
        "mean": lambda outputs, targets: (outputs.argmax(1) == targets).float().mean(),
        "number": lambda outputs, targets: (outputs.argmax(1) == targets).float().mean().item(),
    }
    loader = DataLoader(dataset, batch_size=24)  # 24, 24 and 4 samples
    ours = trainer(model, optimizer, metrics=metrics, log_every=2)
    row = ours.fit(loader, epochs=1, val_loader=loader).rows[0]
    for prefix in ("", "val_"):
        assert row[f"{prefix}loss"] == pytest.approx(loss, rel=1e-6)
        for name in metrics:
            assert row[f"{prefix}{name}"] == pytest.approx(accuracy, rel=1e-6)
    assert ours.evaluate(loader) == pytest.approx({"loss": loss} | dict.fromkeys(metrics, accuracy), rel=1e-6)


def test_metrics_see_large_outputs_and_sequences_of_unequal_length_too():
    class Tagger(nn.Module):
        def __init__(self):
            super().__init__()
            self.score = nn.Linear(1, CLASSES)

        def forward(self, sequences):  # [N, T] → [N, classes, T]
            return self.score(sequences.unsqueeze(-1)).transpose(1, 2)

    generator = torch.Generator().manual_seed(0)
    loader = [(torch.randn(4, t), torch.randint(CLASSES, (4, t), generator=generator)) for t in (3, 5, 6000, 5, 5)]
    model, optimizer = parts(model=Tagger, lr=0.0)
    right = sum((model(inputs).argmax(1) == targets).sum().item() for inputs, targets in loader)
    row = trainer(model, optimizer).fit(loader, epochs=1).rows[0]
    assert row["accuracy"] == pytest.approx(right / sum(targets.numel() for _, targets in loader))


def test_inputs_may_be_several_tensors():
    class Sum(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(WIDTH, CLASSES)

        def forward(self, inputs):
            return self.linear(inputs["left"] + inputs["right"][0])

    model, optimizer = parts(model=Sum)
    loader = [({"left": inputs, "right": [inputs]}, targets) for inputs, targets in batches(data(), 8)]
    history = trainer(model, optimizer).fit(loader, epochs=3, val_loader=loader)
    assert history["loss"][2] < history["loss"][0]


def test_evaluation_changes_nothing():
    model, optimizer = parts(model=lambda: nn.Sequential(nn.Linear(WIDTH, 4), nn.BatchNorm1d(4), nn.Linear(4, CLASSES)))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    ours = trainer(model, optimizer)
    model.train()
    recorded = []
    model.register_forward_hook(lambda module, inputs, outputs: recorded.append(outputs.requires_grad))
    ours.evaluate(batches(data(), 8))
    assert recorded == [False] * 7
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert model.training
    assert all(parameter.grad is None for parameter in model.parameters())


def test_training_is_in_training_mode_whatever_mode_the_model_was_in():
    model, optimizer = parts(model=lambda: nn.Sequential(nn.Linear(WIDTH, 4), nn.BatchNorm1d(4), nn.Linear(4, CLASSES)))
    trainer(model.eval(), optimizer).fit(batches(data(), 8), 1)
    assert model[1].num_batches_tracked == 7


def test_each_epoch_has_its_own_order():
    seen = []
    model, optimizer = parts()
    model.register_forward_hook(lambda module, inputs, outputs: seen.append(inputs[0][0].tolist()))
    trainer(model, optimizer).fit(make_loader(data(), 8), 2)
    assert seen[:7] != seen[7:]


def test_bf16_computes_in_half_precision_and_keeps_full_weights():
    seen = []

    def see(outputs, targets):
        seen.append(outputs.dtype)
        return 0.0

    model, optimizer = parts()
    history = trainer(model, optimizer, precision="bf16", metrics={"dtype": see}).fit(batches(data(), 8), 3)
    assert set(seen) == {torch.bfloat16}
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert history["loss"][2] < history["loss"][0]


def test_a_step_that_overflowed_under_loss_scaling_is_left_out_of_the_schedule():
    model, optimizer = parts()
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, gamma=0.5)
    ours = trainer(
        model, optimizer, lambda *pair: 4 * nn.functional.cross_entropy(*pair), scheduler=schedule, clip_norm=1e9
    )
    # What precision="fp16" does on a GPU, with a scale so large that the first gradients are infinite.
    ours.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**127, growth_interval=10**6)
    ours.fit(batches(data(), 8)[:3], epochs=1)
    left_out = 127 - math.log2(ours.scaler.get_scale())
    assert left_out in (1, 2)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.1 * 0.5 ** (3 - left_out))


def test_loss_scaling_and_clipping_take_the_same_steps_as_without_scale():
    plain, optimizer = parts()
    trainer(plain, optimizer, clip_norm=0.05).fit(batches(data(), 8), 1)
    scaled, optimizer = parts()
    ours = trainer(scaled, optimizer, clip_norm=0.05)
    ours.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    ours.fit(batches(data(), 8), 1)
    assert close_weights(plain, scaled)


def test_a_plateau_scheduler_sees_the_monitored_value_once_an_epoch():
    model, optimizer = parts(lr=0.1)
    seen = []

    class Schedule(torch.optim.lr_scheduler.ReduceLROnPlateau):
        def step(self, metrics, epoch=None):  # type: ignore[override]  # so does the class above it
            seen.append(metrics)
            super().step(metrics)

    schedule = Schedule(optimizer, factor=0.5, patience=0, threshold=1e9)
    history = trainer(model, optimizer, scheduler=schedule).fit(batches(data(), 8), 3, val_loader=batches(data(), 8))
    assert seen == history["val_loss"]
    assert history["lr"] == pytest.approx([0.1, 0.05, 0.025])  # nothing is better by such a threshold


def test_history_knows_columns_best_epoch_and_tables():
    history = trainer().fit(batches(data(), 8), 3, val_loader=batches(data(), 8))
    assert len(history) == 3
    assert history["epoch"] == [1, 2, 3]
    assert history.best["val_loss"] == min(history["val_loss"])
    assert repr(history).count("\n") == 2
    assert "val_accuracy" in repr(history)
    assert history._repr_html_().count("<tr>") == 4
    with pytest.raises(KeyError, match=r"no column 'val_acc'; there is: epoch, step, loss"):
        history["val_acc"]
    assert repr(History()) == "No epoch has been finished."


def test_a_second_fit_goes_on_counting_and_may_leave_out_validation():
    ours = trainer()
    ours.fit(batches(data(), 8), 2, val_loader=batches(data(), 8))
    history = ours.fit(batches(data(), 8), 1)
    assert history["epoch"] == [1, 2, 3]
    assert math.isnan(history["val_loss"][2])
    assert history._repr_html_().count("<td>–</td>") == 2


def test_scalars_on_disk_are_those_of_the_history(tmp_path):
    ours = trainer(log_dir=tmp_path, log_every=3, clip_norm=1.0)
    history = ours.fit(batches(data(), 8), 2, val_loader=batches(data(), 8))
    scalars = read_scalars(tmp_path)
    assert [row["step"] for row in history.steps] == [3, 6, 7, 9, 12, 14]
    for name in ("loss", "accuracy", "lr", "gradient_norm"):
        steps, values = scalars[f"{name}/train"]
        assert steps == [row["step"] for row in history.steps]
        assert values == pytest.approx([row[name] for row in history.steps], rel=1e-6)
    assert scalars["loss/val"][0] == [7, 14]
    assert scalars["loss/val"][1] == pytest.approx(history["val_loss"], rel=1e-6)


class Augmented(Dataset):
    """Draws from every generator that a dataset may use."""

    def __init__(self, dataset):
        self.dataset = dataset

    def __len__(self):
        return len(self.dataset)

    def __getitem__(self, index):
        inputs, target = self.dataset[index]
        return inputs + 0.1 * torch.randn(WIDTH) + 0.1 * random.random() + 0.1 * float(np.random.rand()), target


class StopIn:
    """A forward hook that presses the stop button in the n-th batch of training: Jupyter's sends SIGINT."""

    def __init__(self, batch, times=1):
        self.left, self.times = batch, times

    def __call__(self, module, inputs, outputs):
        self.left -= module.training
        if self.left == 0:
            self.left = -1
            for _ in range(self.times):
                signal.raise_signal(signal.SIGINT)


def run(folder, loader, epochs, resume=False, stop_in=None, accumulate=1, hook=None, save_every=None):
    """One life of a training program: everything is built again."""
    torch.manual_seed(0)
    random.seed(0)
    np.random.seed(0)
    model = nn.Sequential(nn.Linear(WIDTH, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, CLASSES))
    if stop_in is not None:
        model.register_forward_hook(StopIn(stop_in))
    if hook is not None:
        model.register_forward_hook(hook)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 50)
    options = {"checkpoint_dir": folder, "log_every": 4, "accumulate": accumulate, "save_every": save_every}
    ours = trainer(model, optimizer, scheduler=schedule, **options)
    try:
        ours.fit(loader(), epochs, val_loader=batches(data(30, seed=2), 8), resume=resume)
    except KeyboardInterrupt as error:
        print(error)
    rows = [{name: value for name, value in row.items() if name != "seconds"} for row in ours.history.rows]
    return model, rows, ours.history.steps, optimizer, ours


LOADERS = {
    "make_loader": lambda: make_loader(Augmented(data()), 8, seed=3),
    "shuffled DataLoader": lambda: DataLoader(Augmented(data()), 8, shuffle=True),
    "own generator": lambda: DataLoader(Augmented(data()), 8, shuffle=True, generator=torch.Generator().manual_seed(7)),
    "sampler's generator": lambda: DataLoader(
        Augmented(data()), 8, sampler=RandomSampler(data(), generator=torch.Generator().manual_seed(7))
    ),
    "generators of loader and batch sampler": lambda: DataLoader(
        Augmented(data()),
        batch_sampler=BatchSampler(RandomSampler(data(), generator=torch.Generator().manual_seed(7)), 8, False),
        generator=torch.Generator().manual_seed(8),
    ),
}


def assert_same_run(left, right):
    model, rows, steps, optimizer, _ = left
    other_model, other_rows, other_steps, other_optimizer, _ = right
    assert rows == other_rows
    assert steps == other_steps
    assert equal_weights(model, other_model)
    for parameter, other in zip(model.parameters(), other_model.parameters(), strict=True):
        for key, value in optimizer.state[parameter].items():
            assert torch.equal(value, other_optimizer.state[other][key])


@pytest.mark.slow
@pytest.mark.parametrize("loader", LOADERS)
def test_resuming_after_an_epoch_is_bit_for_bit_the_uninterrupted_run(tmp_path, loader):
    whole = run(tmp_path / "whole", LOADERS[loader], 4)
    run(tmp_path / "parts", LOADERS[loader], 2)
    resumed = run(tmp_path / "parts", LOADERS[loader], 4, resume=True)
    assert_same_run(whole, resumed)
    assert whole[-1].history.best["epoch"] == resumed[-1].history.best["epoch"]


@pytest.mark.parametrize("loader", LOADERS)
@pytest.mark.parametrize(
    ("stop_in", "accumulate", "says"),
    [
        (1, 1, "step 1, in epoch 1"),
        (10, 1, "step 10, in epoch 2"),
        (14, 1, "step 14, in epoch 2"),
        (9, 2, "step 5, in"),
    ],
)
def test_stopping_within_an_epoch_loses_nothing(tmp_path, capsys, loader, stop_in, accumulate, says):
    whole = run(tmp_path / "whole", LOADERS[loader], 3, accumulate=accumulate)
    stopped = run(tmp_path / "parts", LOADERS[loader], 3, stop_in=stop_in, accumulate=accumulate)
    assert f"Stopped after {says}" in capsys.readouterr().out
    assert stopped[1] == whole[1][: (stop_in - 1) // 7]
    resumed = run(tmp_path / "parts", LOADERS[loader], 3, resume=True, accumulate=accumulate)
    assert_same_run(whole, resumed)


WORKERS: dict[str, Any] = {"num_workers": 2, "multiprocessing_context": "fork"}
LOADERS_WITH_WORKERS = {
    "for an epoch": (lambda: make_loader(Augmented(data()), 8, **WORKERS), 3),
    "that stay": (
        lambda: DataLoader(SeededSamples(data()), 8, shuffle=True, persistent_workers=True, **WORKERS),
        10,  # in the second epoch, where they do not start again
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("workers", LOADERS_WITH_WORKERS)
def test_stopping_with_loader_workers_resumes_exactly(tmp_path, workers):
    loader, stop_in = LOADERS_WITH_WORKERS[workers]
    whole = run(tmp_path / "whole", loader, 2)
    run(tmp_path / "parts", loader, 2, stop_in=stop_in)
    assert_same_run(whole, run(tmp_path / "parts", loader, 2, resume=True))


class Crash(Exception):
    """Stands for whatever ends a run without warning."""


def crash_in(batch):
    left = [batch]

    def hook(module, inputs, outputs):
        left[0] -= module.training
        if left[0] < 0:
            raise Crash

    return hook


def seeded_loader(workers):
    options = {"num_workers": workers, "multiprocessing_context": "fork"} if workers else {}
    return lambda: make_loader(SeededSamples(Augmented(data())), 8, **options)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("before", "after"),
    [(LOADERS["make_loader"], LOADERS["make_loader"]), (seeded_loader(2), seeded_loader(0))],
    ids=["streams", "seeded samples, other workers"],
)
@pytest.mark.parametrize("crash", [2, 9, 13])
def test_a_run_that_saves_within_epochs_goes_on_from_there_exactly(tmp_path, before, after, crash):
    whole = run(tmp_path / "whole", before, 3)
    if crash > 2:
        with pytest.raises(Crash):
            run(tmp_path / "parts", before, 3, hook=crash_in(crash), save_every=3)
        assert checkpoint.load(tmp_path / "parts" / "last.pt")["position"]["step"] == crash // 3 * 3
    resumed = run(tmp_path / "parts", after, 3, resume=True)
    assert_same_run(whole, resumed)


def test_so_many_of_the_last_savings_are_kept_and_the_best(tmp_path, capsys):
    ours = trainer(checkpoint_dir=tmp_path, save_every=3, keep=2)
    ours.fit(batches(data(), 8), 2)  # steps 3, 6, 7, 9, 12, 14
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        *("best.pt", "last.pt", "step-00000012.pt", "step-00000014.pt"),
    ]
    for name, step in (("last", 14), ("step-00000012", 12), ("step-00000014", 14)):
        assert checkpoint.load(tmp_path / f"{name}.pt")["position"]["step"] == step
    damage(tmp_path / "last.pt")  # and with it its second name
    trainer(checkpoint_dir=tmp_path).fit(batches(data(), 8), 2, resume=True)
    assert f"Going on from {tmp_path / 'step-00000012.pt'} (epoch 1) instead" in capsys.readouterr().out


def test_what_an_earlier_run_kept_is_older_whatever_its_number(tmp_path):
    trainer(checkpoint_dir=tmp_path, keep=2).fit(batches(data(), 8), 2)
    trainer(checkpoint_dir=tmp_path, keep=2, save_every=2).fit(batches(data(), 8), 1, overwrite=True)
    assert sorted(path.name for path in tmp_path.glob("step-*")) == ["step-00000006.pt", "step-00000007.pt"]


def test_weights_that_are_no_numbers_are_not_saved_within_an_epoch(tmp_path):
    bad = batches(data(), 8)
    bad[3][0][0, 0] = math.nan
    with pytest.raises(FloatingPointError, match="at step 4"):
        trainer(checkpoint_dir=tmp_path, save_every=1).fit(bad, 1)
    assert checkpoint.load(tmp_path / "last.pt")["position"]["step"] == 3


class StopsBefore(list):
    """Validation batches; the stop button is pressed before the first of them, when they were tried already."""

    tried = False

    def __iter__(self):
        if self.tried:
            signal.raise_signal(signal.SIGINT)
        self.tried = True
        return super().__iter__()


class StopsWithin(list):
    """Validation batches; the stop button is pressed before the second of them."""

    def __iter__(self):
        for number, batch in enumerate(super().__iter__()):
            if number == 1:
                signal.raise_signal(signal.SIGINT)
            yield batch


@pytest.mark.parametrize("stopping", [StopsBefore, StopsWithin])
def test_stopping_during_validation_repeats_only_the_validation(tmp_path, stopping):
    validation = batches(data(30, seed=2), 8)
    model, optimizer = parts()
    stopped = trainer(model, optimizer, checkpoint_dir=tmp_path)
    with pytest.raises(KeyboardInterrupt):
        stopped.fit(batches(data(), 8), 1, val_loader=stopping(validation))
    assert len(stopped.history) == 0
    other, optimizer = parts()
    resumed = trainer(other, optimizer, checkpoint_dir=tmp_path)
    row = resumed.fit(batches(data(), 8), 1, val_loader=validation, resume=True).rows[0]
    assert equal_weights(model, other)
    assert row["step"] == 7
    assert row["val_loss"] == pytest.approx(resumed.evaluate(validation)["loss"])


def test_pressing_stop_twice_interrupts_at_once_and_gives_the_signal_back(tmp_path):
    before = signal.getsignal(signal.SIGINT)
    model, optimizer = parts()
    model.register_forward_hook(StopIn(9, times=2))
    ours = trainer(model, optimizer, checkpoint_dir=tmp_path)
    with pytest.raises(KeyboardInterrupt):
        ours.fit(batches(data(), 8), 3)
    assert signal.getsignal(signal.SIGINT) is before
    assert len(ours.history) == 1
    assert checkpoint.load(tmp_path / "last.pt")["position"]["step"] == 7


def test_stopping_without_a_folder_says_where_the_weights_are():
    model, optimizer = parts()
    model.register_forward_hook(StopIn(2))
    with pytest.raises(KeyboardInterrupt, match=r"Stopped after step 2, in epoch 1\. The weights are in the model"):
        trainer(model, optimizer).fit(batches(data(), 8), 3)


def test_resuming_hides_later_values_of_an_earlier_run(tmp_path):
    trainer(log_dir=tmp_path / "log", checkpoint_dir=tmp_path).fit(batches(data(), 8), 1)
    saved = (tmp_path / "last.pt").read_bytes()
    trainer(log_dir=tmp_path / "log", checkpoint_dir=tmp_path).fit(batches(data(), 8), 3, resume=True)
    (tmp_path / "last.pt").write_bytes(saved)
    model, optimizer = parts(lr=0.0)
    ours = trainer(model, optimizer, log_dir=tmp_path / "log", checkpoint_dir=tmp_path)
    optimizer.param_groups[0]["lr"] = 0.0
    history = ours.fit(batches(data(), 8), 2, resume=True)
    steps, values = read_scalars(tmp_path / "log")["loss/train"]
    assert steps == [7, 14]
    assert values == pytest.approx(history["loss"], rel=1e-6)


def test_the_best_epoch_is_kept_and_can_be_restored(tmp_path):
    validation = batches(data(), 8)
    wrong = [(inputs, (targets + 1) % CLASSES) for inputs, targets in validation]
    ours = trainer(*parts(lr=0.5), checkpoint_dir=tmp_path, monitor="val_accuracy", mode="max")
    ours.fit(batches(data(), 8), 4, val_loader=validation)
    history = ours.fit(wrong, 3, val_loader=validation)  # from here on it gets worse
    best = int(np.argmax(history["val_accuracy"]))
    assert best < 4
    assert history.best == history.rows[best]
    ours.restore()
    assert ours.evaluate(validation)["accuracy"] == history.best["val_accuracy"]
    ours.restore("last")
    assert ours.evaluate(validation)["accuracy"] == history["val_accuracy"][-1] < history.best["val_accuracy"]


def test_resuming_where_nothing_was_saved_begins_and_says_so(tmp_path, capsys):
    assert len(trainer(checkpoint_dir=tmp_path).fit(batches(data(), 8), 1, resume=True)) == 1
    assert "training begins at the first epoch" in capsys.readouterr().out


def test_resuming_a_run_that_is_finished_says_so(tmp_path, capsys):
    trainer(checkpoint_dir=tmp_path).fit(batches(data(), 8), 2)
    assert len(trainer(checkpoint_dir=tmp_path).fit(batches(data(), 8), 2, resume=True)) == 2
    assert "2 epochs already" in capsys.readouterr().out


def test_a_damaged_last_checkpoint_gives_way_to_the_best(tmp_path, capsys):
    trainer(checkpoint_dir=tmp_path).fit(batches(data(), 8), 2)
    damage(tmp_path / "last.pt")
    history = trainer(checkpoint_dir=tmp_path).fit(batches(data(), 8), 3, resume=True)
    said = capsys.readouterr().out
    assert "last.pt is damaged" in said
    assert f"Going on from {tmp_path / 'best.pt'} (epoch 2) instead" in said
    assert history["epoch"] == [1, 2, 3]
    damage(tmp_path / "last.pt")
    damage(tmp_path / "best.pt")
    with pytest.raises(CheckpointError, match=r"last\.pt is damaged.*best\.pt is damaged"):
        trainer(checkpoint_dir=tmp_path).fit(batches(data(), 8), 3, resume=True)


def damage(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_resuming_another_model_optimizer_or_schedule_is_refused(tmp_path):
    trainer(checkpoint_dir=tmp_path).fit(batches(data(), 8), 1)
    wider = mlp(WIDTH, 9, CLASSES)
    with pytest.raises(CheckpointError, match=r"1\.weight \[8, 6\] where the model has \[9, 6\]"):
        trainer(wider, torch.optim.SGD(wider.parameters(), 0.1), checkpoint_dir=tmp_path).fit(
            batches(data(), 8), 2, resume=True
        )
    with pytest.raises(CheckpointError, match="trained with SGD, but the optimizer is Adam"):
        trainer(*parts(torch.optim.Adam), checkpoint_dir=tmp_path).fit(batches(data(), 8), 2, resume=True)
    model, optimizer = parts()
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 1)
    with pytest.raises(CheckpointError, match="saved without a learning rate scheduler"):
        trainer(model, optimizer, scheduler=schedule, checkpoint_dir=tmp_path).fit(batches(data(), 8), 2, resume=True)


@pytest.mark.parametrize("other", [{"optimizer": torch.optim.Adam}, {"scheduler": torch.optim.lr_scheduler.StepLR}])
def test_a_refused_resume_has_changed_nothing(tmp_path, other):
    def new(optimizer=torch.optim.SGD, scheduler=torch.optim.lr_scheduler.ExponentialLR):
        model, made = parts(optimizer)
        return trainer(model, made, scheduler=scheduler(made, 1), checkpoint_dir=tmp_path)

    new().fit(batches(data(), 8), 1)
    second = new(**other)
    before = copy.deepcopy((second.model.state_dict(), second.optimizer.state_dict(), second.scheduler.state_dict()))
    with pytest.raises(CheckpointError):
        second.fit(batches(data(), 8), 2, resume=True)
    for name, tensor in second.model.state_dict().items():
        assert torch.equal(tensor, before[0][name])
    assert (second.optimizer.state_dict(), second.scheduler.state_dict()) == before[1:]


def test_the_last_savings_are_those_of_the_last_steps_whatever_the_clock_says(tmp_path):
    trainer(checkpoint_dir=tmp_path, keep=2, save_every=1).fit(batches(data(), 8), 1)
    names = sorted(path.name for path in tmp_path.glob("step-*.pt"))
    for number, name in enumerate(names):
        os.utime(tmp_path / name, (4e9 - number, 4e9 - number))  # a clock that was an age ahead
    again = trainer(checkpoint_dir=tmp_path, keep=2, save_every=1)
    again.fit(batches(data(), 8), 2, resume=True)
    last = again.position.step
    assert sorted(path.name for path in tmp_path.glob("step-*.pt")) == [f"step-{n:08d}.pt" for n in (last - 1, last)]


def test_resuming_from_a_file_of_something_else_is_refused(tmp_path):
    checkpoint.save({"model": mlp(WIDTH, 8, CLASSES).state_dict()}, tmp_path / "last.pt")
    with pytest.raises(CheckpointError, match=r"last\.pt was not written by this version of the Trainer"):
        trainer(checkpoint_dir=tmp_path).fit(batches(data(), 8), 2, resume=True)


def test_metrics_may_change_between_epochs_but_not_within_one(tmp_path):
    trainer(checkpoint_dir=tmp_path, metrics={}).fit(batches(data(), 8), 1)
    history = trainer(checkpoint_dir=tmp_path).fit(batches(data(), 8), 2, resume=True)
    assert math.isnan(history["accuracy"][0])
    assert 0 <= history["accuracy"][1] <= 1
    model, optimizer = parts()
    model.register_forward_hook(StopIn(2))
    with pytest.raises(KeyboardInterrupt):
        trainer(model, optimizer, checkpoint_dir=tmp_path).fit(batches(data(), 8), 1, overwrite=True)
    with pytest.raises(CheckpointError, match="within an epoch, whose means are of loss, accuracy"):
        trainer(checkpoint_dir=tmp_path, metrics={}).fit(batches(data(), 8), 2, resume=True)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_loss_that_is_no_number_stops_with_the_step_and_keeps_the_checkpoints(tmp_path, accumulate):
    good = batches(data(), 8)
    model, optimizer = parts()
    ours = trainer(model, optimizer, checkpoint_dir=tmp_path, log_every=3, accumulate=accumulate)
    ours.fit(good, 1)
    steps = ours.position.step
    bad = [(inputs.clone(), targets) for inputs, targets in good]
    bad[4][0][0, 0] = math.nan
    with pytest.raises(FloatingPointError, match=rf"at step {steps + 4 // accumulate + 1} \(epoch 2\)"):
        ours.fit(bad, 1)
    assert len(ours.history) == 1
    for name in ("last", "best"):
        ours.restore(name)
        assert all(torch.isfinite(tensor).all() for tensor in model.state_dict().values())


def test_nothing_is_written_to_stderr(capfd, tmp_path):
    model, optimizer = parts()
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=20)
    Trainer(model, optimizer, nn.CrossEntropyLoss(), scheduler=schedule, log_dir=tmp_path, checkpoint_dir=tmp_path).fit(
        DataLoader(data(), 8), 2, val_loader=DataLoader(data(), 8)
    )
    printed = capfd.readouterr()
    assert printed.err == ""
    assert [line[:9] for line in printed.out.splitlines()] == ["epoch 1/2", "epoch 2/2"]


@pytest.mark.slow
def test_a_compiled_model_is_saved_under_its_plain_names(tmp_path):
    model, optimizer = parts()
    compiled = torch.compile(model, backend="eager")
    trainer(compiled, optimizer, checkpoint_dir=tmp_path).fit(batches(data(), 8), 1)
    assert checkpoint.load(tmp_path / "last.pt")["model"].keys() == model.state_dict().keys()


WRONG_ARGUMENTS: dict[str, dict[str, Any]] = {
    "precision has to be 'fp32', 'bf16' or 'fp16', but is 'int8'": {"precision": "int8"},
    "precision='fp16' needs an NVIDIA GPU, and this runs on the cpu": {"precision": "fp16", "device": "cpu"},
    "mode has to be 'min' or 'max', but is 'best'": {"mode": "best"},
    "would keep the worst epoch. Use mode='max'": {"monitor": "val_accuracy"},
    "accumulate has to be a whole number from 1 on, but is 0": {"accumulate": 0},
    "accumulate has to be a whole number from 1 on, but is True": {"accumulate": True},
    "clip_norm has to be above 0, or None for no clipping, but is '1'": {"clip_norm": "1"},
    "log_every has to be a whole number from 1 on, but is 2.5": {"log_every": 2.5},
    "save_every has to be a whole number from 1 on, or None, but is 0": {"save_every": 0},
    "keep has to be a whole number from 0 on, but is -1": {"keep": -1},
    "watch_every has to be a whole number, or 0 for never, but is -1": {"watch_every": -1},
    "keeps no checkpoints: give it a checkpoint_dir": {"save_every": 5},
    "clip_norm has to be above 0, or None for no clipping, but is 0": {"clip_norm": 0},
    "after_epoch has to be one function that takes the Trainer, but is [": {"after_epoch": [print]},
    "after_step has to be one function that takes the Trainer, but is <function": {"after_step": lambda: None},
    "The device 'hpu' cannot be used here": {"device": "hpu"},
    "The device 'auto' cannot be used here": {"device": "auto"},
    "metrics has to be a dict from names to functions": {"metrics": {"counts": dict}},
    "A metric cannot be called 'loss'": {"metrics": {"loss": lambda outputs, targets: 0.0}},
    "adds up over the batch (reduction='sum')": {"loss_fn": nn.CrossEntropyLoss(reduction="sum")},
}


@pytest.mark.parametrize("sentence", WRONG_ARGUMENTS)
def test_wrong_arguments_get_one_sentence(sentence):
    with pytest.raises(ValueError) as caught:
        trainer(**WRONG_ARGUMENTS[sentence])
    assert sentence in str(caught.value)


def test_a_device_that_nobody_named_fails_in_its_own_words(monkeypatch):
    monkeypatch.setattr(who, "device", lambda: torch.device("hpu"))
    with pytest.raises((RuntimeError, AssertionError, ImportError)) as caught:
        trainer(device=None)
    assert "Without device=" not in str(caught.value)


def frozen():
    model, optimizer = parts()
    return trainer(model.requires_grad_(False), optimizer)


WRONG_FITS = {
    "epochs has to be a whole number from 1 on, but is True": lambda: trainer().fit(batches(data(), 8), True),
    "epochs has to be a whole number from 1 on, but is 0": lambda: trainer().fit(batches(data(), 8), 0),
    "A loader has no batch": lambda: trainer().fit([], 1),
    "A loader has no batch. ": lambda: trainer().fit(batches(data(), 8), 1, val_loader=DataLoader(data(0), 8)),
    "did not yield a single batch": lambda: trainer().fit(iter(()), 1),
    "An iterator, such as a generator, yields its batches once": lambda: trainer().fit(iter(batches(data(), 8)), 2),
    "did not yield a single batch: ": lambda: trainer().evaluate([]),
    "This Trainer keeps no checkpoints": lambda: trainer().fit(batches(data(), 8), 1, resume=True),
    "keeps no checkpoints: give it": lambda: trainer().restore(),
    "resume has to be True or False, but is 'run/last.pt'": lambda: trainer().fit(
        batches(data(), 8),
        1,
        resume="run/last.pt",
    ),
    "monitor='val_f1' is not among the values of this fit: loss, accuracy": lambda: trainer(monitor="val_f1").fit(
        batches(data(), 8), 1
    ),
    "yields a list with 3 parts, but the Trainer needs pairs": lambda: trainer().fit([[torch.ones(2)] * 3], 1),
    "yields a Tensor, but the Trainer needs pairs": lambda: trainer().fit(torch.ones(4, 2).split(2), 1),
    "yields a dict with 2 parts": lambda: trainer().fit([{"inputs": torch.ones(2), "targets": torch.ones(2)}], 1),
    "outputs of shape [8, 3] with targets of shape [8, 1]": lambda: trainer().fit(
        [(torch.ones(8, WIDTH), torch.zeros(8, 1, dtype=torch.long))], 1
    ),
    "but got Float. Make the model's last layer": lambda: trainer(metrics={}).fit(
        [(torch.ones(8, WIDTH), torch.ones(8))], 1
    ),
    "outputs of shape [8, 3] with targets of shape [8]: Target 3 is out of bounds. Make": lambda: trainer().fit(
        [(torch.ones(8, WIDTH), torch.full((8,), 3))], 1
    ),
    "outputs of shape [8, 3] with targets of shape [8, 1]: Using a target size": lambda: trainer(
        loss_fn=nn.MSELoss(), metrics={}
    ).fit([(torch.ones(8, WIDTH), torch.ones(8, 1))], 1),
    "outputs of shape [8, 3] with targets of shape [8]: it returned a float": lambda: trainer(
        loss_fn=lambda outputs, targets: 0.5
    ).fit(batches(data(), 8), 1),
    "accuracy() compares with whole-number labels, but the targets are torch.float32": lambda: trainer(
        loss_fn=nn.MSELoss()
    ).fit([(torch.ones(8, WIDTH), torch.ones(8, 3))], 1),
    "does not depend on any parameter that can learn": lambda: frozen().fit(batches(data(), 8), 1),
    "The metric 'wrong' returned shape [3] for 8 samples": lambda: trainer(
        metrics={"wrong": lambda outputs, targets: outputs.sum(0)}
    ).fit(batches(data(), 8), 1),
    "The metric 'wrong' returned str for 8 samples": lambda: trainer(
        metrics={"wrong": lambda outputs, targets: "good"}
    ).fit(batches(data(), 8), 1),
}


@pytest.mark.parametrize("sentence", WRONG_FITS)
def test_what_cannot_be_trained_on_gets_one_sentence(sentence):
    with pytest.raises(ValueError) as caught:
        WRONG_FITS[sentence]()
    assert sentence in str(caught.value)


def test_an_error_inside_the_model_says_what_it_was_given():
    with pytest.raises(RuntimeError, match="cannot be multiplied") as caught:
        trainer().fit([(torch.ones(8, 5), torch.zeros(8, dtype=torch.long))], 1)
    (note,) = caught.value.__notes__
    assert "with a batch of shape [8, 5] of torch.float32; its weights are torch.float32." in note


def test_an_error_from_a_loss_of_torch_comes_alone_and_from_an_own_loss_with_its_traceback():
    pair = [(torch.ones(8, WIDTH), torch.full((8,), 3))]
    with pytest.raises(ValueError, match="Target 3 is out of bounds") as caught:
        trainer().fit(pair, 1)
    assert caught.value.__suppress_context__
    with pytest.raises(ValueError, match="Target 3 is out of bounds") as caught:
        trainer(loss_fn=lambda outputs, targets: nn.functional.cross_entropy(outputs, targets)).fit(pair, 1)
    assert isinstance(caught.value.__cause__, IndexError)


def test_running_out_of_memory_stays_what_it_is():
    def loss_fn(outputs, targets):
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(torch.OutOfMemoryError):
        trainer(loss_fn=loss_fn).fit(batches(data(), 8), 1)


def test_settings_that_a_resume_cannot_honor_are_told(tmp_path, capsys):
    def go(epochs, resume=True, **options):
        trainer(*parts(**options), checkpoint_dir=tmp_path).fit(batches(data(), 8), epochs, resume=resume)

    go(1, resume=False)
    go(2)
    assert capsys.readouterr().out == ""
    go(3, lr=0.001, weight_decay=0.5)
    told = capsys.readouterr().out
    assert "Going on with the checkpoint's lr 0.1 (not 0.001), weight_decay 0 (not 0.5). For new settings" in told


def test_a_plateau_that_lowered_the_rate_is_no_difference(tmp_path, capsys):
    for epochs, lr in ((3, 0.1), (4, 0.1), (5, 0.2)):
        model, optimizer = parts(lr=lr)
        plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=0, threshold=10.0)
        trainer(model, optimizer, scheduler=plateau, checkpoint_dir=tmp_path).fit(
            batches(data(), 8), epochs, resume=True
        )
        told = capsys.readouterr().out
        assert ("lr 0.1 (not 0.2)" in told) == (lr == 0.2)
        assert ("Going on with" in told) == (lr == 0.2)


def with_norm(dimensions=1):
    norm = (
        nn.BatchNorm1d(8)
        if dimensions == 1
        else nn.Sequential(nn.Unflatten(1, (2, 4)), nn.BatchNorm1d(2), nn.Flatten())
    )
    return nn.Sequential(nn.Flatten(), nn.Linear(WIDTH, 8), norm, nn.Linear(8, CLASSES))


def test_a_last_batch_of_one_that_batch_norm_refuses_is_told_at_the_first():
    loader = DataLoader(data(33), batch_size=8)
    ours = trainer(*parts(model=with_norm))
    with pytest.raises(ValueError, match=r"33 samples in batches of 8 leave one for the last batch.*drop_last=True"):
        ours.fit(loader, 1)
    assert ours.position.step == 0
    with pytest.raises(ValueError, match=r"This batch has 1 sample.*drop_last=True"):
        trainer(*parts(model=with_norm)).fit(batches(data(33), 8), 1)
    for net, fitting in (
        (lambda: with_norm(2), loader),
        (with_norm, DataLoader(data(33), batch_size=8, drop_last=True)),
    ):
        trainer(*parts(model=net)).fit(fitting, 1)
    model, optimizer = parts(model=with_norm)
    assert trainer(model, optimizer).evaluate(batches(data(33), 8))["loss"] > 0
    assert not any(module._forward_pre_hooks for module in ours.model.modules())


def test_sparse_gradients_are_clipped_as_dense_ones():
    norms = []
    for sparse in (False, True):
        torch.manual_seed(0)
        model = nn.Sequential(nn.EmbeddingBag(50, 4, sparse=sparse), nn.Linear(4, CLASSES))
        optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
        words = torch.randint(0, 50, (64, 5), generator=torch.Generator().manual_seed(0))
        loader = DataLoader(TensorDataset(words, torch.arange(64) % CLASSES), batch_size=16)
        ours = trainer(model, optimizer, clip_norm=0.05, log_every=1)
        ours.fit(loader, 1)
        norms.append([row["gradient_norm"] for row in ours.history.steps])
        norms.append([weight.detach().norm().item() for weight in model.parameters()])
    assert norms[2] == pytest.approx(norms[0])
    assert norms[3] == pytest.approx(norms[1])
    assert max(norms[0]) > 0.05


def test_an_optimizer_that_wants_a_closure_is_refused():
    model = mlp(WIDTH, CLASSES)
    with pytest.raises(ValueError, match=r"LBFGS computes the loss several times per step.*such as SGD or AdamW"):
        trainer(model, torch.optim.LBFGS(model.parameters()))
