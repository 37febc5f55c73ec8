"""ZeRO by hand and FSDP2: step by step as DDP, with the memory that the formula says."""

import copy
import warnings
from functools import partial
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint

from torchcourse.lessons.data_parallelism.data_parallel import largest_difference
from torchcourse.lessons.data_parallelism.memory import RECIPES, measure_memory, zero_memory
from torchcourse.lessons.data_parallelism.sharding import (
    ShardedLayer,
    ShardedOptimizer,
    clip_grad_norm_,
    full_parameters,
    shard_parameters,
    shard_with_fsdp2,
)
from torchcourse.ranks import run_ranks

CLOSE = 2e-5
STAGES = ("stage 1", "stage 2", "stage 3", "FSDP2")


class Odd(nn.Module):
    """Parameters of its own beside children, sizes that no number of ranks divides, and a part that is empty."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.randn(16))
        self.norm = nn.BatchNorm1d(16)
        self.body = nn.Sequential(nn.Linear(16, 13), nn.Tanh(), nn.Linear(13, 7), nn.Tanh())
        self.head = nn.Linear(7, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(self.norm(x) * self.scale))


class OddAlone(Odd):
    """Without BatchNorm, whose statistics on N ranks are not those of one process."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(F.layer_norm(x, (16,)) * self.scale))


def even() -> nn.Module:
    return nn.Sequential(*[layer for _ in range(4) for layer in (nn.Linear(48, 48, bias=False), nn.Tanh())])


def prepare(stage: str, model: nn.Module, make_optimizer, options: dict) -> tuple[nn.Module, Any]:
    if stage in ("stage 1", "stage 2"):
        return model, ShardedOptimizer(model, make_optimizer, stage=int(stage[-1]), **options)
    wrap = {"DDP": DistributedDataParallel, "stage 3": shard_parameters, "FSDP2": shard_with_fsdp2}[stage]
    model = wrap(model)
    return model, make_optimizer(model.parameters(), **options)


def train(stage: str, model: nn.Module, make_optimizer, options: dict, width: int, accumulate: int = 1) -> dict:
    """Four steps on different data a rank; parameters after each, memory and bytes of the last."""
    model, optimizer = prepare(stage, model, make_optimizer, options)
    history, sent = [], 0
    for step in range(4):
        before = sent_so_far(model, optimizer)
        for piece in range(accumulate):
            generator = torch.Generator().manual_seed(1000 * step + 10 * piece + dist.get_rank())
            x, y = torch.randn(8, width, generator=generator), torch.randint(0, 2, (8,), generator=generator)
            F.cross_entropy(model(x), y).backward()
        optimizer.step()
        memory = measure_memory(model, optimizer)
        optimizer.zero_grad()
        history.append([tensor.clone() for tensor in full_parameters(model).values()])
        sent = sent_so_far(model, optimizer) - before
    return {"history": history, "memory": memory, "sent": sent}


def sent_so_far(model: nn.Module, optimizer) -> int:
    of_layers = sum(module.sent for module in model.modules() if isinstance(module, ShardedLayer))
    return getattr(optimizer, "sent", 0) + of_layers


def compare() -> dict:
    """In a rank: how far each stage is from DDP at any step."""
    found = {}
    torch.manual_seed(dist.get_rank())
    start = Odd()
    for optimizer, options in (
        (torch.optim.SGD, {"lr": 0.5, "momentum": 0.9}),
        (torch.optim.AdamW, {"lr": 1e-2, "weight_decay": 0.1}),
    ):
        ddp = train("DDP", copy.deepcopy(start), optimizer, options, 16)
        for stage in STAGES:
            ours = train(stage, copy.deepcopy(start), optimizer, options, 16)
            found[optimizer.__name__, stage] = max(
                largest_difference(mine, theirs) for mine, theirs in zip(ours["history"], ddp["history"], strict=True)
            )
    return found


def memory_and_traffic() -> dict:
    """In a rank: bytes held and sent by stage, for a model whose every parameter N divides."""
    found = {}
    for stage in ("DDP", *STAGES):
        result = train(stage, even(), torch.optim.Adam, {"lr": 1e-2}, 48)
        found[stage] = result["memory"], result["sent"]
    return found


def accumulation() -> dict:
    """Three backward passes before each step."""
    torch.manual_seed(0)
    start = even()
    arguments = (torch.optim.SGD, {"lr": 0.1}, 48, 3)
    ddp = train("DDP", copy.deepcopy(start), *arguments)
    return {
        stage: largest_difference(train(stage, copy.deepcopy(start), *arguments)["history"][-1], ddp["history"][-1])
        for stage in STAGES
    }


