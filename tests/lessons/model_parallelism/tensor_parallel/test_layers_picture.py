"""The bytes by formula are those that the ranks send, and the picture says what the formulas give."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from matplotlib.collections import PolyCollection
from torch import nn

from torchcourse.lessons.model_parallelism.tensor_parallel import (
    ColumnParallelLinear,
    RowParallelLinear,
    Traffic,
    cut,
    enter,
    join,
    leave,
    split,
)
from torchcourse.lessons.model_parallelism.tensor_parallel.cost import (
    COLUMN_ROW,
    ORDERS,
    ROW_COLUMN,
    block_bytes,
    pair_bytes,
    weight_bytes,
)
from torchcourse.lessons.model_parallelism.tensor_parallel.layers_picture import (
    describe_split,
    draw_split,
    split_picture,
)
from torchcourse.models import TransformerBlock, mlp
from torchcourse.ranks import run_ranks

TOKENS, WIDTH = 12, 8


def both_orders():
    """Whether each order is the dense pair, and the bytes that it sent; last, the bytes of a whole block."""
    torch.manual_seed(0)
    first, second = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)
    column_row = nn.Sequential(ColumnParallelLinear(first), nn.GELU(), RowParallelLinear(second))
    row, column = RowParallelLinear(first), ColumnParallelLinear(second)
    ways = {COLUMN_ROW: column_row, ROW_COLUMN: lambda x: join(column(F.gelu(row(cut(x)))))}
    x = torch.randn(TOKENS, WIDTH)
    right = x.clone().requires_grad_()
    y = second(F.gelu(first(right)))
    y.square().sum().backward()
    results = {}
    for order, way in ways.items():
        ours = x.clone().requires_grad_()
        with Traffic() as traffic:
            answer = way(ours)
            answer.square().sum().backward()
        exact = torch.allclose(answer, y, atol=1e-5) and torch.allclose(ours.grad, right.grad, atol=1e-5)
        results[order] = exact, traffic.bytes_sent
    block = split(TransformerBlock(WIDTH, 4))
    with Traffic() as traffic:
        block(torch.randn(3, TOKENS // 3, WIDTH, requires_grad=True)).sum().backward()
    return results, traffic.bytes_sent


@pytest.mark.parametrize("ranks", [1, 4])
def test_the_bytes_by_formula_are_those_that_are_sent(ranks):
    for results, block in run_ranks(both_orders, world_size=ranks):
        for order, (exact, sent) in results.items():
            assert exact
            assert sent == pytest.approx(pair_bytes(order, TOKENS, WIDTH, ranks))
        assert block == pytest.approx(block_bytes(TOKENS, WIDTH, ranks))


def test_row_then_column_sends_four_and_a_half_times_as_much():
    assert pair_bytes(ROW_COLUMN, 7, 5, 4) == 4.5 * pair_bytes(COLUMN_ROW, 7, 5, 4)
    with pytest.raises(ValueError, match="There is no order 'both'"):
        pair_bytes("both", 1, 1, 2)


def test_the_weights_are_those_of_the_dense_part():
    assert weight_bytes(WIDTH) == 4 * sum(p.numel() for p in mlp(WIDTH, 4 * WIDTH, WIDTH).parameters())


def test_gathering_halves_of_a_sequence_is_counted_as_half_an_all_reduce():
    def traffic_of(function):
        with Traffic() as traffic:
            function(torch.ones(2, 8))
        return traffic

    def on_each_rank():
        summed, gathered = traffic_of(leave), traffic_of(join)
        return [(t.collectives[0].bytes, t.bytes_sent) for t in (summed, gathered)], str(traffic_of(enter))

    for (summed, gathered), nothing in run_ranks(on_each_rank, world_size=2):
        assert summed == (64, 64)
        assert gathered == (128, 64)  # the whole tensor is twice the part, and each rank sends its part once
        assert nothing == "no collective, 0 bytes sent per rank"


@pytest.mark.parametrize(
    ("values", "finding"),
    [
        (
            (4, COLUMN_ROW, 4096, 4096),
            "column, then row: each of 4 ranks holds 1/4 of the weights, sends 201 MB per step",
        ),
        (
            (2, ROW_COLUMN, 256, 1024),
            "row, then column: each of 2 ranks holds 1/2 of the weights, sends 9.44 MB per step",
        ),
        ((1, COLUMN_ROW, 4096, 4096), "One rank holds all 537 MB of weights and sends nothing"),
    ],
)
def test_the_finding_and_its_words(values, finding):
    figure = draw_split(*values)
    assert figure.get_suptitle() == finding
    words = describe_split(*values)
    assert words.startswith(finding)
    assert ("h: forward: all-reduce; backward: all-reduce" in words) == (values[1] == ROW_COLUMN)
    assert figure.axes[1].get_xlabel() == "sent (MB per rank in a step)"


@pytest.mark.parametrize(("order", "split_up"), [(COLUMN_ROW, [1, 4, 4, 4, 1]), (ROW_COLUMN, [4, 4, 1, 4, 1])])
def test_each_rank_has_its_stripe_of_what_is_split(order, split_up):
    axis = draw_split(4, order, 1024, 1024).axes[0]
    drawn = [artist for artist in axis.collections if isinstance(artist, PolyCollection)]
    assert [len(artist.get_paths()) for artist in drawn] == split_up
    for artist in drawn:
        sizes = {tuple(np.round(path.get_extents().size, 6)) for path in artist.get_paths()}
        assert len(sizes) == 1  # equal shares


@pytest.mark.slow
def test_every_slider_changes_the_picture():
    *controls, image = split_picture().children
    for control, value in zip(controls, (8, ORDERS[1], 256, 65536), strict=True):
        before = image.value
        control.value = value
        assert image.value != before
