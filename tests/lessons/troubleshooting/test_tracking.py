"""The tracker counts each storage once, from its birth to its death, by kind, and names the line that made it."""

import copy
import gc
import pickle
import re

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from torchcourse.lessons.troubleshooting.tracking import MemoryTracker, describe_unseen
from torchcourse.models import mlp

MIB = 2**20


def test_a_tensor_counts_while_it_is_alive():
    with MemoryTracker() as tracker:
        x = torch.zeros(256, 1024)
        assert tracker.current == MIB
        del x
        assert tracker.current == 0
    assert tracker.peak == MIB


def test_a_view_and_a_change_in_place_cost_nothing_but_keep_the_whole_storage():
    with MemoryTracker() as tracker:
        x = torch.zeros(256, 1024)
        first = x[0]
        x.add_(1)
        del x
        assert tracker.current == MIB
        del first
        assert tracker.current == 0


def test_tensors_from_outside_count_when_they_are_watched():
    outside = torch.zeros(256, 1024)
    with MemoryTracker() as tracker:
        row = outside[0]
        assert tracker.current == 0
        tracker.watch(outside)
        tracker.watch(row)  # the same storage
        assert tracker.current == MIB
    with pytest.raises(TypeError, match="got list"):
        tracker.watch([outside])


def test_a_storage_that_grows_in_place_is_counted_anew():
    with MemoryTracker() as tracker:
        out = torch.empty(1)
        torch.add(torch.ones(512), torch.ones(512), out=out.resize_(0))
        assert tracker.current == 4 * 512


def test_tensors_from_numbers_arrays_files_and_copies_are_counted():
    kept, before = [], {"weight": torch.zeros(256)}
    with MemoryTracker() as tracker:
        for make in (
            lambda: torch.tensor([1.0] * 256),
            lambda: torch.from_numpy(np.zeros(256, dtype=np.float32)),
            lambda: copy.deepcopy(before),
            lambda: pickle.loads(pickle.dumps(before)),
        ):
            kept.append(make())
            assert tracker.current == len(kept) * 1024
    assert {made.op for made in tracker.live()} == {"torch.tensor or from_numpy", "copy.deepcopy or torch.load"}


def test_what_an_operation_uses_and_nobody_watches_is_said_to_be_missing():
    before = torch.zeros(256, 1024)
    with MemoryTracker() as tracker:
        elsewhere = torch.frombuffer(bytearray(MIB), dtype=torch.float32)
        kept = [before.sum(), elsewhere.sum(), before[0], before.sum()]
        assert (tracker.current, tracker.unseen) == (3 * 4, 2 * MIB)
        assert "Not counted: 2.0 MiB of tensors made before or elsewhere" in describe_unseen(tracker)
    with MemoryTracker() as tracker:
        tracker.watch(before, elsewhere)
        kept.append(before.sum())
        assert describe_unseen(tracker) == ""


def trained(model, optimizer, x, y, tracker, steps=2):
    tracker.watch(model, optimizer, x, y)
    for _ in range(steps):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()


def test_the_states_are_counted_by_kind_to_the_byte():
    model = mlp(20, 30, 10)
    optimizer = torch.optim.Adam(model.parameters())
    with MemoryTracker() as tracker:
        x, y = torch.randn(8, 20), torch.zeros(8, dtype=torch.long)
        trained(model, optimizer, x, y, tracker)
        count = sum(parameter.numel() for parameter in model.parameters())
        kinds = tracker.by_kind()
    assert kinds["parameters"] == kinds["gradients"] == 4 * count
    assert kinds["optimizer"] == 8 * count + 4 * 4  # two averages, and a step counter for each of four tensors
    assert kinds["activations"] == 0
    assert kinds["others"] == x.nbytes + y.nbytes


def test_activations_are_what_the_forward_pass_leaves_for_the_backward_pass():
    model, x = mlp(20, 30, 10), torch.randn(8, 20)
    with MemoryTracker() as tracker:
        tracker.watch(model, x)
        output = model(x)
        assert tracker.by_kind()["activations"] == 4 * 8 * (30 + 10)  # the ReLU's output, and the result itself
        with torch.no_grad():
            again = model(x)
        assert tracker.by_kind()["activations"] == 4 * 8 * (30 + 10)
        assert tracker.by_kind()["others"] == x.nbytes + again.nbytes
        del output
        assert tracker.by_kind()["activations"] == 0


def test_gradients_that_exist_already_are_counted():
    model = nn.Linear(3, 2)
    model(torch.ones(1, 3)).sum().backward()
    with MemoryTracker() as tracker:
        tracker.watch(model)
        assert tracker.by_kind()["gradients"] == 4 * 8


def deep():
    return nn.Sequential(*[nn.Sequential(nn.Linear(64, 256), nn.GELU(), nn.Linear(256, 64)) for _ in range(6)])


