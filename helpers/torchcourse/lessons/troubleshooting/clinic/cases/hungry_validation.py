"""Patient: `no_grad` is missing in a validation, which records a graph that nobody will ever go back through."""

import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader, TensorDataset

from torchcourse import figures
from torchcourse.checks import Wrong
from torchcourse.checks.kit import copies
from torchcourse.data import mnist
from torchcourse.lessons.troubleshooting.clinic.comparisons import (
    called_with,
    evaluate_for_others,
    expect_number,
    expect_untouched,
)
from torchcourse.lessons.troubleshooting.clinic.program import Program
from torchcourse.lessons.troubleshooting.tracking import MemoryTracker
from torchcourse.lessons.troubleshooting.training_step import TrainingRecorder
from torchcourse.models import mlp


def evidence(program: Program) -> None:
    torch.manual_seed(0)
    model = mlp(784, 256, 256, 256, 10)
    loader = DataLoader(TensorDataset(*mnist("test")[:1000]), 500)
    with MemoryTracker() as tracker:
        program.validation_loss(model, loader)
    total = [size / 2**20 for size in tracker.timeline().total]
    peak = tracker.live_at_peak()
    kept = [allocation for allocation in peak if allocation.kind == "activations"]
    figure, axis = figures.new()
    axis.plot(total, drawstyle="steps-post")
    axis.set(xlabel="storages made and freed, in order", ylabel="memory alive (MiB)")
    finding = f"Validation: {max(total):.1f} MiB at the peak, {len(kept)} of {len(peak)} tensors kept by the graph"
    axis.set_title(finding)
    figures.show(figure, f"Memory during a validation of two batches. {finding}.")
    print("\n".join(map(str, peak[:5])))


def judge(program: Program, seed: int) -> str:
    """Validate a small model, watch its forward passes, and look at what is left behind."""
    torch.manual_seed(seed)
    size = 6 + seed % 4
    model = mlp(5, 8, 3)
    images, labels = torch.randn(4 * size - 2, 5), torch.randint(0, 3, (4 * size - 2,))
    loader = DataLoader(TensorDataset(images, labels), size)
    with torch.no_grad():
        right = F.cross_entropy(model(images), labels).item()
    before = copies(model.parameters())
    data = f"{len(images)} samples of 5 numbers in batches of {size}, and of 3 classes"
    with TrainingRecorder() as record, called_with(data):
        given = program.validation_loss(model, loader)
    if not record.passes:
        raise Wrong("no_pass", "Your validation never calls the model.")
    most = max(seen.samples for seen in record.passes)
    if record.trained and most < size:
        raise Wrong(
            "smaller_batches",
            f"Your passes take fewer than the {size} samples of a batch. That lowers the peak, and takes longer; each "
            "of them still keeps everything for a backward pass that never comes.",
        )
    if record.trained:
        raise Wrong(
            "still_there",
            "The forward pass still keeps its intermediate results, for a backward pass that never comes. What is "
            "thrown away after the pass comes too late: the peak is in the pass.",
        )
    if most > size:
        raise Wrong(
            "batches_joined",
            f"No pass is recorded any more, but one takes {most} samples, and the loader gives {size} at a time. On "
            "the whole validation set that does not fit either.",
        )
    if any(seen.training for seen in record.passes):
        raise Wrong(
            "training_mode",
            "Your validation asks the model in training mode. The call of model.eval() was right, and it has gone.",
        )
    expect_untouched(model, before, training=True)
    model.eval()
    with called_with("a model in evaluation mode whose first layer is frozen"):
        evaluate_for_others(lambda: program.validation_loss(model, loader), model)
    next(model.parameters()).requires_grad_(True)
    expect_untouched(model, before, training=False)
    expect_number(given, right, "The mean loss over all samples")
    return "Healed: no forward pass of the validation is recorded, its value is the same, and the training goes on."
