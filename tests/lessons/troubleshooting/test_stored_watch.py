"""Samples that are changed in place: what piles up from epoch to epoch is found, and what is right raises no alarm."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from torchcourse.lessons.troubleshooting.invariants import SanityProbe

Augment = Callable[[torch.Tensor], torch.Tensor]


def epochs(take: Callable[[torch.Tensor, int], torch.Tensor], augment: Augment) -> list[str]:
    """Train for three epochs of 4 steps; `take` gives the batch that begins at a row."""
    torch.manual_seed(0)
    model, x = nn.Linear(24, 2), torch.randn(64, 24)
    y = (x[:, 0] > 0).long()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    with SanityProbe(model, optimizer) as probe:
        for row in [row for _ in range(3) for row in range(0, 64, 16)]:
            batch = augment(take(x, row))
            optimizer.zero_grad()
            F.cross_entropy(model(batch), y[row : row + 16]).backward()
            optimizer.step()
    return [alarm.name for alarm in probe.alarms()]


def with_noise(batch: torch.Tensor) -> torch.Tensor:
    batch += 0.2 * torch.randn(batch.shape, device=batch.device)
    return batch


def erased(batch: torch.Tensor) -> torch.Tensor:
    batch[:, int(torch.randint(24, ()))] = 0.0
    return batch


def brighter(batch: torch.Tensor) -> torch.Tensor:
    return batch.mul_(1.1).sub_(0.1)


def cut(batch: torch.Tensor) -> torch.Tensor:
    return batch.clamp_(-1, 1)


def a_slice(x: torch.Tensor, row: int) -> torch.Tensor:
    return x[row : row + 16]


def one_by_one(x: torch.Tensor, row: int) -> torch.Tensor:
    return torch.stack([with_noise(x[number]) for number in range(row, row + 16)])


@pytest.mark.parametrize(
    ("take", "augment", "alarms"),
    [
        (a_slice, with_noise, ["dataset_changed"]),
        (a_slice, erased, ["dataset_changed"]),
        (a_slice, brighter, ["dataset_changed"]),
        (lambda x, row: x.split(16)[row // 16], with_noise, ["dataset_changed"]),
        (one_by_one, lambda batch: batch, ["dataset_changed"]),
        (a_slice, lambda batch: with_noise(batch.clone()), []),
        (a_slice, lambda batch: batch + 0.2 * torch.randn_like(batch), []),
        (lambda x, row: x[torch.arange(row, row + 16)], with_noise, []),  # a copy, as rows that are picked are
        (a_slice, cut, []),  # cut for good at the first time
    ],
)
def test_samples_are_stored_as_they_are(take: Callable, augment: Augment, alarms: list[str]) -> None:
    assert epochs(take, augment) == alarms


@pytest.mark.parametrize("how", ["whole", "in place", "out"])
def test_a_buffer_may_be_filled_anew_for_each_batch(how: str) -> None:
    buffer = torch.zeros(64, 24)

    def take(x: torch.Tensor, row: int) -> torch.Tensor:
        if how == "whole":
            buffer.copy_(x)
            return buffer[row : row + 16]
        if how == "in place":
            return buffer[row : row + 16].copy_(x[row : row + 16])
        return torch.index_select(x, 0, torch.arange(row, row + 16), out=buffer[row : row + 16])

    assert epochs(take, with_noise) == []


def test_a_trace_of_the_samples_so_far_is_kept_on_purpose() -> None:
    traces = torch.zeros(64, 24)

    def take(x: torch.Tensor, row: int) -> torch.Tensor:
        return traces[row : row + 16].mul_(0.9).add_(x[row : row + 16])

    assert epochs(take, lambda batch: batch) == []


def test_a_world_may_be_moved_in_place_by_chance() -> None:
    """A random walk: where the walkers are is what the policy gets, and no sample that is stored."""
    torch.manual_seed(0)
    policy, places = nn.Linear(24, 3), torch.randn(64, 24)
    optimizer = torch.optim.SGD(policy.parameters(), lr=0.01)
    with SanityProbe(policy, optimizer) as probe:
        for _ in range(12):
            walkers = with_noise(places[:16])
            actions = torch.distributions.Categorical(logits=policy(walkers))
            drawn = actions.sample()
            better = (drawn == walkers[:, :3].argmax(dim=1)).float() - 1 / 3
            optimizer.zero_grad()
            (-better * actions.log_prob(drawn)).mean().backward()
            optimizer.step()
    assert probe.alarms() == []


def test_counts_beside_the_data_grow_in_place() -> None:
    counts = torch.zeros(4, 24)

    def take(x: torch.Tensor, row: int) -> torch.Tensor:
        counts[row // 16] += 1
        return x[row : row + 16]

    assert epochs(take, lambda batch: batch) == []
