"""Published runs to check the planner against: of Megatron-LM, Llama 3 and MPT. Each number is from its row's source.

FLOP/s of Llama 3 and MPT do not count recomputation.
"""

from torchcourse.lessons.model_parallelism.planner.clusters import dgx_a100, grand_teton
from torchcourse.lessons.model_parallelism.planner.layout import Layout
from torchcourse.lessons.model_parallelism.planner.models import LLAMA3_405B, Model
from torchcourse.lessons.model_parallelism.planner.published_megatron import (
    recomputation_runs,
    strong_scaling,
    weak_scaling,
    with_data_parallelism,
)
from torchcourse.lessons.model_parallelism.planner.runs import Run

LLAMA3 = "Llama team, The Llama 3 Herd of Models, 2024, https://arxiv.org/abs/2407.21783"
MPT = (
    "MosaicML, MPT training benchmarks, A100 80GB with 1600 Gbps node-node interconnect, "
    "https://github.com/mosaicml/llm-foundry/tree/main/scripts/train/benchmarking"
)


def _llama3() -> list[Run]:
    """Llama team 2024, table 4. No activation is computed again (section 3.3.2).

    The schedule is interleaved, in a number of pieces that is not given. Gradients add up in float32 over the
    micro-batches, so that they are whole until the end of the step: stage 1 in the planner's words.
    """
    rows = [(8192, 64, 430, True), (16384, 128, 400, False)]  # GPUs, data-parallel ranks, TFLOP/s a GPU, sets constants
    return [
        Run(
            f"Llama 3 405B, {gpus} GPUs",
            f"{LLAMA3}, table 4",
            LLAMA3_405B,
            grand_teton(gpus),
            Layout(
                batch=2048,
                tensor=8,
                pipeline=16,
                data=data,
                stage=1,
                recipe="mixed precision, Adam, float32 gradients",
            ),
            flops=tera * 1e12,
            counts="model",
            unstated=("interleaving",),
            calibrates=calibrates,
        )
        for gpus, data, tera, calibrates in rows
    ]


def _mpt() -> list[Run]:
    """MosaicML's MPT on A100 80 GB with FSDP, sequences of 2,048: nothing of the planner is set on these.

    Sizes: https://github.com/mosaicml/llm-foundry/tree/main/scripts/train/yamls/pretrain
    """
    rows = [  # name, layers, width, heads, GPUs, batch, micro-batch, each layer computed again, MFU in per cent
        ("70B", 80, 8192, 64, 64, 2048, 8, True, 53.33),
        ("70B", 80, 8192, 64, 32, 1024, 2, True, 48.56),
        ("30B", 48, 7168, 56, 8, 504, 3, True, 55.3),
        ("13B", 40, 5120, 40, 8, 48, 2, False, 59.57),
        ("7B", 32, 4096, 32, 8, 96, 6, False, 64.23),
        ("3B", 32, 2560, 20, 8, 160, 10, False, 62.11),
        ("1B", 24, 2048, 16, 8, 448, 14, False, 59.86),
        ("760M", 24, 1536, 12, 8, 384, 24, False, 56.85),
        ("350M", 24, 1024, 16, 8, 512, 32, False, 51.62),
        ("125M", 12, 768, 12, 8, 640, 40, False, 44.79),
    ]
    return [
        Run(
            f"MPT {name}, {gpus} GPUs",
            MPT,
            Model(f"MPT {name}", layers, width, heads, vocabulary=50_368, dropout=False),
            dgx_a100(gpus),
            Layout(
                batch,
                micro_batch,
                data=gpus,
                stage=3,
                recomputation="full" if again else "none",
            ),
            flops=percent / 100 * 312e12,
            counts="model",
        )
        for name, layers, width, heads, gpus, batch, micro_batch, again, percent in rows
    ]


RUNS = (*weak_scaling(), *strong_scaling(), *recomputation_runs(), with_data_parallelism(), *_llama3(), *_mpt())


LEFT_OUT = {
    "Llama 3 405B, 16,384 GPUs, sequences of 131,072": (
        f"{LLAMA3}, table 4: half of the FLOP are attention there, and the paper does not say whether the masked half "
        "counts. An early version of the row contradicts itself: 8 × 16 × 16 × 4 is not 16,384, and only 8 "
        "data-parallel ranks make 16M tokens."
    ),
    "MPT on H100": (
        "MosaicML, the table of H100: it names no network. Inside one node, where none is needed, the planner is 8 to "
        "27 % too fast: the H100's share of its peak is set on Llama 3, with a year more of software."
    ),
    "MPT on A100, other sequence lengths": "MosaicML: left out for brevity, as are the 40 GB cards.",
    "Llama 3.1 on H100 in tokens a second": (
        "torchtitan, benchmarks of December 2024: the cards' power limit is 500 W and their peak unknown (footnote 2), "
        "and most rows compute in float8."
    ),
    "Llama 3.1 8B, selective checkpointing": (
        "torchtitan, tables 1 and 3: they keep every second matrix product, which is another rule than Korthikanti's."
    ),
    "Llama 3.1 70B and 405B, memory": (
        "torchtitan, tables 4 to 6: the sequence length (4, 5) or the micro-batch and what is sharded in the pipeline "
        "(5, 6) are not stated. With 8,192 tokens and micro-batches of 16, table 4 has 72 GiB, and the planner 52."
    ),
}
"""Rows of the same sources that the planner cannot express, and why."""
