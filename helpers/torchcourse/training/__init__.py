"""Training: the loop, its checkpoints, metrics and TensorBoard log, the same in one process and on many ranks."""

from torchcourse.training.checkpoint import CheckpointError
from torchcourse.training.events import RunLog, read_run, read_scalars
from torchcourse.training.history import History
from torchcourse.training.metrics import OverAll, accuracy
from torchcourse.training.monitor import Monitor
from torchcourse.training.trainer import Trainer

__all__ = [
    "CheckpointError",
    "History",
    "Monitor",
    "OverAll",
    "RunLog",
    "Trainer",
    "accuracy",
    "read_run",
    "read_scalars",
]
