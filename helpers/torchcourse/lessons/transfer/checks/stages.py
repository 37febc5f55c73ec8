"""Check of lesson 07, notebook 2: unfreezing in stages on several ranks."""

from collections.abc import Callable
from functools import partial

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn

from torchcourse.checks import Wrong, check
from torchcourse.checks.kit import on_ranks
from torchcourse.ranks.who import ON_CPU


@check
def unfreeze_in_stages(learner: Callable[..., None]) -> str:
    """Run it on two ranks and compare the weights with each other and with one process on all the data."""
    (right, _, wanted, _), *_ = _runs(_one_process, _STAGES, 1)
    (ones, kept, calls, left), (others, _, _, _) = _runs(learner, _STAGES, 2)
    if not calls:
        raise Wrong("nothing_learned", "train_stage() was never called.")
    if torch.equal(ones["last.weight"], kept["last.weight"]):
        raise Wrong(
            "nothing_learned", "The model that you were given has its first weights still. Which one is trained?"
        )
    if apart := [name for name in ones if (ones[name] - others[name]).abs().max() > 1e-12]:
        alone = "last.weight" in apart  # it learns from the first stage on
        why = "Nobody averages the gradients" if alone else "Which gradients did DistributedDataParallel know about"
        end = ": each rank learns from its own half of the data." if alone else " when it was made?"
        raise Wrong("ranks_disagree", f"The two ranks end with different weights in {', '.join(apart)}. {why}{end}")
    if not torch.equal(ones["body.first.weight"], kept["body.first.weight"]):
        raise Wrong(
            "frozen_moved", "`body.first` is in no stage, but its weights have changed. What is it before stage 1?"
        )
    if torch.equal(ones["body.middle.weight"], kept["body.middle.weight"]):
        raise Wrong("stage_left_out", "`body.middle` has its first weights still, but it is in the second stage.")
    if calls == wanted[1:] * 2:
        raise Wrong("all_at_once", "`body.middle` learns from the first stage on. It should wait for the second.")
    if calls != wanted:
        raise Wrong("other_stages", f"The stages were {_said(_STAGES, calls)}")
    off = max((ones[name] - right[name]).abs().max().item() for name in ones)
    if off > 1e-9:
        raise Wrong(
            "not_one_process",
            f"The ranks agree with each other, but not with one process on all the data: "
            f"{off:.1e} apart. Are *gradients* averaged in every step?",
        )
    if left != (_STAGES, True):
        what = "The list of stages is different" if left[1] else "The model is in evaluation mode"
        raise Wrong("left_changed", f"{what} after the call. All but the weights should be as it was given.")
    _judge_more_stages(learner)
    return "Two stages on two ranks, then three: equal weights on both, and equal to one process on all the data."


def _judge_more_stages(learner: Callable[..., None]) -> None:
    (right, _, wanted, _), *_ = _runs(_one_process, _MORE_STAGES, 1)
    (ones, _, calls, _), _ = _runs(learner, _MORE_STAGES, 2)
    if calls != wanted or max((ones[name] - right[name]).abs().max().item() for name in ones) > 1e-9:
        raise Wrong("two_stages_only", f"Right for two stages. Then there were {_said(_MORE_STAGES, calls)}")


def _said(stages: list[str], calls: list[list[str]]) -> str:
    each = "; ".join(" and ".join(names) or "nothing" for names in calls)
    names = ", then ".join(f"`{name}`" for name in stages)
    return f"{names}. In your calls of train_stage() there learned, in turn: {each}."


Run = tuple[dict[str, torch.Tensor], dict[str, torch.Tensor], list[list[str]], tuple[list[str], bool]]
"""Of a rank: weights after and before, what learned in turn, and the stages and the mode as they were left."""


def _runs(way: Callable[..., None], stages: list[str], world_size: int) -> list[Run]:
    return on_ranks(partial(_in_stages, way, stages), world_size=world_size, env=ON_CPU)


def small_net() -> nn.Sequential:
    """A network for the check, in 64 bits: dense layers `first`, `middle` and `middle2` in its `body`, and `last`."""
    torch.manual_seed(3)
    net, body = nn.Sequential(), nn.Sequential()
    for name, inputs in (("first", 6), ("middle", 8), ("middle2", 8)):
        body.add_module(name, nn.Linear(inputs, 8))
        body.add_module(f"{name}_tanh", nn.Tanh())
    net.add_module("body", body)
    net.add_module("last", nn.Linear(8, 3))
    return net.double()


_LAYERS = ["last", "body.first", "body.middle", "body.middle2"]
_STAGES = ["last", "body.middle"]
_MORE_STAGES = ["body.middle2", "last", "body.middle"]


def _in_stages(way: Callable[..., None], given: list[str]) -> Run:
    """In a rank: train `small_net` in stages."""
    net, calls, stages = small_net(), [], list(given)
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}

    def train_stage(replica: nn.Module, steps: int = 3) -> None:
        calls.append(_learning(replica))
        _train_stage(replica, steps)

    way(net, stages, train_stage)
    return {name: tensor.clone() for name, tensor in net.state_dict().items()}, before, calls, (stages, net.training)


def _learning(replica: nn.Module) -> list[str]:
    """The layers of `small_net` that learn, or a part of one: a wrapper puts a name of its own in front of theirs."""
    found = []
    for layer in _LAYERS:
        parts = [n.rpartition(".")[2] for n, p in replica.named_parameters() if f"{layer}." in n and p.requires_grad]
        found += [layer] if len(parts) == 2 else [f"{layer}.{part}" for part in parts]
    return found


def _train_stage(replica: nn.Module, steps: int) -> None:
    """Take steps of SGD on this rank's half of 16 samples, on what is not frozen."""
    generator = torch.Generator().manual_seed(4)
    inputs, targets = torch.randn(16, 6, generator=generator, dtype=torch.float64), torch.arange(16) % 3
    mine = slice(dist.get_rank(), None, dist.get_world_size())
    optimizer = torch.optim.SGD([p for p in replica.parameters() if p.requires_grad], lr=0.3)
    for _ in range(steps):
        optimizer.zero_grad()
        F.cross_entropy(replica(inputs[mine]), targets[mine]).backward()
        optimizer.step()


def _one_process(net: nn.Module, stages: list[str], train_stage: Callable[[nn.Module], None]) -> None:
    net.requires_grad_(False)
    for name in stages:
        net.get_submodule(name).requires_grad_(True)
        train_stage(net)
