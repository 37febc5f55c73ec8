"""Mends for what nbgrader 0.9 gets wrong when it grades: one class per fault, each used by nbgrader_config.py."""

import contextlib
import re
from collections.abc import Iterator
from html import unescape
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import nbformat
from nbconvert.preprocessors.sanitize import ALLOWED_ATTRIBUTES, ALLOWED_TAGS, SanitizeHTML
from nbformat.notebooknode import NotebookNode, from_dict
from nbformat.v4 import new_markdown_cell, new_notebook, new_output
from nbgrader import utils
from nbgrader.api import Gradebook
from nbgrader.preprocessors import Execute, GetGrades, NbGraderPreprocessor, OverwriteCells, SaveAutoGrades
from traitlets import Bool, Dict, List

from torchcourse.tools.classroom import execution, gradebook, per_student, staging
from torchcourse.tools.classroom.lesson_cells import KnownCells, Role
from torchcourse.tools.classroom.sandbox.box import POSSIBLE
from torchcourse.tools.classroom.text_cache import remembered


class RunInSandbox(Execute):
    """Run what was handed in where it can reach nothing, and in a moment: nbgrader's own way takes a kernel of its own.

    So `nbgrader autograde`, `nbgrader validate`, formgrader's buttons and `make grade` are all safe. On a system
    without Linux's namespaces, nbgrader's own way is taken.
    """

    def preprocess(self, nb: NotebookNode, resources: dict, km: Any = None) -> tuple[NotebookNode, dict]:
        if not POSSIBLE:
            return super().preprocess(nb, resources, km)
        # `nbgrader validate` grades nothing, has the notebook as it was written, and works in its folder.
        validated = "nbgrader" not in resources
        place = Path.cwd() if validated else resources.get("metadata", {}).get("path")
        if place:
            nb.metadata[execution.FILES] = staging.beside(Path(place))[0]
        execution.execute(nb, trusted=not validated)
        return self._warned(nb), resources

    def _warned(self, notebook: NotebookNode) -> NotebookNode:
        if not execution.is_isolated():
            self.log.error(execution.UNPROTECTED)
        return notebook


class RecoverMetadata(NbGraderPreprocessor):
    """Give each cell of the lesson the role that the lesson gave it, by its grade id, or else by its cell id.

    Some editors keep the ids of cells but drop what they do not know about them. Unmended, such work is graded as if
    it had never been handed in, or ends in an error. The build makes each marked cell's id its grade id. A role that
    was changed, such as a check that is no grade any more, ends in an error too.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._known_cells = KnownCells()

    def preprocess(self, nb: NotebookNode, resources: dict) -> tuple[NotebookNode, dict]:
        roles = self._known_cells.of(resources["nbgrader"]).roles
        for cell in nb.cells:
            name = cell.metadata["nbgrader"].get("grade_id") if "nbgrader" in cell.metadata else cell.get("id")
            if name in roles:
                cell.metadata["nbgrader"] = _as_metadata(roles[name])
        return nb, resources


class RestoreCells(OverwriteCells):
    """Put deleted graded cells back, whatever else was deleted or has lost its role.

    Unmended, a check whose exercise is gone too, or was typed again in a cell of the learner's own, ends the whole run.
    Such a check comes after all that could be the exercise, so before the next graded cell. A graded cell of some other
    lesson ends the run too; here it is an ordinary cell. What nbgrader puts back is no whole cell: no notebook node
    within, and without an id.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._known_cells = KnownCells()

    def preprocess(self, nb: NotebookNode, resources: dict) -> tuple[NotebookNode, dict]:
        place = resources["nbgrader"]
        self.notebook_id, self.assignment_id = place["notebook"], place["assignment"]
        self.gradebook = self._known_cells.of(place)
        nb, resources = NbGraderPreprocessor.preprocess(self, nb, resources)
        if self.add_missing_cells:
            nb, resources = self.add_missing_grade_cells(nb, resources)
        return nb, resources

    def preprocess_cell(self, cell: NotebookNode, resources: dict, cell_index: int) -> tuple[NotebookNode, dict]:
        cell, resources = super().preprocess_cell(cell, resources, cell_index)
        if "grade_id" not in cell.metadata.get("nbgrader", {"grade_id": None}):
            del cell.metadata["nbgrader"]
        return cell, resources

    def add_missing_grade_cells(self, nb: NotebookNode, resources: dict) -> tuple[NotebookNode, dict]:
        roles, order = self.gradebook.roles, list(self.gradebook.roles)
        marked = {cell.metadata["nbgrader"]["grade_id"] for cell in nb.cells if _is_marked(cell)}
        missing = set(self.gradebook.graded()) - marked
        for number, name in enumerate(order):
            if name not in missing:
                continue
            there = {
                cell.metadata["nbgrader"]["grade_id"]: place for place, cell in enumerate(nb.cells) if _is_marked(cell)
            }
            role = roles[name]
            cell = from_dict(self.missing_cell_transform(role, role.max_score, is_solution=role.is_solution))
            cell.id = f"{name}-again" if name in {cell.get("id") for cell in nb.cells} else name
            before, later = order[max(0, number - 1) : number], order[number + 1 :]
            places = [there[one] + 1 for one in before if one in there] + [there[one] for one in later if one in there]
            nb.cells.insert(places[0] if places else len(nb.cells), cell)
        return nb, resources


