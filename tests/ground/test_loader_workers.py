"""Workers that are not forked: they start fast, and know what the cells of a notebook define."""

import multiprocessing
import pickle
import subprocess
import sys
from multiprocessing.reduction import ForkingPickler

import pytest

from torchcourse import loader_workers
from torchcourse.data import SeededSamples, make_loader
from torchcourse.lessons.datasets.sharding import ShardedStream

FORK, SPAWN, SERVER = "fork", "spawn", "forkserver"


@pytest.mark.parametrize(
    ("current", "possible", "method"),
    [
        (FORK, [FORK, SPAWN, SERVER], FORK),
        (SERVER, [SERVER, FORK, SPAWN], SERVER),  # Python 3.14 on Linux
        (SPAWN, [SPAWN, FORK, SERVER], SERVER),  # macOS
        (SPAWN, [FORK, SPAWN, SERVER], SERVER),  # chosen by the program
        (SPAWN, [SPAWN], SPAWN),  # Windows
    ],
)
def test_the_fastest_start_that_does_not_fork_the_notebook(current, possible, method):
    assert loader_workers.best(current, possible) == method


def test_what_cannot_be_imported_is_pickled_by_value_and_the_rest_by_name(monkeypatch):
    monkeypatch.setattr(ForkingPickler, "reducer_override", loader_workers._by_value, raising=False)

    def collate(samples):
        return samples, FORK

    namespace: dict = {"__name__": "__main__"}
    exec("class Cell:\n    def __init__(self):\n        self.size = 3", namespace)
    for thing in (collate, lambda samples: (samples, FORK)):
        assert b"_load" in bytes(ForkingPickler.dumps(thing))
        assert pickle.loads(ForkingPickler.dumps(thing))([1]) == ([1], FORK)
    assert pickle.loads(ForkingPickler.dumps(namespace["Cell"]())).size == 3
    for known in (loader_workers.best, pytest.Item, len, pickle.Pickler):
        assert b"_load" not in bytes(ForkingPickler.dumps(known))
        assert pickle.loads(ForkingPickler.dumps(known)) is known


def test_where_processes_share_no_memory_loaders_have_no_workers_and_say_so(monkeypatch, capsys):
    def missing(_context):
        raise FileNotFoundError(2, "No such file or directory")

    images = list(range(8))
    monkeypatch.setattr(multiprocessing.context.ForkContext, "Lock", missing)
    loader_workers.can_share_memory.cache_clear()
    try:
        loader = make_loader(images, 4, num_workers=2, persistent_workers=True, timeout=5)  # type: ignore[arg-type]
        assert loader.num_workers == 0
        assert capsys.readouterr().out.startswith("Processes can share no memory on this machine")
        assert len(list(loader)) == 2
        for number in (SeededSamples(images)._epoch, ShardedStream([images], iter)._epoch):  # type: ignore[arg-type]
            assert not number.is_shared()
        make_loader(images, 4)  # type: ignore[arg-type]
        assert capsys.readouterr().out == ""  # nobody asked for workers
    finally:
        loader_workers.can_share_memory.cache_clear()
    monkeypatch.undo()
    assert loader_workers.at_most(2) == 2
    assert SeededSamples(images)._epoch.is_shared()  # type: ignore[arg-type]


NOTEBOOK = """
import multiprocessing, multiprocessing.forkserver, sys, time
multiprocessing.set_start_method("spawn")
sys.modules["__main__"].__dict__.pop("__file__", None)  # as in a kernel, no file can be imported again
from torchcourse import loader_workers
assert loader_workers.prepare(start_server=False) == multiprocessing.get_start_method() == "forkserver"
assert multiprocessing.forkserver._forkserver._forkserver_pid is None  # nothing has been started yet
import torch
from torch.utils.data import DataLoader, Dataset
class Sample:
    def __init__(self, number):
        self.number, self.seconds = number, time.process_time()
class Cell(Dataset):
    def __len__(self):
        return 6
    def __getitem__(self, index):
        return Sample(index)
from torchcourse.lessons.troubleshooting.clinic.cases.details_are_lost import _fetch
class Telling(Cell):
    def __init__(self, word):
        self.word = word
    def __getitem__(self, index):
        print(self.word)
        return torch.zeros(1), 0
from pathlib import Path
words = [Path("a/cut"), Path("b/whole")]
told, _orders = _fetch(lambda path, seed: DataLoader(Telling(path.name), 2, num_workers=2), words, 0)
said = [{word for word in ("cut", "whole") if word in part.said} for part in told]  # two workers write at once
assert said == [{"cut"}, {"whole"}], told
got = [sample for batch in DataLoader(Cell(), 2, num_workers=2, collate_fn=lambda x: x) for sample in batch]
assert [sample.number for sample in got] == list(range(6)) and {type(sample) for sample in got} == {Sample}
assert max(sample.seconds for sample in got) < 1, [sample.seconds for sample in got]  # importing torch takes more
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="Windows can only spawn")
def test_the_workers_of_a_notebook_import_pytorch_once(tmp_path):
    ran = subprocess.run([sys.executable, "-c", NOTEBOOK], capture_output=True, text=True, cwd=tmp_path, timeout=120)
    assert ran.returncode == 0, ran.stderr