def test_what_is_computed_again_counts_as_activations():
    model, peaks = deep(), []
    for again in (False, True):
        x = torch.randn(128, 64)
        with MemoryTracker() as tracker:
            tracker.watch(model, x)
            hidden = x
            for block in model:
                hidden = checkpoint(block, hidden, use_reentrant=False) if again else block(hidden)
            hidden.sum().backward()
            peaks.append(tracker.peak_by_kind()["activations"])
    assert peaks[1] < 0.5 * peaks[0]


def test_the_peak_is_kept_with_all_that_was_alive():
    with MemoryTracker() as tracker:
        kept = torch.zeros(1024)
        large = torch.ones(2048)
        del large
        small = torch.zeros(16)
    assert [allocation.op for allocation in tracker.live_at_peak()] == ["ones", "zeros"]
    assert sum(tracker.peak_by_kind().values()) == tracker.peak == 4 * 3072
    assert tracker.current == kept.nbytes + small.nbytes


def test_zeros_and_shapes_of_forward_mode_take_no_memory():
    linear, x = nn.Linear(8, 8), torch.randn(8, 8)
    with MemoryTracker() as tracker, torch.no_grad():
        torch.func.jvp(linear, (x,), (x,))
    assert tracker.peak == 5 * 8 * 8 * 4  # the output, two products, a copy, and their sum
    assert not {"_efficientzerotensor", "to"} & {allocation.op for allocation, _ in tracker.changes()}


def test_the_timeline_ends_at_what_is_alive_and_reaches_the_peak():
    model = mlp(20, 30, 10)
    with MemoryTracker() as tracker:
        tracker.mark("start")
        trained(model, torch.optim.Adam(model.parameters()), torch.randn(8, 20), torch.zeros(8).long(), tracker)
        timeline = tracker.timeline()
        assert timeline.total[-1] == tracker.current
    assert max(timeline.total) == tracker.peak
    assert timeline.ops == sorted(timeline.ops)
    assert timeline.marks == [(0, "start")]


def test_a_short_timeline_forgets_the_beginning_and_stays_right():
    with MemoryTracker(longest=4) as tracker:
        kept = [torch.zeros(256) for _ in range(10)]
        assert tracker.timeline().total == [1024 * count for count in (7, 8, 9, 10)]
        assert [made for _, made in tracker.changes()] == [True] * 4
    assert len(kept) == 10


def test_each_tensor_knows_its_operation_layer_and_line():
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU())
    with MemoryTracker() as tracker:
        tracker.watch(model)
        result = model(torch.ones(2, 4))  # this line
    made = {allocation.op: allocation for allocation in tracker.live()}
    assert made["relu"].layer == "1"
    assert made["relu"].lines[0].text == "result = model(torch.ones(2, 4))  # this line"
    assert made["relu"].shape == (2, 4)
    assert re.search(r"layer 1, line \d+ of test_tracking\.py: result = model", str(made["relu"]))
    assert result.shape == (2, 4)


class Outer(nn.Module):
    def forward(self, x):
        return x * 2


def test_a_line_of_a_layers_own_code_is_named_with_the_layer():
    model = nn.Sequential(Outer())
    with MemoryTracker() as tracker:
        tracker.watch(model)
        result = model(torch.ones(2))
        (allocation,) = (a for a in tracker.live() if a.op == "mul")
    assert (allocation.layer, allocation.lines[0].text) == ("0", "return x * 2")
    assert result.sum() == 4


def test_a_gradient_names_the_operation_that_it_belongs_to():
    model = nn.Linear(4, 4)
    with MemoryTracker() as tracker:
        tracker.watch(model)
        model(torch.ones(2, 4)).sum().backward()
        gradients = [allocation for allocation in tracker.live() if allocation.kind == "gradients"]
    assert any("(backward of addmm)" in allocation.op for allocation in gradients)


def test_the_tracker_keeps_nothing_alive_and_leaves_no_hook_behind():
    model = mlp(20, 30, 10)
    optimizer = torch.optim.Adam(model.parameters())
    with MemoryTracker() as tracker:
        trained(model, optimizer, torch.randn(8, 20), torch.zeros(8).long(), tracker)
    del model, optimizer
    gc.collect()
    assert tracker.current == 0
    other = nn.Linear(2, 2)
    with MemoryTracker() as tracker:
        tracker.watch(other, torch.optim.SGD(other.parameters()))
    assert not any(parameter._post_accumulate_grad_hooks for parameter in other.parameters())


def test_each_allocation_knows_the_way_of_calls_to_it_and_its_step():
    def make():
        return torch.ones(3)

    with MemoryTracker(lines=2) as tracker:
        tracker.step = 4
        kept = make()
    (allocation,) = tracker.live()
    assert [line.text for line in allocation.lines] == ["return torch.ones(3)", "kept = make()"]
    assert allocation.lines[0].function == "make"
    assert (allocation.step, allocation.key) == (4, kept.untyped_storage()._cdata)
