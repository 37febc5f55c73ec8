"""Data parallelism by hand, every step against one process on the whole batch and against torch's own."""

import copy
import itertools

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from torchcourse.lessons.data_parallelism.data_parallel import (
    DistributedDataParallel,
    average_gradients,
    fill_buckets,
    global_mean_loss,
    largest_difference,
)
from torchcourse.ranks import run_ranks

CLOSE = 2e-5  # float32, several steps; a wrong factor gives 0.5


class Tied(nn.Module):
    """The first and the third layer share one weight; `spare` is used when the input says so, `never` not at all."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.middle, self.third = nn.Linear(16, 16), nn.Linear(16, 16, bias=False), nn.Linear(16, 16)
        self.third.weight = self.first.weight
        self.spare, self.never = nn.Linear(16, 4), nn.Linear(16, 4)
        self.last = nn.Linear(16, 4)

    def forward(self, x: torch.Tensor, spare: bool = False) -> torch.Tensor:
        x = self.third(torch.tanh(self.middle(torch.tanh(self.first(x)))))
        return self.last(x) + self.spare(x) if spare else self.last(x)


def plain() -> nn.Sequential:
    return nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 4))


def with_batchnorm() -> nn.Sequential:
    return nn.Sequential(nn.Linear(16, 32, bias=False), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 4))


def batch(step: int, size: int = 24) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(step)
    return torch.randn(size, 16, generator=generator), torch.randint(0, 4, (size,), generator=generator)


def shard(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.tensor_split(dist.get_world_size())[dist.get_rank()]


def start(make) -> tuple[nn.Module, nn.Module]:
    """Two models: one that stands for a single process, equal to rank 0's; and this rank's, from a seed of its own."""
    models = []
    for seed in (0, dist.get_rank()):
        torch.manual_seed(seed)
        models.append(make())
    return models[0], models[1]


def sgd(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)


def follow(make, wrap) -> list[float]:
    """Train one process and the ranks side by side; after each step, how far their parameters are apart."""
    reference, mine = start(make)
    mine = wrap(mine)
    apart = []
    optimizers = sgd(reference), sgd(mine)
    for step in range(4):
        x, y = batch(step)
        for optimizer in optimizers:
            optimizer.zero_grad()
        F.cross_entropy(reference(x), y).backward()
        F.cross_entropy(mine(shard(x)), shard(y)).backward()
        for optimizer in optimizers:
            optimizer.step()
        apart.append(largest_difference(mine.parameters(), reference.parameters()))
    return apart


class SameStartOnly(nn.Module):
    """Copies rank 0's parameters and then never communicates: what `follow` must notice."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module
        for parameter in module.parameters():
            dist.broadcast(parameter.detach(), 0)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.module(x)


def simplest() -> float:
    reference, mine = start(plain)
    mine.load_state_dict(reference.state_dict())
    x, y = batch(0)
    F.cross_entropy(reference(x), y).backward()
    F.cross_entropy(mine(shard(x)), shard(y)).backward()
    average_gradients(mine)
    return largest_difference(gradients(mine), gradients(reference))


def simplest_with_an_unused_parameter() -> list[bool]:
    model = Tied()
    rank = dist.get_rank()
    model(torch.ones(2, 16), spare=rank == 0).sum().backward()
    average_gradients(model)
    return [model.never.weight.grad.abs().sum().item() == 0, model.spare.bias.grad.tolist() == [2 / 2] * 4]


def gradients(model: nn.Module) -> list[torch.Tensor]:
    return [p.grad.clone() for p in model.parameters() if p.grad is not None]


def accumulation() -> dict:
    """Four micro-batches, three of them without communication, against one big batch."""
    reference, mine = start(plain)
    ours = DistributedDataParallel(mine)
    x, y = batch(0)
    F.cross_entropy(reference(x), y).backward()
    found: dict[str, float] = {}
    pieces = list(zip(shard(x).chunk(4), shard(y).chunk(4), strict=True))
    with ours.no_sync():
        for a, b in pieces[:-1]:
            (F.cross_entropy(ours(a), b) / 4).backward()
    local = mine[0].weight.grad.clone()
    everyones = [torch.empty_like(local) for _ in range(dist.get_world_size())]
    dist.all_gather(everyones, local)
    found["differ inside no_sync"] = not torch.equal(everyones[0], everyones[1])
    a, b = pieces[-1]
    (F.cross_entropy(ours(a), b) / 4).backward()
    found["apart"] = largest_difference(gradients(mine), gradients(reference))
    return found


