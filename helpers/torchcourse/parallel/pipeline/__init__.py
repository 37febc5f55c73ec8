"""Pipelines: schedules as data, simulated, drawn, and executed by ranks that send and receive."""

from torchcourse.parallel.pipeline.schedules import (
    SCHEDULES,
    Action,
    Schedule,
    bubble,
    gpipe,
    interleaved,
    layers_of,
    one_f_one_b,
    zero_bubble,
)
from torchcourse.parallel.pipeline.simulate import Costs, Deadlock, Span, Timeline, simulate

__all__ = [
    "SCHEDULES",
    "Action",
    "Costs",
    "Deadlock",
    "Schedule",
    "Span",
    "Timeline",
    "bubble",
    "gpipe",
    "interleaved",
    "layers_of",
    "one_f_one_b",
    "simulate",
    "zero_bubble",
]
