"""Patient: the optimizer is built before the last layer is replaced, and goes on holding the old one."""

import torch
import torch.nn.functional as F
from torch import nn

from torchcourse import figures
from torchcourse.checks import Wrong
from torchcourse.checks.kit import copies, same
from torchcourse.data import mnist
from torchcourse.lessons.troubleshooting.clinic.comparisons import (
    called_with,
    expect_momentum,
    expect_optimizer,
    expect_pair,
)
from torchcourse.lessons.troubleshooting.clinic.program import Program
from torchcourse.units import counted


def evidence(program: Program) -> None:
    torch.manual_seed(0)
    images, digits = mnist("train")[:200]
    model, optimizer = program.prepare(program.load_pretrained(images, digits, steps=20), 3, 0.05)
    before = model[-1].weight.detach().clone()
    gradients, moved = [], []
    for _ in range(20):
        optimizer.zero_grad()
        F.cross_entropy(model(images), digits % 3).backward()
        optimizer.step()
        gradients.append(model[-1].weight.grad.norm().item())
        moved.append((model[-1].weight - before).norm().item())
    figure, axis = figures.new()
    axis.plot(range(1, 21), gradients, label="norm of its gradient")
    axis.plot(range(1, 21), moved, label="how far it has moved")
    axis.set(xlabel="step", ylabel="norm", xticks=range(1, 21, 3))
    axis.legend()
    finding = f"Last layer, 20 steps: gradient up to {max(gradients):.0f}, movement {max(moved):.1f}"
    axis.set_title(finding)
    figures.show(figure, f"Two curves over the steps. {finding}.")


def judge(program: Program, seed: int) -> str:
    """Prepare a small network and a deeper one for other numbers of classes; look at both and into the optimizer."""
    torch.manual_seed(seed)
    classes = 3 + seed % 4
    for deeper, number in ((0, classes), (1, 5)):
        _judge_network(program, deeper, number, seed)
    return f"Healed: the optimizer holds the new layer of {classes} classes, and the features stay frozen."


def _judge_network(program: Program, deeper: int, classes: int, seed: int) -> None:
    rate = 0.04 + 0.02 * (seed % 3)  # never that of the program
    features: list[nn.Module] = [nn.Flatten(), nn.Linear(9, 12), nn.ReLU(), *[nn.Linear(12, 12), nn.ReLU()] * deeper]
    last = nn.Linear(12, 10 + seed % 2)
    features_before, last_before = copies(nn.Sequential(*features).parameters()), last.weight.detach().clone()
    with called_with(f"a model of {len(features) + 1} layers, the last one {last}, and with {classes} classes"):
        given = program.prepare(nn.Sequential(*features, last), classes, rate)
    expect_pair(given, "model and optimizer")
    model, optimizer = given
    expect_optimizer(optimizer)
    _judge_model(model, last_before, classes, len(features) + 1)
    _judge_features(model, optimizer)
    _judge_optimizer(model, optimizer, rate)
    if not same(list(model[:-1].parameters()), features_before, tolerance=0.0):
        raise Wrong("features_changed", "The features have other weights. They were to stay as they came.")


def _judge_model(model: nn.Sequential, old_weight: torch.Tensor, classes: int, layers: int) -> None:
    if not isinstance(model, nn.Sequential):
        raise Wrong("wrong_type", f"The model was an nn.Sequential, and {type(model).__name__} comes back.")
    last = model[-1]
    if not isinstance(last, nn.Linear) or len(model) != layers or last.in_features != 12 or last.bias is None:
        raise Wrong(
            "other_layer",
            f"A model of {layers} layers came, the last one Linear with 12 inputs and a bias; it leaves with "
            f"{len(model)}, the last one {last}. Only the number of outputs was to change.",
        )
    old = " and weights of the old task" if any(torch.equal(a, b) for a in last.weight for b in old_weight) else ""
    if last.out_features != classes or old:
        raise Wrong(
            "old_layer",
            f"A task of {classes} classes needs a new last layer. Yours has {last.out_features} outputs{old}.",
        )
    if not all(parameter.requires_grad for parameter in last.parameters()):
        raise Wrong("head_frozen", "The new layer is frozen too: it has nothing to learn with.")


def _judge_features(model: nn.Sequential, optimizer: torch.optim.Optimizer) -> None:
    awake = {id(parameter) for parameter in model[:-1].parameters() if parameter.requires_grad}
    if not awake:
        return
    if awake & {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}:
        raise Wrong(
            "thawed",
            "Now the features can learn as well: they are not frozen, and the optimizer holds them. The loss moves "
            "again, but it is a different training run: the features were to stay.",
        )
    raise Wrong(
        "not_frozen",
        "The new layer learns, and this optimizer leaves the features alone. But they are not frozen: each backward "
        "pass computes gradients for them, and the next optimizer may move them. What does the docstring say of them?",
    )


def _judge_optimizer(model: nn.Sequential, optimizer: torch.optim.Optimizer, rate: float) -> None:
    held = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    ids = {id(parameter) for parameter in held}
    missing = [name for name, parameter in model[-1].named_parameters() if id(parameter) not in ids]
    if missing:
        raise Wrong(
            "still_there",
            f"The optimizer holds {counted(len(held), 'tensor')}, and of the new layer's these are not among them: "
            f"{', '.join(missing)}. Whatever it changes, it does not change them.",
        )
    if ids - {id(parameter) for parameter in model.parameters()}:
        raise Wrong(
            "stale",
            "The new layer learns. But the optimizer also holds tensors that belong to no model any more; they will "
            "be in every checkpoint. Can it be built so that they never get in?",
        )
    if any(abs(float(group["lr"]) - rate) > 1e-9 for group in optimizer.param_groups):
        raise Wrong("learning_rate", "The learning rate is not the one that was asked for. It was not the cause.")
    expect_momentum(optimizer)
