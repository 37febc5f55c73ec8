"""The keys of lesson 06's bank, computed again or tried out: what a question says happens is what happens."""

import random
import re

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, SequentialSampler, Subset, TensorDataset

from keys import Keys
from torchcourse.lessons.datasets.collate import pad
from torchcourse.lessons.datasets.samplers import balanced, class_weights, padding_share
from torchcourse.lessons.datasets.sharding import mixed, share
from torchcourse.lessons.datasets.splits import leaks
from torchcourse.lessons.datasets.waiting import batch_time, simulate

LESSON = "06_custom_datasets"
keys = Keys(LESSON)
asked, key, mistakes, program = keys.asked, keys.key, keys.mistakes, keys.program


def test_files_opened_for_three_batches():
    opened = []

    class Images(Dataset):
        def __len__(self):
            return 500

        def __getitem__(self, index):
            opened.append(index)
            return index

    exec(program("files-of-three-batches"), {"DataLoader": DataLoader, "Images": Images})
    assert len(opened) == key("files-of-three-batches")


class Log(IterableDataset):
    def __init__(self, records=900):
        self.records = records

    def __iter__(self):
        return iter(range(self.records))


def test_a_stream_has_no_length():
    loader = DataLoader(Log(), batch_size=30)
    with pytest.raises(TypeError):
        len(loader)
    assert len(list(loader)) == 30
    assert key("length-of-a-stream") == "C"


def test_time_of_a_loop_that_loads_ahead():
    run = simulate(30, 50, workers=1, batches=100)
    assert run.steps[-1][1] / 1000 == pytest.approx(key("seconds-of-a-hundred-batches"))
    assert mistakes("seconds-of-a-hundred-batches") == [(100 * 30 + 50) / 1000, 100 * (30 + 50) / 1000]
    assert batch_time(60, 25, workers=3, send=5) == key("time-with-three-workers")
    assert mistakes("time-with-three-workers") == [60 / 3, batch_time(60, 25, workers=0)]


def test_padding():
    lengths = torch.tensor([12, 20, 7, 9])
    assert 100 * padding_share(lengths, [range(4)]) == pytest.approx(key("share-of-four-sentences"))
    batch, _ = pad([(torch.zeros(length, 1), 0) for length in lengths])
    real = batch.mask.float().mean().item()
    assert mistakes("share-of-four-sentences") == pytest.approx([100 * real, 100 * (1 - real) / real], abs=0.1)

    clips = [int(number) for number in re.findall(r"\d+", asked("eight-clips-sorted").text.en)][:8]

    def padding(order):
        return sum(4 * max(part) - sum(part) for part in (order[:4], order[4:]))

    assert padding(sorted(clips)) == key("eight-clips-sorted")
    assert mistakes("eight-clips-sorted") == [padding(clips), 8 * max(clips) - sum(clips)]


def test_a_mean_over_padding(capsys):
    exec(program("mean-of-a-padded-clip"), {"torch": torch, "nn": nn})
    assert key("mean-of-a-padded-clip") == float(re.search(r"[\d.]+\d", capsys.readouterr().out)[0])


def test_which_mean_is_the_same_in_company():
    frames = [torch.full((5, 2), 4.0), torch.full((20, 2), 1.0)]
    torch.manual_seed(0)
    layer = nn.Linear(2, 3, bias=False)
    together, _ = pad([(x, 0) for x in frames])
    alone, _ = pad([(frames[0], 0)])
    assert not torch.allclose(layer(together.x).mean(1)[0], layer(alone.x).mean(1)[0])
    own = (layer(together.x) * together.mask[..., None]).sum(1) / together.lengths[:, None]
    torch.testing.assert_close(own[0], layer(alone.x).mean(1)[0])
    # One fixed length: equal frames, half as many of them, and a different mean.
    halves = nn.functional.pad(frames[1][:10], (0, 0, 0, 30)), nn.functional.pad(frames[1], (0, 0, 0, 20))
    assert not torch.allclose(layer(halves[0]).mean(0), layer(halves[1]).mean(0))
    assert key("another-answer-in-company") == "C"


def test_the_name_of_the_packer():
    names = [
        *key("name-of-the-packer"),
        *(name for mistake in asked("name-of-the-packer").mistakes for name in mistake.answers),
    ]
    assert all(callable(getattr(nn.utils.rnn, name.rsplit(".", 1)[-1])) for name in names)
    batch = torch.zeros(2, 3, 1)
    packed = nn.utils.rnn.pack_padded_sequence(batch, [3, 1], batch_first=True, enforce_sorted=False)
    assert nn.GRU(1, 2, batch_first=True)(packed)[0].data.shape == (4, 2)


def test_draws_and_weights_of_rare_classes():
    labels = torch.tensor([0] * 950 + [1] * 50)
    chance = balanced(labels) / balanced(labels).sum()
    assert 1000 * chance[-1].item() == pytest.approx(key("how-often-a-rare-one-comes"))
    assert mistakes("how-often-a-rare-one-comes") == [1, 1000 / 50]

    labels = torch.tensor([0] * 900 + [1] * 100)
    weights = class_weights(labels)
    assert weights[1].item() == pytest.approx(key("weight-of-the-ill"))
    assert weights[labels].mean().item() == pytest.approx(1)
    assert mistakes("weight-of-the-ill") == [900 / 100, 1000 / 100]
    assert torch.tensor([1.0, 9.0])[labels].mean().item() == pytest.approx(1.8)  # as the feedback says


