"""Troubleshooting: see what a training does with its memory, and find what is wrong with it.

Memory: `tracking` (what is alive, of which kind, made where) · `simulated_device` (a small device that runs out of
memory) · `gpu_device` (the same calls on a GPU) · `formula` (bytes before anything runs) · `batch_size` (the largest
that fits) · `step_study` (what each remedy saves) · `allocator` (what PyTorch's cache keeps) · `rank_memory` (bytes of
each rank) · `gpu_status` (NVML) · `memory_picture` (all of it drawn) · `large_models` (for studies on fake tensors).
"""

LESSON = 5
