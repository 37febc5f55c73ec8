"""The checks of lesson 04. Its notebooks take them from here, each under the name of its exercise.

monitoring  notebook 1: logging at an interval, reading a curve back, the price of a look, one writer
histograms  notebook 2: counting on the device, dead units, the scale at the start
naming      notebook 2: runs that the lesson has not shown
saving      notebook 3: a file that a kill leaves whole
resuming    notebook 3: a run that goes on exactly, noise that can be drawn again
loading     notebook 3: files of several GPUs, with gaps, with programs inside
crashes     notebook 4: how often to save, what is in the weights, dealing on any number of ranks
"""

from torchcourse.lessons.monitoring.checks.crashes import audit, deal, steps_between_saves
from torchcourse.lessons.monitoring.checks.histograms import dead_share, fixed_histogram, gradient_factor
from torchcourse.lessons.monitoring.checks.loading import load_on_one
from torchcourse.lessons.monitoring.checks.monitoring import log_epoch, log_means, look_every, turning_step
from torchcourse.lessons.monitoring.checks.naming import names_of_runs, spelled, train_unknown
from torchcourse.lessons.monitoring.checks.resuming import noisy_image, resume
from torchcourse.lessons.monitoring.checks.saving import save_whole

__all__ = [
    "audit",
    "dead_share",
    "deal",
    "fixed_histogram",
    "gradient_factor",
    "load_on_one",
    "log_epoch",
    "log_means",
    "look_every",
    "names_of_runs",
    "noisy_image",
    "resume",
    "save_whole",
    "spelled",
    "steps_between_saves",
    "train_unknown",
    "turning_step",
]
