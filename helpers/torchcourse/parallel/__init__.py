"""Parallel training from a notebook: start ranks, take them apart, put them together."""

from torchcourse.parallel import _start

_start.warm_up()  # before anything that imports torch: the rank server imports it at the same time

from torchcourse.parallel._group import default_world_size, device  # noqa: E402
from torchcourse.parallel.export import export_script  # noqa: E402
from torchcourse.parallel.ranks import RankError, RankTimeout, run_ranks  # noqa: E402

__all__ = ["RankError", "RankTimeout", "default_world_size", "device", "export_script", "run_ranks"]
