"""Execute a schedule on ranks: each rank works through its own order, and sends what comes out to the next stage.

    def train(inputs, targets):                         # on each rank
        mine = [stages[s] for s in schedule.stages_of(dist.get_rank())]
        pipeline = Pipeline(schedule, mine, loss_fn, between=torch.empty(8, 16, 32))
        loss = pipeline.step(inputs, targets)           # all .grad are set; loss on the last stage's rank, else None

The loss and the gradients are those of the unsplit model on the whole batch, unless a layer in training mode computes
otherwise at each call: it does so for each micro-batch. BatchNorm takes the mean of a micro-batch, spectral_norm takes
a power iteration for each, and dropout draws other numbers.
"""

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
import torch.distributed as dist
from torch import nn
from torch.autograd.graph import saved_tensors_hooks

from torchcourse.lessons.model_parallelism.pipeline.schedules import Action, Schedule, layers_of
from torchcourse.lessons.model_parallelism.pipeline.simulation import Span, Timeline
from torchcourse.lessons.model_parallelism.pipeline.split_backward import Later, collecting, split
from torchcourse.ranks.who import rank_and_world_size
from torchcourse.training.losses import Loss, numbers, reduction

LossFunction = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def cut(model: nn.Sequential, stages: int) -> list[nn.Sequential]:
    """Cut a model into stages of equally many layers; the first and the last layer come on top, at its ends.

    So `cut(Sequential(embedding, *blocks, head), 4)` shares out the blocks.

    Raises:
        ValueError: if the stages do not divide the layers between the first and the last, or there are no such ends.
    """
    if not isinstance(model, nn.Sequential) or len(model) < 2:
        layers = f" of {len(model)} layer(s)" if isinstance(model, nn.Sequential) else ""
        raise ValueError(
            f"cut() takes an nn.Sequential with a first and a last layer, not a {type(model).__name__}{layers}. Put "
            "the layers into one, in the order in which they compute."
        )
    first, *blocks, last = model
    parts = [blocks[part.start : part.stop] for part in layers_of(len(blocks), stages)]
    parts[0].insert(0, first)
    parts[-1].append(last)
    return [nn.Sequential(*part) for part in parts]


@dataclass
class Record:
    """What a rank noted in one step: when it did what, and the most bytes that it held for backward passes."""

    spans: list[Span] = field(default_factory=list)
    peak_bytes: int = 0


