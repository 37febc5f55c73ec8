"""Patient: a parameter group chosen by a name that no layer has, so that the new head is in no group."""

import torch
import torch.nn.functional as F
from torch import nn

from torchcourse import figures
from torchcourse.data import mnist
from torchcourse.lessons.troubleshooting.clinic.case import Case, NotHealed
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
    for names in (["head"], ["neck", "head"], ["norm", "classifier"]):
        model = _model(names, 4 + seed % 3)
        _judge_groups(model, program.make_optimizer(model, rate), rate)
    return "Healed: in three models with new layers of other names, every parameter is in one group, at its own rate."


def _model(names: list[str], width: int) -> nn.Module:
    model = nn.Module()
    model.backbone = nn.Sequential(nn.Linear(5, width), nn.BatchNorm1d(width))
    for name in names:
        model.add_module(name, nn.LayerNorm(width) if name == "norm" else nn.Linear(width, width))
    return model


def _judge_groups(model: nn.Module, optimizer: torch.optim.Optimizer, rate: float) -> None:
    rates = {id(p): float(group["lr"]) for group in optimizer.param_groups for p in group["params"]}
    given = {name: rates.get(id(parameter)) for name, parameter in model.named_parameters()}
    new = [name for name in given if not name.startswith("backbone.")]
    old = [name for name in given if name.startswith("backbone.")]
    frozen = [name for name, parameter in model.named_parameters() if not parameter.requires_grad]
    if frozen:
        raise NotHealed(
            "froze", f"{frozen[0]} can learn no more. Frozen layers are another training than the one asked for."
        )
    if any(given[name] is None for name in old):
        raise NotHealed("backbone_left_out", "Now parameters of the backbone are in no group.")
    if all(given[name] is None for name in new):
        raise NotHealed("still_there", f"{', '.join(new)}: in no group of the optimizer, so they never move.")
    missing = [name for name in new if given[name] is None]
    if missing:
        raise NotHealed(
            "left_out",
            f"A model with the parts {', '.join(name for name, _ in model.named_children())}: {', '.join(missing)} "
            "in no group. The docstring says which parameters are new. What if the next model has other names?",
        )
    wanted = dict.fromkeys(old, rate / 10) | dict.fromkeys(new, rate)
    if len(set(given.values())) == 1:
        raise NotHealed("one_rate", "All parameters have the same learning rate. The backbone was to learn at a tenth.")
    wrong = [name for name in wanted if abs(given[name] - wanted[name]) > 1e-9]
    if wrong:
        raise NotHealed(
            "rate",
            f"Asked for the rate {rate:g}, {wrong[0]} gets {given[wrong[0]]:g} in place of {wanted[wrong[0]]:g}. A "
            "higher rate elsewhere does not stand in for a layer that does not learn.",
        )
    if not isinstance(optimizer, torch.optim.SGD) or any(group["momentum"] != 0.9 for group in optimizer.param_groups):
        raise NotHealed("other_optimizer", "The optimizer was SGD with momentum 0.9, and it was not at fault.")


CASE = Case(
    slug="head_that_sleeps",
    title="Fine-tuning that crawls",
    complaint=(
        "We put a new head on a pretrained network, with a tenth of the learning rate for the old part, as one "
        "does. It learns, but badly: a logistic regression on the same features is better. No error, no warning."
    ),
    parts=("make_optimizer",),
    hints=(
        "The model can do it, the data are fine. So look at what the optimizer was given.",
        "Take a few steps and compare each tensor of the model with what it was before.",
        "Print `len(group['params'])` for every group. Then compare the names in the model with those in the code.",
    ),
    diagnosis=(
        "A group was filled by a name that no layer has. PyTorch takes an empty group without a word. The backbone "
        "alone had to bend itself to the random head. Ask for the exception (what is the backbone?) and give the "
        "rest to the other group; then nothing can be left out. A cheap guard: the number of parameters in the "
        "groups equals that of the model."
    ),
    evidence=evidence,
    judge=judge,
)
