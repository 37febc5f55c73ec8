"""Patient: `eval` is missing in an evaluation: dropout is active, and batch norm takes the test batch's statistics."""

import copy
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from torchcourse import figures
from torchcourse.checks import Wrong
from torchcourse.checks.kit import number
from torchcourse.lessons.troubleshooting.clinic.error_notes import called_with
from torchcourse.lessons.troubleshooting.clinic.program import Program
from torchcourse.lessons.troubleshooting.training_step import TrainingRecorder

AWAKE = {"Dropout": "some of its units are switched off", "BatchNorm1d": "the test batch sets its statistics"}
"""What a kind of layer does in training mode."""


def evidence(program: Program) -> dict[str, float]:
    model, test_set = program.quietly(epochs=2)
    sizes = (4, 20, 100, 600)
    scores = [[100 * program.evaluate(model, DataLoader(test_set, size)) for _ in range(4)] for size in sizes]
    figure, axis = figures.new(height=2.8)
    for place, values in enumerate(scores):
        axis.plot([place] * len(values), values, "o", color=figures.COLORS["blue"], alpha=0.6)
    axis.set(xticks=range(len(sizes)), xticklabels=sizes, xlabel="batch size in evaluate()", ylabel="accuracy (%)")
    low, high = min(map(min, scores)), max(map(max, scores))
    axis.set_title(f"One model, one test set, 16 evaluations: {low:.1f}% to {high:.1f}%")
    figures.show(figure, f"Accuracy of sixteen evaluations of the same model: from {low:.1f} to {high:.1f} percent.")
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
    look, state, dice = repr(model), copy.deepcopy(model.state_dict()), torch.get_rng_state()
    loaders = [
        DataLoader(TensorDataset(images, labels), size, generator=torch.Generator()) for size in (7, len(images))
    ]
    data = f"{len(images)} samples of {inputs} numbers in batches of 7 and of {len(images)}, and of {classes} classes"
    with TrainingRecorder() as record, called_with(data):
        scores, awake = _scores(program, model, loaders)
    if awake and _dice_after(program, model, loaders[0], 1) == _dice_after(program, model, loaders[0], 2):
        raise Wrong(
            "seeded",
            "Two evaluations agree, because they draw the same random numbers. The score is still that of another "
            f"model: {' and '.join(AWAKE[kind] for kind in sorted(awake, reverse=True))}.",
        )
    _judge_model(model, look, state)
    if awake:
        raise Wrong(
            "still_there",
            f"In two batch sizes the score is {scores[0]:.1%} and {scores[1]:.1%}; it should be {right:.1%} in both. "
            f"The model is asked while it behaves as in training: {' and '.join(sorted(awake))}.",
        )
    if any(abs(score - right) > 1e-6 for score in scores):
        raise Wrong(
            "wrong_value",
            f"The share of right answers is {right:.2%}; your function returned {scores[0]:.2%} and {scores[1]:.2%} in "
            "two batch sizes.",
        )
    if any(not layer.training for layer in model.modules()):
        raise Wrong(
            "mode_left_changed",
            "The scores are right. But the training loop calls model.train() once, at its start: after your first "
            "evaluation the rest of the training runs without dropout and without new statistics.",
        )
    if record.trained:
        raise Wrong(
            "recorded",
            "The scores are right. But autograd now records each forward pass of the evaluation, and keeps all its "
            "intermediate results for a backward pass that never comes. It did not before: what has gone?",
        )
    if not torch.equal(torch.get_rng_state(), dice):
        raise Wrong("seeded", "The evaluation sets or uses the random numbers of the training. It needs none.")
    _judge_model_that_comes_in_evaluation_mode(program, model.eval(), loaders[0])
    return f"Healed: {right:.1%} in batches of any size, and the training goes on in its own mode."


def _judge_model_that_comes_in_evaluation_mode(program: Program, model: nn.Module, loader: DataLoader) -> None:
    program.evaluate(model, loader)
    if any(layer.training for layer in model.modules()):
        raise Wrong(
            "mode_left_changed",
            "The scores are right. But a model that came in evaluation mode leaves in training mode: the next one who "
            "asks it gets an answer that changes. In which mode did it come?",
        )


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


def _dice_after(program: Program, model: nn.Module, loader: DataLoader, seed: int) -> list[int]:
    """The state of the random numbers after an evaluation that starts with those of `seed`."""
    torch.manual_seed(seed)
    program.evaluate(model, loader)
    return torch.get_rng_state().tolist()


def _judge_model(model: nn.Module, look: str, state: dict[str, torch.Tensor]) -> None:
    if repr(model) != look:
        raise Wrong(
            "layer_changed", "After the evaluation the model is different: a layer was changed or switched off."
        )
    now = model.state_dict()
    weights = [name for name in state if "running" not in name and "tracked" not in name]
    if any(not torch.equal(state[name], now[name]) for name in weights):
        raise Wrong("weights_changed", "After the evaluation the model has other weights.")
    if not all(parameter.requires_grad for parameter in model.parameters()):
        raise Wrong("frozen", "After the evaluation the parameters are frozen: the next epoch trains nothing.")
