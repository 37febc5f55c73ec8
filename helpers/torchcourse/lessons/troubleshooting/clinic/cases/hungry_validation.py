"""Patient: `no_grad` is missing in a validation, which records a graph that nobody will ever go back through."""

import copy

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from torchcourse import figures
from torchcourse.checks import Wrong
from torchcourse.checks.kit import number
from torchcourse.data import mnist
from torchcourse.lessons.troubleshooting.clinic.error_notes import called_with
from torchcourse.lessons.troubleshooting.clinic.program import Program
from torchcourse.lessons.troubleshooting.tracking import MemoryTracker
from torchcourse.lessons.troubleshooting.training_step import TrainingRecorder
from torchcourse.models import mlp
from torchcourse.units import format_bytes


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
    axis.set_title(
        f"Validation: {max(total):.1f} MiB at the peak, {len(kept)} of {len(peak)} tensors kept by the graph"
    )
    figures.show(figure, f"Memory during a validation of two batches; peak {max(total):.1f} MiB.")
    for allocation in peak[:5]:
        size, shape = format_bytes(allocation.bytes), list(allocation.shape)
        print(f"{size:>9}  {shape}  made by {allocation.op}, {allocation.kind}")


def judge(program: Program, seed: int) -> str:
    """Validate a small model, watch its forward passes, and look at what is left behind."""
    torch.manual_seed(seed)
    size = 6 + seed % 4
    model = mlp(5, 8, 3)
    images, labels = torch.randn(4 * size - 2, 5), torch.randint(0, 3, (4 * size - 2,))
    with torch.no_grad():
        right = F.cross_entropy(model(images), labels).item()
    before = copy.deepcopy(model.state_dict())
    data = f"{len(images)} samples of 5 numbers in batches of {size}, and of 3 classes"
    with TrainingRecorder() as record, called_with(data):
        given = program.validation_loss(model, DataLoader(TensorDataset(images, labels), size))
    recording = torch.is_grad_enabled()
    torch.set_grad_enabled(True)
    if not record.passes:
        raise Wrong("no_pass", "Your validation never calls the model.")
    if any(seen.recorded for seen in record.passes):
        if max(seen.samples for seen in record.passes) < size:
            raise Wrong(
                "smaller_batches",
                f"Your passes take fewer than the {size} samples of a batch. That lowers the peak, and takes "
                "longer; each of them still keeps everything for a backward pass that never comes.",
            )
        raise Wrong(
            "still_there",
            "The forward pass still keeps its intermediate results, for a backward pass that never comes. What is "
            "thrown away after the pass comes too late: the peak is in the pass.",
        )
    if max(seen.samples for seen in record.passes) > size:
        raise Wrong(
            "batches_joined",
            f"No pass is recorded any more, but one takes {max(seen.samples for seen in record.passes)} samples, and "
            f"the loader gives {size} at a time. On the whole validation set that does not fit either.",
        )
    if not recording:
        raise Wrong(
            "grad_off", "After the validation autograd is off for everybody: the next training step has no gradients."
        )
    if any(seen.training for seen in record.passes):
        raise Wrong(
            "training_mode",
            "Your validation asks the model in training mode. The call of model.eval() was right, and it has gone.",
        )
    if not all(parameter.requires_grad for parameter in model.parameters()):
        raise Wrong("frozen", "After the validation the parameters are frozen: the next epoch trains nothing.")
    if not model.training:
        raise Wrong("mode_left_changed", "The model was in training mode before the validation, and is not any more.")
    _judge_what_comes_otherwise(program, model.eval(), DataLoader(TensorDataset(images, labels), size))
    if any(not torch.equal(before[name], value) for name, value in model.state_dict().items()):
        raise Wrong("weights_changed", "The validation has changed the model's weights.")
    loss = number(given)
    if loss is None or abs(loss - right) > 1e-5:
        raise Wrong(
            "wrong_value",
            f"The mean loss over all samples is {right:.5f}; you returned {given if loss is None else loss!r}.",
        )
    return "Healed: no forward pass of the validation is recorded, its value is the same, and the training goes on."


def _judge_what_comes_otherwise(program: Program, model: nn.Module, loader: DataLoader) -> None:
    """Validate a model in evaluation mode with a frozen layer, for a caller who has autograd off."""
    frozen = next(iter(model.parameters())).requires_grad_(False)
    with torch.no_grad():
        with called_with("a model in evaluation mode whose first layer is frozen"):
            program.validation_loss(model, loader)
        recording = torch.is_grad_enabled()
    if model.training:
        raise Wrong(
            "mode_left_changed",
            "A model that came in evaluation mode leaves the validation in training mode. In which mode did it come?",
        )
    if frozen.requires_grad:
        raise Wrong(
            "thawed",
            "A layer that was frozen before the validation can learn after it. Does autograd have to be told of each "
            "parameter, or is there a block in which it records nothing?",
        )
    if recording:
        raise Wrong(
            "grad_on",
            "A caller who had switched autograd off finds it switched on after the validation. Which block leaves it "
            "as it was?",
        )
