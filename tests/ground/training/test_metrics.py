"""Means over batches are means over samples."""

import math

import numpy as np
import pytest
import torch

from torchcourse.training import Trainer, metrics
from torchcourse.training.losses import Loss
from torchcourse.training.metrics import Averages, accuracy

CPU = torch.device("cpu")


def test_accuracy_of_labels_and_of_labels_at_each_place():
    scores = torch.tensor([[0.1, 0.9], [0.8, 0.2], [0.4, 0.6]])
    assert accuracy(scores, torch.tensor([1, 1, 1])).tolist() == [True, False, True]
    places = torch.randn(4, 5, 6)
    assert accuracy(places, places.argmax(1)).all()
    assert accuracy(places, places.argmax(1)).shape == (4, 6)


def batch(size, loss, right):
    outputs = torch.zeros(size, 2)
    outputs[:right, 1] = 1.0
    return outputs, torch.ones(size, dtype=torch.long), torch.tensor(loss)


def test_each_flush_covers_what_came_since_and_means_cover_all():
    averages = Averages({"accuracy": accuracy}, CPU)
    averages.add(*batch(10, 1.0, right=10))
    averages.add(*batch(2, 7.0, right=0))
    assert averages.flush() == pytest.approx({"loss": 2.0, "accuracy": 10 / 12})
    averages.add(*batch(4, 6.0, right=1))
    assert averages.flush() == pytest.approx({"loss": 6.0, "accuracy": 0.25})
    assert averages.means() == pytest.approx({"loss": 3.0, "accuracy": 11 / 16})


@pytest.mark.parametrize("held", [2**16, 0])
def test_a_batch_with_ignored_labels_counts_what_is_left_wherever_it_comes(monkeypatch, held):
    monkeypatch.setattr(metrics, "_HOLD", held)
    random = torch.Generator().manual_seed(0)
    loss = Loss(torch.nn.functional.cross_entropy)
    averages = Averages({"accuracy": accuracy}, CPU, loss.ignored)
    seen = []
    for ignored in ([], [1], [], [0, 2], []):  # in the first flush of two the first batch only, then a later one
        outputs, targets = torch.randn(4, 3, generator=random), torch.randint(3, (4,), generator=random)
        targets[ignored] = -100
        averages.add(outputs, targets, *loss.mean(outputs, targets))
        seen.append((outputs, targets))
        if len(seen) == 1:
            assert averages.flush()["loss"] == pytest.approx(loss.fn(outputs, targets).item())
    outputs, targets = (torch.cat(parts) for parts in zip(*seen, strict=True))
    counts = targets != -100
    right = (outputs.argmax(1) == targets)[counts].float().mean().item()
    assert averages.means() == pytest.approx({"loss": loss.fn(outputs, targets).item(), "accuracy": right})


def test_nothing_since_the_last_flush_is_no_number_and_no_batch_at_all_an_error():
    averages = Averages({"accuracy": accuracy}, CPU)
    assert all(math.isnan(value) for value in averages.flush().values())
    with pytest.raises(ValueError, match="not yield a single batch"):
        averages.means()


def test_batches_in_which_nothing_counts_are_not_called_missing():
    averages = Averages({"accuracy": accuracy}, CPU, ignored=-100)
    averages.add(torch.zeros(4, 2), torch.full((4,), -100), torch.tensor(0.0), 0)
    averages.flush()
    with pytest.raises(ValueError, match=r"Nothing in the loader's batches counts.*the label that the loss ignores"):
        averages.means()


def test_long_sums_keep_their_precision():
    averages = Averages({}, CPU)
    for _ in range(10_000):
        averages.add(torch.zeros(1, 2), torch.zeros(1), torch.tensor(0.1))
    assert averages.means()["loss"] == pytest.approx(torch.tensor(0.1).item(), rel=1e-12)


def test_outputs_are_kept_in_small_numbers_only_and_without_their_graph():
    seen = []

    def see(outputs, targets):
        seen.append((len(outputs), outputs.requires_grad))
        return torch.zeros(len(targets))

    averages = Averages({"seen": see}, CPU)
    weight = torch.ones(1, requires_grad=True)
    for _ in range(3):
        averages.add(torch.zeros(30_000, 1) * weight, torch.zeros(30_000), weight.sum())
    averages.add(torch.zeros(5, 1) * weight, torch.zeros(5), weight.sum())
    assert seen == [(90_000, False)]
    averages.flush()
    assert seen == [(90_000, False), (5, False)]


def test_outputs_in_a_container_are_not_kept():
    seen = []

    def see(outputs, targets):
        seen.append(len(outputs))
        return torch.full((len(targets),), 0.5)

    averages = Averages({"seen": see}, CPU)
    averages.add((torch.zeros(4), torch.zeros(4)), torch.zeros(4), torch.tensor(1.0))
    assert seen == [2]
    assert averages.means() == {"loss": 1.0, "seen": 0.5}


