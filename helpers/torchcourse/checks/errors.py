"""Read an error that the learner's code ended with: is it the exercise's hole, and in which of the learner's lines?

The error may come from this process, from a rank, or from a worker of a DataLoader: the last two bring their frames as
text.
"""

import ast
import linecache
import re
import traceback
from dataclasses import dataclass
from pathlib import Path

from torchcourse.checks.arguments import BEGINNING, told
from torchcourse.gpu_errors import STOPPED, has_stopped_gpu
from torchcourse.source_lines import cell_name, is_cell, is_library

SKELETON = "Write your code here, then run this cell again."
"""What the hole of an exercise raises, as a NotImplementedError. PyTorch raises that class too, with other words."""

NOT_DONE = "Fill in the exercise above, run it, then run this cell again."

_NO_RANKS = "The check called your function where there are no ranks."
_GROUP_ENDED = "The ranks had a group when your function began. Did it call destroy_process_group()?"

_COURSE = str(Path(__file__).parent.parent)
_NOT_CALLABLE_SO = re.compile(r"\(\) (takes|missing|got an unexpected|got multiple)|is not callable$")
_LONGEST = 1500  # characters of a message that are shown


@dataclass(frozen=True)
class Place:
    """A line that was running: its file, its number from 1, and what it says."""

    file: str
    number: int
    text: str


class NotDone(NotImplementedError):
    """What a check raises for an answer that still holds `...`."""


def is_hole(error: BaseException) -> bool:
    """Whether the exercise is not done: its skeleton raised the error, or the check found `...` in an answer."""
    kind = kind_of(error)
    return kind == "NotDone" or (kind == "NotImplementedError" and SKELETON in _whole_message(error))


def hole_sentence(error: BaseException) -> str:
    """Say that there is a hole; where code is beside it, also that the skeleton's line is still there."""
    line = learners_line(error)
    if line is None or not _has_company(line):
        return NOT_DONE
    return (
        f"{place(line)} is still the skeleton's `raise NotImplementedError(…)`, and the check came to it. Write your "
        "code in its place; if your code is there already, delete that line. Then run both cells again."
    )


def sentence(error: BaseException) -> str:
    """Say what stopped the learner's code and at which of its lines, without the frames of the check."""
    kind, message = kind_of(error), message_of(error)
    if has_stopped_gpu(error):
        message = STOPPED
    if "process group has not been initialized" in message:
        message = f"{message.partition(', please')[0]}.\n{_GROUP_ENDED if hasattr(error, 'rank') else _NO_RANKS}"
    line = learners_line(error)
    where = f"\nIt happened in rank {error.rank}." if hasattr(error, "rank") else ""
    if "DataLoader worker process" in _whole_message(error):
        where += "\nIt happened in a worker of the DataLoader."
    what = f"{kind}: {message}" if message else f"{kind}."
    if line is not None:
        return "\n".join(filter(None, [f"Your code stopped with {what}{where}", _named(line), note_of(error)]))
    if kind == "TypeError" and _NOT_CALLABLE_SO.search(message):
        return f"The check could not call your function: {message}{where}\nIs its first line still the exercise's own?"
    if kind == "ProcessDied":
        return f"Your code ended a rank: {message}{where}"
    return (
        f"The check stopped with {what}{where}\nNone of your lines was running: it met this when it used your answer."
    )


def still_at(error: BaseException) -> str:
    """Name the learner's line that was running when the time was over."""
    line = learners_line(error)
    return f"\n{_named(line)}" if line else ""


def note_of(error: BaseException) -> str:
    """Say what the arguments of the learner's function were where it stopped; empty where that is not known."""
    line = learners_line(error)
    if line is None:
        return ""
    last = str(getattr(error, "traceback", "")).rpartition("\n")[2]  # of a rank, which wrote it there
    return told(error.__traceback__, line.file, line.number) or (last if last.startswith(BEGINNING) else "")


def _named(line: Place) -> str:
    return f"{place(line)}: {line.text}"


def kind_of(error: BaseException) -> str:
    """The class name of the error; for a `RankError`, of the error that the rank met."""
    return getattr(error, "kind", None) or type(error).__name__


def message_of(error: BaseException) -> str:
    """The error's text, without the frames that PyTorch and DataLoader workers write into it."""
    text = _whole_message(error)
    if "Original Traceback (most recent call last):" in text:
        text = re.split(r"\n(?=\S)", text.rstrip())[-1].removeprefix(f"{kind_of(error)}: ")
    text = re.split(r"\n(?:Exception raised from|C\+\+ CapturedTraceback)", text)[0].strip()
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]} …"


def learners_line(error: BaseException) -> Place | None:
    """The innermost line of the learner that was running: of a cell where there is one, else of a script."""
    texts = (_whole_message(error), str(getattr(error, "traceback", "")))
    frames = traceback.extract_tb(error.__traceback__)
    lines = [Place(frame.filename, frame.lineno or 0, frame.line or "") for frame in frames]
    lines += [line for text in reversed(texts) for line in lines_of(text)]
    of_learner = [line for line in lines if is_learners(line.file)]
    cells = [line for line in of_learner if is_cell(line.file)]
    found = cells or of_learner
    # "generator raised StopIteration": only the cause has the generator's frame.
    inside = learners_line(error.__cause__) if isinstance(error.__cause__, StopIteration) else None
    return inside or (found[-1] if found else None)


def lines_of(text: str) -> list[Place]:
    """The lines that a written traceback names, outermost first; cells may be called by their file or by their name."""
    pattern = r'^ *(?:File "(.+?)"|(Cell In\[\d+\])), line (\d+)(?:, in .+)?(?:\n {4,}(\S.*))?$'
    return [
        Place(file or _file_of(cell), int(number), code)
        for file, cell, number, code in re.findall(pattern, text, re.MULTILINE)
    ]


def is_learners(file: str) -> bool:
    """Whether the file is neither the course's nor a library's."""
    compiled = file.endswith((".pyx", ".pxd"))  # Cython names its frames by the source it was made from
    return is_cell(file) or not (is_library(file) or compiled or file.startswith(_COURSE))


def _whole_message(error: BaseException) -> str:
    message = getattr(error, "message", None)  # of a rank's error, whose text has the frames too
    return str(error if message is None else message)


def place(line: Place) -> str:
    """How the learner is told of a line: "Line 3 of your cell In[7]", or of which file."""
    if is_cell(line.file):
        return f"Line {line.number} of your cell{(cell_name(line.file) or '').removeprefix('Cell')}"
    return f"Line {line.number} of {Path(line.file).name}"


def _file_of(cell: str) -> str:
    """The file of the cell that is called so; without one, a name that still counts as a cell's."""
    return next((file for file in list(linecache.cache) if cell_name(file) == cell), f"<cell {cell}>")


def _has_company(line: Place) -> bool:
    """Whether other statements stand in the block of this line, apart from a docstring."""
    try:
        tree = ast.parse("".join(linecache.getlines(line.file)))
    except SyntaxError:  # a cell with magics
        return False
    for node in ast.walk(tree):
        for block in (getattr(node, name, None) for name in ("body", "orelse", "finalbody")):
            if isinstance(block, list) and any(
                isinstance(found, ast.Raise) and found.lineno <= line.number <= (found.end_lineno or 0)
                for found in block
            ):
                return any(not isinstance(other, ast.Raise) and not _is_docstring(other) for other in block)
    return False


def _is_docstring(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
