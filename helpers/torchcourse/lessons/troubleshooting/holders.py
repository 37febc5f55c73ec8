"""Who keeps a tensor alive: the way from it, by Python's references, up to a variable, and the line that filled it."""

import ast
import bisect
import functools
import gc
import itertools
import linecache
import statistics
import sys
import types
import weakref
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from torchcourse.lessons.troubleshooting import autograd_graph
from torchcourse.lessons.troubleshooting.tracking import Allocation
from torchcourse.source_lines import Line, hide, is_users

hide(__file__)

_DEPTH = 14  # references from a tensor to a variable; real ways are shorter than ten
_INNER = 8  # tensors inside a growing graph that are tried before its end
_WIDTH = 20_000  # objects looked at in one search


@dataclass(frozen=True)
class Holder:
    """Who keeps tensors alive.

    Attributes:
        text: in words.
        names: variables and attributes on the way, the one nearest to the tensor first.
        codes: the functions on the way (file, first line), such as a hook with a closure.
    """

    text: str
    names: tuple[str, ...] = ()
    codes: tuple[tuple[str, int], ...] = ()


UNKNOWN = Holder("something outside Python's reach (a C++ object, or a thread)")


@dataclass
class _Link:
    """One object on the way up, and how it refers to the one below."""

    item: Any
    below: "_Link | None" = None
    label: str = ""
    name: str = ""

    def down(self) -> Iterator["_Link"]:
        """Yield this link and those below, down to the tensor."""
        link: _Link | None = self
        while link is not None:
            yield link
            link = link.below


@dataclass(frozen=True)
class _Graph:
    """What lies behind a tensor: storages that are saved there or are its own, nodes, and their numbers if new."""

    end: weakref.ref
    saved: set[int]
    count: int
    numbers: set[int]


