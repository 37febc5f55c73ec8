"""Write the report: `python -m torchcourse.tools.bench`, all tables, or those that are named."""

import argparse
import importlib
import sys
import time
from datetime import date
from pathlib import Path

from torchcourse.tools.bench.report import machine

TABLES = [
    "ranks",
    "loop",
    "loaders",
    "monitor",
    "collectives",
    "notebooks",
    "checkpoints",
    "memory",
    "probes",
    "pipeline",
]
TABLES += ["tensor_parallel", "tuning", "planner_left_out", "invariants", "records"]
TABLES += ["grading", "grading_limit", "grading_parity"]


def main() -> int:
    parser = argparse.ArgumentParser(prog="make bench", description="Measure the speed tables, side by side.")
    parser.add_argument("tables", nargs="*", metavar="TABLE", help=f"some of {', '.join(TABLES)}; all by default")
    parser.add_argument("--out", type=Path, default=Path("bench/report.md"), help="the report (default: %(default)s)")
    arguments = parser.parse_args()
    unknown = [name for name in arguments.tables if name not in TABLES]
    if unknown:
        print(f"There is no table {', '.join(unknown)}. The tables are {', '.join(TABLES)}.", file=sys.stderr)
        return 1
    parts = [f"# Speed tables\n\n{date.today()} · {machine()}\n"]
    for name in arguments.tables or TABLES:
        print(f"Measuring {name} …", flush=True)
        start = time.perf_counter()
        try:
            table = importlib.import_module(f"torchcourse.tools.bench.{name}").table()
        except ImportError as error:
            print(f"Left out {name}: {error}. `make bench` installs what it compares with.", file=sys.stderr)
            continue
        parts.append(table.to_markdown())
        print(f"{parts[-1]}\n({time.perf_counter() - start:.0f} s)\n", flush=True)
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text("\n".join(parts), encoding="utf-8")
    print(f"Report: {arguments.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
