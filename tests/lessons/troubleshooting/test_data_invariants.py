"""Inputs, labels and validation: each misuse raises its alarm, and what is right raises none."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from torchcourse.lessons.troubleshooting.invariants import SanityProbe
from torchcourse.tools.bench.programs import clouds, dense


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def names(
    model: nn.Module,
    loss: Callable,
    x: torch.Tensor,
    y: torch.Tensor,
    validated: torch.Tensor | None = None,
    look: Callable[[torch.Tensor], object] | None = None,
) -> list[str]:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    with SanityProbe(model, optimizer) as probe:
        for xb, yb in zip(x.split(32), y.split(32), strict=True):
            optimizer.zero_grad()
            loss(model(xb), yb).backward()
            optimizer.step()
        if validated is not None:
            model.eval()
            with torch.no_grad():
                (look or model)(validated)
    return [alarm.name for alarm in probe.alarms()]


@pytest.mark.parametrize(
    ("column", "loss", "answer", "alarms"),
    [
        (0, lambda out, y: F.mse_loss(out[:, 0], y), lambda x: x[:, 0] + 0.1 * torch.randn(len(x)), []),
        (3, lambda out, y: F.mse_loss(out[:, 0], y), lambda x: x[:, 3], ["answer_among_inputs"]),
        (3, lambda out, y: F.mse_loss(out, y), lambda x: x[:, 3:4], ["answer_among_inputs"]),
        (3, lambda out, y: F.mse_loss(out, y), lambda x: x[:, 2:6], []),  # what an autoencoder does
        (5, F.cross_entropy, lambda x: x[:, 5].long(), ["answer_among_inputs"]),
    ],
)
def test_the_answer_is_not_among_the_inputs(column: int, loss: Callable, answer: Callable, alarms: list[str]) -> None:
    x = torch.randn(192, 12)
    x[:, 5] = torch.randint(4, (192,)).float()
    assert names(dense(), loss, x, answer(x)) == alarms


def test_a_rim_that_tells_where_a_picture_comes_from_is_no_answer() -> None:
    pictures = F.pad(torch.rand(192, 1, 4, 4), (1, 1, 1, 1))
    origin = torch.arange(192) % 2
    pictures = torch.where(origin[:, None, None, None] == 1, 1 - pictures, pictures)
    model = nn.Sequential(nn.Flatten(), nn.Linear(36, 2))
    assert names(model, F.cross_entropy, pictures, origin) == []


@pytest.mark.parametrize(("ignored", "alarms"), [(-100, []), (2, ["class_ignored"]), (0, ["class_ignored"])])
def test_a_class_of_the_model_counts(ignored: int, alarms: list[str]) -> None:
    x, y = clouds(192)
    assert names(dense(), lambda out, y: F.cross_entropy(out, y, ignore_index=ignored), x, y) == alarms


@pytest.mark.parametrize(
    ("change", "alarms"), [(lambda x: x, []), (lambda x: 5 * x, ["validation_differs"]), (lambda x: x + 4, [])]
)
def test_a_series_may_go_on_elsewhere_and_is_prepared_alike(change: Callable, alarms: list[str]) -> None:
    """Windows that do not overlap, of a series with a trend: the years to come lie higher."""
    time = torch.arange(1700.0)
    series = (time / 5).sin() + 0.1 * torch.randn(1700)
    windows = series.unfold(0, 10, 10)  # [170, 10]
    later = change(windows[128:])
    assert names(dense(9, 1), F.mse_loss, windows[:128, :9], windows[:128, 9:], later[:, :9]) == alarms


@pytest.mark.parametrize(
    ("frozen", "norm", "alarms"),
    [
        (True, nn.BatchNorm1d(16), []),
        (False, nn.BatchNorm1d(16), ["inputs_not_normalised"]),
        (True, nn.BatchNorm1d(16).eval(), ["inputs_not_normalised"]),
        (True, nn.Identity(), ["inputs_not_normalised"]),
    ],
)
def test_what_a_frozen_layer_gets_may_have_any_size_where_it_is_normalized_next(
    frozen: bool, norm: nn.Module, alarms: list[str]
) -> None:
    x, y = clouds(192)
    model = nn.Sequential(nn.Linear(12, 16), norm, nn.ReLU(), nn.Linear(16, 4))
    model[0].requires_grad_(not frozen)
    assert [name for name in names(model, F.cross_entropy, 9 * x, y) if "inputs" in name] == alarms


@pytest.mark.parametrize(("spreads", "alarms"), [((1, 8), []), ((8, 8), ["validation_differs"])])
def test_anomalies_may_be_validated_on_beside_what_is_normal(spreads: tuple[int, int], alarms: list[str]) -> None:
    x, model = torch.randn(192, 12), dense(12, 12)

    def look(validated: torch.Tensor) -> None:
        for batch, spread in zip(validated.split(32), spreads, strict=True):
            model(spread * batch)

    assert names(model, F.mse_loss, x, x.roll(1, 1), torch.randn(64, 12), look) == alarms


def test_rows_of_a_few_whole_numbers_are_alike_by_chance() -> None:
    class Table(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.head = nn.Embedding(4, 6), nn.Linear(26, 2)

        def forward(self, kinds: torch.Tensor, numbers: torch.Tensor) -> torch.Tensor:
            return self.head(torch.cat([self.embed(kinds).flatten(1), numbers], dim=1))

    kinds, numbers, y = torch.randint(4, (256, 4)), torch.randn(256, 2), torch.randint(2, (256,))
    model = Table()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)

    def found(validated: slice) -> list[str]:
        with SanityProbe(model, optimizer) as probe:
            for rows in torch.arange(192).split(32):
                optimizer.zero_grad()
                F.cross_entropy(model(kinds[rows], numbers[rows]), y[rows]).backward()
                optimizer.step()
            with torch.no_grad():
                model(kinds[validated], numbers[validated])
        return [alarm.name for alarm in probe.alarms()]

    assert found(slice(192, 256)) == []
    assert found(slice(160, 256)) == ["validated_on_training_data"]


@pytest.mark.parametrize(("apart", "alarms"), [(True, []), (False, ["validated_on_training_data"])])
def test_a_rare_class_is_sampled_more_often_after_the_split(apart: bool, alarms: list[str]) -> None:
    x, y = clouds(256)
    rare = (y == 0).nonzero().flatten()
    given = torch.randperm(256 + 3 * len(rare))
    order = torch.cat([torch.arange(256), *3 * [rare]])[given] if not apart else torch.randperm(256)
    trained, rest = order[:192], order[192:]
    validated = torch.cat([rest, rest[:16]]) if apart else rest
    assert names(dense(), F.cross_entropy, x[trained], y[trained], x[validated]) == alarms


def test_numbers_of_persons_say_nothing_of_samples() -> None:
    class Factors(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.persons, self.things = nn.Embedding(9, 4), nn.Embedding(9, 4)

        def forward(self, person: torch.Tensor, thing: torch.Tensor) -> torch.Tensor:
            return (self.persons(person) * self.things(thing)).sum(1)

    model, (one, other) = Factors(), torch.randint(9, (2, 192))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    with SanityProbe(model, optimizer) as probe:
        for rows in torch.arange(128).split(32):
            optimizer.zero_grad()
            F.mse_loss(model(one[rows], other[rows]), torch.randn(32)).backward()
            optimizer.step()
        with torch.no_grad():
            model(one[128:], other[128:])
    assert [alarm.name for alarm in probe.alarms()] == []


@pytest.mark.parametrize(("part", "alarms"), [(True, []), (False, ["validated_on_training_data"])])
def test_features_of_training_samples_are_no_validation(part: bool, alarms: list[str]) -> None:
    x, y = clouds(256)
    model = dense()
    look = model[:2] if part else model
    assert names(model, F.cross_entropy, x[:192], y[:192], x[150:], look) == alarms


@pytest.mark.parametrize(
    ("kind", "alarms"), [("one buffer", ["same_samples"]), ("the same batch", ["same_samples"]), ("states", [])]
)
def test_states_of_a_game_come_again_with_other_values(kind: str, alarms: list[str]) -> None:
    x = F.one_hot(torch.arange(10), 10).float() if kind == "states" else torch.randn(10, 10)
    model = nn.Linear(10, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    with SanityProbe(model, optimizer) as probe:
        for step in range(8):
            places = torch.randint(10, (32,)) if kind == "states" else torch.full((32,), step)
            batch = x[places] if kind != "one buffer" else torch.randn(1, 10).repeat(32, 1)
            batch = x[:4].repeat(8, 1) if kind == "the same batch" else batch
            optimizer.zero_grad()
            F.mse_loss(model(batch)[:, 0], torch.randn(32)).backward()
            optimizer.step()
    assert [alarm.name for alarm in probe.alarms()] == alarms
