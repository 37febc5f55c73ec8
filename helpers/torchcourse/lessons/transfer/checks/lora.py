"""Checks of lesson 07, notebook 2: LoRA, forgetting, ranks with frozen parts. Each names the symptom of a mistake.

In the notebook's order: `forgetting` (in `measures`), `own_lora`, `merged`, `training_bytes`, `unfreeze_in_stages` (in
`stages`).
"""

import copy
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from torchcourse.checks import Wrong, check
from torchcourse.checks.kit import numbers, refuse_known, same, tensor_of
from torchcourse.lessons.transfer.checks.measures import forgetting
from torchcourse.lessons.transfer.checks.stages import unfreeze_in_stages
from torchcourse.lessons.transfer.finetune import freeze
from torchcourse.lessons.transfer.lora import LoRA, LoRALinear
from torchcourse.models import mlp

__all__ = ["forgetting", "merged", "own_lora", "training_bytes", "unfreeze_in_stages"]


@check
def own_lora(learner: Callable[[nn.Linear, int, float], nn.Module]) -> str:
    """Compare a layer with an adapter with the formula: at the start, after a step, and in what it trains."""
    torch.manual_seed(0)
    for inputs, outputs, rank, alpha, bias in (
        (6, 4, 2, 2.0, True),
        (5, 7, 3, 12.0, True),
        (4, 4, 1, 0.5, False),
        (9, 8, 6, 3.0, True),
    ):
        base, x = nn.Linear(inputs, outputs, bias=bias), torch.randn(3, 5, inputs)
        before, should = copy.deepcopy(base.state_dict()), base(x).detach()
        layer: Any = learner(base, rank, alpha)
        case = f"A layer from {inputs} to {outputs}, rank {rank}, alpha {alpha:g}"
        _judge_parts(layer, base, case, rank)
        out = layer(x)
        if any(not torch.equal(tensor, before[name]) for name, tensor in base.state_dict().items()):
            raise Wrong("base_changed", f"{case}: the old layer's own weights have changed.")
        tensor_of(out, should.shape, f"{case}: {list(x.shape)} goes in, {list(should.shape)} should come out.")
        if not torch.allclose(out, should, atol=1e-6):
            raise Wrong("not_at_start", f"{case}: before any training the outputs differ from the old layer's already.")
        _judge_gradients(layer, out, should, case)
        if (largest := max(layer.down.abs().max().item(), layer.up.abs().max().item())) < 1e-6:
            raise Wrong(
                "too_small",
                f"{case}: no number in `down` and `up` is larger than {largest:.0e}. Each one's gradient has the other "
                "as a factor: an adapter that begins so small hardly learns.",
            )
        if rank > 1 and torch.equal(layer.down, layer.down[:1].expand_as(layer.down)):
            _judge_equal_rows(layer.up, case)
        _judge_formula(layer, base, x, should, rank, alpha, case)
    _refuse_seeding(learner)
    return "Four layers: unchanged at first, then as the formula says, and only `down` and `up` learn."