def beside_torch(make, bucket_mb: float, **torch_options) -> dict:
    """Our wrapper and torch's on the same data: gradients, parameters and buffers after every step."""
    _, mine = start(make)
    theirs = nn.parallel.DistributedDataParallel(copy.deepcopy(mine), **torch_options)
    ours = DistributedDataParallel(mine, bucket_mb=bucket_mb)
    optimizers = sgd(ours), sgd(theirs)
    apart = 0.0
    for step in range(4):
        x, y = batch(step)
        for model, optimizer in zip((ours, theirs), optimizers, strict=True):
            optimizer.zero_grad()
            F.cross_entropy(model(shard(x)), shard(y)).backward()
        apart = max(apart, largest_difference(gradients(ours), gradients(theirs)))
        for optimizer in optimizers:
            optimizer.step()
        apart = max(apart, largest_difference(state(ours), state(theirs)))
    return {"apart": apart, "buckets": len(ours.buckets), "state": list(ours.state_dict()) == list(theirs.state_dict())}


def state(model: nn.Module) -> list[torch.Tensor]:
    return [tensor.double() for tensor in model.state_dict().values()]


def tied(bucket_mb: float) -> dict:
    """`spare` is used by rank 0 only, `never` by nobody: against one process, whose loss says the same."""
    reference, mine = start(Tied)
    ours = DistributedDataParallel(mine, bucket_mb=bucket_mb)
    optimizers = sgd(reference), sgd(ours)
    rank, world_size = dist.get_rank(), dist.get_world_size()
    apart = []
    for step in range(4):
        x, y = batch(step)
        for optimizer in optimizers:
            optimizer.zero_grad()
        ours_loss = F.cross_entropy(ours(shard(x), spare=rank == 0), shard(y))
        ours_loss.backward()
        whole = [
            F.cross_entropy(reference(part, spare=r == 0), labels) / world_size
            for r, (part, labels) in enumerate(zip(x.tensor_split(world_size), y.tensor_split(world_size), strict=True))
        ]
        sum(whole).backward()
        for optimizer in optimizers:
            optimizer.step()
        apart.append(largest_difference(mine.parameters(), reference.parameters()))
    return {"apart": max(apart), "never": mine.never.weight.grad is None, "buckets": len(ours.buckets)}


def uneven() -> dict:
    """Ten samples, six of them on rank 0 and none on the last of three: the mean loss is wrong, ours is right."""
    x, y = batch(0, size=10)
    bounds = {2: [0, 6, 10], 3: [0, 6, 10, 10]}[dist.get_world_size()]
    mine = slice(*bounds[dist.get_rank() :][:2])
    found = {}
    for name, loss_of in {
        "mean": lambda out, target: F.cross_entropy(out, target, reduction="sum") / max(len(target), 1),
        "global mean": lambda out, target: global_mean_loss(F.cross_entropy(out, target, reduction="none")),
    }.items():
        reference, model = start(plain)
        ours = DistributedDataParallel(model)
        F.cross_entropy(reference(x), y).backward()
        loss_of(ours(x[mine]), y[mine]).backward()
        found[name] = largest_difference(gradients(model), gradients(reference))
    return found


def launches_early() -> list[int]:
    """How many buckets were on their way when each layer's gradient was computed, from the last layer to the first."""
    model = nn.Sequential(*[nn.Linear(64, 64) for _ in range(4)])
    ours = DistributedDataParallel(model, bucket_mb=64 * 65 * 4 / 2**20)
    on_their_way = []
    for layer in reversed(model):
        layer.register_full_backward_hook(lambda *_: on_their_way.append(ours._launched))
    ours(torch.randn(8, 64, requires_grad=True)).sum().backward()
    return on_their_way


def evaluation_sends_nothing() -> bool:
    """Rank 0 alone evaluates: with buffers to copy, this would wait for the other ranks."""
    ours = DistributedDataParallel(with_batchnorm())
    if dist.get_rank() == 0:
        with torch.no_grad():
            ours(torch.randn(4, 16))
    return True


