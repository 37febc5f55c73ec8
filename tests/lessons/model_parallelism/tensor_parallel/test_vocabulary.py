"""The loss over a cut vocabulary, and its gradients, are those of the whole one."""

import torch
import torch.nn.functional as F
from torch import nn

from torchcourse.lessons.model_parallelism import tensor_parallel as tp
from torchcourse.lessons.model_parallelism.tensor_parallel.vocabulary import cut_cross_entropy
from torchcourse.ranks import run_ranks


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
