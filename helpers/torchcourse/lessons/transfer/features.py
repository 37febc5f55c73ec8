"""Frozen features (동결한 특징): what a backbone makes of pictures, computed once, kept, and read by a small head.

features = cached("cells.safetensors", backbone, inputs)     # [N, features]; the second time from the file
head = train_head(features[train], labels[train], num_classes=2)
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import nn

from torchcourse.lessons.datasets.splits import fingerprint
from torchcourse.training.checkpoint import replacing
from torchcourse.training.modes import evaluating


def extract(body: nn.Module, inputs: torch.Tensor, batch_size: int = 64) -> torch.Tensor:
    """Return a backbone's features [N, F] of scaled pictures [N, C, H, W], batch by batch, in evaluation mode.

    They come without a graph, and a head can be trained on them. The backbone is left as it was. Whether the pictures
    lie in memory as `torch.channels_last` or not is kept; with it, many networks are faster.
    """
    with evaluating(body), torch.no_grad():  # and not inference_mode, whose tensors no training accepts
        return torch.cat([body(batch) for batch in inputs.split(batch_size)])


def cached(path: str | Path, body: nn.Module, inputs: torch.Tensor, batch_size: int = 64) -> torch.Tensor:
    """Return `extract(body, inputs)`, from the file at `path` if it holds the features of this body and these pictures.

    The file carries a checksum of the pictures, of the weights, and of the layers with their settings, such as a
    stride. Code counts by its name alone: delete the file when a `forward` computes something else. Anything else at
    `path` is computed again and replaced.

    Raises:
        CheckpointError: if the file cannot be written.
    """
    path, key = Path(path), _key(body, inputs)
    try:
        with safe_open(str(path), "pt") as file:
            if (file.metadata() or {}).get("key") == key:
                return file.get_tensor("features")
    except (OSError, SafetensorError):
        pass  # there is none yet, or none that can be read
    features = extract(body, inputs, batch_size)
    with replacing(path) as file:
        file.write(save({"features": features.contiguous()}, metadata={"key": key}))
    return features


def train_head(
    features: torch.Tensor, labels: torch.Tensor, num_classes: int, steps: int = 500, penalty: float = 1.0
) -> nn.Linear:
    """Return a linear layer that was trained to the end on features [N, F] and labels [N], all at once in each step.

    A head that is stopped early says how far its optimizer came, not what the features are worth. This problem is
    convex, so L-BFGS ends at its one minimum, usually after 50 to 200 steps. It starts from zeros: nothing is random.

    Args:
        features, labels: of N pictures. The head has the dtype of the features.
        num_classes: outputs of the head.
        steps: the most that it takes.
        penalty: N times the loss is the sum of the cross entropies + penalty / 2 · |weights|²; 1.0 is also the default
            of scikit-learn's LogisticRegression.

    Raises:
        ValueError: for a label that is no whole number, or no class of the head.
    """
    given_labels, labels = labels, labels.long()
    if not torch.equal(given_labels, labels.to(given_labels.dtype)):
        raise ValueError("Labels are the numbers of classes, which are whole: one per picture.")
    if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < num_classes:
        raise ValueError(
            f"The labels go from {int(labels.min())} to {int(labels.max())}, and the classes of this head from 0 to "
            f"{num_classes - 1}."
        )
    given, features = features.dtype, features.to(torch.promote_types(features.dtype, torch.float32))
    head = nn.Linear(features.shape[1], num_classes, device=features.device, dtype=features.dtype)
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    optimizer = torch.optim.LBFGS(
        head.parameters(), max_iter=steps, tolerance_grad=1e-5, tolerance_change=1e-9, line_search_fn="strong_wolfe"
    )

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        value = F.cross_entropy(head(features), labels) + penalty / (2 * len(labels)) * head.weight.square().sum()
        value.backward()
        return value

    optimizer.step(loss)
    return head.to(given)


@dataclass(frozen=True)
class NormGap:
    """How far a batch is from what a network's first BatchNorm layer saw in training, as means over its channels.

    Attributes:
        shift: difference of the means, in standard deviations; 0 is none.
        stretch: how many times larger or smaller the standard deviation is; 1 is the same.
    """

    shift: float
    stretch: float

    def __str__(self) -> str:
        return f"shifted by {self.shift:.2f}, stretched {self.stretch:.2f} times"


def norm_gap(model: nn.Module, inputs: torch.Tensor) -> NormGap:
    """Compare what reaches the first BatchNorm layer with the mean and variance that this layer kept from training.

    That tells pixels in a wrong scaling before any label is looked at: on pictures like those of the training both
    numbers are nearly 0 and 1. Other pictures move them, too, so compare scalings with each other.

    Raises:
        ValueError: for a network without a BatchNorm layer that keeps statistics, or which nothing reaches.
    """
    norms = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
    first = next((m for m in model.modules() if isinstance(m, norms) and m.running_var is not None), None)
    if first is None:
        raise ValueError("This network has no BatchNorm layer that keeps statistics, so it cannot tell what it saw.")
    seen: list[torch.Tensor] = []
    handle = first.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0]))
    try:
        extract(model, inputs, batch_size=len(inputs))
    finally:
        handle.remove()
    if not seen:
        raise ValueError("Nothing reaches the first BatchNorm layer of this network: its forward() does not call it.")
    mean, variance = first.get_buffer("running_mean"), first.get_buffer("running_var")
    channels = seen[0].transpose(0, 1).flatten(1)
    usual = variance + first.eps  # as the layer itself does: a channel may always have been the same
    shift = (channels.mean(dim=1) - mean) / usual.sqrt()
    stretch = ((channels.var(dim=1) + first.eps) / usual).log().abs().mean() / 2
    return NormGap(shift.abs().mean().item(), stretch.exp().item())


def _key(body: nn.Module, inputs: torch.Tensor) -> str:
    digest = hashlib.sha256()
    for name, value in [*body.state_dict().items(), ("inputs", inputs)]:
        # a module may keep other things in its state than tensors
        kept = fingerprint(value) if isinstance(value, torch.Tensor) else repr(value)
        digest.update(f"{name} {kept}".encode())
    for name, module in body.named_modules():
        settings = {key: value for key, value in sorted(vars(module).items()) if _is_setting(key, value)}
        digest.update(f"{name} {type(module).__module__} {type(module).__qualname__} {settings}".encode())
    return digest.hexdigest()


def _is_setting(name: str, value: object) -> bool:
    if isinstance(value, tuple):
        return all(_is_setting(name, part) for part in value)
    plain = isinstance(value, bool | int | float | str | type(None))
    return plain and not name.startswith("_") and name != "training"
