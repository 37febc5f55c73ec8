"""The fast loader for data that fit into memory: a batch is one gather, not many samples put together."""

import math
from collections.abc import Iterator, Sequence

import torch
from torch.utils.data import TensorDataset

from torchcourse.data.loaders import Shares, samples_per_rank


class MemoryLoader:
    """Batches of tensors that lie in memory, on the CPU or on a GPU: those of `make_loader`, several times faster.

    An ordinary DataLoader asks for each sample by itself and stacks them again. Here `index_select` gathers a whole
    batch at once. Seed, epoch, order and the ranks' shares are those of `make_loader`.

    Args:
        data: a TensorDataset, or tensors [N, …] of equal N.
        batch_size: samples per step, over all ranks; a multiple of the number of ranks.
        shuffle: as for `make_loader`; False gives each sample once, in order.
        seed: chooses the order.
        reuse: gather into the same memory each time. Faster still, but a batch is overwritten when you ask for the next
            one: never keep batches (`list(loader)`), and on a GPU wait until a copy of the batch is done.

    Raises:
        ValueError: if there is nothing to load, the tensors differ in N, or the batch cannot be dealt out evenly.
    """

    def __init__(
        self,
        data: TensorDataset | Sequence[torch.Tensor],
        batch_size: int,
        *,
        shuffle: bool = True,
        seed: int = 0,
        reuse: bool = False,
    ) -> None:
        self.tensors = tuple(data.tensors if isinstance(data, TensorDataset) else data)
        if not self.tensors or not all(isinstance(tensor, torch.Tensor) for tensor in self.tensors):
            raise ValueError(
                f"MemoryLoader takes tensors, not a {type(data).__name__}. If the samples fit into memory, load them "
                "once: TensorDataset(*torch.utils.data.default_collate(list(dataset)))."
            )
        lengths = sorted({len(tensor) if tensor.dim() else 0 for tensor in self.tensors})
        if len(lengths) > 1 or lengths[0] == 0:
            raise ValueError(f"The tensors have {lengths} samples: all need the same number, and at least one.")
        self.batch_size, self.reuse = samples_per_rank(batch_size), reuse
        self.sampler = Shares(lengths[0], shuffle, seed)

    def set_epoch(self, epoch: int) -> None:
        """Let the next epoch have a different order. The Trainer calls it."""
        self.sampler.set_epoch(epoch)

    def __len__(self) -> int:
        return math.ceil(len(self.sampler) / self.batch_size)

    def __iter__(self) -> Iterator[list[torch.Tensor]]:
        buffers = [tensor.new_empty((self.batch_size, *tensor.shape[1:])) for tensor in self.tensors]
        for indices in self.sampler.order().to(self.tensors[0].device).split(self.batch_size):
            if self.reuse and len(indices) == self.batch_size:
                for tensor, buffer in zip(self.tensors, buffers, strict=True):
                    torch.index_select(tensor, 0, indices, out=buffer)
                yield list(buffers)
            else:
                yield [tensor.index_select(0, indices) for tensor in self.tensors]
