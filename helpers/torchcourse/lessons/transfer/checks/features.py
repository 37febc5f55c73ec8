"""Checks of lesson 07's first notebook: features, freezing, rates, scaling, and when the cheap way wins.

In the notebook's order: `features`, `freeze_body`, `two_rates`, `prepare`, `choose`.
"""

import copy
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from torchcourse.checks import Wrong, check
from torchcourse.checks.kit import tensor_of
from torchcourse.data.datasets import DIGITS_MEAN, DIGITS_STD, MNIST_MEAN, MNIST_STD
from torchcourse.error_bars import paired
from torchcourse.lessons.transfer.backbones import MNIST_SCALING, Backbone, Classifier, mnist_cnn
from torchcourse.lessons.transfer.features import extract
from torchcourse.lessons.transfer.few_labels import LABELS, WHITE, accuracy, digit_pixels, pick, results

SEEDS = 4


@check
def features(learner: Callable[[Backbone, torch.Tensor, float], torch.Tensor]) -> str:
    """Compare with the features of a network in evaluation mode, for digits and for pictures from 0 to 1."""
    digits = digit_pixels("test")[0][:30]
    for pixels, top in ((digits, WHITE), (digits / WHITE, 1)):
        body = mnist_cnn().train()
        before = copy.deepcopy(body.state_dict())
        out = learner(body, pixels.clone(), top)
        tensor_of(out, (30, 64), "30 pictures have features of the shape [30, 64].")
        if any(not torch.equal(tensor, before[name]) for name, tensor in body.state_dict().items()):
            raise Wrong(
                "statistics",
                "The backbone was in training mode when you got it, and looking at pictures has changed "
                "it: its BatchNorm layers took their mean and variance in. Which mode does not do that?",
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
def freeze_body(learner: Callable[[Classifier], None]) -> str:
    """Train for some steps after the learner's function, and look at what has changed."""
    torch.manual_seed(0)
    model = Classifier(mnist_cnn(), num_classes=3).train()
    inputs, labels = 2 + torch.randn(12, 1, 28, 28), torch.arange(12) % 3
    right = extract(copy.deepcopy(model.body), inputs)
    before = copy.deepcopy(model.state_dict())
    learner(model)
    if any(not torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items()):
        raise Wrong(
            "changed_at_once", "Your function itself has changed weights. It only has to keep them as they are."
        )
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(3):
        model.train()  # as the Trainer does before each epoch
        optimizer.zero_grad()
        loss = F.cross_entropy(model(inputs), labels)
        if not loss.requires_grad:
            raise Wrong("head_frozen", "Nothing is left to learn: the head has no gradient either.")
        loss.backward()
        optimizer.step()
    after = model.state_dict()
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    parameters = {name for name, _ in model.named_parameters()}
    if weights := sorted(name for name in moved & parameters if name.startswith("body")):
        raise Wrong("weights_move", f"After three steps of SGD, {weights[0]} is another one: it still gets gradients.")
    if not moved & {"head.weight"}:
        raise Wrong("head_frozen", "After three steps of SGD the head is the same as before. It is what should learn.")
    if moved - parameters:
        raise Wrong(
            "statistics_move",
            f"No weight of the body has changed, but {min(moved - parameters)} has. BatchNorm "
            "collects it in training mode, with or without gradients. And every epoch begins with model.train().",
        )
    model.train()
    with torch.no_grad():
        out = model.body(inputs)
    if not torch.allclose(out, right, atol=1e-4):
        raise Wrong(
            "batch_statistics",
            "The body keeps its numbers, but in training it does not use them: its BatchNorm "
            "layers normalise with the mean and variance of the batch at hand.",
        )
    return (
        "Three steps of training, model.train() before each: the head has learnt, and the body is the same to the bit."
    )


@check
def two_rates(learner: Callable[[nn.Module, float, float], list[dict]]) -> str:
    """Look at the groups, then fine-tune with them on one label a class, and compare with training from scratch."""
    for frozen in ((), ("conv1", "norm1")):
        model = Classifier(mnist_cnn(), num_classes=10)
        for name in frozen:
            model.body.get_submodule(name).requires_grad_(False)
        _judge_groups(learner(model, 1e-3, 1e-2), model)
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
    if gain.mean < 2 * gain.error or gain.mean < 0.05:
        raise Wrong("no_gain", f"With your groups, fine-tuning beats scratch by {gain} only. Which parameters learn?")
    return (
        f"Every parameter once, at its rate. With one label a class, fine-tuning beats scratch by {gain} "
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
def choose(learner: Callable[[dict[str, list[float]], dict[str, float]], str]) -> str:
    """Ask for the choice where the best mean, the cheapest, unpaired bars or deviations would mislead."""
    for accuracies, seconds, right, misled in _choices():
        got = learner({name: list(values) for name, values in accuracies.items()}, dict(seconds))
        if got == right:
            continue
        if got not in accuracies:
            raise Wrong("no_method", f"Return one of the names {', '.join(accuracies)}. You return {got!r}.")
        raise Wrong(*misled)
    return "Five comparisons: the cheapest of those that are not clearly below the best."


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
    if torch.allclose(out, extract(copy.deepcopy(body).train(), body.scaling(pixels, top)), atol=1e-4):
        raise Wrong("training_mode", "One picture's features depend on the others: the network is in training mode.")
    with torch.no_grad():
        if torch.allclose(out, copy.deepcopy(body).train()(body.scaling(pixels, top)), atol=1e-4):
            raise Wrong("training_mode", "A picture's features depend on the others: the network is in training mode.")
    raise Wrong(
        "wrong_value", f"The features differ by up to {(out - right).abs().max():.2g} from those in evaluation mode."
    )


def _judge_groups(groups: object, model: nn.Module) -> None:
    rates = _rates(groups, {id(parameter): name for name, parameter in model.named_parameters()})
    frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    if wrongly := sorted(name for name in frozen if rates[name]):
        raise Wrong("frozen_included", f"{wrongly[0]} is frozen, and it stands in a group. Leave it out.")
    if missing := [name for name, found in rates.items() if not found and name not in frozen]:
        raise Wrong("missing", f"{missing[0]} stands in no group: it would never learn. {len(missing)} are missing.")
    if double := [name for name, found in rates.items() if len(found) > 1]:
        raise Wrong("twice", f"{double[0]} stands in two groups. Which rate is it to have?")
    given = {name: found[0] for name, found in rates.items() if found}
    if len(set(given.values())) == 1:
        raise Wrong("one_rate", f"All parameters have the rate {next(iter(given.values())):g}. Two were asked for.")
    if given["head.weight"] == 1e-3 and given["body.dense.weight"] == 1e-2:
        raise Wrong("swapped", "The pretrained body learns fast and the new head slowly: the wrong way round.")
    for name, rate in given.items():
        right = 1e-2 if name.startswith("head") else 1e-3
        if rate != right:
            raise Wrong("rate", f"{name} has the rate {rate:g}, and should have {right:g}.")


def _rates(groups: object, names: dict[int, str]) -> dict[str, list[float]]:
    """The rates that the groups give to each parameter, by its name."""
    if not isinstance(groups, list) or not all(isinstance(g, dict) and {"params", "lr"} <= set(g) for g in groups):
        raise Wrong("wrong_type", 'An optimizer takes a list of groups: {"params": [...], "lr": ...}.')
    rates: dict[str, list[float]] = {name: [] for name in names.values()}
    for group in groups:
        for parameter in [group["params"]] if isinstance(group["params"], torch.Tensor) else list(group["params"]):
            if id(parameter) not in names:
                raise Wrong("foreign", "A group holds something that is not a parameter of the model. Names, perhaps?")
            rates[names[id(parameter)]].append(group["lr"])
    return rates


def _judge_scaling(out: torch.Tensor, right: torch.Tensor, pixels: torch.Tensor) -> None:
    if (out - right).abs().mean() < 0.02:
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
            "network learnt with those of MNIST, and its weights fit only them.",
        ),
        "not_scaled": (resized, "The pixels still go from 0 to 16."),
    }
    for symptom, (other, hint) in known.items():
        if (out - other).abs().mean() < 0.02:
            raise Wrong(symptom, hint)
    if abs(out.mean()) < 0.01 and abs(out.std() - 1) < 0.05:
        raise Wrong(
            "per_batch",
            "Every batch has mean 0 and deviation 1: you measure them anew each time. Then a picture's "
            "values depend on the others. The numbers of the training are fixed.",
        )
    raise Wrong(
        "wrong_value",
        f"Your values go from {out.min():.2f} to {out.max():.2f}; the network expects {right.min():.2f} "
        f"to {right.max():.2f} for these pictures.",
    )


