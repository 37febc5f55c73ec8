"""Run the parts and write the report: `python -m torchcourse.tools.gpu_check`, or `make gpu-check`."""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

import torch

from torchcourse.tools.gpu_check import memory, notebooks, overhead, precision, ranks, scaling
from torchcourse.tools.gpu_check.parts import FAILED, Case, Finding, Part, Row, rows_of
from torchcourse.tools.gpu_check.report import page, summary
from torchcourse.tools.gpu_check.scaling_picture import picture

PARTS: dict[str, Callable[[], Part]] = {
    "ranks": ranks.part,
    "memory": memory.part,
    "precision": precision.part,
    "scaling": scaling.part,
    "overhead": overhead.part,
    "tests": notebooks.gpu_tests,
}


def main(words: list[str] | None = None) -> int:
    """Run the parts that are asked for; return 0 where nothing failed, else 1."""
    options = _options(words)
    parts = {name: PARTS[name] for name in options.parts if name in PARTS}
    if "notebooks" in options.parts:
        parts["notebooks"] = lambda: notebooks.part(_patterns(options.notebooks))
    options.out.mkdir(parents=True, exist_ok=True)
    report = options.out / "report.md"
    results: dict[str, tuple[Part, list[Row]]] = {}
    drawn = None
    for name, make in parts.items():
        part, rows = _made(name, make), list[Row]()
        results[part.title] = (part, rows)
        print(f"{part.title} …", flush=True)
        for row, seconds in rows_of(part):
            rows.append(row)
            print(f"  {row.what}: {row.state}: {row.result} ({seconds:.0f} s)", flush=True)
            report.write_text(page(results, drawn), encoding="utf-8")
        if name == "scaling" and any(row.numbers for row in rows):
            where = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU ranks, no GPU"
            picture(rows, where).savefig(options.out / "scaling.png")
            drawn = "scaling.png"
            report.write_text(page(results, drawn), encoding="utf-8")
    every = [row for _, rows in results.values() for row in rows]
    print(f"{summary(every)} Report: {report}")
    return int(any(row.state == FAILED for row in every))


def _options(words: list[str] | None) -> argparse.Namespace:
    names = [*PARTS, "notebooks"]
    parser = argparse.ArgumentParser(
        prog="make gpu-check", description="Run the course on this machine's GPUs, and write one report."
    )
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"some of {', '.join(names)}; all by default")
    parser.add_argument(
        "--notebooks",
        nargs="+",
        metavar="NAME",
        help="all, none, or beginnings of names, such as 01_data 05_trouble (default: all with a GPU, else none)",
    )
    parser.add_argument(
        "--out", type=Path, default=Path("bench/gpu-check"), help="the report's folder (default: %(default)s)"
    )
    options = parser.parse_args(words)
    if unknown := [name for name in options.parts if name not in names]:
        parser.error(f"there is no part {', '.join(unknown)}; the parts are {', '.join(names)}")
    options.parts = options.parts or names
    return options


def _made(name: str, make: Callable[[], Part]) -> Part:
    """Make a part; one that cannot even begin becomes a part with a case that says why."""
    try:
        return make()
    except Exception as error:  # a broken driver may answer the first question with any error
        reason = error

    def fail() -> Finding:
        raise reason

    return Part(name, "This part could not begin.", [Case(name, fail)])


def _patterns(asked: list[str] | None) -> list[str]:
    if asked is None:
        return ["*"] if torch.cuda.is_available() else []
    return {"all": ["*"], "none": []}.get(asked[0], asked)


if __name__ == "__main__":
    sys.exit(main())
