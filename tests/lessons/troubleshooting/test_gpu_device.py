"""The allocator's history in the tracker's words; on a GPU the figures are the allocator's own."""

import pytest
import torch
import torch.nn.functional as F

from torchcourse.lessons.troubleshooting.gpu_device import live_blocks, memory_device
from torchcourse.lessons.troubleshooting.simulated_device import SimulatedDevice
from torchcourse.lessons.troubleshooting.tracking import Allocation
from torchcourse.models import mlp
from torchcourse.source_lines import Line

SNAPSHOT = {  # the format that torch/cuda/_memory_viz.py and the documentation of torch.cuda.memory describe
    "segments": [
        {
            "device": 0,
            "address": 1000,
            "blocks": [
                {"size": 512, "state": "active_allocated", "frames": []},
                {"size": 1024, "state": "inactive", "frames": []},
                {
                    "size": 2048,
                    "state": "active_allocated",
                    "frames": [
                        {"filename": torch.__file__, "line": 1, "name": "f"},
                        {"filename": __file__, "line": 7, "name": "g"},
                    ],
                },
            ],
        },
        {"device": 1, "address": 5000, "blocks": [{"size": 4096, "state": "active_allocated", "frames": []}]},
    ]
}


def test_blocks_in_use_are_matched_by_address_and_the_rest_by_their_frames():
    made = (Line("cell", 3),)
    known = Allocation(1000, 500, "relu", (2, 64), torch.float32, "activations", "1", made, step=0, born=9)
    unseen, relu = live_blocks(SNAPSHOT, 0, {1000: known})
    assert (relu.bytes, relu.op, relu.kind, relu.layer, relu.lines) == (512, "relu", "activations", "1", made)
    assert (unseen.bytes, unseen.op, unseen.lines) == (2048, "unseen", (Line(__file__, 7, "g"),))


def test_without_a_gpu_the_same_call_simulates(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert isinstance(memory_device("8 MiB"), SimulatedDevice)


def step(model, optimizer, x, y):
    F.cross_entropy(model(x), y).backward()
    optimizer.step()
    optimizer.zero_grad()


@pytest.mark.gpu
def test_the_simulated_peak_is_the_gpus_to_within_its_workspaces():
    peaks = []
    for cuda in (False, True):
        where = torch.device("cuda" if cuda else "cpu")
        with memory_device("2 GiB") if cuda else SimulatedDevice("2 GiB") as device:
            model = mlp(256, 2048, 2048, 10).to(where)
            optimizer = torch.optim.Adam(model.parameters(), foreach=False)
            x, y = torch.randn(4096, 256, device=where), torch.zeros(4096, dtype=torch.long, device=where)
            device.watch(model, optimizer, x, y)
            for _ in range(2):
                step(model, optimizer, x, y)
        peaks.append(device.peak)
    # On an H200 with PyTorch 2.11 something held 48 MiB more in this backward pass, of wide layers and a large batch:
    # 245.8 MB were measured for 195.5. `make gpu-check` compares four other steps, which were within 1.5% there.
    assert peaks[0] <= 1.05 * peaks[1]
    assert peaks[1] <= 1.30 * peaks[0]


@pytest.mark.gpu
def test_a_small_step_is_counted_without_the_workspaces_that_every_program_has():
    with memory_device("1 GiB") as device:
        model = mlp(64, 64, 10).cuda()
        step(
            model, torch.optim.SGD(model.parameters(), lr=0.1), torch.randn(8, 64).cuda(), torch.zeros(8).long().cuda()
        )
    assert device.before > 2**20
    assert 0 < device.peak < 2**18


@pytest.mark.gpu
def test_what_was_there_before_is_neither_counted_nor_listed_and_takes_nothing_from_the_limit():
    kept = torch.zeros(2**28, device="cuda")  # 1 GiB
    with memory_device("64 MiB") as device:
        own = torch.zeros(2**22, device="cuda")
        assert [block.bytes for block in device.live()] == [own.nbytes]
    assert device.peak == own.nbytes
    assert kept.nbytes <= device.before


def fill(device):
    kept = []
    with device:
        model = mlp(256, 2048, 10).cuda()
        device.watch(model)
        for _ in range(100):
            kept.append(model[1](torch.randn(2**15, 256, device="cuda")))


@pytest.mark.gpu
def test_a_gpu_with_a_limit_runs_out_of_memory_and_says_what_was_alive():
    with pytest.raises(torch.OutOfMemoryError) as caught:
        fill(memory_device("1 GiB"))
    assert "activations" in caught.value.__notes__[0]
    torch.zeros(2**20, device="cuda")  # the limit is gone


@pytest.mark.gpu
def test_live_blocks_carry_kinds_and_lines():
    with memory_device("2 GiB") as device:
        model = mlp(256, 2048, 10).cuda()
        device.watch(model)
        output = model(torch.randn(64, 256, device="cuda"))
        largest = device.live()[0]
    assert (largest.kind, largest.bytes) == ("parameters", 4 * 256 * 2048)
    assert output.shape == (64, 10)
