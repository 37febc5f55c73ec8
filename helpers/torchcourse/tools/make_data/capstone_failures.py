"""Pack the program of the capstone's incident, and train the runs that a diagnosis is checked on.

    python -m torchcourse.tools.make_data.capstone_failures        # about a minute on two cores

It writes `lessons/capstone/planted.bin`: the text of `capstone_planted`, two runs with each failure, and three without.
"""

import json
import tempfile
import zlib
from pathlib import Path
from typing import Any

from torchcourse.lessons.capstone._planted import PLANTED
from torchcourse.lessons.capstone.colleague import IMAGES, RANKS
from torchcourse.lessons.capstone.delivery import deliver
from torchcourse.ranks.run import run_ranks
from torchcourse.tools.make_data import capstone_planted

PROGRAM = Path(capstone_planted.__file__)
SEEDS = (101, 102)
"""Of the runs with a failure; healthy ones have one more."""


def main() -> None:
    causes = ["", *capstone_planted.FAILURES]
    runs = run_ranks(_all_runs, causes, world_size=RANKS, timeout=1200)
    joined = [(cause, [ranks[place][1] for ranks in runs]) for place, (cause, _) in enumerate(runs[0])]
    content = {"program": PROGRAM.read_text(encoding="utf-8"), "runs": joined}
    PLANTED.write_bytes(zlib.compress(json.dumps(content).encode(), 9))
    print(f"{PLANTED.name}: {len(joined)} runs, {PLANTED.stat().st_size / 1e3:.0f} kB")


def _all_runs(causes: list[str]) -> list[tuple[str, dict[str, Any]]]:
    runs = []
    for cause in causes:
        for seed in (*SEEDS, 103) if not cause else SEEDS:
            with tempfile.TemporaryDirectory() as place:  # one for each rank, with the same content
                noted = capstone_planted.train(cause, deliver(Path(place) / "files", IMAGES, seed=1000 + seed), seed)
            runs.append((cause, _rounded(noted)))
    return runs


def _rounded(noted: dict[str, Any]) -> dict[str, Any]:
    """Return what a rank noted, with numbers to seven digits: more would only make the file larger."""
    return json.loads(json.dumps(noted), parse_float=lambda text: float(f"{float(text):.7g}"))


if __name__ == "__main__":
    main()
