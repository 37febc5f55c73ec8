"""The keys of lesson 02's bank, computed again or tried out: what a question says happens is what happens."""

import math
import re
from fractions import Fraction
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn

from keys import Keys, close
from torchcourse.lessons.data_parallelism import cost
from torchcourse.lessons.data_parallelism.memory import RECIPES, zero_memory
from torchcourse.lessons.model_parallelism import pipeline
from torchcourse.lessons.model_parallelism.planner import Layout, Model, dgx_a100, plan
from torchcourse.lessons.model_parallelism.planner.memory import layer_activations
from torchcourse.lessons.model_parallelism.tensor_parallel import Traffic
from torchcourse.lessons.model_parallelism.tensor_parallel.vocabulary import cut_cross_entropy
from torchcourse.ranks import RankTimeout, run_ranks
from torchcourse.ranks.who import ON_CPU

LESSON = "02_model_parallelism"
keys = Keys(LESSON)
asked, key, mistakes = keys.asked, keys.key, keys.mistakes


def test_bytes_over_a_border():
    border = torch.empty(32, 512, 1024, dtype=torch.bfloat16)
    assert [key("megabytes-over-the-border")] == close(2 * border.nbytes / 1e6)
    assert mistakes("megabytes-over-the-border") == close(
        border.nbytes / 1e6, 2 * border.float().nbytes / 1e6, 200 * border.element_size()
    )


def first_rank_and_the_questions_code(code: str):
    """Rank 0 sends its activations; rank 1 runs the question's code, and with the repair in it."""
    torch.manual_seed(0)
    first_half, second_half, labels = nn.Linear(5, 64), nn.Linear(64, 3), torch.arange(32) % 3
    if dist.get_rank() == 0:
        for _ in range(2):
            dist.send(first_half(torch.randn(32, 5)).detach(), 1)
        gradient = torch.zeros(32, 64)
        dist.recv(gradient, 1)
        return bool(gradient.any())
    names: dict[str, Any] = {"torch": torch, "dist": dist, "F": F, "second_half": second_half, "labels": labels}
    with pytest.raises(TypeError):
        exec(code, names)
    assert names["x"].grad_fn is None
    assert names["x"].grad is None
    exec(code.replace("dist.recv(x, 0)", "dist.recv(x, 0)\nx.requires_grad_()"), names)
    return True


@pytest.mark.slow
def test_a_received_tensor_has_no_gradient():
    code = re.search(r"```\n(.*?)```", asked("what-rank-1-sends-back").text.en, re.DOTALL)[1]
    assert run_ranks(first_rank_and_the_questions_code, code, world_size=2, env=ON_CPU) == [True, True]
    assert key("what-rank-1-sends-back") == "C"


def test_the_names_of_functions():
    assert all(hasattr(dist, name) for name in ("isend", "batch_isend_irecv", "send", "broadcast"))
    assert key("sends-without-waiting")[0] == "isend"


def test_times_of_sixty_milliseconds():
    costs = pipeline.Costs(forward=5, backward=10)  # of a stage: 15 ms of 60
    assert pipeline.simulate(pipeline.gpipe(4, 1), costs).length == key("sixty-milliseconds-in-four")
    eighth = pipeline.Costs(forward=Fraction(5, 8), backward=Fraction(10, 8))
    assert pipeline.simulate(pipeline.gpipe(4, 8), eighth).length == key("sixty-milliseconds-with-micro-batches")


def test_waiting_agrees_with_the_keys():
    waiting = 100 * pipeline.simulate(pipeline.one_f_one_b(8, 24)).bubble
    assert [key("waiting-of-eight-ranks")] == close(float(waiting))
    assert mistakes("waiting-of-eight-ranks") == close(100 * 7 / 24, 100 * 8 / 32)
    enough = [m for m in range(1, 60) if pipeline.bubble(4, m) <= Fraction(1, 10)]
    assert enough[0] == key("micro-batches-for-ten-per-cent")
    assert mistakes("micro-batches-for-ten-per-cent") == [3 / 0.1, 4 / 0.1 - 4]


