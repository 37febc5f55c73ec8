"""How a model is spread over a cluster, and whether that is possible at all."""

from dataclasses import dataclass, fields

from torchcourse.lessons.data_parallelism.memory import RECIPES
from torchcourse.lessons.model_parallelism.planner.clusters import Cluster
from torchcourse.lessons.model_parallelism.planner.given_numbers import check_whole, check_yes_or_no, count_as_python
from torchcourse.lessons.model_parallelism.planner.models import Model
from torchcourse.units import counted

RECOMPUTATION = ("none", "selective", "full")
"""What the backward pass computes again: nothing, the attention scores (선택적 재계산), or each whole layer."""


@dataclass(frozen=True)
class Layout:
    """How a model and its batch are spread over a cluster: tensor × context × pipeline × data GPUs.

    Neighbors first: a tensor group is made of neighboring GPUs, then context, then pipeline, then data, as in
    Llama 3 (section 3.3.2, https://arxiv.org/abs/2407.21783).

    Attributes:
        batch: sequences per step, in total.
        micro_batch: sequences that go through the pipeline together.
        data, tensor, pipeline, context: into how many parts each kind of parallelism divides.
        stage: of ZeRO, 0 to 3, over the data and context parallel ranks.
        shard: how many neighbors of these share out the states; 0 stands for all of them. Fewer is hybrid sharding
            (HSDP): each group holds the states once, so that parameters travel inside it only.
        recomputation: one of `RECOMPUTATION`.
        every: of so many layers, recomputation treats one (torchtitan's "selective layer"); 1 stands for all of them.
        interleaving: how many pieces of the model a pipeline rank holds (virtual stages); 1 is plain 1F1B.
        sequence_parallel: whether tensor ranks also share out what lies between the matrix products.
        flash_attention: whether attention works without keeping the scores (FlashAttention).
        overlap: whether data-parallel communication hides behind the backward pass.
        gather_overlap: whether the parameters that stage 1 gathers after the update arrive during the next forward pass
            (Megatron-LM's `--overlap-param-gather`).
        broadcasts: whether these parameters come in a broadcast from each rank, one after the other, and not in one
            all-gather (torch's ZeroRedundancyOptimizer, InternLM).
        tensor_overlap: whether messages of tensor parallelism go out in pieces, beside the matrix products that make or
            need them (Megatron-LM's `--tp-comm-overlap`).
        fused_norms: whether a norm is one kernel. Llama's RMSNorm in plain operations keeps its input in float32, and
            the normalized numbers besides: 4 bytes more for each number.
        fused_accumulation: whether matrix products add weight gradients up themselves (Megatron-LM's
            `gradient_accumulation_fusion`).
        recipe: of precision and optimizer, a key of `memory.RECIPES`. 8-bit products are refused.
        loss_copies: copies of the logits in float32 at the peak of the loss. PyTorch's cross-entropy has 3: the
            log-probabilities, their gradient, the gradient of the logits. Megatron-LM's, in place, has 2. A fused
            kernel that reads 16-bit logits has 1: two copies of half the size.
        step_bytes: per parameter of the optimizer's share, what exists only while it steps. A fused Adam has 0; torch's
            with `foreach`, its default on GPUs, 4 for the square roots (8 up to torch 2.0). Gradients that are copied
            to float32 for the step are 4 more. The passes' activations are gone by then.
        expert: of expert parallelism, which the planner does not know: anything but 1 is refused.
    """

    batch: int
    micro_batch: int = 1
    data: int = 1
    tensor: int = 1
    pipeline: int = 1
    context: int = 1
    stage: int = 0
    shard: int = 0
    recomputation: str = "none"
    every: int = 1
    interleaving: int = 1
    sequence_parallel: bool = True
    flash_attention: bool = True
    overlap: bool = True
    gather_overlap: bool = False
    broadcasts: bool = False
    tensor_overlap: bool = False
    fused_norms: bool = True
    fused_accumulation: bool = False
    recipe: str = "mixed precision, Adam"
    loss_copies: int = 3
    step_bytes: int = 0
    expert: int = 1

    def __post_init__(self) -> None:
        count_as_python(self)

    @property
    def gpus(self) -> int:
        return self.data * self.tensor * self.pipeline * self.context

    @property
    def sharing(self) -> int:
        """How many ranks share out the states."""
        return self.shard or self.data * self.context

    @property
    def micro_batches(self) -> int:
        """How many micro-batches each pipeline sees in a step."""
        return self.batch // (self.data * self.micro_batch)

    @property
    def element(self) -> int:
        """Bytes of an activation."""
        return 2 if self.recipe.startswith("mixed") else 4


_YES_OR_NO = tuple(field.name for field in fields(Layout) if isinstance(field.default, bool))


