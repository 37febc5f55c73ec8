"""The simulated device runs out of memory where a GPU of that size would, and says what was alive."""

import re

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from torchcourse.lessons.troubleshooting.large_models import Decoder, resnet50
from torchcourse.lessons.troubleshooting.simulated_device import SimulatedDevice, fake_tensors, parse_size
from torchcourse.lessons.troubleshooting.tracking import MemoryTracker

GIB = 2**30


def test_memory_is_handed_out_in_blocks():
    with SimulatedDevice(2048) as device:
        one = torch.zeros(1)
        assert device.current == 512
        many = torch.zeros(129)
        assert device.current == 512 + 1024
    assert one.nbytes + many.nbytes == 4 + 516


def test_what_does_not_fit_is_refused_and_not_counted():
    with SimulatedDevice("1 KiB") as device:
        kept = torch.zeros(128)
        with pytest.raises(torch.OutOfMemoryError):
            torch.zeros(256)
        assert device.current == kept.nbytes == 512
        assert torch.ones(128).numel() == 128  # after the refusal there is room as before


def test_the_error_names_sizes_kinds_layers_and_lines():
    model = nn.Sequential(nn.Linear(64, 1024), nn.ReLU())
    with SimulatedDevice("300 KiB") as device:
        device.watch(model)
        x = torch.zeros(16, 64)
        with pytest.raises(torch.OutOfMemoryError) as caught:
            model(x.repeat(2, 1))  # too much
    text = str(caught.value)
    assert "Tried to allocate 128.0 KiB, but of 300.0 KiB only 28.0 KiB are free" in text
    assert re.search(
        r"128\.0 KiB  addmm  \[32×1024\] float32  activations  layer 0, line \d+ of .*: model\(x\.repeat", text
    )
    assert "parameters 260.0 KiB" in text
    largest = text.partition("largest live tensors:\n")[2].splitlines()
    assert "256.0 KiB  parameter  [1024×64] float32  parameters" in largest[0]
    assert len(largest) == 4


def test_a_model_that_does_not_fit_is_refused_when_it_is_watched():
    model = nn.Linear(1000, 1000)
    with SimulatedDevice("100 KiB") as device, pytest.raises(torch.OutOfMemoryError, match=r"3\.8 MiB  parameter  "):
        device.watch(model)


@pytest.mark.parametrize("capacity", [0, -5, "0 MiB", float("nan"), float("inf")])
def test_a_device_without_room_is_refused_in_one_sentence(capacity):
    with pytest.raises(ValueError, match="room for something") as caught:
        SimulatedDevice(capacity)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("capacity", ["much", "5 apples", "1.2.3 MiB", ".", ""])
def test_a_text_that_is_no_size_is_refused(capacity):
    with pytest.raises(ValueError, match="is no size of memory"):
        SimulatedDevice(capacity)


@pytest.mark.parametrize(
    ("size", "expected"), [(100, 100), ("512", 512), ("1.5 GiB", 3 * 2**29), ("8GB", 8 * 10**9), ("64 mib", 2**26)]
)
def test_sizes_are_read(size, expected):
    assert parse_size(size) == expected


def step(model, x, y, optimizer):
    loss = F.cross_entropy(model(x).flatten(0, -2), y.flatten())
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()


@pytest.mark.slow
def test_fake_tensors_count_like_real_ones():
    peaks = []
    for fake in (False, True):
        with fake_tensors() if fake else torch.random.fork_rng(), MemoryTracker() as tracker:
            model = Decoder(width=32, heads=4, hidden=64, blocks=2, vocabulary=50)
            tokens = torch.zeros(2, 16, dtype=torch.long)
            optimizer = torch.optim.AdamW(model.parameters(), foreach=False)
            tracker.watch(model, optimizer, tokens)
            for _ in range(2):
                step(model, tokens, tokens, optimizer)
        peaks.append((tracker.peak, tracker.peak_by_kind()))
    assert peaks[0] == peaks[1]


def test_fake_tensors_take_a_type_and_give_it_back():
    with fake_tensors(torch.bfloat16):
        assert nn.Linear(2, 2).weight.dtype == torch.bfloat16
    assert torch.zeros(1).dtype == torch.float32


@pytest.fixture(scope="module")
def resnet_device():
    with fake_tensors(), SimulatedDevice("8 GiB") as device:
        model = resnet50()
        optimizer = torch.optim.AdamW(model.parameters(), foreach=False)
        images, labels = torch.randn(64, 3, 224, 224), torch.zeros(64, dtype=torch.long)
        device.watch(model, optimizer, images, labels)
        for _ in range(2):
            step(model, images, labels, optimizer)
    return device


@pytest.mark.slow
def test_a_step_of_resnet50_with_64_images(resnet_device):
    assert resnet_device.peak / GIB == pytest.approx(5.46, abs=0.01)
    kinds = resnet_device.peak_by_kind()
    assert kinds["parameters"] / 4 == pytest.approx(25.557e6, rel=1e-3)
    assert kinds["optimizer"] == pytest.approx(2 * kinds["parameters"], rel=2e-3)


@pytest.mark.slow
def test_128_images_are_too_many_for_8_gib():
    with fake_tensors(), SimulatedDevice("8 GiB") as device:
        model = resnet50()
        device.watch(model)
        with pytest.raises(torch.OutOfMemoryError, match=r"\[128×64×112×112\] float32  activations"):
            model(torch.randn(128, 3, 224, 224))


def test_the_decoder_has_the_size_of_its_paper():
    with torch.device("meta"):
        model = Decoder()
    assert sum(parameter.numel() for parameter in model.parameters()) == pytest.approx(6.74e9, rel=2e-3)
