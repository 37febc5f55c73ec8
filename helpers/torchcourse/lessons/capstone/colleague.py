"""A colleague's training run, in which something is wrong: what, depends on who you are.

    records = incident("Kim Minji", "incident")     # trains on two ranks, and returns what they noted

The program that is run comes packed, with its failures, and nothing public says which one a name draws. The check of
M4 judges a diagnosis: first its evidence, then its name.
"""

import os
import shutil
from pathlib import Path
from types import EllipsisType
from typing import Any

from torchcourse.lessons.capstone import _planted
from torchcourse.lessons.capstone.delivery import deliver
from torchcourse.lessons.capstone.records import Records, from_ranks
from torchcourse.ranks.run import run_ranks
from torchcourse.training.monitor import Monitor

CAUSES = {
    "same data": "both ranks train on the same pictures",
    "same order": "every epoch brings the pictures in the same order",
    "not averaged": "the ranks do not average their gradients",
    "gradients kept": "gradients of earlier steps are not cleared",
    "body left out": "the optimizer does not have the backbone's weights",
    "pixels not scaled": "the backbone gets pixels in a scaling that it does not know",
    "labels moved": "labels belong to different pictures than the table says",
    "rate gone": "the learning rate ends long before the training does",
    "validation seen": "pictures of the validation part are trained on",
    "sum of losses": "the loss is a sum over the batch, not a mean",
    "always training mode": "the model is validated in training mode",
    "frozen head": "the head gets no gradients",
}
"""What may be wrong in such a run: name → in words. Not all of them are planted."""

IMAGES, RANKS = 160, 2


def incident(name: str | EllipsisType, folder: str | os.PathLike, seed: int = 0) -> Records:
    """Train the colleague's run on two ranks and return its records; a log for TensorBoard is in `folder/log`.

    Args:
        name: yours: it draws the failure. `...` stands for the folder that you work in.
        folder: gets a delivery of its own, and the log.
        seed: of the delivery and of the training; the failure stays the same.
    """
    folder = deliver(folder, IMAGES, seed=1000 + seed)
    name = os.getcwd() if isinstance(name, EllipsisType) else name
    records = from_ranks(run_ranks(_in_a_rank, name, folder, seed, world_size=RANKS))
    shutil.rmtree(folder / "log", ignore_errors=True)  # of an earlier call: TensorBoard would draw both runs as one
    with Monitor(folder / "log") as board:
        for step in range(records.loss.shape[1]):
            values = {"rate": records.rate[0, step], "gradient_norm": records.gradient_norm[0, step]}
            board.scalars(step + 1, values | {f"loss/rank {rank}": records.loss[rank, step] for rank in range(RANKS)})
        for epoch, accuracy in enumerate(records.val_accuracy, 1):
            board.scalars(epoch * records.steps_per_epoch, {"accuracy/val": accuracy})
    return records


def _in_a_rank(name: str, folder: Path, seed: int) -> dict[str, Any]:
    return _planted.train(_planted.drawn(name), folder, seed)
