"""A patient's program: read from its file, executed in a namespace of its own, with repaired parts put in."""

import ast
import contextlib
import functools
import inspect
import io
import re
import sys
import textwrap
import traceback
import types
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from torchcourse.checks.errors import still_at
from torchcourse.checks.kit import one_thread
from torchcourse.ranks.run import RankError

PROGRAMS = Path(__file__).with_name("programs")


class Program:
    """A script of the clinic as an object: `Program("slug").main(seed=1)`; its functions are attributes.

    Args:
        slug: the case.
        *parts: repaired functions or classes; each takes the place of the one with its name.

    Raises:
        ValueError: for a part that the program does not have.
    """

    def __init__(self, slug: str, *parts: Callable) -> None:
        self.slug, self.parts = slug, parts
        self.path = PROGRAMS / f"{slug}.py"
        self.source = self.path.read_text(encoding="utf-8")
        # No importable name: what is sent to a rank must travel with its repaired parts, not be imported there.
        self.namespace: dict[str, Any] = {"__name__": f"clinic_{slug}", "__file__": str(self.path)}
        exec(compile(self.source, str(self.path), "exec"), self.namespace)
        for part in parts:
            if getattr(part, "__name__", None) not in self.namespace:
                raise ValueError(f"'{getattr(part, '__name__', part)}' is not a part of the program '{slug}'.")
            self.namespace[part.__name__] = part

    def __getattr__(self, name: str) -> Any:
        try:
            return self.__dict__["namespace"][name]
        except KeyError:
            raise AttributeError(f"The program has no '{name}'.") from None

    @contextlib.contextmanager
    def lend_names(self) -> Iterator["Program"]:
        """Inside, a part that was defined in a notebook finds the program's other functions as if it stood among them.

        For that time the program's names lie over those of the notebook (or module) that defined the part.
        """
        lent = {name: value for name, value in self.namespace.items() if not name.startswith("__")}
        saved = [(place, dict(place)) for place in {id(p): p for p in map(_globals_of, self.parts)}.values()]
        for place, _ in saved:
            place.update(lent)
        try:
            yield self
        finally:
            for place, before in saved:
                for name in lent:
                    if name in before:
                        place[name] = before[name]
                    else:
                        place.pop(name, None)

    def log(self, **arguments: Any) -> str:
        """Run `main(**arguments)` and return what it prints; if it fails, with the last frame and the error."""
        printed = io.StringIO()
        with self.lend_names(), one_thread(), contextlib.redirect_stdout(printed):
            try:
                self.main(**arguments)
            except (Exception, SystemExit) as error:  # a program that ends itself would end the notebook's cell
                print(self.failure(error))
        return printed.getvalue().rstrip()

    def quietly(self, **arguments: Any) -> Any:
        """Run `main(**arguments)` without its prints and return its result."""
        with self.lend_names(), one_thread(), contextlib.redirect_stdout(io.StringIO()):
            return self.main(**arguments)

    def failure(self, error: BaseException) -> str:
        """Return an error as a user sees it: the message, and the last line of the program or the rank that failed.

        Where a repaired part failed, its line too, as a check names it.
        """
        own = still_at(error).strip()
        if isinstance(error, RankError):
            return "\n".join([f"rank {error.rank} ended with {error.kind}: {error.message}", *([own] if own else [])])
        lines = ["Traceback (most recent call last):"]
        frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(self.path)]
        for frame in frames[-1:]:
            lines += [f'  File "program.py", line {frame.lineno}, in {frame.name}', f"    {frame.line}"]
        return "\n".join([*lines, *([f"  {own}"] if own else []), f"{type(error).__name__}: {error}"])

    @property
    def is_untouched(self) -> bool:
        """Whether every part given reads as the broken one does; comments and layout do not count."""
        broken = Program(self.slug)
        pairs = [(_fingerprint(part), _fingerprint(broken.namespace[part.__name__])) for part in self.parts]
        return all(given is not None and given == admitted for given, admitted in pairs)


def named(names: Sequence[str], parts: Sequence[Callable]) -> tuple[Callable, ...]:
    """Return the parts under the names that the program knows, given in the order of `names`.

    A part that was made by `partial`, is an object that can be called, or has the name of another function or class is
    no different answer: it gets the name that it was handed in for.
    """
    own = [getattr(part, "__name__", None) for part in parts]
    if set(own) == set(names) or len(parts) != len(names) or not all(map(callable, parts)):
        return tuple(parts)
    return tuple(
        part if found == name else _called(name, part) for name, found, part in zip(names, own, parts, strict=True)
    )


def _called(name: str, part: Callable) -> Callable:
    if inspect.isclass(part):
        return type(name, (part,), {"__module__": part.__module__, "__doc__": part.__doc__})

    @functools.wraps(part)
    def under_its_name(*given: Any, **more: Any) -> Any:
        return part(*given, **more)

    under_its_name.__name__ = name
    return under_its_name


def lines_of_program(error: RankError) -> list[tuple[str, str]]:
    """Return where the program stood when a rank failed: each frame's place ("line 12, in main") and its code."""
    return re.findall(r'programs[/\\]\w+\.py", (line \d+, in \w+)\n +(.+)', error.traceback)


def _functions(part: Callable) -> list[types.FunctionType]:
    """The plain functions of a part: itself, what it wraps, the methods of a class."""
    if inspect.isclass(part):
        values = [inspect.unwrap(getattr(value, "__func__", value)) for value in vars(part).values()]
        return [value for value in values if isinstance(value, types.FunctionType)]
    inner = inspect.unwrap(part)
    return [inner] if isinstance(inner, types.FunctionType) else []


def _globals_of(part: Callable) -> dict[str, Any]:
    functions = _functions(part)
    return functions[0].__globals__ if functions else vars(sys.modules["__main__"])


def _fingerprint(part: Callable) -> list[str] | None:
    """The syntax of a part's functions; None where there is no text. (Bytecode depends on more than the text.)"""
    try:
        return [ast.dump(ast.parse(textwrap.dedent(inspect.getsource(each)))) for each in _functions(part)]
    except (OSError, TypeError, SyntaxError):
        return None
