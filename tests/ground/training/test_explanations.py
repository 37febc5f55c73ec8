"""What comes in a shape that the Trainer does not expect gets the Trainer's own sentence."""

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from torchcourse.training import Trainer

INPUTS, LABELS = torch.randn(6, 4), torch.tensor([0, 1, 2, 0, 1, 2])


class Scores(nn.Module):
    def __init__(self):
        super().__init__()
        self.score = nn.Linear(4, 3)


class Two(Scores):
    def forward(self, left, right):
        return self.score(left + right)


class Named(Scores):
    def forward(self, input_ids=None, attention_mask=None):
        return self.score(input_ids * attention_mask)


class Pair(Scores):
    def forward(self, inputs, *, scale=1.0):
        left, right = inputs
        return self.score(left + right) * scale


class Faulty(Scores):
    def forward(self, inputs, scale=None):
        return self.score(inputs[0]) * scale


class Answer(Scores):
    def forward(self, inputs):
        return {"logits": self.score(inputs)}


def logits_loss(outputs, labels):
    return F.cross_entropy(outputs["logits"], labels)


def trained(model, inputs, loss_fn=F.cross_entropy, **options):
    trainer = Trainer(model, torch.optim.SGD(model.parameters(), lr=0.1), loss_fn, progress=False, **options)
    return trainer.fit([(inputs, LABELS)], 1)


@pytest.mark.parametrize(
    ("model", "inputs", "names"),
    [
        (Two(), (INPUTS, INPUTS), "left and right"),
        (Two(), [INPUTS, INPUTS], "left and right"),
        (Two(), {"left": INPUTS, "right": INPUTS}, "left and right"),
        (Named(), {"input_ids": INPUTS, "attention_mask": INPUTS}, "input_ids and attention_mask"),
    ],
    ids=["tuple", "list", "dict", "dict, by name"],
)
def test_a_model_that_takes_its_inputs_one_by_one_is_told_to_take_them_apart(model, inputs, names):
    with pytest.raises(ValueError, match=rf"forward\(\) takes {names}, but .* as one argument, here .*\[6, 4\]"):
        trained(model, inputs)


def test_a_fault_inside_a_model_keeps_its_own_error():
    with pytest.raises(TypeError, match="NoneType"):
        trained(Faulty(), (INPUTS, INPUTS))


def test_inputs_that_a_model_takes_apart_itself_train():
    assert trained(Pair(), (INPUTS, INPUTS))["accuracy"]


def test_outputs_that_the_default_metric_cannot_take_are_said():
    with pytest.raises(ValueError, match=r"'accuracy' cannot take the model's outputs, \{logits: shape \[6, 3\]\}"):
        trained(Answer(), INPUTS, logits_loss)
    assert trained(Answer(), INPUTS, logits_loss, metrics={})["loss"]


def test_several_optimizers_are_refused():
    model = nn.Linear(4, 3)
    both: Any = [torch.optim.SGD(model.parameters(), lr=0.1), torch.optim.AdamW(model.parameters())]
    with pytest.raises(ValueError, match="one optimizer of torch, but is a list"):
        Trainer(model, both, F.cross_entropy)
