"""What stands round the steps, and layers that do the work of one: misuse raises its alarm, what is right none."""

import copy
import random
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, Dataset

from torchcourse.lessons.troubleshooting.program_invariants import workers
from torchcourse.lessons.troubleshooting.surroundings import Iteration
from torchcourse.tools.bench.programs import Watch, batches, clouds, dense, judge


def names(program: Callable[[Watch], None]) -> list[str]:
    return [alarm.name for alarm in judge(program)]


def step(model: nn.Module, optimizer: torch.optim.Optimizer, x: torch.Tensor, y: torch.Tensor) -> None:
    optimizer.zero_grad()
    F.cross_entropy(model(x), y).backward()
    optimizer.step()


class Fit:
    """Keeps the best model, as its own attribute or as a name within the loop."""

    def __init__(self, keep: Callable[[nn.Module], nn.Module], own: bool) -> None:
        self.keep, self.own, self.model = keep, own, dense()
        self.best_model: nn.Module | None = None

    def run(self, watch: Watch) -> nn.Module | None:
        net, best_net = self.model, None
        optimizer = torch.optim.SGD(net.parameters(), lr=0.05)
        with watch(net, optimizer):
            for number, (x, y) in enumerate(batches(*clouds(96), steps=6)):
                step(net, optimizer, x, y)
                if number == 2 and self.own:
                    self.best_model = self.keep(net)
                elif number == 2:
                    best_net = self.keep(net)
        return best_net


@pytest.mark.parametrize("own", [True, False])
@pytest.mark.parametrize(("keep", "alarms"), [(lambda model: model, ["state_is_no_copy"]), (copy.deepcopy, [])])
def test_the_best_model_is_a_copy(keep: Callable, own: bool, alarms: list[str]) -> None:
    assert names(Fit(keep, own).run) == alarms


@pytest.mark.parametrize(
    ("rows", "alarms"),
    [
        (torch.arange(6), ["rows_lost"]),
        (np.zeros((6, 2)), ["rows_lost"]),
        (np.arange(6), []),
        (list(torch.arange(6)), []),
    ],
)
def test_what_is_shuffled_keeps_its_rows(rows: Any, alarms: list[str]) -> None:
    def program(watch: Watch) -> None:
        model = dense()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
        with watch(model, optimizer):
            random.shuffle(rows)
            for x, y in batches(*clouds(96), steps=4):
                step(model, optimizer, x, y)

    assert names(program) == alarms


SHARED = np.random.RandomState(0)


class Draws(Dataset):
    """Samples with noise from NumPy's common generator, from its own, from one of the module, or from none."""

    def __init__(self, kind: str) -> None:
        self.kind, self.own = kind, np.random.RandomState(0)

    def __len__(self) -> int:
        return 8

    def __getitem__(self, number: int) -> float:
        own: Any = {"own": self.own, "common": np.random, "module": SHARED}.get(self.kind)
        return number + (0.0 if own is None else own.rand())


@pytest.mark.parametrize(
    ("kind", "count", "seed", "alarms"),
    [
        ("common", 2, lambda _: np.random.seed(42), ["workers_alike"]),
        ("common", 2, np.random.seed, ["epochs_alike"]),
        ("common", 1, lambda _: np.random.seed(42), ["epochs_alike"]),
        ("common", 2, lambda _: np.random.seed(torch.initial_seed() % 2**32), []),
        ("common", 2, None, []),
        ("own", 2, None, ["workers_alike"]),
        ("module", 2, None, ["workers_alike"]),
        ("own", 1, None, ["epochs_alike"]),
        ("none", 2, lambda _: np.random.seed(42), []),
    ],
)
def test_each_worker_and_each_epoch_draws_its_own_numbers(
    kind: str, count: int, seed: Callable | None, alarms: list[str]
) -> None:
    loader = DataLoader(Draws(kind), num_workers=count, worker_init_fn=seed)
    before = np.random.get_state()[2]
    run: Any = SimpleNamespace(
        around=SimpleNamespace(iterations=[Iteration(loader, n, None) for n in (0, 4)]),
        loaders=[loader],
        steps=[None] * 8,
        trained=[SimpleNamespace(step=number) for number in range(8)],
    )
    assert [alarm.name for alarm in workers(run)] == alarms
    assert np.random.get_state()[2] == before
    loader = DataLoader(Draws(kind), num_workers=count, worker_init_fn=seed, persistent_workers=True)
    run.loaders, run.around.iterations = [loader], [Iteration(loader, 0, None), Iteration(loader, 4, None)]
    assert [alarm.name for alarm in workers(run)] == [name for name in alarms if name != "epochs_alike"]


