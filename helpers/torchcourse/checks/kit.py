"""What checks are made of: run a learner's function on ranks, compare values, know mistakes again by their values.

    runs = on_ranks(_train, learner, world_size=2, known={"NoneType": ("nothing_sent", "Rank {rank} met None …")})
    refuse_known(answer, {"sum_not_mean": (total, "Your values are {n} times too large …")})
    if not same(answer, right):
        raise Wrong("wrong_value", "…")

Importing this imports torch, and starts no process.
"""

import builtins
import contextlib
import copy
import math
import operator
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any
from unittest.mock import patch

import numpy as np
import torch

from torchcourse.checks import Wrong
from torchcourse.checks.errors import Place, is_learners, lines_of, note_of, place
from torchcourse.checks.limits import announced
from torchcourse.ranks.report import without_noise
from torchcourse.ranks.run import RankError, RankTimeout, run_ranks
from torchcourse.source_lines import is_cell

LEFT_ALONE = "Rank {rank} waited in a collective that another rank never called."
_QUESTION = (
    "A collective is called by all ranks or by none, equally often: is one of yours inside an `if`, or in a loop of "
    "different length?"
)
HANG = "After {seconds:g} s the {ranks} ranks still waited for one another. " + _QUESTION
_LEFT = "Rank {rank} waited for a rank that had already left your function. " + _QUESTION
_ALL_AT_ONE_LINE = (
    "After {seconds:g} s all {ranks} ranks were still in the same line. Either its loop never ends, or the calls "
    "there do not match: all ranks must give the same source and the same size, in the same round."
)


def on_ranks(
    function: Callable[..., Any],
    *arguments: Any,
    world_size: int,
    seconds: float = 20.0,
    hang: str = HANG,
    left_alone: str | None = LEFT_ALONE,
    known: Mapping[str, tuple[str, str]] | None = None,
    env: dict[str, str] | None = None,
) -> list[Any]:
    """Run `function(*arguments)` on ranks and return what each returns; explain what is known to go wrong.

    Args:
        function: runs in each rank; it computes and returns, and judging is left to the caller.
        *arguments: what it gets.
        world_size: how many ranks.
        seconds: the time limit, counted from the moment when all ranks have started.
        hang: the hint for ranks that wait for each other; `{seconds}` and `{ranks}` are filled in.
        left_alone: the hint for a rank that waits for one that has left, with `{rank}` filled in; None: the symptom
            `hang`, with its hint.
        known: pieces of an error's text → symptom and hint. A piece `A & B` asks for both texts. `{rank}` and
            `{first_line}` of the message are filled in.
        env: environment variables for the ranks.

    Raises:
        Wrong: for a hang and for a known error.
        RankError: for every other error of a rank.
    """
    try:
        with announced(seconds), without_noise():
            return run_ranks(_with_note, function, *arguments, world_size=world_size, timeout=seconds, env=env)
    except RankError as error:
        about = {"rank": error.rank, "first_line": error.message.partition("\n")[0]}
        waiting = isinstance(error, RankTimeout) or (left_alone is None and error.left_alone)
        if isinstance(error, RankTimeout):
            _refuse_endless(error.traceback, seconds)
        if waiting:
            if hang is HANG:
                hang = _hang_hint(error)
            text = hang.format(seconds=seconds, ranks=world_size, **about)
            raise Wrong("hang", text + waiting_lines(error.traceback)) from None
        for pieces, (symptom, hint) in (known or {}).items():
            if all(piece in f"{error.kind}: {error.message}" for piece in pieces.split(" & ")):
                raise Wrong(symptom, hint.format(**about)) from None
        if error.left_alone and left_alone is not None:
            raise Wrong("left_alone", left_alone.format(**about)) from None
        raise