class Again(nn.Module):
    """A layer that is used twice under checkpointing, between layers that are used once."""

    def __init__(self, reentrant: bool, times: int = 2) -> None:
        super().__init__()
        self.first, self.middle, self.last = nn.Linear(16, 8), nn.Linear(8, 8), nn.Linear(8, 4)
        self.reentrant, self.times = reentrant, times

    def forward(self, x: torch.Tensor) -> dict[str, list[torch.Tensor]]:
        x = self.first(x)
        for _ in range(self.times):
            x = checkpoint(lambda z: torch.tanh(self.middle(z)), x, use_reentrant=self.reentrant)
        return {"scores": [self.last(x)]}


class Words(nn.Module):
    """A sparse table, of which rank 0 uses some rows only, beside one that only the last rank uses at all."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.spare = nn.Embedding(30, 8, sparse=True), nn.EmbeddingBag(30, 8, sparse=True)
        self.last = nn.Linear(8, 4)

    def forward(self, x: torch.Tensor, rank: int) -> torch.Tensor:
        words = (x.abs() * 9).long().clamp(max=5 if rank == 0 else 29)
        x = self.table(words).mean(1)
        return self.last(x + self.spare(words) if rank == dist.get_world_size() - 1 else x)


class ManyKinds(nn.Module):
    """Complex, half and double precision, a frozen weight, a different layout of memory, a buffer without numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.waves = nn.Parameter(torch.randn(16, 16, dtype=torch.complex64))
        self.short, self.long = nn.Linear(16, 16).half(), nn.Linear(16, 4).double()
        self.short.weight.requires_grad_(False)
        self.image = nn.Conv2d(4, 16, 2).to(memory_format=torch.channels_last)
        self.register_buffer("nothing", torch.empty(0))
        self.register_buffer("turned", torch.randn(2, 3).t())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.image((x.to(torch.complex64) @ self.waves).abs().view(-1, 4, 2, 2)).flatten(1)
        return self.long(self.short(x.half()).double())


def as_one_process(make, bucket_mb: float, with_rank: bool = False) -> float | str:
    """Two steps beside the mean of the ranks' losses in one process: how far apart, or the refusal."""
    reference, mine = start(make)
    ours = DistributedDataParallel(mine, bucket_mb=bucket_mb)
    optimizers = [torch.optim.SGD(model.parameters(), lr=0.1) for model in (reference, mine)]
    for step in range(2):
        for optimizer in optimizers:
            optimizer.zero_grad()
        for rank in range(dist.get_world_size()):
            (loss_of(reference, step, rank, with_rank) / dist.get_world_size()).backward()
        try:
            loss_of(ours, step, dist.get_rank(), with_rank).backward()
        except RuntimeError as error:
            return str(error)
        for optimizer in optimizers:
            optimizer.step()
    return largest_difference(map(real, mine.parameters()), map(real, reference.parameters()))


def loss_of(model: nn.Module, step: int, rank: int, with_rank: bool) -> torch.Tensor:
    """The loss of one rank's part of a batch."""
    x, y = (tensor.tensor_split(dist.get_world_size())[rank] for tensor in batch(step))
    scores = model(x, rank) if with_rank else model(x)
    return F.cross_entropy((scores["scores"][0] if isinstance(scores, dict) else scores).float(), y)


def real(tensor: torch.Tensor) -> torch.Tensor:
    return torch.view_as_real(tensor) if tensor.is_complex() else tensor


SMALL = 1e-5
ODD = {
    "once, re-entrant": (lambda: Again(True, times=1), SMALL),
    "twice, re-entrant, one bucket": (lambda: Again(True), 25.0),
    "twice, re-entrant": (lambda: Again(True), SMALL),
    "twice": (lambda: Again(False), SMALL),
    "sparse": (Words, 25.0, True),
    "many kinds, one bucket": (ManyKinds, 25.0),
    "many kinds": (ManyKinds, SMALL),
}


def after_an_error() -> dict:
    """A backward pass that ends in an error on all ranks, after some buckets have left; then a whole one."""
    reference, mine = start(plain)
    ours = DistributedDataParallel(mine, bucket_mb=SMALL)
    x, y = batch(0)

    def fail(_: torch.Tensor) -> None:
        raise ArithmeticError

    hook = mine[0].weight.register_hook(fail)
    with pytest.raises(ArithmeticError):
        F.cross_entropy(ours(shard(x)), shard(y)).backward()
    hook.remove()
    mine.zero_grad()
    loss = F.cross_entropy(ours(shard(x)), shard(y))
    loss.backward(retain_graph=True)
    torch.autograd.grad(loss, mine[0].weight)  # asks for no gradient to be kept: nothing to average
    F.cross_entropy(reference(x), y).backward()
    return {"apart": largest_difference(gradients(mine), gradients(reference))}


