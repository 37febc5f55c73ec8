"""The receptive field by formula is the one that gradients show."""

import pytest
import torch
from torch import nn

from torchcourse.lessons.convolution.receptive_field import Field, by_formula, by_gradient, held, influence
from torchcourse.models import small_cnn


class Block(nn.Module):
    """A residual block; its shortcut is listed first and used last."""

    def __init__(self, channels, out, stride=2):
        super().__init__()
        self.shortcut = nn.Conv2d(channels, out, 1, stride)
        self.body = nn.Sequential(nn.Conv2d(channels, out, 3, stride, 1), nn.ReLU(), nn.Conv2d(out, out, 3, 1, 1))

    def forward(self, x):
        return torch.relu(self.body(x) + self.shortcut(x))


class Twice(nn.Module):
    """Concatenates what a layer sees and what it sees when it is used twice; another layer is not used."""

    def __init__(self):
        super().__init__()
        self.layer, self.spare = nn.Conv2d(1, 1, 3, padding=1), nn.Conv2d(1, 1, 9)

    def forward(self, x):
        once = self.layer(x)
        return torch.cat([once, self.layer(once)], dim=1)


MODELS = {
    "residual": nn.Sequential(Block(1, 4), Block(4, 8)),
    "a layer used twice": Twice(),
    "pooling over the edge": nn.Sequential(nn.Conv2d(1, 1, 2, padding=1), nn.MaxPool2d(3, 2, ceil_mode=True)),
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


def test_branches_that_meet_at_different_strides_are_refused():
    class Uneven(Block):
        def forward(self, x):
            return self.body(x) + x

    with pytest.raises(ValueError, match=r"different strides \(1 and 2 pixels\).*by_gradient"):
        by_formula(Uneven(1, 1))


def test_a_forward_pass_that_cannot_be_followed_is_refused():
    class Branching(Block):
        def forward(self, x):
            return self.body(x) if x.sum() > 0 else self.shortcut(x)

    class Mean(Block):
        def forward(self, x):
            return self.body(x) * x.mean()

    with pytest.raises(ValueError, match=r"of this Branching cannot be followed.*by_gradient"):
        by_formula(Branching(1, 1))
    with pytest.raises(ValueError, match=r"`mean`.*by_gradient"):
        by_formula(Mean(1, 1))


@pytest.mark.parametrize(("padding", "dilation"), [(0, 1), (1, 1), (0, 2)])
def test_a_pooling_over_the_edge_sees_what_is_there(padding, dilation):
    pool = nn.MaxPool2d(3, 2, padding=padding, dilation=dilation, ceil_mode=True)
    rows = pool(torch.zeros(1, 1, 8, 8)).shape[2]
    seen = by_gradient(pool, (1, 8, 8), (rows - 1, 0)).any(dim=1).nonzero().flatten().tolist()
    first = 2 * (rows - 1) - padding
    assert seen == [row for row in (first + dilation * step for step in range(3)) if 0 <= row < 8]


def test_a_relu_in_forward_hides_nothing():
    block = Block(1, 1)
    for parameter in block.parameters():
        parameter.data.fill_(-9.0)
    assert by_gradient(block, (1, 12, 12)).sum() == 49


class Functions(nn.Module):
    """A pool that is called as a function, and two branches whose equal weights would cancel."""

    def __init__(self):
        super().__init__()
        self.left, self.right = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(3, 4, 3, padding=1)

    def forward(self, x):
        return nn.functional.max_pool2d(self.left(x) - self.right(x), 2)


def test_a_maximum_that_is_a_function_hides_nothing_and_branches_do_not_cancel():
    assert by_gradient(Functions(), (3, 12, 12)).sum() == 16
    assert by_gradient(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Softmax2d()), (3, 9, 9)).sum() == 9


def test_layers_that_have_no_weights_yet_are_named():
    lazy = nn.Sequential(nn.LazyConv2d(3, 3))
    assert by_formula(lazy)[0].size == 3
    with pytest.raises(ValueError, match="send one batch through"):
        by_gradient(lazy, (3, 9, 9))


@pytest.fixture(scope="module")
def stack():
    """Eight layers of 3×3 that see 17 pixels; the middle pixel is the 13th of 25."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(1 if number == 0 else 8, 8, 3, padding=1, bias=False) for number in range(8)]
    for layer in layers:
        nn.init.kaiming_normal_(layer.weight)
    return nn.Sequential(*(part for layer in layers for part in (layer, nn.ReLU())))[:-1]


def test_the_influence_ends_where_the_field_ends_and_most_of_it_is_nearer(stack):
    strength = influence(stack, (1, 25, 25))
    assert abs(strength.sum() - 1) < 1e-9
    assert strength[:4].sum() == strength[-4:].sum() == strength[:, :4].sum() == 0
    assert strength[4:-4, 4:-4].sum() == pytest.approx(1)
    assert held(strength, 1 - 1e-12) == 17
    assert 5 < held(strength) < 15


def test_one_layer_of_equal_weights_counts_each_pixel_alike():
    layer = nn.Conv2d(1, 1, 3, padding=1)
    nn.init.ones_(layer.weight)
    strength = influence(layer, (1, 9, 9))
    assert strength[3:6, 3:6].flatten().tolist() == pytest.approx([1 / 9] * 9)
    assert [held(strength, share) for share in (0.1, 0.12, 1)] == [1, 3, 3]


def test_a_network_whose_relus_are_off_has_no_influence():
    layer = nn.Conv2d(1, 1, 3)
    nn.init.constant_(layer.bias, -1e6)
    with pytest.raises(ValueError, match="Are all ReLUs off"):
        influence(nn.Sequential(layer, nn.ReLU()), (1, 9, 9))


def test_a_square_that_does_not_fit_is_refused():
    low = torch.zeros(3, 9)
    low[1, 0] = 1
    with pytest.raises(ValueError, match=r"holds 95%\. Measure on a larger picture"):
        held(low)
