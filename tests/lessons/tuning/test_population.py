"""Population-based training: the worst copies the best, weights and optimizer and all, and changes its rate."""

import random

import pytest
import torch

from torchcourse.lessons.tuning import population
from torchcourse.lessons.tuning.population import FACTORS, train_population
from torchcourse.lessons.tuning.population_picture import draw_population

RATES = (1e-4, 0.01, 0.02, 0.5)


@pytest.fixture(scope="module")
def members():
    return train_population(RATES, epochs=4, seed=0, width=4)


def test_the_worst_copies_the_best_and_changes_its_rate(members):
    copied = [
        (number, epoch, source)
        for number, member in enumerate(members)
        for epoch, source in enumerate(member.copied_from)
        if source is not None
    ]
    assert sorted(epoch for _, epoch, _ in copied) == [0, 1, 2]
    for number, epoch, source in copied:
        scores = [member.scores[epoch] for member in members]
        assert scores[number] == min(scores)
        assert scores[source] == max(scores)
        assert members[number].rates[epoch + 1] / members[source].rates[epoch] in FACTORS


def test_the_weights_are_copied():
    weak, strong = train_population((1e-4, 0.02), epochs=1, width=4, exploit=False)
    weak.scores[-1], strong.scores[-1] = 0.1, 0.9
    population._copy_the_best([weak, strong], random.Random(0))
    pairs = list(zip(weak.model.parameters(), strong.model.parameters(), strict=True))
    assert all(torch.equal(one, two) for one, two in pairs)
    assert weak.copied_from == [1]
    assert weak.rate / 0.02 in FACTORS


def test_a_copy_has_its_own_weights_and_its_own_momentum(members):
    for first in members:
        for second in members:
            if first is not second:
                pairs = zip(first.model.parameters(), second.model.parameters(), strict=True)
                for one, two in pairs:
                    assert one is not two
                    assert (
                        first.optimizer.state[one]["momentum_buffer"]
                        is not second.optimizer.state[two]["momentum_buffer"]
                    )
                    assert (
                        first.optimizer.state[one]["momentum_buffer"].data_ptr()
                        != second.optimizer.state[two]["momentum_buffer"].data_ptr()
                    )


def test_without_copying_the_rates_stay(members):
    alone = train_population(RATES, epochs=2, seed=0, width=4, exploit=False)
    assert [member.rates for member in alone] == [[rate] * 2 for rate in RATES]
    assert alone[1].scores[0] == pytest.approx(members[1].scores[0], abs=0.05)
    worst = max(min(member.scores) for member in alone)
    assert max(member.scores[-1] for member in members) >= worst


def test_a_population_of_one_is_refused():
    with pytest.raises(ValueError, match="two members or more, but there are 1 rates"):
        train_population([0.1], epochs=1)


def test_the_picture_has_a_line_for_each_member(members):
    figure = draw_population(members, "The finding")
    assert len(figure.axes[1].lines) == len(members)
    assert figure.get_suptitle() == "The finding"
