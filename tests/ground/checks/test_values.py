"""Values on their way between two processes: what arrives is what was sent, plain, and what was made up is refused."""

import json
from collections import OrderedDict

import numpy as np
import pytest
import torch

from torchcourse.checks.values import decode, encode, judged


@pytest.mark.parametrize(
    "value",
    [
        *(None, True, 3, -(2**70), 2.5, float("inf"), "글", [], [1, [2.0]], (1, "a"), {1: [2], "b": (3,)}, {1, 2}),
        *(torch.arange(6).reshape(2, 3), torch.tensor(2.5), torch.empty(0, 3, dtype=torch.int16)),
        *(torch.tensor([1.5], dtype=torch.bfloat16), torch.tensor([True, False]), torch.ones(4, 3).T),
        *(np.arange(6.0).reshape(2, 3).T, np.zeros((0, 2)), np.array(3)),
    ],
)
def test_what_arrives_is_what_was_sent(value):
    arrived = decode(json.loads(json.dumps(encode(value))))
    assert type(arrived) is type(value)
    if isinstance(value, torch.Tensor):
        assert torch.equal(arrived, value)
        assert arrived.dtype == value.dtype
    elif isinstance(value, np.ndarray):
        assert np.array_equal(arrived, value)
        assert arrived.dtype == value.dtype
    else:
        assert arrived == value


@pytest.mark.parametrize(
    ("value", "plain"),
    [
        (range(3), [0, 1, 2]),
        (np.float32(0.5), 0.5),
        (np.bool_(True), True),
        (OrderedDict(a=1), {"a": 1}),
        ({"a": 1}.keys(), ["a"]),
        (torch.Size([2]), (2,)),
    ],
)
def test_what_is_like_a_plain_value_becomes_one(value, plain):
    arrived = decode(encode(value))
    assert arrived == plain
    assert type(arrived) is type(plain)


def test_a_parameter_becomes_a_tensor():
    arrived = decode(encode(torch.nn.Parameter(torch.ones(2))))
    assert type(arrived) is torch.Tensor
    assert not arrived.requires_grad


def test_what_is_no_value_is_named():
    with pytest.raises(TypeError, match="numbers, text, tensors"):
        encode(print)


@pytest.mark.parametrize(
    "made_up",
    [
        *(
            ["object", []],
            {"a": 1},
            ["tensor"],
            ["tensor", "torch.load", [1], ""],
            ["tensor", "torch.int8", [9], "AA=="],
        ),
        *(["array", "|O", [1], "AAAAAAAAAAA="], ["dict", [1]], ["tensor", "torch.float32", [10**12], ""], []),
    ],
)
def test_what_was_made_up_is_refused(made_up):
    with pytest.raises((ValueError, TypeError, KeyError, RuntimeError)):
        decode(made_up)


def test_a_judged_test_runs_at_once_on_plain_values():
    seen = []

    @judged(lambda values: (value * 2 for value in values), len)
    def _doubled(double, length, draw):
        numbers = [draw.random() for _ in range(4)]
        seen.append(double(numbers) == [2 * number for number in numbers] and length(numbers) == 4)

    assert seen == [True]


def test_a_judged_test_that_fails_raises():
    with pytest.raises(AssertionError):

        @judged(abs)
        def _negative(absolute, draw):
            assert absolute(-1) == -1
