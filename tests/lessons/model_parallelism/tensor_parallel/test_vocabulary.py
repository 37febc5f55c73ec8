"""The loss over a cut vocabulary, and its gradients, are those of the whole one."""

import math
from collections.abc import Sequence

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from torchcourse.lessons.model_parallelism import tensor_parallel as tp
from torchcourse.lessons.model_parallelism.tensor_parallel.vocabulary import cut_cross_entropy
from torchcourse.ranks import RankError, run_ranks


def differences() -> list[float]:
    torch.manual_seed(0)
    head = nn.Linear(5, 12, bias=False).double()
    x = (100 * torch.randn(7, 5, dtype=torch.float64)).requires_grad_()  # scores whose exponential overflows
    targets = torch.tensor([0, 3, 4, 5, 6, 11, 11])
    right = F.cross_entropy(head(x), targets)
    of_x, of_head = torch.autograd.grad(right, (x, head.weight))
    part = tp.ColumnParallelLinear(head)
    loss = cut_cross_entropy(part(x), targets)
    mine_x, mine_head = torch.autograd.grad(loss, (x, part.weight))
    rows = of_head.chunk(torch.distributed.get_world_size())[torch.distributed.get_rank()]
    return [(loss - right).abs().item(), *((a - b).abs().max().item() for a, b in ((mine_x, of_x), (mine_head, rows)))]


def test_loss_and_gradients_equal_those_of_the_whole_vocabulary():
    for world_size in (1, 3):
        for off in run_ranks(differences, world_size=world_size):
            assert max(off) < 1e-9


def on_parts(scores: torch.Tensor, targets: torch.Tensor, sizes: Sequence[int] | None = None) -> float:
    rank, ranks = torch.distributed.get_rank(), torch.distributed.get_world_size()
    parts = scores.chunk(ranks, dim=-1) if sizes is None else scores.split(sizes, dim=-1)
    return cut_cross_entropy(parts[rank], targets).item()


@pytest.mark.parametrize("sizes", [[4, 4], [7, 1], [3, 5]])
def test_targets_that_do_not_count_and_masked_words_are_as_for_the_whole(sizes: list[int]):
    torch.manual_seed(0)
    scores, targets = torch.randn(5, 8, dtype=torch.float64), torch.tensor([0, -100, 4, -100, 1])
    scores[:, 6:] = -torch.inf
    for ours in run_ranks(on_parts, scores, targets, sizes, world_size=2):
        assert ours == pytest.approx(F.cross_entropy(scores, targets).item(), abs=1e-12)


def test_the_sum_of_a_large_vocabulary_in_16_bits():
    scores, targets = torch.zeros(3, 160_000, dtype=torch.float16), torch.tensor([0, 1, 2])
    assert run_ranks(on_parts, scores, targets, world_size=2) == [pytest.approx(math.log(160_000), abs=1e-4)] * 2


@pytest.mark.parametrize(
    ("shape", "targets", "sentence"),
    [
        ((3, 8), [0, 8, 1], r"Target 8 is no word of the 8, of which the ranks have \[4, 4\]"),
        ((3, 8), [0, -1, 1], "Target -1 is no word"),
        ((2, 3, 8), [0, 1], r"The scores are \[2, 3, 4\] and the targets \[2\]"),
    ],
)
def test_what_is_no_target_is_refused(shape: tuple, targets: list[int], sentence: str):
    with pytest.raises(RankError, match=sentence):
        run_ranks(on_parts, torch.zeros(shape), torch.tensor(targets), world_size=2)
