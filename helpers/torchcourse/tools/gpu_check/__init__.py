"""What the course does on a machine's GPUs, in one report: `python -m torchcourse.tools.gpu_check`, `make gpu-check`.

parts       what a report is made of: cases, and the row that each of them becomes
wrapped     one model under DDP or FSDP2
ranks       collectives over NCCL and gloo, and one training run on ranks that equals that of one process
memory      the measured peak of a training step beside the simulated device's
precision   float32, bfloat16, float16 with loss scaling
scaling     DDP and FSDP2 over 1, 2, 4 and 8 GPUs; scaling_picture draws it
overhead    what the Trainer costs per step
notebooks   the notebooks with all answers filled in, and the tests that need a GPU
report      the page

Without a GPU the same parts run on two CPU ranks, and each row that needs a GPU says that it was not run.
"""
