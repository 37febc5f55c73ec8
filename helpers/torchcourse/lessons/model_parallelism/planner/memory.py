"""Bytes on the fullest GPU of a layout, by part.

The states follow ZeRO's formula (`memory.zero_memory`), the activations the formulas of Korthikanti et al. 2022,
"Reducing Activation Recomputation in Large Transformer Models", https://arxiv.org/abs/2205.05198. They are written for
one layer, one sequence of s tokens and width h, t tensor ranks: with GPT's layer, in 16 bit,

* nothing computed again: sh(34 + 5as/h)/t bytes (equation 4; without sequence parallelism sh(10 + 24/t + 5as/(ht)));
* the scores computed again: the part 5as/h falls away (equation 6); FlashAttention does the same;
* each whole layer computed again: its input alone, 2sh (table 2).

What no formula says is set on the sources in `published.MEMORY_SETTING`: what messages need, and what the allocator
adds. Of the values on a grid, these tell best which layouts ran and which ran out of memory; among equals, those that
come closest to the measured bytes; then the smallest. `Plan.fits` leaves a reserve besides.
"""

from dataclasses import dataclass

from torchcourse.lessons.data_parallelism.memory import States, zero_memory
from torchcourse.lessons.model_parallelism.planner.clusters import Cluster
from torchcourse.lessons.model_parallelism.planner.layout import Layout, check_layout, layers_per_stage
from torchcourse.lessons.model_parallelism.planner.models import Model

CONTEXT = 1113 * 2**20
"""Bytes of CUDA's context, measured on a V100: BigScience's chronicles, experiments/tr3m-1B3.md, "calibration"
(https://github.com/bigscience-workshop/bigscience/blob/9e64edec2ad1fb9263bf39ba616a84ff64b4d947/experiments/tr3m-1B3.md).
"""
MESSAGES = 3 * 2**30
"""Bytes of NCCL's and the framework's buffers for each kind of parallelism in use: tensor, pipeline, data (context)."""
ALLOCATOR, ALLOCATOR_IN_A_PIPELINE = 0.05, 0.15
"""What the allocator adds to activations, as a share of them. Without a pipeline the backward pass frees them in the
reverse of the order in which they came. The micro-batches of a pipeline come and go in turn, which leaves gaps."""


@dataclass(frozen=True)
class Bytes:
    """Bytes on one GPU, by part.

    Attributes:
        parameters, gradients, optimizer: the states, sharded as the layout says.
        gathered: parameters of a layer that ZeRO stage 3 puts together for its turn, in two buffers.
        activations: what the layers keep for the backward pass, of all micro-batches in flight.
        working: a layer's activations that recomputation brings back for a moment.
        logits: the output layer's results, on the GPU that has it.
        allocator: what rounding and gaps between blocks add.
        step: what the optimizer's step needs beyond all that the passes needed before it.
        framework: CUDA's context, and buffers for messages.
    """

    parameters: float
    gradients: float
    optimizer: float
    gathered: float
    activations: float
    working: float
    logits: float
    allocator: float
    step: float
    framework: float

    @property
    def total(self) -> float:
        return sum(vars(self).values())

    @property
    def states(self) -> float:
        return self.parameters + self.gradients + self.optimizer


def fullest_gpu(model: Model, cluster: Cluster, layout: Layout) -> Bytes:
    """Return the bytes on the fullest GPU: of the first pipeline rank (most micro-batches), the second (where the first
    has a layer less) or the last (the logits).

    Raises:
        ValueError: if the layout does not fit the model or the cluster.
    """
    check_layout(model, cluster, layout)
    ranks = {0, min(1, layout.pipeline - 1), layout.pipeline - 1}
    return max((_memory_of_rank(model, layout, rank) for rank in sorted(ranks)), key=lambda part: part.total)


def layer_activations(model: Model, layout: Layout, recomputation: str | None = None) -> float:
    """Return the bytes that one layer keeps of one micro-batch on one GPU.

    Args:
        recomputation: instead of the layout's own.
    """
    recomputation = recomputation or layout.recomputation
    tokens = layout.micro_batch * model.sequence / layout.context
    between, inside, scores = _kept_per_token(model, layout)
    shared = layout.tensor if layout.sequence_parallel else 1
    if recomputation == "full":
        return tokens * layout.element * model.width / shared
    kept = between / shared + inside / layout.tensor
    if recomputation == "none":
        kept += scores / layout.tensor
    return tokens * kept


def between_activations(model: Model, layout: Layout) -> float:
    """Return the bytes that one layer keeps of one micro-batch between the matrix products: norms, sums, dropout."""
    tokens = layout.micro_batch * model.sequence / layout.context
    between, _, _ = _kept_per_token(model, layout)
    return tokens * between / (layout.tensor if layout.sequence_parallel else 1)


