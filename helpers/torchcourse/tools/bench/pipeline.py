"""The pipeline runner of this package against `torch.distributed.pipelining`, on two and four CPU ranks."""

from functools import partial

import torch
import torch.distributed as dist
import torch.distributed.pipelining as pp
import torch.nn.functional as F

from torchcourse.lessons.model_parallelism.pipeline import SCHEDULES, Pipeline, cut
from torchcourse.models import row_transformer
from torchcourse.ranks.run import run_ranks
from torchcourse.timing import measured_in_turn, ratio, spread
from torchcourse.tools.bench.barriers import seconds_between_barriers
from torchcourse.tools.bench.report import Table

ROUNDS = 9
MICRO_BATCHES = 8
_BATCH, _WIDTH, _BLOCKS = 128, 64, 8
_TORCHS = {
    "GPipe": pp.ScheduleGPipe,
    "1F1B": pp.Schedule1F1B,
    "interleaved 1F1B": pp.ScheduleInterleaved1F1B,
}


def table() -> Table:
    rows = []
    for ranks in (2, 4):
        for name in _TORCHS:
            seconds = run_ranks(_measure, name, world_size=ranks, timeout=300)[0]
            own, torchs = seconds["own"], seconds["torch"]
            rows.append([str(ranks), name, spread(own, "ms", 1e3), spread(torchs, "ms", 1e3), ratio(own, torchs)])
    return Table(
        "Pipelines: this package's runner against torch.distributed.pipelining",
        ["ranks", "schedule", "own", "torch", "own ÷ torch"],
        rows,
        f"A transformer of {_BLOCKS} blocks, width {_WIDTH}, {_BATCH} images in {MICRO_BATCHES} micro-batches; one "
        f"step forward and backward on gloo, the two in turn, {ROUNDS} rounds, rank 0 from barrier to barrier.",
    )


def _measure(name: str) -> dict[str, list[float]]:
    torch.manual_seed(0)
    schedule = SCHEDULES[name](dist.get_world_size(), MICRO_BATCHES)
    images, labels = torch.randn(_BATCH, 1, 8, 8), torch.randint(10, (_BATCH,))
    steps = {}
    for way, make in (("own", _own), ("torch", _torchs)):
        parts = cut(row_transformer(_BLOCKS, _WIDTH), schedule.stages)
        mine = {stage: parts[stage] for stage in schedule.stages_of(dist.get_rank())}
        steps[way] = partial(seconds_between_barriers, make(schedule, mine, images, labels))
    return measured_in_turn(steps, ROUNDS)


def _own(schedule, mine, images, labels):
    between = torch.empty(_BATCH // MICRO_BATCHES, 8, _WIDTH)
    return partial(Pipeline(schedule, list(mine.values()), F.cross_entropy, between).step, images, labels)


def _torchs(schedule, mine, images, labels):
    stages = [pp.PipelineStage(part, stage, schedule.stages, torch.device("cpu")) for stage, part in mine.items()]
    runner = _TORCHS[schedule.name](
        stages[0] if schedule.stages_per_rank == 1 else stages, MICRO_BATCHES, loss_fn=F.cross_entropy
    )
    arguments = (images,) if 0 in mine else ()
    named = {"target": labels, "losses": []} if schedule.stages - 1 in mine else {}
    return partial(runner.step, *arguments, **named)
