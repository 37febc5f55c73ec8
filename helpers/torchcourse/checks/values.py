"""Hidden tests that judge values, and do not trust the process that computed them.

    ### BEGIN HIDDEN TESTS
    @judged(accuracy_of)
    def _on_drawn_inputs(accuracy_of, draw):
        import torch
        labels = torch.tensor([draw.randrange(4) for _ in range(20)])
        assert accuracy_of(torch.eye(4)[labels], labels) == 1.0
    ### END HIDDEN TESTS

Here, and under stock nbgrader, the test runs at once. `make grade` cuts it out of the cell, and runs it in a process
that never ran what was handed in: each call of `accuracy_of` is sent to the sandbox, which sends back plain data. So an
object that claims to equal everything, a replaced module or a patched check is no way to a point, and the inputs are
not known beforehand. Such a test stands alone: it uses nothing of the notebook but its parameters.
"""

import base64
import itertools
import random
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import torch

Test = Callable[..., None]
MOST = 2**19
"""Characters of the text that a value may become, and items of what is iterated over."""


def judged(*functions: Callable) -> Callable[[Test], Test]:
    """Run the decorated test on functions, which are given to it, and on a source of random numbers.

    The test is called with one function for each of `functions`, then with a `random.Random`. Arguments and results go
    through `encode` and `decode`, as they do when they come from a different process.
    """

    def run(test: Test) -> Test:
        test(*map(_plainly, functions), random.Random())
        return test

    return run


def _plainly(function: Callable) -> Callable:
    def call(*given: Any, **named: Any) -> Any:
        given, named = decode(encode(given)), decode(encode(named))
        return decode(encode(function(*given, **named)))

    return call


def encode(value: Any) -> Any:
    """Return a value as JSON can hold it: numbers, text, tensors, arrays, and collections of them.

    What is derived from these types becomes the type itself, and what can be iterated over becomes a list.

    Raises:
        TypeError: for anything else.
    """
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, torch.Tensor):
        flat = torch.Tensor.detach(value).cpu().contiguous().flatten()
        return ["tensor", str(flat.dtype), list(value.shape), _text(flat.view(torch.uint8).numpy())]
    if isinstance(value, np.ndarray | np.generic) and value.dtype.kind in "biuf":
        if isinstance(value, np.generic):
            return encode(value.item())
        return ["array", value.dtype.str, list(value.shape), _text(np.ascontiguousarray(value))]
    for kind in (int, float, str):
        if isinstance(value, kind):
            return kind(value)
    if isinstance(value, Mapping):
        return ["dict", [[encode(key), encode(item)] for key, item in value.items()]]
    if isinstance(value, set | frozenset):
        return ["set", [encode(item) for item in value]]
    if isinstance(value, Iterable):
        items = [encode(item) for item in itertools.islice(value, MOST + 1)]
        if len(items) > MOST:
            raise TypeError(f"A test of values takes at most {MOST:,} items.")
        return ["tuple" if isinstance(value, tuple) else "list", items]
    raise TypeError(f"A test of values takes numbers, text, tensors and collections of them, and got {value!r:.100}.")


def decode(value: Any) -> Any:
    """Return what was given to `encode`, whoever made the JSON: no code of theirs runs.

    Raises:
        ValueError, TypeError, KeyError: for what `encode` does not return.
    """
    if value is None or isinstance(value, bool | int | float | str):
        return value
    kind, *rest = value
    if kind == "tensor":
        dtype, shape, text = rest
        data = bytearray(base64.b64decode(text))
        flat = torch.frombuffer(data, dtype=_DTYPES[dtype]) if data else torch.empty(0, dtype=_DTYPES[dtype])
        return flat.reshape(shape)
    if kind == "array":
        dtype, shape, text = rest
        if np.dtype(dtype).kind not in "biuf":
            raise ValueError("This is no array of numbers.")
        return np.frombuffer(bytearray(base64.b64decode(text)), dtype=np.dtype(dtype)).reshape(shape)
    (items,) = rest
    if kind == "dict":
        return {decode(key): decode(item) for key, item in items}
    return _COLLECTIONS[kind](map(decode, items))


_COLLECTIONS: dict[str, Callable[[Iterable], Any]] = {"list": list, "tuple": tuple, "set": set}
_DTYPES = {str(value): value for value in vars(torch).values() if isinstance(value, torch.dtype)}


def _text(array: np.ndarray) -> str:
    return base64.b64encode(array.tobytes()).decode()