def _choices() -> list[tuple[dict[str, np.ndarray], dict[str, float], str, tuple[str, str]]]:
    """Comparisons of 16 seeds: accuracies, seconds, the right choice, and the mistake that gives another one."""
    generator = np.random.Generator(np.random.PCG64(5))
    wave = np.array([1.0, -1.0] * 8) * 15**0.5 / 4  # mean 0 and standard deviation 1
    luck = generator.permutation(np.linspace(0.6, 0.9, 16))
    cost = {"small": 1.0, "large": 60.0}
    mean = (
        "highest_mean",
        "The best mean is a hundredth above the cheap method's, and its standard error is a hundredth, "
        "too. That is no clear difference, and it costs 60 times as much.",
    )
    unpaired = (
        "unpaired",
        "Both methods had easy and hard seeds, the same ones. Seed by seed, one is above the other by the "
        "same amount every time. Whose error do you compare it with?",
    )
    deviation = (
        "deviation",
        "The difference is 0.03, its standard deviation 0.05 and there are 16 seeds. How sure is the "
        "*mean* of 16 differences?",
    )
    cheapest = ("cheapest", "The cheapest method is clearly below the best one. Cheap is not enough.")
    middle = ("not_cheapest", "Of the methods that are level with the best, take the one that costs least.")
    return [
        ({"small": luck, "large": luck + 0.01 + 0.04 * wave}, cost, "small", mean),
        ({"small": luck - 0.1, "large": luck + 0.002 * wave}, cost, "large", cheapest),
        ({"small": luck, "large": luck + 0.02 + 0.002 * wave}, cost, "large", unpaired),
        ({"large": luck + 0.03 + 0.05 * wave, "small": luck}, cost, "large", deviation),
        (
            {"large": luck, "middle": luck + 0.01 * wave, "small": luck + 0.012 * wave - 0.001, "tiny": luck - 0.2},
            {"large": 60.0, "middle": 20.0, "small": 5.0, "tiny": 0.1},
            "small",
            middle,
        ),
    ]
