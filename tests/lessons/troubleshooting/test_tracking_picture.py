"""The picture of a run's memory states what the values say, in the title and in words."""

import pytest
import torch
import torch.nn.functional as F

from torchcourse.lessons.troubleshooting import tracking_picture as picture
from torchcourse.lessons.troubleshooting.simulated_device import SimulatedDevice
from torchcourse.lessons.troubleshooting.tracking import MemoryTracker
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


def test_a_tracker_that_was_never_active_says_so():
    idle = MemoryTracker()
    assert picture.describe_memory(idle) == "Nothing was made or watched while the tracker was active."
    assert picture.draw_memory(idle).axes[0].get_ylim()[1] > 0
