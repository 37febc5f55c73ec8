"""The profile of a loader: each stage's time goes where it belongs, and the advice follows from the numbers.

Sleeping datasets give the times a floor; there is no upper bound, since a busy machine is slower. What is compared
lies far apart.
"""

import time
from dataclasses import replace

import pytest
import torch
from torch.utils.data import DataLoader, Dataset, TensorDataset

from torchcourse.lessons.datasets.loader_profile import LoaderProfile, profile_loader, stage
from torchcourse.lessons.datasets.sharding import ShardedStream


class Sleepy(Dataset):
    def __len__(self):
        return 40

    def __getitem__(self, index):
        time.sleep(0.001)
        with stage("decode"):
            time.sleep(0.02)
        return {"image": torch.full((5,), float(index)), "name": str(index)}


@pytest.fixture(scope="module")
def profile():
    seen = []
    profile = profile_loader(DataLoader(Sleepy(), 4), seen.append, batches=5)
    assert seen[0]["image"].shape == (4, 5)
    return profile


@pytest.mark.slow
def test_each_stage_has_its_time(profile):
    assert list(profile.load) == ["fetch", "decode", "collate"]
    assert profile.load["fetch"] >= 4
    assert profile.load["decode"] >= 80
    assert profile.load["decode"] > profile.load["fetch"]
    assert profile.wait >= 84  # without workers, the loop waits for all of it
    assert (profile.workers, profile.bytes) == (0, 4 * 5 * 4)


@pytest.mark.slow
def test_workers_and_whole_batches_can_be_profiled():
    profile = profile_loader(DataLoader(Sleepy(), 4, num_workers=1), lambda batch: time.sleep(0.005), batches=4)
    assert profile.workers == 1
    assert profile.step >= 5

    class Whole(TensorDataset):
        def __getitems__(self, numbers):
            time.sleep(0.002)
            return [self.tensors[0][number] for number in numbers]

    assert profile_loader(DataLoader(Whole(torch.zeros(30, 3)), 5)).load["fetch"] >= 2


def test_the_advice_follows_from_the_numbers():
    slow = LoaderProfile(
        {"fetch": 1.0, "decode": 40.0, "collate": 1.0},
        transfer=0.5,
        step=9.5,
        send=0.5,
        wait=42.0,
        workers=0,
        cores=8,
        bytes=1,
    )
    assert slow.best_workers() == 4
    assert slow.advice() == (
        "The loop waits 81% of its time; most of the loading is decode (40.00 ms). Set num_workers=4."
    )
    assert "2 cores that is not enough: make decode cheaper" in replace(slow, cores=2).advice()
    assert "leave the loader as it is" in replace(slow, wait=0.4).advice()
    assert "busy with something else" in replace(slow, workers=4).advice()
    tiny = replace(slow, load={"fetch": 0.2, "collate": 0.3}, step=0.1, transfer=0.0, wait=0.5)
    assert "workers do not pay" in tiny.advice()
    assert "decode    40.000 ms per batch" in str(slow)


def test_what_cannot_be_profiled_is_refused():
    with pytest.raises(ValueError, match="has none"):
        profile_loader(DataLoader(ShardedStream([1], lambda shard: [shard])))
    with pytest.raises(ValueError, match="this loader has 2"):
        profile_loader(DataLoader(TensorDataset(torch.zeros(4)), 2))


def test_a_stage_outside_a_profile_is_nothing():
    with stage("decode"):
        pass


@pytest.mark.gpu
def test_the_transfer_to_a_gpu_is_measured():
    loader = DataLoader(TensorDataset(torch.zeros(600, 1000)), 100, pin_memory=True)
    profile = profile_loader(loader, lambda batch: batch[0].sum(), device="cuda", batches=4)
    assert profile.transfer > 0
