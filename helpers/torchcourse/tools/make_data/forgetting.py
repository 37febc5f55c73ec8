"""Train all ways of `lessons.transfer.forgetting` from ten seeds: `python -m torchcourse.tools.make_data.forgetting`.

It makes `lessons/transfer/tables/forgetting.npz`: for each way the accuracies on the old and the new task, [10 seeds,
2], and for the values of its knob, `way/curve`, [4 values, 5 seeds, 2]. It takes about four minutes of one core. The
last bits may differ from machine to machine, and with them single images.
"""

import numpy as np
import torch

from torchcourse.lessons.transfer.few_labels import accuracy
from torchcourse.lessons.transfer.forgetting import CURVE_SEEDS, KNOBS, SEEDS, TABLE, WAYS, learn, mnist_reader, tasks
from torchcourse.tools.make_data.provenance import save_table


def main() -> None:
    torch.set_num_threads(1)
    reader, known = mnist_reader(), tasks()
    old, new = known["MNIST"], known["small digits"]

    def both(way: str, seed: int, knob: float) -> tuple[float, float]:
        model = learn(reader, new.train, way, old.train, seed, knob=knob)
        return accuracy(model, *old.test.tensors), accuracy(model, *new.test.tensors)

    table = {}
    for way in WAYS:
        knob = KNOBS[way]
        print(f"{way}: {SEEDS} seeds, and {len(knob.tried)} values of its {knob.name}", flush=True)
        table[way] = np.array([both(way, seed, knob.usual) for seed in range(SEEDS)])
        if knob.tried:
            table[f"{way}/curve"] = np.array(
                [[both(way, seed, value) for seed in range(CURVE_SEEDS)] for value in knob.tried]
            )
    save_table(TABLE, "forgetting", table)


if __name__ == "__main__":
    main()