@check
def merged(learner: Callable[[LoRALinear], nn.Linear]) -> str:
    """Compare the plain layer with the layer that has an adapter, which stays as it is."""
    torch.manual_seed(1)
    cases = [
        (6, 4, 2, 6.0, True, torch.float32),
        (5, 7, 3, 1.5, True, torch.float32),
        (4, 4, 1, 3.0, False, torch.float32),
        (3, 5, 2, 1.0, True, torch.float64),
    ]
    for inputs, outputs, rank, alpha, bias, kind in cases:
        base = nn.Linear(inputs, outputs, bias=bias)
        layer, x = LoRALinear(base, rank, alpha).to(kind), torch.randn(8, inputs, dtype=kind)
        nn.init.normal_(layer.up)
        learning = [parameter.requires_grad for parameter in layer.parameters()]
        state, should = copy.deepcopy(layer.state_dict()), layer(x).detach()
        plain = learner(layer)
        case = f"From {inputs} to {outputs}, rank {rank}, alpha {alpha:g}"
        if type(plain) is not nn.Linear:
            raise Wrong("not_linear", f"{case}: a plain nn.Linear should come back, and you return {_kind(plain)}.")
        if (plain.in_features, plain.out_features) != (inputs, outputs) or plain.weight.shape != (outputs, inputs):
            raise Wrong(
                "sizes", f"{case}: your new layer says of itself {plain}, with a weight {list(plain.weight.shape)}."
            )
        _refuse_changes(layer, state, learning, case)
        if not torch.equal(layer(x), should):
            raise Wrong("layer_changed", f"{case}: the layer with the adapter computes other values than before.")
        _judge_plain(plain, layer.base, case)
        if layer.base.bias is None and plain.bias is not None and plain.bias.any():
            raise Wrong(
                "extra_bias", f"{case}: the base has no bias. Yours has one, with numbers in it that are not 0."
            )
        first = copy.deepcopy(plain.state_dict())
        if not same(learner(layer).state_dict(), dict(first), tolerance=0):
            question = "Is something left of the first, or left as it was drawn?"
            raise Wrong("remembered", f"{case}: a second call gives other weights. {question}")
        # By its parameters: what is saved and moved are these, whatever its `forward` does.
        out = F.linear(x, plain.weight, plain.bias).detach()
        if torch.allclose(out, should, atol=1e-5):
            continue
        if torch.allclose(plain(x), should, atol=1e-5):
            raise Wrong("forward_replaced", f"{case}: the outputs are right, and weight and bias are not those of it.")
        added, bias_of_it = x @ (layer.up @ layer.down).detach().T, base.bias if bias else torch.zeros(())
        known = {
            "no_adapter": (layer.base(x), "that is the old layer. What the adapter learned is missing."),
            "no_scale": (
                layer.base(x) + added,
                f"the adapter counts once, but this one counts {layer.scale:g} times.",
            ),
            "no_bias": (should - bias_of_it, "every output is off by the same amount for all inputs: the bias."),
            "no_base": (layer.scale * added + bias_of_it, "that is what the adapter adds. The old weight is missing."),
        }
        refuse_known(out, known, tolerance=1e-4, where=f"{case}: ")
        raise Wrong("wrong_value", f"{case}: the outputs differ by up to {(out - should).abs().max():.2g}.")
    return f"{len(cases)} layers: one plain nn.Linear each, equal to rounding, and the adapter can still be taken off."


@check
def training_bytes(learner: Callable[[nn.Module], tuple[int, int]]) -> str:
    """Compare with bytes counted from real gradients and a real optimizer's state."""
    torch.manual_seed(2)
    half, tied, thin = mlp(6, 5, 3), mlp(4, 4, 4), mlp(9, 7, 2).to(torch.bfloat16)
    freeze(half, "1")
    part, still = mlp(5, 4, 3), mlp(5, 3).requires_grad_(False)
    part[1].bias.requires_grad_(False)
    mixed = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 3).to(torch.bfloat16))
    normed = nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4))
    tied[3].weight = tied[1].weight
    adapted = nn.Sequential(LoRALinear(nn.Linear(20, 30), rank=2), nn.Linear(30, 3))
    models = {"all of it trained": mlp(8, 4), "the first layer frozen": half, "an adapter beside a layer": adapted}
    models |= {
        "numbers in bfloat16": thin,
        "numbers of two types": mixed,
        "one weight used in two layers": tied,
        "one bias frozen": part,
    }
    models |= {"running statistics": normed, "all of it frozen": still}
    for name, model in models.items():
        right, learning = _counted(model), [parameter.requires_grad for parameter in model.parameters()]
        got = learner(model)
        if [parameter.requires_grad for parameter in model.parameters()] != learning:
            raise Wrong(
                "model_changed", f"A model with {name}: your function changes what is frozen. It should only count."
            )
        if any(parameter.grad is not None for parameter in model.parameters()):
            raise Wrong(
                "gradients_made",
                f"A model with {name}: it has gradients now. That takes the memory which is only to be counted.",
            )
        if not isinstance(got, tuple | list) or len(got) != 2 or numbers(got) is None:
            raise Wrong("wrong_type", f"Return a pair, bytes of all weights and bytes that training adds. Not {got!r}.")
        if tuple(got) != right:
            _judge_bytes(model, tuple(got), right, name)
    return f"{len(models)} models: as many bytes as their real gradients and AdamW's real state take."


def _kind(thing: object) -> str:
    return f"a {type(thing).__name__}"


def _judge_gradients(layer: Any, out: torch.Tensor, should: torch.Tensor, case: str) -> None:
    parts = (layer.down, layer.up)
    if not out.requires_grad:
        raise Wrong(
            "no_graph",
            f"{case}: no gradient can flow from the output back to `down` and `up`. Is a part computed without a "
            "graph, or once and for all in `__init__`?",
        )
    F.mse_loss(out, should + 1).backward()
    if any(part.grad is not None and part.grad.abs().max() > 0 for part in parts):
        return
    text = f"{case}: the gradients of `down` and `up` are both zero or missing."
    if not any(part.detach().abs().max() > 0 for part in parts):
        text += " In a product, each one's gradient has the other as a factor, and both are zero."
    else:
        text += " What is between them and the output? A factor of 0 is enough."
    raise Wrong("never_learns", text)


