"""Pipelines: schedules as data, simulated, drawn, and executed by ranks that send and receive."""

from torchcourse.lessons.model_parallelism.pipeline.run import Pipeline, Record, cut, timeline
from torchcourse.lessons.model_parallelism.pipeline.schedules import (
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
from torchcourse.lessons.model_parallelism.pipeline.simulate import Costs, Deadlock, Span, Timeline, simulate
from torchcourse.lessons.model_parallelism.pipeline.sleeping import measure

__all__ = [
    "SCHEDULES",
    "Action",
    "Costs",
    "Deadlock",
    "Pipeline",
    "Record",
    "Schedule",
    "Span",
    "Timeline",
    "bubble",
    "cut",
    "gpipe",
    "interleaved",
    "layers_of",
    "measure",
    "one_f_one_b",
    "simulate",
    "timeline",
    "zero_bubble",
]
