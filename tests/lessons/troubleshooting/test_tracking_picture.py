"""The pictures state what the values say, in the title and in words."""

import pytest
import torch
import torch.nn.functional as F

from torchcourse.lessons.troubleshooting import tracking_picture as picture
from torchcourse.lessons.troubleshooting.allocator import CachingAllocator
from torchcourse.lessons.troubleshooting.simulated_device import SimulatedDevice
from torchcourse.lessons.troubleshooting.step_study import study_step
from torchcourse.models import mlp

MIB = 2**20


@pytest.fixture(scope="module")
def tracked():
    model, x = mlp(20, 200, 200, 200, 200, 10), torch.randn(500, 20)
    optimizer = torch.optim.Adam(model.parameters())
    with SimulatedDevice("4 MiB") as device:
        device.watch(model, optimizer, x)
        device.mark("forward")
        loss = F.cross_entropy(model(x), torch.zeros(500, dtype=torch.long))
        device.mark("backward")
        loss.backward()
        optimizer.step()
    return device


def test_the_finding_is_the_peak_and_its_largest_kind(tracked):
    figure = picture.draw_memory(tracked, capacity=tracked.capacity)
    above, below = figure.axes
    share = tracked.peak_by_kind()["activations"] / tracked.peak
    assert above.get_title() == f"Peak {tracked.peak / MIB:.1f} MiB, {share:.0%} of it activations"
    assert len(below.patches) == 8
    tops = max(path.vertices[:, 1].max() for collection in above.collections for path in collection.get_paths())
    assert tops == pytest.approx(tracked.peak / MIB)  # the picture reaches the peak that the title tells
    assert {"forward", "backward"} <= {text.get_text() for text in above.texts}
    assert "relu [500×200] in layer 2, 391.0 KiB" in picture.describe_memory(tracked)


def test_segments_show_what_is_used_and_what_is_kept():
    allocator = CachingAllocator()
    first, _second = allocator.allocate(5 * MIB, "first"), allocator.allocate(5 * MIB, "second")
    allocator.free(first)
    figure = picture.draw_segments(allocator)
    assert figure.axes[0].get_title() == "5.0 MiB allocated, 20.0 MiB reserved"
    assert [text.get_text() for text in figure.axes[0].texts] == ["free", "second", "free"]
    assert "segment 1: free 5.0 MiB, second 5.0 MiB, free 10.0 MiB" in picture.describe_segments(allocator)
    assert picture.describe_segments(CachingAllocator()) == "0 bytes allocated, 0 bytes reserved: no segment."
    picture.draw_segments(CachingAllocator())


def test_each_remedy_saves_in_the_step_and_says_how_much():
    plain = study_step(8).peak
    for remedy in (
        {"checkpointing": True},
        {"accumulation": 4},
        {"precision": "mixed (bfloat16)"},
        {"optimizer": "SGD"},
    ):
        assert study_step(8, **remedy).peak < plain
    values = {"accumulation": 1, "checkpointing": True, "precision": "float32", "optimizer": "Adam"}
    share = study_step(8, checkpointing=True).peak / plain
    assert f"{share:.0%} of the plain step" in picture.describe_step(8, **values)
    assert picture.draw_step(8, **values).get_suptitle() in picture.describe_step(8, **values)
    same = picture.describe_step(8, **(values | {"checkpointing": False}))
    assert "as much as the plain step" in same


def test_no_grad_needs_no_activations_at_all():
    assert study_step(8, training=False).by_kind["activations"] == 0


def test_a_batch_is_not_cut_into_more_parts_than_it_has():
    with pytest.raises(ValueError, match="cannot be cut into 16 parts"):
        study_step(8, accumulation=16)
