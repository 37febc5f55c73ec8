"""The planner beside published runs, by source. It measures nothing on this machine."""

from torchcourse.lessons.model_parallelism.planner.accuracy import by_source, judge
from torchcourse.tools.bench.report import Table


def table() -> Table:
    rows = [
        [
            row.key,
            "yes" if row.calibrates else "no",
            row.counts,
            str(row.rows),
            f"{row.error:.1%}",
            f"{row.constant:.1%}",
            "" if row.rank is None else f"{row.rank:.2f}",
        ]
        for row in by_source(judge())
    ]
    return Table(
        "The planner beside published runs",
        ["source", "sets constants", "counts", "runs", "planner", "best constant", "rank correlation"],
        rows,
        "Mean relative error of FLOP/s per GPU. The best constant is one number for all runs of a source, chosen "
        "afterwards. The rank correlation is over the layouts of one model on as many GPUs.",
    )
