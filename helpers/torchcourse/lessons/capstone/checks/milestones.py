"""The milestones' checks by one name: `dataset` M1, `study` M2, `ddp_run` M3, `one_device` M5."""

from torchcourse.lessons.capstone.checks.data import dataset
from torchcourse.lessons.capstone.checks.search import study
from torchcourse.lessons.capstone.checks.training import ddp_run, one_device

__all__ = ["dataset", "ddp_run", "one_device", "study"]
