"""Ranks and GPUs: a GPU for each rank, or none in sight; on machines without GPUs by what would be done with them."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.fsdp import fully_shard

from torchcourse.ranks import default_world_size, device, group, run, run_ranks


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> list[tuple]:
    """A machine that seems to have two GPUs; what would be done with them is noted."""
    done: list[tuple] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "set_device", lambda gpu: done.append(("set_device", gpu)))
    monkeypatch.setattr(dist, "init_process_group", lambda backend, **_: done.append(("backend", backend)))
    monkeypatch.setattr(torch, "set_num_threads", lambda threads: done.append(("threads", threads)))
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "1")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")  # and put back: a rank that computes on the CPU hides them
    return done


def test_each_rank_gets_a_gpu_of_its_own_or_all_use_the_cpu(two_gpus: list, monkeypatch: pytest.MonkeyPatch) -> None:
    assert default_world_size() == 2
    assert device() == torch.device("cuda", 0)
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert device() == torch.device("cuda", 1)
    group.join(dist.HashStore())
    assert two_gpus == [("set_device", torch.device("cuda", 1)), ("backend", "cpu:gloo,cuda:nccl")]
    two_gpus.clear()
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "3")
    assert device() == torch.device("cpu")
    group.join(dist.HashStore())
    assert two_gpus == [("threads", 1), ("backend", "gloo")]
    assert os.environ["CUDA_VISIBLE_DEVICES"] == ""


def test_outside_ranks_the_device_is_the_gpu_if_there_is_one() -> None:
    assert device().type == ("cuda" if torch.cuda.is_available() else "cpu")


def more_ranks_than_gpus() -> int:
    return max(2, torch.cuda.device_count() + 1)


def look_for_a_gpu() -> tuple[int, str, float]:
    """Return how many GPUs a rank sees, and shard a layer as a lesson does, without a word on the device."""
    layer = nn.Linear(8, 8)
    fully_shard(layer)
    layer(torch.ones(2, 8)).sum().backward()
    gradient: Any = layer.weight.grad
    return torch.cuda.device_count(), str(device()), float(gradient.full_tensor().sum())


@pytest.mark.gpu
def test_ranks_without_a_gpu_of_their_own_see_none() -> None:
    ranks = more_ranks_than_gpus()
    assert run_ranks(look_for_a_gpu, world_size=ranks) == [(0, "cpu", 128.0)] * ranks


@pytest.mark.gpu
def test_under_torchrun_too(tmp_path: Path) -> None:
    script = tmp_path / "train.py"
    script.write_text(
        "import torch\nfrom ground.ranks.test_on_gpus import look_for_a_gpu\nfrom torchcourse.ranks import run_ranks\n"
        f"assert run_ranks(look_for_a_gpu) == [(0, 'cpu', 128.0)] * {more_ranks_than_gpus()}\n"
    )
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += [f"--nproc-per-node={more_ranks_than_gpus()}", str(script)]
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=250)
    assert done.returncode == 0, done.stderr


def test_gpus_are_hidden_in_the_environment_that_a_rank_starts_with(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    job = run._job(2, "a folder", None, None)
    assert job.environ["CUDA_VISIBLE_DEVICES"] == ""
    assert run._job(2, "a folder", {"CUDA_VISIBLE_DEVICES": "7"}, None).environ["CUDA_VISIBLE_DEVICES"] == "7"
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert "CUDA_VISIBLE_DEVICES" not in run._job(2, "a folder", None, None).environ