class Search:
    """Looks for holders. Made when the loop has stopped, and thrown away after the report."""

    def __init__(self, starts: list[int] | None = None) -> None:
        """`starts` has the number of the first node of each step, and last that of the first one after them."""
        self._starts = starts or []
        self._saved: dict[Any, set[int]] = {}  # of nodes, for graphs have most of theirs in common
        self._modules = {id(vars(module)): name for name, module in list(sys.modules.items()) if module is not None}
        self._locals: dict[int, list[tuple[types.FrameType, str]]] = {}
        frame: types.FrameType | None = sys._getframe(1)
        while frame is not None:  # a running function does not show up among the referrers of its variables
            if is_users(frame.f_code.co_filename) and id(frame.f_globals) != id(frame.f_locals):
                for name, value in frame.f_locals.items():
                    self._locals.setdefault(id(value), []).append((frame, name))
            frame = frame.f_back
        # Weak, so that the search is none of the holders that it finds.
        self._tensors: dict[int, list[weakref.ref]] = {}
        for tensor in autograd_graph.live_tensors():
            for key in autograd_graph.storage_keys(tensor):
                self._tensors.setdefault(key, []).append(weakref.ref(tensor))

    def holder_of(self, made: Allocation) -> Holder:
        """Return who keeps this storage alive."""
        way = self._way_to_a_variable(_present(self._tensors.get(made.key, [])))
        if way is not None:
            return _describe(way)
        graphs = [graph for graph in self._graphs if made.key in graph.saved]
        return self._holder_of_graph(graphs)

    def growing_graphs(self, steps: range, known: set[int]) -> dict[Holder, float]:
        """Return who keeps a graph that has got nodes in nearly each of these steps, with the nodes per step.

        Args:
            steps: which to look at.
            known: storages whose holder is known; a graph that keeps one of them is known with it.
        """
        found: dict[Holder, float] = {}
        told: set[int] = set()
        everything = list(autograd_graph.nodes(*(node for _, node in self._ends)))
        if not in_most(self._new_nodes(autograd_graph.numbers(everything, self._starts[0]), steps)):
            return found  # the usual case, and quickly told
        for graph in sorted(self._graphs, key=lambda graph: -len(graph.numbers)):
            counts = self._new_nodes(graph.numbers - told, steps)
            if not in_most(counts) or graph.saved & known:
                continue
            # What is made of a running value in each step has its graph too: `mean = total / n`. So start inside.
            inner = [end for end in self._inner_ends(graph) if in_most(self._new_nodes(end.numbers - told, steps))]
            candidates = [*sorted(inner, key=lambda end: len(end.numbers))[:_INNER], graph]
            holders = (self._holder_of_graph([end]) for end in candidates)
            holder = next((holder for holder in holders if holder is not UNKNOWN), UNKNOWN)
            if holder is not UNKNOWN:
                told |= graph.numbers
                found[holder] = found.get(holder, 0.0) + float(statistics.median(counts))
        return found

    def _new_nodes(self, numbers: set[int], steps: range) -> list[int]:
        """Return how many nodes with these numbers each of the steps has made."""
        new = Counter(bisect.bisect_right(self._starts, number) - 1 for number in numbers)
        return [new[step] for step in steps]

    def _holder_of_graph(self, graphs: list[_Graph]) -> Holder:
        for graph in sorted(graphs, key=lambda graph: -graph.count)[:5]:
            way = self._way_to_a_variable(_present([graph.end]))
            if way is not None:
                return _describe(way, f"the autograd graph ({graph.count} nodes) behind ")
        return UNKNOWN

    @functools.cached_property
    def _ends(self) -> list[tuple[weakref.ref, Any]]:
        """Each tensor that was computed, with the node that made it."""
        tensors = _present([tensor for tensors in self._tensors.values() for tensor in tensors])
        pairs = [(weakref.ref(tensor), autograd_graph.end_of_graph(tensor)) for tensor in tensors]
        return [(tensor, node) for tensor, node in pairs if node is not None]

    @functools.cached_property
    def _graphs(self) -> list[_Graph]:
        """The graphs that no other graph is built upon: somebody else must keep these."""
        reached = autograd_graph.nodes(*(node for _, node in self._ends))
        inside = {following for node in reached for following, _ in node.next_functions}
        return [self._graph(tensor, node) for tensor, node in self._ends if node not in inside]

    def _graph(self, tensor: weakref.ref, end: Any, saved: bool = True) -> _Graph:
        nodes = list(autograd_graph.nodes(end))
        keys = set().union(*map(self._saved_in, nodes)) if saved else set()
        keys |= {key for present in _present([tensor]) for key in autograd_graph.storage_keys(present)}
        since = self._starts[0] if self._starts else 0
        return _Graph(tensor, keys, len(nodes), autograd_graph.numbers(nodes, since))

    def _saved_in(self, node: Any) -> set[int]:
        if node not in self._saved:
            self._saved[node] = autograd_graph.storages(node)
        return self._saved[node]

    def _inner_ends(self, graph: _Graph) -> list[_Graph]:
        """Return the graphs inside this one whose tensors the last step has made, the youngest few."""
        last = self._starts[-2]
        young = {number for number in graph.numbers if number >= last}
        inner = [
            (tensor, node) for tensor, node in self._ends if node._sequence_nr() in young and tensor is not graph.end
        ]
        inner.sort(key=lambda pair: -pair[1]._sequence_nr())
        return [self._graph(tensor, node, saved=False) for tensor, node in inner[:_INNER]]

    def _way_to_a_variable(self, items: list[Any]) -> _Link | None:
        """Search upwards, breadth first, until a variable of a module or of a running function is met.

        A step that was made for the watch alone (`find_leaks(make_step())`) is held by no variable: then the way ends
        at its closure, or at the attribute of its object.
        """
        frontier = [_Link(item) for item in items]
        seen = {id(item) for item in items} | {id(items)}
        nearest: _Link | None = None
        for _ in range(_DEPTH):
            for link in frontier:
                if root := self._running_local(link):
                    return root
            following, variables = self._referrers(frontier, seen)
            if variables:
                return min(variables, key=lambda root: root.name.startswith("_"))
            if not following:
                return nearest
            if len(seen) > _WIDTH:
                return None
            nearest = nearest or next((link for link in following if _of_user(link)), None)
            frontier = following
        return None

    def _referrers(self, frontier: list[_Link], seen: set[int]) -> tuple[list[_Link], list[_Link]]:
        """Return what refers to these objects and was not seen before, and the modules' variables among it."""
        below = {id(link.item): link for link in frontier}
        # A tuple is passed on as it is; of a list a tuple would be made for the call, which refers to them too.
        objects = tuple(link.item for link in frontier)
        own = {id(objects), id(frontier), id(below)}
        following: list[_Link] = []
        variables: list[_Link] = []
        for referrer in gc.get_referrers(*objects) if objects else []:
            if id(referrer) in seen or id(referrer) in own or _is_machinery(referrer):
                continue
            for link in _linked(referrer, below):
                if id(referrer) in self._modules:
                    variables += _variables(referrer, link)
                elif id(referrer) not in seen:
                    seen.add(id(referrer))
                    following.append(_named(referrer, link))
        return following, variables

    def _running_local(self, link: _Link) -> _Link | None:
        for frame, name in self._locals.get(id(link.item), []):
            return _local(frame, link, name)
        return None


