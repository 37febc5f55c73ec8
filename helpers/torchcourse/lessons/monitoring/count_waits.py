"""Counting how often a program waits for its device to turn a tensor into a Python number.

    with CountWaits() as waits:
        total += loss.item()
    print(waits.count)

A GPU works behind the program: a call only queues the work. `item()`, `float(tensor)`, `bool(tensor)`, `tolist()`,
`numpy()`, `cpu()` and printing need the result, so the program waits until all work before it is done. Source: PyTorch,
CUDA semantics, asynchronous execution, https://docs.pytorch.org/docs/stable/notes/cuda.html#asynchronous-execution
"""

from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

_BELOW_DISPATCH = (torch.Tensor.tolist, torch.Tensor.numpy, torch.Tensor.__array__, torch.Tensor.cpu)
_WAITS_ON_A_CPU_ONLY = (torch.nn.functional.one_hot,)  # given the number of classes


class CountWaits(TorchDispatchMode):
    """Counts conversions of tensors to Python numbers, on any device: also on a CPU, where they cost nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0
        self._methods = _CountMethods(self)

    def __enter__(self) -> "CountWaits":
        self._methods.__enter__()
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self._methods.__exit__(*error)

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        if func is torch.ops.aten._local_scalar_dense.default:
            self.count += 1
        return func(*args, **(kwargs or {}))


class _CountMethods(TorchFunctionMode):
    """Counts the conversions that dispatch never sees."""

    def __init__(self, waits: CountWaits) -> None:
        super().__init__()
        self.waits = waits

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        self.waits.count += func in _BELOW_DISPATCH
        before = self.waits.count
        result = func(*args, **(kwargs or {}))
        if func in _WAITS_ON_A_CPU_ONLY:
            self.waits.count = before
        return result
