"""Patient: a softmax in the model, and a second one inside the cross entropy."""

import torch
import torch.nn.functional as F
from torch import nn

from torchcourse import figures
from torchcourse.checks import Wrong
from torchcourse.data import mnist
from torchcourse.lessons.troubleshooting.clinic.comparisons import called_with, expect_loss
from torchcourse.lessons.troubleshooting.clinic.program import Program


def evidence(program: Program) -> None:
    model = program.quietly(epochs=4)
    images, _ = mnist("test")[:1]
    with torch.no_grad():
        outputs = model(images)[0]
    figure, axis = figures.new(height=2.6)
    axis.bar(range(10), outputs)
    axis.set(xlabel="class", ylabel="what forward() returns", xticks=range(10))
    axis.set_title(f"One image: outputs from {outputs.min():.2f} to {outputs.max():.2f}, {outputs.sum():.2f} together")
    figures.show(figure, f"The ten outputs of one image: {[round(value, 2) for value in outputs.tolist()]}.")
    perfect = F.one_hot(torch.arange(10), 10).float()
    best = program.loss_of(perfect, torch.arange(10))
    print(f"loss_of() for outputs of 1 at the right class and 0 at all others: {best:.3f}")


def judge(program: Program, seed: int) -> str:
    """Compare loss, gradient and probabilities with those computed from the network's own weights."""
    inputs, hidden, classes = 6 + seed % 4, 8, 3 + seed % 5
    torch.manual_seed(seed)
    data = f"a network of {inputs} inputs, {hidden} hidden units and {classes} classes, and with 20 images for it"
    with called_with(data):
        model = program.DigitNet(inputs, hidden, classes)
        shapes = sorted(tuple(parameter.shape) for parameter in model.parameters())
        if shapes != sorted([(hidden, inputs), (hidden,), (classes, hidden), (classes,)]):
            raise Wrong("other_network", "The network has other weights than before. It was not the network's fault.")
        images, labels = torch.randn(20, inputs), torch.randint(0, classes, (20,))
        _judge_loss(program, model, images, labels)
        _judge_probabilities(program, model, images)
    # Logits of some hundreds: what is sure of itself must not end in an infinite or a capped loss.
    with torch.no_grad():
        _output(model).mul_(1000)
    right = F.cross_entropy(_logits(model, images), labels)
    given = program.loss_of(model(images), labels)
    if not torch.allclose(given, right, rtol=1e-3):
        raise Wrong(
            "unstable",
            f"For a network that is very sure and wrong the loss should be {right.item():.1f}; yours is "
            f"{given.item():.1f}. The logarithm of a rounded probability: is there a function that takes both in "
            "one?",
        )
    _judge_probabilities(program, model, images)
    return (
        "Healed: the loss is that of one softmax, also for very sure answers, and the probabilities still add up to 1."
    )


def _logits(model: nn.Module, images: torch.Tensor) -> torch.Tensor:
    """Compute them from the weights, whatever the layers are called; the hidden one has 8 units, the last one fewer."""
    bias, output_bias = sorted((p for p in model.parameters() if p.dim() == 1), key=len, reverse=True)
    weight, output = sorted((p for p in model.parameters() if p.dim() == 2), key=len, reverse=True)
    return F.linear(F.linear(images, weight, bias).relu(), output, output_bias)


def _output(model: nn.Module) -> nn.Parameter:
    return min((parameter for parameter in model.parameters() if parameter.dim() == 2), key=len)


def _judge_loss(program: Program, model: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> None:
    right = F.cross_entropy(_logits(model, images), labels)
    twice = F.cross_entropy(_logits(model, images).softmax(1), labels)
    given = expect_loss(program.loss_of(model(images), labels))
    slope, sick, sound = (torch.autograd.grad(loss, _output(model))[0] for loss in (given, twice, right))
    is_right = torch.allclose(given, right, rtol=1e-4)
    if is_right and _parallel(slope, sound):
        return
    if torch.allclose(given, twice, rtol=1e-4):
        raise Wrong("still_there", "The loss is what it was: for perfect answers it still stays far above zero.")
    if is_right or (_parallel(slope, sick) and not _parallel(slope, sound)):
        raise Wrong(
            "cosmetic",
            f"The number is different{', and right' if is_right else ''}, and its gradient is not that of one softmax. "
            "The network learns from the gradient.",
        )
    if given < 0:
        raise Wrong(
            "negative", f"The loss is {given.item():.2f}. It takes logarithms of probabilities: which does it get?"
        )
    raise Wrong(
        "not_cross_entropy",
        f"For a network at its start the cross entropy should be {right.item():.4f}; your loss is {given.item():.4f}.",
    )


def _judge_probabilities(program: Program, model: nn.Module, images: torch.Tensor) -> None:
    right = _logits(model, images).softmax(1)
    given = program.probabilities(model, images)
    if not isinstance(given, torch.Tensor) or given.shape != right.shape or not given.is_floating_point():
        shape = f" {list(given.shape)} of {given.dtype}" if isinstance(given, torch.Tensor) else ""
        raise Wrong(
            "wrong_type",
            f"probabilities() gives a row for each image, one probability for each class: {list(right.shape)} here. "
            f"Yours gives {type(given).__name__}{shape}.",
        )
    if given.requires_grad:
        raise Wrong("graph_returned", "What probabilities() returns has a graph now, which it did not have before.")
    if torch.allclose(given, right, atol=1e-5):
        return
    if torch.allclose(given, right.softmax(1), atol=1e-5):
        raise Wrong("twice_elsewhere", "The training is right; now probabilities() makes two softmaxes out of one.")
    if not given.isfinite().all():
        raise Wrong(
            "unstable",
            f"The loss is right, but where the network is very sure probabilities() holds {int(given.isnan().sum())} "
            "times NaN: the exponential of a large logit is infinite. Is there a function that does without it?",
        )
    (least, most), (low, high) = given.sum(1).aminmax(), given.aminmax()
    raise Wrong(
        "no_probabilities",
        f"The training is right, but what probabilities() returns adds up to {least:.2f} to {most:.2f} per row, from "
        f"numbers between {low:.2f} and {high:.2f}: not how probable the network takes each class to be. Who turned "
        "outputs into probabilities before?",
    )


def _parallel(a: torch.Tensor, b: torch.Tensor) -> bool:
    return F.cosine_similarity(a.flatten(), b.flatten(), dim=0).item() > 0.9999
