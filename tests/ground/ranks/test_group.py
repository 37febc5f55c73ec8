"""Joining the process group: nobody begins before everybody has come."""

import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from torchcourse.ranks import run_ranks


def test_ranks_meet_in_a_file_which_needs_no_name_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A TCPStore asks one who 127.0.0.1 is, several times per rank: 5 s or more where none answers."""

    def where() -> str:
        store = dist.distributed_c10d._get_default_store()  # no public function tells it
        while isinstance(store, dist.PrefixStore):
            store = store.underlying_store
        return type(store).__name__

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    assert run_ranks(where) == ["FileStore", "FileStore"]
    assert list(tmp_path.iterdir()) == []


def test_a_rank_may_make_process_groups_of_its_own() -> None:
    def sums() -> list[float]:
        found = []
        for _ in range(2):
            dist.destroy_process_group()
            dist.init_process_group("gloo")
            one = torch.ones(1)
            dist.all_reduce(one)
            found.append(one.item())
        return found

    assert run_ranks(sums, world_size=3) == [[3.0, 3.0]] * 3


@pytest.mark.slow
def test_no_rank_begins_before_the_last_one_has_joined(tmp_path: Path) -> None:
    """One that failed at once would close the connections of a rank that is still on its way in."""
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent("""
            import os, time
            import torch.distributed as dist
            from torchcourse.ranks import run_ranks

            really_join = dist.init_process_group
            joined = []

            def join_slowly(*args, **kwargs):
                really_join(*args, **kwargs)
                if os.environ["RANK"] == "0":
                    time.sleep(1)
                joined.append(time.monotonic())

            dist.init_process_group = join_slowly

            def begin():
                return time.monotonic(), joined[-1]

            for _ in range(2):
                results = run_ranks(begin)
                begun, came = zip(*results)
                assert min(begun) >= max(came), results
            open(f"ok {os.environ['RANK']}", "w").close()
        """)
    )
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(script)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=250)
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in tmp_path.glob("ok*")) == ["ok 0", "ok 1"]
