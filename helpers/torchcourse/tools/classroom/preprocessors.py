"""Mends for what nbgrader 0.9 gets wrong when it grades: one class a fault, each used by nbgrader_config.py."""

from nbformat.notebooknode import NotebookNode
from nbgrader import utils
from nbgrader.api import Gradebook, SourceCell
from nbgrader.preprocessors import NbGraderPreprocessor, SaveAutoGrades


class RecoverMetadata(NbGraderPreprocessor):
    """Give a cell that lost its nbgrader metadata its role back, by its cell id.

    Some editors keep the ids of cells but drop what they do not know about them. Unmended, such work is graded as if
    it had never been handed in, or ends in an error. The build makes each marked cell's id its grade id.
    """

    def preprocess(self, nb: NotebookNode, resources: dict) -> tuple[NotebookNode, dict]:
        place = resources["nbgrader"]
        with Gradebook(place["db_url"]) as book:
            source = book.find_notebook(place["notebook"], place["assignment"])
            points = {cell.name: cell.max_score for cell in source.grade_cells}
            solutions = {cell.name for cell in source.solution_cells}
            known = {cell.name: cell for cell in source.source_cells}
            for cell in nb.cells:
                if cell.get("id") in known and "nbgrader" not in cell.metadata:
                    cell.metadata["nbgrader"] = _role(known[cell.id], points, solutions)
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


class SaveClampedGrades(SaveAutoGrades):
    """Hold the number that a check cell shows between zero and the cell's points before it is saved.

    Unmended, a number above the points raises when part of the scores are saved already, and one that is no number
    (a check cell whose value a learner replaced) counts as full marks.
    """

    def preprocess_cell(self, cell: NotebookNode, resources: dict, index: int) -> tuple[NotebookNode, dict]:
        if utils.is_grade(cell) and cell.cell_type == "code" and not utils.is_solution(cell):
            points = float(cell.metadata.nbgrader["points"])
            for output in cell.outputs:
                if output.output_type == "execute_result":
                    output.data["text/plain"] = f"{_clamped(output.data.get('text/plain', ''), points):g}"
        return super().preprocess_cell(cell, resources, index)


def _role(source: SourceCell, points: dict[str, float], solutions: set[str]) -> NotebookNode:
    role = NotebookNode(grade_id=source.name, schema_version=3, cell_type=source.cell_type, task=False)
    role.locked, role.checksum = source.locked, source.checksum
    role.grade, role.solution = source.name in points, source.name in solutions
    if role.grade:
        role.points = points[source.name]
    return role


def _clamped(text: str, points: float) -> float:
    try:
        score = float(text)
    except ValueError:
        return 0.0
    return min(max(score, 0.0), points) if score == score else 0.0