def _refuse_seeding(learner: Callable[[nn.Linear, int, float], nn.Module]) -> None:
    states = []
    for seed in (1, 2):
        base = nn.Linear(4, 4)
        torch.manual_seed(seed)
        learner(base, 2, 1.0)
        states.append(torch.get_rng_state())
    if torch.equal(*states):
        raise Wrong(
            "global_seed",
            "Making your layer seeds PyTorch's own random numbers: the adapters of all layers would begin alike, and "
            "dropout would draw the same after each. Draw, and leave the seed to the program.",
        )


def _judge_equal_rows(up: torch.Tensor, case: str) -> None:
    if same(up, up[:, :1].expand_as(up)):
        raise Wrong(
            "equal_rows",
            f"{case}: all rows of `down` are equal, and so are the columns of `up`. Each gets the same gradient in "
            "each step, so they stay equal, and the adapter has rank 1. Start one of the two at random.",
        )


def _refuse_changes(layer: LoRALinear, state: dict[str, torch.Tensor], learning: list[bool], case: str) -> None:
    changed = [name for name, tensor in layer.state_dict().items() if not torch.equal(tensor, state[name])]
    if any(name.startswith("base") for name in changed):
        raise Wrong("in_place", f"{case}: the old weight has changed, so the adapter can never be taken off again.")
    if changed or [parameter.requires_grad for parameter in layer.parameters()] != learning:
        what = f"its {changed[0]}" if changed else "which of its parameters learn"
        raise Wrong("layer_changed", f"{case}: the layer with the adapter is not as it was: {what} has changed.")


def _judge_plain(plain: nn.Linear, base: nn.Linear, case: str) -> None:
    if "weight" not in dict(plain.named_parameters()):
        raise Wrong(
            "no_parameters",
            f"{case}: the weight of your layer is a plain tensor. What is saved, and moved to a device, are the "
            "parameters.",
        )
    if plain.weight.dtype != base.weight.dtype:
        raise Wrong("dtype", f"{case}: the old weight is {base.weight.dtype}, and yours is {plain.weight.dtype}.")
    ours = {tensor.data_ptr() for tensor in base.parameters()}
    if shared := [name for name, tensor in plain.named_parameters() if tensor.data_ptr() in ours]:
        raise Wrong(
            "shared", f"{case}: the {shared[0]} of your layer is the base's own tensor. Who changes one, changes both."
        )


def _judge_parts(layer: object, base: nn.Linear, case: str, rank: int) -> None:
    if not isinstance(layer, nn.Module):
        raise Wrong("no_module", f"{case}: the layer should be an nn.Module, and is {_kind(layer)}.")
    if any(isinstance(module, LoRA) for module in layer.modules()):
        raise Wrong("library_call", f"{case}: the package's LoRA layer does the work. Write these few lines yourself.")
    inputs, outputs = base.in_features, base.out_features
    for name, shape in (("down", [rank, inputs]), ("up", [outputs, rank])):
        part = getattr(layer, name, None)
        if not isinstance(part, torch.Tensor) or list(part.shape) != shape:
            has = f"has {list(part.shape)}" if isinstance(part, torch.Tensor) else f"is {_kind(part)}"
            if not hasattr(layer, name):
                has = "there is none of that name"
            raise Wrong("shape", f"{case}: `{name}` should have the shape {shape}, and {has}.")
        if name not in dict(layer.named_parameters()):
            raise Wrong(
                "no_parameters",
                f"{case}: no optimizer will find `{name}`. What makes a tensor a parameter of your layer?",
            )
    learning = {name for name, parameter in layer.named_parameters() if parameter.requires_grad}
    if learning != {"down", "up"}:
        would = ", ".join(sorted(learning)) or "nothing"
        raise Wrong("not_frozen", f"{case}: trained would be {would}. It should be `down` and `up`, and nothing else.")
    if not any(isinstance(kept, torch.Tensor) and same(kept, base.weight) for kept in layer.state_dict().values()):
        raise Wrong(
            "base_not_kept",
            f"{case}: the old layer's weight is not in your layer's state_dict(). Moving it to a GPU and saving it "
            "would leave that weight behind. What makes a layer part of a module?",
        )


