"""The run of the lesson: resumed from all of its pieces it is the same run, and each piece is needed."""

import pytest

from torchcourse.lessons.monitoring.by_hand import PIECES, Run, capture, restore
from torchcourse.training import checkpoint


@pytest.fixture
def whole():
    return Run().train(40)


def resumed(folder, stop, without=None):
    run = Run()
    run.train(stop)
    checkpoint.save(capture(run), folder / "state.pt")
    state = checkpoint.load(folder / "state.pt")
    state.pop(without, None)
    again = Run(seed=1)
    restore(again, state)
    return again.train(40 - stop)


@pytest.mark.parametrize("stop", [7, 20, 27])
def test_all_pieces_make_the_same_run(tmp_path, whole, stop):
    assert resumed(tmp_path, stop) == whole[stop:]


@pytest.mark.parametrize("piece", PIECES)
def test_without_one_piece_it_is_another_run(tmp_path, whole, piece):
    assert max(abs(a - b) for a, b in zip(resumed(tmp_path, 27, piece), whole[27:], strict=True)) > 1e-4
