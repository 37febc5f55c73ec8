"""Deals of samples that are fair, or that are PyTorch's, are accepted; each other has its symptom."""

import math
import random

import numpy as np
import pytest
import torch
from torch.utils.data import DistributedSampler

from torchcourse.lessons.data_parallelism import sampling
from torchcourse.lessons.data_parallelism.checks import dealing as check
from verdicts import accepted, refused, todo


def mixed(length, epoch):
    return torch.randperm(length, generator=torch.Generator().manual_seed(epoch)).tolist()


# samples_of_rank


def shuffled(total, epoch):
    return torch.tensor(mixed(total, epoch))


def every_nth(total, epoch, rank, world_size):
    return shuffled(total, epoch)[: total - total % world_size][rank::world_size].tolist()


def own_block(total, epoch, rank, world_size):
    each = total // world_size
    return shuffled(total, epoch)[rank * each : (rank + 1) * each]


def drawn_from_a_numpy_generator(total, epoch, rank, world_size):
    import numpy as np

    order = np.random.default_rng(7 + epoch).permutation(total)
    return order[: total // world_size * world_size].reshape(world_size, -1)[rank]


def drawn_from_a_fork(total, epoch, rank, world_size):
    with torch.random.fork_rng():
        torch.manual_seed(epoch)
        return torch.randperm(total).tolist()[rank::world_size][: total // world_size]


def sampled_by_python(total, epoch, rank, world_size):
    return random.Random(epoch).sample(range(total), total // world_size * world_size)[rank::world_size]


@pytest.mark.parametrize(
    "answer", [every_nth, own_block, drawn_from_a_numpy_generator, drawn_from_a_fork, sampled_by_python]
)
def test_samples_of_rank_accepts(answer):
    accepted(check.samples_of_rank(answer))


def block_mixed(total, epoch, rank, world_size):
    each = total // world_size
    return [rank * each + number for number in mixed(each, epoch)]


def after_seeding(seed):
    def answer(total, epoch, rank, world_size):
        seed(epoch)
        return every_nth(total, epoch, rank, world_size)

    return answer


def first_ones_mixed(total, epoch, rank, world_size):
    return mixed(total // world_size * world_size, epoch)[rank::world_size]


def turned(total, epoch, rank, world_size):
    order, each = mixed(total, 0), total // world_size
    return (order[epoch:] + order[:epoch])[rank * each : (rank + 1) * each]


GENERATOR = torch.Generator().manual_seed(0)


def one_generator_for_all_calls(total, epoch, rank, world_size):
    return torch.randperm(total, generator=GENERATOR)[: total - total % world_size][rank::world_size]


def by_a_text(total, epoch, rank, world_size):
    return every_nth(total, hash(f"epoch {epoch}"), rank, world_size)


@pytest.mark.parametrize(
    ("answer", "symptom"),
    [
        (lambda total, epoch, rank, ranks: every_nth(total, epoch % 2, rank, ranks), "same_order"),
        (lambda total, epoch, rank, ranks: sorted(every_nth(total, epoch, rank, ranks)), "sorted"),
        (turned, "same_order"),
        (by_a_text, "other_process"),
        (one_generator_for_all_calls, "not_repeatable"),
        (first_ones_mixed, "same_left_out"),
        (lambda total, epoch, rank, ranks: shuffled(total, epoch)[: total // ranks], "same_data"),
        (lambda total, epoch, rank, ranks: torch.randperm(total)[rank::ranks], "overlap"),
        (lambda total, epoch, rank, ranks: shuffled(total, epoch + rank)[: total // ranks], "overlap"),
        (lambda total, epoch, rank, ranks: shuffled(total, epoch)[rank : total - 1 : ranks], "uneven"),
        (lambda total, epoch, rank, ranks: shuffled(total, epoch)[rank * 10 : rank * 10 + 10], "samples_lost"),
        (lambda total, epoch, rank, ranks: shuffled(total, 0)[rank::ranks], "same_every_epoch"),
        (lambda total, epoch, rank, ranks: list(range(rank, total, ranks))[:: 1 - 2 * (epoch % 2)], "not_mixed"),
        (lambda total, epoch, rank, ranks: list(range(rank, total, ranks)), "not_mixed"),
        (lambda total, epoch, rank, ranks: [(n + epoch + 1) % total for n in range(rank, total, ranks)], "not_mixed"),
        (lambda total, epoch, rank, ranks: block_mixed(total, epoch, rank, ranks), "same_parts"),
        (lambda total, epoch, rank, ranks: every_nth(total, 0, (rank + epoch) % ranks, ranks), "same_parts"),
        (
            lambda total, epoch, rank, ranks: [number + 0.5 for number in every_nth(total, epoch, rank, ranks)],
            "wrong_type",
        ),
        (after_seeding(torch.manual_seed), "global_seed"),
        (after_seeding(random.seed), "global_seed"),
        (after_seeding(np.random.seed), "global_seed"),
        (lambda total, epoch, rank, ranks: shuffled(total, epoch)[: total - total % 2][rank::2], "two_ranks_only"),
        (lambda total, epoch, rank, ranks: shuffled(total, epoch)[rank::ranks] + 1, "out_of_range"),
        (lambda total, epoch, rank, ranks: None, "wrong_type"),
        (lambda total, epoch, rank, ranks: every_nth(total, 0, rank, ranks)[: 20 - epoch], "samples_lost"),
        (lambda total, epoch, rank, ranks: every_nth(total, epoch, rank, ranks)[: 20 - epoch * rank], "uneven"),
    ],
)
def test_samples_of_rank_refuses(answer, symptom):
    refused(check.samples_of_rank(answer), symptom)


def test_the_epoch_that_is_not_mixed_is_named():
    def mixed_from_epoch_1(total, epoch, rank, ranks):
        return every_nth(total, epoch, rank, ranks) if epoch else list(range(rank, total, ranks))

    def mixed_in_epoch_0(total, epoch, rank, ranks):
        return every_nth(total, epoch, rank, ranks) if epoch == 0 else list(range(rank, total, ranks))

    assert "In epoch 0 " in check.samples_of_rank(mixed_from_epoch_1).message
    assert "In epoch 1 " in check.samples_of_rank(mixed_in_epoch_0).message


def test_samples_of_rank_leaves_the_random_generator_alone():
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    check.samples_of_rank(every_nth)
    assert torch.equal(torch.rand(2), expected)


# share_of_epoch


def dealt(order, rank, world_size):
    each = math.ceil(len(order) / world_size)
    return (order * world_size)[: each * world_size][rank::world_size]


def share(length, epoch, rank, world_size):
    return dealt(mixed(length, epoch), rank, world_size)


def share_card_by_card(length, epoch, rank, world_size):
    order, hand, card = mixed(length, epoch), [], 0
    while card < length or card % world_size:
        if card % world_size == rank:
            hand.append(order[card % length])
        card += 1
    return hand


def share_of_the_package(length, epoch, rank, world_size):
    sampler = sampling.DistributedSampler(range(length), world_size, rank)
    sampler.set_epoch(epoch)
    return torch.tensor(list(sampler))


@pytest.mark.parametrize("learner", [share, share_card_by_card, share_of_the_package])
def test_share_of_epoch_accepts(learner):
    accepted(check.share_of_epoch(learner))


def blocks(length, epoch, rank, world_size):
    order = mixed(length, epoch)
    each = math.ceil(length / world_size)
    return (order * world_size)[rank * each : (rank + 1) * each]


def front_padding_once(length, epoch, rank, world_size):
    order = mixed(length, epoch)
    order += order[: -length % world_size]
    return order[: len(order) // world_size * world_size][rank::world_size]


def from_the_end(length, epoch, rank, world_size):
    order = mixed(length, epoch)
    missing = -length % world_size
    return (order + order[len(order) - missing :])[rank::world_size]


@pytest.mark.parametrize(
    ("learner", "symptom"),
    [
        (blocks, "blocks"),
        (lambda n, epoch, rank, ranks: mixed(n, epoch)[rank::ranks], "uneven"),
        (lambda n, epoch, rank, ranks: mixed(n, epoch)[: n // ranks * ranks][rank::ranks], "count"),
        (lambda n, epoch, rank, ranks: dealt(mixed(n, 0), rank, ranks), "same_every_epoch"),
        (lambda n, epoch, rank, ranks: dealt(list(range(n)), rank, ranks), "not_mixed"),
        (lambda n, epoch, rank, ranks: dealt(mixed(n, epoch + rank), rank, ranks), "own_shuffle"),
        (lambda n, epoch, rank, ranks: dealt(mixed(n, 0 if epoch == 0 else epoch + 1), rank, ranks), "order"),
        (lambda n, epoch, rank, ranks: mixed(n, epoch), "count"),
        (front_padding_once, "tiny"),
        (lambda n, epoch, rank, ranks: (mixed(n, epoch) + mixed(n, epoch)[: -n % ranks])[rank::ranks], "tiny"),
        (lambda n, epoch, rank, ranks: (mixed(n, epoch) * 3)[: -(-n // ranks) * ranks][rank::ranks], "tiny"),
        (from_the_end, "padding"),
        (lambda n, epoch, rank, ranks: None, "wrong_type"),
    ],
)
def test_share_of_epoch_refuses(learner, symptom):
    refused(check.share_of_epoch(learner), symptom)


# both


@pytest.mark.parametrize("exercise", [check.samples_of_rank, check.share_of_epoch])
def test_a_stub_is_not_done_yet(exercise):
    assert exercise(todo).state == "not done"


def test_torchs_own_sampler_is_the_oracle():
    sampler = DistributedSampler(range(10), 4, 1, shuffle=True)
    sampler.set_epoch(2)
    assert share(10, 2, 1, 4) == list(sampler)
