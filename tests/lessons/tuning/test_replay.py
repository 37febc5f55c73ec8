"""The table of trained settings gives what training gives."""

import itertools
import random

import pytest

from torchcourse.lessons.tuning import replay
from torchcourse.lessons.tuning.digits_task import SPACE, TEST, VALIDATION, train


def test_the_tables_hold_accuracies():
    assert replay.accuracies().shape == (13, 5, 3, 4, 9)
    assert 0.05 < replay.accuracies("batches", "test").min() < replay.accuracies("batches", "test").max() < 1
    with pytest.raises(ValueError, match="read-only"):
        replay.accuracies()[0] = 0


@pytest.mark.slow
def test_a_random_handful_trained_again_gives_what_the_table_says():
    space = SPACE | {"width": (4, 8, 16)}
    everything = [dict(zip(space, values, strict=True)) for values in itertools.product(*space.values())]
    # Rounding differs from machine to machine. A training that learns loses single images by it, a wild one its way.
    learning = [each for each in everything if replay.accuracies()[(*replay.position(each), 1)] > 0.8]
    for settings in random.sample(learning, 3):
        result = list(train(settings, epochs=2))[-1]
        where = (*replay.position(settings), 1)
        assert result.val_accuracy == pytest.approx(replay.accuracies()[where], abs=20 / VALIDATION), settings
        assert result.test_accuracy == pytest.approx(replay.accuracies("space", "test")[where], abs=32 / TEST), settings
        assert list(replay.replayed(settings))[1] == replay.accuracies()[where]
