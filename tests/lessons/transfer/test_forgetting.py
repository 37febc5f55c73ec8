"""A reader that learns something new forgets; each way against it does what it says."""

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import TensorDataset

from torchcourse.lessons.transfer import forgetting
from torchcourse.lessons.transfer.few_labels import accuracy
from torchcourse.lessons.transfer.finetune import trainable_bytes
from torchcourse.lessons.transfer.forgetting import (
    CURVE_SEEDS,
    KNOBS,
    SEEDS,
    WAYS,
    blend,
    curves,
    distillation,
    held_back,
    importance,
    learn,
    mnist_reader,
    results,
    tasks,
)
from torchcourse.lessons.transfer.lora import without_adapters
from torchcourse.models import mlp, small_cnn

LONG = ("fine-tuned", "rehearsal")


@pytest.fixture(scope="module")
def reader():
    return mnist_reader()


@pytest.fixture(scope="module")
def known():
    return tasks()


@pytest.fixture(scope="module")
def learned(reader, known):
    """A copy of the reader for each way, that has learned the small digits: two of them long, the others a little."""
    before = copy.deepcopy(reader.state_dict())
    new, old = known["small digits"].train, known["MNIST"].train
    models = {way: learn(reader, new, way, old, epochs=5 if way in LONG else 1) for way in WAYS}
    assert all(torch.equal(reader.state_dict()[name], tensor) for name, tensor in before.items())
    return models


@pytest.mark.slow
def test_the_reader_reads_mnist_and_not_what_it_never_saw(reader, known):
    rights = {name: accuracy(reader, *task.test.tensors) for name, task in known.items()}
    assert rights["MNIST"] > 0.95
    assert 0.6 < rights["small digits"] < 0.9
    assert rights["turned"] < 0.3
    assert all(task.train.tensors[0].shape[1:] == (1, 28, 28) for task in known.values())


@pytest.mark.slow
def test_all_ways_learn_and_old_images_keep_the_old_task(learned, known):
    old = {way: accuracy(learned[way], *known["MNIST"].test[:500]) for way in LONG}
    new = {way: accuracy(model, *known["small digits"].test.tensors) for way, model in learned.items()}
    assert min(new.values()) > 0.82
    assert old["fine-tuned"] + 0.05 < old["rehearsal"]
    assert old["rehearsal"] > 0.88


@pytest.mark.slow
def test_the_table_says_about_what_training_gives(learned, known):
    table = results()
    assert list(table) == list(WAYS)
    for way in WAYS:
        assert table[way].shape == (SEEDS, 2)
        assert ((table[way] > 0.6) & (table[way] <= 1)).all()
    for way, values in curves().items():
        assert values.shape == (len(KNOBS[way].tried), CURVE_SEEDS, 2)
        if KNOBS[way].usual in KNOBS[way].tried:  # the same runs
            usual = values[KNOBS[way].tried.index(KNOBS[way].usual)]
            assert np.abs(usual - table[way][:CURVE_SEEDS]).max() < 0.03
    for way in LONG:
        pairs = zip(table[way].mean(axis=0), ("MNIST", "small digits"), strict=True)
        assert all(abs(share - accuracy(learned[way], *known[name].test.tensors)) < 0.1 for share, name in pairs)


@pytest.mark.slow
def test_an_adapter_that_is_switched_off_forgets_nothing(learned, reader, known):
    images = known["MNIST"].test.tensors[0][:100]
    model = learned["LoRA"]
    with torch.no_grad(), without_adapters(model):
        assert torch.equal(model(images), reader(images))
    assert trainable_bytes(model) < trainable_bytes(mnist_reader()) / 5


@pytest.mark.slow
def test_a_knob_trades_the_new_task_against_the_old_one(learned, reader, known):
    new, old = known["small digits"].train, known["MNIST"]
    held = learn(reader, new, "EWC", old.train, epochs=1, knob=1e6)
    assert accuracy(held, *old.test[:500]) > accuracy(learned["EWC"], *old.test[:500]) + 0.005
    ends = {way: 100 * values.mean(axis=1)[[0, -1]] for way, values in curves().items()}
    for way, (first, last) in ends.items():
        assert last[0] > first[0] - 0.3, way  # from learning most to keeping most
    assert set(curves()) == set(WAYS) - {"lower rate"}


def test_a_head_alone_leaves_the_body(learned, reader):
    body = reader.body.state_dict()
    assert all(torch.equal(tensor, body[name]) for name, tensor in learned["head only"].body.state_dict().items())


