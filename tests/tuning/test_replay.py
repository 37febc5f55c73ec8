"""The table of trained settings gives what training gives."""

import random

import pytest

from torchcourse.tuning import replay
from torchcourse.tuning.digits_task import SPACE, TEST, VALIDATION, train


def test_the_tables_hold_accuracies():
    assert replay.accuracies().shape == (13, 5, 3, 4, 9)
    assert 0.05 < replay.accuracies("batches", "test").min() < replay.accuracies("batches", "test").max() < 1
    with pytest.raises(ValueError, match="read-only"):
        replay.accuracies()[0] = 0


def test_a_random_handful_trained_again_gives_what_the_table_says():
    for _ in range(3):
        settings = {name: random.choice(values) for name, values in (SPACE | {"width": (4, 8, 16)}).items()}
        result = list(train(settings, epochs=2))[-1]
        where = (*replay.position(settings), 1)
        # Rounding may differ from machine to machine, and with it single images: more of them in a wild training.
        assert result.val_accuracy == pytest.approx(replay.accuracies()[where], abs=20 / VALIDATION), settings
        assert result.test_accuracy == pytest.approx(replay.accuracies("space", "test")[where], abs=32 / TEST), settings
        assert list(replay.replayed(settings))[1] == replay.accuracies()[where]
