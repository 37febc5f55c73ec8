"""Troubleshooting: see what a training does with its memory, and find what is wrong with it.

Memory: `tracking` (what is alive, of which kind, made where) · `simulated_device` (a small device that runs out of
memory) · `large_models` (for studies on fake tensors).
"""