@pytest.mark.slow
def test_statistics_move_only_where_they_may(reader, known):
    new = known["small digits"].train
    for keep in (True, False):
        model = learn(reader, new, epochs=1, keep_norms=keep)
        assert torch.equal(model.body.norm1.running_mean, reader.body.norm1.running_mean) == keep


@pytest.mark.parametrize(
    ("way", "sentence"), [("EWC", "needs images"), ("rehearsal", "needs images"), ("hope", "The ways")]
)
def test_what_cannot_be_learned_is_refused(reader, known, way, sentence):
    with pytest.raises(ValueError, match=sentence):
        learn(reader, known["small digits"].train, way)


def test_importance_is_the_mean_squared_gradient_of_single_samples():
    torch.manual_seed(0)
    model, images, labels = mlp(6, 5, 3), torch.randn(7, 6), torch.arange(7) % 3
    squares = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    for image, label in zip(images, labels, strict=True):
        gradients = torch.autograd.grad(F.cross_entropy(model(image[None]), label[None]), list(model.parameters()))
        for total, gradient in zip(squares.values(), gradients, strict=True):
            total += gradient.square() / 7
    for name, weights in importance(model, images, labels).items():
        torch.testing.assert_close(weights, squares[name])
    assert all(parameter.grad is None for parameter in model.parameters())


def test_ewc_pulls_each_weight_by_its_importance():
    model = nn.Linear(2, 2, bias=False)
    loss = held_back(model, {"weight": torch.tensor([[1.0, 0.0], [0.0, 3.0]])}, strength=10)
    x, labels = torch.randn(4, 2), torch.tensor([0, 1, 0, 1])
    torch.testing.assert_close(loss(model(x), labels), F.cross_entropy(model(x), labels))
    with torch.no_grad():
        model.weight += torch.tensor([[0.1, 5.0], [5.0, 0.2]])
    torch.testing.assert_close(loss(model(x), labels) - F.cross_entropy(model(x), labels), torch.tensor(0.65))


def test_distillation_counts_the_label_and_the_old_opinion():
    outputs, said, labels = torch.randn(5, 4), torch.randn(5, 4), torch.tensor([0, 1, 2, 3, 0])
    targets = torch.cat([labels[:, None].float(), said], dim=1)
    p, q = (said / 2).softmax(1), (outputs / 2).softmax(1)
    should = F.cross_entropy(outputs, labels) + 0.5 * 4 * (p * (p / q).log()).sum() / 5
    torch.testing.assert_close(distillation(outputs, targets), should)
    agreed = torch.cat([labels[:, None].float(), outputs], dim=1)
    torch.testing.assert_close(distillation(outputs, agreed), F.cross_entropy(outputs, labels))


def test_a_blend_lies_between(reader, learned):
    new = learned["fine-tuned"]
    for share, like in ((0, reader), (1, new)):
        states = zip(blend(reader, new, share).state_dict().values(), like.state_dict().values(), strict=True)
        assert all(torch.equal(one, other) for one, other in states)
    half = blend(reader, new, 0.25).body.conv1.weight
    torch.testing.assert_close(half, 0.75 * reader.body.conv1.weight + 0.25 * new.body.conv1.weight)
    with pytest.raises(ValueError, match="same names"):
        blend(small_cnn(), small_cnn(width=8), 0.5)


@pytest.mark.slow
def test_learning_depends_on_the_seed_alone(reader, known):
    new = TensorDataset(*(tensor[:400] for tensor in known["small digits"].train.tensors))
    one, again, other = (learn(reader, new, "LoRA", seed=seed, epochs=1).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(one[name], again[name]) for name in one)
    assert not torch.equal(one["head.down"], other["head.down"])


@pytest.mark.parametrize(("knob", "old_images", "mixed_in"), [(100, 1000, 300), (500, 1000, 500), (500, 70, 280)])
def test_rehearsal_mixes_in_old_images_however_many_it_keeps(reader, known, monkeypatch, knob, old_images, mixed_in):
    seen = []
    monkeypatch.setattr(forgetting, "make_loader", lambda data, *_, **__: seen.append(len(data)) or [])
    monkeypatch.setattr(forgetting.Trainer, "fit", lambda *_: None)
    old = TensorDataset(*known["MNIST"].train[:old_images])
    learn(reader, known["small digits"].train, "rehearsal", old, knob=knob)
    assert seen == [forgetting.NEW_IMAGES + mixed_in]


def test_rehearsal_of_nothing_is_refused(reader, known):
    with pytest.raises(ValueError, match="keeps one old image or more, but not 0 of"):
        learn(reader, known["small digits"].train, "rehearsal", known["MNIST"].train, knob=0)