def in_most(counts: list[int]) -> bool:
    """Whether there is something in at least three of four."""
    return sum(count > 0 for count in counts) >= 0.75 * len(counts)


def _present(tensors: list[weakref.ref]) -> list[torch.Tensor]:
    return [tensor for reference in tensors if (tensor := reference()) is not None]


def _is_machinery(referrer: Any) -> bool:
    """Whether an object belongs to this search, or is a frame that runs it."""
    if isinstance(referrer, types.FrameType):
        return not is_users(referrer.f_code.co_filename)
    return isinstance(referrer, _Link) or type(referrer).__module__.startswith("torchcourse.lessons.troubleshooting")


def _of_user(link: _Link) -> bool:
    """Whether a link is a variable in the closure of a user's function, or an attribute of an object of theirs.

    A frame holds nothing by itself once its function has ended: it is held, by a kept exception or a generator.
    """
    if isinstance(link.item, types.FrameType):
        return False
    if isinstance(link.item, types.FunctionType):
        return bool(link.name) and is_users(link.item.__code__.co_filename)
    return bool(link.name) and not type(link.item).__module__.startswith("torch")


def _linked(referrer: Any, below: dict[int, _Link]) -> Iterator[_Link]:
    """Yield which of the objects below this one refers to."""
    ids = {id(item) for item in gc.get_referents(referrer)}
    if isinstance(referrer, types.FrameType):
        ids |= {id(value) for value in referrer.f_locals.values()}
    yield from (below[key] for key in ids & below.keys())


def _variables(module: dict, link: _Link) -> list[_Link]:
    """Return the module's variables that hold the object, without the search's own."""
    names = [name for name, value in list(module.items()) if value is link.item]
    return [_Link(module, link, f"the variable `{name}`", name) for name in names]


def _named(referrer: Any, link: _Link) -> _Link:
    """Return the link to a referrer, with the name by which it refers to the object below, if it has one."""
    if isinstance(referrer, types.FrameType):
        return _local(referrer, link, _name_of(link.item, referrer.f_locals))
    if isinstance(referrer, types.FunctionType):
        for name, cell in zip(referrer.__code__.co_freevars, referrer.__closure__ or (), strict=False):
            if _holds(cell, link):
                return _Link(referrer, link, f"the variable `{name}` in the closure of {referrer.__name__}()", name)
        return _Link(referrer, link, f"the function {referrer.__name__}()")
    if isinstance(referrer, BaseException):
        return _Link(referrer, link, f"a kept {type(referrer).__name__}")
    name = _attribute(referrer, link)
    return _Link(referrer, link, f"`.{name}` of a {type(referrer).__name__}", name) if name else _Link(referrer, link)


def _local(frame: types.FrameType, link: _Link, name: str) -> _Link:
    return _Link(frame, link, f"the local variable `{name}` of {frame.f_code.co_name}()", name)


_CONTAINERS = dict | list | tuple | set | frozenset | deque | types.CellType | types.TracebackType


def _attribute(owner: Any, link: _Link) -> str:
    """The attribute by which an object refers to the one below, directly or through its `__dict__`; or ""."""
    if isinstance(owner, _CONTAINERS):
        return ""
    attributes = getattr(owner, "__dict__", {})
    wanted = link.below.item if link.item is attributes and link.below is not None else link.item
    return _name_of(wanted, attributes)


