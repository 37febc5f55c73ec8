"""Troubleshooting: see what a training does with its memory, and find what is wrong with it.

Memory: `tracking` (what is alive, of which kind, made where) · `simulated_device` (a small device that runs out of
memory) · `formula` (bytes before anything runs) · `batch_size` (the largest that fits) · `step_study` (what each remedy
saves) · `allocator` (what PyTorch's cache keeps) · `gpu_status` (NVML) · `large_models` (for studies on fake tensors).
"""
