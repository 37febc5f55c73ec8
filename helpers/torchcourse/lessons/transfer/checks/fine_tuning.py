"""Checks of lesson 07's first notebook: features, freezing, rates, scaling, and when the cheap way wins.

In the notebook's order: `features`, `freeze_body` (in `freezing`), `two_rates`, `prepare`, `choose` (in `choosing`).
"""

import copy
import math
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from torchcourse.checks import Wrong, check
from torchcourse.checks.kit import AnyOf, number, refuse_known, result_of, same, tensor_of
from torchcourse.data.datasets import DIGITS_MEAN, DIGITS_STD, MNIST_MEAN, MNIST_STD
from torchcourse.error_bars import paired
from torchcourse.lessons.transfer.backbones import MNIST_SCALING, Backbone, Classifier, Scaling, mnist_cnn
from torchcourse.lessons.transfer.checks.choosing import choose
from torchcourse.lessons.transfer.checks.freezing import freeze_body, other_backbone
from torchcourse.lessons.transfer.features import extract
from torchcourse.lessons.transfer.few_labels import LABELS, WHITE, accuracy, digit_pixels, pick, results
from torchcourse.units import counted

__all__ = ["choose", "features", "freeze_body", "prepare", "two_rates"]

SEEDS = 4


@check
def features(learner: Callable[[Backbone, torch.Tensor, float], torch.Tensor]) -> str:
    """Compare with the features of a network in evaluation mode, for digits, pictures from 0 to 1, and dark ones.

    A last backbone has a scaling of its own, and comes in evaluation mode.
    """
    digits = digit_pixels("test")[0][:30]
    for pixels, top, scaling in (
        (digits, WHITE, MNIST_SCALING),
        (digits / WHITE, 1, MNIST_SCALING),
        (digits * 0.6, WHITE, MNIST_SCALING),
        (digits, WHITE, _OTHER_SCALING),
    ):
        body = other_backbone().train(scaling is MNIST_SCALING)
        body.scaling = scaling
        twin, before, traits = copy.deepcopy(body).eval(), copy.deepcopy(body.state_dict()), _traits(body)
        out = result_of(partial(learner, body), pixels, top, what="the pixels")
        tensor_of(out, (30, 64), "30 pictures have features of the shape [30, 64].", pixels.dtype)
        _must_be_kept(body, before)
        if out.is_inference():
            raise Wrong(
                "inference",
                "These are inference tensors: right numbers, but a head cannot be trained on them. There "
                "is another way to do without a graph.",
            )
        _judge_features(out, twin, pixels, top)
        if out.requires_grad:
            raise Wrong(
                "graph",
                "Your features ask for gradients, of the whole backbone or of their own: each step of a head's "
                "training would pay for these, and nobody needs them.",
            )
        if other := sorted(traits.items() ^ _traits(body).items()):
            raise Wrong(
                "backbone_changed",
                f"The features are right, but the backbone is not as it was: `{other[0][0]}` is different, for whoever "
                "uses it next. Its mode may change, and nothing else.",
            )
        if scaling is _OTHER_SCALING and any(module.training for module in body.modules()):
            raise Wrong(
                "left_in_training_mode",
                "A backbone was in evaluation mode when you got it, and now it is in training mode: the next pictures "
                "that somebody sends through it change its statistics.",
            )
    return "The features of the pictures alone: no graph, no trace in the backbone, and the scaling of its training."


