"""docs/REAL_MACHINES.md: shell lines parse, programs compile and import what exists, the Slurm file starts agents."""

import ast
import importlib
import os
import re
import shlex
import subprocess
from pathlib import Path

import pytest
from torch.distributed.run import parse_args

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "REAL_MACHINES.md").read_text(encoding="utf-8")
SHELL = re.findall(r"```bash\n(.*?)```", PAGE, re.DOTALL)
PYTHON = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
[SLURM] = [block for block in SHELL if "#SBATCH" in block]


def test_the_shell_reads_every_block():
    assert len(SHELL) >= 7
    for block in SHELL:
        done = subprocess.run(["bash", "-n"], input=block, capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (0, ""), block


def test_torchrun_knows_every_option():
    lines = [line for block in SHELL for line in block.splitlines() if line.startswith("torchrun ")]
    read = [parse_args(shlex.split(line, comments=True)[1:]) for line in lines]
    assert {options.training_script for options in read} == {"train.py"}
    assert [options.nnodes for options in read if options.rdzv_id != "none"] == ["2"]


@pytest.mark.parametrize("program", PYTHON)
def test_programs_import_what_the_course_has(program):
    for node in ast.walk(ast.parse(program)):
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith("torchcourse"):
            module = importlib.import_module(str(node.module))
            for name in node.names:
                if not hasattr(module, name.name):
                    importlib.import_module(f"{node.module}.{name.name}")


def stand_in(folder: Path, name: str, text: str) -> None:
    (folder / name).write_text(f"#!/bin/bash\n{text}\n")
    (folder / name).chmod(0o755)


def test_the_slurm_file_starts_an_agent_on_each_node(tmp_path):
    stand_in(tmp_path, "scontrol", '[ "$*" = "show hostnames n[7-8]" ] && printf "n7\\nn8\\n"')
    stand_in(tmp_path, "srun", 'shift; for node in $(seq "$SLURM_JOB_NUM_NODES"); do "$@"; done')
    stand_in(tmp_path, "torchrun", 'printf "%q " "$@"; echo')
    job = {"SLURM_JOB_ID": "4711", "SLURM_JOB_NUM_NODES": "2", "SLURM_JOB_NODELIST": "n[7-8]"}
    environment = {"PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}", **job}
    done = subprocess.run(["bash"], input=SLURM, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    agents = [parse_args(shlex.split(line)) for line in done.stdout.splitlines()]
    assert len(agents) == 2
    for agent in agents:
        assert (agent.nnodes, agent.rdzv_id, agent.rdzv_endpoint) == ("2", "4711", "n7:24711")
        assert (agent.nproc_per_node, agent.training_script) == ("gpu", "train.py")


def test_links_lead_to_headings_of_the_page():
    headings = {
        re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")
        for heading in re.findall(r"^## (.*)$", PAGE, re.MULTILINE)
    }
    inside = set(re.findall(r"\]\(#([^)]+)\)", PAGE))
    assert inside
    assert inside <= headings
