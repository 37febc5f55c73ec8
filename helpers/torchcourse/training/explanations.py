"""What went wrong in a step, in words: of the model, the loss, the shapes."""

import dataclasses
import inspect
import math
from typing import Any

import numpy as np
import torch
from torch import nn

from torchcourse.ranks import who
from torchcourse.training.containers import leaves, tensors
from torchcourse.training.position import Position
from torchcourse.training.wrappers import unwrap

UNUSED = (
    "on several ranks every parameter that can learn has to take part in every step. Freeze what takes no part "
    "(requires_grad_(False)), or give the Trainer DistributedDataParallel(model, find_unused_parameters=True)."
)

LONE = (
    "BatchNorm cannot train on one value per channel. Leave it out with drop_last=True, or choose a batch size that "
    "leaves more."
)


def about_model(error: Exception, model: nn.Module, inputs: Any, targets: torch.Tensor) -> ValueError | None:
    """Return an error instead of one that the model raised, where its cause is known."""
    reason = str(error)
    if isinstance(error, TypeError) and any(isinstance(one, np.ndarray) for one in leaves(inputs)):
        return ValueError(
            "The batch's inputs are NumPy arrays, which the model cannot take. Let the dataset return "
            "torch.from_numpy(…), or give the loader a collate_fn that makes tensors."
        )
    if isinstance(error, TypeError) and not isinstance(inputs, torch.Tensor) and (needed := _takes(model, inputs)):
        return ValueError(
            f"The model's forward() takes {needed}, but the Trainer gives it a batch's inputs as one argument, here "
            f"{shapes(inputs)}. Let forward(self, inputs) take them apart."
        )
    if "Expected more than 1 value per channel" in reason:
        return ValueError(f"This batch has {len(targets)} sample(s), and {LONE}")
    if "Expected to have finished reduction in the prior iteration" in reason:
        return ValueError(f"A step before this one left parameters out, and {UNUSED}")
    return None


def _takes(model: nn.Module, inputs: Any) -> str:
    """Return the names of the arguments that a model wants one by one, if the inputs are meant for them."""
    parameters = inspect.signature(unwrap(model).forward).parameters.values()
    needed = [parameter.name for parameter in parameters if _is_needed(parameter)]
    if isinstance(inputs, dict):
        names = {parameter.name for parameter in parameters}
        return " and ".join(map(str, inputs)) if inputs and names.issuperset(inputs) else ""
    return " and ".join(needed) if len(needed) > 1 else ""


def _is_needed(parameter: inspect.Parameter) -> bool:
    by_place = parameter.kind in (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return by_place and parameter.default is inspect.Parameter.empty


def about_inputs(model: nn.Module, inputs: Any) -> str:
    """Return a note for an error that the model raised."""
    given, own = sorted({str(one.dtype) for one in tensors(inputs)}), {str(one.dtype) for one in model.parameters()}
    types = f" of {' and '.join(given)}; its weights are {' and '.join(sorted(own))}" if given and own else ""
    return f"The Trainer called the model with a batch of {shapes(inputs)}{types}."


def about_loss(error: Exception, outputs: Any, targets: torch.Tensor) -> ValueError:
    """Return an error that says what the loss function was given."""
    reason = str(error).strip().partition("\n")[0].rstrip(".")
    return ValueError(
        f"The loss function cannot compare outputs of {shapes(outputs)} with targets of {shapes(targets)}: {reason}. "
        "Make the model's last layer, the targets and the loss function fit each other."
    )


def about_loss_that_is_no_number(
    losses: list[tuple[Any, torch.Tensor]], accumulate: int, position: Position
) -> FloatingPointError:
    """Return an error that names the first step whose loss was nan or infinite, or those in which nothing counts.

    Every rank has to call it.

    Args:
        losses: count and loss of each batch since the last log.
        accumulate: batches per step.
        position: at the end of a step.
    """
    own = [number // accumulate for number, (_, loss) in enumerate(losses) if not math.isfinite(loss)]
    bad = [number for numbers in who.gather(own) for number in numbers]
    if not bad:
        return FloatingPointError(
            f"Nothing counts in the steps from {position.logged + 1} to {position.step}, so that their loss has no "
            "mean: the loss function returned a count of 0 for each batch. Are all of their targets masked?"
        )
    step = min(bad) + position.logged + 1
    return FloatingPointError(
        f"The loss became nan or infinite at step {step} (epoch {position.epoch + 1}), so training stopped. "
        "Try a lower learning rate or clip_norm=1.0, and look for log(0), a division by 0, nan in the data, or a batch "
        "whose targets are all ignored. Any checkpoint is from before that."
    )


def shapes(value: Any) -> str:
    """Return "shape [64, 10]", or the shapes of all tensors in a container."""
    if isinstance(value, torch.Tensor):
        return f"shape {list(value.shape)}"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {shapes(item)}" for key, item in value.items()) + "}"
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return (
            "{"
            + ", ".join(f"{one.name}: {shapes(getattr(value, one.name))}" for one in dataclasses.fields(value))
            + "}"
        )
    if isinstance(value, tuple | list) and len(value) < 10:
        return "(" + ", ".join(shapes(item) for item in value) + ")"
    kind, shape = type(value).__name__, getattr(value, "shape", None)
    return f"{kind} of shape {list(shape)}" if isinstance(shape, tuple) else kind


def why_stopped_early(name: str, rows: list[dict[str, Any]], waited: int) -> str:
    """Say why patience ended a training run: `waited` epochs without a better value of `name`."""
    best, last = rows[-1]["epoch"] - waited, rows[-waited:]
    if not any(math.isfinite(row[name]) for row in last):
        since = f"since epoch {best}" if best else "in any epoch"
        return (
            f"Stopped early: {name} was no finite number {since} ({last[-1][name]}). If only validation has that, look "
            "at its batches: is each of their numbers finite?"
        )
    return f"Stopped early: {name} has not been better since epoch {best}."
