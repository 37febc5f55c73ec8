"""What nbgrader's generate step does differently here: stubs that keep the learner's frame, and a stamp at the end."""

import re

from nbformat.notebooknode import NotebookNode
from nbgrader import utils
from nbgrader.preprocessors import ClearSolutions, NbGraderPreprocessor

from torchcourse.tools.build.seal import stamp


class ClearSolutionLines(ClearSolutions):
    """Cut out solution regions as nbgrader does, turn `answer = 3  ### SOLUTION` into `answer = ...`, break repairs."""

    def preprocess_cell(self, cell: NotebookNode, resources: dict, index: int) -> tuple[NotebookNode, dict]:
        broken = cell.metadata.pop("torchcourse", {}).get("broken")
        if broken is None:
            return super().preprocess_cell(cell, resources, index)
        cell.source = broken
        return cell, resources

    def _replace_solution_region(self, cell: NotebookNode, language: str) -> bool:
        replaced = super()._replace_solution_region(cell, language)
        if cell.cell_type != "code":
            return replaced
        stub = re.sub(r"^(\s*[^=\n]+?) = .*### SOLUTION$", r"\1 = ...", cell.source, flags=re.MULTILINE)
        replaced = replaced or stub != cell.source
        cell.source = stub
        return replaced


class CloseGaps(NbGraderPreprocessor):
    """Remove the empty lines that a hidden test leaves behind in a check cell."""

    def preprocess_cell(self, cell: NotebookNode, resources: dict, index: int) -> tuple[NotebookNode, dict]:
        if utils.is_grade(cell) and cell.cell_type == "code":
            cell.source = re.sub(r"\n{2,}", "\n", cell.source)
        return cell, resources


class Stamp(NbGraderPreprocessor):
    """Sign the release notebook last of all, when its text is final."""

    def preprocess(self, nb: NotebookNode, resources: dict) -> tuple[NotebookNode, dict]:
        source = nb.metadata.get("torchcourse", {}).get("generated_from", "")
        return stamp(nb, source), resources
