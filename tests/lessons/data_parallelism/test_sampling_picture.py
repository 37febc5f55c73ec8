"""The picture of a batch cut over ranks says what torch's sampler does."""

import pytest

from torchcourse import figures
from torchcourse.lessons.data_parallelism import sampling
from torchcourse.lessons.data_parallelism import sampling_picture as pictures
from torchcourse.lessons.data_parallelism.sampling import Rest

REPEAT: Rest = "repeat some samples"
DROP: Rest = "drop some samples"
UNEVEN: Rest = "leave shares uneven"


def test_shares_are_those_of_the_sampler():
    assert sampling.shares(10, 4, REPEAT) == [[0, 4, 8], [1, 5, 9], [2, 6, 0], [3, 7, 1]]
    assert sampling.shares(10, 4, DROP) == [[0, 4], [1, 5], [2, 6], [3, 7]]
    assert sampling.shares(10, 4, UNEVEN) == [[0, 4, 8], [1, 5, 9], [2, 6], [3, 7]]
    with pytest.raises(ValueError, match="not by 'pad'"):
        sampling.shares(10, 4, "pad")


@pytest.mark.parametrize(
    ("samples", "ranks", "rest", "title"),
    [
        (10, 4, REPEAT, "10 samples over 4 ranks: samples 0 and 1 are seen more than once"),
        (3, 2, REPEAT, "3 samples over 2 ranks: sample 0 is seen more than once"),
        (10, 4, DROP, "10 samples over 4 ranks: nobody sees samples 8 and 9"),
        (10, 4, UNEVEN, "10 samples over 4 ranks: ranks 2 and 3 must wait one step"),
        (12, 4, REPEAT, "12 samples over 4 ranks: each sample is seen exactly once"),
        (1, 1, DROP, "1 sample over 1 rank: each sample is seen exactly once"),
        (1, 4, UNEVEN, "1 sample over 4 ranks: ranks 1, 2 and 3 must wait one step"),
        (1, 4, DROP, "1 sample over 4 ranks: nobody sees sample 0"),
    ],
)
def test_the_title_states_the_finding(samples, ranks, rest, title):
    assert pictures.finding(samples, ranks, rest) == title
    assert pictures.draw_shares(samples, ranks, rest).axes[0].get_title() == title


def test_the_picture_has_a_box_for_each_turn():
    axis = pictures.draw_shares(10, 4, REPEAT).axes[0]
    assert [text.get_text() for text in axis.texts if "again" in text.get_text()] == ["0 again", "1 again"]
    assert len(axis.patches) == 12
    assert [text.get_text() for text in pictures.draw_shares(10, 4, UNEVEN).axes[0].texts].count("waits") == 2
    assert len(pictures.draw_shares(10, 4, DROP).axes[0].patches) == 10


@pytest.mark.slow
def test_every_slider_position_can_be_drawn():
    widget = figures.explorer(
        pictures.draw_shares,
        alt=pictures.describe_shares,
        samples=(1, 20, 10),
        ranks=(1, 6, 4),
        rest=[REPEAT, DROP, UNEVEN],
    )
    samples, ranks, choice, picture = widget.children
    assert "rank 2 sees [2, 6, 0]" in picture.value
    for samples.value in (1, 20):
        for ranks.value in (1, 6):
            for choice.value in (REPEAT, DROP, UNEVEN):
                assert pictures.finding(samples.value, ranks.value, choice.value) in picture.value
