"""The small networks have the shapes that they promise."""

import pytest
import torch
from torch import nn

from torchcourse.models import mlp, row_transformer, small_cnn


def test_small_cnn_maps_images_to_scores_and_has_the_width_asked_for():
    model = small_cnn(num_classes=7, width=5)
    assert model(torch.zeros(3, 1, 28, 28)).shape == (3, 7)
    assert [module.out_channels for module in model if isinstance(module, nn.Conv2d)] == [5, 10]
    assert [module.num_features for module in model if isinstance(module, nn.BatchNorm2d)] == [5, 10]


def test_small_cnn_has_as_many_parameters_as_its_docstring_says():
    assert round(sum(parameter.numel() for parameter in small_cnn().parameters()), -3) == 106_000


def test_mlp_flattens_images_and_has_the_layers_asked_for():
    model = mlp(784, 20, 30, 10)
    assert model(torch.zeros(2, 1, 28, 28)).shape == (2, 10)
    linear = [module for module in model if isinstance(module, nn.Linear)]
    assert [(layer.in_features, layer.out_features) for layer in linear] == [(784, 20), (20, 30), (30, 10)]
    assert not isinstance(model[-1], nn.ReLU)


def test_mlp_depends_on_no_other_sample_of_the_batch():
    model, images = mlp(784, 8, 10), torch.randn(6, 784)
    assert torch.allclose(model(images)[:2], model(images[:2]), atol=1e-6)


def test_mlp_needs_an_input_and_an_output():
    with pytest.raises(ValueError, match="at least the widths of its input and its output"):
        mlp(784)


def test_a_row_transformer_reads_small_digits_and_keeps_one_shape_between_its_blocks():
    model = row_transformer(blocks=3, width=16, heads=2)
    x = torch.zeros(5, 1, 8, 8)
    shapes = [tuple((x := layer(x)).shape) for layer in model]
    assert shapes == [(5, 8, 16)] * 4 + [(5, 10)]