class PersonalChecks(NbGraderPreprocessor):
    """Grade a quiz that was drawn for this student by this student's keys. OverwriteCells knows one text for all."""

    def preprocess(self, nb: NotebookNode, resources: dict) -> tuple[NotebookNode, dict]:
        place, folder = resources["nbgrader"], Path(self.config.get("CourseDirectory", {}).get("root", "."))
        drawn = per_student.read(folder, place["assignment"]).get(place["notebook"], {}).get(place["student"])
        own = per_student.checks(drawn) if drawn else {}
        for cell in nb.cells:
            if utils.is_grade(cell):
                cell.source = own.get(cell.metadata["nbgrader"]["grade_id"], cell.source)
        return nb, resources


class ForgetDuplicates(NbGraderPreprocessor):
    """Keep the first cell of each grade id, and make its copies ordinary cells.

    A learner who copies a cell copies its nbgrader metadata too; unmended, the second one ends the whole run. The
    first is the one at the place where the lesson put it; a check cell is overwritten with the teacher's text anyway.
    """

    def preprocess(self, nb: NotebookNode, resources: dict) -> tuple[NotebookNode, dict]:
        seen: set[str] = set()
        for cell in nb.cells:
            grade_id = cell.metadata.get("nbgrader", {}).get("grade_id")
            if grade_id in seen or (grade_id is None and "nbgrader" in cell.metadata):
                del cell.metadata["nbgrader"]
            elif grade_id is not None:
                seen.add(grade_id)
        return nb, resources


class StderrIsNoError(NbGraderPreprocessor):
    """Count a warning on stderr as output. Unmended, any line on stderr in a check cell makes its score zero."""

    def preprocess_cell(self, cell: NotebookNode, resources: dict, index: int) -> tuple[NotebookNode, dict]:
        if utils.is_grade(cell) and cell.cell_type == "code":
            for output in cell.outputs:
                if output.output_type == "stream":
                    output.name = "stdout"
        return cell, resources


class CapOutput(NbGraderPreprocessor):
    """Cut each text output to 100,000 characters. nbgrader limits the number of lines but not their length."""

    limit = 100_000

    def preprocess_cell(self, cell: NotebookNode, resources: dict, index: int) -> tuple[NotebookNode, dict]:
        for output in cell.get("outputs", []):
            if output.output_type == "stream" and len(output.text) > self.limit:
                output.text = output.text[: self.limit] + "\n… output cut here …\n"
        return cell, resources


_PLAIN_TAGS = [
    *("br", "details", "div", "hr", "p", "pre", "span", "sub", "summary", "sup"),
    *("table", "tbody", "td", "th", "thead", "tr"),
]


