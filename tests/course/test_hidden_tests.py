"""Hidden tests take every answer that the check of the exercise takes: nobody loses points after "right"."""

import re

import numpy as np
import pytest
import torch

from torchcourse.tools.repository import ROOT


def hidden_test(source: str, name: str) -> str:
    """The hidden test of an exercise, from the source of its lesson."""
    text = (ROOT / f"solutions/{source}.py").read_text(encoding="utf-8")
    check = re.search(rf"^# %% check: {name}\n(.*?)^# %%", text, re.DOTALL | re.MULTILINE)
    assert check
    found = re.search(r"### BEGIN HIDDEN TESTS\n(.*?)### END HIDDEN TESTS", check[1], re.DOTALL)
    assert found
    return found[1]


def accuracy_as_a_numpy_number(logits, labels):
    return np.float32((logits.argmax(dim=1) == labels).numpy().mean())


def bytes_by_a_share(parameters, world_size, stage):
    share = 1 / world_size
    return [each * (share if stage >= first else 1) * parameters for each, first in ((2, 3), (2, 2), (12, 1))]


def seeds_as_tensors(step, rank, ranks, tensor):
    start = torch.tensor(2 * ranks * step)
    return start + rank, start + ranks + rank // tensor


@pytest.mark.parametrize(
    ("source", "name", "answer"),
    [
        ("00_start_here/1_start_here", "accuracy_of", accuracy_as_a_numpy_number),
        ("01_data_parallelism/3_memory_and_scaling", "zero_bytes", bytes_by_a_share),
        ("02_model_parallelism/2_tensor_parallel", "dropout_seeds", seeds_as_tensors),
    ],
)
def test_an_answer_in_other_types_passes_the_hidden_test_too(source, name, answer):
    exec(hidden_test(source, name), {name: answer, "torch": torch})
