"""A GPU that stopped says so in words that help; every other error stays what it is."""

import pytest
import torch

from torchcourse.checks.errors import sentence
from torchcourse.gpu_errors import STOPPED, stopped_gpu_explained

WORDS = "CUDA error: device-side assert triggered\nSearch for `cudaErrorAssert' in …"


def test_an_assertion_on_the_gpu_is_explained():
    with pytest.raises(RuntimeError, match="restart the kernel") as caught, stopped_gpu_explained():
        raise RuntimeError(WORDS)
    assert str(caught.value.__cause__) == WORDS


@pytest.mark.parametrize("error", [RuntimeError("sizes differ"), torch.OutOfMemoryError("CUDA out of memory")])
def test_other_errors_stay(error):
    with pytest.raises(type(error)) as caught, stopped_gpu_explained():
        raise error
    assert caught.value is error


def test_a_check_says_it_too():
    assert STOPPED in sentence(RuntimeError(WORDS))
