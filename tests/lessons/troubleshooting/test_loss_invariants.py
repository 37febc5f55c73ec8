"""Sizes and sums of losses: each misuse raises its alarm, and what is right raises none."""

import math
from collections.abc import Callable, Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, DistributedSampler, RandomSampler, Sampler, TensorDataset

from torchcourse.lessons.troubleshooting.invariants import SanityProbe
from torchcourse.lessons.troubleshooting.makers import from_directions, maker
from torchcourse.tools.bench.programs import clouds, dense

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def names(model: nn.Module, loss_of: Loss, steps: int = 6) -> list[str]:
    torch.manual_seed(0)
    x, y = clouds(steps * 32)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    with SanityProbe(model, optimizer) as probe:
        for xb, yb in zip(x.split(32), y.split(32), strict=True):
            optimizer.zero_grad()
            loss_of(model(xb), yb).backward()
            optimizer.step()
    return [alarm.name for alarm in probe.alarms()]


class Angles(nn.Module):
    """Cosines between a sample's direction and that of each class, times `scale`, with a margin for the right class."""

    def __init__(self, scale: float, margin: float = 0.0) -> None:
        super().__init__()
        self.body, self.classes = nn.Linear(12, 8), nn.Parameter(torch.randn(4, 8))
        self.scale, self.margin = scale, margin

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        cosines = F.normalize(self.body(x)) @ F.normalize(self.classes).T
        return cosines if self.scale == 1 else self.scale * cosines

    def loss(self, scores: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(scores - self.margin * F.one_hot(labels, 4), labels)


@pytest.mark.parametrize(
    ("model", "alarms"),
    [
        (lambda: Angles(16.0), []),
        (lambda: Angles(16.0, margin=8.0), []),  # its first loss is far above log(4), as it is meant to be
        (lambda: Angles(1.0), ["cosines_unscaled"]),
    ],
)
def test_cosines_have_a_size(model: Callable[[], Angles], alarms: list[str]) -> None:
    torch.manual_seed(0)
    made = model()
    assert names(made, made.loss if made.margin else F.cross_entropy) == alarms


def test_scores_that_start_sure_and_wrong_are_said_where_they_are_no_directions() -> None:
    assert names(dense(), lambda out, y: F.cross_entropy(out - 8 * F.one_hot(y, 4), y)) == ["first_loss"]


def test_what_made_scores_is_read_past_what_arranges_and_cuts() -> None:
    x, layer = torch.randn(4, 6, requires_grad=True), nn.Linear(6, 3)
    assert maker(layer(x).clamp(0, 1).view(-1)) == "Addmm"
    assert maker(layer(x).sigmoid().clamp(0.01, 0.99)) == "Sigmoid"
    assert from_directions(4 * F.normalize(x) @ F.normalize(layer.weight).T)
    assert not from_directions(F.normalize(x) @ layer.weight.T)
    assert not from_directions(x.sum())


@pytest.mark.parametrize(
    ("loss", "alarms"),
    [
        (lambda out, y: F.binary_cross_entropy(out.sigmoid().clamp(1e-6, 1 - 1e-6), F.one_hot(y, 4).float()), []),
        (lambda out, y: F.binary_cross_entropy(F.hardsigmoid(out), F.one_hot(y, 4).float()), []),
        (lambda out, y: F.binary_cross_entropy(out.clamp(1e-6, 1 - 1e-6), F.one_hot(y, 4).float()), ["no_sigmoid"]),
    ],
)
def test_a_logistic_loss_without_a_sigmoid_gets_probabilities(loss: Loss, alarms: list[str]) -> None:
    assert names(dense(), loss) == alarms


@pytest.mark.parametrize(
    ("loss", "alarms"),
    [
        (lambda out, y: F.mse_loss(out[:, 0], y.float()), []),
        (lambda out, y: F.l1_loss(out[:, 0], 3e4 * y + 1e5), ["targets_far_away"]),
        (lambda out, y: F.smooth_l1_loss(out[:, 0], 20.0 * y + 60), []),  # as the returns of a game
        (lambda out, y: F.l1_loss(out[:, 0] + 1e5, 3e4 * y + 1e5), []),
    ],
)
def test_outputs_come_near_the_targets(loss: Loss, alarms: list[str]) -> None:
    assert names(dense(), loss, steps=16) == alarms


def test_a_target_of_the_models_own_answers_is_given() -> None:
    def q_learning(detached: bool) -> list[str]:
        model, (x, reward) = dense(), (torch.randn(192, 12), torch.rand(192))
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
        with SanityProbe(model, optimizer) as probe:
            for rows in torch.arange(192).split(32):
                expected = model(x[rows].flip(1)).amax(1)
                target = reward[rows] + 0.9 * (expected.detach() if detached else expected)
                optimizer.zero_grad()
                F.smooth_l1_loss(model(x[rows])[:, 0], target).backward()
                optimizer.step()
        return [alarm.name for alarm in probe.alarms()]

    torch.manual_seed(0)
    assert q_learning(detached=True) == []
    assert q_learning(detached=False) == ["target_with_gradient"]


@pytest.mark.parametrize("swapped", [False, True])
def test_what_is_added_to_a_picture_is_no_target_whichever_comes_first(swapped: bool) -> None:
    x, _ = clouds(192)

    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(12, 12)

        def forward(self, given: torch.Tensor) -> torch.Tensor:
            return given + self.layer(given)

    def loss(out: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        clean = torch.zeros_like(out)
        return F.mse_loss(clean, out) if swapped else F.mse_loss(out, out.roll(1, 0) + 0 * x[0])

    assert "target_with_gradient" not in names(Residual(), loss)


def test_two_views_may_both_learn_from_their_difference() -> None:
    twice = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
    assert names(dense(), lambda out, y: F.mse_loss(twice(out), out) + F.cross_entropy(out, y)) == []


@pytest.mark.parametrize(("again", "alarms"), [("each", []), ("once", []), ("both", []), ("sum", ["backward_again"])])
def test_each_loss_goes_backward_once(again: str, alarms: list[str]) -> None:
    torch.manual_seed(0)
    model, (x, y) = dense(), clouds(8 * 32)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    with SanityProbe(model, optimizer) as probe:
        for xs, ys in zip(x.split(64), y.split(64), strict=True):
            total: torch.Tensor | float = 0.0
            optimizer.zero_grad()
            for xb, yb in zip(xs.split(32), ys.split(32), strict=True):
                out = model(xb)
                loss = F.cross_entropy(out, yb) / 2
                total = total + loss
                if again == "both":  # two losses of the same outputs, one after the other
                    loss.backward(retain_graph=True)
                    out.square().mean().backward()
                elif again != "once":
                    (loss if again == "each" else total).backward(retain_graph=again == "sum")
            if again == "once":
                total.backward()
            optimizer.step()
    assert [alarm.name for alarm in probe.alarms()] == alarms
    assert math.isfinite(float(total))


def _views(likeness: Callable[[torch.Tensor], torch.Tensor], neighbors: bool = False) -> Loss:
    def loss(out: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        vectors = F.normalize(torch.cat([out, out + 0.1 * torch.randn_like(out)]), dim=1)
        rows = torch.arange(len(vectors))
        if neighbors:
            vectors = vectors.unflatten(0, (2, -1)).transpose(0, 1).flatten(0, 1)
        return F.cross_entropy(likeness(vectors), rows ^ 1 if neighbors else rows.roll(len(out)))

    return loss


@pytest.mark.parametrize(
    ("loss", "alarms"),
    [
        (_views(lambda vectors: vectors @ vectors.T / 0.1), ["self_not_masked"]),
        (_views(lambda vectors: -torch.cdist(vectors, vectors).square(), neighbors=True), ["self_not_masked"]),
        (_views(lambda vectors: (vectors @ vectors.T / 0.1).fill_diagonal_(-math.inf)), []),
        (_views(lambda vectors: vectors @ vectors.T / 0.1 - 1e9 * torch.eye(len(vectors)), neighbors=True), []),
    ],
)
def test_a_sample_is_not_among_those_that_it_is_told_from(loss: Loss, alarms: list[str]) -> None:
    assert names(nn.Linear(12, 8), loss) == alarms


def _by_hand(dim: int) -> Loss:
    return lambda out, y: -(out.log_softmax(dim=dim) * F.one_hot(y, 4)).sum(dim=1).mean()


WEIGHTS = torch.linspace(0.5, 1.5, 32)


@pytest.mark.parametrize(
    ("loss", "alarms"),
    [
        (_by_hand(0), ["softmax_over_batch"]),
        (lambda out, y: -(out.softmax(0).gather(1, y[:, None]) + 1e-6).log().mean(), ["softmax_over_batch"]),
        (_by_hand(1), []),
        (lambda out, y: (F.cross_entropy(out, y, reduction="none") * WEIGHTS[:, None]).mean(), ["broadcast"]),
        (lambda out, y: (WEIGHTS * F.cross_entropy(out, y, reduction="none")).mean(), []),
        (lambda out, y: F.cross_entropy(out, y) / len(y), ["mean_divided_again"]),
        (lambda out, y: F.cross_entropy(out, y, reduction="sum") / len(y), []),
        (lambda out, y: F.cross_entropy(out, y) / math.log(2), []),  # in bits
        (lambda out, y: F.cross_entropy(out, y) / 4, []),
    ],
)
def test_each_sample_counts_once(loss: Loss, alarms: list[str]) -> None:
    assert names(nn.Linear(12, 4), loss) == alarms


@pytest.mark.parametrize("divisor", ["samples", "batches"])
@pytest.mark.parametrize(("parts", "alarms"), [(1, ["mean_divided_again"]), (9, [])])
def test_a_mean_is_not_divided_by_the_size_of_the_data(divisor: str, parts: int, alarms: list[str]) -> None:
    torch.manual_seed(0)
    model, loader = nn.Linear(12, 4), DataLoader(TensorDataset(*clouds(144)), batch_size=16, shuffle=True)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with SanityProbe(model, optimizer) as probe:
        for _ in range(3):
            for number, (x, y) in enumerate(loader):
                (F.cross_entropy(model(x), y) / (144 if divisor == "samples" else len(loader))).backward()
                if number % parts == parts - 1:
                    optimizer.step()
                    optimizer.zero_grad()
    assert [alarm.name for alarm in probe.alarms()] == alarms


class OfARank(DistributedSampler):
    """A rank's share of what a sampler deals, as Lightning and Catalyst wrap one."""

    def __init__(self, sampler: Sampler) -> None:
        super().__init__(range(len(sampler)), num_replicas=2, rank=0)
        self.sampler = sampler

    def __iter__(self) -> Iterator[int]:
        dealt = list(self.sampler)
        return (dealt[number] for number in super().__iter__())


@pytest.mark.parametrize(("divided", "alarms"), [(True, ["mean_divided_again"]), (False, [])])
def test_a_mean_is_not_divided_by_the_size_of_a_ranks_share(divided: bool, alarms: list[str]) -> None:
    torch.manual_seed(0)
    data = TensorDataset(*clouds(144))
    sampler = OfARank(RandomSampler(data))
    model, loader = nn.Linear(12, 4), DataLoader(data, 12, sampler=sampler)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with SanityProbe(model, optimizer) as probe:
        for epoch in range(2):
            sampler.set_epoch(epoch)
            for x, y in loader:
                optimizer.zero_grad()
                (F.cross_entropy(model(x), y) / (len(sampler) if divided else 1)).backward()
                optimizer.step()
    assert [alarm.name for alarm in probe.alarms()] == alarms


def test_the_weight_of_a_loss_may_be_1_in_10() -> None:
    torch.manual_seed(0)
    model, (x, y) = nn.Linear(12, 4), clouds(60)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with SanityProbe(model, optimizer) as probe:
        for rows in torch.arange(60).split(10):
            optimizer.zero_grad()
            (0.1 * F.cross_entropy(model(x[rows]), y[rows])).backward()
            optimizer.step()
    assert probe.alarms() == []


@pytest.mark.parametrize(
    ("drop", "alarms"),
    [
        (lambda x, training: F.dropout(x, p=0.9, training=training), ["drops_nearly_all"]),
        (lambda x, training: torch.dropout(x, 0.9, training), ["drops_nearly_all"]),
        (lambda x, training: F.dropout(x, training=training), []),
        (lambda x, _: torch.dropout(x, p=0.9, train=False), []),
    ],
)
def test_a_dropout_function_drops_the_smaller_part(drop: Callable, alarms: list[str]) -> None:
    class Dropping(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(drop(x, self.training))

    assert names(Dropping(12, 4), F.cross_entropy) == alarms


@pytest.mark.parametrize("kind", ["of one's own", "of no samples"])
def test_of_accumulated_losses_some_may_say_nothing(kind: str) -> None:
    torch.manual_seed(0)
    model, (x, y) = nn.Linear(12, 4), clouds(96)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with SanityProbe(model, optimizer) as probe:
        for rows in torch.arange(96).split(16):
            for part in rows.split(8):
                if kind == "of one's own" and rows[0] == 0:
                    (-model(x[part]).log_softmax(dim=1)[torch.arange(8), y[part]].mean() / 2).backward()
                else:
                    (F.cross_entropy(model(x[part]), y[part]) / 2).backward()
            if kind == "of no samples":
                F.cross_entropy(model(x[:0]), y[:0]).nan_to_num().backward()
            optimizer.step()
            optimizer.zero_grad()
    assert [alarm.name for alarm in probe.alarms()] == (["not_finite"] if kind == "of no samples" else [])
