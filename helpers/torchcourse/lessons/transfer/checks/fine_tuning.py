"""Checks of lesson 07's first notebook: features, freezing, rates, scaling, and when the cheap way wins.

In the notebook's order: `features`, `freeze_body` (in `freezing`), `two_rates`, `prepare`, `choose`.
"""

import copy
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from torchcourse.checks import Wrong, check
from torchcourse.checks.kit import number, tensor_of
from torchcourse.data.datasets import DIGITS_MEAN, DIGITS_STD, MNIST_MEAN, MNIST_STD
from torchcourse.error_bars import paired
from torchcourse.lessons.transfer.backbones import MNIST_SCALING, Backbone, Classifier, mnist_cnn
from torchcourse.lessons.transfer.checks.freezing import freeze_body
from torchcourse.lessons.transfer.features import extract
from torchcourse.lessons.transfer.few_labels import LABELS, WHITE, accuracy, digit_pixels, pick, results

__all__ = ["choose", "features", "freeze_body", "prepare", "two_rates"]

SEEDS = 4


@check
def features(learner: Callable[[Backbone, torch.Tensor, float], torch.Tensor]) -> str:
    """Compare with the features of a network in evaluation mode, for digits, pictures from 0 to 1, and dark ones."""
    digits = digit_pixels("test")[0][:30]
    for pixels, top in ((digits, WHITE), (digits / WHITE, 1), (digits * 0.6, WHITE)):
        body = mnist_cnn().train()
        before = copy.deepcopy(body.state_dict())
        given = pixels.clone()
        out = learner(body, given, top)
        if not torch.equal(given, pixels):
            raise Wrong(
                "inputs_changed", "The pixels are different after the call. Whoever gave them still needs them."
            )
        tensor_of(out, (30, 64), "30 pictures have features of the shape [30, 64].")
        if any(not torch.equal(tensor, before[name]) for name, tensor in body.state_dict().items()):
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
        if out.is_inference():
            raise Wrong(
                "inference",
                "These are inference tensors: right numbers, but a head cannot be trained on them. There "
                "is another way to do without a graph.",
            )
        _judge_features(out, mnist_cnn().eval(), pixels, top)
        if out.requires_grad:
            raise Wrong("graph", "Your features still hang on a graph through the whole backbone, which costs memory.")
    return "The features of the pictures alone: no graph, no trace in the backbone, and the scaling of its training."


@check
def two_rates(learner: Callable[[nn.Module, float, float], list[dict]]) -> str:
    """Look at the groups, then fine-tune with them on one label per digit, and compare with training from scratch."""
    for frozen, body_rate, head_rate in (
        ((), 1e-3, 1e-2),
        (("body.conv1.weight", "body.norm1.weight", "body.norm1.bias"), 2e-4, 5e-3),
        (("head.bias",), 1e-3, 1e-2),
    ):
        model = Classifier(mnist_cnn(), num_classes=10)
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
        out, right = learner(part.clone()), MNIST_SCALING(part, WHITE)
        tensor_of(out, right.shape, f"The network takes pictures of the shape {list(right.shape)}.")
        _judge_scaling(out, right, part)
    return "As in training: black is −0.42 and white 2.82, for any number of pictures, light or dark."


@check
def choose(learner: Callable[[dict[str, list[float]], dict[str, float], float], str]) -> str:
    """Ask for the choice where the best mean, the cheapest, an open difference or a wrong error would mislead."""
    comparisons = _choices()
    for accuracies, seconds, margin, right, misled in comparisons:
        got = learner({name: list(values) for name, values in accuracies.items()}, dict(seconds), margin)
        if got == right:
            continue
        if not isinstance(got, str) or got not in accuracies:
            raise Wrong("no_method", f"Return one of the names {', '.join(accuracies)}. You return {got!r}.")
        raise Wrong(*misled)
    return f"{len(comparisons)} comparisons: the cheapest of those that are less than the margin below the best."


