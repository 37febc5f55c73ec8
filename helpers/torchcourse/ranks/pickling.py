"""Pickling between the notebook and its ranks: functions of a cell by value, tensors as CPU copies, clear refusals."""

import dis
import functools
import io
import socket
import sys
import threading
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import cloudpickle
import torch
from torch.nn.parallel import DistributedDataParallel


def dumps_call(function: Any, args: tuple[Any, ...]) -> tuple[bytes, list[str]]:
    """Pickle what the ranks should run; name the modules of the course that they will import to unpickle it.

    Raises:
        TypeError: with a sentence that names the part that cannot be sent.
    """
    arguments = {f"argument {index}": arg for index, arg in enumerate(args, 1)}
    return _pickled_or_explained(
        (function, args),
        {getattr(function, "__name__", "the function"): function, **arguments},
        "Each rank is a process of its own: make the object inside the function that runs there.",
    )


def dumps_result(result: Any) -> bytes:
    """Pickle what a rank returns.

    Raises:
        TypeError: with a sentence that names the part that cannot be sent.
    """
    advice = "Return tensors, numbers, text, or lists and dictionaries of them."
    return _pickled_or_explained(result, {"the result": result}, advice)[0]


def _pickled_or_explained(obj: Any, named: dict[str, Any], advice: str) -> tuple[bytes, list[str]]:
    try:
        return _pickled(obj)
    except Exception as error:
        raise TypeError(_explain(named, error, advice)) from None


def _pickled(obj: Any) -> tuple[bytes, list[str]]:
    buffer = io.BytesIO()
    pickler = _Pickler(buffer)
    pickler.dump(obj)
    return buffer.getvalue(), sorted(pickler.modules)


class _Pickler(cloudpickle.Pickler):
    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file)
        self.modules: set[str] = set()  # of the course, that what was pickled comes from

    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, type | types.FunctionType | types.ModuleType):
            module = obj.__name__ if isinstance(obj, types.ModuleType) else obj.__module__
            if isinstance(module, str) and module.startswith("torchcourse."):
                self.modules.add(module)
        if isinstance(obj, torch.Tensor):
            if type(obj).__name__ == "DTensor":
                raise _Refused(
                    obj,
                    "is a DTensor, one rank's piece of a tensor that exists only while the ranks do. "
                    "Use .to_local() for the piece or .full_tensor() for the whole.",
                )
            copy = _cpu_copy(obj)
            if copy is not obj:
                return _same, (copy,)
        if isinstance(obj, DistributedDataParallel):
            raise _Refused(
                obj,
                "is a model wrapped in DistributedDataParallel, which lives only inside the ranks. "
                "Use its .module, or .module.state_dict().",
            )
        if isinstance(obj, io.TextIOWrapper) and obj not in (sys.stdout, sys.stderr):
            raise TypeError("cloudpickle would send a file's text in its place")
        if isinstance(obj, functools._lru_cache_wrapper) and obj.__module__ == "__main__":
            return _cached, (obj.__wrapped__, obj.cache_parameters())  # cloudpickle sends its name alone
        if isinstance(obj, types.CodeType):
            # From 3.1.3 on, cloudpickle leaves the file name out. The traceback of a rank needs it to show the cell.
            build, arguments = self.dispatch_table[types.CodeType](obj)[:2]
            return _code_of_file, (build, arguments, obj.co_filename)
        return super().reducer_override(obj)


class _Refused(TypeError):
    """An object that would not work on the other side, and what to do about it."""

    def __init__(self, obj: Any, advice: str) -> None:
        super().__init__(advice)
        self.obj, self.advice = obj, advice


