"""Seconds that a step of a layout takes, by part.

A layer's forward pass is its matrix products at a share of the peak, plus the traffic of its activations between
memory and chip, plus what tensor and context parallelism send; the backward pass is twice the computation. What does
not come from a data sheet is in `Efficiency`.
"""

from dataclasses import dataclass

from torchcourse.lessons.data_parallelism.cost import ring_bytes
from torchcourse.lessons.data_parallelism.memory import RECIPES
from torchcourse.lessons.model_parallelism.planner.clusters import Cluster
from torchcourse.lessons.model_parallelism.planner.layout import Layout, check_layout, layers_per_stage
from torchcourse.lessons.model_parallelism.planner.memory import (
    between_activations,
    layer_activations,
    local_parameters,
    score_activations,
    states,
)
from torchcourse.lessons.model_parallelism.planner.models import Model


@dataclass(frozen=True)
class Seconds:
    """Seconds of one step on the slowest pipeline rank, by part.

    Attributes:
        compute: forward and backward pass of all micro-batches.
        recomputation: what is computed a second time for the backward pass.
        tensor: all-reduces (or all-gathers and reduce-scatters) of tensor parallelism.
        context: gathering of keys and values over context-parallel ranks.
        bubble: waiting for the pipeline to fill and to drain.
        transfer: activations sent from stage to stage.
        data: gradients and sharded parameters over data-parallel ranks, as far as nothing hides it, and by how much the
            hidden part makes computing longer.
        update: the optimizer's step.
    """

    compute: float
    recomputation: float
    tensor: float
    context: float
    bubble: float
    transfer: float
    data: float
    update: float

    @property
    def total(self) -> float:
        return sum(vars(self).values())


def step_seconds(model: Model, cluster: Cluster, layout: Layout) -> Seconds:
    """Return the seconds of one step, by part.

    The pipeline: m micro-batches on the slowest rank, and a bubble of (p − 1)/v micro-batches (Narayanan et al. 2021,
    section 2.2, https://arxiv.org/abs/2104.04473).

    Raises:
        ValueError: if the layout does not fit the model or the cluster.
    """
    check_layout(model, cluster, layout)
    layer = _layer_seconds(model, cluster, layout)
    head = _head_seconds(model, cluster, layout)
    layers, at_the_end = layers_per_stage(model, layout)
    m, p = layout.micro_batches, layout.pipeline
    # The last rank has the output layer, and is the slowest unless it has fewer layers in exchange.
    last_is_slowest = at_the_end * layer.total + head > layers * layer.total
    counted, head = (at_the_end, head) if last_is_slowest else (layers, 0.0)
    return Seconds(
        compute=m * (counted * layer.compute + head),
        recomputation=m * counted * layer.recomputation,
        tensor=m * counted * layer.tensor,
        context=m * counted * layer.context,
        bubble=(p - 1) / layout.interleaving * layers * layer.total,
        transfer=m * _transfer_seconds(model, cluster, layout),
        data=_data_seconds(model, cluster, layout, window=2 / 3 * counted * layer.compute),
        update=_update_seconds(model, cluster, layout),
    )


@dataclass(frozen=True)
class _Layer:
    """Seconds of one layer and one micro-batch, forward and backward: the mean, where some are computed again."""

    compute: float
    recomputation: float
    tensor: float
    context: float

    @property
    def total(self) -> float:
        return self.compute + self.recomputation + self.tensor + self.context


def _layer_seconds(model: Model, cluster: Cluster, layout: Layout) -> _Layer:
    products = sum(_product_seconds(cluster, layout, *sides) for sides in _products(model, layout))
    scores = _score_seconds(model, cluster, layout)
    inside = cluster.efficiency.traffic / cluster.gpu.memory_bandwidth
    between = cluster.efficiency.between_traffic / cluster.gpu.memory_bandwidth
    kept, of_scores = layer_activations(model, layout, "none"), score_activations(model, layout)
    of_norms = between_activations(model, layout)
    moving = between * of_norms + inside * (kept - of_norms)
    forward = products + scores + moving + cluster.efficiency.pass_overhead
    again = {"none": 0.0, "selective": scores + inside * of_scores, "full": forward}[layout.recomputation]
    passes = 2 + (1 / layout.every if layout.recomputation == "full" else 0)
    return _Layer(
        compute=3 * forward + _accumulation_seconds(model, cluster, layout),
        recomputation=again / layout.every,
        tensor=passes * _tensor_seconds(model, cluster, layout, beside=products),
        context=passes * _context_seconds(model, cluster, layout),
    )


