"""What kill -9 leaves behind: of saving in place, of saving beside and renaming, and of a whole run."""

import random

import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

from torchcourse.data import make_loader
from torchcourse.training import Trainer, checkpoint
from torchcourse.training.crash import kill_while_saving, run_and_kill


def in_place(state, path):
    torch.save(state, path)


def removes_first(state, path):
    path.unlink()
    torch.save(state, path.with_suffix(".new"))
    path.with_suffix(".new").rename(path)


@pytest.mark.slow
def test_what_is_left_of_a_save_that_was_killed(tmp_path):
    assert "unreadable" in kill_while_saving(in_place, tmp_path, kills=3)
    assert "missing" in kill_while_saving(removes_first, tmp_path, kills=4)
    assert list(tmp_path.glob("*.pt")) == []


def test_a_process_that_ends_by_itself_was_not_killed():
    assert run_and_kill(sum, [1, 2], after=30) is False


def train(folder, epochs, save_every=1):
    torch.manual_seed(0)
    inputs = torch.randn(64, 6, generator=torch.Generator().manual_seed(1))
    dataset = TensorDataset(inputs, inputs[:, :3].argmax(1))
    model = nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.3), nn.Linear(16, 3))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    options = {"checkpoint_dir": folder, "save_every": save_every, "keep": 2, "log_every": 4, "progress": False}
    trainer = Trainer(model, optimizer, nn.CrossEntropyLoss(), **options)
    trainer.fit(make_loader(dataset, 8), epochs, resume=True)


@pytest.mark.slow
def test_a_run_killed_ten_times_ends_as_if_it_had_never_been(tmp_path):
    moments, steps = random.Random(0), [0]
    for _ in range(10):
        assert run_and_kill(train, tmp_path / "killed", 10_000, after=moments.uniform(0.1, 0.4))
        if (tmp_path / "killed" / "last.pt").exists():  # the folder alone may be there already
            steps.append(checkpoint.load(tmp_path / "killed" / "last.pt")["position"]["step"])
    assert steps == sorted(steps)
    assert steps[-1] > 0
    epochs = steps[-1] // 8 + 1
    for name in ("killed", "whole"):
        train(tmp_path / name, epochs, save_every=None)
    whole, resumed = (checkpoint.load(tmp_path / name / "last.pt") for name in ("whole", "killed"))
    for name, tensor in whole["model"].items():
        assert torch.equal(tensor, resumed["model"][name])
    assert whole["history"]["steps"] == resumed["history"]["steps"]


@pytest.fixture(autouse=True)
def quiet(capfd):
    """What the processes say on the way (nothing saved yet, going on from …) is not looked at here."""
    yield
    assert "Traceback" not in capfd.readouterr().err
