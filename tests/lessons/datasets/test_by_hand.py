"""The loader by hand gives what torch's gives; the picture of padding says what it shows."""

from concurrent.futures import ThreadPoolExecutor

import torch
from torch.utils.data import DataLoader, TensorDataset, default_collate

from torchcourse.lessons.datasets.by_hand import batches
from torchcourse.lessons.datasets.collate_picture import draw_padding, padding_finding


def test_the_batches_are_those_of_torch():
    dataset = TensorDataset(torch.arange(23).float(), torch.arange(23))
    order = torch.randperm(23).tolist()
    for threads, ahead in ((1, 0), (1, 2), (3, 30)):
        with ThreadPoolExecutor(threads) as pool:
            got = list(batches(dataset, order, 5, default_collate, pool.submit, ahead))
        for mine, theirs in zip(got, DataLoader(dataset, 5, sampler=order), strict=True):
            assert torch.equal(mine[0], theirs[0])
            assert torch.equal(mine[1], theirs[1])


def test_the_picture_of_padding_counts_what_it_draws():
    lengths = torch.tensor([1, 4, 2, 4])
    assert padding_finding(lengths, 4, 1) == "31% of all steps are padding: batches of 4, a plain shuffle"
    image = draw_padding(lengths, 4, 1).axes[0].images[0].get_array()
    assert ((image == 1).sum(), (image == 2).sum()) == (11, 5)
    assert padding_finding(lengths, 2, 2).endswith("2 batches sorted together")
