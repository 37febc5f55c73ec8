"""The picture of a stream's readers shows each record once."""

from typing import Any

import pytest

from torchcourse.lessons.datasets.sharding_picture import draw_shares, shares, shares_finding


@pytest.mark.parametrize("by", ["record", "shard"])
@pytest.mark.parametrize(("ranks", "workers"), [(1, 1), (2, 2), (3, 4)])
def test_each_record_is_drawn_once(ranks, workers, by):
    axes: Any = draw_shares(ranks, workers, by).axes[0]
    assert sorted(round(bar.get_x() + 0.45) for bar in axes.patches) == list(range(20))
    assert len(axes.get_yticklabels()) == ranks * workers
    assert axes.get_title() == shares_finding(ranks, workers, by)


def test_the_finding_is_counted():
    assert shares_finding(2, 2, "record") == "4 readers, by record: 5 records each, 20 in total"
    assert shares_finding(3, 2, "shard") == "6 readers, by shard: 0 to 6 records each, 20 in total"
    assert shares(2, 1, "shard") == [[*range(6), *range(8, 13), *range(16, 20)], [6, 7, 13, 14, 15]]
