"""Features are computed once, in evaluation mode, and kept for exactly these weights and pictures."""

import pytest
import torch
from torch import nn

from torchcourse.data import mnist
from torchcourse.data.datasets import MNIST_MEAN, MNIST_STD
from torchcourse.lessons.transfer import features
from torchcourse.lessons.transfer.backbones import mnist_cnn
from torchcourse.lessons.transfer.features import cached, extract, norm_gap, train_head
from torchcourse.lessons.transfer.lora import add_lora, without_adapters
from torchcourse.models import mlp


@pytest.fixture(scope="module")
def images():
    return mnist("test").tensors[0][:200]


def test_features_do_not_depend_on_the_batch_and_leave_no_trace(images):
    body = mnist_cnn().train()
    before = {name: tensor.clone() for name, tensor in body.state_dict().items()}
    out = extract(body, images, batch_size=64)
    assert out.shape == (200, 64)
    assert not out.requires_grad
    torch.testing.assert_close(out, extract(body, images, batch_size=7))
    assert body.training
    for name, tensor in body.state_dict().items():
        assert torch.equal(tensor, before[name])
    assert not extract(body.eval(), images[:2]).isnan().any()
    assert not body.training


def test_channels_last_gives_the_same(images):
    body = mnist_cnn().to(memory_format=torch.channels_last)
    out = extract(body, images.contiguous(memory_format=torch.channels_last))
    torch.testing.assert_close(out, extract(mnist_cnn(), images), rtol=1e-4, atol=1e-4)


def test_a_head_learns_from_features(images):
    labels = mnist("test").tensors[1][:200]
    out = extract(mnist_cnn(), images)
    head = train_head(out[:150], labels[:150], num_classes=10)
    assert (head(out[150:]).argmax(dim=1) == labels[150:]).float().mean() > 0.85
    again = train_head(out[:150], labels[:150], num_classes=10)
    torch.testing.assert_close(head.weight, again.weight)


@pytest.mark.parametrize("per_class", [1, 10])
def test_a_head_is_trained_to_the_end(images, per_class):
    labels = mnist("test").tensors[1][:200]
    chosen = torch.cat([(labels == digit).nonzero()[:per_class, 0] for digit in range(10)])
    out = extract(mnist_cnn(), images)[chosen]
    weights = {}
    for steps in (500, 2000):
        head = train_head(out, labels[chosen], num_classes=10, steps=steps)
        loss = nn.functional.cross_entropy(head(out), labels[chosen], reduction="sum") + head.weight.square().sum() / 2
        gradients = torch.autograd.grad(loss / len(chosen), list(head.parameters()))
        assert max(gradient.abs().max() for gradient in gradients) < 1e-4
        weights[steps] = head.weight
    torch.testing.assert_close(weights[500], weights[2000], rtol=1e-2, atol=1e-3)


def test_the_second_time_features_come_from_the_file(images, tmp_path, monkeypatch):
    path, body = tmp_path / "kept" / "features.safetensors", mnist_cnn()
    first = cached(path, body, images)

    def refuse(*_):
        raise AssertionError("computed again")

    monkeypatch.setattr(features, "extract", refuse)
    assert torch.equal(cached(path, body, images), first)
    for changed in ((body, images + 1), (mnist_cnn(pretrained=False), images)):
        with pytest.raises(AssertionError, match="computed again"):
            cached(path, *changed)


def test_other_features_and_broken_files_are_replaced(images, tmp_path):
    path, body = tmp_path / "features.safetensors", mnist_cnn()
    path.write_bytes(b"no features")
    torch.testing.assert_close(cached(path, body, images), extract(body, images))
    torch.testing.assert_close(cached(path, body, images[:50]), extract(body, images[:50]))


@pytest.mark.slow
def test_the_gap_tells_a_wrong_scaling(images):
    pixels = images * MNIST_STD + MNIST_MEAN
    right = norm_gap(mnist_cnn(), images)
    assert right.shift < 0.1
    assert right.stretch < 1.1
    assert norm_gap(mnist_cnn(), pixels).stretch > 2
    assert norm_gap(mnist_cnn(), (pixels / 255 - MNIST_MEAN) / MNIST_STD).stretch > 5
    assert norm_gap(mnist_cnn(), 1 - images).shift > 5 * right.shift


def test_the_gap_needs_statistics(images):
    for network in (mlp(784, 10), nn.Sequential(nn.BatchNorm2d(1, track_running_stats=False))):
        with pytest.raises(ValueError, match="no BatchNorm layer"):
            norm_gap(network, images)


def test_a_part_that_was_put_to_evaluation_stays_so():
    body = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Dropout()).train()
    body[1].eval()
    extract(body, torch.randn(4, 3))
    norm_gap(body, torch.randn(4, 3))
    assert [part.training for part in body] == [True, False, True]
    assert body.training


@pytest.mark.parametrize(
    "change",
    [
        lambda body: setattr(body[0], "stride", (2, 2)),
        lambda body: body.__setitem__(1, nn.Tanh()),
        lambda body: setattr(body[1], "negative_slope", 0.5),
        lambda body: body.append(nn.Flatten()),
    ],
    ids=["stride", "layer", "slope", "one layer more"],
)
def test_a_body_that_computes_otherwise_with_the_same_weights_is_asked_again(tmp_path, change):
    torch.manual_seed(0)
    body = nn.Sequential(nn.Conv2d(1, 2, 3), nn.LeakyReLU(0.1))
    inputs = torch.randn(3, 1, 9, 9)
    kept = cached(tmp_path / "features", body, inputs)
    assert torch.equal(cached(tmp_path / "features", body.train(), inputs), kept)
    change(body)
    assert torch.equal(cached(tmp_path / "features", body, inputs), extract(body, inputs))


def test_adapters_that_are_switched_off_give_features_of_their_own(tmp_path):
    body = nn.Sequential(nn.Linear(4, 3))
    add_lora(body)
    nn.init.ones_(body[0].up)
    inputs = torch.randn(3, 4)
    cached(tmp_path / "features", body, inputs)
    with without_adapters(body):
        assert torch.equal(cached(tmp_path / "features", body, inputs), extract(body, inputs))


def test_features_in_16_bits_are_kept_too(tmp_path, monkeypatch):
    body, inputs = nn.Linear(4, 3).bfloat16(), torch.randn(5, 4, dtype=torch.bfloat16)
    kept = cached(tmp_path / "features", body, inputs)
    monkeypatch.setattr(features, "extract", lambda *_: pytest.fail("computed again"))
    assert torch.equal(cached(tmp_path / "features", body, inputs), kept)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_a_head_has_the_type_of_the_features(dtype):
    inputs, labels = torch.randn(20, 5, dtype=dtype), torch.arange(20, dtype=torch.int32) % 2
    assert train_head(inputs, labels, 2)(inputs).dtype == dtype
    assert torch.equal(train_head(inputs, labels.double(), 2).weight, train_head(inputs, labels, 2).weight)
    with pytest.raises(ValueError, match="numbers of classes, which are whole"):
        train_head(inputs, labels + 0.5, 2)
    with pytest.raises(ValueError, match="labels go from 0 to 1, and the classes of this head from 0 to 0"):
        train_head(inputs, labels, 1)


def test_a_norm_that_nothing_reaches_is_said():
    class Unused(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = nn.BatchNorm1d(3)

        def forward(self, x):
            return x

    with pytest.raises(ValueError, match="does not call it"):
        norm_gap(Unused(), torch.randn(3, 3))
