"""The modeled time lines of DataParallel and DDP: by hand for one case, and what must hold for all."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from torchcourse.lessons.data_parallelism.timeline import (
    Workload,
    dataparallel_timeline,
    ddp_rank,
    ddp_timeline,
    hidden_communication,
)

works = st.builds(
    Workload,
    devices=st.integers(2, 8),
    model_mb=st.floats(1, 1000),
    batch=st.integers(8, 512),
    bandwidth=st.floats(1, 300),
    bucket_mb=st.floats(10, 500),
    output_mb=st.floats(0, 20),
)
# Numbers that are easy on the pencil: no latency, 1 GB per second (so 1 MB takes 1 ms), 30 ms per sample.
EASY = Workload(
    devices=2,
    model_mb=20,
    batch=4,
    bandwidth=1,
    bucket_mb=10,
    latency_ms=0,
    sample_ms=30,
    activations_mb=7,
    input_mb=3,
    output_mb=1,
)


def test_dataparallel_by_hand() -> None:
    line = dataparallel_timeline(EASY)
    on_device_0 = [(span.kind, round(span.end - span.start, 6)) for span in line.spans if span.device == 0]
    assert on_device_0 == [
        ("copy", 2 * 3 + 20),
        ("forward", 20),
        ("copy", 2),
        ("loss", 0.5),
        ("copy", 2),
        ("backward", 40),
        ("copy", 20),
        ("optimizer", 0.14),
    ]
    assert line.step_ms == pytest.approx(26 + 20 + 2 + 0.5 + 2 + 40 + 20 + 0.14)
    first, second = line.memory
    assert (first.states, first.activations, first.batch) == (100, 14, 4 * (3 + 3 * 1))
    assert (second.states, second.activations, second.batch) == (40, 14, 2 * (3 + 1))


def test_ddp_by_hand() -> None:
    row = [(span.kind, round(span.start, 6), round(span.end, 6)) for span in ddp_rank(EASY)]
    assert row == [
        ("forward", 0, 20),
        ("loss", 20, 20.5),
        ("backward", 20.5, 60.5),
        ("copy", 40.5, 50.5),  # the first bucket, beside the second half of backward
        ("copy", 60.5, 70.5),
        ("optimizer", 70.5, 70.64),
    ]
    assert hidden_communication(ddp_rank(EASY)) == pytest.approx(0.5)
    memory = ddp_timeline(EASY).memory
    assert memory[0] == memory[1]
    assert (memory[0].states, memory[0].activations, memory[0].batch) == (100, 14, 2 * (3 + 3 * 1))


@given(works)
def test_no_device_does_two_things_in_one_lane(work: Workload) -> None:
    for line in (dataparallel_timeline(work), ddp_timeline(work)):
        for device in range(work.devices):
            for lane in (True, False):
                spans = [s for s in line.spans if s.device == device and (s.kind == "copy") == lane]
                for before, after in itertools.pairwise(spans):
                    assert before.start <= before.end <= after.start + 1e-9


@given(works)
def test_ddp_never_takes_longer_than_without_overlap_nor_less_than_computing(work: Workload) -> None:
    row = ddp_rank(work)
    computing = sum(span.end - span.start for span in row if span.kind != "copy")
    copying = sum(span.end - span.start for span in row if span.kind == "copy")
    assert computing - 1e-9 <= row[-1].end <= computing + copying + 1e-6
    assert 0 <= hidden_communication(row) <= 1
    assert ddp_timeline(work).step_ms == pytest.approx(row[-1].end)
    assert 0 < ddp_timeline(work).busy(0) <= 1


@given(works)
def test_device_0_of_dataparallel_holds_the_most(work: Workload) -> None:
    first, *others = dataparallel_timeline(work).memory
    assert all(first.total > other.total for other in others)
    assert len({memory.total for memory in ddp_timeline(work).memory}) == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"devices": 1}, "at least 2 devices"),
        ({"batch": 3}, "batch of 3 cannot be shared by 4"),
        ({"bandwidth": 0}, "bandwidth must be above 0"),
        ({"bucket_mb": -1}, "bucket_mb must be above 0"),
    ],
)
def test_impossible_workloads_are_refused(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Workload(**options)
