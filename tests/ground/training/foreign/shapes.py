"""Checkpoints as the real libraries write them: the shapes that are met in the wild."""

import argparse
import collections
import pathlib
from typing import cast

import numpy as np
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from torchcourse.training.foreign import save_sharded


class Net(nn.Module):
    """A body and a head, with BatchNorm's counters."""

    def __init__(self, classes=3):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU())
        self.head = nn.Linear(8, classes)

    def forward(self, x):
        return self.head(self.body(x))


class Tied(nn.Module):
    """An embedding whose weights are also those of the output layer."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(5, 4)
        self.output = nn.Linear(4, 5, bias=False)
        self.output.weight = self.embedding.weight


def trained(seed=1, classes=3):
    """A network after two steps of AdamW: no weight has the value that a new one begins with."""
    torch.manual_seed(seed)
    model = Net(classes)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    for _ in range(2):
        optimizer.zero_grad()
        model(torch.randn(8, 6)).square().mean().backward()
        optimizer.step()
    return model, optimizer


def in_a_rank(fn, *args):
    """Call a function as the only rank of a group, here in this process."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        return fn(*args)
    finally:
        dist.destroy_process_group()


def save_from_four_ranks(folder):
    """Train with FSDP2 and save, each rank its share; also what torch.save would write on this rank."""
    from torch.distributed.fsdp import fully_shard

    torch.manual_seed(1)
    model = Net()
    for layer in (model.body, model.head, model):
        fully_shard(layer)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    for _ in range(2):
        optimizer.zero_grad()
        model(torch.randn(8, 6)).square().mean().backward()
        optimizer.step()
    save_sharded(folder, model, optimizer, epoch=7, note="four ranks")
    torch.save(model.state_dict(), folder.with_name(f"rank{dist.get_rank()}.pt"))
    whole = {name: t.full_tensor() if hasattr(t, "full_tensor") else t for name, t in model.state_dict().items()}
    moments = {name: optimizer.state[p]["exp_avg"].full_tensor() for name, p in model.named_parameters()}
    return {name: tensor.detach().clone() for name, tensor in whole.items()}, moments


def lightning_file(model, path):
    """Train for one step in Lightning and let it write its own checkpoint."""
    import lightning

    class Module(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.model = model

        def training_step(self, batch, _index):
            return self.model(batch[0]).square().mean()

        def configure_optimizers(self):
            return torch.optim.AdamW(self.parameters(), lr=0.01)

    data = torch.utils.data.TensorDataset(torch.randn(8, 6))
    trainer = lightning.Trainer(
        max_epochs=1,
        accelerator="cpu",
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(Module(), torch.utils.data.DataLoader(data, batch_size=8))
    trainer.save_checkpoint(path)


def compiled(model: nn.Module) -> nn.Module:
    """torch.compile says that it returns a function; of a module it returns a module."""
    return cast(nn.Module, torch.compile(model))


def good(model, optimizer):
    """Name → content of files that hold this model's weights, one way or another."""
    weights = model.state_dict()
    half = {name: t.half() if t.is_floating_point() else t for name, t in weights.items()}
    without = {name: t for name, t in weights.items() if "num_batches_tracked" not in name}
    return {
        "plain": weights,
        "DataParallel": nn.DataParallel(model).state_dict(),
        "DDP": in_a_rank(lambda: DistributedDataParallel(model).state_dict()),
        "compiled": compiled(model).state_dict(),
        "compiled in DataParallel": nn.DataParallel(compiled(model)).state_dict(),
        "DataParallel compiled": compiled(nn.DataParallel(model)).state_dict(),
        "a part compiled": {name.replace("body.", "body._orig_mod."): t for name, t in weights.items()},
        "state_dict": {"state_dict": weights, "epoch": 3},
        "model_state_dict and NumPy numbers": {"model_state_dict": weights, "best": np.float64(0.5), "n": np.int64(3)},
        "two levels down": {"checkpoint": {"model": nn.DataParallel(model).state_dict(), "epoch": 3}},
        "under a name": {"net." + name: t for name, t in weights.items()},
        "beside a loss with weights": {f"model.{name}": t for name, t in weights.items()}
        | {"loss.weight": torch.ones(3)},
        "half": half,
        "old, without counters": without,
        "extra counters": weights | {"other.num_batches_tracked": torch.tensor(5)},
        "equal copies": {"model": weights, "best": weights},
        "parameters": dict(model.named_parameters()) | dict(model.named_buffers()),
        "with NumPy's random numbers": {"model": weights, "rng": np.random.get_state(), "curve": np.arange(3.0)},
        "with an optimizer": {"model": weights, "optimizer": optimizer.state_dict()},
    }


def bad(model):
    """Name → (content, what the one sentence has to say)."""
    weights = model.state_dict()
    other = Net(classes=5).state_dict()
    lists = {"a": [1, 2], "b": "text"}
    return {
        "whole model": (model, r"holds a whole pickled model.*runs code.*save model\.state_dict\(\)"),
        "whole model inside": ({"model": model, "epoch": 1}, r"whole pickled model"),
        "arguments": (
            {"model": weights, "args": argparse.Namespace(lr=1)},
            r"argparse\.Namespace.*weights_only refuses",
        ),
        "path": ({"model": weights, "path": pathlib.PurePosixPath("a")}, r"pathlib.*weights_only refuses"),
        "default dict": (
            {"m": collections.defaultdict(list, a=[1]), "model": weights},
            r"(builtins|__builtin__)\.list",
        ),
        "additions of LoRA": (
            {f"head.lora_{part}.weight": torch.ones(2, 3) for part in "AB"},
            "LoRA's additions without the weights",
        ),
        "an optimizer alone": (
            {"optimizer": {"state": {0: {"exp_avg": torch.ones(8, 6)}}, "param_groups": [{"params": [0]}]}},
            "no weights in it",
        ),
        "no weights": (lists, r"no weights in it.*it has a, b"),
        "one tensor": (torch.ones(2), r"holds one tensor of shape \[2\]"),
        "a list": ([weights], "holds a list, not a dict"),
        "another head": (other, r"head\.weight \[5, 8\] where the model has \[3, 8\].*leave=\('head\.',\)"),
        "missing": ({n: t for n, t in weights.items() if n != "head.bias"}, r"the file lacks head\.bias"),
        "left over": (weights | {"neck.weight": torch.ones(2)}, r"the file has neck\.weight, which the model lacks"),
        "transposed": (
            weights | {"head.weight": weights["head.weight"].T},
            r"head\.weight \[8, 3\] where the model has",
        ),
        "flattened": (weights | {"head.weight": weights["head.weight"].flatten()}, r"head\.weight \[24\] where"),
        "whole numbers": (weights | {"head.weight": torch.ones(3, 8, dtype=torch.int8)}, r"head\.weight as int8 where"),
        "another architecture": (nn.Sequential(nn.Conv2d(1, 2, 3)).state_dict(), "Not one name fits"),
        "only the body": (model.body.state_dict(), r"fit its part body: load into model\.body"),
        "several": (
            {"model": weights, "ema": trained(2)[0].state_dict()},
            r"Several parts fit.*model, ema.*part='model'",
        ),
        "student and teacher": (
            {f"student.{n}": t for n, t in weights.items()} | {f"teacher.{n}": t + 1 for n, t in weights.items()},
            r"Several parts fit this model, with different weights: student\., teacher\.",
        ),
        "twice the same name": (
            weights | {"module.head.bias": torch.ones(3)},
            r"head\.bias and module\.head\.bias",
        ),
    }
