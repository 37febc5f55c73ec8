"""Published training runs, to check the planner against. Every number is from the table or figure that its row names.

FLOP/s count recomputation in Narayanan et al. 2021 (equation 3 of the paper: hardware FLOP), and do not in
Llama 3 (MFU). Korthikanti et al. 2022 give seconds, and both kinds of utilisation.
"""

from dataclasses import dataclass, replace
from typing import Literal

from torchcourse.parallel.planner import LLAMA3_405B
from torchcourse.parallel.planner_cluster import A100_EFFICIENCY, Cluster, dgx_a100, grand_teton
from torchcourse.parallel.planner_layout import Layout
from torchcourse.parallel.planner_model import Model

NARAYANAN = (
    "Narayanan et al., Efficient Large-Scale Language Model Training on GPU Clusters Using Megatron-LM, SC21, "
    "https://arxiv.org/abs/2104.04473"
)
MEGATRON_SCRIPT = (
    "https://github.com/NVIDIA/Megatron-LM/blob/79a3bb6bf2c85b748c46749dd0695e23310d4e16/examples/sc21/run_table_1.sh"
)
KORTHIKANTI = (
    "Korthikanti et al., Reducing Activation Recomputation in Large Transformer Models, MLSys 2023, "
    "https://arxiv.org/abs/2205.05198"
)
MPT = (
    "MosaicML, MPT training benchmarks, A100 80GB with 1600 Gbps node-node interconnect, "
    "https://github.com/mosaicml/llm-foundry/tree/main/scripts/train/benchmarking"
)
LLAMA3 = "Llama team, The Llama 3 Herd of Models, 2024, https://arxiv.org/abs/2407.21783"


_OF_2021 = Layout(batch=1, recomputation="full", sequence_parallel=False, flash_attention=False)
DEEPSPEED_2021 = replace(A100_EFFICIENCY, network=0.0905)
"""ZeRO stage 3 as it was measured in 2021 gathered parameters at a tenth of the network's rate. Set on one run of six;
FSDP in 2023 is at the full rate (the runs of `_mpt`)."""


@dataclass(frozen=True)
class Run:
    """A published run.

    Attributes:
        flops: FLOP/s a GPU, as published, or from the published seconds.
        counts: whether `flops` counts recomputation ("hardware") or not ("model").
        seconds: of a step, where the table gives them.
        unstated: fields of the layout that the source does not give. The planner takes the fastest that fit, as the
            authors tuned theirs.
        calibrates: whether the planner's constants are set on this row. It is judged on the others.
    """

    name: str
    source: str
    model: Model
    cluster: Cluster
    layout: Layout
    flops: float = 0.0
    counts: Literal["hardware", "model"] = "hardware"
    seconds: float | None = None
    unstated: tuple[str, ...] = ()
    calibrates: bool = False


def _weak_scaling() -> list[Run]:
    """Narayanan et al. 2021, table 1. Every second row sets constants.

    Micro-batches, interleaving and what reduces the gradients (torch's DDP, which overlaps, or Megatron's own, which
    does not) are in the authors' script: `MEGATRON_SCRIPT`.
    """
    rows = [  # billion parameters, heads, width, layers, tensor, pipeline, GPUs, batch, micro-batch, pieces, TFLOP/s
        (1.7, 24, 2304, 24, 1, 1, 32, 512, 16, 1, 137),
        (3.6, 32, 3072, 30, 2, 1, 64, 512, 16, 1, 138),
        (7.5, 32, 4096, 36, 4, 1, 128, 512, 16, 1, 142),
        (18.4, 48, 6144, 40, 8, 1, 256, 1024, 8, 1, 135),
        (39.1, 64, 8192, 48, 8, 2, 512, 1536, 4, 1, 138),
        (76.1, 80, 10240, 60, 8, 4, 1024, 1792, 2, 3, 140),
        (145.6, 96, 12288, 80, 8, 8, 1536, 2304, 2, 2, 148),
        (310.1, 128, 16384, 96, 8, 16, 1920, 2160, 1, 2, 155),
        (529.6, 128, 20480, 105, 8, 35, 2520, 2520, 1, 3, 163),
        (1008.0, 160, 25600, 128, 8, 64, 3072, 3072, 1, 1, 163),
    ]
    return [
        Run(
            f"GPT {billion:g}B, {gpus} GPUs",
            f"{NARAYANAN}, table 1; {MEGATRON_SCRIPT}",
            Model(f"GPT {billion:g}B", layers, width, heads),
            dgx_a100(gpus),
            replace(
                _OF_2021,
                batch=batch,
                micro_batch=micro_batch,
                data=gpus // (tensor * pipeline),
                tensor=tensor,
                pipeline=pipeline,
                interleaving=pieces,
                overlap=pipeline == 1,
            ),
            flops=tera * 1e12,
            calibrates=index % 2 == 0,
        )
        for index, (
            billion,
            heads,
            width,
            layers,
            tensor,
            pipeline,
            gpus,
            batch,
            micro_batch,
            pieces,
            tera,
        ) in enumerate(rows)
    ]