@pytest.mark.parametrize(("given", "alarms"), [("first", []), ("other", []), ("none", ["not_mixed"])])
def test_clients_with_a_class_each_are_no_data_in_order(given: str, alarms: list[str]) -> None:
    def program(watch: Watch) -> None:
        model, (x, y) = dense(), clouds(400)
        server = {key: 1.0 * value for key, value in copy.deepcopy(model.state_dict()).items()}
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
        with watch(model, optimizer):
            for client in range(4):
                if given != "none":
                    scale = 1 + 0.01 * client * (given == "other")
                    model.load_state_dict({key: scale * value for key, value in server.items()})
                for rows in (y == client).nonzero()[:64, 0].split(16):
                    step(model, optimizer, x[rows], y[rows])

    assert names(program) == alarms


@pytest.mark.parametrize(("again", "alarms"), [(True, []), (False, ["validated_on_training_data"])])
def test_a_training_that_begins_again_has_seen_nothing(again: bool, alarms: list[str]) -> None:
    def program(watch: Watch) -> None:
        model, (x, y) = dense(), clouds(96)
        start = copy.deepcopy(model.state_dict())
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
        folds = list(torch.randperm(96).split(24))
        with watch(model, optimizer):
            for number in range(3):
                if again:
                    model.load_state_dict(start)
                for rows in (*folds[:number], *folds[number + 1 :]):
                    for part in rows.split(12):
                        step(model, optimizer, x[part], y[part])
                model.eval()
                with torch.no_grad():
                    model(x[folds[number]])
                model.train()

    assert names(program) == alarms


@pytest.mark.parametrize(("drops", "alarms"), [(False, []), (True, ["eval_in_training"])])
def test_a_frozen_part_may_stay_in_evaluation_mode(drops: bool, alarms: list[str]) -> None:
    def program(watch: Watch) -> None:
        body = nn.Sequential(nn.Linear(12, 24), nn.BatchNorm1d(24), nn.ReLU(), nn.Dropout(0.1)).requires_grad_(False)
        model = nn.Sequential(body, nn.Dropout(0.1 * drops), nn.Linear(24, 4)).eval()
        optimizer = torch.optim.SGD(model[-1].parameters(), lr=0.05)
        with watch(model, optimizer):
            for x, y in batches(*clouds(96), steps=4):
                step(model, optimizer, x, y)

    assert names(program) == alarms


class Fills(nn.Module):
    """Puts 0 where a number is missing, and looks whole numbers up."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(9, 12)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.nan_to_num() if x.is_floating_point() else self.words(x)


@pytest.mark.parametrize(("mode", "alarms"), [(False, []), (True, ["train_in_evaluation"])])
def test_numbers_that_are_missing_are_no_difference_between_training_and_validation(
    mode: bool, alarms: list[str]
) -> None:
    def program(watch: Watch) -> None:
        model = nn.Sequential(Fills(), dense(12, 4, nn.Dropout(0.1)))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
        x, y = clouds(128)
        x[::5, 3] = torch.nan
        with watch(model, optimizer):
            for _ in range(2):
                for rows in torch.randperm(96).split(24):
                    step(model.train(), optimizer, x[rows], y[rows])
                with torch.no_grad():
                    model.train(mode)(x[96:])

    assert names(program) == alarms


def test_words_beside_numbers_hide_no_layers_in_a_row() -> None:
    def program(watch: Watch) -> None:
        model = nn.Sequential(Fills(), nn.Linear(12, 24), nn.Linear(24, 4))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
        with watch(model, optimizer):
            for x, y in batches(*clouds(96), steps=4):
                (F.cross_entropy(model(x), y) + F.cross_entropy(model(torch.randint(9, (len(x),))), y)).backward()
                optimizer.step()
                optimizer.zero_grad()

    assert names(program) == ["nothing_nonlinear"]


@pytest.mark.parametrize(
    ("layers", "alarms"),
    [
        ((nn.Linear(12, 24), nn.Linear(24, 8), nn.Linear(8, 4)), ["nothing_nonlinear"]),
        ((nn.Linear(12, 24), nn.Dropout(0.1), nn.Linear(24, 4)), ["nothing_nonlinear"]),
        ((nn.Linear(12, 24), nn.Tanh(), nn.Linear(24, 4)), []),
        ((nn.Linear(12, 2), nn.Linear(2, 4)), []),  # of rank 2
        ((nn.Linear(12, 24, bias=False), nn.Linear(24, 4)), []),
        ((nn.Linear(12, 4),), []),
    ],
)
def test_layers_in_a_row_are_not_one_linear_function(layers: tuple, alarms: list[str]) -> None:
    def program(watch: Watch) -> None:
        model = copy.deepcopy(nn.Sequential(*layers))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
        with watch(model, optimizer):
            for x, y in batches(*clouds(96), steps=4):
                step(model, optimizer, x, y)

    assert names(program) == alarms
