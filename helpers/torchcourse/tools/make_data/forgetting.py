"""Train all ways of `lessons.transfer.forgetting` from ten seeds: `python -m torchcourse.tools.make_data.forgetting`.

It makes `lessons/transfer/tables/forgetting.npz`: for each way the accuracies on the old and the new task, [10 seeds,
2]. It takes about a minute of one core. The last bits may differ from machine to machine, and with them single images.
"""

import numpy as np
import torch

from torchcourse.lessons.transfer.few_labels import accuracy
from torchcourse.lessons.transfer.forgetting import SEEDS, TABLE, WAYS, learn, mnist_reader, tasks
from torchcourse.tools.make_data.provenance import save_table


def main() -> None:
    torch.set_num_threads(1)
    reader, known = mnist_reader(), tasks()
    old, new = known["MNIST"], known["small digits"]
    table = {}
    for way in WAYS:
        models = [learn(reader, new.train, way, old.train, seed) for seed in range(SEEDS)]
        table[way] = np.array([[accuracy(m, *old.test.tensors), accuracy(m, *new.test.tensors)] for m in models])
    save_table(TABLE, "forgetting", table)


if __name__ == "__main__":
    main()
