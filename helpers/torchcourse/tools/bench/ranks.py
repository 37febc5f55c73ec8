"""What starting two ranks from a notebook costs: `run_ranks` against the other ways.

Each way runs in a fresh Python of its own, since some of them (fork) must not share a process with others. It makes
several calls in a row and prints the seconds of each; the first includes what has to be started once.
"""

import json
import subprocess
import sys
import tempfile
import time

import torch
import torch.distributed as dist

from torchcourse.timing import spread
from torchcourse.tools.bench.report import Table

CALLS = 5
LIMIT = 120  # seconds for all calls of one way together


def one_all_reduce(rank: int = 0, world_size: int = 0, init_method: str | None = None) -> float:
    """The work of each rank: join the group where nobody has done so, and add up one number."""
    if init_method:
        dist.init_process_group("gloo", rank=rank, world_size=world_size, init_method=init_method)
    elif not dist.is_initialized():
        dist.init_process_group("gloo")
    total = torch.ones(1)
    dist.all_reduce(total)
    if init_method:
        dist.destroy_process_group()
    return total.item()


def with_run_ranks(world_size: int) -> None:
    from torchcourse.ranks.run import run_ranks

    run_ranks(one_all_reduce, world_size=world_size)


def with_mp_spawn(world_size: int) -> None:
    import torch.multiprocessing as mp

    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(one_all_reduce, args=(world_size, f"file://{folder}/meeting_point"), nprocs=world_size)


def with_torchrun(world_size: int) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={world_size}", "--standalone"]
    subprocess.run([*command, __file__, "rank"], check=True, capture_output=True)


def with_accelerate(world_size: int) -> None:
    from accelerate import notebook_launcher

    from torchcourse.ranks.run import free_port

    notebook_launcher(one_all_reduce, num_processes=world_size, use_port=str(free_port()))


WAYS = {
    "`run_ranks`": with_run_ranks,
    "`mp.spawn`, function in a module": with_mp_spawn,
    "`torchrun`, script": with_torchrun,
    "accelerate's `notebook_launcher` (fork)": with_accelerate,
}


def table() -> Table:
    rows = []
    for world_size in (2, 4):
        warm_reference = None
        for name in WAYS:
            seconds = _measure(name, world_size)
            if isinstance(seconds, str):
                rows.append([name, str(world_size), "–", "–", seconds])
                continue
            first, *warm = seconds
            warm_reference = warm_reference or warm
            times = f"{sorted(warm)[len(warm) // 2] / sorted(warm_reference)[len(warm) // 2]:.1f}×"
            rows.append([name, str(world_size), f"{first:.2f} s", spread(warm, "s"), times])
    return Table(
        "Starting ranks",
        ["way", "ranks", "first call", "later calls: median (range)", "against run_ranks"],
        rows,
        f"One all-reduce of one number on the CPU. Each way in a fresh Python, {CALLS} calls; importing torch in the "
        "parent is not counted.",
    )


def _measure(name: str, world_size: int) -> list[float] | str:
    command = [sys.executable, __file__, "calls", name, str(world_size)]
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT)
    except subprocess.TimeoutExpired:
        return f"no end within {LIMIT} s"
    if result.returncode:
        return f"failed: {(result.stderr.strip().splitlines() or ['no message'])[-1][:80]}"
    return json.loads(result.stdout.strip().splitlines()[-1])


def _calls(name: str, world_size: int) -> None:
    seconds = []
    for _ in range(CALLS):
        start = time.perf_counter()
        WAYS[name](world_size)
        seconds.append(time.perf_counter() - start)
    print(json.dumps(seconds))


if __name__ == "__main__":
    if sys.argv[1] == "rank":
        one_all_reduce()
        dist.destroy_process_group()
    else:
        _calls(sys.argv[2], int(sys.argv[3]))