def _name_of(item: Any, variables: Mapping[Any, Any]) -> str:
    return next((str(name) for name, value in variables.items() if value is item), "")


def _holds(cell: types.CellType, link: _Link) -> bool:
    """Whether the way came up through this cell (by the closure's tuple)."""
    inside = itertools.takewhile(lambda part: isinstance(part.item, tuple | types.CellType), link.down())
    return any(part.item is cell for part in inside)


def _describe(way: _Link, prefix: str = "") -> Holder:
    """Put the way into words, from the tensor up; what lies below a kept exception is its frames' affair."""
    links = list(way.down())[::-1]
    for number, link in enumerate(links):
        if isinstance(link.item, BaseException):
            local = next((below.label for below in links[:number] if below.label), "a frame")
            link.label = f"the traceback of {link.label}, which holds {local}, in"
            links = links[number:]
            break
    labelled = [link for link in links if link.label]
    text = " in ".join(link.label.removesuffix(", in") for link in labelled[:3])
    names = tuple(link.name for link in labelled if link.name)
    functions = [link.item for link in links if isinstance(link.item, types.FunctionType)]
    codes = tuple((function.__code__.co_filename, function.__code__.co_firstlineno) for function in functions)
    return Holder(prefix + _container(links) + text, names, codes)


def _container(links: list[_Link]) -> str:
    """Return "a list of 3, " where a list or the like lies directly under the first name."""
    for link in itertools.takewhile(lambda link: not link.label, links):
        if type(link.item) in (list, dict, set, tuple, deque):
            return f"a {type(link.item).__name__} of {len(link.item)}, "
    return ""


_EMPTY = {ast.dump(ast.parse(text, mode="eval").body) for text in ("[]", "{}", "()")}
_ADDERS = {"append", "appendleft", "add", "extend", "insert", "setdefault", "update", "put", "push"}


def line_that_keeps(holder: Holder, stack: Iterable[Line]) -> Line | None:
    """Return the line that puts something into the holder, looked for in the functions that ran and that hold it."""
    if not holder.names:
        return None
    places = [(line.file, line.number) for line in stack] + list(holder.codes)
    for scope in (True, False):  # first in these functions alone, then in their whole files
        found: list[tuple[int, Line]] = []
        for file, number in dict.fromkeys(places):
            found += _fillings(file, holder.names[0], number if scope else None)
        if found:
            return min(found, key=lambda pair: pair[0])[1]
    return None


def _fillings(file: str, name: str, inside: int | None) -> Iterator[tuple[int, Line]]:
    """Yield lines that add to the name (rank 0), or give it a value (1), within the function around a line."""
    try:
        tree: ast.AST = ast.parse("".join(linecache.getlines(file)))
    except SyntaxError:  # a cell with a magic command
        return
    function = "<module>"
    if inside is not None:
        around = [
            node
            for node in ast.walk(tree)
            if isinstance(node, ast.FunctionDef) and node.lineno <= inside <= (node.end_lineno or 0)
        ]
        if around:
            tree = min(around, key=lambda node: (node.end_lineno or 0) - node.lineno)
            function = tree.name
    for node in ast.walk(tree):
        if isinstance(node, ast.stmt | ast.expr) and (rank := _fills(node, name)) is not None:
            yield rank, Line(file, node.lineno, function)


def _fills(node: ast.AST, name: str) -> int | None:
    if isinstance(node, ast.AugAssign):
        return 0 if _last_name(node.target) == name else None
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in _ADDERS:
        return 0 if _last_name(node.func.value) == name else None
    if isinstance(node, ast.Assign):
        for target in node.targets:
            if _last_name(target) == name:
                again = any(_last_name(part) == name for part in ast.walk(node.value))
                if isinstance(node.value, ast.Constant) or ast.dump(node.value) in _EMPTY:
                    return None  # it empties the name
                return 0 if again or isinstance(target, ast.Subscript) else 1
    return None


def _last_name(node: ast.AST) -> str:
    while isinstance(node, ast.Subscript):
        node = node.value
    return node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""