class Pipeline:
    """One rank's part of a pipeline. All ranks make theirs, with the same schedule, and call `step` together.

    Args:
        schedule: who does what in which order.
        stages: this rank's stages, as `schedule.stages_of(rank)` lists them. If the schedule splits the backward pass,
            their dense layers are made to.
        loss_fn: (outputs, targets) of a micro-batch → their *mean* loss, or one loss per sample. Every micro-batch has
            to count alike: where class weights or ignored labels count differently, the mean of the means is not that
            of the batch.
        between: a tensor like the one that travels from any stage to the next for one micro-batch: same shape, dtype
            and device. Only equal blocks have this one shape between all stages.

    Raises:
        RuntimeError: outside a rank.
        ValueError: if the schedule is for more or fewer ranks, or for more or fewer stages, or the loss is a sum.
    """

    def __init__(
        self, schedule: Schedule, stages: Sequence[nn.Module], loss_fn: LossFunction, between: torch.Tensor
    ) -> None:
        self.rank, world_size = rank_and_world_size()
        if schedule.ranks != world_size:
            raise ValueError(
                f"The schedule is for {schedule.ranks} ranks, but {world_size} are here. "
                f"Start it with run_ranks(…, world_size={schedule.ranks})."
            )
        mine = schedule.stages_of(self.rank)
        if len(stages) != len(mine):
            raise ValueError(
                f"Rank {self.rank} holds {len(mine)} of the schedule's {schedule.stages} stages, {mine}, "
                f"but was given {len(stages)}."
            )
        if reduction(loss_fn) == "sum":
            raise ValueError("The loss adds up over a micro-batch: give one that returns the mean (reduction='mean').")
        self.schedule, self.loss_fn, self.between = schedule, loss_fn, between
        self._loss, self._unwatched = Loss(loss_fn), True
        self.stages = dict(zip(mine, stages, strict=True))
        if any(action.kind == "W" for action in schedule.orders[self.rank]):
            for stage in stages:
                split(stage)
        # The tensor that comes in is one that autograd lets nobody write into.
        self._in_place = {
            stage: any(getattr(module, "inplace", False) for module in part.modules())
            for stage, part in self.stages.items()
        }
        self._wires = _one_group_per_wire(schedule) if between.is_cuda else {}
        self.record = Record()

    def step(
        self,
        inputs: torch.Tensor | None = None,
        targets: torch.Tensor | None = None,
        *,
        losses: list[torch.Tensor] | None = None,
        outputs: list[torch.Tensor] | None = None,
        record: bool = False,
    ) -> torch.Tensor | None:
        """Take one batch forward and backward; add the gradients of its mean loss to `.grad`.

        Args:
            inputs: the batch [N, …]. Read by the rank of the first stage only.
            targets: its targets [N, …]. Read by the rank of the last stage only.
            losses: a list to which the rank of the last stage adds the mean loss of each micro-batch, in order.
            outputs: a list to which it adds the model's outputs for each micro-batch, in order; `torch.cat` makes one
                tensor of them. Without a list each is freed after its backward pass.
            record: note times and bytes in `self.record`. On a GPU this waits after each action.

        Returns:
            The mean loss on the rank of the last stage, None on the others.

        Raises:
            ValueError: if the batch cannot be cut into equal micro-batches, or into such that the loss counts alike;
                if the loss is seen to be no mean; if what a stage puts out is not like `between`, or no gradient can go
                back through it.
        """
        self._recording, self.record = record, Record()
        self._inputs, self._targets = self._micro_batches(inputs, 0), self._micro_batches(targets, -1)
        self._check_counts()
        self._held: dict[tuple[int, int], tuple[torch.Tensor, torch.Tensor]] = {}
        self._later: dict[tuple[int, int], Later] = {}
        self._bytes: dict[tuple[int, int], int] = {}
        self._here: dict[Action, torch.Tensor] = {}  # results for a stage on this very rank
        self._sent: list[tuple[dist.Work, torch.Tensor]] = []  # a tensor must live until it has left
        self._losses: list[torch.Tensor] = []
        self._outputs = outputs
        work = {"F": self._forward, "B": self._backward, "I": self._input_half, "W": self._weight_half}
        for action in self.schedule.orders[self.rank]:
            work[action.kind](action)
        for sending, _ in self._sent:
            sending.wait()
        if losses is not None:
            losses += self._losses
        # Equal micro-batches: the mean over the batch is the mean of their means.
        return torch.stack(self._losses).mean() if self._losses else None

    def _forward(self, action: Action) -> None:
        if action.stage == 0:
            x = self._inputs[action.micro_batch]
        else:
            x = self._take(Action("F", action.stage - 1, action.micro_batch)).requires_grad_()
        start = self._now()
        with _counting(self._recording, self.stages[action.stage]) as count:
            y = self.stages[action.stage](x.clone() if action.stage and self._in_place[action.stage] else x)
            if action.stage == self.schedule.stages - 1:
                if self._outputs is not None:
                    self._outputs.append(y.detach())
                outputs = y
                loss, _ = self._loss.mean(outputs, self._targets[action.micro_batch])
                self._losses.append(loss.detach())
                y = loss / self.schedule.micro_batches
        self._done(action, start)
        if not y.requires_grad and (action.stage or action.stage == self.schedule.stages - 1):
            raise ValueError(
                f"What stage {action.stage} puts out does not depend on its input or on anything that learns, so no "
                "gradient can go back. Is there a detach() or a no_grad()?"
            )
        if action.stage == self.schedule.stages - 1 and self._unwatched:
            self._unwatched = False
            parts = self.schedule.micro_batches > 1
            self._loss.watch_first(outputs.detach(), self._targets[action.micro_batch], loss.detach(), parts)
        self._held[action.stage, action.micro_batch] = (x, y)
        self._bytes[action.stage, action.micro_batch] = count.bytes
        self.record.peak_bytes = max(self.record.peak_bytes, sum(self._bytes.values()))
        if action.stage < self.schedule.stages - 1:
            self._check_form(action, y)
            self._pass_on(action, y.detach(), action.stage + 1)

    def _backward(self, action: Action) -> None:
        self._backward_through(action)
        del self._bytes[action.stage, action.micro_batch]

    def _input_half(self, action: Action) -> None:
        with collecting() as later:
            self._backward_through(action)
        self._later[action.stage, action.micro_batch] = later

    def _weight_half(self, action: Action) -> None:
        start = self._now()
        for work in self._later.pop((action.stage, action.micro_batch)):
            work()
        self._done(action, start)
        del self._bytes[action.stage, action.micro_batch]

    def _backward_through(self, action: Action) -> None:
        x, y = self._held.pop((action.stage, action.micro_batch))
        gradient = None
        if action.stage < self.schedule.stages - 1:
            gradient = self._take(Action("B", action.stage + 1, action.micro_batch))
        start = self._now()
        if y.requires_grad:  # a first stage may be frozen as a whole
            torch.autograd.backward(y, gradient)
        self._done(action, start)
        if action.stage > 0:
            of_input = torch.zeros_like(x) if x.grad is None else x.grad  # of a stage that does not look at its input
            self._pass_on(Action("B", action.stage, action.micro_batch), of_input, action.stage - 1)

    # Messages

    def _pass_on(self, result: Action, tensor: torch.Tensor, stage: int) -> None:
        """Give a result to the rank of a different stage, without waiting until it takes it."""
        target = self.schedule.rank_of(stage)
        if target == self.rank:
            self._here[result] = tensor
            return
        tensor = tensor.contiguous()
        group = self._wires.get((result.kind, self.rank, target))
        sending = dist.isend(tensor, target, group=group, tag=self._tag(result))
        assert sending is not None  # only a rank outside the group gets None
        self._sent.append((sending, tensor))

    def _take(self, result: Action) -> torch.Tensor:
        """Wait for a result of a different stage."""
        source = self.schedule.rank_of(result.stage)
        if source == self.rank:
            return self._here.pop(result)
        arrived = torch.empty_like(self.between)
        group = self._wires.get((result.kind, source, self.rank))
        dist.recv(arrived, source, group=group, tag=self._tag(result))
        return arrived

    def _tag(self, result: Action) -> int:
        """A number for each message of a step, so that two on one wire are not mixed up."""
        number = result.stage * self.schedule.micro_batches + result.micro_batch
        return 2 * number + (result.kind == "B")

    # Records

    def _now(self) -> float:
        if self._recording and self.between.is_cuda:
            torch.cuda.synchronize()
        return time.perf_counter()

    def _done(self, action: Action, start: float) -> None:
        if self._recording:
            self.record.spans.append(Span(self.rank, action, start, self._now()))

    def _micro_batches(self, batch: torch.Tensor | None, stage: int) -> Sequence[torch.Tensor]:
        if self.schedule.rank_of(stage % self.schedule.stages) != self.rank:
            return ()
        count = self.schedule.micro_batches
        if batch is None or len(batch) % count:
            size = "no batch" if batch is None else f"a batch of {len(batch)}"
            raise ValueError(
                f"Rank {self.rank} needs a batch that {count} micro-batches share equally, but got {size}."
            )
        return batch.chunk(count)

    def _check_counts(self) -> None:
        """Raise ValueError if a loss of torch's divides by different counts in the micro-batches."""
        labels = [self._loss.counts_labels(targets) for targets in self._targets]
        counts = numbers([one for one in labels if one is not None])
        if counts and max(counts) - min(counts) > 1e-6 * max(counts):
            raise ValueError(
                f"The micro-batches count {', '.join(f'{count:g}' for count in counts)} in the loss, since labels are "
                "ignored or weighted, so the mean of their means is not that of the batch. Give a loss that adds up "
                "and divides by the same number each time, such as the batch's count over the micro-batches."
            )

    def _check_form(self, action: Action, y: torch.Tensor) -> None:
        """Raise ValueError for what the next rank would wait for in vain: it expects a tensor like `between`."""
        if y.shape != self.between.shape or y.dtype != self.between.dtype:
            raise ValueError(
                f"Stage {action.stage} puts out {list(y.shape)} of {y.dtype} for a micro-batch, and `between` is "
                f"{list(self.between.shape)} of {self.between.dtype}. Leave out a smaller last batch (drop_last=True), "
                "or make a Pipeline for its size."
            )


