"""The receptive field by formula is the one that gradients show."""

import pytest
import torch
from torch import nn

from torchcourse.lessons.convolution.receptive_field import Field, by_formula, by_gradient
from torchcourse.models import small_cnn

MODELS = {
    "one kernel": nn.Conv2d(1, 2, (3, 5)),
    "dilated": nn.Sequential(nn.Conv2d(1, 2, 3, dilation=2), nn.ReLU(), nn.Conv2d(2, 1, 3, padding=1)),
    "stride and pooling": nn.Sequential(nn.Conv2d(1, 4, 5, stride=2, padding=2), nn.MaxPool2d(2), nn.Conv2d(4, 1, 3)),
    "padded pooling": nn.Sequential(nn.MaxPool2d(3, 2, padding=1), nn.AvgPool2d(2), nn.Conv2d(1, 1, 1)),
    "nested": nn.Sequential(nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2)), nn.Conv2d(2, 2, 3, padding="same")),
    "the course's own": small_cnn()[:8],
}


@pytest.mark.parametrize("name", MODELS)
def test_formula_and_gradient_agree(name):
    model = MODELS[name]
    height, width = by_formula(model)
    seen = by_gradient(model, (1, 40, 36))
    out = model.eval()(torch.zeros(1, 1, 40, 36))
    row, column = out.shape[2] // 2, out.shape[3] // 2
    for field, place, pixels in ((height, row, seen.any(dim=1)), (width, column, seen.any(dim=0))):
        touched = pixels.nonzero().flatten().tolist()
        start = field.start + place * field.jump
        assert (touched[0], touched[-1]) == (start, start + field.size - 1)


def test_dilation_leaves_holes_in_the_field():
    seen = by_gradient(nn.Conv2d(1, 1, 3, dilation=2), (1, 9, 9))
    assert seen.sum() == 9


def test_a_dead_relu_hides_nothing_and_the_model_stays_as_it_was():
    layer = nn.Conv2d(1, 1, 3)
    layer.bias.data.fill_(-100.0)
    weight = layer.weight.clone()
    assert by_gradient(nn.Sequential(layer, nn.ReLU()), (1, 9, 9)).sum() == 9
    assert torch.equal(layer.weight, weight)


def test_two_threes_see_what_a_five_sees():
    three = Field().after(3)
    assert three.after(3).size == Field().after(5).size == 5


def test_a_layer_that_mixes_all_places_is_named():
    with pytest.raises(ValueError, match="Layer 9, a Linear"):
        by_formula(nn.Sequential(*list(small_cnn())[:8], nn.Identity(), nn.Linear(3, 4)))