def test_which_changes_shrink_the_bubble():
    before = pipeline.simulate(pipeline.gpipe(4, 8)).bubble
    after = {
        "A": pipeline.simulate(pipeline.gpipe(4, 16)),
        "B": pipeline.simulate(pipeline.one_f_one_b(4, 8)),
        "C": pipeline.simulate(pipeline.interleaved(4, 8, stages_per_rank=2)),
        "D": pipeline.simulate(pipeline.gpipe(8, 8)),
        "E": pipeline.simulate(pipeline.gpipe(4, 8), pipeline.Costs(forward=Fraction(1, 2), backward=1)),
        "F": pipeline.simulate(pipeline.zero_bubble(4, 8)),
    }
    assert "".join(letter for letter, line in after.items() if line.bubble < before) == key("what-shrinks-the-share")
    assert after["C"].bubble == Fraction(3, 19)
    assert after["B"].bubble == before


def test_the_order_on_rank_2():
    question = asked("order-on-rank-2")
    letters = {}
    for letter, item in zip(question.letters, question.items, strict=True):
        kind, number = re.fullmatch(r"(\w)\w+ pass of micro-batch (\d)", item.en).groups()
        letters[kind, int(number)] = letter
    order = pipeline.one_f_one_b(4, 3).orders[2]
    assert "".join(letters[action.kind, action.micro_batch] for action in order) == question.answer


def test_what_ranks_hold():
    assert pipeline.simulate(pipeline.one_f_one_b(6, 20)).peak(1) == key("held-by-rank-1-of-six")
    assert pipeline.simulate(pipeline.gpipe(6, 20)).peak(1) == max(mistakes("held-by-rank-1-of-six"))
    held = [pipeline.simulate(make(4, 16)).peak(0) / 2 for make in (pipeline.gpipe, pipeline.one_f_one_b)]
    assert held[0] - held[1] == key("gigabytes-in-gpipe")
    # In units of the batch: GPipe with 8 and with 16 micro-batches, 1F1B with 8.
    assert pipeline.simulate(pipeline.gpipe(4, 8)).peak(0) / 8 == pipeline.simulate(pipeline.gpipe(4, 16)).peak(0) / 16
    assert pipeline.simulate(pipeline.one_f_one_b(4, 8)).peak(0) / 8 == Fraction(1, 2)
    assert key("gpipe-runs-out") == "B"


def shift(first_sender: int | None):
    """Pass a tensor on in a ring; with a first sender, who sends before it receives."""
    rank, ranks = dist.get_rank(), dist.get_world_size()
    outgoing, incoming = torch.full((2,), float(rank)), torch.empty(2)
    if rank == first_sender:
        dist.send(outgoing, (rank + 1) % ranks)
    dist.recv(incoming, (rank - 1) % ranks)
    if rank != first_sender:
        dist.send(outgoing, (rank + 1) % ranks)
    return incoming[0].item()


@pytest.mark.slow
def test_a_ring_in_which_all_receive_first():
    assert run_ranks(shift, 0, world_size=3, env=ON_CPU) == [2.0, 0.0, 1.0]
    with pytest.raises(RankTimeout):
        run_ranks(shift, None, world_size=3, timeout=2, env=ON_CPU)
    assert key("three-ranks-in-a-ring") == "C"