def timeline(schedule: Schedule, records: Sequence[Record]) -> Timeline:
    """Join what the ranks of one machine recorded in one step. Times are in seconds from the first start."""
    zero = min(span.start for record in records for span in record.spans)
    return Timeline(
        schedule,
        tuple(
            Span(span.rank, span.action, span.start - zero, span.end - zero)
            for record in records
            for span in record.spans
        ),
    )


class _Count:
    """Bytes that autograd keeps for the backward pass, each memory once, parameters left out."""

    def __init__(self, stage: nn.Module) -> None:
        self.bytes = 0
        self._seen = {parameter.data_ptr() for parameter in stage.parameters()}

    def pack(self, tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in self._seen:
            self._seen.add(storage.data_ptr())
            self.bytes += storage.nbytes()
        return tensor


@contextlib.contextmanager
def _counting(active: bool, stage: nn.Module) -> Iterator[_Count]:
    count = _Count(stage)
    with saved_tensors_hooks(count.pack, lambda tensor: tensor) if active else contextlib.nullcontext():
        yield count


def _one_group_per_wire(schedule: Schedule) -> dict[tuple[str, int, int], dist.ProcessGroup]:
    """Return a process group for each direction between two ranks, and for each kind of message.

    NCCL matches messages by order and works through those of one group one after the other, whichever way they go: a
    message that nobody takes yet would hold up those that the other side waits for. gloo has tags, and needs none.
    """
    neighbors = {(schedule.rank_of(stage), schedule.rank_of(stage + 1)) for stage in range(schedule.stages - 1)}
    wires = [("F", here, there) for here, there in neighbors] + [("B", there, here) for here, there in neighbors]
    return {wire: dist.new_group(sorted(wire[1:])) for wire in sorted(wires) if wire[1] != wire[2]}
