"""Writing down what a function needs, so that it can stand in a script of its own; for `export.py`."""

import __future__

import ast
import builtins
import contextlib
import functools
import inspect
import linecache
import operator
import subprocess
import symtable
import sys
import types
from collections.abc import Iterable
from pathlib import Path
from typing import Any, cast

import torch

from torchcourse.ranks.pickling import closure_of


class CannotWrite(TypeError):
    """Something cannot be written into a script faithfully; the sentence says what to change."""


_PLAIN = (type(None), bool, int, str, bytes, complex, type(...))


class Source:
    """Collects imports and definitions under the names by which they are used.

    Args:
        folder: where the script will lie; modules are looked for from there.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._objects: dict[str, Any] = {}  # name in the script -> object
        self._imports: set[str] = set()
        self._constants: list[str] = []
        self._copies: list[str] = []

    def imports(self) -> str:
        return "\n".join(sorted(self._imports, key=lambda line: (line.startswith("from"), line)))

    def constants(self) -> str:
        return "\n".join(self._constants)

    def copies(self) -> list[str]:
        """The functions and classes of cells, in an order in which they can be run."""
        return self._copies

    def use(self, name: str, obj: Any, user: str = "", around: dict[str, Any] | None = None) -> None:
        """Make `obj` available as `name`, for the function or class `user`, which stands in the namespace `around`.

        Raises:
            CannotWrite: it cannot be written down; the sentence says what to change.
        """
        if name in self._objects:
            if self._objects[name] is not obj and (self._literal(obj) or 0) != self._literal(self._objects[name]):
                raise CannotWrite(f"Two different objects are called `{name}` here. Give one of them a different name.")
            return
        self._objects[name] = obj
        if isinstance(obj, types.ModuleType):
            self._imports.add(self._import_module(name, obj))
        elif (constant := self._literal(obj)) is not None:
            self._constants.append(f"{name} = {constant}")
        elif statement := self._import_from(name, obj):
            self._imports.add(statement)
        elif isinstance(obj, types.FunctionType | type):
            self._copy(name, obj, around or {})
        elif isinstance(obj, functools._lru_cache_wrapper):
            self._copy(name, inspect.unwrap(obj), around or {})
        else:
            raise CannotWrite(
                f"`{name}`, which {user} uses, is a live object of type {type(obj).__name__}, and a script "
                f"starts without it. Build it inside {user}, or load it there from a file."
            )

    def literal(self, obj: Any, what: str) -> str:
        """How to write an argument down.

        Raises:
            CannotWrite: it is not made of plain values.
        """
        text = self._literal(obj)
        if text is None:
            raise CannotWrite(
                f"{what} is an object of type {type(obj).__name__}, which cannot be written into a script. "
                "Build it inside the function, or save it and pass the path of the file."
            )
        return text

    def _literal(self, obj: Any) -> str | None:
        """An expression for plain values and containers of them; None for anything else."""
        if type(obj) in _PLAIN:
            return repr(obj)
        if type(obj) is float:
            return repr(obj) if abs(obj) < float("inf") else f'float("{obj}")'
        if isinstance(obj, torch.dtype | torch.device):
            self._imports.add("import torch")
            return repr(obj) if isinstance(obj, torch.dtype) else f'torch.device("{obj}")'
        if isinstance(obj, Path):
            self._imports.add("from pathlib import Path")
            return f"Path({str(obj)!r})"
        return self._container(obj) if type(obj) in (dict, list, tuple, set, frozenset) else None

    def _container(self, obj: Any) -> str | None:
        if type(obj) is dict:
            keys, values = self._literals(obj), self._literals(obj.values())
            if keys is None or values is None:
                return None
            return f"{{{', '.join(f'{key}: {value}' for key, value in zip(keys, values, strict=True))}}}"
        parts = self._literals(obj)
        if parts is None:
            return None
        if type(obj) in (set, frozenset):
            return f"{type(obj).__name__}([{', '.join(sorted(parts))}])"
        inside = ", ".join(parts)
        return f"[{inside}]" if type(obj) is list else f"({inside},)" if len(parts) == 1 else f"({inside})"

    def _literals(self, objects: Iterable[Any]) -> list[str] | None:
        """The expressions for all of several objects; None if there is none for one of them."""
        texts = [text for obj in objects if (text := self._literal(obj)) is not None]
        return texts if len(texts) == len(list(objects)) else None

    def _import_module(self, name: str, module: types.ModuleType) -> str:
        self._check_findable(module)
        if name == module.__name__:
            return f"import {name}"
        package, _, last = module.__name__.rpartition(".")
        if name == last:
            return f"from {package} import {last}"
        return f"import {module.__name__} as {name}"

    def _import_from(self, name: str, obj: Any) -> str | None:
        """An import statement for what some module defines; None for what a cell defines."""
        module = sys.modules.get(getattr(obj, "__module__", None) or "")
        if isinstance(obj, types.BuiltinFunctionType) and module is None:
            module = next((m for m in (torch, builtins) if getattr(m, name, None) is obj), None)
        if module is None or module.__name__ == "__main__":
            return None
        steps = module.__name__.split(".")
        packages = [sys.modules.get(".".join(steps[:length])) for length in range(1, len(steps) + 1)]
        for package in packages:  # torch.nn rather than torch.nn.modules.linear
            for known_as in (name, getattr(obj, "__qualname__", name)):
                if package is not None and getattr(package, known_as, None) is obj:
                    self._check_findable(package)
                    alias = "" if known_as == name else f" as {name}"
                    return f"from {package.__name__} import {known_as}{alias}"
        return None

    def _check_findable(self, module: types.ModuleType) -> None:
        file = getattr(module, "__file__", None)
        if file and not _finds(module.__name__.partition(".")[0], self._folder):
            raise CannotWrite(
                f"Python does not find the module {module.__name__} ({file}) from the folder of the script. "
                f"Write the script into {Path(file).parent}, or install the module."
            )

    def _copy(self, name: str, obj: types.FunctionType | type, around: dict[str, Any]) -> None:
        text = _text_of(obj)
        definition = cast(ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef, ast.parse(text).body[0])
        if definition.decorator_list and not hasattr(obj, "__wrapped__") and name != obj.__name__:
            raise CannotWrite(f"{obj.__name__} is hidden by its decorator. Write the decorator with functools.wraps.")
        if any(isinstance(node, ast.Nonlocal) for node in definition.body):
            raise CannotWrite(
                f"{name}() changes a variable of the function around it (nonlocal). Pass that variable in."
            )
        functions = _functions(obj)
        if functions:
            around = functools.reduce(operator.or_, map(closure_of, functions), functions[0].__globals__)
        for used in _global_names(text):
            if used in around and not _is_built_in(used, around[used]):
                self.use(used, around[used], obj.__name__, around)
        self._imports |= {f"import {module}" for module in _submodules(definition, around)}
        self._copies.append(text if name == obj.__name__ else f"{text}\n\n\n{name} = {obj.__name__}")


def _text_of(obj: types.FunctionType | type) -> str:
    """The source of a function or class, moved to the left margin."""
    lines, line = _place_of(obj)
    kind = ast.ClassDef if isinstance(obj, type) else ast.FunctionDef | ast.AsyncFunctionDef
    try:
        tree = ast.parse("".join(lines))
    except SyntaxError:  # IPython splits a cell's lines at more signs than Python does
        raise CannotWrite(
            f"The source of {obj.__name__} is not known exactly: its cell holds a sign such as U+2028 or a form feed, "
            "which some programs take for the end of a line. Write it as an escape, such as \\u2028."
        ) from None
    for node in ast.walk(tree):
        if isinstance(node, kind) and node.name == obj.__name__:
            first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
            if first <= line <= (node.end_lineno or first):
                return _at_the_margin(lines, first, node)
    raise CannotWrite(
        f"The source of {obj.__name__} is not known. Define it with def or class in a cell or in a module."
    )


def _at_the_margin(lines: list[str], first: int, definition: ast.stmt) -> str:
    """The lines of a definition, without its indentation; lines that begin inside a text stay as they are."""
    inside_texts: set[int] = set()
    for node in ast.walk(definition):
        if isinstance(node, ast.JoinedStr) or (isinstance(node, ast.Constant) and isinstance(node.value, str | bytes)):
            inside_texts.update(range(node.lineno + 1, (node.end_lineno or node.lineno) + 1))
    head = lines[first - 1]
    margin = head[: len(head) - len(head.lstrip())]
    numbered = enumerate(lines[first - 1 : definition.end_lineno], first)
    return "".join(line if number in inside_texts else line.removeprefix(margin) for number, line in numbered).rstrip()


def _place_of(obj: types.FunctionType | type) -> tuple[list[str], int]:
    """The lines of the file or cell that defines a function or class, and the number of one line in the definition.

    No lines if that is not known.
    """
    for function in _functions(obj):
        return _lines_of(function.__code__), function.__code__.co_firstlineno
    # A class without methods does not know where it was written: look for its name in the cells.
    places = {}
    for file, entry in list(linecache.cache.items()) if isinstance(obj, type) else ():
        if len(entry) == 4 and not Path(file).exists():
            with contextlib.suppress(SyntaxError):  # a cell that never ran
                for node in ast.parse("".join(entry[2])).body:
                    if isinstance(node, ast.ClassDef) and node.name == obj.__name__:
                        places[ast.dump(node)] = (entry[2], node.lineno)
    if not places:
        return [], 0
    if len(places) > 1:
        raise CannotWrite(
            f"The source of the class {obj.__name__} cannot be told: {len(places)} cells define that name "
            "differently. Restart the kernel, or put the class into a module."
        )
    return next(iter(places.values()))


def _functions(obj: types.FunctionType | type) -> list[types.FunctionType]:
    """The function itself, or the methods that were written in a class; not those that a decorator made up."""
    candidates = vars(obj).values() if isinstance(obj, type) else [obj]
    plain = (getattr(part, "__func__", getattr(part, "fget", part)) for part in candidates)  # class methods, properties
    functions = [inspect.unwrap(part) for part in plain if inspect.isfunction(part)]
    if isinstance(obj, type):
        # Made up ones may have lines too: a data class has a method of `dataclasses` since Python 3.13, and what is
        # called "<string>" has those of `python -c`.
        functions = [function for function in functions if function.__module__ == obj.__module__]
        functions = [function for function in functions if function.__code__.co_filename != "<string>"]
    return [function for function in functions if _lines_of(function.__code__)]


def _lines_of(code: types.CodeType) -> list[str]:
    """The lines of the file or cell that this code was compiled from; none if they are not known."""
    if lines := linecache.getlines(code.co_filename):
        return lines
    # `%%time` compiles its cell under a name of its own, without a source. The cell is in the history, as it was typed.
    ipython = sys.modules.get("IPython")
    shell: Any = ipython.get_ipython() if ipython else None
    for typed in reversed(shell.history_manager.input_hist_raw if shell else ()):
        magic, _, body = typed.lstrip().partition("\n")
        if magic.startswith("%%") and code.co_name in body:
            with contextlib.suppress(Exception):  # a cell of HTML, a magic that its program does not know
                body = shell.transform_cell(body)
                futures = code.co_flags & _FUTURES  # a notebook's cells have those of the cells before
                if _holds(compile(body, code.co_filename, "exec", futures, dont_inherit=True), code):
                    return body.splitlines(keepends=True)
    return []


_FUTURES = functools.reduce(
    operator.or_, (getattr(__future__, name).compiler_flag for name in __future__.all_feature_names)
)


def _holds(outer: types.CodeType, code: types.CodeType) -> bool:
    parts = [part for part in outer.co_consts if isinstance(part, types.CodeType)]
    return any(part == code or _holds(part, code) for part in parts)


def _global_names(text: str) -> list[str]:
    """The names that a definition takes from around it."""

    def names(table: symtable.SymbolTable) -> set[str]:
        own = {symbol.get_name() for symbol in table.get_symbols() if symbol.is_global()}
        return own.union(*(names(child) for child in table.get_children()))

    top = symtable.symtable(text, "<cell>", "exec")
    outer = {symbol.get_name() for symbol in top.get_symbols() if symbol.is_referenced() and not symbol.is_assigned()}
    return sorted(outer.union(*(names(child) for child in top.get_children())))


def _submodules(tree: ast.AST, namespace: dict[str, Any]) -> set[str]:
    """Modules reached through a package, as `torch.utils.tensorboard` is: the package may not load them by itself."""
    found: set[str] = set()
    for node in ast.walk(tree):
        steps: list[str] = []
        while isinstance(node, ast.Attribute):
            steps.insert(0, node.attr)
            node = node.value
        if isinstance(node, ast.Name) and isinstance(package := namespace.get(node.id), types.ModuleType):
            names = {".".join([package.__name__, *steps[:length]]) for length in range(1, len(steps) + 1)}
            found |= names & sys.modules.keys()
    return {name for name in found if not any(other.startswith(f"{name}.") for other in found)}


def _is_built_in(name: str, obj: Any) -> bool:
    """Whether an object is the built-in of that name. IPython wraps some, such as `open`, in functions of its own."""
    return hasattr(builtins, name) and getattr(obj, "__wrapped__", obj) is getattr(builtins, name)


@functools.cache
def _finds(package: str, folder: Path) -> bool:
    """Whether a Python that runs a script in `folder` finds a top-level package."""
    if package in sys.stdlib_module_names or package == "torch":
        return True
    code = "import importlib.util, sys; sys.path[0] = sys.argv[1]; sys.exit(not importlib.util.find_spec(sys.argv[2]))"
    return subprocess.run([sys.executable, "-c", code, str(folder), package], stderr=subprocess.DEVNULL).returncode == 0
