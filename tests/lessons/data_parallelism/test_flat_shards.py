"""FSDP by hand trains like one process and like `fully_shard`, with its messages and its bytes; and what it refuses."""

from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn

from torchcourse.lessons.data_parallelism import sharding
from torchcourse.lessons.data_parallelism.data_parallel import largest_difference
from torchcourse.lessons.data_parallelism.flat_shards import FlatShards, flatten, own_shard, reshard, unflatten
from torchcourse.lessons.data_parallelism.flat_shards_picture import draw_held, held_finding
from torchcourse.lessons.data_parallelism.messages import listed_messages
from torchcourse.lessons.data_parallelism.prefetch import modeled_step
from torchcourse.lessons.data_parallelism.prefetch_picture import describe_prefetch, draw_prefetch
from torchcourse.ranks import run_ranks

SETTINGS: dict[str, Any] = {
    "plain": {},
    "prefetch": {"prefetch": 1},
    "far prefetch": {"prefetch": 5},
    "no reshard": {"reshard_after_forward": False},
}


def small_model(dtype=torch.float64):
    torch.manual_seed(0)
    middle = [nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 8)) for _ in range(2)]
    return nn.Sequential(nn.Linear(7, 8), *middle, nn.Linear(8, 3)).to(dtype)


def sharded_by_fsdp2(dtype):
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    model = small_model(torch.float32)
    policy = MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=torch.float32)
    for part in (*model.children(), model):
        fully_shard(part, mp_policy=policy)
    return model


def trained(model, parameters, dtype=torch.float64):
    """Train three steps of Adam; return the messages of the first step."""
    optimizer = torch.optim.Adam(parameters, lr=1e-2)
    generator = torch.Generator().manual_seed(1)
    rank, ranks = dist.get_rank(), dist.get_world_size()
    first = []
    for _ in range(3):
        x, y = (
            torch.randn(16, 7, generator=generator, dtype=dtype),
            torch.randn(16, 3, generator=generator, dtype=dtype),
        )
        optimizer.zero_grad()
        with listed_messages() as messages:
            F.mse_loss(model(x.chunk(ranks)[rank]).to(dtype), y.chunk(ranks)[rank]).backward()
        optimizer.step()
        first = first or messages
        with torch.no_grad():
            model(x)  # an evaluation between steps leaves no old weights behind
    return first


def all_ways(settings):
    """Return the weights and messages of our settings and of `fully_shard`; of ours also the events and the shards."""
    results: dict[str, Any] = {}
    for name in settings:
        model = small_model()
        sharded = FlatShards(model, **SETTINGS[name])
        messages = trained(model, sharded.shards)
        weights = list(sharded.full_parameters().values())
        results[name] = weights, messages, sharded.events, sharded.state_dict(), sharded.held
    if dist.get_world_size() == 1:
        return results
    model = small_model()
    sharding.shard_with_fsdp2(model)
    messages = trained(model, model.parameters())
    results["fully_shard"] = list(sharding.full_parameters(model).values()), messages
    model, fsdp2 = small_model(torch.float32), sharded_by_fsdp2(torch.bfloat16)
    sharded = FlatShards(model, param_dtype=torch.bfloat16)
    trained(model, sharded.shards, torch.float32)
    trained(fsdp2, fsdp2.parameters(), torch.float32)
    ours, theirs = sharded.full_parameters().values(), sharding.full_parameters(fsdp2).values()
    results["bfloat16"] = largest_difference(ours, theirs)
    return results


@pytest.fixture(scope="module")
def runs():
    return {ranks: run_ranks(all_ways, SETTINGS if ranks > 1 else ["plain"], world_size=ranks) for ranks in (1, 2, 4)}


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [2, 4])
@pytest.mark.parametrize("way", [*SETTINGS, "fully_shard"])
def test_every_way_gives_the_weights_of_one_process(runs, ranks, way):
    assert largest_difference(runs[ranks][0][way][0], runs[1][0]["plain"][0]) < 1e-12


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [2, 4])
def test_bfloat16_gives_the_weights_of_fully_shard(runs, ranks):
    assert runs[ranks][0]["bfloat16"] < 1e-6


@pytest.mark.slow
def test_messages_are_those_of_fully_shard(runs):
    kinds = {way: sorted(message.kind for message in runs[2][0][way][1]) for way in (*SETTINGS, "fully_shard")}
    assert kinds["plain"] == kinds["prefetch"] == kinds["far prefetch"] == kinds["fully_shard"]
    assert kinds["plain"] == ["all-gather"] * 8 + ["reduce-scatter"] * 4
    assert kinds["no reshard"] == ["all-gather"] * 4 + ["reduce-scatter"] * 4


@pytest.mark.slow
def test_nothing_but_shards_is_held_between_steps(runs):
    numbers = sum(parameter.numel() for parameter in small_model().parameters())
    for way in SETTINGS:
        held = [run[way][4] for run in runs[4]]
        assert all(numbers * 8 / 4 <= size <= (numbers + 4 * 4) * 8 / 4 for size in held)


