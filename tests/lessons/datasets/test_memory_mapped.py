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


@pytest.mark.slow
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


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
def test_a_write_that_is_broken_off_leaves_what_was_there(tmp_path, error):
    path = tmp_path / "rows.npy"

    def parts():
        yield np.ones((3, 2))
        assert not path.exists() or MappedArray(path)[0].tolist() == [7.0]
        raise error

    for before in ([], [path]):
        with pytest.raises(error):
            write_rows(path, 6, parts())
        assert list(tmp_path.iterdir()) == before
        write_rows(path, 1, [np.full((1, 1), 7.0)])
    assert MappedArray(path)[0].tolist() == [7.0]


@pytest.mark.parametrize(
    ("parts", "sentence"),
    [
        ([np.zeros((4, 2), np.int32), np.full((4, 2), 0.5)], "Part 1 has rows of float64"),
        ([np.zeros((4, 2)), np.ones((4, 1))], r"Part 1 has rows of float64 \[1\]"),
        ([np.zeros((4, 2)), np.ones(4)], r"Part 1 has rows of float64 \[\]"),
        ([], "no parts"),
        ([np.full((8, 1), "text")], "no <U4 value"),
        ([np.full((8, 1), None)], "no object value"),
        ([np.zeros((8, 1), "datetime64[s]")], "no datetime64"),
        ([np.ma.array(np.ones((8, 2)), mask=np.eye(8, 2))], "would lose its mask"),
    ],
)
def test_parts_that_do_not_fit_are_refused(tmp_path, parts, sentence):
    with pytest.raises(ValueError, match=sentence):
        write_rows(tmp_path / "rows.npy", 8 if parts else 0, parts)
    assert not list(tmp_path.iterdir())


def test_parts_may_be_tensors_or_lists(tmp_path):
    write_rows(tmp_path / "rows.npy", 2, [torch.ones(1, 2), torch.zeros(1, 2)])
    assert MappedArray(tmp_path / "rows.npy")[0].tolist() == [1, 1]
    write_rows(tmp_path / "rows.npy", 2, [[[3, 4]], [[5, 6]]])
    assert MappedArray(tmp_path / "rows.npy")[1].tolist() == [5, 6]


def test_no_folder_and_no_number_of_rows_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no folder .*new to write rows\.npy into"):
        write_rows(tmp_path / "new" / "rows.npy", 1, [np.ones((1, 1))])
    for rows in (-1, 2.0, True):
        with pytest.raises(ValueError, match="is no number of rows"):
            write_rows(tmp_path / "rows.npy", rows, [np.ones((1, 1))])


def test_other_files_are_refused_and_foreign_byte_order_is_read(tmp_path):
    path = tmp_path / "rows.npy"
    np.save(path, np.arange(6, dtype=">i4").reshape(3, 2))
    assert MappedArray(path)[2].tolist() == [4, 5]
    good = path.read_bytes()
    draw = np.random.default_rng(0)
    with path.with_suffix(".npz").open("wb") as file:
        np.savez(file, a=np.zeros(3))
    broken = [b"", path.with_suffix(".npz").read_bytes(), *(good[:size] for size in range(1, len(good), 7))]
    for _ in range(150):
        bytes_ = bytearray(good)
        bytes_[draw.integers(80)] = draw.integers(256)
        broken.append(bytes(bytes_))
    refusals = []
    for content in broken:
        path.write_bytes(content)
        try:
            rows = MappedArray(path)
        except ValueError as error:
            refusals.append(str(error))
        else:
            assert len([rows[n] for n in range(len(rows))]) == len(rows)
    assert len(refusals) > 20
    assert all("rows.npy cannot be mapped" in text for text in refusals)
    np.save(path, np.array(["text"]))
    with pytest.raises(ValueError, match=r"rows\.npy cannot be mapped"):
        MappedArray(path)


def test_tensors_are_written_as_they_are_or_refused(tmp_path):
    path = tmp_path / "rows.npy"
    write_rows(path, 2, [torch.ones(1, requires_grad=True), torch.ones(1)])
    assert MappedArray(path)[0] == 1
    write_rows(path, 1, [torch.tensor([1 + 2j]).conj()])
    assert MappedArray(path)[0] == 1 - 2j
    for part in (torch.ones(2, dtype=torch.bfloat16), torch.eye(2).to_sparse()):
        with pytest.raises(ValueError, match="Convert the part"):
            write_rows(path, 2, [part])
