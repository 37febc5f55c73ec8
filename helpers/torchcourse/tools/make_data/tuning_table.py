"""Train every setting of the tuning lesson and keep the results: `python -m torchcourse.tools.make_data.tuning_table`.

It makes `lessons/tuning/tables/digits.npz`: five tables of accuracies after each epoch.

* `space`: all 780 settings of `digits_task.SPACE`: [13 learning rates, 5 widths, 3 optimizers, 4 decays, 9 epochs].
* `seeds`: three good settings that differ little, trained from many seeds: [3 settings, 40 seeds, 9 epochs].
* `scaling`: model size against data: [5 widths, 6 numbers of images, 3 seeds, 9 epochs].
* `batches`: batch size against learning rate: [6 batch sizes, 13 learning rates, 9 epochs].
* `longer`: PyTorch's defaults and a tuned setting of the same width, trained on: [2 settings, 10 seeds, 60 epochs].

Of `space` it also keeps `right`: of each image outside training, whether it got its label, one bit an image.

It takes about ten minutes of one core; each process trains on one thread, so that the results do not depend on how
many there are. The last bits may differ from machine to machine, and with them single images.
"""

import itertools
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch

from torchcourse.lessons.tuning import digits_task
from torchcourse.lessons.tuning.digits_task import BATCHES, IMAGES, SPACE, EpochResult
from torchcourse.tools.make_data.provenance import processes, save_table

TARGET = Path(__file__).parents[2] / "lessons" / "tuning" / "tables" / "digits.npz"
SCALING = {"lr": SPACE["lr"][5], "optimizer": "adamw", "weight_decay": 0.0}
BATCHED = {"width": 16, "optimizer": "sgd", "weight_decay": 0.0}
RIVALS = (
    {"lr": SPACE["lr"][5], "width": 16, "optimizer": "adamw", "weight_decay": 0.0},
    {"lr": SPACE["lr"][5], "width": 32, "optimizer": "adamw", "weight_decay": 0.0},
    {"lr": SPACE["lr"][8], "width": 16, "optimizer": "sgd", "weight_decay": 0.0},
)
"""The settings of the table `seeds`."""

LONGER = (
    {"lr": SPACE["lr"][3], "width": 16, "optimizer": "adamw", "weight_decay": 0.01},
    {"lr": SPACE["lr"][6], "width": 16, "optimizer": "adamw", "weight_decay": 0.0},
)
"""The settings of the table `longer`: the defaults of PyTorch's AdamW, and a larger rate."""

LONG, LONG_SEEDS = 60, 10


def jobs() -> dict[str, tuple[tuple[int, ...], list[dict]]]:
    """Return for each table its shape without the epochs, and the arguments of `digits_task.train` of its runs."""
    space = [{"settings": dict(zip(SPACE, values, strict=True))} for values in itertools.product(*SPACE.values())]
    seeds = [{"settings": settings, "seed": seed} for settings, seed in itertools.product(RIVALS, range(40))]
    scaling = [
        {"settings": SCALING | {"width": width}, "train_images": images, "seed": seed}
        for width, images, seed in itertools.product(SPACE["width"], IMAGES, range(3))
    ]
    batches = [
        {"settings": BATCHED | {"lr": lr}, "batch_size": batch_size}
        for batch_size, lr in itertools.product(BATCHES, SPACE["lr"])
    ]
    longer = [
        {"settings": settings, "seed": seed, "epochs": LONG}
        for settings, seed in itertools.product(LONGER, range(LONG_SEEDS))
    ]
    return {
        "space": (tuple(len(values) for values in SPACE.values()), space),
        "seeds": ((len(RIVALS), 40), seeds),
        "scaling": ((len(SPACE["width"]), len(IMAGES), 3), scaling),
        "batches": ((len(BATCHES), len(SPACE["lr"])), batches),
        "longer": ((len(LONGER), LONG_SEEDS), longer),
    }


def run(job: dict) -> list[EpochResult]:
    """Train one setting on one thread; return the results of its epochs."""
    torch.set_num_threads(1)
    return list(digits_task.train(**job))


def table(rows: Iterable[list[EpochResult]], shape: tuple[int, ...], images: bool) -> dict[str, np.ndarray]:
    """Return the results of a table's runs as arrays.

    They are correct answers out of 500 and 797, milliseconds, and with `images` the packed bits of `right`.
    """
    rows = list(rows)
    values = np.array([[(r.val_accuracy, r.test_accuracy, r.seconds) for r in row] for row in rows])
    values = values.reshape(*shape, -1, 3)
    arrays = {
        "val": np.rint(values[..., 0] * digits_task.VALIDATION).astype(np.uint16),
        "test": np.rint(values[..., 1] * digits_task.TEST).astype(np.uint16),
        "milliseconds": (1000 * values[..., 2]).astype(np.float16),
    }
    if images:
        right = np.packbits([[result.right for result in row] for row in rows], axis=-1)
        arrays["right"] = right.reshape(*shape, *right.shape[1:])
    return arrays


def main() -> None:
    arrays: dict[str, np.ndarray] = {}
    with processes("Train the table of the tuning lesson.") as pool:
        for name, (shape, runs) in jobs().items():
            print(f"{name}: {len(runs)} runs", flush=True)
            rows = pool.map(run, runs, chunksize=4)
            found = table(rows, shape, images=name == "space")
            arrays |= {f"{name}/{kind}": array for kind, array in found.items()}
    save_table(TARGET, "tuning_table", arrays)


if __name__ == "__main__":
    main()
