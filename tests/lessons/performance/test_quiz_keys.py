"""The keys of lesson 09's bank, computed again or tried out: what a question says happens is what happens."""

import itertools
import re
import statistics
import time

import pytest
import torch
from torch import nn

from keys import Keys, close
from torchcourse.lessons.performance.graphs import counted
from torchcourse.lessons.performance.roofline import Machine, Point, flop_of

keys = Keys("09_performance")
asked, key, mistakes = keys.asked, keys.key, keys.mistakes


def test_what_a_wait_shows_on_one_line_of_time():
    asking, computing = (3, 4), (40, 80)
    assert key("what-the-wait-shows") == sum(computing) - sum(asking)
    assert mistakes("what-the-wait-shows") == sorted([computing[1], sum(computing)])


def test_self_times_of_the_table_add_up_to_the_step():
    rows = [re.split(r"\s{2,}", line) for line in keys.program("self-and-total").strip().splitlines()[1:]]
    own, total = ({row[0]: int(row[column].split()[0]) for row in rows} for column in (1, 2))
    calls = {row[0]: int(row[3]) for row in rows}
    assert sum(own.values()) == total["training_step"]
    assert max(own, key=lambda name: own[name]) == "aten::copy_"
    right = asked("self-and-total").choices[1]
    assert right.right
    assert f"{calls['aten::copy_'] // calls['training_step']} tensors per step" in right.text.en
    assert key("time-of-its-own") == 40 - 12 - 11
    assert mistakes("time-of-its-own") == [40 - 12 - 11 - 9, 40]


def test_who_waits_inside_a_collective():
    entered = [int(word) for word in re.findall(r"\d+", asked("waiting-inside").text.en)[:4]]
    assert key("waiting-inside") == max(entered) - entered[0]
    assert mistakes("waiting-inside") == [0, entered[3] - entered[0], entered[1] - entered[0], 137 - entered[0]]
    assert "38 ms" in asked("a-long-all-reduce").choices[1].why.en  # 42 − 4


def test_exposed_communication_counted_by_the_millisecond():
    spans: dict[str, list[tuple[int, int]]] = {}
    exec(keys.program("exposed-in-a-step"), spans)
    computing, sending = (
        {ms for start, end in spans[name] for ms in range(start, end)} for name in ("computing", "sending")
    )
    assert key("exposed-in-a-step") == len(sending - computing)
    gaps = set(range(max(computing))) - computing
    assert mistakes("exposed-in-a-step") == sorted([len(gaps), len(sending & computing), len(sending)])
    assert key("with-a-perfect-connection") == 100 - 5
    assert mistakes("with-a-perfect-connection") == [100 - 60, 100 - (60 - 5)]


def moved(batch: int, inputs: int, outputs: int, reads: int = 1) -> int:
    """Return the bytes of a dense layer in float32 whose weights are read so many times."""
    return 4 * (batch * inputs + reads * inputs * outputs + batch * outputs)


def test_bounds_and_intensities():
    operations, peak, bandwidth = 2 * 8 * 1000 * 4000, 1e12, 1e11
    computing, moving = operations / peak * 1e6, moved(8, 1000, 4000) / bandwidth * 1e6
    assert key("the-least-time-of-a-layer") == pytest.approx(max(computing, moving))
    wrong = [computing, computing + moving, moved(8, 1000, 4000, reads=8) / bandwidth * 1e6]
    assert mistakes("the-least-time-of-a-layer") == close(*wrong)
    operations = 2 * 250 * 1000 * 1000
    intensity = operations / moved(250, 1000, 1000)
    assert key("operations-per-byte") == pytest.approx(intensity, abs=0.01)
    again = operations / moved(250, 1000, 1000, reads=250)
    assert mistakes("operations-per-byte") == close(again, operations / (4 * 1000 * 1000), 4 * intensity, rel=3e-3)


def test_what_16_bits_gain_under_the_slope():
    computing, moving = 30 / 8, 200 / 2
    assert key("the-bound-in-16-bits") == max(computing, moving)
    assert mistakes("the-bound-in-16-bits") == sorted([computing, 200 / 8, computing + moving])


def test_what_six_operations_move_when_they_are_one():
    read = written = 4 * 50_000_000 / 1e12 * 1e3  # ms
    assert key("six-operations-in-one") == pytest.approx(read + written)
    apart = [6 * (read + written), read + 6 * written, read, (read + written) / 4]
    assert mistakes("six-operations-in-one") == close(*apart)


def test_the_processor_clock_stands_still_while_a_process_waits():
    by_processor, by_clock = time.process_time(), time.perf_counter()
    time.sleep(0.2)
    assert time.process_time() - by_processor < 0.1 < 0.2 <= time.perf_counter() - by_clock
    assert key("time-that-is-not-counted") == "B"


