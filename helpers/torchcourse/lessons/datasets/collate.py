"""From samples to a batch, where the samples have different lengths: padding, masks and packing."""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_sequence


class Padded(NamedTuple):
    """Sequences of different lengths in one tensor, filled up with zeros (padding, 패딩).

    A named tuple, so a DataLoader can pin it, and with `to`, so a training loop can move it to a device like a tensor.
    """

    x: torch.Tensor  # [N, T, C], T is the longest length
    lengths: torch.Tensor  # [N], int64

    @property
    def mask(self) -> torch.Tensor:
        """True where a step is real, False where it is padding: [N, T]."""
        return torch.arange(self.x.shape[1], device=self.x.device) < self.lengths[:, None]

    def to(self, device: torch.device | str, non_blocking: bool = False) -> "Padded":
        """Return the same batch on a device."""
        return Padded(*(part.to(device, non_blocking=non_blocking) for part in self))

    def pack(self) -> PackedSequence:
        """Return the real steps alone, as `nn.GRU` and its like take them. The order of the samples may be any."""
        return pack_padded_sequence(self.x, self.lengths.cpu(), batch_first=True, enforce_sorted=False)

    def mean(self) -> torch.Tensor:
        """Return the mean over the real steps of each sequence: [N, C]."""
        # The sum of many values may be more than 16 bits hold, where their mean is not.
        exact = torch.promote_types(self.x.dtype, torch.float32)
        mean = (self.x * self.mask[..., None]).sum(1, dtype=exact) / self.lengths[:, None]
        return mean.to(self.x.dtype) if self.x.is_floating_point() else mean


def pad(samples: Sequence[tuple[torch.Tensor, int]]) -> tuple[Padded, torch.Tensor]:
    """Make a batch of samples `(x [T_i, C], label)`: `(Padded, labels [N])`. For `DataLoader(collate_fn=pad)`.

    Raises:
        ValueError: for no samples, a sequence without steps, or sequences of different widths.
    """
    if not samples:
        raise ValueError("There are no samples to make a batch of.")
    sequences, labels = zip(*samples, strict=True)
    for number, x in enumerate(sequences):
        if not isinstance(x, torch.Tensor):
            raise ValueError(f"Sample {number} of the batch has a {type(x).__name__} for its sequence, and no tensor.")
        if x.dim() != 2 or len(x) == 0 or x.shape[1] != sequences[0].shape[1]:
            width = f" and {sequences[0].shape[1]} channels, as sample 0 has" if number else ""
            raise ValueError(
                f"Sample {number} of the batch has the shape {list(x.shape)}: a batch is made of sequences [T, C] with "
                f"one step or more{width}."
            )
    common = functools.reduce(torch.promote_types, (x.dtype for x in sequences))
    sequences = tuple(x.to(common) for x in sequences)  # else all get the type of the first, 0.5 as 0 if that is whole
    lengths = torch.tensor([len(x) for x in sequences])
    try:
        return Padded(pad_sequence(list(sequences), batch_first=True), lengths), torch.tensor(labels)
    except (TypeError, ValueError) as error:
        raise ValueError(f"Labels are one number per sample, but these are not: {error}.") from error
