"""Published runs of Megatron-LM on A100, and of DeepSpeed's ZeRO beside it. Every number is from the row's source.

FLOP/s count recomputation in Narayanan et al. 2021 (equation 3 of the paper: hardware FLOP). Korthikanti et al. 2022
give seconds.
"""

from dataclasses import replace

from torchcourse.lessons.model_parallelism.planner.clusters import A100_EFFICIENCY, dgx_a100
from torchcourse.lessons.model_parallelism.planner.layout import Layout
from torchcourse.lessons.model_parallelism.planner.models import Model
from torchcourse.lessons.model_parallelism.planner.runs import Run

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

_OF_2021 = Layout(batch=1, recomputation="full", sequence_parallel=False, flash_attention=False)
DEEPSPEED_2021 = replace(A100_EFFICIENCY, network=0.0905)
"""ZeRO stage 3 as it was measured in 2021 gathered parameters at a tenth of the network's rate. Set on one run of six;
FSDP in 2023 is at the full rate (the runs of MPT in `published`)."""


def weak_scaling() -> list[Run]:
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


def strong_scaling() -> list[Run]:
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


def with_data_parallelism() -> Run:
    """Korthikanti et al. 2022, abstract: the 530B model again, on eight times as many GPUs, with MFU 54.2 %."""
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
    source = f"{KORTHIKANTI}, abstract"
    return Run("GPT 530B, 2240 GPUs, selective", source, model, dgx_a100(2240), layout, 0.542 * 312e12, "model")


def _megatron_2021(**layout: object) -> Layout:
    """Return a layout as Megatron-LM ran it in 2021: each layer computed again, communication not hidden."""
    return replace(_OF_2021, overlap=False, **layout)