def simplest_sparse() -> float:
    reference, mine = start(Words)
    mine.load_state_dict(reference.state_dict())
    for rank in range(dist.get_world_size()):
        (loss_of(reference, 0, rank, True) / dist.get_world_size()).backward()
    loss_of(mine, 0, dist.get_rank(), True).backward()
    average_gradients(mine)
    return largest_difference(*([g.to_dense() for g in gradients(model)] for model in (mine, reference)))


def changed_after_wrapping() -> list[str]:
    messages = []
    model = plain()
    model[0].requires_grad_(False)
    ours = DistributedDataParallel(model)
    model[0].requires_grad_(True)
    with pytest.raises(RuntimeError) as error:
        ours(torch.ones(2, 16))
    messages.append(str(error.value))
    with pytest.raises(ValueError) as refusal:
        DistributedDataParallel(nn.Sequential(nn.LazyLinear(3)))
    return [*messages, str(refusal.value)]


def refusals() -> list[str]:
    messages = []
    frozen = plain().requires_grad_(False)
    for call in (
        lambda: DistributedDataParallel(frozen),
        lambda: DistributedDataParallel(plain(), bucket_mb=0),
        lambda: global_mean_loss(torch.ones(0)),
    ):
        with pytest.raises(ValueError) as error:
            call()
        messages.append(str(error.value))
    return messages


@pytest.fixture(scope="module", params=[2, 3])
def found(request: pytest.FixtureRequest) -> list[dict]:
    """Everything that needs ranks, measured in one call; a dictionary a rank."""

    def measure() -> dict:
        return {
            "world_size": dist.get_world_size(),
            "steps": follow(plain, DistributedDataParallel),
            "small buckets": follow(plain, lambda module: DistributedDataParallel(module, bucket_mb=1e-4)),
            "not averaged": follow(plain, SameStartOnly),
            "simplest": simplest(),
            "accumulation": accumulation(),
            "torch": beside_torch(plain, 25.0),
            "torch, batchnorm": beside_torch(with_batchnorm, 1e-3),
            "torch, unused": beside_torch(Tied, 25.0, find_unused_parameters=True),
            "tied": [tied(25.0), tied(1e-4)],
            "uneven": uneven(),
            "launches": launches_early(),
            "evaluation": evaluation_sends_nothing(),
            "refusals": refusals(),
            "odd": {name: as_one_process(*case) for name, case in ODD.items()},
            "after an error": after_an_error(),
            "simplest, sparse": simplest_sparse(),
            "changed": changed_after_wrapping(),
        }

    return run_ranks(measure, world_size=request.param)


@pytest.mark.slow
def test_every_step_equals_one_process(found: list[dict]) -> None:
    for rank in found:
        assert len(rank["steps"]) == 4
        assert max(rank["steps"]) < CLOSE
        assert max(rank["small buckets"]) < CLOSE


@pytest.mark.slow
def test_the_comparison_would_notice_ranks_that_do_not_average(found: list[dict]) -> None:
    assert all(rank["not averaged"][-1] > 100 * CLOSE for rank in found)


def test_one_all_reduce_a_parameter_gives_the_gradient_of_the_whole_batch(found: list[dict]) -> None:
    assert all(rank["simplest"] < CLOSE for rank in found)


def test_average_gradients_counts_a_missing_gradient_as_zeros() -> None:
    assert run_ranks(simplest_with_an_unused_parameter, world_size=2) == [[True, True]] * 2


def test_no_sync_accumulates_without_communication(found: list[dict]) -> None:
    for rank in found:
        assert rank["accumulation"]["differ inside no_sync"]
        assert rank["accumulation"]["apart"] < CLOSE


def test_same_gradients_parameters_buffers_and_names_as_torch(found: list[dict]) -> None:
    for rank in found:
        for case in ("torch", "torch, batchnorm", "torch, unused"):
            assert rank[case]["apart"] < CLOSE, case
            assert rank[case]["state"], case
        assert rank["torch, batchnorm"]["buckets"] > 1