def _with_note(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call it in a rank, of which only an error's text comes back: with the arguments of the learner's function."""
    try:
        return function(*arguments)
    except Exception as error:
        if note := note_of(error):
            error.add_note(note)
        raise


def _hang_hint(error: RankError) -> str:
    """The general hint for what was seen: a rank had left, all ranks waited in one line, or in several."""
    if not isinstance(error, RankTimeout):
        return _LEFT
    at = [next((line for line in lines if is_cell(line.file)), None) for _, lines in _stacks_of(error.traceback)]
    return _ALL_AT_ONE_LINE if len(at) > 1 and None not in at and len(set(at)) == 1 else HANG


def _refuse_endless(stacks: str, seconds: float) -> None:
    """Refuse ranks that were computing or asleep at the time limit, and not in a call that waits for other ranks."""
    for rank, lines in _stacks_of(stacks):
        at = [line for line in lines if is_learners(line.file)]
        inside = lines[lines.index(at[-1]) :] if at else []
        if at and not any("distributed" in line.file or _WAITS.search(line.text) for line in inside):
            raise Wrong(
                "endless",
                f"After {seconds:g} s rank {rank} was still running, and was stopped. Does its loop end? If so, "
                "it is too slow.\n"
                f"{place(at[-1])}: {at[-1].text}",
            )


# What waits for other ranks without a Python frame of torch.distributed on top: a handle, or DDP's hooks.
_WAITS = re.compile(r"\b(wait|backward|run_backward|send|recv|barrier|dist|synchronize)\b")


def waiting_lines(stacks: str) -> str:
    """Say for each rank at which line of the learner's cell it waits, where the stacks of the ranks show cells."""
    texts = []
    for rank, lines in _stacks_of(stacks):
        at = [line for line in lines if is_cell(line.file)]
        if at:
            texts.append(f"\nRank {rank} waits in line {at[0].number}: {at[0].text}")
    return "".join(texts)


def _stacks_of(stacks: str) -> list[tuple[int, list[Place]]]:
    """The lines where each rank was, outermost first, from what the launcher writes of ranks that it stops."""
    parts = re.split(r"^rank (\d+) (?=was here|had already|did not)", stacks, flags=re.MULTILINE)[1:]
    return [(int(rank), lines_of(text)) for rank, text in zip(parts[::2], parts[1::2], strict=True)]


def same(ours: Any, other: Any, tolerance: float = 1e-8) -> bool:
    """Whether two values are the same to rounding: numbers, tensors, arrays, and sequences or dictionaries of them.

    Shapes and lengths have to agree; None is the same as None only. The relative tolerance is `tolerance`, the
    absolute one a tenth of it: 1e-8 suits float64, 1e-5 float32.
    """
    if isinstance(other, torch.Tensor):
        if not isinstance(ours, torch.Tensor) or ours.shape != other.shape:
            return False
        pair = ours.detach().to("cpu", torch.float64), other.detach().to("cpu", torch.float64)
        return torch.allclose(*pair, rtol=tolerance, atol=tolerance / 10)
    if isinstance(other, np.ndarray):
        return isinstance(ours, np.ndarray) and same(ours.tolist(), other.tolist(), tolerance)
    if isinstance(other, Mapping):
        return (
            isinstance(ours, Mapping)
            and ours.keys() == other.keys()
            and all(same(ours[key], other[key], tolerance) for key in other)
        )
    if isinstance(other, Sequence) and not isinstance(other, str):
        if isinstance(ours, str | torch.Tensor) or not isinstance(ours, Sequence) or len(ours) != len(other):
            return False
        return all(same(a, b, tolerance) for a, b in zip(ours, other, strict=True))
    if isinstance(other, float) or (isinstance(other, int) and not isinstance(other, bool)):
        given = number(ours)
        return given is not None and math.isclose(given, other, rel_tol=tolerance, abs_tol=tolerance / 10)
    return bool(ours == other)


def number(value: Any) -> float | None:
    """Return what was given as a float, also from a tensor of one element; None for what is not one finite number.

    A number in quotes is text, and so None.
    """
    if isinstance(value, str | bytes):
        return None
    try:
        found = float(value)
    except (TypeError, ValueError, RuntimeError):
        return None
    return found if math.isfinite(found) else None


def whole(value: Any) -> int | None:
    """Return a whole number of Python, NumPy or torch as an int; None for anything else, a truth value too."""
    try:
        return None if isinstance(value, bool) else operator.index(value)
    except TypeError:  # a tensor or an array of a different kind has the method, and refuses to use it
        return None


def is_rounded(given: float, right: float) -> bool:
    """Whether a number is the right one, rounded to 2 to 5 places, or cut off after them."""
    return abs(given - right) < 0.01 and any(given == round(given, places) for places in range(2, 6))


def numbers(values: Any) -> list[float] | None:
    """Return what was given as a list of floats; None for what is not a sequence of finite numbers."""
    try:
        given = iter(values)
    except TypeError:
        return None
    found = [number(value) for value in given]  # outside of `try`: a generator's own error is the learner's
    return [value for value in found if value is not None] if None not in found else None


def numbers_of(values: Any, count: int, names: str) -> list[float]:
    """Return what was given as `count` floats; else raise `Wrong` with what is asked for, such as `"MFU and HFU"`."""
    found = numbers(values)
    if found is None or len(found) != count:
        raise Wrong("wrong_type", f"Return {count} numbers: {names}. You returned {values!r}.")
    return found


def number_of(value: Any, what: str) -> float:
    """Return what was given as a float; else raise `Wrong` with what is asked for, such as `"the share"`."""
    found = number(value)
    if found is None:
        raise Wrong("no_number", f"Return one number, {what}. You return {value!r:.100}.")
    return found


def result_of(learner: Callable[..., Any], *given: Any, what: str = "what it was given") -> Any:
    """Return what the learner's function gives for copies of the arguments; refuse one that changes them.

    Args:
        learner: the function.
        *given: what it gets to read: finite numbers, text, tensors, arrays, and collections of them.
        what: the arguments in words, such as `"the picture or the kernel"`.
    """
    read = copy.deepcopy(given)
    result = learner(*read)
    if not same(read, given, tolerance=0):
        raise Wrong("inputs_changed", f"Your function changed {what}. The caller still needs the original: use a copy.")
    return result


def copies(tensors: Iterable[torch.Tensor]) -> list[torch.Tensor]:
    """Return copies on the CPU, without a graph, that later changes leave alone."""
    return [tensor.detach().cpu().clone() for tensor in tensors]


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Compute on one thread: for such small models, several only wait for each other on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@contextlib.contextmanager
def other_text_hashes() -> Iterator[None]:
    """Let `hash` give what it might in a different process: Python salts the hash of a text again in each."""
    real = builtins.hash

    def has_text(value: Any) -> bool:
        return isinstance(value, str | bytes) or (isinstance(value, tuple | frozenset) and any(map(has_text, value)))

    with patch.object(builtins, "hash", lambda value: real(("salt", value)) if has_text(value) else real(value)):
        yield


def tensor_of(value: Any, shape: Sequence[int], hint: str, dtype: torch.dtype | None = None) -> torch.Tensor:
    """Return the value if it is a tensor of this shape; else raise `Wrong` with the hint and what was given.

    With `dtype`, that of what the function was given, one of a different type is refused as well.
    """
    if not isinstance(value, torch.Tensor):
        raise Wrong("wrong_type", f"{hint} You return a value of type {type(value).__name__}.")
    if value.shape != torch.Size(shape):
        raise Wrong("shape", f"{hint} You return the shape {list(value.shape)}.")
    if dtype not in (None, value.dtype):
        raise Wrong("dtype", f"You were given {dtype}, and return {value.dtype}. Keep the type of what you are given.")
    return value


class AnyOf(tuple):
    """Several values that one mistake can give, for `refuse_known`: `AnyOf((total, total / 2))`."""


def refuse_known(found: Any, known: Mapping[str, tuple[Any, str]], tolerance: float = 1e-8, *, where: str = "") -> None:
    """Raise `Wrong(symptom, hint)` for the first known mistake whose values are those found.

    Args:
        found: what the learner's function gave.
        known: symptom → the values that this mistake gives, `AnyOf` them where it can give several, and the hint.
        tolerance: as for `same`.
        where: the case, such as `"On 3 ranks, "`; it is written in front of the hint.
    """
    for symptom, (values, hint) in known.items():
        if any(same(found, value, tolerance) for value in (values if isinstance(values, AnyOf) else [values])):
            raise Wrong(symptom, where + hint)


def refuse_formula(
    given: Sequence[float],
    cases: Sequence[tuple],
    mistakes: Mapping[str, tuple[Sequence[Callable[..., float]], str]],
    tolerance: float = 1e-6,
    *,
    where: str = "",
) -> None:
    """Raise `Wrong(symptom, hint)` for the first wrong formula that gives the learner's answers in all cases.

    In a single case a different mistake may give the same number.

    Args:
        given: the learner's answer in each case.
        cases: the arguments of each case.
        mistakes: symptom → wrong formulas of the same arguments, and the hint.
        tolerance: as for `same`.
        where: what is written in front of the hint.
    """
    for symptom, (formulas, hint) in mistakes.items():
        if any(same(list(given), [formula(*case) for case in cases], tolerance) for formula in formulas):
            raise Wrong(symptom, where + hint)
