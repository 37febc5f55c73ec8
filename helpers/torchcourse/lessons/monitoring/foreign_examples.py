"""Checkpoints as they are met in the wild, made to order: for lessons, and for trying what a loader does with them."""

import argparse
import os
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import nn


def save_as_from(device: str, content: Any, path: str | os.PathLike) -> None:
    """Write the file that torch.save would write if all tensors were on `device`, which need not exist here.

    Beside each tensor's numbers torch.save notes where the tensor was. Only this note is changed.
    """
    with patch("torch.serialization.location_tag", lambda _storage: device):
        torch.save(content, path)


def absent_gpu() -> str:
    """Return the name of a GPU that this machine lacks: cuda:3, or one with a higher number."""
    return f"cuda:{max(3, torch.cuda.device_count())}"


def zoo(model: nn.Module, folder: Path) -> list[Path]:
    """Write thirteen files that claim to be this model, some good and some not, and return their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = model.state_dict()
    first, last = next(iter(weights)), list(weights)[-1]
    contents: dict[str, Any] = {
        "plain.pth": weights,
        "compiled_on_4_gpus.pth": {f"_orig_mod.module.{name}": tensor for name, tensor in weights.items()},
        "lightning_style.ckpt": {"state_dict": {f"model.{n}": t for n, t in weights.items()}, "epoch": 9},
        "half_precision.pth": {n: t.half() if t.is_floating_point() else t for n, t in weights.items()},
        "model_and_ema.pth": {"model": weights, "ema": {name: tensor + 1 for name, tensor in weights.items()}},
        "one_layer_short.pth": {name: tensor for name, tensor in weights.items() if name != last},
        "other_shape.pth": weights | {last: torch.zeros(weights[last].numel() + 1)},
        "whole_model.pth": model,
        "with_arguments.pth": {"model": weights, "args": argparse.Namespace(lr=0.1)},
    }
    for name, content in contents.items():
        torch.save(content, folder / name)
    save_as_from(
        absent_gpu(), {f"module.{name}": tensor for name, tensor in weights.items()}, folder / "ddp_on_a_gpu.pth"
    )
    whole = (folder / "plain.pth").read_bytes()
    (folder / "cut_off.pth").write_bytes(whole[: len(whole) // 2])
    (folder / "login_page.pth").write_text("<!DOCTYPE html><title>Please sign in</title>")
    spoilt = {name: tensor.clone() for name, tensor in weights.items()}
    spoilt[first].view(-1)[0] = float("nan")
    torch.save(spoilt, folder / "with_nan.pth")
    return sorted(folder.iterdir())
