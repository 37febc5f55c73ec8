"""Patient: `eval` is missing in an evaluation: dropout is active, and batch norm takes the test batch's statistics."""

import copy
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from torchcourse import figures
from torchcourse.checks import Wrong
from torchcourse.checks.kit import copies, number
from torchcourse.lessons.troubleshooting.clinic.comparisons import called_with, expect_untouched
from torchcourse.lessons.troubleshooting.clinic.program import Program
from torchcourse.lessons.troubleshooting.training_step import TrainingRecorder

AWAKE = {"Dropout": "some of its units are switched off", "BatchNorm1d": "the test batch sets its statistics"}
"""What a kind of layer does in training mode."""
_SEED = 2**20  # that no learner writes


def evidence(program: Program) -> dict[str, float]:
    model, test_set = program.quietly(epochs=2)
    sizes = (4, 20, 100, 600)
    scores = [[100 * program.evaluate(model, DataLoader(test_set, size)) for _ in range(4)] for size in sizes]
    figure, axis = figures.new(height=2.8)
    for place, values in enumerate(scores):
        axis.plot([place] * len(values), values, "o", color=figures.COLORS["blue"], alpha=0.6)
    axis.set(xticks=range(len(sizes)), xticklabels=sizes, xlabel="batch size in evaluate()", ylabel="accuracy (%)")
    low, high = min(map(min, scores)), max(map(max, scores))
    finding = f"One model, one test set, 16 evaluations: {low:.1f}% to {high:.1f}%"
    axis.set_title(finding)
    figures.show(figure, f"The accuracy by batch size. {finding}.")
    worst = min(zip(scores, sizes, strict=True), key=lambda pair: sum(pair[0]))[1]
    return {"low": low, "high": high, "worst": worst}


def judge(program: Program, seed: int) -> str:
    """Evaluate a trained model in two batch sizes, and look at what the evaluation did to it."""
    torch.manual_seed(seed)
    inputs, classes = 6 + seed % 3, 4
    model = program.make_model(inputs, 16, classes)
    images = torch.randn(61 + seed % 7, inputs) * 2 + 1
    for _ in range(10):  # running statistics that differ from any batch's
        model(images + torch.randn_like(images))
    sound = copy.deepcopy(model).eval()
    with torch.no_grad():
        labels = torch.where(
            torch.rand(len(images)) < 0.7, sound(images).argmax(1), torch.randint(0, classes, (len(images),))
        )
        right = (sound(images).argmax(1) == labels).float().mean().item()
    look, before = repr(model), copies(model.parameters())
    loaders = [
        DataLoader(TensorDataset(images, labels), size, generator=torch.Generator()) for size in (7, len(images))
    ]
    dice = torch.manual_seed(_SEED).get_state()
    data = f"{len(images)} samples of {inputs} numbers in batches of 7 and of {len(images)}, and of {classes} classes"
    with TrainingRecorder() as record, called_with(data):
        scores, awake = _scores(program, model, loaders)
    as_in_training = f"of another model: {' and '.join(AWAKE[kind] for kind in sorted(awake, reverse=True))}."
    if awake and torch.initial_seed() != _SEED:
        raise Wrong(
            "seeded",
            "Evaluations agree where they draw the same random numbers, and your function sets their seed. The score "
            f"is still that {as_in_training}",
        )
    if repr(model) != look:
        raise Wrong(
            "layer_changed", "After the evaluation the model is different: a layer was changed or switched off."
        )
    if awake:
        raise Wrong(
            "still_there",
            f"In two batch sizes the score is {scores[0]:.1%} and {scores[1]:.1%}; it should be {right:.1%} in both. "
            f"It is that {as_in_training}",
        )
    if any(abs(score - right) > 1e-6 for score in scores):
        raise Wrong(
            "wrong_value",
            f"The share of right answers is {right:.2%}; your function returned {scores[0]:.2%} and {scores[1]:.2%} in "
            "two batch sizes.",
        )
    expect_untouched(model, before, training=True)
    if record.trained:
        raise Wrong(
            "recorded",
            "The scores are right. But autograd now records each forward pass of the evaluation, and keeps all its "
            "intermediate results for a backward pass that never comes. It did not before: what has gone?",
        )
    if not torch.equal(torch.get_rng_state(), dice):
        raise Wrong("seeded", "The evaluation sets or uses the random numbers of the training. It needs none.")
    program.evaluate(model.eval(), loaders[0])
    expect_untouched(model, before, training=False)
    return f"Healed: {right:.1%} in batches of any size, and the training goes on in its own mode."


def _scores(program: Program, model: nn.Module, loaders: list[DataLoader]) -> tuple[list[float], set[str]]:
    """Evaluate with each loader; return the scores, and which kinds of layers were asked in training mode."""
    awake: set[str] = set()
    handles = [
        layer.register_forward_pre_hook(lambda layer, _: awake.add(type(layer).__name__) if layer.training else None)
        for layer in model.modules()
        if isinstance(layer, nn.Dropout | nn.BatchNorm1d)
    ]
    try:
        return [_score(program.evaluate(model.train(), loader)) for loader in loaders], awake
    finally:
        for handle in handles:
            handle.remove()


def _score(given: Any) -> float:
    found = number(given)
    if found is None:
        raise Wrong("no_number", f"Return the share of right answers, a number. You returned {given!r}.")
    return found
