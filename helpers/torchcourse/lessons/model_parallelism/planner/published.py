"""Published runs to check the planner against: their speed, and their bytes per GPU.

The rows are in `published.csv`, the sizes of their models in `published_models.csv`, and their sources, with what the
planner cannot express, in `published_sources.yaml`.
"""

import csv
import math
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import yaml

from torchcourse.lessons.model_parallelism.planner.clusters import (
    GPU,
    H100,
    Cluster,
    dgx_a100,
    grand_teton,
)
from torchcourse.lessons.model_parallelism.planner.layout import Layout
from torchcourse.lessons.model_parallelism.planner.models import LLAMA3_8B, LLAMA3_70B, LLAMA3_405B, Model

SETTING = ("aleph-alpha", "mpt-a100", "mpt-h100")
"""Sources on whose speeds the planner's constants are set. It is judged on the others."""
MEMORY_SETTING = ("bigscience", "aleph-alpha")
"""Sources on whose bytes, and on whose layouts that ran or ran out of memory, the memory's constants are set."""


def _v100(gigabytes: int, gpus_per_node: int = 4, network: float = 12.5e9) -> Callable[[int], Cluster]:
    """Nodes of V100. The efficiency is the A100's: nothing was set on this GPU."""
    gpu = GPU(f"V100 {gigabytes} GB", 125e12, 15.7e12, gigabytes * 2**30, 0.9e12)
    return lambda gpus: Cluster(gpu, gpus, gpus_per_node, link=150e9, network=network)


_H100_96_GB = GPU("H100 96 GB", H100.flops, H100.flops_float32, 96 * 2**30, 2.4e12)
_CLUSTERS: dict[str, Callable[[int], Cluster]] = {
    "DGX A100": dgx_a100,
    "DGX A100, ZeRO of 2021": lambda gpus: replace(dgx_a100(gpus), network=25e9 / 8),
    "Grand Teton": grand_teton,
    "H100, 400 Gb/s": grand_teton,
    "H100, 100 Gb/s": lambda gpus: replace(grand_teton(gpus), network=12.5e9),
    "Jean Zay": lambda gpus: replace(dgx_a100(gpus), network=6.25e9),
    "V100 32 GB": _v100(32),
    "V100 16 GB": _v100(16),
    "V100 16 GB, 100 Gb/s": _v100(16, gpus_per_node=8, network=12.5e9 / 8),
    "H100 96 GB": lambda gpus: replace(grand_teton(gpus), gpu=_H100_96_GB),
}


@dataclass(frozen=True)
class Run:
    """The speed of a published run.

    Attributes:
        flops: FLOP/s per GPU, as published, or from the published seconds.
        counts: whether `flops` counts recomputation ("hardware") or not ("model").
        seconds: of a step, where the table gives them.
        unstated: fields of the layout that the source does not give. The planner takes the fastest that fit, as the
            authors tuned theirs.
        key: of the source, as in `published_sources.yaml`.
        calibrates: whether the planner's constants are set on this source. It is judged on the others.
    """

    name: str
    key: str
    source: str
    model: Model
    cluster: Cluster
    layout: Layout
    flops: float = 0.0
    counts: Literal["hardware", "model"] = "hardware"
    seconds: float | None = None
    unstated: tuple[str, ...] = ()
    calibrates: bool = False


@dataclass(frozen=True)
class MemoryRow:
    """Published bytes of a GPU.

    Attributes:
        part: "states", "activations" or "total".
        key: of the source, as in `published_sources.yaml`.
        size: in bytes; infinite where the run ended with "out of memory".
        measured: whether it was measured, or is the paper's own sum.
    """

    name: str
    key: str
    source: str
    model: Model
    cluster: Cluster
    layout: Layout
    part: Literal["states", "activations", "total"]
    size: float
    measured: bool


def _published() -> list[Run | MemoryRow]:
    """Read all rows.

    Raises:
        ValueError: for a row that says what the planner does not know. It names the line of the file.
    """
    sources = yaml.safe_load(_text("published_sources.yaml"))
    known = {model.name: model for model in (LLAMA3_8B, LLAMA3_70B, LLAMA3_405B)}
    known |= {row["name"]: _filled(Model, row) for row in _table("published_models.csv")}
    rows: list[Run | MemoryRow] = []
    for line, row in enumerate(_table("published.csv"), start=2):
        try:
            model = known[row["model"]]
            if row["sequence"]:
                model = replace(model, sequence=int(row["sequence"]))
            cluster = _CLUSTERS[row["cluster"]](int(row["gpus"]))
            rows.append(_row(row, sources[row["source"]], model, cluster, _filled(Layout, row)))
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"published.csv, line {line}, '{row['name']}' is not understood: {error}.") from error
    return rows


def _row(row: dict[str, str], source: str, model: Model, cluster: Cluster, layout: Layout) -> Run | MemoryRow:
    """Return a row, with its number in SI units."""
    described: dict[str, Any] = {
        "name": row["name"],
        "key": row["source"],
        "source": source,
        "model": model,
        "cluster": cluster,
        "layout": layout,
    }
    if row["quantity"] == "out of memory":
        return MemoryRow(**described, part="total", size=math.inf, measured=True)
    value = float(row["value"])
    speed = partial(Run, **described, unstated=tuple(row["unstated"].split()), calibrates=row["source"] in SETTING)
    match row["quantity"].rsplit(" ", 1):
        case ["hardware" | "model" as counts, "seconds"]:
            done = model.hardware_flop(layout.recomputation, layout.every)
            flop = done if counts == "hardware" else model.model_flop
            return speed(flops=flop * layout.batch / value / cluster.gpus, seconds=value, counts=counts)
        case ["MFU", "%"]:
            return speed(flops=value / 100 * cluster.gpu.flops, counts="model")
        case ["hardware" | "model" as counts, "TFLOP/s"]:
            return speed(flops=value * 1e12, counts=counts)
        case ["model", "tokens/s"]:
            return speed(flops=model.model_flop / model.sequence * value, counts="model")
        case ["states" | "activations" | "total" as part, "GiB" | "MiB" as unit]:
            size = value * {"GiB": 2**30, "MiB": 2**20}[unit]
            return MemoryRow(**described, part=part, size=size, measured=row["measured"] != "no")
    raise ValueError(f"there is no quantity '{row['quantity']}'")


def _filled(kind: type, row: dict[str, str]) -> Any:
    """Return an object of a dataclass, made of the cells of a row that are not empty."""
    return kind(**{field.name: _value(row[field.name]) for field in fields(kind) if row.get(field.name)})


def _value(cell: str) -> str | int | bool:
    return {"yes": True, "no": False}.get(cell, int(cell) if cell.isdecimal() else cell)


def _table(name: str) -> list[dict[str, str]]:
    return list(csv.DictReader(_text(name).splitlines()))


def _text(name: str) -> str:
    return Path(__file__).with_name(name).read_text(encoding="utf-8")


_ROWS = _published()
RUNS = tuple(row for row in _ROWS if isinstance(row, Run))
MEMORY = tuple(row for row in _ROWS if isinstance(row, MemoryRow))