@pytest.mark.slow
def test_prefetching_starts_the_next_gather_before_the_unit_computes(runs):
    def firsts(way):
        return [f"{event.action} {event.unit}" for event in runs[2][0][way][2] if event.action != "freed"][:4]

    assert firsts("plain") == ["start gather 0", "gathered 0", "computed 0", "start gather 1"]
    assert firsts("prefetch") == ["start gather 0", "start gather 1", "gathered 0", "computed 0"]


@pytest.mark.slow
def test_the_picture_says_what_is_held_at_most(runs):
    events = {way: runs[4][0][way][2] for way in ("plain", "no reshard")}
    whole = sum(parameter.numel() * 8 for parameter in small_model().parameters())
    most = max(event.held for event in events["plain"])
    assert f"{most / whole:.0%} (plain)" in held_finding(events, whole)
    (axis,) = draw_held(events, whole).axes
    assert np.max(axis.lines[0].get_ydata()) == pytest.approx(most / 1e3)


@pytest.mark.slow
def test_shards_of_two_ranks_load_on_one_and_on_four(runs):
    saved = [run["plain"][3] for run in runs[2]]

    def load():
        sharded = FlatShards(small_model())
        sharded.load_state_dicts(saved)
        return list(sharded.full_parameters().values())

    for ranks in (1, 4):
        loaded = run_ranks(load, world_size=ranks)[0]
        assert all(torch.equal(ours, theirs) for ours, theirs in zip(loaded, runs[2][0]["plain"][0], strict=True))


def refusals():
    tied = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    tied[1].weight = tied[0].weight
    frozen = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    frozen[0].bias.requires_grad_(False)
    several = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3).double())
    said = []
    for model in (nn.Linear(3, 3), tied, frozen, several):
        try:
            FlatShards(model)
        except ValueError as error:
            said.append(str(error))
    unused = nn.Sequential(nn.ModuleDict({"a": nn.Linear(3, 3), "b": nn.Linear(3, 3)}))
    unused[0].forward = lambda x: unused[0]["a"](x)
    FlatShards(unused)
    unused(torch.ones(1, 3)).sum().backward()
    try:
        unused(torch.ones(1, 3))
    except RuntimeError as error:
        said.append(str(error))
    return said


def test_models_that_do_not_fit_are_refused():
    said = run_ranks(refusals, world_size=1)[0]
    pieces = ["itself holds parameters", "share a parameter", "frozen", "several types", "only some of its parameters"]
    assert len(said) == len(pieces)
    assert all(piece in text for piece, text in zip(pieces, said, strict=True))


def test_a_shard_keeps_nothing_else_alive_and_the_whole_comes_back():
    tensors = [torch.randn(3, 3), torch.randn(1)]
    shards = [own_shard(tensors, rank, 4) for rank in range(4)]
    assert [shard.untyped_storage().nbytes() for shard in shards] == [12] * 4
    assert torch.equal(torch.cat(shards), flatten(tensors, 4))
    back = unflatten(torch.cat(shards), [tensor.shape for tensor in tensors])
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(back, tensors, strict=True))


def test_shards_are_cut_again_for_any_number_of_ranks():
    for length in (1, 2, 7, 12):
        unit = torch.arange(1.0, length + 1)
        for old in range(1, 6):
            saved = [own_shard([unit], rank, old) for rank in range(old)]
            for new in range(1, 6):
                for rank in range(new):
                    ours = reshard(saved.__getitem__, old, length, rank, new)
                    assert torch.equal(ours, own_shard([unit], rank, new)), (length, old, new, rank)


def test_prefetching_one_unit_hides_a_gather_that_is_shorter_than_computing():
    without, one, three = (modeled_step(6, 4, 3, ahead) for ahead in (0, 1, 3))
    # Worked out by hand: 6·(3 + 4) forward, 6·(3 + 8) and waiting for five reduce-scatters of 3 backward, and the last.
    assert without.milliseconds == 6 * 7 + 6 * 11 + 5 * 3 + 3
    # The first gather of each pass shows, and the last reduce-scatter.
    assert one.milliseconds == three.milliseconds == 3 + 6 * 4 + 3 + 6 * 8 + 3
    assert [step.most_gathered for step in (without, one, three)] == [1, 2, 4]


def test_a_network_that_is_too_slow_sets_the_pace():
    for ahead in (1, 2, 3):
        assert modeled_step(12, 1, 20, ahead).milliseconds >= 3 * 12 * 20


@pytest.mark.parametrize(("units", "compute", "gather", "prefetch"), [(6, 4, 3, 1), (12, 1, 20, 3), (2, 10, 1, 2)])
def test_the_picture_of_prefetching_says_what_it_saves(units, compute, gather, prefetch):
    without, ahead = (modeled_step(units, compute, gather, count) for count in (0, prefetch))
    title = draw_prefetch(units, compute, gather, prefetch).get_suptitle()
    assert f"{without.milliseconds:.0f} ms become {ahead.milliseconds:.0f} ms" in title
    assert title in describe_prefetch(units, compute, gather, prefetch)
