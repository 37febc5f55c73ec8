"""The one setting of the project: how large everything is."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Scale:
    """How large the project is.

    Attributes:
        images: pictures of the delivery to train on.
        trials: finished trials of the study.
        epochs: of one training run.
        seeds: training runs behind the number in the report.
        batch_size: pictures per step, over all ranks together.
        cpu_seconds: the budget for search and training runs, of all processes together.
    """

    images: int
    trials: int
    epochs: int
    seeds: int
    batch_size: int
    cpu_seconds: float


SCALES = {
    "quick": Scale(images=160, trials=3, epochs=2, seeds=2, batch_size=32, cpu_seconds=20),
    "two cores": Scale(images=640, trials=8, epochs=8, seeds=3, batch_size=32, cpu_seconds=60),
    "GPUs": Scale(images=1480, trials=60, epochs=30, seeds=10, batch_size=64, cpu_seconds=3000),
}
"""Three sizes: to try a program out, for the project, and for a machine with GPUs."""


def scale(name: str) -> Scale:
    """Return one of the `SCALES`.

    Raises:
        ValueError: for a different name.
    """
    if name not in SCALES:
        raise ValueError(f"The scale is one of {', '.join(map(repr, SCALES))}, but not {name!r}.")
    return SCALES[name]
