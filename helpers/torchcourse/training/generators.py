"""The random number generators (난수 생성기) that training draws from, and their states in a checkpoint.

Beside the global ones of torch, Python and NumPy these are generators that a part of the loader has for itself, such as
a sampler's `np.random.default_rng(0)`, and those of the model and the loss function.
"""

import contextlib
import functools
import inspect
import itertools
import random
from collections.abc import Sequence
from types import FunctionType
from typing import Any

import numpy as np
import torch
from torch import nn

from torchcourse.data.loaders import held_parts, part_of

Generator = torch.Generator | np.random.Generator | np.random.RandomState | random.Random

_MOST = 50
"""Parts of a loader that are looked at: an object that makes an attribute of any name would never come to an end."""

_PARTS = ("sampler", "batch_sampler", "dataset", "datasets", "collate_fn")
_CHANGES = ("transform", "transforms", "target_transform")


def generators_of(loader: Any, *modules: object) -> list[Generator]:
    """Return the generators of a loader, of its samplers, datasets and transforms, and of modules, each once, in order.

    Args:
        loader: of any kind.
        modules: the model and the loss function.
    """
    parts, public, found = [loader], [], []
    for part in itertools.islice(parts, _MOST):  # parts grow as they are gone through
        public.append(part_of(part, "generator"))  # these come first, as in older checkpoints
        found += _own(part)
        for name in _PARTS + _CHANGES:
            inner = part_of(part, name)
            inner = list(inner.values()) if isinstance(inner, dict) and name == "datasets" else inner
            several = inner if isinstance(inner, list | tuple) and name not in _PARTS[:3] else [inner]
            parts += [one for one in several if one is not None and all(one is not other for other in parts)]
        parts += [one for one in held_parts(part) if all(one is not other for other in parts)]
    for module in modules:
        for part in module.modules() if isinstance(module, nn.Module) else [module]:
            found += _own(part)
    kinds = (torch.Generator, np.random.Generator, np.random.RandomState, random.Random)
    of_state = (one for one in public + found if isinstance(one, kinds) and not isinstance(one, random.SystemRandom))
    return list({id(one): one for one in of_state}.values())


_METHODS = ("__getitem__", "__getitems__", "__iter__", "__call__", "forward")


def _own(part: Any) -> list[Any]:
    """Return what an object holds, and what its functions use from around them, such as a generator of the notebook."""
    if isinstance(part, functools.partial):
        return [*part.args, *part.keywords.values(), *_own(part.func)]
    functions = [part, *(getattr(type(part), name, None) for name in _METHODS)]
    around = [held for function in functions if inspect.isfunction(function) for held in _around(function)]
    return [*getattr(part, "__dict__", {}).values(), *around]


def _around(function: FunctionType) -> list[Any]:
    found = [function.__globals__.get(name) for name in function.__code__.co_names]
    for cell in function.__closure__ or ():
        with contextlib.suppress(ValueError):  # it is empty
            found.append(cell.cell_contents)
    return found


def random_state(generators: Sequence[Generator] = ()) -> dict[str, Any]:
    """Return the state of every random number generator that this process trains with.

    Args:
        generators: beside the global ones.
    """
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state() if torch.cuda.is_initialized() else None,
        "mps": torch.mps.get_rng_state() if torch.backends.mps.is_available() else None,
        "python": _of_python(random.getstate()),
        "numpy": _of_numpy(np.random.get_state()),
        "loader": [_state(generator) for generator in generators],
    }


def set_random_state(state: dict[str, Any], generators: Sequence[Generator] = ()) -> None:
    """Put all random number generators back to where `random_state` found them."""
    torch.set_rng_state(state["torch"])
    random.setstate(_for_python(state["python"]))
    np.random.set_state(_for_numpy(state["numpy"]))
    if state["cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])
    if state.get("mps") is not None and torch.backends.mps.is_available():
        torch.mps.set_rng_state(state["mps"])
    for generator, own in zip(generators, _of_loader(state), strict=False):
        if _kind(generator) == _kind_of_state(own):
            _set(generator, own)


def are_those_of(generators: Sequence[Generator], state: dict[str, Any]) -> bool:
    """Return whether generators are of the number and kinds that `random_state` found."""
    return [*map(_kind, generators)] == [*map(_kind_of_state, _of_loader(state))]


def _of_loader(state: dict[str, Any]) -> list[Any]:
    saved = state["loader"]  # in older files one, or None
    return [] if saved is None else [saved] if isinstance(saved, torch.Tensor) else saved


def _kind(generator: Generator) -> str:
    if isinstance(generator, np.random.Generator):
        return str(generator.bit_generator.state["bit_generator"])
    if isinstance(generator, np.random.RandomState):
        return _kind_of_state(_state(generator))
    return type(generator).__mro__[-2].__name__ if isinstance(generator, random.Random) else type(generator).__name__


def _kind_of_state(state: Any) -> str:
    if isinstance(state, torch.Tensor):
        return "Generator"
    if isinstance(state, dict):
        return str(state["bit_generator"]) + (" in a RandomState" if "gauss" in state else "")
    return "RandomState" if isinstance(state[0], str) else "Random"


def _state(generator: Generator) -> Any:
    if isinstance(generator, torch.Generator):
        return generator.get_state()
    if isinstance(generator, random.Random):
        return _of_python(generator.getstate())
    if isinstance(generator, np.random.RandomState):
        state = generator.get_state(legacy=False)
        if state["bit_generator"] == "MT19937":
            return _of_numpy(generator.get_state())
        return _numbers(state)
    return _numbers(generator.bit_generator.state)


def _set(generator: Generator, state: Any) -> None:
    if isinstance(generator, torch.Generator):
        generator.set_state(state)
    elif isinstance(generator, random.Random):
        generator.setstate(_for_python(state))
    elif isinstance(generator, np.random.RandomState):
        like = generator.get_state(legacy=False)
        generator.set_state(_arrays(state, like) if isinstance(state, dict) else _for_numpy(state))
    else:
        generator.bit_generator.state = _arrays(state, generator.bit_generator.state)


# Both hold 624 numbers of state, which as a tensor are saved a hundred times faster than as Python numbers.
def _of_python(state: tuple[Any, ...]) -> tuple[Any, ...]:
    version, keys, rest = state
    return version, torch.tensor(keys), rest


def _for_python(state: Sequence[Any]) -> tuple[Any, ...]:
    version, keys, rest = state
    return version, tuple(keys.tolist()), rest


def _of_numpy(state: Any) -> tuple[Any, ...]:
    kind, keys, *rest = state
    return kind, torch.from_numpy(keys.astype(np.int64)), *rest


def _for_numpy(state: Sequence[Any]) -> tuple[Any, ...]:
    kind, keys, *rest = state
    return kind, keys.numpy().astype(np.uint32), *rest


def _numbers(state: Any) -> Any:
    """Return the state of a generator of NumPy's without arrays, which no checkpoint holds."""
    if isinstance(state, dict):
        return {key: _numbers(value) for key, value in state.items()}
    return state.tolist() if isinstance(state, np.ndarray) else state


def _arrays(state: Any, like: Any) -> Any:
    if isinstance(like, dict):
        return {key: _arrays(state[key], like[key]) for key in like}
    return np.array(state, dtype=like.dtype) if isinstance(like, np.ndarray) else state
