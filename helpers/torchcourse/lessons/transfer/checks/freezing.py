"""The check of lesson 07's exercise 2: a body that stays as it is, whatever the training loop calls."""

import contextlib
import copy
from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import nn

from torchcourse.checks import Wrong, check
from torchcourse.lessons.transfer.backbones import Backbone, Classifier, mnist_cnn
from torchcourse.lessons.transfer.features import extract


@check
def freeze_body(learner: Callable[[Classifier], None]) -> str:
    """Train for some steps after the learner's function, and look at what has changed."""
    torch.manual_seed(0)
    model = Classifier(other_backbone(), num_classes=3).train()
    inputs, labels = 2 + torch.randn(12, 1, 28, 28), torch.arange(12) % 3
    right = extract(copy.deepcopy(model.body), inputs)
    before, parameters = copy.deepcopy(model.state_dict()), {name for name, _ in model.named_parameters()}
    with _classes_as_they_were(model) as changed, _calls_that_end():
        learner(model)
    if changed:
        raise Wrong(
            "all_models",
            f"You have changed `train` of the class {changed[0]}, so for every model that has such a layer. Change it "
            "for this model: on the object, or by giving the object a class of its own. The check has undone it.",
        )
    if model.state_dict().keys() != before.keys():
        other = sorted(model.state_dict().keys() ^ before.keys())[0]
        raise Wrong(
            "body_replaced",
            f"The model's parts have other names than before: {other} is new or gone, so no saved file fits any more. "
            "Leave `model.body` where it is, and change how it behaves.",
        )
    if lost := sorted(parameters - {name for name, _ in model.named_parameters()}):
        raise Wrong(
            "no_parameters",
            f"{lost[0]} is no parameter any more, so nobody can unfreeze it later. A parameter may stay one without "
            "getting gradients.",
        )
    if any(not torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items()):
        raise Wrong(
            "changed_at_once", "Your function itself has changed weights. It only has to keep them as they are."
        )
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, weight_decay=0.01)
    for _ in range(3):
        _train_mode(model)  # as the Trainer does before each epoch
        optimizer.zero_grad()
        loss = F.cross_entropy(_passed(model, inputs), labels)
        if not loss.requires_grad:
            raise Wrong("head_frozen", "Nothing is left to learn: the head has no gradient either.")
        loss.backward()
        optimizer.step()
    _judge_what_moved(model, before)
    _train_mode(model)
    with torch.no_grad():
        out = model.body(inputs)
    if not torch.allclose(out, right, atol=1e-4):
        raise Wrong(
            "batch_statistics",
            "The body keeps its numbers, but in training it does not use them: its BatchNorm "
            "layers normalize with the mean and variance of the batch at hand.",
        )
    return (
        "Three steps of training, model.train() before each: the head has learned, and the body is the same to the bit."
    )


def other_backbone() -> Backbone:
    """Return a backbone whose last layer differs from the published one's: to load that again is no answer.

    One of its layers lies in a layer, as EfficientNet's do.
    """
    body = mnist_cnn()
    body.norm2 = nn.Sequential(body.get_submodule("norm2"))
    with torch.no_grad():
        body.dense.weight.mul_(0.9)  # type: ignore[union-attr, operator]  # a Linear layer
    return body


def _judge_what_moved(model: Classifier, before: dict[str, torch.Tensor]) -> None:
    after = model.state_dict()
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    parameters = {name for name, _ in model.named_parameters()}
    if weights := sorted(name for name in moved & parameters if name.startswith("body")):
        raise Wrong("weights_move", f"After three steps of SGD, {weights[0]} has changed: it still gets gradients.")
    if not moved & {"head.weight"}:
        raise Wrong("head_frozen", "After three steps of SGD the head is the same as before. It is what should learn.")
    if moved - parameters and "train" in vars(model.body):
        raise Wrong(
            "eval_after_train",
            f"You have overruled `train`, and yet {min(moved - parameters)} has changed: a BatchNorm layer is still in "
            "training mode. `eval()` calls `train(False)`: where `train` does nothing, `eval()` does nothing either.",
        )
    if moved - parameters:
        raise Wrong(
            "statistics_move",
            f"No weight of the body has changed, but {min(moved - parameters)} has. BatchNorm collects it in training "
            "mode, with or without gradients. And every epoch begins with model.train(), or model.body.train().",
        )


def _passed(model: Classifier, inputs: torch.Tensor) -> torch.Tensor:
    try:
        if not model.body(inputs).is_inference():
            return model(inputs)
    except (TypeError, AttributeError):
        if not any(module._forward_pre_hooks for module in model.modules()):
            raise
        raise Wrong(
            "hook_returns",
            "A forward pre-hook of yours returns something, and PyTorch puts that in the place of the inputs. "
            "`module.eval()` gives the module back, so a lambda that calls it returns that: let the hook return None.",
        ) from None
    raise Wrong(
        "inference",
        "The body gives inference tensors now, and no head can be trained on those. Once its parameters get no "
        "gradients, does the body need a forward pass of its own at all?",
    )


@contextlib.contextmanager
def _classes_as_they_were(model: nn.Module) -> Iterator[list[str]]:
    """Put `train` of the model's classes back at the end, and yield a list: of the classes that had another one."""
    classes = {kind for module in model.modules() for kind in type(module).__mro__ if issubclass(kind, nn.Module)}
    before = {kind: kind.__dict__.get("train") for kind in classes}
    changed: list[str] = []
    try:
        yield changed
    finally:
        for kind, method in before.items():
            if kind.__dict__.get("train") is not method:
                changed.append(kind.__name__)
                if method is None:
                    del kind.train
                else:
                    kind.train = method  # type: ignore[method-assign]  # as the learner did


@contextlib.contextmanager
def _calls_that_end() -> Iterator[None]:
    try:
        yield
    except RecursionError:
        raise Wrong(
            "train_calls_itself",
            "Your method calls itself without end: `eval()` of a module is `train(False)`, so a `train` that calls "
            "`eval()` comes back to itself. In which mode is the body before any training begins?",
        ) from None


def _train_mode(model: Classifier) -> None:
    try:
        with _calls_that_end():
            model.train()
            if not (model.training and model.head.training):
                raise Wrong(
                    "head_not_training",
                    "After model.train() the head is in evaluation mode, and with it a dropout layer that a head may "
                    "have. Overrule `train` of `model.body`, and of nothing else.",
                )
            model.body.train()
    except TypeError as error:
        raise Wrong(
            "train_call",
            f"model.train() or model.body.train() ended with: {error}. The first calls `train` of each module with the "
            "mode, True or False, the second without: a method that takes its place is called in the same ways.",
        ) from None
