"""A model split over ranks is the dense model: outputs, gradients, training, alone and on a 2×2 mesh."""

from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn
from torch.distributed.device_mesh import init_device_mesh

from torchcourse.data import digits
from torchcourse.lessons.data_parallelism.data_parallel import average_gradients
from torchcourse.lessons.model_parallelism.tensor_parallel import (
    ColumnParallelLinear,
    RowParallelLinear,
    Traffic,
    cut,
    drift,
    enter,
    join,
    leave,
    outputs_of_heads,
    split,
    whole,
)
from torchcourse.models import mlp, row_transformer
from torchcourse.ranks import RankError, device, run_ranks

EXACT = 1e-12


def batch(size=8):
    images, labels = digits()[:size]
    return images.double().to(device()), labels.to(device())


def dense_model():
    torch.manual_seed(0)
    return row_transformer(blocks=2, width=16, heads=4).double().to(device())


def off(ours, right):
    """The largest difference between two tensors of one shape."""
    assert ours.shape == right.shape
    return (ours - right).abs().max().item()


def dense_gradients(size=8):
    model, (images, labels) = dense_model(), batch(size)
    loss = F.cross_entropy(model(images), labels)
    loss.backward()
    return loss.detach(), {name: parameter.grad for name, parameter in model.named_parameters()}


# The operators and the layers