def layers_per_stage(model: Model, layout: Layout) -> tuple[int, int]:
    """Return the layers of a pipeline rank, and those of the last one.

    They are equal when the layers divide evenly. When they are two short of that, the first and the last rank have one
    less, in exchange for the embedding and the output layer (Llama 3, section 3.3.2).

    Raises:
        ValueError: if neither works.
    """
    if model.layers % layout.pipeline == 0:
        return (model.layers // layout.pipeline,) * 2
    if layout.pipeline > 1 and (model.layers + 2) % layout.pipeline == 0:
        layers = (model.layers + 2) // layout.pipeline
        return layers, layers - 1
    raise ValueError(
        f"{model.layers} layers cannot be shared by {layout.pipeline} pipeline ranks: choose a number that divides "
        f"{model.layers}, or {model.layers + 2} (the first and the last rank then have a layer less)."
    )


def check_layout(model: Model, cluster: Cluster, layout: Layout) -> None:
    """Raise a `ValueError` of one sentence if the layout does not fit the model or the cluster."""
    check_kinds(model, cluster, layout)
    check_alone(layout)
    if layout.data * layout.context % layout.sharing:
        raise ValueError(
            f"{layout.data * layout.context} data and context ranks cannot be cut into groups of {layout.shard} that "
            "share out the states: choose a shard that divides them."
        )
    if layout.shard and not layout.stage:
        raise ValueError("shard says who shares out the states, but stage 0 shares out none: choose a stage of ZeRO.")
    if layout.gpus != cluster.gpus:
        raise ValueError(
            f"tensor {layout.tensor} × context {layout.context} × pipeline {layout.pipeline} × data {layout.data} "
            f"needs {counted(layout.gpus, 'GPU')}, but the cluster has {cluster.gpus}: change one of the four."
        )
    if model.heads % layout.tensor or model.feed_forward % layout.tensor:
        raise ValueError(
            f"{layout.tensor} tensor ranks cannot share {model.heads} heads and {model.feed_forward} feed-forward "
            "columns evenly: choose a number that divides both."
        )
    if model.key_value_heads % layout.tensor:
        raise ValueError(
            f"{layout.tensor} tensor ranks cannot share {model.key_value_heads} key-value heads evenly (grouped-query "
            "attention): choose a number that divides them. The planner does not know copies of key-value heads."
        )
    if model.sequence % layout.context:
        raise ValueError(f"{layout.context} context ranks cannot share {model.sequence} tokens evenly.")
    if layout.sequence_parallel and model.sequence // layout.context % layout.tensor:
        raise ValueError(
            f"With sequence parallelism {layout.tensor} tensor ranks cannot share "
            f"{model.sequence // layout.context} tokens evenly: take a different sequence, or sequence_parallel=False."
        )
    if layout.batch % (layout.data * layout.micro_batch):
        raise ValueError(
            f"A batch of {layout.batch} cannot be shared by {counted(layout.data, 'data-parallel rank')} in "
            f"micro-batches of {layout.micro_batch}: {layout.data} × {layout.micro_batch} must divide it."
        )
    layers, _ = layers_per_stage(model, layout)
    if layout.every > layers:
        raise ValueError(
            f"No layer would be computed again: every is {layout.every}, but a pipeline rank has {layers} layers. "
            "Leave every at 1 for all of them."
        )
    if layout.interleaving > 1:
        _check_interleaving(layout, layers)


def check_kinds(model: Model, cluster: Cluster, layout: Layout) -> None:
    """Raise a `ValueError` of one sentence if one of the three is something else, as where two changed places."""
    for given, kind in ((model, Model), (cluster, Cluster), (layout, Layout)):
        if not isinstance(given, kind):
            raise ValueError(
                f"The planner takes a Model, then a Cluster: where it expects a {kind.__name__}, it got "
                f"{type(given).__name__}."
            )


def check_alone(layout: Layout) -> None:
    """Raise a `ValueError` of one sentence for what no model and no cluster can make right."""
    sizes = ("batch", "micro_batch", "data", "tensor", "pipeline", "context", "every", "interleaving", "loss_copies")
    check_whole("the layout", **{size: getattr(layout, size) for size in sizes})
    check_whole("the layout", least=0, stage=layout.stage, shard=layout.shard, step_bytes=layout.step_bytes)
    check_yes_or_no("the layout", **{name: getattr(layout, name) for name in _YES_OR_NO})
    _check_known(layout)
    if layout.recipe not in RECIPES:
        raise ValueError(f"There is no recipe {layout.recipe!r}. Choose one of: {'; '.join(RECIPES)}.")
    if layout.recomputation not in RECOMPUTATION:
        raise ValueError(f"recomputation is one of {', '.join(RECOMPUTATION)}, but not {layout.recomputation!r}.")
    if layout.recomputation == "selective" and layout.flash_attention:
        raise ValueError(
            "FlashAttention keeps no scores, so there are none to compute again: choose recomputation 'none' or 'full'."
        )
    if layout.stage not in (0, 1, 2, 3):
        raise ValueError(f"ZeRO has the stages 1, 2 and 3 (and 0 for none of them), but not {layout.stage}.")


def _check_known(layout: Layout) -> None:
    """Refuse by name what other planners know and this one does not."""
    if any(word in str(layout.recipe).lower() for word in ("fp8", "float8", "fp4", "float4")):
        raise ValueError(f"The planner does not know 8-bit products ({layout.recipe!r}): choose a 16-bit recipe.")
    if layout.expert != 1:
        raise ValueError("The planner does not know expert parallelism (mixtures of experts): leave expert at 1.")
    check_whole("the layout", expert=layout.expert)


def _check_interleaving(layout: Layout, layers: int) -> None:
    if layout.pipeline == 1:
        raise ValueError("interleaving needs a pipeline of at least 2 ranks.")
    if layout.micro_batches % layout.pipeline:
        raise ValueError(
            f"interleaving needs a multiple of {layout.pipeline} micro-batches, one round of the pipeline's ranks, but "
            f"there are {layout.micro_batches}: change the batch, micro_batch or data, or leave interleaving at 1."
        )
    if layers % layout.interleaving:
        raise ValueError(f"The {layers} layers of a pipeline rank cannot be cut into {layout.interleaving} pieces.")
