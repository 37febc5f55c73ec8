"""A mapped array is read where an array in memory is refused."""

import pickle
import sys

import numpy as np
import pytest
import torch

from torchcourse.lessons.datasets.memory_mapped import MappedArray, memory_limit, write_rows
from torchcourse.ranks import run_ranks

MB = 2**20


def read_both_ways(path):
    with memory_limit(16 * MB) as enforced:
        rows = MappedArray(path)
        total = sum(int(rows[n].sum()) for n in range(len(rows)))
        try:
            np.load(path)
            loaded = True
        except MemoryError:
            loaded = False
    return total, loaded, enforced, len(np.load(path))


def test_rows_are_read_under_a_limit_that_the_array_does_not_fit(tmp_path):
    path = tmp_path / "big.npy"
    write_rows(path, 64, (np.full((8, MB // 4), part, dtype=np.float32) for part in range(8)))
    assert MappedArray(path).nbytes == 64 * MB
    ((total, loaded, enforced, after),) = run_ranks(read_both_ways, path, world_size=1)
    assert total == 8 * sum(range(8)) * MB // 4
    assert enforced == (sys.platform == "linux")
    assert loaded is not enforced
    assert after == 64


def test_a_row_is_a_copy_and_a_pickle_is_the_path(tmp_path):
    path = tmp_path / "small.npy"
    write_rows(path, 500, [np.arange(1000, dtype=np.int32).reshape(500, 2)])
    rows = MappedArray(path)
    rows[1].zero_()
    assert rows[1].tolist() == [2, 3]
    assert rows[2].dtype == torch.int32
    pickled = pickle.dumps(rows)
    assert len(pickled) < 500
    assert pickle.loads(pickled)[2].tolist() == [4, 5]


def test_what_is_no_array_is_named(tmp_path):
    path = tmp_path / "rows.npy"
    with pytest.raises(FileNotFoundError, match=r"no array rows\.npy"):
        MappedArray(path)
    np.save(path, np.zeros(5000))
    path.write_bytes(path.read_bytes()[:4000])
    with pytest.raises(ValueError, match=r"rows\.npy cannot be mapped"):
        MappedArray(path)
    path.write_bytes(b"something else")
    with pytest.raises(ValueError, match=r"rows\.npy cannot be mapped"):
        MappedArray(path)


@pytest.mark.parametrize("parts", [1, 3])
def test_too_few_or_too_many_rows_leave_no_file(tmp_path, parts):
    path = tmp_path / "rows.npy"
    with pytest.raises(ValueError, match=f"have {4 * parts} rows, and 8 were announced"):
        write_rows(path, 8, [np.zeros((4, 2))] * parts)
    assert not path.exists()
