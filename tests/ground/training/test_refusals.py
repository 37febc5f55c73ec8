"""What the Trainer cannot work with is refused before training, in one sentence that says what to do."""

import functools
import math
import os

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler

from torchcourse.training import Monitor, OverAll, Trainer, checkpoint, foreign, read_scalars

WIDTH, CLASSES = 4, 3


def batches():
    generator = torch.Generator().manual_seed(0)
    inputs, targets = torch.randn(24, WIDTH, generator=generator), torch.randint(CLASSES, (24,), generator=generator)
    return list(zip(inputs.split(8), targets.split(8), strict=True))


def trainer(model=None, loss_fn=None, schedule=None, **options):
    model = nn.Linear(WIDTH, CLASSES) if model is None else model
    optimizer = torch.optim.SGD(nn.Linear(1, 1).parameters() if isinstance(model, type) else model.parameters(), lr=0.1)
    scheduler = schedule(optimizer) if schedule is not None else None
    loss_fn = nn.CrossEntropyLoss() if loss_fn is None else loss_fn
    return Trainer(model, optimizer, loss_fn, scheduler=scheduler, **({"progress": False} | options))


def on_meta():
    with torch.device("meta"):
        return nn.Linear(WIDTH, CLASSES)


def of_another(optimizer):
    return lr_scheduler.StepLR(torch.optim.SGD(nn.Linear(1, 1).parameters(), 0.1), 100)


def share_of(outputs, targets):
    return (outputs.argmax(1) == targets).float().numpy().mean()


@pytest.mark.parametrize(
    ("sentence", "options"),
    [
        ("the class Linear, not made yet", {"model": nn.Linear}),
        ("on the meta device, so weight, bias have shapes without numbers.*to_empty", {"model": on_meta()}),
        ("is the class CrossEntropyLoss.*call it, CrossEntropyLoss", {"loss_fn": nn.CrossEntropyLoss}),
        ("loss_fn has to be a function", {"loss_fn": "mse"}),
        ("one learning rate schedule.*is a list.*SequentialLR", {"schedule": lambda one: [one]}),
        ("one learning rate schedule.*is a function", {"schedule": lambda one: lambda step: 0.1}),
        ("StepLR was made for a different optimizer, so the rate would never change", {"schedule": of_another}),
        (
            "state of the LambdaLR cannot be saved.*def or lambda",
            {"schedule": lambda one: lr_scheduler.LambdaLR(one, math.cos)},
        ),
        ("metrics has to be a dict from names to functions", {"metrics": [share_of]}),
        ("metrics has to be a dict from names to functions", {"metrics": {"a": 1.0}}),
        ("cannot be called 'val_loss'", {"metrics": {"val_loss": share_of}}),
        ("cannot be called 'val_a'", {"metrics": {"a": share_of, "val_a": share_of}}),
        ("clip_norm has to be above 0", {"clip_norm": [1.0]}),
        ("clip_norm has to be above 0", {"clip_norm": torch.tensor(0.0)}),
    ],
)
def test_arguments_that_are_something_else(sentence, options):
    with pytest.raises(ValueError, match=sentence):
        trainer(**options)


def test_what_looks_unusual_and_works(tmp_path):
    schedules = [
        lambda one: lr_scheduler.SequentialLR(one, [lr_scheduler.ConstantLR(one), lr_scheduler.ConstantLR(one)], [2]),
        lambda one: lr_scheduler.ChainedScheduler([lr_scheduler.ConstantLR(one)], optimizer=one),
        lambda one: lr_scheduler.LambdaLR(one, functools.partial(math.pow, 0.9)),
    ]
    for schedule in schedules:
        trainer(schedule=schedule, clip_norm=np.float32(1.0)).fit(batches(), 1)
    history = trainer(metrics={"a": share_of, "val_b": share_of}).fit(batches(), 1, batches())
    assert history["val_a"] == history["val_val_b"]


def test_batches_and_losses_that_are_something_else():
    with pytest.raises(ValueError, match=r"inputs are NumPy arrays.*torch.from_numpy"):
        trainer().fit([(inputs.numpy(), targets) for inputs, targets in batches()], 1)
    with pytest.raises(ValueError, match="loss is a complex number"):
        trainer(loss_fn=lambda outputs, targets: torch.complex(outputs.mean(), outputs.mean())).fit(batches(), 1)


@pytest.mark.parametrize("value", [torch.zeros(3), {"f1": 1.0}, None, "0.5 points"])
def test_a_metric_over_all_returns_one_number(value):
    ours = trainer(metrics={"f1": OverAll(lambda outputs, targets: value)})
    with pytest.raises(ValueError, match=r"OverAll returned .* has to return one number.*for each class"):
        ours.fit(batches(), 1, batches())


def test_a_new_clip_norm_is_told_on_resume(tmp_path, capsys):
    trainer(checkpoint_dir=tmp_path, clip_norm=1.0).fit(batches(), 1)
    trainer(checkpoint_dir=tmp_path).fit(batches(), 2, resume=True)
    assert "From here on: clip_norm none (was 1.0)." in capsys.readouterr().out


def test_a_tilde_is_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("USERPROFILE", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    trainer(checkpoint_dir="~/run", log_dir="~/log").fit(batches(), 1)
    checkpoint.save({"a": 1}, "~/run/own.pt")
    with Monitor("~/log") as board:
        board.scalars(9, {"a": 1.0})
    assert checkpoint.load("~/run/own.pt") == {"a": 1}
    assert "a" in read_scalars("~/log")
    assert [path.name for path in tmp_path.iterdir()] == ["home"]


def test_a_folder_stays_where_the_trainer_was_made(tmp_path, monkeypatch):
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    ours = trainer(checkpoint_dir="run", save_every=1, after_step=lambda _: os.chdir(tmp_path / "elsewhere"))
    ours.fit(batches(), 1)
    monkeypatch.chdir(tmp_path / "elsewhere")
    ours.restore("last")
    assert not [*(tmp_path / "elsewhere").iterdir()]


def test_numpy_arrays_in_the_model_are_not_taken_for_the_batch_s():
    class Scaled(nn.Linear):
        def forward(self, inputs):
            return super().forward(nn.functional.linear(inputs, np.eye(self.in_features)))  # type: ignore[arg-type]

    ours = trainer(model=Scaled(WIDTH, CLASSES))
    with pytest.raises(TypeError, match=r"must be Tensor, not numpy\.ndarray"):
        ours.fit(batches(), 1)


def test_a_name_that_begins_with_a_tilde_and_names_nobody_is_one_as_any(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    trainer(checkpoint_dir="~draft", log_dir="~draft").fit(batches(), 1)
    assert "loss/train" in read_scalars("~draft")
    checkpoint.save({"a": 1}, "~draft.pt")
    assert checkpoint.load("~draft.pt") == {"a": 1}
    foreign.load_any("~draft/last.pt", nn.Linear(WIDTH, CLASSES), quiet=True)
