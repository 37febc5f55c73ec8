"""Stacks of ranks and of loader workers that hang, taken apart and written down."""

import time
from functools import partial

import pytest
import torch
import torch.distributed as dist
from torch.utils.data import DataLoader

from torchcourse.lessons.troubleshooting.stacks import Shaky, by_rank, of_worker, write_stack_after
from torchcourse.ranks import RankError, RankTimeout, run_ranks


def waits_for_others():
    if dist.get_rank() == 1:
        time.sleep(30)
    if dist.get_rank() != 2:
        dist.all_reduce(torch.ones(1))


@pytest.mark.slow
def test_each_ranks_lines_are_taken_from_the_error_and_those_that_returned_have_none():
    with pytest.raises(RankTimeout) as error:
        run_ranks(waits_for_others, world_size=3, timeout=3, env={"CUDA_VISIBLE_DEVICES": ""})
    stacks = by_rank(error.value)
    assert sorted(stacks) == [0, 1, 2]
    assert "dist.all_reduce(torch.ones(1))" in stacks[0]
    assert stacks[1][-1] == "time.sleep(30)"
    assert stacks[2] == []


def load(trouble, folder=".", **options):
    """The numbers that come before the trouble; raises what the loader raises."""
    options["worker_init_fn"] = write_stack_after(1, folder)
    for batch in DataLoader(Shaky(8, bad=5, trouble=trouble), num_workers=2, **options):
        print(batch.item())


# In a rank of their own: a worker that dies is reported by a signal, which may come after the error of the queue.
@pytest.mark.parametrize(
    ("trouble", "message"),
    [("raises", "sample 5 is no image"), ("dies", r"exited unexpectedly|killed by signal|reset by peer|exit code 1")],
)
def test_a_loader_reports_a_sample_that_raises_and_a_worker_that_dies(trouble, message, tmp_path):
    with pytest.raises(RankError, match=message):
        run_ranks(load, trouble, tmp_path, world_size=1, timeout=20)


@pytest.mark.slow
def test_a_worker_that_hangs_runs_into_the_timeout_and_its_file_says_where(tmp_path, capsys):
    with pytest.raises(RankError, match="timed out after 2 seconds"):
        run_ranks(partial(load, "hangs", tmp_path, timeout=2), world_size=1, timeout=20)
    assert capsys.readouterr().out.split("\n")[:5] == [f"[rank 0] {number}" for number in range(5)]
    assert of_worker(tmp_path / "worker-1.txt") == ["self._fail(number)", "read_from_drive()", "time.sleep(60)"]
    assert of_worker(tmp_path / "worker-0.txt") == []
