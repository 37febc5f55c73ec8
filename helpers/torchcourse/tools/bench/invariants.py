"""What `SanityProbe` catches of silent bugs, and how many healthy programs it accuses."""

from types import ModuleType

import torch

from torchcourse.tools.bench.programs import (
    Program,
    healthy_epochs,
    healthy_loops,
    healthy_models,
    healthy_pairs,
    held_back_bugs,
    judge,
    programs_of,
    silent_bugs,
)
from torchcourse.tools.bench.report import Table

SEEDS = (0, 1, 2)


def table() -> Table:
    torch.set_num_threads(1)
    rows, notes = [], []
    modules = (healthy_loops, healthy_epochs, healthy_models, healthy_pairs)
    healthy = {name: program for module in modules for name, program in programs_of(module).items()}
    accused = {name: _names(program) for name, program in healthy.items()}
    wrong = {name: found for name, found in accused.items() if any(found)}
    rows.append([f"{len(healthy)} healthy programs", f"{len(wrong)} accused"])
    notes += [f"- {name}: {_listed(found)}" for name, found in wrong.items()]
    for module, what in ((silent_bugs, "that the rules were set on"), (held_back_bugs, "held back")):
        rows.append(_caught(module, what, notes))
    return Table(
        "Silent bugs",
        ["programs", "what the probe says"],
        rows,
        f"Each program with seeds {', '.join(map(str, SEEDS))}. Accused: an alarm with any seed. Caught: with every "
        "one.",
        ["\n".join(notes)] if notes else [],
    )


def _caught(module: ModuleType, what: str, notes: list[str]) -> list[str]:
    found = {name: _names(program) for name, program in programs_of(module).items()}
    caught = [name for name, names in found.items() if all(names)]
    notes += [f"- {name} ({what}): {_listed(names)}" for name, names in found.items()]
    return [f"{len(found)} with a silent bug, {what}", f"{len(caught)} caught"]


def _names(program: Program) -> list[list[str]]:
    return [sorted(alarm.name for alarm in judge(program, seed)) for seed in SEEDS]


def _listed(found: list[list[str]]) -> str:
    return ", ".join(sorted({name for names in found for name in names})) or "no alarm"