def _strong_scaling() -> list[Run]:
    """Narayanan et al. 2021, table 2: Megatron's three dimensions (PTD-P), and ZeRO stage 3 without any of them."""
    gpt175, gpt530 = Model("GPT 174.6B", 96, 12288, 96), Model("GPT 529.6B", 105, 20480, 128)
    megatron = [  # model, pipeline, batch, GPUs, TFLOP/s a GPU, sets constants; tensor 8 and micro-batch 1 in all
        (gpt175, 12, 1536, 384, 153, True),
        (gpt175, 12, 1536, 768, 149, False),
        (gpt175, 12, 1536, 1536, 141, False),
        (gpt530, 35, 2240, 560, 171, False),
        (gpt530, 35, 2240, 1120, 167, False),
        (gpt530, 35, 2240, 2240, 159, False),
    ]
    zero = [  # model, batch, GPUs, micro-batch, TFLOP/s a GPU, sets constants
        (gpt175, 1536, 384, 4, 144, False),
        (gpt175, 1536, 768, 2, 88, True),
        (gpt175, 1536, 1536, 1, 44, False),
        (gpt530, 2560, 640, 4, 138, False),
        (gpt530, 2240, 1120, 2, 98, False),
        (gpt530, 2240, 2240, 1, 48, False),
    ]
    return [
        Run(
            f"{model.name}, {gpus} GPUs, PTD-P",
            f"{NARAYANAN}, table 2",
            model,
            dgx_a100(gpus),
            _megatron_2021(batch=batch, tensor=8, pipeline=pipeline, data=gpus // (8 * pipeline)),
            flops=tera * 1e12,
            unstated=("interleaving",),
            calibrates=calibrates,
        )
        for model, pipeline, batch, gpus, tera, calibrates in megatron
    ] + [
        Run(
            f"{model.name}, {gpus} GPUs, ZeRO-3",
            f"{NARAYANAN}, table 2",
            model,
            replace(dgx_a100(gpus), efficiency=DEEPSPEED_2021),
            replace(_OF_2021, batch=batch, micro_batch=micro_batch, data=gpus, stage=3),
            flops=tera * 1e12,
            calibrates=calibrates,
        )
        for model, batch, gpus, micro_batch, tera, calibrates in zero
    ]


def recomputation_runs() -> list[Run]:
    """Korthikanti et al. 2022, tables 3 and 5: the same four models with full and with selective recomputation.

    The 175B model sets constants.
    """
    rows = [  # name, heads, width, layers, pipeline, GPUs, batch, micro-batch, interleaving, seconds full, selective
        ("22B", 64, 6144, 48, 1, 8, 4, 4, 1, 1.42, 1.10),
        ("175B", 96, 12288, 96, 8, 64, 64, 1, 3, 18.13, 13.75),
        ("530B", 128, 20480, 105, 35, 280, 280, 1, 3, 49.05, 37.83),
        ("1T", 160, 25600, 128, 64, 512, 512, 1, 1, 94.42, 71.49),
    ]
    runs = []
    for name, heads, width, layers, pipeline, gpus, batch, micro_batch, interleaving, full, selective in rows:
        model = Model(f"GPT {name}", layers, width, heads)
        layout = _megatron_2021(
            batch=batch,
            micro_batch=micro_batch,
            tensor=8,
            pipeline=pipeline,
            interleaving=interleaving,
            recipe="mixed precision, Adam, float32 gradients",
        )
        for recomputation, seconds in (("full", full), ("selective", selective)):
            chosen = replace(layout, recomputation=recomputation, sequence_parallel=recomputation == "selective")
            flop = model.hardware_flop(recomputation) * batch
            runs.append(
                Run(
                    f"GPT {name}, {gpus} GPUs, {recomputation}",
                    f"{KORTHIKANTI}, tables 3 and 5",
                    model,
                    dgx_a100(gpus),
                    chosen,
                    flops=flop / seconds / gpus,
                    seconds=seconds,
                    calibrates=name == "175B",
                )
            )
    return runs


def _with_data_parallelism() -> Run:
    """Korthikanti et al. 2022, section 6.3: the 530B model again, on eight times as many GPUs."""
    model = Model("GPT 530B", 105, 20480, 128)
    layout = _megatron_2021(
        batch=2240,
        tensor=8,
        pipeline=35,
        data=8,
        interleaving=3,
        recomputation="selective",
        sequence_parallel=True,
        recipe="mixed precision, Adam, float32 gradients",
    )
    source = f"{KORTHIKANTI}, section 6.3"
    return Run("GPT 530B, 2240 GPUs, selective", source, model, dgx_a100(2240), layout, 0.542 * 312e12, "model")


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


def _megatron_2021(**layout: object) -> Layout:
    """Return a layout as Megatron-LM ran it in 2021: each layer computed again, communication not hidden."""
    return replace(_OF_2021, overlap=False, **layout)


RUNS = (*_weak_scaling(), *_strong_scaling(), *recomputation_runs(), _with_data_parallelism(), *_llama3(), *_mpt())


LEFT_OUT = {
    "Llama 3 405B, 16,384 GPUs, sequences of 131,072": (
        f"{LLAMA3}, table 4: half of the FLOP are attention there, and the paper does not say whether the masked half "
        "counts. The row also contradicts itself: 8 × 16 × 16 × 4 is not 16,384, and only 8 data-parallel ranks make "
        "16M tokens."
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