class HarmlessPages(SanitizeHTML):
    """Let nothing that was handed in run in the browser of who looks at it, in formgrader or in feedback.

    Unmended, a script in a written answer, or in what a cell shows, runs there as the teacher. What is no text, picture
    or plain HTML goes, with all that programs noted about cells; what is left of HTML is escaped by bleach.
    """

    enabled = Bool(True).tag(config=True)  # nbconvert's own are off
    tags = List([*ALLOWED_TAGS, *_PLAIN_TAGS])
    attributes = Dict({**ALLOWED_ATTRIBUTES, "*": ["lang", "style"]})

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._cleaned = remembered(super().sanitize_html_tags)

    def sanitize_html_tags(self, html_str: str) -> str:
        return self._cleaned(html_str)

    def preprocess(self, nb: NotebookNode, resources: dict) -> tuple[NotebookNode, dict]:
        kept = ("kernelspec", "language_info", "torchcourse")
        nb.metadata = NotebookNode({name: nb.metadata[name] for name in kept if name in nb.metadata})
        return super().preprocess(nb, resources)

    def preprocess_cell(self, cell: NotebookNode, resources: dict, index: int) -> tuple[NotebookNode, dict]:
        cell.pop("attachments", None)
        cell.metadata = NotebookNode({name: cell.metadata[name] for name in ("nbgrader",) if name in cell.metadata})
        for output in cell.get("outputs", []):
            if "metadata" in output:
                output.metadata = NotebookNode()
        cell, resources = super().preprocess_cell(cell, resources, index)
        if cell.cell_type == "markdown":
            cell.source = _safe_links(cell.source)
        for output in cell.get("outputs", []):
            if "text/markdown" in output.get("data", {}):
                output.data["text/markdown"] = _safe_links(output.data["text/markdown"])
        return cell, resources


class ShowModelAnswers(NbGraderPreprocessor):
    """Put the model answer and its rubric below each answer in words, for who grades it by hand, and for feedback.

    They come from the teacher's notebook: the one that `resources` name, or that in the class's folder.
    """

    def preprocess(self, nb: NotebookNode, resources: dict) -> tuple[NotebookNode, dict]:
        solution = resources.get("solution") or self._solution(resources["nbgrader"])
        model = {cell.metadata.nbgrader.grade_id: cell.source for cell in solution.cells if _is_written(cell)}
        names, cells = {cell.get("id") for cell in nb.cells}, []
        for cell in nb.cells:
            cells.append(cell)
            answer = model.get(cell.metadata.nbgrader.grade_id) if _is_written(cell) else None
            if answer is not None:
                cells.append(new_markdown_cell(f"**Model answer and points**\n\n{answer}"))
                name = f"model-{cell.metadata.nbgrader.grade_id}"
                while name in names:  # as a cell of the learner's own may be called
                    name += "-again"
                cells[-1].id = name
                names.add(name)
        nb.cells = cells
        return nb, resources

    def _solution(self, place: dict[str, str]) -> NotebookNode:
        course = self.config.get("CourseDirectory", {})
        folder = Path(course.get("root", "."), course.get("source_directory", "source"), place["assignment"])
        path = folder / f"{place['notebook']}.ipynb"
        return nbformat.read(path, as_version=4) if path.exists() else new_notebook()


@contextlib.contextmanager
def _marks_for(step: SaveAutoGrades | GetGrades, place: dict[str, str]) -> Iterator[Gradebook]:
    """Open the gradebook, and let a step of nbgrader's find the marks of one submission in what is read at once."""
    step.notebook_id, step.assignment_id, step.student_id = (
        place[name] for name in ("notebook", "assignment", "student")
    )
    with Gradebook(place["db_url"]) as book:
        step.gradebook = gradebook.Marks(book, place)
        yield book