@torch.enable_grad()
def _judge_input_gradient(layer: Any, x: torch.Tensor, weight: torch.Tensor, case: str) -> None:
    """Ask for the gradient of the layer's input: what stands before this layer learns from it."""
    x = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(layer(x).sum(), x, allow_unused=True, materialize_grads=True)
    if not torch.allclose(gradient, weight.sum(0).expand_as(x), atol=1e-3):
        raise Wrong(
            "input_gradient",
            f"{case}: the outputs are right, and the gradient of the input is not: layers before this one would learn "
            "from a wrong one. Is a part computed without a graph? What is frozen still passes gradients on.",
        )


def _judge_formula(
    layer: Any, base: nn.Linear, x: torch.Tensor, start: torch.Tensor, rank: int, alpha: float, case: str
) -> None:
    with torch.no_grad():
        for part in (layer.down, layer.up):
            part.copy_(torch.randn_like(part))
        out, added = layer(x), x @ layer.down.T @ layer.up.T
        if torch.allclose(out, start + alpha / rank * added, atol=1e-4):
            _judge_input_gradient(layer, x, base.weight + alpha / rank * layer.up @ layer.down, case)
            return
        known = {
            "no_scale": (start + added, "the adapter counts once. What are alpha and rank for?"),
            "alpha_only": (
                start + alpha * added,
                f"the adapter counts {alpha:g} times. Twice the rank would count twice as much.",
            ),
            "scale_inverted": (start + rank / alpha * added, "a larger alpha makes your adapter count less."),
            "adapter_ignored": (start, "whatever `down` and `up` are, the output is the old layer's."),
            "no_base": (alpha / rank * added, "that is the adapter alone. It should work *beside* the old layer."),
        }
        refuse_known(out, known, tolerance=1e-4, where=f"{case}: ")
        off = (out - start - alpha / rank * added).abs().max()
        raise Wrong("wrong_value", f"{case}: with other numbers in `down` and `up` the outputs are off by {off:.2g}.")


def _counted(model: nn.Module) -> tuple[int, int]:
    """Bytes of weights, and of real gradients and AdamW's real state after a step; its step counters left out."""
    model = copy.deepcopy(model)
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in learning:
        parameter.grad = torch.ones_like(parameter)
    states: list[torch.Tensor] = []
    if learning:
        optimizer = torch.optim.AdamW(learning)
        optimizer.step()
        states = [tensor for state in optimizer.state.values() for tensor in state.values() if tensor.dim() > 0]
    gradients = [p.grad for p in learning if p.grad is not None]
    added = sum(tensor.nbytes for tensor in [*gradients, *states])
    return sum(parameter.nbytes for parameter in model.parameters()), added


def _judge_bytes(model: nn.Module, got: tuple, right: tuple[int, int], name: str) -> None:
    text = f"A model with {name}: you say {got}. "
    if got == tuple(reversed(right)):
        raise Wrong("swapped", f"{text}The two numbers are right, and in the opposite order.")
    parameters = list(model.parameters())
    learning = sum(p.nbytes for p in parameters if p.requires_grad)
    numbers = sum(p.numel() for p in parameters)
    twice = sum(p.nbytes for _, p in model.named_parameters(remove_duplicate=False))
    weights = {
        "not_bytes": (numbers, "These are numbers, and a number has more than one byte."),
        "four_bytes": (4 * numbers, "Not every number has four bytes."),
        "frozen_left_out": (learning, "Frozen weights are in memory, too: the forward pass needs them."),
        "buffers_counted": (
            right[0] + sum(buffer.nbytes for buffer in model.buffers()),
            "Running statistics are no weights: no gradient changes them.",
        ),
        "counted_twice": (twice, "A weight that two layers share is in memory once."),
    }
    added = {
        "frozen_counted": (3 * right[0], "What is frozen gets no gradient and no optimizer state."),
        "no_optimizer": (learning, "The second number: AdamW keeps something of its own for each weight it trains."),
        "one_moment": (
            2 * learning,
            "The second number: AdamW keeps two numbers for each weight, and backward() leaves one.",
        ),
        "weights_again": (4 * learning, "The second number: the weights themselves are in the first number already."),
    }
    place, known = (0, weights) if got[0] != right[0] else (1, added)
    refuse_known(got[place], {key: mistake for key, mistake in known.items() if mistake[0] != right[place]}, where=text)
    raise Wrong(
        "wrong_value", f"{text}In memory there are {right[0]} bytes of weights. What does each step add, and where?"
    )