def test_tied_weights_and_parameters_without_gradient(found: list[dict]) -> None:
    for rank in found:
        one_bucket, many_buckets = rank["tied"]
        assert one_bucket["apart"] < CLOSE
        assert many_buckets["apart"] < CLOSE
        assert one_bucket["never"]
        assert many_buckets["never"]
        assert one_bucket["buckets"] == 1
        assert many_buckets["buckets"] > 5


def test_uneven_inputs_need_the_global_mean(found: list[dict]) -> None:
    for rank in found:
        assert rank["uneven"]["mean"] > 0.01
        assert rank["uneven"]["global mean"] < CLOSE


def test_buckets_are_launched_while_backward_still_runs(found: list[dict]) -> None:
    for rank in found:
        assert rank["launches"][0] <= 1
        assert rank["launches"][-1] >= 2


@pytest.mark.parametrize("case", [name for name in ODD if name != "twice, re-entrant"])
def test_odd_layers_and_gradients_train_as_in_one_process(case: str, found: list[dict]) -> None:
    for rank in found:
        assert rank["odd"][case] < (1e-2 if "many kinds" in case else CLOSE)  # half precision adds in a different order


def test_a_gradient_that_grows_after_it_was_sent_is_refused(found: list[dict]) -> None:
    assert all("use_reentrant=False" in str(rank["odd"]["twice, re-entrant"]) for rank in found)


def test_a_backward_pass_after_one_that_failed_is_whole(found: list[dict]) -> None:
    assert all(rank["after an error"]["apart"] < CLOSE for rank in found)


def test_sparse_gradients_are_averaged_without_buckets_too(found: list[dict]) -> None:
    assert all(rank["simplest, sparse"] < CLOSE for rank in found)


def test_parameters_that_the_ranks_would_not_average_are_named(found: list[dict]) -> None:
    thawed, lazy = found[0]["changed"]
    assert thawed.startswith("0.weight needs a gradient now")
    assert lazy.startswith("0.weight is not made yet")


def test_evaluation_on_one_rank_does_not_hang(found: list[dict]) -> None:
    assert all(rank["evaluation"] for rank in found)


def test_refusals_say_what_is_wrong(found: list[dict]) -> None:
    frozen, bucket, nothing = found[0]["refusals"]
    assert "nothing to average" in frozen
    assert "bucket_mb must be a size above 0" in bucket
    assert "no samples on any rank" in nothing


def test_buckets_hold_every_parameter_once_from_the_last_to_the_first() -> None:
    model = nn.Sequential(*[nn.Linear(100, 100) for _ in range(5)])
    parameters = list(model.parameters())
    for bucket_mb, number in ((1e-6, 10), (0.04, 5), (0.1, 3), (25.0, 1)):
        buckets = fill_buckets(parameters, bucket_mb)
        assert len(buckets) == number
        inside = list(itertools.chain.from_iterable(bucket.parameters for bucket in buckets))
        assert all(a is b for a, b in zip(inside, reversed(parameters), strict=True))
        assert sum(bucket.bytes for bucket in buckets) == 5 * 10_100 * 4


def test_a_bucket_holds_one_data_type() -> None:
    mixed = [nn.Parameter(torch.zeros(3, dtype=dtype)) for dtype in (torch.float32, torch.float64, torch.float64)]
    assert [len(bucket.parameters) for bucket in fill_buckets(mixed, 25.0)] == [2, 1]


def test_outside_a_rank_the_message_says_what_to_do() -> None:
    for call in (average_gradients, DistributedDataParallel):
        with pytest.raises(RuntimeError, match="run_ranks"):
            call(plain())


def test_largest_difference_is_relative_and_looks_at_every_tensor() -> None:
    ones = [torch.ones(3), 10 * torch.ones(2)]
    assert largest_difference(ones, ones) == 0.0
    assert largest_difference([torch.ones(3), torch.tensor([10.0, 9.0])], ones) == pytest.approx(0.1)
    with pytest.raises(ValueError, match=r"Tensor 0 has shape \[2\] here and \[3\]"):
        largest_difference([torch.ones(2)], [torch.ones(3)])
    with pytest.raises(ValueError, match="zip"):
        largest_difference(ones, ones[:1])