class SaveClampedGrades(SaveAutoGrades):
    """Let only a check cell's last result count, between zero and the cell's points; no result, or an error, is 0.

    Unmended, the first result counts, which a display hook of the learner's own can send before the check; a cell
    without a result gets full marks; so does one whose result is no number; and a number above the points raises when
    part of the scores are saved already.
    """

    def preprocess(self, nb: NotebookNode, resources: dict) -> tuple[NotebookNode, dict]:
        with _marks_for(self, resources["nbgrader"]) as book:
            nb, resources = NbGraderPreprocessor.preprocess(self, nb, resources)
            book.db.commit()
        return nb, resources

    def preprocess_cell(self, cell: NotebookNode, resources: dict, index: int) -> tuple[NotebookNode, dict]:
        if utils.is_grade(cell) and cell.cell_type == "code" and not utils.is_solution(cell):
            points = float(cell.metadata["nbgrader"]["points"])
            results = [output for output in cell.outputs if output.output_type == "execute_result"]
            last = results[-1] if results else new_output("execute_result", execution_count=cell.execution_count)
            last.data["text/plain"] = f"{_clamped(last.data.get('text/plain', ''), points):g}"
            cell.outputs = [output for output in cell.outputs if output.output_type != "execute_result"] + [last]
        return super().preprocess_cell(cell, resources, index)


class ReadGrades(GetGrades):
    """Put scores and comments into a notebook for its feedback page; nbgrader's own looks for each of them."""

    def preprocess(self, nb: NotebookNode, resources: dict) -> tuple[NotebookNode, dict]:
        place = resources["nbgrader"]
        with _marks_for(self, place):
            nb, resources = NbGraderPreprocessor.preprocess(self, nb, resources)
            notebook = self.gradebook.notebook
            late_penalty = notebook.late_submission_penalty or 0
            place |= {"score": notebook.score - late_penalty, "max_score": notebook.max_score}
            place["late_penalty"] = late_penalty
        return nb, resources


def _is_written(cell: NotebookNode) -> bool:
    """Whether this is an answer in words, which a person grades."""
    return cell.cell_type == "markdown" and utils.is_grade(cell) and utils.is_solution(cell)


def _is_marked(cell: NotebookNode) -> bool:
    return utils.is_grade(cell) or utils.is_solution(cell)


def _safe_links(markdown: str) -> str:
    """Let links of Markdown, which bleach does not read, lead to pages only."""
    return re.sub(r"(\]\s*[(:]\s*<?)([^)\s>]+)", lambda link: link[1] + _safe_address(link[2]), markdown)


def _safe_address(address: str) -> str:
    plain = re.sub(r"[\x00-\x20]|&(tab|newline);", "", unquote(unescape(address)), flags=re.IGNORECASE)
    scheme = re.match(r"[^/?#]*?:", plain)
    return address if scheme is None or scheme[0].lower() in ("http:", "https:", "mailto:") else "#"


def _as_metadata(role: Role) -> NotebookNode:
    parts = NotebookNode(grade_id=role.name, schema_version=3, cell_type=role.cell_type, task=False)
    parts.locked, parts.checksum, parts.solution = role.locked, role.checksum, role.is_solution
    parts.grade = role.max_score is not None
    if parts.grade:
        parts.points = role.max_score
    return parts


def _clamped(text: str, points: float) -> float:
    try:
        score = float(text)
    except ValueError:
        return 0.0
    return min(max(score, 0.0), points) if score == score else 0.0


class HideTests(NbGraderPreprocessor):
    """Leave the hidden tests out of what students get back: a page names the check, its hint and how it ended.

    Unmended, the page of the first student who gets one tells the tests to whoever hands in later. A program that was
    handed in can still print the test that calls it, where the test ran beside it.
    """

    def preprocess_cell(self, cell: NotebookNode, resources: dict, index: int) -> tuple[NotebookNode, dict]:
        if utils.is_grade(cell) and not utils.is_solution(cell) and cell.cell_type == "code":
            shown = _HIDDEN.sub("", cell.source)
            if shown != cell.source:
                cell.source = shown.strip("\n")
                for output in cell.outputs:
                    if output.output_type == "error":  # whose lines are those of the tests
                        output.traceback = [f"This check ended with {output.ename}: {output.evalue}".rstrip(": ")]
        return cell, resources


_HIDDEN = re.compile(r"^[^\n]*BEGIN HIDDEN TESTS.*?(END HIDDEN TESTS[^\n]*\n?|\Z)", re.DOTALL | re.MULTILINE)