def blocks(*rows: str) -> bool:
    orders = tuple(
        tuple(pipeline.Action(word[0], rank, int(word[1])) for word in row.split()) for rank, row in enumerate(rows)
    )
    schedule = pipeline.Schedule("asked", micro_batches=len(orders[0]) // 2, stages_per_rank=1, orders=orders)
    try:
        pipeline.simulate(schedule)
    except pipeline.Deadlock:
        return True
    return False


def test_which_orders_block():
    for choice in asked("orders-that-block").choices:
        rows = [re.findall(r"[FB]\d", part) for part in choice.text.en.split("·")]
        assert blocks(*(" ".join(row) for row in rows)) == choice.right, choice.text.en
    assert not blocks("F0 B0", "F0 B0")
    assert blocks("F0 B0 F1 B1", "F0 F1 B0 B1")
    assert key("only-with-two-micro-batches") == "A"


def test_shards_of_linear_layers():
    layer = nn.Linear(768, 3072)
    columns, rows = layer.weight.chunk(2, dim=0)[0], layer.weight.chunk(2, dim=1)[0]
    shapes = [choice.text.en for choice in asked("shape-of-a-column-shard").choices]
    assert str(list(columns.shape)) == shapes["ABCD".index(key("shape-of-a-column-shard"))]
    assert str(list(rows.shape)) == shapes[1]
    assert columns.numel() == rows.numel()
    x = torch.randn(2, 768)
    torch.testing.assert_close(F.linear(x, columns), (layer(x) - layer.bias)[:, :1536])
    a, b = torch.tensor(3.0), torch.tensor(-3.0)
    assert F.gelu(a + b) != F.gelu(a) + F.gelu(b)
    assert key("why-columns-come-first") == "B"
    parts = torch.tensor([3.0, -5.0])
    assert parts.relu().sum() - parts.sum().relu() == key("relu-before-the-sum")


def tensor_parallel():
    """Return what four biases add too much, the all-reduces of an MLP that DTensor splits, forward and backward, and
    the numbers that a loss over a cut vocabulary puts into all-reduces.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor.debug import CommDebugMode
    from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

    bias = torch.tensor([0.3])
    code = re.search(r"```\n(.*?)```", asked("bias-on-four-ranks").text.en, re.DOTALL)[1]
    names: dict[str, Any] = {
        "F": F,
        "dist": dist,
        "x_part": torch.zeros(1, 2),
        "weight_part": torch.zeros(1, 2),
        "bias": bias,
    }
    exec(code, names)

    mlp = nn.Sequential(nn.Linear(6, 8), nn.GELU(), nn.Linear(8, 6))
    parallelize_module(mlp, init_device_mesh("cpu", (4,)), {"0": ColwiseParallel(), "2": RowwiseParallel()})
    counts = []
    x = torch.ones(2, 6, requires_grad=True)
    with CommDebugMode() as forward:
        out = mlp(x).square().sum()
    with CommDebugMode() as backward:
        out.backward()
    for mode in (forward, backward):
        counts.append({str(name).rsplit(".", 1)[-1]: count for name, count in mode.get_comm_counts().items()})
    with Traffic() as traffic:
        cut_cross_entropy(torch.zeros(1000, 8), torch.zeros(1000, dtype=torch.long))
    all_reduced = [math.prod(each.shape) for each in traffic.collectives if each.name == "all-reduce"]
    return names["out"].item() - bias.item(), counts, sum(all_reduced)


@pytest.mark.slow
def test_what_four_tensor_parallel_ranks_do():
    too_large, counts, numbers = run_ranks(tensor_parallel, world_size=4, env=ON_CPU)[0]
    assert numbers == key("numbers-for-a-cut-vocabulary")
    assert too_large == pytest.approx(key("bias-on-four-ranks"), abs=1e-4)
    assert counts == [{"all_reduce": 1}, {"all_reduce": 1}]
    assert key("where-an-mlp-communicates") == "BD"
    blocks_of_twelve_layers = 12 * 2
    assert blocks_of_twelve_layers * sum(count["all_reduce"] for count in counts) == key("all-reduces-of-twelve-layers")


def test_ranks_of_a_key_head():
    used = [{query // 8 for query in (2 * rank, 2 * rank + 1)} for rank in range(16)]
    assert [sum(head in heads for heads in used) for head in range(4)] == [key("ranks-of-a-key-head")] * 4
    assert key("key-heads-that-drift") == "B"


def test_bytes_of_an_all_reduce():
    output = torch.empty(8, 2048, 4096, dtype=torch.bfloat16, device="meta")
    assert [key("bytes-of-one-all-reduce")] == close(cost.ring_bytes(output.nbytes, 4) / 1e6)
    assert mistakes("bytes-of-one-all-reduce") == close(
        output.nbytes / 1e6, cost.ring_bytes(output.float().nbytes, 4) / 1e6
    )


def test_a_mesh_of_two_by_four():
    mesh = torch.arange(8).reshape(2, 4)
    d, t = (mesh == 6).nonzero()[0].tolist()
    assert mesh[1 - d, t] == key("who-has-the-shard-of-rank-6")
    assert set(mistakes("who-has-the-shard-of-rank-6")) <= set(mesh[d].tolist())
    assert 64 / len(mesh) == key("samples-of-a-mesh-rank")


def test_bytes_of_layouts():
    each = RECIPES["mixed precision, Adam"]
    assert (each.parameters, each.gradients, each.optimizer) == (2, 2, 12)
    states = zero_memory(7e9 / 4, world_size=4, stage=1)
    assert states.total / 1e9 == key("states-of-seven-billion")
    assert mistakes("states-of-seven-billion") == close(states.parameters / 1e9, 7 * 16 / 16, 7 * 16 / 4)
    assert zero_memory(13e9, world_size=8, stage=0).total / 1e9 == 208
    assert key("thirteen-billion-on-eight") == "C"


def test_activations_of_recomputed_layers():
    model, layout = Model("asked", layers=32, width=4096, heads=32), Layout(batch=1)
    whole, own_input = (layer_activations(model, layout, recomputation) for recomputation in ("none", "full"))
    sh = 2048 * 4096
    assert (whole, own_input) == (34 * sh, 2 * sh)
    assert [key("activations-computed-again")] == close((32 * own_input + whole - own_input) / 1e6)
    assert mistakes("activations-computed-again") == close(32 * own_input / 1e6, 32 * whole / 1e6, whole / 1e6)


def test_the_planner_says_what_the_questions_print():
    model, cluster = Model("13B", layers=40, width=5120, heads=40), dgx_a100(64)
    assert model.parameters == pytest.approx(13e9, rel=0.02)
    layouts = [
        {"data": 64},
        {"data": 64, "stage": 2},
        {"tensor": 8, "data": 8, "stage": 1},
        {"tensor": 8, "pipeline": 8},
    ]
    plans = [plan(model, cluster, Layout(batch=512, **layout)) for layout in layouts]
    printed = re.findall(r"^\d .*?(\d+) +([\d.]+)$", asked("a-layout-for-sixty-four").text.en, re.MULTILINE)
    for found, (gib, seconds) in zip(plans, printed, strict=True):
        assert found.bytes.total / 2**30 == pytest.approx(float(gib), abs=0.5)
        assert found.seconds.total == pytest.approx(float(seconds), abs=0.051)
    fastest = min((found for found in plans if found.fits), key=lambda found: found.seconds.total)
    assert "ABCD"[plans.index(fastest)] == key("a-layout-for-sixty-four")

    model = Model("22B", layers=48, width=6144, heads=64)
    layouts = [{"tensor": 16, "data": 4, "stage": 1}, {"tensor": 8, "pipeline": 2, "data": 4, "stage": 1}]
    rows = re.findall(r"^tensor .*? data 4 +(.*)$", asked("sixteen-over-two-machines").text.en, re.MULTILINE)
    for layout, row in zip(layouts, rows, strict=True):
        seconds = plan(model, cluster, Layout(batch=512, micro_batch=8, **layout)).seconds
        compute, tensor, bubble, total = (float(number) for number in row.split())
        assert (seconds.compute, seconds.tensor) == (pytest.approx(compute, abs=0.06), pytest.approx(tensor, abs=0.06))
        assert (seconds.bubble, seconds.total) == (pytest.approx(bubble, abs=0.06), pytest.approx(total, abs=0.06))
    assert key("sixteen-over-two-machines") == "C"


def test_the_time_of_a_step_by_part():
    # A micro-batch takes 920/16 ms on a rank, a third of it forward; the averaging comes at the end.
    each = Fraction(920, 16)
    line = pipeline.simulate(pipeline.one_f_one_b(4, 16), pipeline.Costs(forward=each / 3, backward=2 * each / 3))
    assert line.length + 90 == key("milliseconds-of-a-step")
    assert mistakes("milliseconds-of-a-step") == close(920 + 90, 920 + 3 / 16 * 800 + 90, 920 + 3 / 19 * 920 + 90)


def test_utilisations_agree_with_the_keys():
    shares = {flop: 100 * flop * 7e9 * 3000 / 312e12 for flop in (2, 6, 8)}
    assert [key("utilisation-of-a-run")] == close(shares[6])
    assert mistakes("utilisation-of-a-run") == close(shares[2], shares[8])
    assert key("model-from-hardware") == 52 * shares[6] / shares[8]
    assert mistakes("model-from-hardware") == close(52, 52 * 8 / 6)
    assert 52 * 6 / 8 < 42
    assert key("two-reports") == "B"
    # The planner's model, without attention and output layer, has the same ratio.
    model = Model("asked", layers=32, width=4096, heads=32, sequence=1, vocabulary=1)
    assert model.hardware_flop("full") / model.model_flop == pytest.approx(8 / 6, rel=1e-3)


def test_a_model_that_fits_is_fastest_in_data_parallelism():
    model, cluster = Model("0.3B", layers=24, width=1024, heads=16), dgx_a100(8)
    assert model.parameters == pytest.approx(3e8, rel=0.25)
    # 64 sequences of 2,048 tokens
    plans = [plan(model, cluster, Layout(batch=64, **{way: 8})) for way in ("pipeline", "tensor", "data")]
    assert all(found.fits for found in plans)
    seconds = [found.seconds.total for found in plans]
    assert "ABC"[seconds.index(min(seconds))] == key("three-hundred-million-on-eight")
