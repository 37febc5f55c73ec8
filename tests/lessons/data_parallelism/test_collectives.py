"""The collectives by hand: the ring in simulation for many sizes, and really, against torch, on 1 to 4 ranks."""

import pytest
import torch
import torch.distributed as dist
from hypothesis import given
from hypothesis import strategies as st

from torchcourse.lessons.data_parallelism import collectives
from torchcourse.lessons.data_parallelism.collectives import Message, RingStep, ring_steps
from torchcourse.ranks import run_ranks

world_sizes = st.integers(1, 9)


@given(world_sizes)
def test_ring_ends_with_every_sum_everywhere(world_size: int) -> None:
    steps = ring_steps(world_size)
    assert [step.phase for step in steps] == ["start"] + ["reduce-scatter"] * (world_size - 1) + ["all-gather"] * (
        world_size - 1
    )
    everyone = frozenset(range(world_size))
    half = steps[world_size - 1]
    assert all(half.summed[rank][rank] == everyone for rank in range(world_size))
    assert all(summed == everyone for row in steps[-1].summed for summed in row)


@given(world_sizes)
def test_in_every_step_each_rank_sends_one_chunk_to_its_right(world_size: int) -> None:
    for step in ring_steps(world_size)[1:]:
        assert sorted(message.source for message in step.messages) == list(range(world_size))
        assert all(message.target == (message.source + 1) % world_size for message in step.messages)


@given(world_sizes)
def test_each_rank_expects_the_chunk_that_its_left_sends(world_size: int) -> None:
    for schedule in (collectives.reduce_scatter_schedule, collectives.all_gather_schedule):
        for rank in range(world_size):
            sent = [send for send, _ in schedule((rank - 1) % world_size, world_size)]
            assert [receive for _, receive in schedule(rank, world_size)] == sent


@given(world_sizes)
def test_nothing_is_added_twice(world_size: int) -> None:
    before = ring_steps(world_size)[0]
    for step in ring_steps(world_size)[1:]:
        if step.phase == "reduce-scatter":
            for message in step.messages:
                arrived, own = (before.summed[rank][message.chunk] for rank in (message.source, message.target))
                assert not arrived & own
        before = step


@given(world_sizes, st.integers(0, 40), st.randoms(use_true_random=False))
def test_ring_steps_sum_tensors_of_any_length(world_size: int, length: int, random) -> None:
    tensors = [torch.tensor([random.randint(-99, 99) for _ in range(length)]) for _ in range(world_size)]
    expected = torch.stack(tensors).sum(dim=0)
    chunks = [tensor.tensor_split(world_size) for tensor in tensors]
    sent = [0] * world_size
    for step in ring_steps(world_size)[1:]:
        moving = {message: chunks[message.source][message.chunk].clone() for message in step.messages}
        for message, values in moving.items():
            target = chunks[message.target][message.chunk]
            target.copy_(values + target if step.phase == "reduce-scatter" else values)
            sent[message.source] += len(values)
    assert all(torch.equal(tensor, expected) for tensor in tensors)
    exact = 2 * (world_size - 1) / world_size * length
    assert all(count == exact if length % world_size == 0 else abs(count - exact) < 2 for count in sent)


def test_four_ranks_step_by_step() -> None:
    first, *_, last = ring_steps(4)[1:]
    assert first.messages == (Message(0, 1, 3), Message(1, 2, 0), Message(2, 3, 1), Message(3, 0, 2))
    assert first.summed[0] == (frozenset({0}), frozenset({0}), frozenset({3, 0}), frozenset({0}))
    assert last.messages == (Message(0, 1, 2), Message(1, 2, 3), Message(2, 3, 0), Message(3, 0, 1))


def test_one_rank_has_nothing_to_do() -> None:
    assert ring_steps(1) == [RingStep("start", (), ((frozenset({0}),),))]


def test_ring_without_ranks_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 1 rank, but world_size is 0"):
        ring_steps(0)


def test_outside_a_rank_the_message_says_what_to_do() -> None:
    with pytest.raises(RuntimeError, match="run_ranks"):
        collectives.ring_all_reduce(torch.ones(3))


SHAPES = [(), (1,), (2,), (3,), (4,), (7,), (1000,), (5, 7), (0,)]