def test_state_goes_on_to_the_same_numbers():
    def fill(averages, part):
        for size, loss in part:
            averages.add(*batch(size, loss, right=size // 2))

    whole, first, second = (Averages({"accuracy": accuracy}, CPU) for _ in range(3))
    parts = [(3, 0.1), (5, 0.7)], [(4, 0.2), (1, 0.3)]
    fill(first, parts[0])
    second.load_state([first.state()])
    fill(second, parts[1])
    fill(whole, parts[0] + parts[1])
    assert second.means() == whole.means()


def test_the_states_of_two_ranks_go_on_in_one_process():
    whole, first, second, alone = (Averages({"accuracy": accuracy}, CPU) for _ in range(4))
    for averages, sample in ((first, (3, 0.1)), (second, (5, 0.7))):
        averages.add(*batch(*sample, right=2))
        whole.add(*batch(*sample, right=2))
    alone.load_state([first.state(), second.state()])
    for averages in (whole, alone):
        averages.add(*batch(4, 0.2, right=1))
    assert alone.means() == pytest.approx(whole.means())


def test_accuracy_of_one_score_per_sample_is_refused():
    for outputs in (torch.randn(8, 1), torch.randn(8), torch.randn(8, 1, 2, 2)):
        with pytest.raises(ValueError, match="highest of several scores, but each sample has one"):
            accuracy(outputs, torch.zeros(8, dtype=torch.int64))


@pytest.mark.parametrize(("scores", "labels"), [((8, 7, 20), (8, 7)), ((8, 3), (8, 1)), ((8, 3), (1, 8))])
def test_accuracy_of_labels_elsewhere_is_refused(scores, labels):
    with pytest.raises(ValueError, match=r"takes scores \[N, classes, …\] and labels \[N, …\], not shape"):
        accuracy(torch.randn(scores), torch.zeros(labels, dtype=torch.int64))


@pytest.mark.parametrize(
    "metric",
    [
        lambda outputs, targets: torch.stack([(outputs.argmax(1) == label).float().mean() for label in range(3)]),
        lambda outputs, targets: (outputs[:, :1] > 0) == targets,
    ],
    ids=["one per class", "each with each"],
)
def test_a_metric_of_as_many_values_as_samples_by_chance_is_refused(metric):
    model = torch.nn.Linear(4, 3)
    ours = Trainer(
        model, torch.optim.SGD(model.parameters()), torch.nn.CrossEntropyLoss(), metrics={"a": metric}, progress=False
    )
    with pytest.raises(ValueError, match=r"'a' returned shape .* for 3 samples, and shape .* for 1 of them"):
        ours.fit([(torch.randn(3, 4), torch.tensor([0, 1, 2]))], 1)


def right(outputs, targets):
    return outputs.numpy().argmax(1) == targets.numpy()


@pytest.mark.parametrize(
    ("metric", "sentence"),
    [
        (right, None),
        (lambda outputs, targets: right(outputs, targets).mean(), None),
        (lambda outputs, targets: np.array(right(outputs, targets).mean()), None),
        (lambda outputs, targets: (right(outputs, targets).sum(), len(targets)), None),
        (lambda outputs, targets: (right(outputs, targets)[:, None].sum(0), len(targets)), None),
        (lambda outputs, targets: right(outputs, targets)[None], r"returned shape \[1, 6\] for 6"),
        (lambda outputs, targets: (right(outputs, targets), 6), r"returned \(shape \[6\], int\) for 6"),
        (lambda outputs, targets: right(outputs, targets).tolist() * 2, "returned list for 6"),
        (lambda outputs, targets: str(right(outputs, targets).mean()), "returned str for 6"),
    ],
)
@pytest.mark.parametrize("validated", [False, True])
def test_a_metric_may_return_numbers_of_numpy_and_what_is_none_is_named(metric, sentence, validated):
    torch.manual_seed(0)
    model = torch.nn.Linear(4, 3)
    batches = [(torch.randn(6, 4), torch.randint(3, (6,))) for _ in range(2)]
    ours = Trainer(
        model,
        torch.optim.SGD(model.parameters(), lr=0.0),
        torch.nn.CrossEntropyLoss(),
        metrics={"a": metric, "b": accuracy},
        progress=False,
    )
    if sentence is None:
        history = ours.fit(batches, 1, batches if validated else None)
        assert history["a"] == history["b"]
        assert not validated or history["val_a"] == history["val_b"]
    else:
        with pytest.raises(ValueError, match=f"'a' {sentence} samples. It has to return one row per sample"):
            ours.fit(batches, 1, batches if validated else None)


def test_a_metric_of_outputs_that_have_the_samples_elsewhere_is_accepted():
    class TimeFirst(torch.nn.Linear):
        def forward(self, inputs):
            return super().forward(inputs).expand(7, -1, -1)

    model = TimeFirst(4, 3)
    ours = Trainer(
        model,
        torch.optim.SGD(model.parameters()),
        lambda outputs, targets: torch.nn.functional.cross_entropy(outputs.mean(0), targets, reduction="none"),
        metrics={"sure": lambda outputs, targets: outputs.mean(0).softmax(1).amax(1)},
        progress=False,
    )
    history = ours.fit([(torch.randn(5, 4), torch.tensor([0, 1, 2, 0, 1]))] * 2, 1)
    assert 0 < history["sure"][0] < 1
