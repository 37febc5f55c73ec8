"""Pipelines: schedules as data, simulated, drawn, and executed by ranks that send and receive.

schedules       who does what in which order: GPipe, 1F1B, interleaved, zero bubble
simulation      when each action runs on ideal ranks, how long they wait and how much they hold
run             a schedule executed, with the loss and gradients of the unsplit model
sleeping        a schedule measured by itself, on stages that only sleep
split_backward  the backward pass in two halves
"""

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
from torchcourse.lessons.model_parallelism.pipeline.simulation import Costs, Deadlock, Span, Timeline, simulate
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
