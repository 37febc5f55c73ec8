"""DTensor's split of a block is the dense block and sends what our own split sends; sequence parallelism too."""

import pytest
import torch
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor

from torchcourse.lessons.model_parallelism.tensor_parallel import Traffic, outputs_of_heads, split
from torchcourse.lessons.model_parallelism.tensor_parallel.with_dtensor import split_block
from torchcourse.models import TransformerBlock
from torchcourse.ranks import RankError, device, run_ranks


def a_block():
    torch.manual_seed(0)
    return TransformerBlock(16, 4).double().to(device())


def off(ours, right):
    assert ours.shape == right.shape
    return (ours - right).abs().max().item()


def against_the_dense_block(sequence):
    mesh = init_device_mesh(device().type, (torch.distributed.get_world_size(),))
    rank, ranks = mesh.get_local_rank(), mesh.size()
    torch.manual_seed(1)
    x, weights = torch.randn(2, 3, 8, 16, dtype=torch.float64, device=device())
    right, dense = x.clone().requires_grad_(), a_block()
    expected = dense(right)
    (expected * weights).sum().backward()

    def mine(tensor):
        return tensor.chunk(ranks, dim=1)[rank] if sequence else tensor

    block, ours = split_block(a_block(), mesh, sequence=sequence), mine(x).clone().requires_grad_()
    with Traffic() as traffic:
        y = block(ours)
        (y * mine(weights)).sum().backward()
    order = torch.cat([outputs_of_heads(4, 16, r, ranks) for r in range(ranks)])
    differences = [off(y, mine(expected)), off(ours.grad, mine(right.grad))]
    for name, parameter in block.named_parameters():
        gradient, ours = dense.get_parameter(name).grad, parameter.grad
        whole = ours.full_tensor() if isinstance(ours, DTensor) else ours
        differences.append(off(whole, gradient[order] if name.startswith("qkv") else gradient))
    own = split(a_block())
    with Traffic() as own_traffic:
        (own(x.clone().requires_grad_()) * weights).sum().backward()
    return max(differences), traffic.counts(), traffic.bytes_sent, own_traffic.bytes_sent


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [2, 4])
def test_dtensor_is_the_dense_block_and_sends_the_same_bytes(ranks):
    for difference, counts, sent, own in run_ranks(against_the_dense_block, False, world_size=ranks):
        assert difference < 1e-12
        assert counts == {"all-reduce": 4}
        assert sent == pytest.approx(own)


@pytest.mark.slow
def test_sequence_parallelism_sends_the_same_bytes_in_other_collectives():
    for difference, counts, sent, own in run_ranks(against_the_dense_block, True, world_size=2):
        assert difference < 1e-12
        assert counts == {"all-gather": 4, "reduce-scatter": 4}
        assert sent == pytest.approx(own)


def three_ranks():
    split_block(a_block(), init_device_mesh(device().type, (3,)))


def test_heads_that_do_not_fit_are_told():
    with pytest.raises(RankError, match="3 ranks cannot share 4 heads equally"):
        run_ranks(three_ranks, world_size=3)
