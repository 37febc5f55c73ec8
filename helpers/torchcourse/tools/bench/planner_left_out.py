"""The planner on each source of published runs, set on all others. It measures nothing on this machine."""

from torchcourse.lessons.model_parallelism.planner.accuracy import by_source, judge
from torchcourse.lessons.model_parallelism.planner.calibration import ENOUGH_RUNS, large_sources, left_out
from torchcourse.tools.bench.report import Table


def table() -> Table:
    known = {row.key: row for row in by_source(judge())}
    rows = [
        [key, known[key].counts, str(known[key].rows), f"{left_out(key):.1%}", f"{known[key].constant:.1%}"]
        for key in large_sources()
    ]
    return Table(
        "The planner on a source that is left out",
        ["source", "counts", "runs", "planner", "best constant"],
        rows,
        "Mean relative error of FLOP/s per GPU on a source, with the time constants set on all others of at least "
        f"{ENOUGH_RUNS} runs. The best constant is one number for all runs of the source, chosen afterwards.",
    )
