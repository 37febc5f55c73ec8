"""What is written for TensorBoard can be read back as plain lists."""

import errno
import os

import pytest
import torch
from torch.utils.tensorboard import FileWriter

from torchcourse.training.events import read_run, read_scalars
from torchcourse.training.monitor import Monitor


def test_scalars_come_back_with_their_steps(tmp_path):
    with Monitor(tmp_path / "new" / "run") as board:
        for step in (10, 20, 30):
            board.scalars(step, {"loss/train": 1 / step, "lr/train": 0.5})
    scalars = read_scalars(tmp_path / "new" / "run")
    assert scalars.keys() == {"loss/train", "lr/train"}
    assert scalars["loss/train"][0] == [10, 20, 30]
    assert scalars["loss/train"][1] == pytest.approx([0.1, 0.05, 1 / 30])


@pytest.mark.slow
def test_all_of_a_long_run_is_read(tmp_path):
    with Monitor(tmp_path) as board:
        for step in range(12_000):  # TensorBoard's reader keeps 10,000 unless told otherwise
            board.scalars(step, {"loss/train": float(step)})
    assert read_scalars(tmp_path)["loss/train"][0] == list(range(12_000))


def test_a_run_that_goes_on_from_an_earlier_step_hides_what_came_after_it(tmp_path):
    expected = []
    for first in range(1, 15):  # quickly one after the other: the names of the files do not tell their order
        with Monitor(tmp_path, first_step=first) as board:
            for step in (first, first + 1, first + 2):
                board.scalars(step, {"loss/train": float(first)})
        expected.append(float(first))
    steps, values = read_scalars(tmp_path)["loss/train"]
    assert steps == list(range(1, 17))
    assert values == [*expected, 14.0, 14.0]


def test_a_run_begun_again_hides_all_of_the_earlier_one(tmp_path):
    for run in ("first", "second"):
        with Monitor(tmp_path, first_step=1) as board:
            board.scalars(1, {run: 1.0})
    assert read_scalars(tmp_path).keys() == {"second"}


def test_without_a_folder_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with Monitor(None) as board:
        board.scalars(1, {"loss/train": 1.0})
    assert list(tmp_path.iterdir()) == []


def test_folders_that_cannot_be_read_or_written_get_one_sentence(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no TensorBoard event files in .*nowhere"):
        read_scalars(tmp_path / "nowhere")
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"TensorBoard cannot write to .*Choose a different log_dir"):
        Monitor(tmp_path / "file")


@pytest.mark.parametrize("value", [torch.ones(2), "1", None, 1j, 10**400, {"a": 1}])
def test_what_is_no_number_is_refused_with_its_tag(tmp_path, value):
    with Monitor(tmp_path) as board:
        with pytest.raises(ValueError, match="The value of 'loss/train' is no single number"):
            board.scalars(1, {"loss/train": value})
        board.scalars(2, {"loss/train": torch.tensor(0.5, requires_grad=True)})
    assert read_scalars(tmp_path)["loss/train"] == ([2], [0.5])


@pytest.mark.parametrize("shape", [(4, 4), (2, 3, 4, 4), (2, 4, 4), (4, 4, 3), (3, 0, 4)])
def test_what_is_no_picture_is_refused_with_its_tag(tmp_path, shape):
    with Monitor(tmp_path) as board, pytest.raises(ValueError, match="strip has the shape"):
        board.images(1, {"strip": torch.zeros(shape)})


def test_settings_that_are_no_numbers_are_written_as_text(tmp_path):
    with Monitor(tmp_path) as board:
        board.hyperparameters({"lr": 0.1, "layers": [64, 64], "kind": torch.nn.ReLU}, {"accuracy": 0.5})
        board.texts(1, {"odd": "\ud800", "number": 3})
    run = read_run(tmp_path)
    assert run.hyperparameters == {"lr": 0.1, "layers": "[64, 64]", "kind": str(torch.nn.ReLU)}
    assert run.texts == {"odd": [(1, "?")], "number": [(1, "3")]}


def test_a_disk_that_fills_up_ends_the_log_and_not_the_training(tmp_path, monkeypatch, capsys):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with Monitor(tmp_path) as board:
        board.scalars(1, {"loss": 1.0})
        board._writer.flush()
        monkeypatch.setattr(FileWriter, "add_event", full)
        board.texts(2, {"note": "text"})
        board.scalars(3, {"loss": 2.0})
        assert not board.writes
    said = capsys.readouterr().out
    assert said.count("TensorBoard can no longer write to") == 1
    assert "No space left on device" in said
    assert read_scalars(tmp_path)["loss"] == ([1], [1.0])