def _cpu_copy(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor itself where it is fit to travel."""
    here = tensor.device.type in ("cpu", "meta")
    if type(tensor) is torch.nn.Parameter:
        return tensor if here else torch.nn.Parameter(tensor.cpu(), tensor.requires_grad)
    if type(tensor) is not torch.Tensor:
        return tensor
    if not tensor.is_leaf:
        tensor = tensor.detach()
    if not here:
        return tensor.cpu()
    if tensor.layout is torch.strided and tensor.untyped_storage().nbytes() > tensor.numel() * tensor.element_size():
        return tensor.clone()  # a view: pickle would send everything that it is a view of
    return tensor


def _cached(function: Callable[..., Any], parameters: dict[str, Any]) -> Any:
    return functools.lru_cache(**parameters)(function)


def _same(obj: Any) -> Any:
    return obj


def _code_of_file(build: Callable[..., types.CodeType], arguments: tuple[Any, ...], filename: str) -> types.CodeType:
    return build(*arguments).replace(co_filename=filename)


@dataclass
class _Name:
    """How the learner calls an object: `train_data[0].file`, which train() uses,"""

    path: str
    before: str = ""
    after: str = ""

    def __add__(self, step: str) -> "_Name":
        return _Name(self.path + step, self.before, self.after)

    def __str__(self) -> str:
        return f"{self.before}{self.path}{self.after}"


def _explain(named: dict[str, Any], error: Exception, advice: str) -> str:
    """One sentence about the smallest part that fails to pickle."""
    name, part, error = _culprit(_Name(""), named, error, set(), ((_Name(n), obj) for n, obj in named.items()))
    if isinstance(error, _Refused):
        return f"{name} {error.advice}"
    return f"{name} cannot be sent between the notebook and its ranks: it is {_describe(part)}. {advice}"


def _culprit(
    name: _Name, obj: Any, error: Exception, seen: set[int], parts: Iterator[tuple[_Name, Any]]
) -> tuple[_Name, Any, Exception]:
    seen.add(id(obj))
    if not (isinstance(error, _Refused) and error.obj is obj):
        for part_name, part in parts:
            if id(part) not in seen:
                try:
                    _pickled(part)
                except Exception as part_error:
                    return _culprit(part_name, part, part_error, seen, _parts(part_name, part))
    return name, obj, error


def _parts(name: _Name, obj: Any) -> Iterator[tuple[_Name, Any]]:
    """What an object is made of, each part with its name."""
    if isinstance(obj, dict):
        yield from ((name + f"[{key!r}]", value) for key, value in obj.items())
    elif isinstance(obj, list | tuple):
        yield from ((name + f"[{index}]", value) for index, value in enumerate(obj))
    elif isinstance(obj, set | frozenset):
        yield from ((_Name(name.path, f"an element of {name.before}", name.after), value) for value in obj)
    elif isinstance(obj, functools.partial | types.MethodType | types.FunctionType):
        yield from _parts_of_callable(obj)
    elif hasattr(obj, "__dict__"):
        yield from ((name + f".{key}", value) for key, value in vars(obj).items())


def _parts_of_callable(obj: Any) -> Iterator[tuple[_Name, Any]]:
    if isinstance(obj, functools.partial):
        yield _Name(getattr(obj.func, "__name__", "the function")), obj.func
        yield from ((_Name(f"argument {index} of functools.partial"), arg) for index, arg in enumerate(obj.args, 1))
        yield from ((_Name(key, "`", "` of functools.partial"), arg) for key, arg in obj.keywords.items())
    elif isinstance(obj, types.MethodType):
        yield _Name("self", "`", f"` of {obj.__func__.__name__}()"), obj.__self__
        yield _Name(obj.__func__.__name__), obj.__func__
    else:
        for variable, value in _variables_of(obj).items():
            yield _Name(variable, "`", f"`, which {obj.__name__}() uses,"), value
        for value in [*(obj.__defaults__ or ()), *(obj.__kwdefaults__ or {}).values()]:
            yield _Name(f"a default value of {obj.__name__}()"), value


def _variables_of(function: types.FunctionType) -> dict[str, Any]:
    """The variables from outside that a function uses: of enclosing functions and of its module or notebook."""
    instructions = (step for code in _codes(function.__code__) for step in dis.get_instructions(code))
    names = {step.argval: None for step in instructions if step.opname in ("LOAD_GLOBAL", "LOAD_NAME")}
    return closure_of(function) | {name: function.__globals__[name] for name in names if name in function.__globals__}


def closure_of(function: types.FunctionType) -> dict[str, Any]:
    """The variables of enclosing functions that a function uses."""
    cells = zip(function.__code__.co_freevars, function.__closure__ or (), strict=True)
    return {name: cell.cell_contents for name, cell in cells if not _is_empty(cell)}


def _codes(code: types.CodeType) -> Iterator[types.CodeType]:
    """The code of a function and of the functions, classes and comprehensions written inside it."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _codes(constant)


def _is_empty(cell: types.CellType) -> bool:
    try:
        cell.cell_contents  # noqa: B018 (asking is what raises)
    except ValueError:
        return True
    return False


def _describe(obj: Any) -> str:
    for kinds, words in (
        (io.IOBase, "an open file"),
        (types.GeneratorType, "a generator"),
        (types.CoroutineType, "a coroutine"),
        (type(threading.Lock()) | type(threading.RLock()), "a lock"),
        (threading.Thread, "a thread"),
        (socket.socket, "a network connection"),
    ):
        if isinstance(obj, kinds):
            return f"{words} ({type(obj).__name__})"
    return f"an object of type {type(obj).__name__}"