@check
def two_rates(learner: Callable[[nn.Module, float, float], list[dict]]) -> str:
    """Look at the groups, then fine-tune with them on one label per digit, and compare with training from scratch."""
    for frozen, body_rate, head_rate in (
        ((), 1e-3, 1e-2),
        (("body.conv1.weight", "body.norm1.weight", "body.norm1.bias"), 2e-4, 5e-3),
        (("head.bias",), 1e-3, 1e-2),
    ):
        model = Classifier(other_backbone(), num_classes=10)
        model.body.add_module("conv_head", nn.Linear(8, 8))  # EfficientNet calls the last layer of its body so
        for name in frozen:
            model.get_parameter(name).requires_grad_(False)
        before = copy.deepcopy(model)
        groups = learner(model, body_rate, head_rate)
        _must_only_be_read(model, before)
        _judge_groups(groups, model, body_rate, head_rate)
    pixels, labels = digit_pixels()
    inputs, tests = MNIST_SCALING(pixels, WHITE), digit_pixels("test")
    test_inputs = MNIST_SCALING(tests[0], WHITE)
    tuned, scratch = [], results().accuracy["scratch"][LABELS.index(1), :SEEDS]
    for seed in range(SEEDS):
        chosen = pick(labels, 1, seed)
        model = Classifier(mnist_cnn(), num_classes=10).train()
        optimizer = torch.optim.AdamW(learner(model, 1e-3, 1e-2), weight_decay=1e-2)
        for _ in range(10):
            optimizer.zero_grad()
            F.cross_entropy(model(inputs[chosen]), labels[chosen]).backward()
            optimizer.step()
        tuned.append(accuracy(model, test_inputs, tests[1]))
    gain = paired(tuned, scratch)
    if not gain.clear or gain.mean < 0.05:
        raise Wrong("no_gain", f"With your groups, fine-tuning beats scratch by {gain} only. Which parameters learn?")
    return (
        f"Every parameter once, at its rate. With one label per digit, fine-tuning beats scratch by {gain} "
        f"(mean of {SEEDS} paired seeds ± standard error): {np.mean(tuned):.3f} against {np.mean(scratch):.3f}."
    )