def between_the_passes(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Whether each parameter that stage 3 gathers is freed again: after the forward pass, and after backward."""
    gathered = []
    gather = ShardedLayer.gather

    def recorded(layer: ShardedLayer, name: str) -> torch.Tensor:
        full = gather(layer, name)
        gathered.append(StorageWeakRef(full.untyped_storage()))
        return full

    monkeypatch.setattr(ShardedLayer, "gather", recorded)
    output = shard_parameters(even())(torch.randn(8, 48))
    after_forward = [storage.expired() for storage in gathered]
    output.sum().backward()
    return [len(after_forward) == 4, all(after_forward), len(gathered) == 4 + 3, all(s.expired() for s in gathered)]


class Everything(nn.Module):
    """Attention that uses its child's weight itself, a recurrent layer, a sparse table, a frozen part, used twice."""

    def __init__(self, sparse: bool = False) -> None:
        super().__init__()
        self.table = nn.Embedding(20, 8, sparse=sparse)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.recurrent, self.again, self.last = nn.LSTM(8, 8, batch_first=True), nn.Linear(8, 8), nn.Linear(8, 2)
        self.again.bias.requires_grad_(False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        words = self.table((x.abs() * 6).long().clamp(max=19))
        x, _ = self.recurrent(self.attention(words, words, words)[0])
        for _ in range(2):
            x = checkpoint(lambda z: torch.tanh(self.again(z)), x, use_reentrant=True)
        return self.last(x).mean(1)


def one_process(make, world_size: int) -> tuple[list, list]:
    """Four steps in float64 on the data of all ranks, with clipping, groups and a schedule: states and norms."""
    torch.manual_seed(0)
    model = make().double()
    optimizer, scheduler = with_schedule(torch.optim.AdamW, groups_of(model))
    history, norms = [], []
    for step in range(4):
        optimizer.zero_grad()
        for rank in range(world_size):
            (loss_in_double(model, step, rank) / world_size).backward()
        norms.append(nn.utils.clip_grad_norm_(model.parameters(), 0.05).item())
        optimizer.step()
        scheduler.step()
        history.append([parameter.detach().clone() for parameter in model.parameters()])
    return history, norms


def groups_of(model: nn.Module) -> list[dict]:
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return [{"params": trained[:1], "lr": 1e-3}, {"params": trained[1:], "weight_decay": 0.2}]


def with_schedule(make_optimizer, *arguments, **options):
    optimizer = make_optimizer(*arguments, lr=1e-2, **options)
    return optimizer, torch.optim.lr_scheduler.OneCycleLR(optimizer, [1e-2, 2e-2], total_steps=8)


def loss_in_double(model: nn.Module, step: int, rank: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(100 * step + rank)
    x = torch.randn(6, 16, generator=generator, dtype=torch.float64)
    return F.cross_entropy(model(x), torch.randint(0, 2, (6,), generator=generator))


def sharded_with_torchs_interface(stage: int, make) -> dict:
    """The same in ranks; between steps 2 and 3 the optimizer is made again and loaded."""
    torch.manual_seed(dist.get_rank())
    model = make().double()
    if dist.get_rank() == 0:
        torch.manual_seed(0)
        model = make().double()

    def prepare() -> tuple:
        if stage == 3:
            return with_schedule(torch.optim.AdamW, groups_of(model))
        return with_schedule(
            lambda groups, **o: ShardedOptimizer(model, torch.optim.AdamW, stage, groups, **o), groups_of(model)
        )

    names = [name for name, _ in model.named_parameters()]
    if stage == 3:
        shard_parameters(model)
    optimizer, scheduler = prepare()
    history, norms = [], []
    for step in range(4):
        closure = partial(clipped_gradients, model, optimizer, stage, step, norms)
        assert optimizer.step(closure) > 0
        scheduler.step()
        history.append([tensor.clone() for tensor in full_parameters(model).values()])
        if step == 1 and stage < 3:
            states = optimizer.state_dict(), scheduler.state_dict()
            fresh = copy.deepcopy(make()).double()
            fresh.load_state_dict(model.state_dict())
            model = fresh
            optimizer, scheduler = prepare()
            optimizer.load_state_dict(states[0])
            scheduler.load_state_dict(states[1])
    same_names = list(full_parameters(model)) == names == [name for name, _ in model.named_parameters()]
    return {"history": history, "norms": norms, "names": same_names}


def clipped_gradients(model: nn.Module, optimizer, stage: int, step: int, norms: list) -> torch.Tensor:
    optimizer.zero_grad()
    loss = loss_in_double(model, step, dist.get_rank())
    loss.backward()
    clip = clip_grad_norm_(model.parameters(), 0.05) if stage == 3 else optimizer.clip_grad_norm_(0.05)
    norms.append(clip.item())
    return loss


def beside_one_process() -> dict:
    found = {}
    for make, made_for_ranks in {OddAlone: OddAlone, Everything: partial(Everything, sparse=True)}.items():
        history, norms = one_process(make, dist.get_world_size())
        for stage in (1, 2, 3):
            ours = sharded_with_torchs_interface(stage, made_for_ranks)
            apart = max(largest_difference(*pair) for pair in zip(ours["history"], history, strict=True))
            of_norms = max(abs(a - b) / b for a, b in zip(ours["norms"], norms, strict=True))
            found[make.__name__, stage] = apart, of_norms, ours["names"]
    return found


def in_the_way() -> dict[str, str]:
    """What would be silently wrong on ranks, and what is said instead."""
    x, said = torch.randn(4, 16), {}

    def prepared(stage: int, make_optimizer=torch.optim.SGD) -> tuple[nn.Module, ShardedOptimizer]:
        model = Odd()
        return model, ShardedOptimizer(model, make_optimizer, stage, lr=0.1)

    def norm_of_torch(stage: int) -> None:
        model, optimizer = prepared(stage)
        model(x).sum().backward()
        nn.utils.clip_grad_norm_(model.parameters(), 0.1)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            optimizer.step()

    def cleared_by_the_model() -> None:
        model, optimizer = prepared(2)
        model(x).sum().backward()
        optimizer.step()
        model.zero_grad()

    def scaled() -> None:
        model, optimizer = prepared(2)
        scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
        scaler.scale(model(x).sum()).backward()
        scaler.step(optimizer)

    def someone_elses_state() -> None:
        _, optimizer = prepared(1)
        state = optimizer.state_dict()
        state["share"]["rank"] += 1
        optimizer.load_state_dict(state)

    def a_whole_state() -> None:
        _, optimizer = prepared(1)
        optimizer.load_state_dict(torch.optim.SGD(Odd().parameters(), lr=0.1).state_dict())

    def turned() -> None:
        ShardedOptimizer(nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last), torch.optim.SGD, lr=0.1)

    def twice() -> None:
        shard_parameters(shard_parameters(Odd()))

    def thawed() -> None:
        model = Odd()
        model.head.requires_grad_(False)
        optimizer = ShardedOptimizer(model, torch.optim.SGD, 2, lr=0.1)
        model.head.requires_grad_(True)
        optimizer.add_param_group({"params": model.head.parameters(), "lr": 0.5})
        before = model.head.bias.detach().clone()
        model(x).sum().backward()
        optimizer.step()
        assert not torch.equal(before, model.head.bias)
        optimizer.add_param_group({"params": model.head.bias})

    def two_optimizers() -> None:
        model, optimizer = prepared(1)
        model(x).sum().backward()
        optimizer.step()
        copied = copy.deepcopy(model)
        copied.zero_grad()
        ShardedOptimizer(copied, torch.optim.SGD, lr=0.1)  # a copy is a model of its own
        ShardedOptimizer(model, torch.optim.SGD, lr=0.1)

    def evaluated() -> None:
        layer = nn.TransformerEncoderLayer(16, 2, 8, batch_first=True)
        sharded = shard_parameters(copy.deepcopy(layer)).eval()
        copied = layer.eval()
        copied.load_state_dict(full_parameters(sharded))
        with torch.no_grad():
            torch.testing.assert_close(sharded(x[:, None]), copied(x[:, None]))
        raise ValueError("the same")

    cases = {
        "a second optimizer": two_optimizers,
        "evaluated": evaluated,
        "nothing to train": lambda: ShardedOptimizer(nn.ReLU(), torch.optim.SGD, lr=0.1),
        "torch's clipping, stage 1": lambda: norm_of_torch(1),
        "torch's clipping, stage 2": lambda: norm_of_torch(2),
        "model.zero_grad": cleared_by_the_model,
        "GradScaler": scaled,
        "state of rank 1": someone_elses_state,
        "whole state": a_whole_state,
        "LBFGS": lambda: prepared(1, torch.optim.LBFGS),
        "not contiguous": turned,
        "sharded twice": twice,
        "group twice": thawed,
    }
    for name, case in cases.items():
        try:
            case()
        except (RuntimeError, ValueError, UserWarning) as error:
            said[name] = str(error)
    return said


SAID = {
    "a second optimizer": "make the model again",
    "evaluated": "the same",
    "nothing to train": "nothing to train",
    "torch's clipping, stage 1": "optimizer.clip_grad_norm_",
    "torch's clipping, stage 2": "optimizer.clip_grad_norm_",
    "model.zero_grad": "optimizer.zero_grad",
    "GradScaler": "bfloat16",
    "state of rank 1": "each its own",
    "whole state": "a whole model",
    "LBFGS": "SGD, Adam or AdamW",
    "not contiguous": "not contiguous",
    "sharded twice": "sharded already",
    "group twice": "in two groups",
}


def refusals() -> list[str]:
    messages = []
    tied = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    tied[1].weight = tied[0].weight
    for call in (lambda: shard_parameters(tied), lambda: ShardedOptimizer(tied, torch.optim.SGD, stage=3)):
        with pytest.raises(ValueError) as error:
            call()
        messages.append(str(error.value))
    return messages


@pytest.fixture(scope="module", params=[2, 3])
def found(request: pytest.FixtureRequest) -> list[dict]:
    def measure() -> dict:
        monkeypatch = pytest.MonkeyPatch()
        return {
            "apart": compare(),
            "memory": memory_and_traffic(),
            "accumulation": accumulation(),
            "freed": between_the_passes(monkeypatch),
            "refusals": refusals(),
            "one process": beside_one_process(),
            "said": in_the_way(),
        }

    return run_ranks(measure, world_size=request.param, timeout=100)


@pytest.mark.slow
def test_all_stages_take_the_steps_of_ddp(found: list[dict]) -> None:
    for rank in found:
        assert len(rank["apart"]) == 2 * 4
        wrong = {case: apart for case, apart in rank["apart"].items() if not apart < CLOSE}
        assert not wrong


@pytest.mark.slow
def test_accumulated_gradients_too(found: list[dict]) -> None:
    for rank in found:
        assert max(rank["accumulation"].values()) < CLOSE


@pytest.mark.slow
def test_measured_memory_is_the_formula(found: list[dict]) -> None:
    parameters, world_size = 4 * 48 * 48, len(found)
    for rank in found:
        for name, stage in {"DDP": 0, "stage 1": 1, "stage 2": 2, "stage 3": 3, "FSDP2": 3}.items():
            assert rank["memory"][name][0] == zero_memory(parameters, world_size, stage, "float32, Adam"), name


@pytest.mark.slow
def test_stage_3_frees_what_it_gathers(found: list[dict]) -> None:
    assert all(rank["freed"] == [True] * 4 for rank in found)


@pytest.mark.slow
def test_stages_1_and_2_send_as_much_as_ddp_and_stage_3_half_as_much_again(found: list[dict]) -> None:
    one_pass = 4 * 48 * 48 * 4 * (len(found) - 1) // len(found)  # a gather, or a reduce-scatter, of all parameters
    for rank in found:
        assert rank["memory"]["stage 1"][1] == 2 * one_pass
        assert rank["memory"]["stage 2"][1] == 2 * one_pass
        # The first layer's input needs no gradient, so its weight is not gathered for the backward pass. And the
        # comparison gathers once more.
        assert rank["memory"]["stage 3"][1] == 3 * one_pass - one_pass // 4 + one_pass


@pytest.mark.slow
def test_groups_schedule_clipping_closure_and_state_as_in_one_process(found: list[dict]) -> None:
    for rank in found:
        assert len(rank["one process"]) == 2 * 3
        for case, (apart, of_norms, names) in rank["one process"].items():
            assert apart < 1e-10, case
            assert of_norms < 1e-10, case
            assert names, case


@pytest.mark.slow
@pytest.mark.parametrize("case", SAID)
def test_what_would_be_silently_wrong_is_said(case: str, found: list[dict]) -> None:
    assert all(SAID[case] in rank["said"].get(case, "nothing") for rank in found)


@pytest.mark.slow
def test_refusals_say_what_is_wrong(found: list[dict]) -> None:
    tied, stage = found[0]["refusals"]
    assert "untie them" in tied
    assert "not 3" in stage


def test_formula_gives_the_table_of_the_paper() -> None:
    """Figure 1 of the ZeRO paper: 7.5 billion parameters on 64 ranks, in GB."""
    totals = [zero_memory(7.5e9, 64, stage).total / 1e9 for stage in range(4)]
    assert totals == pytest.approx([120, 31.4, 16.6, 1.9], abs=0.05)


def test_one_rank_saves_nothing() -> None:
    for recipe in RECIPES:
        assert len({zero_memory(1000, 1, stage, recipe) for stage in range(4)}) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [((1e9, 4, 4), "not 4"), ((1e9, 4, 1, "fp8"), "no recipe 'fp8'"), ((1e9, 0, 1), "at least 1 rank")],
)
def test_formula_refuses_what_does_not_exist(arguments: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        zero_memory(*arguments)


def test_outside_a_rank_the_message_says_what_to_do() -> None:
    for call in (shard_parameters, shard_with_fsdp2, lambda model: ShardedOptimizer(model, torch.optim.SGD)):
        with pytest.raises(RuntimeError, match="run_ranks"):
            call(even())
