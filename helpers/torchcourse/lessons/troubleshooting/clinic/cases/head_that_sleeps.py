"""Patient: a parameter group chosen by a name that no layer has, so that the new head is in no group."""

import torch
import torch.nn.functional as F
from torch import nn

from torchcourse import figures
from torchcourse.checks import Wrong
from torchcourse.data import mnist
from torchcourse.lessons.troubleshooting.clinic.comparisons import called_with, expect_momentum, expect_optimizer
from torchcourse.lessons.troubleshooting.clinic.program import Program


def evidence(program: Program) -> None:
    torch.manual_seed(0)
    images, labels = mnist("train")[:200]
    model = program.Classifier()
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    optimizer = program.make_optimizer(model, 0.05)
    for _ in range(10):
        optimizer.zero_grad()
        F.cross_entropy(model(images), (labels >= 5).long()).backward()
        optimizer.step()
    moved = {
        name: ((parameter - before[name]).norm() / before[name].norm()).item()
        for name, parameter in model.named_parameters()
    }
    figure, axis = figures.new(height=2.6)
    axis.barh(list(moved), [100 * share for share in moved.values()])
    axis.invert_yaxis()
    axis.set(xlabel="change in 10 steps (% of the tensor's norm)")
    axis.set_title(f"{sum(share > 0 for share in moved.values())} of {len(moved)} tensors have moved after 10 steps")
    figures.show(
        figure, f"Change of each tensor in ten steps: { {name: f'{share:.1%}' for name, share in moved.items()} }."
    )


def judge(program: Program, seed: int) -> str:
    """Ask for the optimizer of three models whose new parts have other names, and look into its groups."""
    rate = 0.02 * (1 + seed % 4)
    torch.manual_seed(seed)
    for names in (["head"], ["neck", "head"], ["norm", "post_backbone"]):
        model = _model(names, 4 + seed % 3)
        with called_with(f"a model of the parts backbone, {', '.join(names)}"):
            optimizer = program.make_optimizer(model, rate)
        _judge_groups(model, optimizer, rate)
    return "Healed: in three models with new layers of other names, every parameter is in one group, at its own rate."


def _model(names: list[str], width: int) -> nn.Module:
    model = nn.Module()
    model.backbone = nn.Sequential(nn.Linear(5, width), nn.BatchNorm1d(width))
    for name in names:
        model.add_module(name, nn.LayerNorm(width) if name == "norm" else nn.Linear(width, width))
    return model


def _judge_groups(model: nn.Module, optimizer: torch.optim.Optimizer, rate: float) -> None:
    expect_optimizer(optimizer)
    frozen = [name for name, parameter in model.named_parameters() if not parameter.requires_grad]
    if frozen:
        raise Wrong(
            "froze",
            f"{frozen[0]} can learn no more. Frozen layers are a different training run than the one asked for.",
        )
    rate_of = {id(p): float(group["lr"]) for group in optimizer.param_groups for p in group["params"]}
    names = {name: id(parameter) for name, parameter in model.named_parameters()}
    new = [name for name in names if not name.startswith("backbone.")]
    missing = [name for name, key in names.items() if key not in rate_of]
    if missing == new:
        raise Wrong("still_there", f"{', '.join(missing)}: in no group of the optimizer, so they never move.")
    if missing:
        raise Wrong(
            "left_out",
            f"A model with the parts {', '.join(name for name, _ in model.named_children())}: {', '.join(missing)} "
            "in no group. The docstring says who learns at which rate. What if the next model has other names?",
        )
    for name, key in names.items():
        found, wanted = rate_of[key], rate if name in new else rate / 10
        if abs(found - wanted) > 1e-9:
            raise Wrong(
                "learning_rate",
                f"Asked for the rate {rate:g}, {name} gets {found:g} instead of {wanted:g}. The docstring says who "
                "learns at which.",
            )
    expect_momentum(optimizer)