def each_operator():
    """The result and the gradient of every operator, for a loss that is the same on each rank."""
    rank, ranks = dist.get_rank(), dist.get_world_size()
    weights = torch.arange(1.0, 9.0, dtype=torch.float64)
    part = slice(rank * 8 // ranks, (rank + 1) * 8 // ranks)
    found: dict[str, Any] = {}
    x = torch.ones(8, dtype=torch.float64, requires_grad=True)
    found["enter"] = (y := enter(x)).clone()
    (y * weights)[part].sum().backward()  # this rank's part of the loss
    found["enter gradient"] = x.grad
    mine = torch.full((8,), rank + 1.0, dtype=torch.float64, requires_grad=True)
    found["leave"] = (y := leave(mine)).clone()
    (y * weights).sum().backward()
    found["leave gradient"] = mine.grad
    found["what goes into leave"] = mine
    x = weights.clone().requires_grad_()
    found["cut"] = (y := cut(x)).clone()
    (y * weights[part]).sum().backward()
    found["cut gradient"] = x.grad
    mine = weights[part].clone().requires_grad_()
    found["join"] = (y := join(mine)).clone()
    (y * weights).sum().backward()
    found["join gradient"] = mine.grad
    return {name: tensor.detach() for name, tensor in found.items()}


@pytest.mark.parametrize("ranks", [2, 4])
def test_each_operator_and_its_way_back(ranks):
    weights = torch.arange(1.0, 9.0, dtype=torch.float64)
    for rank, found in enumerate(run_ranks(each_operator, world_size=ranks)):
        mine = weights.chunk(ranks)[rank]
        right = {
            "enter": torch.ones_like(weights),
            "enter gradient": weights,
            "leave": torch.full_like(weights, ranks * (ranks + 1) / 2),
            "leave gradient": weights,
            "what goes into leave": torch.full_like(weights, rank + 1.0),
            "cut": mine,
            "cut gradient": weights,
            "join": weights,
            "join gradient": mine,
        }
        for name, tensor in right.items():
            assert torch.equal(found[name], tensor), name


def one_layer_of_each(bias):
    """Column, tanh, row, against the dense pair, with an input of three dimensions."""
    torch.manual_seed(1)
    first, second = (nn.Linear(6, 12, bias=bias).double(), nn.Linear(12, 5, bias=bias).double())
    x, weights = torch.randn(2, 3, 6, dtype=torch.float64), torch.randn(2, 3, 5, dtype=torch.float64)
    ours, right = x.clone().requires_grad_(), x.clone().requires_grad_()
    column, row = ColumnParallelLinear(first), RowParallelLinear(second)
    y = row(torch.tanh(column(ours)))
    (y * weights).sum().backward()
    expected = second(torch.tanh(first(right)))
    (expected * weights).sum().backward()
    differences = [off(y, expected), off(ours.grad, right.grad)]
    for layer, dense in ((column, first), (row, second)):
        for name, parameter in layer.named_parameters():
            twin = getattr(dense, name)
            differences += [off(parameter.grad, layer.part(name, twin.grad)), off(layer.whole(name, parameter), twin)]
    shapes = [tuple(parameter.shape) for parameter in (*column.parameters(), *row.parameters())]
    return max(differences), shapes


@pytest.mark.slow
@pytest.mark.parametrize(("ranks", "bias"), [(3, False), (4, True)])
def test_column_and_row_are_the_dense_pair(ranks, bias):
    for difference, shapes in run_ranks(one_layer_of_each, bias, world_size=ranks):
        assert difference < EXACT
        wide = 12 // ranks
        assert shapes == ([(wide, 6), (wide,), (5, wide), (5,)] if bias else [(wide, 6), (5, wide)])


# The model


def split_step():
    """Loss and gradients of a split model, each against the dense model's; what the ranks hold and send."""
    images, labels = batch()
    model = split(dense_model())
    with Traffic() as forward:
        loss = F.cross_entropy(model(images), labels)
    with Traffic() as backward:
        loss.backward()
    right_loss, right = dense_gradients()
    gradients, values = whole(model, "gradients"), whole(model)
    dense = dense_model()
    dense.load_state_dict(values)
    return {
        "loss": off(loss, right_loss),
        "gradients": max(off(gradients[name], right[name]) for name in right),
        "values": max(off(values[name], p) for name, p in dense_model().named_parameters()),
        "loaded": off(dense(images), dense_model()(images)),
        "held": sum(parameter.numel() for parameter in model[1].parameters()),
        "traffic": [(t.counts(), {c.shape for c in t.collectives}, t.bytes_sent, str(t)) for t in (forward, backward)],
    }


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [2, 4])
def test_a_split_model_has_the_loss_and_the_gradients_of_the_dense_one(ranks):
    whole_block = sum(parameter.numel() for parameter in dense_model()[1].parameters())
    for found in run_ranks(split_step, world_size=ranks):
        assert max(found[name] for name in ("loss", "gradients", "values", "loaded")) < EXACT
        replicated = 2 * 2 * 16 + 2 * 16  # the norms, and the biases of the two row layers
        assert found["held"] == replicated + (whole_block - replicated) // ranks
        for counts, shapes, sent, text in found["traffic"]:
            assert counts == {"all-reduce": 4}  # two in each of two blocks
            assert shapes == {(8, 8, 16)}
            assert sent == pytest.approx(4 * 2 * (ranks - 1) / ranks * 8 * 8 * 16 * 8)
            assert text == f"4 all-reduces, {sent / 1e3:.1f} kB sent per rank"


def train(make, steps=5):
    """Train with SGD; the losses, and the drift of what each rank holds whole."""
    model = make(dense_model())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3)
    images, labels = batch()
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(images), labels)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses, max(drift(model).values()), set(drift(model))


@pytest.mark.slow
def test_training_goes_as_in_the_dense_model_and_the_copies_stay_alike():
    (alone, *_), *_ = run_ranks(train, nn.Sequential, world_size=1)
    names = {name for name, _ in dense_model().named_parameters()}
    for losses, apart, replicated in run_ranks(train, split, world_size=2):
        assert losses == pytest.approx(alone, abs=1e-10)
        assert apart < EXACT
        split_names = {f"{b}.{part}" for b in (1, 2) for part in ("qkv.weight", "qkv.bias", "dense.0.weight")}
        split_names |= {f"{b}.{part}" for b in (1, 2) for part in ("dense.0.bias", "out.weight", "dense.2.weight")}
        assert replicated == names - split_names