def test_which_layers_memory_limits():
    machine = Machine(peak=20.0, bandwidth=1.0)
    layers = [
        (nn.Linear(4096, 4096, device="meta"), (1, 4096)),
        (nn.Linear(4096, 4096, device="meta"), (4096, 4096)),
        (nn.ReLU(), (4096, 4096)),
        (nn.Conv2d(64, 64, 3, device="meta"), (16, 64, 56, 56)),
    ]
    limited = ""
    for letter, (layer, shape) in zip("ABCD", layers, strict=True):
        given = torch.empty(shape, device="meta")
        output = layer(given)
        weights = sum(weight.nbytes for weight in layer.parameters())
        point = Point("", flop_of(layer, given, output), given.nbytes + output.nbytes + weights, 1.0)
        limited += letter if point.bound(machine) == "memory" else ""
    assert limited == key("under-the-slope")


def graphs_of(*lines: str, **options: bool) -> int:
    """Return how many graphs a function with these lines in its middle has."""
    program = "\n    ".join(["def function(x, weights, norm, grad):", "x = torch.sin(x)", *lines])
    space = {"torch": torch}
    exec(f"{program}\n    return torch.cos(x) + torch.cos(grad)", space)
    compiled, graphs = counted(space["function"], **options)
    compiled(torch.ones(4, 4), [torch.eye(4)] * 3, torch.tensor(2.0), torch.ones(4))
    return len(graphs)


@pytest.mark.slow
def test_which_lines_end_the_graph():
    choices = asked("where-the-graph-ends").choices
    ends = [graphs_of(choice.text.en.strip("`")) > 1 for choice in choices]
    assert "".join(letter for letter, yes in zip("ABCDE", ends, strict=True) if yes) == key("where-the-graph-ends")


@pytest.mark.slow
def test_what_makes_it_one_graph():
    broken = keys.program("one-graph-instead-of-two").splitlines()
    with_item, mended, _ = (choice.text.en.split("`")[1] for choice in asked("one-graph-instead-of-two").choices)
    assert graphs_of(*broken) > 1
    assert graphs_of(with_item, broken[1]) > 1
    assert graphs_of(*broken, dynamic=True) > 1
    assert graphs_of(mended) == 1
    assert key("one-graph-instead-of-two") == "B"
    for norm in (torch.tensor(0.5), torch.tensor(3.0)):
        by_hand, ours = ({"norm": norm, "grad": torch.ones(2)} for _ in range(2))
        exec("\n".join(broken), by_hand)
        exec(mended, ours)
        assert torch.equal(by_hand["grad"], ours["grad"])


def recorded(sizes: list[int], **options: bool) -> int:
    function, graphs = counted(lambda x: torch.relu(x) * 2, **options)
    for size in sizes:
        function(torch.ones(size))
    return len(graphs)


@pytest.mark.slow
def test_how_many_graphs_sizes_need():
    sizes = [int(word) for word in re.findall(r"\d+", asked("lengths-that-change").text.en)]
    assert len(sizes) == 6
    assert key("lengths-that-change") == recorded(sizes, dynamic=False)
    changes = 1 + sum(before != after for before, after in itertools.pairwise(sizes))
    assert mistakes("lengths-that-change") == [1, changes, len(sizes)]
    assert key("a-smaller-last-batch") == recorded([64, 64, 40] * 5)
    assert mistakes("a-smaller-last-batch") == [1, 2 * 5, 101 * 5]


def test_where_a_thousand_updates_end():
    def added(dtype: torch.dtype) -> float:
        weight = torch.tensor(1.0, dtype=dtype)
        for _ in range(1000):
            weight = weight + torch.tensor(0.006, dtype=dtype)
        return weight.item()

    assert key("a-thousand-small-updates") == added(torch.bfloat16)
    assert mistakes("a-thousand-small-updates") == close(1, added(torch.float32), 1 + 1000 / 128)


def test_a_small_gradient_survives_when_it_is_scaled():
    def half(number: float) -> torch.Tensor:
        return torch.tensor(number, dtype=torch.float16)

    assert half(1e-9) == 0
    assert half(1e-9 * 2**14).float() * 2**-14 == pytest.approx(1e-9, rel=1e-2)
    assert half(200_000.0).isinf()
    assert torch.tensor(200_000.0, dtype=torch.bfloat16).isfinite()
    assert "bfloat16" in key("a-type-for-large-values")


def test_the_median_of_five_pairs():
    times: dict[str, list[float]] = {}
    exec(keys.program("ratio-of-five-pairs"), times)
    ratios = [old / new for old, new in zip(times["old"], times["new"], strict=True)]
    assert key("ratio-of-five-pairs") == statistics.median(ratios)
    sums = sum(times["old"]) / sum(times["new"])
    assert mistakes("ratio-of-five-pairs") == close(sums, statistics.mean(ratios), max(ratios))


def test_eight_gpus_in_numbers():
    row = re.compile(r"(\d+) +(\d+) +(\d+) +(\d+)$", re.MULTILINE)
    others, late = ([int(word) for word in found] for found in row.findall(asked("eight-gpus-and-400-ms").text.en))
    answer = asked("eight-gpus-and-400-ms").model_answer.en
    assert sum(others) == sum(late) == 400
    assert late[0] - others[0] == others[2] - late[2] == 150
    assert f"{late[2]} − 120 = {late[2] - 120} ms" in answer
    assert f"400 / {190 + 60} = {400 / 250:.1f}" in answer
