"""Measuring DataParallel beside DDP: on two GPUs for real, without them one sentence."""

from functools import partial

import pytest
import torch

from torchcourse.lessons.data_parallelism.gpu_comparison import Measured, measure
from torchcourse.models import mlp


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs; make gpu-check runs it there")
def test_both_ways_are_measured_on_every_gpu():
    old, new = measure(partial(mlp, 784, 512, 10), torch.randn(256, 784), torch.randint(10, (256,)), steps=3)
    for measured in (old, new):
        assert measured.step_ms > 0
        assert len(measured.peak_mb) == torch.cuda.device_count()
        assert min(measured.peak_mb) > 0


@pytest.mark.skipif(torch.cuda.device_count() >= 2, reason="this machine has two GPUs: nothing to refuse")
def test_without_two_gpus_it_says_so():
    with pytest.raises(RuntimeError, match="needs two GPUs, and this machine has"):
        measure(partial(mlp, 784, 10), torch.randn(8, 784), torch.zeros(8, dtype=torch.long))


def test_a_measurement_reads_well():
    assert str(Measured("DDP", 1.25, (10.0, 20.4))) == "DDP: 1.2 ms per step; at most GPU 0 10 MB, GPU 1 20 MB"
