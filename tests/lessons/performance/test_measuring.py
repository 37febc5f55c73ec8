"""The clock, the roofline, the counted graphs and the ratio, with clocks that tell what the test wants."""

import itertools

import pytest
import torch
from torch import nn

from torchcourse.lessons.performance import graphs, roofline, roofline_picture, step_clock_picture
from torchcourse.lessons.performance.speed import Comparison, compare
from torchcourse.lessons.performance.step_clock import StepClock, operations


class Ticking:
    """A clock that a test moves on."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


def test_the_parts_of_a_step_and_the_rest():
    ticking = Ticking()
    clock = StepClock(clock=ticking)

    def batches():
        for number in range(2):
            ticking.now += 0.003
            yield number

    for _ in clock.waiting_for(batches()):
        with clock.part("forward"):
            ticking.now += 0.010
        ticking.now += 0.002  # no part covers this
        with clock.part("forward"):
            ticking.now += 0.001
        clock.step()
    parts = clock.per_step()
    assert list(parts) == ["data", "forward", "rest"]
    assert parts == pytest.approx({"data": 3, "forward": 11, "rest": 2})


def test_a_part_that_raises_is_counted():
    ticking = Ticking()
    clock = StepClock(clock=ticking)

    def fails():
        with clock.part("forward"):
            ticking.now += 1
            raise KeyError

    with pytest.raises(KeyError):
        fails()
    assert clock.seconds == {"forward": 1}


def test_operations_come_in_the_order_of_their_own_time():
    with torch.profiler.profile() as profiler:
        for _ in range(3):
            torch.randn(300, 300) @ torch.randn(300, 300)
    head, first, *others = operations(profiler, rows=4).splitlines()
    assert head.split()[0] == "operation"
    assert len(others) == 3
    own = [float(line.split()[-2]) for line in [first, *others]]
    assert own == sorted(own, reverse=True)
    assert any(line.split()[:2] == ["aten::mm", "3"] for line in [first, *others])


def test_no_step_is_refused():
    with pytest.raises(ValueError, match="No step is over yet"):
        StepClock().per_step()


def test_the_picture_names_the_largest_part_of_each_loop():
    loops = {"a": {"data": 1.0, "forward": 3.0}, "b": {"data": 9.0, "forward": 1.0}}
    said = step_clock_picture.describe_parts(loops)
    assert "a: 75% forward, b: 90% data" in said
    alike = {f"rank {rank}": {"data": 1.0, "forward": 1.0 + rank} for rank in range(1, 9)}
    assert step_clock_picture.describe_parts(alike).startswith("Most time per step – forward: 67% to 90%. rank 1: ")
    assert step_clock_picture.draw_parts(loops).axes[0].get_xlabel() == "time per step (ms), measured"


def test_bounds_lie_on_both_sides_of_the_ridge():
    machine = roofline.Machine(peak=100.0, bandwidth=10.0)
    assert machine.ridge == 10
    assert [machine.roof(x) for x in (1, 10, 1000)] == [10, 100, 100]
    slope, flat = roofline.Point("a", 50, 10, 1.0), roofline.Point("b", 2000, 10, 40.0)
    assert [point.bound(machine) for point in (slope, flat)] == ["memory", "compute"]
    assert [point.reached(machine) for point in (slope, flat)] == [1.0, 0.5]
    said = roofline_picture.describe_roofline(machine, [slope, flat])
    assert "Fewer than 10.0 operations per byte: memory is the roof of 1 of 2 layers." in said
    assert "something else" not in said
    slow = roofline.Point("c", 50, 10, 11.0)
    said = roofline_picture.describe_roofline(machine, [slope, slow])
    assert "; something else limits 1, at less than a tenth of the roof." in said
    assert len(roofline_picture.draw_roofline(machine, [slope, flat]).axes[0].lines) == 3


def test_a_dense_layer_is_limited_by_memory_until_its_batch_is_large():
    machine = roofline.Machine(peak=100.0, bandwidth=10.0)
    assert roofline_picture.dense_intensity(1, 1000, 4) == pytest.approx(2e6 / (4 * 1.002e6))
    said = [roofline_picture.describe_dense(machine, batch, 1024, 4) for batch in (8, 64)]
    assert ["memory is the limit" in text for text in said] == [True, False]
    assert len(roofline_picture.draw_dense(machine, 8, 1024, 4).axes[0].lines) == 3


def test_operations_and_bytes_of_layers():
    model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 16, 5))
    points = {point.name: point for point in roofline.measure_layers(model, torch.randn(2, 3, 4, 4), rounds=1)}
    assert list(points) == ["0 Conv2d", "1 ReLU", "3 Linear"]  # Flatten computes nothing
    assert points["0 Conv2d"].flop == 2 * (2 * 8 * 16) * (3 * 9)
    assert points["3 Linear"].flop == 2 * 2 * 128 * 5
    assert points["3 Linear"].moved == 4 * (2 * 128 + 128 * 5 + 5 + 2 * 5)
    assert points["1 ReLU"].intensity == 1 / 8
    assert model.training


@pytest.mark.slow
def test_graphs_are_counted_and_breaks_explained():
    def branching(x):
        y = x + 1
        if y.sum() > 0:
            y = y * 2
        return y

    compiled, made = graphs.counted(branching)
    assert torch.equal(compiled(torch.ones(3)), torch.full((3,), 4.0))
    assert len(made) == 2
    assert "if y.sum() > 0:" in graphs.break_reasons(branching, torch.ones(3))[0]
    assert "tolist" in graphs.break_reasons(lambda x: x * max(x.tolist()), torch.ones(3))[0]  # ends no graph
    compiled, made = graphs.counted(lambda x: x * 2, dynamic=False)
    for size in (2, 3, 3):
        compiled(torch.ones(size))
    assert len(made) == 2


def run(ours, other, target=2.0, **options):
    clock = Ticking()

    def takes(seconds):
        def function(*_):
            clock.now += next(seconds)

        return function

    return compare(takes(ours), takes(other), lambda _: (), lambda *_: None, target, clock=clock, **options)


def test_a_ratio_is_of_pairs_and_the_first_pair_warms_up():
    ours = itertools.chain([50.0], itertools.repeat(1.0))
    comparison = run(ours, itertools.repeat(3.0), pairs=5)
    assert comparison.ratios == (3.0,) * 5
    assert str(comparison) == "3.0 times as fast (median of 5 pairs, 3.0 to 3.0)"


def test_a_drift_of_the_machine_leaves_the_ratio_alone():
    slower = [1.1**number for number in range(40)]
    comparison = run(iter(slower), iter([4 * value for value in slower]), pairs=9)
    assert comparison.ratios == pytest.approx((4.0,) * 9)


def test_a_noisy_machine_gets_more_pairs_and_a_clear_one_no_more():
    noisy = itertools.cycle([1.0, 4.0, 1.5, 6.0])
    assert len(run(itertools.repeat(1.0), noisy, target=3.0, pairs=9, most=30).ratios) == 30
    assert len(run(itertools.repeat(1.0), itertools.repeat(9.0), target=3.0, pairs=9, most=30).ratios) == 9


def test_each_timed_output_is_judged_on_inputs_of_its_own():
    drawn, judged = [], []

    def draw(number):
        drawn.append(number)
        return (number,)

    def judge(output, arguments, right):
        judged.append((output, arguments, right))

    compare(lambda n: n, lambda n: n, draw, judge, target=100.0, pairs=3, most=3)
    assert drawn == [0] * 3 + [1] * 3 + [2] * 3 + [3] * 3
    assert judged == [(number, (number,), number) for number in range(4)]


def test_the_middle_half():
    assert Comparison((1.0, 2.0, 3.0, 4.0, 100.0)).quarters[0] == pytest.approx(1.5)