def _products(model: Model, layout: Layout) -> list[tuple[float, float, float]]:
    """Return the sides of a layer's matrix products on one GPU: tokens, columns, and what is summed over."""
    tokens = layout.micro_batch * model.sequence / layout.context
    h, t = model.width, layout.tensor
    inner = model.feed_forward / t
    return [
        (tokens, h * (1 + 2 * model.key_value_share) / t, h),
        (tokens, h, h / t),
        (tokens, inner * (2 if model.gated else 1), h),
        (tokens, h, inner),
    ]


def _product_seconds(cluster: Cluster, layout: Layout, rows: float, columns: float, summed: float) -> float:
    """Return the seconds of a matrix product: its FLOP at a share of the peak, and its operands through the memory.

    Nothing hides the second part. With F FLOP/s and B bytes/s it is (e/2) · (F/B) · (1/rows + 1/columns + 1/summed) of
    the first, for elements of e bytes: a product with a short side reaches less of the peak.
    """
    peak = cluster.gpu.flops if layout.element == 2 else cluster.gpu.flops_float32
    computing = 2 * rows * columns * summed / (peak * cluster.efficiency.matmul)
    moved = layout.element * (rows * columns + rows * summed + columns * summed)
    return computing + moved / cluster.gpu.memory_bandwidth


def _score_seconds(model: Model, cluster: Cluster, layout: Layout) -> float:
    """Return the seconds of the attention scores of one layer, forward. FlashAttention skips the masked half."""
    heads = layout.micro_batch * model.heads / layout.tensor
    rows, summed = model.sequence / layout.context, model.width / model.heads
    both = 2 * heads * _product_seconds(cluster, layout, rows, model.sequence, summed)
    return both / 2 if layout.flash_attention else both


def _accumulation_seconds(model: Model, cluster: Cluster, layout: Layout) -> float:
    """Return the seconds of adding a layer's gradients to those of the micro-batches before: read, read, write.

    A matrix product that adds them up itself reads and writes the sum, and not the gradient that is counted with it.
    """
    size = _gradient_element(layout)
    moved = 2 * size - layout.element if layout.fused_accumulation else 3 * size
    return moved * model.layer_parameters / layout.tensor / cluster.gpu.memory_bandwidth


def _gradient_element(layout: Layout) -> int:
    """Return the bytes of a gradient that is added up and sent. A 16-bit copy beside it is neither."""
    return int(min(4, RECIPES[layout.recipe].gradients))


def _head_seconds(model: Model, cluster: Cluster, layout: Layout) -> float:
    """Return the seconds of the output layer and the loss for one micro-batch, forward and backward."""
    tokens = layout.micro_batch * model.sequence / layout.context
    columns = model.vocabulary / layout.tensor
    product = _product_seconds(cluster, layout, tokens, columns, model.width)
    moved = cluster.efficiency.traffic * tokens * columns * 4 / cluster.gpu.memory_bandwidth
    return 3 * (product + moved)


def _activation_bytes(model: Model, layout: Layout) -> float:
    """Return the bytes of what goes from layer to layer, of one micro-batch."""
    return layout.element * layout.micro_batch * model.sequence / layout.context * model.width


def _tensor_seconds(model: Model, cluster: Cluster, layout: Layout, beside: float) -> float:
    """Return the seconds that tensor parallelism sends in one pass through a layer: two all-reduces.

    Sequence parallelism replaces each by a reduce-scatter and an all-gather, of the same bytes. If they go out in
    pieces, one per rank, `beside` seconds of matrix products hide all but the first piece.

    Source: Narayanan et al. 2021, section 3.2; Korthikanti et al. 2022, section 4.2.2.
    """
    sent = 4 * _half_ring(cluster, _activation_bytes(model, layout), layout.tensor, stride=1)
    return max(sent / layout.tensor, sent - beside) if layout.tensor_overlap else sent


