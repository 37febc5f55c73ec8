"""What the environment variables of a process say: started by `torchrun`, or one of the ranks of `run_ranks`."""

import os

# Set in the rank server and in every rank: there, no second server may start.
IN_RANK = "TORCHCOURSE_IN_RANK"
# What torchrun puts into the environment of each process that it starts.
_TORCHRUN = ("TORCHELASTIC_RUN_ID", "RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


def under_torchrun() -> bool:
    """Whether `torchrun` has started this process, as one of its ranks."""
    return all(name in os.environ for name in _TORCHRUN)
