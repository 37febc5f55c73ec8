"""Dropout in a split model: with the right seeds it is a dense model's dropout; the mask of one place is its seed's."""

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F

from torchcourse.data import digits
from torchcourse.lessons.model_parallelism.tensor_parallel import Dropouts, drift, split, whole
from torchcourse.models import TransformerBlock, row_transformer
from torchcourse.ranks import device, run_ranks

P = 0.25


def dense_model():
    torch.manual_seed(0)
    return row_transformer(blocks=2, width=16, heads=4).double().to(device())


def against_a_dense_model(outer_alike):
    """Two steps with seeds of each rank's own inside; the dense model has all ranks' masks side by side."""
    rank, ranks = dist.get_rank(), dist.get_world_size()
    images, labels = (part.to(device()) for part in digits()[:16])
    model, dense = split(dense_model()), dense_model()
    dropouts = Dropouts(model, P)
    generators = [torch.Generator() for _ in range(ranks + 1)]

    def masked(y, masks):
        return y * (torch.cat(masks, -1).to(y.device) >= P) / (1 - P)

    def inner(module, inputs, y):
        shape = (*y.shape[:-1], y.shape[-1] // ranks)
        return masked(y, [torch.rand(shape, generator=generator) for generator in generators[:ranks]])

    def outer(module, inputs, y):
        return masked(y, [torch.rand(y.shape, generator=generators[ranks])])

    for block in dense[1:-1]:
        block.dense[1].register_forward_hook(inner)
        block.dense.register_forward_hook(outer)
    for step in range(2):
        dropouts.seed(100 * step + rank, 50 + (0 if outer_alike else rank))
        for number, generator in enumerate(generators[:ranks]):
            generator.manual_seed(100 * step + number)
        generators[ranks].manual_seed(50)
        for each in (model, dense):
            each.zero_grad()
            F.cross_entropy(each(images.double()), labels).backward()
            torch.optim.SGD(each.parameters(), lr=0.1).step()
    ours = whole(model)
    off = max((ours[name] - parameter).abs().max().item() for name, parameter in dense.named_parameters())
    return off, max(drift(model).values())


@pytest.mark.slow
def test_with_equal_outer_seeds_it_is_a_dense_models_dropout():
    for off, apart in run_ranks(against_a_dense_model, True, world_size=2):
        assert off < 1e-12
        assert apart < 1e-12


@pytest.mark.slow
def test_with_other_outer_seeds_the_copies_drift_apart():
    for off, apart in run_ranks(against_a_dense_model, False, world_size=2):
        assert off > 1e-4
        assert apart > 1e-4


def test_a_seed_brings_the_same_zeros_again_and_evaluation_has_none():
    torch.manual_seed(0)
    block = TransformerBlock(8, 2)
    dropouts, x = Dropouts(block, P), torch.randn(4, 6, 8)
    answers = []
    for inner, outer in ((1, 2), (1, 2), (1, 3), (2, 2)):
        dropouts.seed(inner, outer)
        answers.append(block(x).detach())
    assert torch.equal(answers[0], answers[1])
    assert not torch.equal(answers[0], answers[2])
    assert not torch.equal(answers[0], answers[3])
    block.eval()
    assert torch.equal(block(x), block(x))


def test_the_part_that_is_zeroed_is_p():
    model = TransformerBlock(64, 2)
    seen = []
    Dropouts(model, P).seed(1, 2)
    model.dense.register_forward_hook(lambda module, inputs, y: seen.append(y))
    model(torch.randn(8, 32, 64))
    assert (seen[0] == 0).float().mean().item() == pytest.approx(P, abs=0.02)