def _judge_features(out: torch.Tensor, body: Backbone, pixels: torch.Tensor, top: float) -> None:
    right = extract(body, body.scaling(pixels, top))
    if torch.allclose(out, right, atol=1e-4):
        return
    resized = F.interpolate(pixels, size=(28, 28), mode="bilinear", align_corners=False)
    for scaled in (resized, resized / top, resized / 255, (resized / 255 - MNIST_MEAN) / MNIST_STD):
        if torch.allclose(out, extract(body, scaled), atol=1e-3):
            raise Wrong(
                "scaling",
                f"These are features of pixels in a scaling that the network never saw. White is {top:g} "
                "here. What did the backbone bring along for that?",
            )
    if torch.allclose(out, extract(body, body.scaling(pixels, pixels.max().item())), atol=1e-3):
        raise Wrong(
            "white_measured",
            f"You take the lightest pixel, {pixels.max():.3g}, for white. White is {top:g} here, and these pictures "
            "are dark. And then a picture's features depend on the others.",
        )
    if torch.allclose(out, extract(copy.deepcopy(body).train(), body.scaling(pixels, top)), atol=1e-4):
        raise Wrong("training_mode", "One picture's features depend on the others: the network is in training mode.")
    with torch.no_grad():
        if torch.allclose(out, copy.deepcopy(body).train()(body.scaling(pixels, top)), atol=1e-4):
            raise Wrong("training_mode", "A picture's features depend on the others: the network is in training mode.")
    raise Wrong(
        "wrong_value", f"The features differ by up to {(out - right).abs().max():.2g} from those in evaluation mode."
    )


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
    if given == right:
        return
    if len(set(given.values())) == 1:
        raise Wrong("one_rate", f"All parameters have the rate {next(iter(given.values())):g}. Two were asked for.")
    if given == {name: body_rate if rate == head_rate else head_rate for name, rate in right.items()}:
        raise Wrong("swapped", "The pretrained body learns fast and the new head slowly: the wrong way round.")
    name = next(name for name in given if given[name] != right[name])
    raise Wrong("rate", f"{name} has the rate {given[name]:g}, and should have {right[name]:g}.")


def _must_stand_once(rates: dict[str, list[float]], frozen: set[str]) -> None:
    """Refuse groups with a frozen parameter, without a parameter that learns, or with one twice."""
    if wrongly := sorted(name for name in frozen if rates[name]):
        raise Wrong("frozen_included", f"{wrongly[0]} is frozen, and it is in a group. Leave it out.")
    if missing := [name for name, found in rates.items() if not found and name not in frozen]:
        raise Wrong("missing", f"{missing[0]} is in no group: it would never learn. {len(missing)} are missing.")
    if double := [name for name, found in rates.items() if len(found) > 1]:
        raise Wrong("twice", f"{double[0]} is in two groups, or twice in one. Once is right.")


def _rates(groups: object, names: dict[int, str]) -> dict[str, list[float]]:
    """The rates that the groups give to each parameter, by its name."""
    if not isinstance(groups, list | tuple) or not all(
        isinstance(g, dict) and {"params", "lr"} <= set(g) for g in groups
    ):
        raise Wrong("wrong_type", 'An optimizer takes a list of groups: {"params": [...], "lr": ...}.')
    rates: dict[str, list[float]] = {name: [] for name in names.values()}
    for group in groups:
        rate = number(group["lr"])
        if rate is None or isinstance(group["lr"], list | tuple):
            raise Wrong("wrong_type", f'The "lr" of a group is one number, and yours is {group["lr"]!r}.')
        for parameter in [group["params"]] if isinstance(group["params"], torch.Tensor) else list(group["params"]):
            if id(parameter) not in names:
                raise Wrong(
                    "foreign",
                    "A group holds something that is not a parameter of the model: "
                    f"a value of type {type(parameter).__name__}. The model's own parameters belong there.",
                )
            rates[names[id(parameter)]].append(rate)
    return rates


def _judge_scaling(out: torch.Tensor, right: torch.Tensor, pixels: torch.Tensor) -> None:
    if (out - right).abs().max() < 0.01:
        return
    resized = F.interpolate(pixels, size=(28, 28), mode="bilinear", align_corners=False)
    known = {
        "still_255": ((resized / 255 - MNIST_MEAN) / MNIST_STD, "White is still far from white: it is 16 here."),
        "no_mean": (
            resized / WHITE,
            "From 0 to 1 is half of it. The network was trained on pixels less a mean, and divided by a deviation.",
        ),
        "own_statistics": (
            (resized - DIGITS_MEAN) / DIGITS_STD,
            "These are mean and deviation of the digits. The "
            "network learned with those of MNIST, and its weights fit only them.",
        ),
        "not_scaled": (resized, "The pixels still go from 0 to 16."),
        "per_picture": (
            (resized - resized.mean((1, 2, 3), keepdim=True)) / resized.std((1, 2, 3), keepdim=True),
            "Each picture has mean 0 and deviation 1: you measure them for each one. Then dark and light pictures "
            "look the same. The numbers of the training are fixed.",
        ),
    }
    white = "You take the lightest pixel at hand for white. White is 16 here, and in a dark picture no pixel is."
    for lightest in (resized.max(), resized.amax((1, 2, 3), keepdim=True), pixels.amax((1, 2, 3), keepdim=True)):
        known["white_measured"] = ((resized / lightest - MNIST_MEAN) / MNIST_STD, white)
        for symptom, (other, hint) in known.items():
            if (out - other).abs().max() < 0.005:
                raise Wrong(symptom, hint)
    if abs(out.mean()) < 0.01 and abs(out.std() - 1) < 0.05:
        raise Wrong(
            "per_batch",
            "Every batch has mean 0 and deviation 1: you measure them again each time. Then a picture's "
            "values depend on the others. The numbers of the training are fixed.",
        )
    raise Wrong(
        "wrong_value",
        f"Your values go from {out.min():.2f} to {out.max():.2f}; the network expects {right.min():.2f} "
        f"to {right.max():.2f} for these pictures. A pixel differs by up to {(out - right).abs().max():.2f}.",
    )


