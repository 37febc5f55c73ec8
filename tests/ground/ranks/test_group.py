"""Joining the process group: nobody begins before everybody has come."""

import subprocess
import sys
import textwrap
from pathlib import Path


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