@check
def prepare(learner: Callable[[torch.Tensor], torch.Tensor]) -> str:
    """Compare with the scaling that the network was trained with, on light, dark, many and few digits."""
    pixels = digit_pixels("test")[0]
    for part in (pixels[:40], pixels[40:41], pixels[:20] // 2):
        right = MNIST_SCALING(part, WHITE)
        out = result_of(learner, part, what="the digits")
        out = tensor_of(out, right.shape, f"The network takes pictures of the shape {list(right.shape)}.", right.dtype)
        _judge_scaling(out, right, part)
    return "As in training: black is −0.42 and white 2.82, for any number of pictures, light or dark."


def _must_be_kept(body: Backbone, before: dict[str, torch.Tensor]) -> None:
    changed = {name for name, tensor in body.state_dict().items() if not torch.equal(tensor, before[name])}
    if weights := sorted(changed & {name for name, _ in body.named_parameters()}):
        raise Wrong("weights_changed", f"{weights[0]} of the backbone is different after the call. It is not yours.")
    if changed:
        raise Wrong(
            "statistics",
            "The backbone was in training mode when you got it, and looking at pictures has changed "
            "it: its BatchNorm layers took their mean and variance in. Which mode does not do that?",
        )
    if any(not parameter.requires_grad for parameter in body.parameters()):
        raise Wrong(
            "frozen_for_ever",
            "The backbone's parameters got gradients before, and now they do not: whoever fine-tunes it later "
            "trains nothing. You can do without a graph for one computation, and leave the parameters alone.",
        )


def _traits(body: nn.Module) -> dict[str, str]:
    """What a backbone is beside its weights and its mode: hooks, methods of its own, settings of each layer."""
    return (
        {
            f"{name}.{key}".lstrip("."): repr(value)
            for name, module in body.named_modules()
            for key, value in vars(module).items()
            if key not in ("training", "_parameters", "_buffers", "_modules")
        }
        | {f"{name}.grad": "none" if parameter.grad is None else "some" for name, parameter in body.named_parameters()}
        | {f"type of {name or 'the backbone'}": str(type(module)) for name, module in body.named_modules()}
    )


_OTHER_SCALING = Scaling((0.5,), (0.5,), channels=1, side=28)


def _judge_features(out: torch.Tensor, body: Backbone, pixels: torch.Tensor, top: float) -> None:
    scaled = body.scaling(pixels, top)
    right = extract(body, scaled)
    if torch.allclose(out, right, atol=1e-4):
        return
    resized = F.interpolate(pixels, size=(28, 28), mode="bilinear")
    others = (
        resized,
        resized / top,
        resized / 255,
        (resized / 255 - MNIST_MEAN) / MNIST_STD,
        MNIST_SCALING(pixels, top),
    )
    by_lightest = extract(body, body.scaling(pixels, pixels.max().item()))
    with torch.no_grad():
        by_batch = copy.deepcopy(body).train()(scaled)
    known = {
        "loaded_anew": (
            extract(mnist_cnn(), scaled),
            "These are features of `mnist_cnn()` as it is loaded. You were given a backbone, with weights of its own.",
        ),
        "scaling": (
            _unlike(right, [extract(body, other) for other in others]),
            f"These are features of pixels in a scaling that this network never saw. White is {top:g} here. What did "
            "the backbone bring along for that?",
        ),
        "white_measured": (
            _unlike(right, [by_lightest]),
            f"You take the lightest pixel, {pixels.max():.3g}, for white. White is {top:g} here, and these pictures "
            "are dark. And then a picture's features depend on the others.",
        ),
        "training_mode": (by_batch, "One picture's features depend on the others: the network is in training mode."),
    }
    refuse_known(out, known, tolerance=1e-3)
    if not out.isfinite().all():
        raise Wrong(
            "not_finite",
            "Some of your features are NaN or infinite, and the backbone's own are not. Where do you divide by 0?",
        )
    raise Wrong(
        "wrong_value", f"The features differ by up to {(out - right).abs().max():.2g} from those in evaluation mode."
    )


def _unlike(right: torch.Tensor, others: Iterable[torch.Tensor]) -> AnyOf:
    """Those of the values that are not the right ones as well: where the lightest pixel is white, say."""
    return AnyOf(other for other in others if not same(other, right, tolerance=0.02))


def _must_only_be_read(model: nn.Module, before: nn.Module) -> None:
    was = dict(before.named_parameters())
    for name, parameter in model.named_parameters():
        if parameter.requires_grad != was[name].requires_grad:
            now = "gets gradients now, and was frozen" if parameter.requires_grad else "is frozen now, and was not"
            raise Wrong("frozen_changed", f"{name} {now}. What is frozen was decided before; only sort what is there.")
        if not torch.equal(parameter, was[name]):
            raise Wrong("weights_changed", f"Your function has changed the values of {name}. Only sort the parameters.")


def _judge_groups(groups: object, model: nn.Module, body_rate: float, head_rate: float) -> None:
    rates = _rates(groups, {id(parameter): name for name, parameter in model.named_parameters()})
    frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    _must_stand_once(rates, frozen)
    given = {name: found[0] for name, found in rates.items() if found}
    right = {name: head_rate if name.startswith("head") else body_rate for name in given}
    if all(math.isclose(given[name], rate, rel_tol=1e-6) for name, rate in right.items()):
        return
    if len(set(given.values())) == 1:
        raise Wrong("one_rate", f"All parameters have the rate {next(iter(given.values())):g}. Two were asked for.")
    if given == {name: body_rate if rate == head_rate else head_rate for name, rate in right.items()}:
        raise Wrong("swapped", "The pretrained body learns fast and the new head slowly: the wrong way round.")
    off = [name for name in given if not math.isclose(given[name], right[name], rel_tol=1e-6)]
    rates_of_it = f"{off[0]} has the rate {given[off[0]]:g}, and should have {right[off[0]]:g}."
    if all(name.startswith("body.") and "head" in name for name in off):
        raise Wrong(
            "head_in_the_name", f"{rates_of_it} A layer of the body may have any name: its parameters begin with body."
        )
    raise Wrong("rate", rates_of_it)


def _must_stand_once(rates: dict[str, list[float]], frozen: set[str]) -> None:
    """Refuse groups with a frozen parameter, without a parameter that learns, or with one twice."""
    if wrongly := sorted(name for name in frozen if rates[name]):
        raise Wrong("frozen_included", f"{wrongly[0]} is frozen, and it is in a group. Leave it out.")
    if missing := [name for name, found in rates.items() if not found and name not in frozen]:
        raise Wrong(
            "missing",
            f"{missing[0]} is in no group: it would never learn. Missing are {counted(len(missing), 'parameter')}.",
        )
    if double := [name for name, found in rates.items() if len(found) > 1]:
        raise Wrong("twice", f"{double[0]} is in two groups, or twice in one. Once is right.")


def _rates(groups: object, names: dict[int, str]) -> dict[str, list[float]]:
    """The rates that the groups give to each parameter, by its name."""
    if not isinstance(groups, list | tuple) or not all(
        isinstance(group, dict) and {"params", "lr"} <= set(group) for group in groups
    ):
        raise Wrong(
            "wrong_type", 'An optimizer takes a list of groups, each with two keys: {"params": [...], "lr": ...}.'
        )
    rates: dict[str, list[float]] = {name: [] for name in names.values()}
    for group in groups:
        rate = number(group["lr"])
        if rate is None or isinstance(group["lr"], list | tuple):
            raise Wrong("wrong_type", f'The "lr" of a group is one number, and yours is {group["lr"]!r}.')
        for parameter in _listed(group["params"]):
            if id(parameter) not in names:
                raise Wrong(
                    "foreign",
                    "A group holds something that is not a parameter of the model: "
                    f"a value of type {type(parameter).__name__}. The model's own parameters belong there.",
                )
            rates[names[id(parameter)]].append(rate)
    return rates


def _listed(params: object) -> list[object]:
    """The parameters of a group, which an optimizer takes alone, listed, or as pairs with their names."""
    if isinstance(params, torch.Tensor):
        return [params]
    if isinstance(params, set | frozenset) or not isinstance(params, Iterable):
        raise Wrong(
            "wrong_type",
            f'The "params" of a group are a list of parameters, since they have an order. Yours are of type '
            f"{type(params).__name__}.",
        )
    return [p[1] if isinstance(p, tuple) and len(p) == 2 and isinstance(p[0], str) else p for p in params]


def _judge_scaling(out: torch.Tensor, right: torch.Tensor, pixels: torch.Tensor) -> None:
    if (out - right).abs().max() < 0.01:
        return
    resized = F.interpolate(pixels, size=(28, 28), mode="bilinear", align_corners=False)
    refuse_known(out, _known_scalings(resized, pixels, right), tolerance=0.01)
    if abs(out.mean()) < 0.01 and abs(out.std() - 1) < 0.05:
        raise Wrong(
            "per_batch",
            "Every batch has mean 0 and deviation 1: you measure them again each time. Then a picture's "
            "values depend on the others. The numbers of the training are fixed.",
        )
    if (out.min() - right.min()).abs() < 0.01 and (out.max() - right.max()).abs() < 0.01:
        raise Wrong(
            "wrong_value",
            f"Your values go from {out.min():.2f} to {out.max():.2f}, as they should, and yet a pixel differs by up to "
            f"{(out - right).abs().max():.2f}. Are these the digits as the first line resizes them, and nothing is "
            "rounded or turned round?",
        )
    raise Wrong(
        "wrong_value",
        f"Your values go from {out.min():.2f} to {out.max():.2f}; the network expects {right.min():.2f} "
        f"to {right.max():.2f} for these pictures. A pixel differs by up to {(out - right).abs().max():.2f}.",
    )


def _known_scalings(resized: torch.Tensor, pixels: torch.Tensor, right: torch.Tensor) -> dict[str, tuple[Any, str]]:
    """What wrong scalings make of the digits, and what to say of each."""
    shares = resized / WHITE
    lightest = resized.max(), resized.amax((1, 2, 3), keepdim=True), pixels.amax((1, 2, 3), keepdim=True)
    return {
        "white_measured": (
            _unlike(right, [(resized / white - MNIST_MEAN) / MNIST_STD for white in lightest]),
            "You take the lightest pixel at hand for white. White is 16 here, and in a dark picture no pixel is.",
        ),
        "still_255": ((resized / 255 - MNIST_MEAN) / MNIST_STD, "White is still far from white: it is 16 here."),
        "no_mean": (
            shares,
            "From 0 to 1 is half of it. The network was trained on pixels less a mean, and divided by a deviation.",
        ),
        "own_statistics": (
            AnyOf((own - DIGITS_MEAN) / DIGITS_STD for own in (resized, shares)),
            "These are mean and deviation of the digits. The network learned with those of MNIST, and its weights fit "
            "only them.",
        ),
        "no_deviation": (
            shares - MNIST_MEAN,
            "You took the mean off, and did not divide by the deviation of the training.",
        ),
        "white_left_out": (
            (resized - MNIST_MEAN) / MNIST_STD,
            "The mean and the deviation of the training are those of pixels from 0 to 1. Yours still go from 0 to 16 "
            "where you take the mean off.",
        ),
        "mean_divided": (
            shares - MNIST_MEAN / MNIST_STD,
            "Only the mean is divided by the deviation in yours. Python divides before it subtracts.",
        ),
        "wrong_way_round": (
            AnyOf((shares / MNIST_STD - MNIST_MEAN, (shares - MNIST_STD) / MNIST_MEAN)),
            "You use the mean of the training and its deviation the wrong way round. Which of them is taken off, and "
            "is it before the division or after?",
        ),
        "not_scaled": (resized, "The pixels still go from 0 to 16."),
        "per_picture": (
            (resized - resized.mean((1, 2, 3), keepdim=True)) / resized.std((1, 2, 3), keepdim=True),
            "Each picture has mean 0 and deviation 1: you measure them for each one. Then dark and light pictures "
            "look the same. The numbers of the training are fixed.",
        ),
    }
