"""The finder finds the largest size that fits, in few tries, and leaves memory as it was."""

import gc
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from torchcourse.lessons.troubleshooting.batch_size import largest_batch_size
from torchcourse.lessons.troubleshooting.simulated_device import SimulatedDevice
from torchcourse.models import mlp


def device_for(most):
    def attempt(size):
        if size > most:
            raise torch.OutOfMemoryError

    return attempt


def test_every_answer_is_found_within_the_promised_tries(monkeypatch):
    monkeypatch.setattr(gc, "collect", lambda: 0)  # thousands of tries, and nothing to collect
    for limit in (1, 2, 3, 4, 5, 7, 11, 16, 25, 64, 100, 129):
        for most in range(limit + 1):
            found = largest_batch_size(device_for(most), limit)
            assert found.batch_size == most
            assert len(found.tries) <= max(1, 2 * math.log2(limit)), (limit, found)
            assert len(found.tries) <= 2 * math.log2(most) if most >= 3 else True, (limit, found)
            assert len({size for size, _ in found.tries}) == len(found.tries)


def test_sizes_grow_from_small_ones():
    assert [size for size, _ in largest_batch_size(device_for(20)).tries] == [4, 8, 16, 32, 24, 20, 22, 21]
    assert repr(largest_batch_size(device_for(1), 2)) == "1 after 2 tries: 2 does not, 1 fits"


def test_memory_is_left_as_it_was_found():
    with SimulatedDevice("1 MiB") as device:
        kept = torch.zeros(1000)
        before = device.current

        def step(size):
            model = mlp(100, 100, 10)
            optimizer = torch.optim.Adam(model.parameters())
            device.watch(model, optimizer)
            F.cross_entropy(model(torch.randn(size, 100)), torch.zeros(size, dtype=torch.long)).backward()
            optimizer.step()

        found = largest_batch_size(step)
        gc.collect()
        assert device.current == before == kept.nbytes + 96
        step(found.batch_size)
        with pytest.raises(torch.OutOfMemoryError):
            step(found.batch_size + 1)
    assert 500 < found.batch_size < 2000


def test_circles_that_a_failed_try_leaves_are_collected():
    gc.disable()  # so that only the search itself can have done it
    try:
        with SimulatedDevice("1 MiB") as device:

            def attempt(size):
                circle = [torch.zeros(size, 1024)]  # 4 KiB per sample
                circle.append(circle)
                torch.zeros(size, 1024)
                circle.clear()

            assert largest_batch_size(attempt).batch_size == 128
            assert device.current == 0
    finally:
        gc.enable()


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 4 bytes."),
        RuntimeError("Caught RuntimeError in DataLoader worker process 0. DefaultCPUAllocator: not enough memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    ],
)
def test_every_kind_of_full_memory_ends_a_try_and_not_the_search(error):
    def attempt(size):
        if size > 5:
            raise error

    assert largest_batch_size(attempt, 64).batch_size == 5


def batch_norm_on(device):
    def attempt(size):
        model = nn.Sequential(nn.Linear(20_000, 10), nn.BatchNorm1d(10))
        device.watch(model)
        model(torch.randn(size, 20_000)).sum().backward()

    return attempt


def test_a_batch_norm_that_refuses_one_sample_fits_no_size_where_two_do_not_fit():
    with SimulatedDevice("1 MiB") as device:
        assert largest_batch_size(batch_norm_on(device)).tries == [(4, False), (2, False), (1, False)]
        with pytest.raises(ValueError, match="more than 1 value"):
            largest_batch_size(batch_norm_on(device), limit=1)


def test_other_errors_are_not_taken_for_a_full_memory():
    def broken(size):
        raise RuntimeError("shapes do not match")

    with pytest.raises(RuntimeError, match="shapes"):
        largest_batch_size(broken)
    with pytest.raises(ValueError, match="at least 1"):
        largest_batch_size(device_for(3), limit=0)