def score_activations(model: Model, layout: Layout) -> float:
    """Return the bytes of the attention scores that one layer keeps of one micro-batch on one GPU."""
    return layer_activations(model, layout, "none") - layer_activations(model, layout, "selective")


def states(model: Model, layout: Layout, rank: int = 0) -> States:
    """Return the bytes of the states on a GPU of a pipeline rank."""
    return zero_memory(local_parameters(model, layout, rank), layout.sharing, layout.stage, layout.recipe)


def local_parameters(model: Model, layout: Layout, rank: int = 0) -> float:
    """Return how many parameters a GPU of a pipeline rank computes with: its layers, and an embedding at either end."""
    if layout.pipeline == 1:
        return model.parameters / layout.tensor
    of_layers = _layers_of(model, layout, rank) * model.layer_parameters
    return (of_layers + _at_an_end(layout, rank) * model.embedding_parameters) / layout.tensor


def _at_an_end(layout: Layout, rank: int) -> bool:
    return rank in (0, layout.pipeline - 1)


def _layers_of(model: Model, layout: Layout, rank: int) -> int:
    return layers_per_stage(model, layout)[_at_an_end(layout, rank)]


def _memory_of_rank(model: Model, layout: Layout, rank: int) -> Bytes:
    each = states(model, layout, rank)
    layers = _layers_of(model, layout, rank)
    kept = layer_activations(model, layout)
    again = layers // layout.every
    whole = layer_activations(model, layout, "none")
    activations = (again * kept + (layers - again) * whole) * _micro_batches_in_flight(layout, rank)
    working = whole - kept if again else 0.0  # "selective" leaves out the scores, "none" nothing
    tokens = layout.micro_batch * model.sequence / layout.context
    has_the_head = rank == layout.pipeline - 1
    logits = tokens * model.vocabulary / layout.tensor * layout.loss_copies * 4 if has_the_head else 0.0
    gathered = 0.0
    if layout.stage == 3:
        gathered = min(2, layers) * model.layer_parameters / layout.tensor * layout.element
    share = ALLOCATOR if layout.pipeline == 1 else ALLOCATOR_IN_A_PIPELINE
    allocator = share * (gathered + activations + working)
    passes = gathered, activations, working, logits, allocator
    step = max(0.0, _step_bytes(model, layout, rank) - sum(passes))
    return Bytes(each.parameters, each.gradients, each.optimizer, *passes, step, _framework(layout))


def _step_bytes(model: Model, layout: Layout, rank: int) -> float:
    """Return the bytes that exist only while the optimizer steps, of the share that it updates on a GPU."""
    return layout.step_bytes * local_parameters(model, layout, rank) / (layout.sharing if layout.stage else 1)


def _framework(layout: Layout) -> float:
    """Return the bytes of CUDA's context, and of buffers for messages of each kind that the layout sends."""
    kinds = (layout.tensor, layout.pipeline, layout.data * layout.context)
    return CONTEXT + MESSAGES * sum(ranks > 1 for ranks in kinds)


def _micro_batches_in_flight(layout: Layout, rank: int) -> float:
    """Return how many micro-batches of its layers a pipeline rank keeps at the worst moment of 1F1B.

    Plain 1F1B: p − rank. With v pieces per rank, 2(p − rank − 1) + (v − 1)p + 1 of them, each 1/v of the rank's layers:
    on the first rank p(1 + (p − 1)/(pv)) micro-batches in total, which is Korthikanti et al. 2022, section 4.2.3.

    Source of the warm-up's length: Narayanan et al. 2021, figure 4, https://arxiv.org/abs/2104.04473
    """
    p, v = layout.pipeline, layout.interleaving
    pieces = p - rank if v == 1 else 2 * (p - rank - 1) + (v - 1) * p + 1
    return min(pieces / v, layout.micro_batches)


def _kept_per_token(model: Model, layout: Layout) -> tuple[float, float, float]:
    """Return the bytes per token that a layer keeps: between the matrix products, inside them, and for the scores.

    Tensor parallelism divides the last two. GPT in 16 bit: 10h, 24h and 5as (Korthikanti et al. 2022, section 4.1).
    """
    h, e = model.width, layout.element
    mask = 1 if model.dropout else 0
    # Two norms' inputs, the inputs of attention and of the feed-forward part, and two dropout masks.
    between = 2 * e * h + 2 * e * h + 2 * mask * h
    if not layout.fused_norms:
        between += 2 * 4 * h
    # Queries, keys, values and what attention returns; then the feed-forward part's middle, before and after the
    # activation function. With a gate: the gate before and after it, the other half, and their product.
    inside = e * h * (2 + 2 * model.key_value_share) + e * model.feed_forward * (4 if model.gated else 2)
    # Softmax; with dropout also its mask and its result. FlashAttention keeps none of them.
    scores = model.heads * model.sequence * (2 * e + 1 if model.dropout else e)
    return between, inside, 0.0 if layout.flash_attention else scores
