"""All that is written for TensorBoard is read back, also from files that are damaged."""

import os
import random
import shutil
import struct
import time
from unittest.mock import patch

import numpy as np
import pytest
import torch

from torchcourse.training import event_files
from torchcourse.training.events import read_run
from torchcourse.training.histograms import measure
from torchcourse.training.monitor import Monitor


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A run with something of each kind at steps 0 to 9."""
    folder = tmp_path_factory.mktemp("run")
    with Monitor(folder) as board:
        board.hyperparameters({"lr": 0.1, "optimizer": "SGD", "nesterov": True}, {"accuracy/val": 0.75}, step=9)
        board.texts(0, {"note": "a *first* try"})
        for step in range(10):
            board.scalars(step, {"loss/train": float(10 - step), "gradient_norm/0.weight": float(step)})
            board.histograms(step, measure({"weights/0": torch.linspace(-1, 1, 101) * (step + 1)}))
            board.images(step, {"sample": torch.full((1, 4, 6), step / 10)})
    return folder


def test_each_kind_comes_back(folder, capsys):
    run = read_run(folder)
    assert run.scalars["loss/train"] == (list(range(10)), [float(10 - step) for step in range(10)])
    assert run.hyperparameters == {"lr": 0.1, "optimizer": "SGD", "nesterov": True}
    assert run.scalars["accuracy/val"] == ([9], [0.75])
    assert run.texts == {"note": [(0, "a *first* try")]}
    assert [step for step, _ in run.images["sample"]] == list(range(10))
    assert run.images["sample"][5][1].shape == (4, 6, 3) or run.images["sample"][5][1].shape[:2] == (4, 6)
    assert np.unique(run.images["sample"][5][1]).tolist() == [127]
    assert run.notes == []
    assert capsys.readouterr().out == ""


def test_a_histogram_comes_back_as_it_was(folder):
    steps, histograms = zip(*read_run(folder).histograms["weights/0"], strict=True)
    assert steps == tuple(range(10))
    for step, read in zip(steps, histograms, strict=True):
        written = measure({"x": torch.linspace(-1, 1, 101) * (step + 1)})["x"]
        assert read.edges.tolist() == written.edges.tolist()
        assert read.counts.tolist() == written.counts.tolist()
        assert (read.low, read.high, read.norm) == (written.low, written.high, written.norm)


def test_histograms_of_pytorchs_own_writer_are_read_too(tmp_path):
    from torch.utils.tensorboard import SummaryWriter

    values = torch.randn(1000, generator=torch.Generator().manual_seed(0))
    with SummaryWriter(tmp_path) as writer:
        writer.add_histogram("weights", values, 3)
    ((step, histogram),) = read_run(tmp_path).histograms["weights"]
    assert (step, histogram.number) == (3, 1000)
    assert histogram.std == pytest.approx(values.std(correction=0).item(), rel=1e-5)
    assert histogram.quantile(0.5) == pytest.approx(values.median().item(), abs=0.1)


def test_tensorboards_own_reader_shows_the_same_values(folder):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    accumulator = EventAccumulator(str(folder), size_guidance={"histograms": 0, "scalars": 0})
    accumulator.Reload()
    assert [event.value for event in accumulator.Scalars("loss/train")] == [float(10 - step) for step in range(10)]
    shown = accumulator.Histograms("weights/0")[4].histogram_value
    assert sum(shown.bucket) == 101
    assert shown.max == pytest.approx(5)


def test_last_gives_the_layers_in_the_order_of_writing(folder):
    assert read_run(folder).last("gradient_norm") == {"0.weight": 9.0}


@pytest.mark.parametrize("cut", [1, 30, 400])
def test_a_truncated_file_gives_all_before_the_cut_and_one_sentence(folder, tmp_path, cut, capsys):
    copy = shutil.copytree(folder, tmp_path / "run")
    (file,) = copy.iterdir()
    file.write_bytes(file.read_bytes()[:-cut])
    run = read_run(copy)
    assert [step for step, _ in run.histograms["weights/0"]][:9] == list(range(9))
    assert len(run.notes) == 1
    assert "ends in the middle of a value" in run.notes[0]
    assert "All before that was read" in run.notes[0]
    assert capsys.readouterr().out.strip() == run.notes[0]


def test_bytes_that_are_no_events_are_named(folder, tmp_path):
    copy = shutil.copytree(folder, tmp_path / "run")
    (file,) = copy.iterdir()
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2] + b"<html>404</html>" * 20)
    run = read_run(copy)
    assert [step for step, _ in run.histograms["weights/0"]][:3] == [0, 1, 2]
    assert "is damaged after" in run.notes[0]
    file.write_bytes(b"<html>not found, and more of it</html>")
    empty = read_run(copy)
    assert (empty.scalars, empty.histograms) == ({}, {})
    assert "damaged after 0 events: the bytes are not an event" in empty.notes[0]


def test_a_damaged_file_beside_a_whole_one_costs_only_itself(folder, tmp_path):
    copy = shutil.copytree(folder, tmp_path / "run")
    (copy / "events.out.tfevents.0").write_bytes(b"\x01\x02")
    assert read_run(copy).scalars["loss/train"][0] == list(range(10))


def test_a_folder_that_cannot_be_read_gets_one_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(NotADirectoryError, match=r"The folder .*file cannot be read .*Give the log_dir of a run"):
        read_run(tmp_path / "file")
    with pytest.raises(FileNotFoundError, match=r"no TensorBoard event files in"):
        read_run(tmp_path)


def test_going_on_from_a_step_hides_histograms_after_it(tmp_path):
    for first, size in ((1, 1.0), (3, 2.0)):
        with Monitor(tmp_path, first_step=first) as board:
            for step in range(first, 5):
                board.histograms(step, measure({"w": torch.full((4,), size)}))
                board.images(step, {"i": torch.zeros(1, 2, 2)})
    run = read_run(tmp_path)
    assert [(step, histogram.high) for step, histogram in run.histograms["w"]] == [(1, 1), (2, 1), (3, 2), (4, 2)]
    assert [step for step, _ in run.images["i"]] == [1, 2, 3, 4]


def test_adding_to_a_finished_run_hides_nothing(tmp_path):
    for step in (1, 2):
        with Monitor(tmp_path) as board:
            board.scalars(step, {"x": float(step)})
    assert read_run(tmp_path).scalars["x"] == ([1, 2], [1.0, 2.0])


def test_order_is_that_of_writing_whatever_the_clocks_said(tmp_path):
    with patch("time.time", lambda real=time.time: real() + 3600), Monitor(tmp_path) as board:
        for step in range(1, 11):
            board.scalars(step, {"loss": 100.0 + step})
    with Monitor(tmp_path, first_step=6) as board:
        for step in range(6, 13):
            board.scalars(step, {"loss": 200.0 + step})
    run = read_run(tmp_path)
    expected = [100.0 + step for step in range(1, 6)] + [200.0 + step for step in range(6, 13)]
    assert run.scalars["loss"] == (list(range(1, 13)), expected)
    assert run.notes == []


def test_order_of_files_of_pytorchs_own_writer_whose_clock_was_ahead(tmp_path):
    from torch.utils.tensorboard import SummaryWriter

    for ahead, first in ((3600, 0), (0, 3)):
        with patch("time.time", lambda real=time.time, ahead=ahead: real() + ahead):
            writer = SummaryWriter(tmp_path, purge_step=first)
            for step in range(first, 6):
                writer.add_scalar("loss", ahead + step, step)
            writer.close()
    assert read_run(tmp_path).scalars["loss"] == (list(range(6)), [3600.0, 3601.0, 3602.0, 3.0, 4.0, 5.0])


def test_files_without_a_number_come_where_the_numbers_leave_room(tmp_path):
    from torch.utils.tensorboard import SummaryWriter

    for number in range(1, 5):
        if number in (2, 3):
            with Monitor(tmp_path, first_step=number) as board:
                board.scalars(number, {"loss": float(number)})
        else:
            with SummaryWriter(tmp_path, purge_step=number) as writer:
                writer.add_scalar("loss", number, number)
        time.sleep(0.01)
    assert read_run(tmp_path).scalars["loss"] == ([1, 2, 3, 4], [1.0, 2.0, 3.0, 4.0])


def test_two_runs_in_one_folder_are_told(tmp_path, capsys):
    from torch.utils.tensorboard import SummaryWriter

    for run in range(2):
        with SummaryWriter(tmp_path) as writer:
            for step in range(5):
                writer.add_scalar("loss", run * 10 + step, step)
        time.sleep(0.01)
    log = read_run(tmp_path)
    assert log.scalars["loss"] == (list(range(5)), [10.0, 11.0, 12.0, 13.0, 14.0])
    assert "Steps 0 to 4 of loss were written twice: two runs share this folder" in capsys.readouterr().out


def test_a_writer_that_begins_again_is_told_and_one_that_looks_back_is_not(tmp_path):
    with Monitor(tmp_path / "again") as board:
        for step in [0, 1, 2, 0, 1]:
            board.scalars(step, {"loss": float(step)})
    assert read_run(tmp_path / "again").scalars["loss"][0] == [0, 1, 2]
    assert "written twice" in read_run(tmp_path / "again").notes[0]
    with Monitor(tmp_path / "back") as board:
        for step in [1, 2, 2, 0]:
            board.scalars(step, {"loss": float(step)})
    assert read_run(tmp_path / "back").scalars["loss"][0] == [0, 1, 2, 2]
    assert read_run(tmp_path / "back").notes == []


def test_scalars_of_the_new_style_are_read_and_what_is_not_is_named(tmp_path):
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(tmp_path) as writer:
        writer.add_scalar("loss", 0.5, 3, new_style=True)
        writer.add_pr_curve("curve", torch.tensor([0, 1]), torch.tensor([0.2, 0.8]), 3)
    run = read_run(tmp_path)
    assert run.scalars == {"loss": ([3], [0.5])}
    assert run.notes == ["Damaged, or of a kind that is not read here: curve."]


def test_no_damage_ends_in_an_error(folder, tmp_path):
    copy = shutil.copytree(folder, tmp_path / "run")
    (file,) = copy.iterdir()
    content = file.read_bytes()
    draw = random.Random(0)
    for _ in range(20):
        damaged = bytearray(content)
        for _ in range(5):
            damaged[draw.randrange(len(damaged))] = draw.randrange(256)
        file.write_bytes(bytes(damaged))
        read_run(copy)


def test_the_name_of_a_file_tells_the_process_that_wrote_it(tmp_path):
    with Monitor(tmp_path) as monitor:
        monitor.scalars(1, {"a": 1.0})
    with Monitor(tmp_path) as monitor:
        monitor.scalars(2, {"a": 2.0})
    names = [file.name for file in tmp_path.iterdir()]
    assert len(names) == 2
    assert {event_files.writer(name) for name in names} == {str(os.getpid())}


def test_two_runs_that_write_in_turn_give_one_note_and_every_value_where_asked(tmp_path, capsys):
    for step in (1, 2, 3):
        for value in (0.9, 0.4):
            with Monitor(tmp_path) as monitor:
                monitor.scalars(step, {"a": value})
    assert read_run(tmp_path).scalars["a"] == ([1, 2, 3], pytest.approx([0.4] * 3))
    assert capsys.readouterr().out.count("\n") == 1
    assert read_run(tmp_path, every=True).scalars["a"] == ([1, 1, 2, 2, 3, 3], pytest.approx([0.9, 0.4] * 3))
    assert capsys.readouterr().out == ""


def test_a_folder_that_is_called_like_an_event_file_is_passed_by(tmp_path):
    (tmp_path / "events.out.tfevents.copies").mkdir()
    with pytest.raises(FileNotFoundError, match="no TensorBoard event files"):
        read_run(tmp_path)
    with Monitor(tmp_path) as board:
        board.scalars(1, {"loss": 0.5})
    assert read_run(tmp_path).scalars == {"loss": ([1], [0.5])}


@pytest.mark.slow
def test_a_flipped_bit_in_a_scalar_ends_what_is_read(tmp_path, capsys):
    with Monitor(tmp_path) as board:
        for step in range(200):
            board.scalars(step, {"loss": 1.0 + step, "accuracy": 0.5})
    (file,) = tmp_path.iterdir()
    whole, count = file.read_bytes(), len(read_run(tmp_path).scalars["loss"][0])
    assert count == 200
    assert not read_run(tmp_path).notes
    for place in range(len(whole) // 2, len(whole) // 2 + 80):
        file.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        run = read_run(tmp_path)
        assert "is damaged after" in run.notes[0]
        steps, losses = run.scalars["loss"]
        assert 50 < len(losses) < 150
        assert losses == [1.0 + step for step in range(len(steps))]


@pytest.mark.parametrize(
    ("lengths", "at_once"),
    [(range(4, 132), 2**24), ((255, 256, 257, 384, 385, 5000), 2**24), ((255, 256, 257, 5000), 500), ((10**5,), 2**24)],
)
def test_a_flipped_bit_in_a_record_of_any_length_is_found(lengths, at_once, monkeypatch):
    monkeypatch.setattr(event_files, "_AT_ONCE", at_once)
    draw = random.Random(0)
    records = [draw.randbytes(length) for length in lengths]
    heads = [struct.pack("<QI", len(record), 0) for record in records]
    tails = [struct.pack("<I", _checksum(record)) for record in records]
    content = b"".join(part for parts in zip(heads, records, tails, strict=True) for part in parts)
    assert event_files._damaged(content) == set()
    place = 0
    for record in records:
        damaged = bytearray(content)
        damaged[place + 12 + draw.randrange(len(record))] ^= 1 << draw.randrange(8)
        assert event_files._damaged(bytes(damaged)) == {place}
        place += 16 + len(record)


def _checksum(record: bytes) -> int:
    from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import masked_crc32c

    return masked_crc32c(record)


def test_a_flipped_bit_in_a_histogram_ends_what_is_read(folder, tmp_path, capsys):
    (file,) = folder.iterdir()
    content = file.read_bytes()
    place = content.rindex(b"weights/0") + 100  # in the numbers of the last histogram
    (tmp_path / file.name).write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
    run = read_run(tmp_path)
    assert "the bytes are not those that were written" in run.notes[0]
    assert [step for step, _ in run.histograms["weights/0"]] == list(range(9))