Comparison = tuple[dict[str, np.ndarray], dict[str, float], float, str, tuple[str, str]]


def _choices() -> list[Comparison]:
    """Comparisons of 16 seeds: accuracies, seconds, margin, the right choice, and the mistake that leads elsewhere."""
    generator = np.random.Generator(np.random.PCG64(5))
    wave = np.array([1.0, -1.0] * 8) * 15**0.5 / 4  # mean 0 and standard deviation 1
    luck, none = generator.permutation(np.linspace(0.6, 0.9, 16)), np.full(16, 0.8)
    more = {
        "middle": luck - 0.002 + 0.001 * wave,
        "large": luck,
        "small": luck - 0.003 + 0.001 * wave,
        "tiny": luck - 0.2,
    }

    lucky = {"small": np.array([0.99, *none[1:]]) - 0.02, "large": none + 0.01 * wave}

    def two(seeds: np.ndarray, mean: float, error: float) -> dict[str, np.ndarray]:
        """A cheap and an expensive method whose paired difference has this mean and this standard error."""
        return {"small": seeds, "large": seeds + mean + 4 * error * wave}

    costs, cost = {"large": 60.0, "middle": 20.0, "small": 5.0, "tiny": 0.1}, {"small": 1.0, "large": 60.0}
    return [
        (two(none, 0.004, 0.0005), cost, 0.01, "small", _MISLED["highest_mean"]),
        (two(luck, 0.1, 0.001), cost, 0.01, "large", _MISLED["cheapest"]),
        (two(luck, 0.004, 0.0002), cost, 0.01, "small", _MISLED["unpaired"]),
        (two(luck, 0.002, 0.0025), cost, 0.01, "small", _MISLED["deviation"]),
        (two(luck, 0.015, 0.01), cost, 0.01, "large", _MISLED["open"]),
        (two(luck, 0.006, 0.005), cost, 0.01, "large", _MISLED["mean_only"]),
        (two(luck, 0.001, 0.00424), cost, 0.01, "large", _MISLED["short_interval"]),
        (two(luck, 0.012, 0.002), cost, 0.02, "small", _MISLED["other_margin"]),
        (more, costs, 0.01, "small", _MISLED["not_cheapest"]),
        (lucky, cost, 0.01, "large", _MISLED["luckiest_seed"]),
    ]


_MISLED = {
    symptom: (symptom, hint)
    for symptom, hint in {
        "highest_mean": "The best mean is 0.004 above the cheap method's, with a standard error of 0.0005. That "
        "is clear, and yet less than the margin of 0.01: it would not matter, and it costs 60 "
        "times as much.",
        "cheapest": "The cheapest method is 0.1 below the best one, and the margin is 0.01. Cheap is not enough.",
        "unpaired": "Both methods had easy and hard seeds, the same ones. Seed by seed, one is above the "
        "other by the same amount every time. Whose error do you compare it with?",
        "deviation": "The mean difference is 0.002, its standard deviation 0.01 and there are 16 seeds. How "
        "sure is the *mean* of 16 differences?",
        "open": "The mean difference is 0.015, its standard error 0.01. It is not clear, but nothing "
        "shows that it is small: it may be 0.036, and the margin is 0.01.",
        "mean_only": "The mean difference is 0.006, its standard error 0.005. The mean is within the margin "
        "of 0.01; where does the interval of 95% end?",
        "short_interval": "The mean difference is 0.001, its standard error 0.00424 (deviation of a sample: "
        "ddof=1). For 16 pairs an interval of 95% reaches t95(15) = 2.13 of them, to 0.01003. "
        "The margin is 0.01.",
        "other_margin": "The mean difference is 0.012, its standard error 0.002. The interval ends at 0.016, "
        "and the margin of this comparison is 0.02.",
        "luckiest_seed": "The cheap method has the best single seed, 0.97. Its mean is 0.008 below the other one's. "
        "The best method is the one with the best mean.",
        "not_cheapest": "Of the methods that are less than the margin below the best, take the one that costs least.",
    }.items()
}
