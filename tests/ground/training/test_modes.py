"""Evaluation for a while: afterwards each part of a model is in the mode that it had."""

import pytest
import torch
from torch import nn

from torchcourse.training.modes import evaluating


class Merges(nn.Linear):
    """A layer whose `train` does more than set a flag, as adapters of other packages do."""

    def __init__(self) -> None:
        super().__init__(2, 2)
        self.merged = False

    def train(self, mode: bool = True) -> "Merges":
        self.merged = not mode
        super().train(mode)
        return self


@pytest.mark.parametrize("training", [True, False])
def test_each_part_gets_its_own_mode_back(training: bool) -> None:
    merges, inside = Merges(), nn.Sequential(nn.BatchNorm1d(2), nn.Dropout())
    model = nn.Sequential(merges, inside, nn.Dropout()).train(training)
    inside.train(not training)
    inside[1].train(training)
    before = [module.training for module in model.modules()]

    def judge() -> None:
        with evaluating(model):
            assert not any(module.training for module in model.modules())
            model(torch.ones(3, 2))
            raise KeyError

    with pytest.raises(KeyError):
        judge()
    assert [module.training for module in model.modules()] == before
    assert merges.merged is not training


def test_a_part_that_cannot_be_evaluated_leaves_the_others_as_they_were() -> None:
    class Unready(nn.Linear):
        def train(self, mode: bool = True) -> "Unready":
            if not mode:
                raise RuntimeError("it has seen no data")
            super().train(mode)
            return self

    model = nn.Sequential(nn.Dropout(), Unready(2, 2))
    with pytest.raises(RuntimeError, match="seen no data"), evaluating(model):
        pass
    assert all(module.training for module in model.modules())
