"""Two machines on this one: two agents of torchrun with two ranks each, of which a rank dies, then a whole machine.

    story = play("died", rank_dies_at=13, machine_dies_at=23)

An **agent** is what the command `torchrun` is: it starts ranks, watches them, and starts them again. Here each agent is
a process of its own that reads the arguments of that command (`arguments`) with torchrun's own code. One thing differs:
agents and ranks are forked from a process that has imported PyTorch already, which saves seconds per process. Where
processes cannot be forked, they start as usual. The command itself starts the same training: see `elastic_digits`.

The machine that dies is a group of processes: agent and ranks are killed at once, as by a power cut.
"""

import contextlib
import json
import multiprocessing
import os
import shutil
import signal
import sys
import threading
import time
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.launcher.api import elastic_launch
from torch.distributed.run import config_from_args, parse_args

from torchcourse.lessons.monitoring import elastic_digits
from torchcourse.ranks.environ import IN_RANK
from torchcourse.ranks.run import RankError, RankTimeout, free_port, run_ranks
from torchcourse.ranks.start import start_method
from torchcourse.ranks.who import ON_CPU

OWN_STORE = {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
"""For the environment of `torchrun`: each start of the ranks gets a store of its own. PyTorch 2.13 shares one by
default, and after a restart gloo finds the addresses of the dead ranks in it ("Connection refused")."""

SECONDS, TRIES = 90.0, 3
"""The time limit of a story, and how often it is begun where the agents give up."""


@dataclass
class Story:
    """What happened.

    Attributes:
        weights: at the end, as one vector.
        rows: one per step of each rank, in the order of time; `elastic_digits` writes them.
        deaths: who died, `"rank"` or `"machine"`, and when (seconds, as in the rows).
    """

    weights: torch.Tensor
    rows: list[dict[str, Any]] = field(repr=False)
    deaths: dict[str, float]

    def starts(self) -> list[tuple[int, int, int]]:
        """Return for each start of the ranks how many they were, and the first and the last step that rank 0 did."""
        by_process: dict[int, list[dict[str, Any]]] = {}
        for row in self.rows:
            if row["rank"] == 0:
                by_process.setdefault(row["process"], []).append(row)
        return [(rows[0]["ranks"], rows[0]["step"], rows[-1]["step"]) for rows in by_process.values()]

    def processes(self) -> int:
        """Return how many processes have trained, over all starts."""
        return len({row["process"] for row in self.rows})


def arguments(nodes: str, endpoint: str) -> list[str]:
    """Return what stands between `torchrun` and the name of the module, the same on each machine."""
    return [
        f"--nnodes={nodes}",
        "--nproc-per-node=2",
        "--max-restarts=3",
        "--rdzv-backend=c10d",
        "--rdzv-id=digits",
        f"--rdzv-endpoint={endpoint}",
    ]


def play(
    folder: str,
    rank_dies_at: int | None = None,
    machine_dies_at: int | None = None,
    replace: bool = True,
) -> Story | None:
    """Train `elastic_digits` for 30 steps on two agents with two ranks each, on the CPU, and return what happened.

    Where a machine refuses the processes or ports, the reason is printed, and None returned.

    Args:
        folder: an empty one.
        rank_dies_at, machine_dies_at: the step in which the last rank, or machine B, is killed.
        replace: start agent C as a substitute for the dead machine. If not, agent A goes on alone, with two ranks.
    """
    if not hasattr(os, "killpg"):
        print("This scene needs groups of processes, which Windows lacks. All else in this notebook works without it.")
        return None
    call = (folder, rank_dies_at, machine_dies_at, replace, start_method() == "spawn")
    try:
        for _ in range(TRIES):
            found = run_ranks(_story, *call, world_size=1, timeout=SECONDS, env=ON_CPU)[0]
            if isinstance(found, Story):
                return found
            shutil.rmtree(folder)
        print(f"The agents gave up {TRIES} times: a busy machine can miss their signs of life. Run this cell again.")
        print(f"The last words of agent A:\n{found}")
    except RankTimeout:
        print(f"The agents had not finished after {SECONDS:g} s. On a machine that has time, run this cell again.")
    except RankError as error:
        if error.kind not in ("PermissionError", "OSError", "BlockingIOError"):
            raise
        print(f"This machine refuses a process or a port ({error.message}). All else here works without this scene.")
    return None


def _story(
    folder: str, rank_dies_at: int | None, machine_dies_at: int | None, replace: bool, spawn: bool
) -> Story | str:
    """Start both agents, wait, and do what the plan says; runs in a process that has no threads of a kernel.

    Where the agents gave up before the last step, the last words of agent A.
    """
    dist.destroy_process_group()  # the agents make their own
    here = Path(folder).resolve()
    here.mkdir(parents=True, exist_ok=True)
    method = "spawn" if spawn else "fork"
    given = arguments("2" if replace else "1:2", f"127.0.0.1:{free_port()}")
    job = (str(here), 30, 5, rank_dies_at, machine_dies_at)
    agents = {name: _start(name, given, job, method) for name in "AB"}
    deaths: dict[str, float] = {}
    try:
        while agents["A"].is_alive():
            if "rank" not in deaths and (here / "rank_died").exists():
                deaths["rank"] = time.time()
            if "machine" not in deaths and (here / "machine_died").exists() and not agents["B"].is_alive():
                deaths["machine"] = time.time()
                if replace:
                    agents["C"] = _start("C", given, job, method)
            time.sleep(0.05)
        if not (here / "weights.pt").exists():
            return _last_words(here)
        rows = [json.loads(line) for file in here.glob("steps_*.jsonl") for line in file.read_text().splitlines()]
        rows.sort(key=lambda row: row["time"])
        return Story(torch.load(here / "weights.pt", weights_only=True), rows, deaths)
    finally:
        for agent in agents.values():
            with contextlib.suppress(OSError):
                os.killpg(agent.pid or 0, signal.SIGKILL)


def _start(name: str, given: list[str], job: tuple, method: str) -> BaseProcess:
    agent = multiprocessing.get_context(method).Process(target=_agent, args=(name, given, job, method))  # type: ignore[attr-defined]  # of every context
    agent.start()
    return agent


def _agent(name: str, given: list[str], job: tuple, method: str) -> None:
    """Be the command torchrun with these arguments, on a machine of this name."""
    os.setpgid(0, 0)
    _end_with(os.getppid())
    for variable in (IN_RANK, "RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        os.environ.pop(variable, None)
    os.environ.update({"MACHINE": name, "OMP_NUM_THREADS": "1"} | OWN_STORE)
    # A dead agent is missed after 5 seconds instead of 15, and ranks wait 1 second for further agents instead of 30.
    waits = "--rdzv-conf=last_call_timeout=1,keep_alive_interval=1,keep_alive_max_attempt=5"
    config, _, _ = config_from_args(parse_args([*given, waits, "--local-addr=127.0.0.1", elastic_digits.__file__]))
    config.start_method = method
    with open(f"{job[0]}/agent_{name}.log", "a", buffering=1, encoding="utf-8") as words:
        sys.stdout = sys.stderr = words
        for descriptor in (1, 2):  # what C++ says
            os.dup2(words.fileno(), descriptor)
        elastic_launch(config, _rank)(*job)


def _rank(*job: Any) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # a forked rank has the agent's handler, which waits for Python
    weights = run_ranks(elastic_digits.train, *job)
    if os.environ["RANK"] == "0":
        torch.save(weights[0], f"{job[0]}/weights.pt")


def _end_with(parent: int) -> None:
    """End this process and its ranks when its parent is gone."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os.killpg(0, signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()


def _last_words(folder: Path) -> str:
    lines = (folder / "agent_A.log").read_text(errors="replace").splitlines()
    return "\n".join(line for line in lines if "Error" in line)[-600:]