def _context_seconds(model: Model, cluster: Cluster, layout: Layout) -> float:
    """Return the seconds of gathering keys and values of the whole sequence in one pass through a layer.

    Source: Llama team 2024, section 3.3.2, https://arxiv.org/abs/2407.21783
    """
    own = 2 * model.key_value_share * _activation_bytes(model, layout) / layout.tensor
    return _half_ring(cluster, layout.context * own, layout.context, stride=layout.tensor)


def _transfer_seconds(model: Model, cluster: Cluster, layout: Layout) -> float:
    """Return the seconds of sending one micro-batch's activations on and their gradients back, once a piece.

    Each tensor rank sends its share only: bsh/t numbers (Narayanan et al. 2021, section 4.1).
    """
    if layout.pipeline == 1:
        return 0.0
    span = layout.tensor * layout.context * layout.pipeline
    message = _activation_bytes(model, layout) / layout.tensor
    return 2 * layout.interleaving * (cluster.latency(span) + message / cluster.message_bandwidth(span))


def _data_seconds(model: Model, cluster: Cluster, layout: Layout, window: float) -> float:
    """Return the seconds that data-parallel communication adds to a step.

    That is what `window` seconds of a backward pass do not hide, and by how much what they hide makes computing longer.

    DDP and ZeRO stage 1 send 2Ψ numbers per step. Stages 2 and 3 send Ψ gradients for each micro-batch; stage 2 gathers
    Ψ parameters once, stage 3 twice for each micro-batch (Rajbhandari et al. 2020, section 7,
    https://arxiv.org/abs/1910.02054, counts one micro-batch). Stages 2 and 3 gather during the passes, as FSDP does;
    stage 1 gathers after the update, where nothing hides it but the next forward pass.
    """
    if layout.data * layout.context == 1:
        return 0.0
    parameters = local_parameters(model, layout)
    layers = layers_per_stage(model, layout)[0]
    pieces = layers if layout.stage == 3 else 1  # each layer waits for its messages
    gradients = pieces * _gradient_seconds(cluster, layout, parameters * _gradient_element(layout) / pieces)
    stride = layout.tensor * layout.pipeline
    gather = pieces * _half_ring(cluster, parameters * layout.element / pieces, layout.sharing, stride)
    if layout.broadcasts and layout.stage == 1:  # each goes round the ring before the next one starts
        gather += layout.sharing * cluster.ring_latency(layout.sharing, stride)
    m = layout.micro_batches
    sent, hidden, alone = {
        0: (2 * gradients, window, 0.0),
        1: (gradients, window, gather),
        2: (m * gradients + gather, m * window, 0.0),
        3: (m * (gradients + 2 * gather), 1.5 * m * window, 0.0),
    }[layout.stage]
    # What belongs to one layer is left over at an end of the pass, where there is nothing more to compute beside it.
    exposed = sent / layers
    left = max(exposed, sent - hidden) if layout.overlap else sent
    return (
        left
        + cluster.efficiency.contention * (sent - left)
        + (max(0.0, alone - window / 2) if layout.gather_overlap else alone)
    )


def _gradient_seconds(cluster: Cluster, layout: Layout, size: float) -> float:
    """Return the seconds of a reduce-scatter of gradients, and of an all-reduce of the shards between their groups."""
    stride = layout.tensor * layout.pipeline
    groups = layout.data * layout.context // layout.sharing
    inside = _half_ring(cluster, size, layout.sharing, stride)
    return inside + 2 * _half_ring(cluster, size / layout.sharing, groups, stride * layout.sharing)


def _half_ring(cluster: Cluster, size: float, ranks: int, stride: int) -> float:
    """Return the seconds of an all-gather or a reduce-scatter, half an all-reduce, over every `stride`-th GPU."""
    latency = (ranks - 1) * cluster.latency(ranks * stride)  # all members send at once: each round has the slowest link
    return latency + ring_bytes(size, ranks) / 2 / cluster.bandwidth(ranks, stride)


def _update_seconds(model: Model, cluster: Cluster, layout: Layout) -> float:
    """Return the seconds of reading and writing the states once."""
    own = states(model, layout)
    moved = 2 * own.optimizer + own.gradients + own.parameters
    return moved / cluster.gpu.memory_bandwidth + cluster.efficiency.step_overhead
