"""The training of lesson 01 ends with the same weights however many ranks it has, and whoever starts them."""

import re
import socket
import subprocess
import sys

import pytest
import torch

from torchcourse.lessons.data_parallelism import train_digits
from torchcourse.ranks import run_ranks


@pytest.mark.slow
def test_any_number_of_ranks_ends_with_the_weights_of_one_process():
    (alone,) = run_ranks(train_digits.train, 5, world_size=1)
    for world_size in (2, 3):
        for weights in run_ranks(train_digits.train, 5, world_size=world_size):
            assert torch.allclose(weights, alone, rtol=1e-10, atol=1e-12)


@pytest.mark.slow
def test_more_steps_train_more():
    (few,), (more,) = (run_ranks(train_digits.train, steps, world_size=1) for steps in (1, 70))
    assert not torch.allclose(few, more)


def start(*arguments):
    return subprocess.Popen(
        [
            sys.executable,
            "-m",
            "torch.distributed.run",
            *arguments,
            "-m",
            "torchcourse.lessons.data_parallelism.train_digits",
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def what_it_prints(process):
    out, err = process.communicate(timeout=200)
    assert process.returncode == 0, err
    return out


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@pytest.mark.slow
def test_the_lines_of_the_lesson_work_in_a_terminal():
    where = ["--rdzv-backend", "c10d", "--rdzv-endpoint", f"localhost:{free_port()}"]
    one_machine = what_it_prints(start("--standalone", "--nproc-per-node", "2"))
    # Two agents on this machine stand for two machines.
    agents = [start("--nnodes", "2", "--nproc-per-node", "1", *where) for _ in range(2)]
    two_machines = "".join(what_it_prints(agent) for agent in agents)
    lines = [one_machine, two_machines]
    assert all(text.count("2 ranks, equal weights: True") == 1 for text in lines), lines
    lengths = [float(re.search(r"weights ([\d.]+)$", text.strip())[1]) for text in lines]
    assert lengths[0] == pytest.approx(lengths[1], rel=1e-10)