def forgets_to_enter(model):
    """The colleague's split: nobody sums the gradient of what goes into attention."""
    from torchcourse.lessons.model_parallelism.tensor_parallel import layers

    setattr(layers, "enter", lambda x, group: x)  # noqa: B010  # mypy knows the signature of `enter`
    return split(model)


def test_the_drift_shows_a_gradient_that_was_not_summed():
    for losses, apart, _ in run_ranks(train, forgets_to_enter, world_size=2):
        assert losses[-1] < losses[0]  # it trains
        assert apart > 1e-4


# Two dimensions


def on_a_mesh():
    """Tensor × data, 2×2: gradients against one process with the whole batch."""
    mesh = init_device_mesh(device().type, (2, 2), mesh_dim_names=("data", "tensor"))
    tensor, data = mesh["tensor"].get_group(), mesh["data"].get_group()
    model = split(dense_model(), tensor)
    images, labels = (part.chunk(2)[mesh["data"].get_local_rank()] for part in batch())
    loss = F.cross_entropy(model(images), labels)
    loss.backward()
    average_gradients(model, data)
    _, right = dense_gradients()
    ours = whole(model, "gradients")
    return max(off(ours[name], right[name]) for name in right), dist.get_process_group_ranks(tensor)


@pytest.mark.slow
def test_on_a_mesh_of_two_by_two_the_gradients_are_those_of_one_process():
    results = run_ranks(on_a_mesh, world_size=4)
    assert max(difference for difference, _ in results) < EXACT
    assert [group for _, group in results] == [[0, 1], [0, 1], [2, 3], [2, 3]]


def test_the_outputs_of_a_ranks_heads_are_three_blocks():
    # width 8, 4 heads of 2; rank 1 of 2 holds the heads 2 and 3
    assert outputs_of_heads(4, 8, 1, 2).tolist() == [4, 5, 6, 7, 12, 13, 14, 15, 20, 21, 22, 23]
    every = torch.cat([outputs_of_heads(4, 8, rank, 4) for rank in range(4)])
    assert sorted(every.tolist()) == list(range(24))


# What does not fit


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: split(dense_model()), "3 ranks cannot share 4 heads equally"),
        (lambda: ColumnParallelLinear(nn.Linear(6, 4)), "3 ranks cannot share 4 outputs equally"),
        (lambda: RowParallelLinear(nn.Linear(4, 6)), "3 ranks cannot share 4 inputs equally"),
        (lambda: cut(torch.ones(2, 4)), "3 ranks cannot share 4 features equally"),
        (lambda: split(mlp(4, 3)), "found no TransformerBlock in this Sequential"),
        (lambda: whole(dense_model(), "gradients"), "0.place has no gradient. Call backward"),
    ],
)
def test_what_does_not_fit_is_told_in_one_sentence(call, sentence):
    with pytest.raises(RankError, match=sentence) as caught:
        run_ranks(call, world_size=3)
    assert caught.value.kind == "ValueError"


@pytest.mark.parametrize("call", [enter, leave, cut, join])
def test_outside_a_rank_it_says_what_to_do(call):
    with pytest.raises(RuntimeError, match="run_ranks"):
        call(torch.ones(2))


@pytest.mark.gpu
def test_on_gpus_a_split_model_has_the_gradients_of_the_dense_one():
    if torch.cuda.device_count() < 2:
        pytest.skip("needs two GPUs")
    for found in run_ranks(split_step, world_size=2):
        assert max(found[name] for name in ("loss", "gradients", "values", "loaded")) < EXACT


def learning_after_a_split() -> tuple[list[str], list[str]]:
    model = dense_model()
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("dense" in name)
    before = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    return before, [name for name, parameter in split(model).named_parameters() if parameter.requires_grad]


def test_what_is_frozen_stays_so():
    for before, after in run_ranks(learning_after_a_split, world_size=2):
        assert before == after