def all_reduces() -> dict:
    """In a rank: for each way and shape, whether it gives torch's sum, and the bytes that this rank sent."""
    found = {}
    torch.manual_seed(dist.get_rank())
    for way in ("naive", "ring"):
        all_reduce = getattr(collectives, f"{way}_all_reduce")
        for shape in SHAPES:
            mine = torch.randint(-1000, 1000, shape)
            expected = mine.clone()
            dist.all_reduce(expected)
            sent = all_reduce(mine)
            found[way, shape] = torch.equal(mine, expected), sent
        numbers = torch.randn(64, 32)
        for name, mine in {
            "float": numbers.clone(),
            "not contiguous": numbers.clone().t(),
            "parameter": torch.nn.Parameter(numbers.clone()),
        }.items():
            expected = mine.detach().contiguous().clone()
            dist.all_reduce(expected)
            all_reduce(mine)
            found[way, name] = torch.allclose(mine, expected, rtol=1e-5, atol=1e-5), None
    return found


def pieces() -> dict:
    """In a rank: the parts of the ring alone, and broadcast, against torch."""
    rank, world_size = dist.get_rank(), dist.get_world_size()
    found = {}
    torch.manual_seed(rank)
    mine = torch.randint(-1000, 1000, (6 * world_size,))
    expected = torch.empty(6, dtype=mine.dtype)
    dist.reduce_scatter(expected, [chunk.clone() for chunk in mine.tensor_split(world_size)])
    chunks = mine.tensor_split(world_size)
    found["reduce_scatter bytes"] = collectives.ring_reduce_scatter(chunks)
    found["reduce_scatter"] = torch.equal(chunks[rank], expected)

    gathered = [torch.empty(5) for _ in range(world_size)]
    own = torch.randn(5)
    dist.all_gather(gathered, own)
    ours = [torch.zeros(5) for _ in range(world_size)]
    ours[rank].copy_(own)
    found["all_gather bytes"] = collectives.ring_all_gather(ours)
    found["all_gather"] = all(torch.equal(a, b) for a, b in zip(ours, gathered, strict=True))

    for source in range(world_size):
        mine, expected = torch.nn.Parameter(torch.randn(3, 4)), torch.randn(3, 4)
        expected.copy_(mine.detach())
        dist.broadcast(expected, source)
        found[f"broadcast from {source} bytes"] = collectives.broadcast(mine, source)
        found[f"broadcast from {source}"] = torch.equal(mine, expected)
    return found


@pytest.mark.parametrize("world_size", [1, 2, 3, 4])
def test_against_torch_on_real_ranks(world_size: int) -> None:
    ranks = run_ranks(lambda: (all_reduces(), pieces()), world_size=world_size)
    for rank, (sums, parts) in enumerate(ranks):
        wrong = [case for case, (equal, _) in sums.items() if not equal]
        assert not wrong, f"rank {rank}: {wrong}"
        size = 1000 * 8
        if size % world_size == 0:
            assert sums["ring", (1000,)][1] == 2 * (world_size - 1) * size // world_size
        assert sums["naive", (1000,)][1] == (size * (world_size - 1) if rank == 0 else size)

        others = world_size - 1
        assert parts.pop("reduce_scatter bytes") == others * 6 * 8
        assert parts.pop("all_gather bytes") == others * 5 * 4
        for source in range(world_size):
            assert parts.pop(f"broadcast from {source} bytes") == (others * 12 * 4 if rank == source else 0)
        assert all(parts.values()), f"rank {rank}: {parts}"
    for shape in SHAPES:
        length = torch.Size(shape).numel()
        assert sum(sums["ring", shape][1] for sums, _ in ranks) == 2 * (world_size - 1) * length * 8


def refusals() -> list[str]:
    messages = []
    for call in (
        lambda: collectives.ring_all_gather([torch.ones(1)]),
        lambda: collectives.broadcast(torch.ones(1), source=2),
    ):
        with pytest.raises(ValueError) as error:
            call()
        messages.append(str(error.value))
    return messages


@pytest.mark.slow
def test_wrong_arguments_are_refused_before_anything_is_sent() -> None:
    chunks, source = run_ranks(refusals, world_size=2)[0]
    assert "needs 2 chunks, but got 1" in chunks
    assert "no rank 2" in source
