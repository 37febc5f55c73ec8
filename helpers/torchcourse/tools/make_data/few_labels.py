"""Train every entry of the table of lesson 07 and keep the results: `python -m torchcourse.tools.make_data.few_labels`.

It makes `lessons/transfer/tables/few_labels.npz`: for each method the accuracies and the CPU seconds, [7 numbers of
labels, 10 seeds]. It takes about five minutes of one core. The last bits may differ from machine to machine, and with
them single images.
"""

import argparse
import itertools
import os
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import numpy as np
import torch

from torchcourse.lessons.transfer.few_labels import LABELS, METHODS, SEEDS, TABLE, run
from torchcourse.tools.make_data.provenance import save_table


def entry(job: tuple[str, int, int]) -> tuple[float, float]:
    """Train one entry of the table on one thread; return accuracy and seconds."""
    torch.set_num_threads(1)
    result = run(*job)
    return result.accuracy, result.seconds


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the table of labels against accuracy.")
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    arguments = parser.parse_args()
    jobs = list(itertools.product(METHODS, LABELS, range(SEEDS)))
    with ProcessPoolExecutor(arguments.processes, get_context("spawn")) as pool:
        values = np.array(list(pool.map(entry, jobs))).reshape(len(METHODS), len(LABELS), SEEDS, 2)
    arrays = {}
    for method, rows in zip(METHODS, values, strict=True):
        arrays[f"{method}/accuracy"] = rows[..., 0]
        arrays[f"{method}/seconds"] = rows[..., 1]
    save_table(TABLE, "few_labels", arrays)


if __name__ == "__main__":
    main()