def test_the_leaves_that_a_sampler_draws():
    labels = torch.tensor([0] * 900 + [1] * 30)
    drawn = torch.multinomial(balanced(labels), 930, replacement=True, generator=torch.Generator().manual_seed(0))
    sound, sick = drawn[labels[drawn] == 0], drawn[labels[drawn] == 1]
    assert len(sound.unique()) < 600  # A: many are left out
    assert sum(bool(labels[batch].any()) for batch in drawn.split(32)) >= 29  # B: of 30 batches
    assert len(sick.unique()) <= 30  # not C
    assert len(sick) > 10 * 30  # D: each comes several times
    assert key("what-only-the-sampler-does") == "ABD"


def test_which_x_rays_leak():
    names = {}
    exec(program("which-test-samples-leak"), names)
    samples = list(torch.arange(10.0))
    found = leaks(samples, names["patients"], names["train"], names["test"])
    assert len(found) == key("which-test-samples-leak")
    assert mistakes("which-test-samples-leak") == [len(set(names["train"]) & set(names["test"])), len(names["test"])]


class Counted(SequentialSampler):
    """Counts what it has given out."""

    given = 0

    def __iter__(self):
        for number in super().__iter__():
            self.given += 1
            yield number


@pytest.mark.parametrize(
    ("name", "workers", "prefetch", "used", "unit"),
    [("batches-in-the-queue", 3, 4, 20, 1), ("megabytes-ahead", 4, 3, 1, 8)],
)
def test_batches_that_are_ahead(name, workers, prefetch, used, unit):
    sampler = Counted(range(100))
    loader = DataLoader(range(100), 1, sampler=sampler, num_workers=workers, prefetch_factor=prefetch)
    batches = iter(loader)
    for _ in range(used):
        next(batches)
    assert unit * (sampler.given - used) == key(name)


def test_copies_of_a_generator():
    drawn = []
    names = {"np": np, "Dataset": Dataset, "print": drawn.append}
    names["DataLoader"] = lambda data, **options: DataLoader(data, multiprocessing_context="fork", **options)
    exec(program("noise-of-four-workers"), names)
    assert len(drawn) == 8
    assert len(set(drawn)) == key("noise-of-four-workers")


def test_a_stream_that_does_not_ask_who_reads():
    of_one_rank = len(list(DataLoader(Log(120), batch_size=None, num_workers=3)))
    assert 2 * of_one_rank == key("records-of-a-careless-stream")
    assert mistakes("records-of-a-careless-stream") == [120, 2 * 120, 3 * 120]


def test_records_of_a_reader():
    assert list(share(range(30), 2 * 2 + 1, 4 * 2)) == [5, 13, 21, 29]
    assert key("records-of-one-reader") == 4
    assert mistakes("records-of-one-reader") == [
        30 // 8,
        len(list(share(range(30), 2, 4))),
        len(list(share(range(30), 1, 2))),
    ]
    batches = [30 * len(list(share(range(7), rank, 2))) // 10 for rank in range(2)]
    assert min(batches) == key("seven-files-for-two-ranks")
    assert mistakes("seven-files-for-two-ranks") == [sum(batches) / 2, max(batches)]


def test_a_collate_function_that_drops_in_silence():
    names = {"default_collate": torch.utils.data.default_collate}
    exec(program("a-collate-that-forgets"), names)
    assert names["collate"]([1, None, 3]).tolist() == [1, 3]
    assert key("a-collate-that-forgets") == "C"
    assert key("one-per-cent-of-everything") == 100 * 0.01 * 5000 / 80


def test_samples_of_a_resumed_epoch():
    order = torch.randperm(1000, generator=torch.Generator().manual_seed(3)).split(50)
    used, left = torch.cat(order[:13]), torch.cat(order[13:])
    assert len(left) == key("samples-that-are-left")
    assert sorted(torch.cat([used, left]).tolist()) == list(range(1000))
    assert mistakes("samples-that-are-left") == [len(used), 1000]


class Jittered(Dataset):
    def __init__(self):
        self.transform = lambda value: value + torch.rand(())

    def __getitem__(self, index):
        return self.transform(0.0)


def test_a_part_of_a_split_has_the_transform_of_the_whole():
    part = Subset(Jittered(), [0])
    vars(part)["transform"] = None
    assert part[0] != part[0]
    assert key("validation-that-wavers") == "C"


def test_one_sample_is_left_over():
    lengths = [len(x) for (x,) in DataLoader(TensorDataset(torch.zeros(1025, 32)), 64)]
    assert lengths[-1] == 1
    with pytest.raises(ValueError, match=re.escape("Expected more than 1 value per channel when training, got input")):
        nn.BatchNorm1d(32)(torch.zeros(1, 32))
    nn.BatchNorm1d(32).eval()(torch.zeros(1, 32))
    assert key("dies-in-its-last-step") == "A"
    loader = DataLoader(range(1030), 64, shuffle=True, drop_last=True)
    assert 1030 - sum(map(len, loader)) == key("left-out-of-an-epoch")


def test_a_buffer_reaches_as_far_as_it_is_large():
    first = {next(mixed(range(10000), 256, random.Random(seed))) for seed in range(400)}
    assert 250 < max(first) < key("who-can-come-first") == 256
    labels = [record // 1000 for record in mixed(range(10000), 100, random.Random(0))]
    assert max(len(set(labels[at : at + 50])) for at in range(0, 10000, 50)) == 2
    assert key("sorted-behind-a-buffer") == "B"
