"""Three routes to one convolution: equal to PyTorch's for any stride, padding, dilation and groups, gradients too."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from torchcourse.lessons.convolution import sizes
from torchcourse.lessons.convolution.by_hand import conv2d_im2col, conv2d_loops, conv_transpose2d, im2col
from torchcourse.lessons.convolution.fourier import conv2d_fft

ROUTES = [conv2d_loops, conv2d_im2col, conv2d_fft]
SETTINGS = settings(max_examples=40, deadline=None, derandomize=True)
pairs = st.tuples(st.integers(1, 3), st.integers(1, 3))


@st.composite
def problems(draw):
    """Images, kernels, bias and options, all of them different in height and width."""
    groups, kernel = draw(st.integers(1, 3)), draw(st.tuples(st.integers(1, 4), st.integers(1, 3)))
    stride, dilation = draw(pairs), draw(pairs)
    padding = draw(st.tuples(st.integers(0, 2), st.integers(0, 3)))
    size = draw(st.tuples(st.integers(3, 9), st.integers(3, 8)))
    reach = [d * (k - 1) + 1 for k, d in zip(kernel, dilation, strict=True)]
    assume(all(n + 2 * p >= r for n, p, r in zip(size, padding, reach, strict=True)))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 1000)))
    x = torch.randn(2, groups * draw(st.integers(1, 2)), *size, generator=generator, dtype=torch.float64)
    outputs = groups * draw(st.integers(1, 2))
    weight = torch.randn(outputs, x.shape[1] // groups, *kernel, generator=generator, dtype=torch.float64)
    bias = torch.randn(outputs, generator=generator, dtype=torch.float64) if draw(st.booleans()) else None
    return x, weight, bias, {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}


@pytest.mark.parametrize("route", ROUTES)
@SETTINGS
@given(problem=problems())
def test_every_route_equals_pytorchs(route, problem):
    x, weight, bias, options = problem
    torch.testing.assert_close(route(x, weight, bias, **options), F.conv2d(x, weight, bias, **options))


@SETTINGS
@given(problem=problems())
def test_the_columns_are_those_of_unfold(problem):
    x, weight, _, options = problem
    del options["groups"]
    assert torch.equal(im2col(x, weight.shape[2:], **options), F.unfold(x, weight.shape[2:], **options))


@SETTINGS
@given(problem=problems(), more=st.tuples(st.integers(0, 1), st.integers(0, 1)))
def test_the_transposed_one_equals_pytorchs(problem, more):
    x, weight, bias, options = problem
    groups = options["groups"]
    kernels = torch.randn(x.shape[1], weight.shape[0] // groups, *weight.shape[2:], dtype=torch.float64)
    more = tuple(
        m if m < max(s, d) else 0 for m, s, d in zip(more, options["stride"], options["dilation"], strict=True)
    )
    try:
        should = F.conv_transpose2d(x, kernels, bias, output_padding=more, **options)
    except RuntimeError:  # nothing would be left
        with pytest.raises(ValueError, match="cuts away everything"):
            conv_transpose2d(x, kernels, bias, output_padding=more, **options)
        return
    if min(should.shape[2:]) == 0:
        return
    torch.testing.assert_close(conv_transpose2d(x, kernels, bias, output_padding=more, **options), should)


@pytest.mark.parametrize("route", [*ROUTES, conv_transpose2d])
def test_gradients_flow(route):
    x = torch.randn(1, 2, 5, 4, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(2, 2, 3, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x, w: route(x, w, None, stride=2, padding=1), (x, weight))


@pytest.mark.parametrize("route", [*ROUTES, conv_transpose2d])
@pytest.mark.parametrize(
    ("shapes", "options", "sentence"),
    [
        (((1, 4, 5, 5), (6, 4, 3, 3)), {"groups": 3}, "groups=3 has to divide the 4 input channels"),
        (((4, 5, 5), (4, 4, 3, 3)), {}, r"have the shapes \[4, 5, 5\]"),
    ],
)
def test_what_does_not_fit_is_one_sentence(route, shapes, options, sentence):
    x, weight = (torch.zeros(shape) for shape in shapes)
    with pytest.raises(ValueError, match=sentence):
        route(x, weight, None, **options)


@pytest.mark.parametrize("route", ROUTES)
def test_other_misfits_are_one_sentence(route):
    x = torch.zeros(1, 4, 5, 5)
    with pytest.raises(ValueError, match="The kernel takes 3 channels"):
        route(x, torch.zeros(2, 3, 3, 3))
    with pytest.raises(ValueError, match="reaches over 7 pixels, but the input has only 5"):
        route(x, torch.zeros(2, 4, 3, 3), dilation=3)
    with pytest.raises(ValueError, match=r"The bias has the shape \[3\]"):
        route(x, torch.zeros(2, 4, 3, 3), torch.zeros(3))


def test_costs_are_those_of_the_layers():
    conv, dense = torch.nn.Conv2d(6, 9, (3, 5), groups=3), torch.nn.Linear(7, 4)
    count = [sum(p.numel() for p in layer.parameters()) for layer in (conv, dense)]
    assert sizes.conv_cost(6, 9, (3, 5), (8, 8), groups=3).parameters == count[0]
    assert sizes.conv_cost(6, 9, (3, 5), (8, 8), groups=3).multiply_adds == conv.weight.numel() * 64
    assert sizes.dense_cost(7, 4).parameters == count[1]
    assert sizes.dense_cost(7, 4, bias=False).parameters == sizes.dense_cost(7, 4).multiply_adds == 28


@pytest.mark.parametrize("padding", ["same", "valid"])
@pytest.mark.parametrize("route", [*ROUTES, conv_transpose2d])
def test_padding_by_name_is_refused_with_the_number(route, padding):
    with pytest.raises(ValueError, match="padding is a number"):
        route(torch.zeros(1, 1, 5, 5), torch.zeros(1, 1, 3, 3), padding=padding)
    with pytest.raises(ValueError, match="padding is a number"):
        sizes.output_size(5, 3, padding=padding)


@pytest.mark.parametrize("padding", [(1,), np.int64(1), torch.tensor(1), torch.Size([1, 1])])
def test_a_pair_may_come_in_any_form_that_pytorch_takes(padding):
    x, weight = torch.randn(1, 1, 5, 5), torch.randn(1, 1, 3, 3)
    torch.testing.assert_close(conv2d_im2col(x, weight, padding=padding), F.conv2d(x, weight, padding=1))


def test_three_sides_are_refused():
    with pytest.raises(ValueError, match=r"not \(1, 2, 3\)"):
        conv2d_im2col(torch.zeros(1, 1, 5, 5), torch.zeros(1, 1, 3, 3), stride=(1, 2, 3))


@pytest.mark.parametrize(
    "numbers", [{"size": 0}, {"stride": 0}, {"kernel": 0}, {"dilation": 0}, {"padding": -1}, {"output_padding": -1}]
)
def test_a_transposed_size_of_what_makes_no_sense_is_refused(numbers):
    with pytest.raises(ValueError, match="begin at 1 and both paddings at 0"):
        sizes.transposed_output_size(**{"size": 5, "kernel": 3} | numbers)
