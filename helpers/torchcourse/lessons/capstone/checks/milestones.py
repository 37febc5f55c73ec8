"""The milestones' checks by one name, in their order: M1 to M6."""

from torchcourse.lessons.capstone.checks.data import dataset
from torchcourse.lessons.capstone.checks.failure import diagnosis
from torchcourse.lessons.capstone.checks.page import report
from torchcourse.lessons.capstone.checks.search import study
from torchcourse.lessons.capstone.checks.training import ddp_run, one_device

__all__ = ["dataset", "ddp_run", "diagnosis", "one_device", "report", "study"]
