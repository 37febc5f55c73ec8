"""What the lesson on loading shows of a worker's memory, and of a file that is open."""

import gc
import pickle
import sys

import numpy as np
import pytest

from torchcourse.lessons.datasets.practice import Names, OpenFile, OpensLater, private_bytes


@pytest.mark.skipif(sys.platform != "linux", reason="Linux alone counts the private memory of a process")
def test_private_bytes_grow_by_what_a_process_writes():
    gc.collect()  # what earlier tests left is not to be given back while this one counts
    before = private_bytes()
    written = np.ones(2**22)
    assert written.nbytes <= private_bytes() - before < 2 * written.nbytes
    names = Names(["a", "b", "c"])
    assert [names[index] > 0 for index in range(3)] == [True, False, True]


def test_a_dataset_travels_to_a_worker_when_it_opens_its_file_there(tmp_path):
    path = tmp_path / "names.txt"
    path.write_text("one\ntwo\n")
    opened = OpenFile(str(path))
    with opened.file, pytest.raises(TypeError, match="cannot pickle"):
        pickle.dumps(opened)
    later = pickle.loads(pickle.dumps(OpensLater(str(path))))
    assert [later[1], later[0]] == ["two", "one"]
