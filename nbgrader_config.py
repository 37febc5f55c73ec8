"""nbgrader for this course: lessons in solutions/ are released to notebooks/, and its known faults are mended.

Used by `make build` and `make grade`, and by nbgrader's own commands when they are run in this folder. The reasons
for each mended fault stand in `torchcourse.tools.classroom.preprocessors`.
"""

from nbconvert.preprocessors import CSSHTMLHeaderPreprocessor
from nbgrader.preprocessors import (
    AssignLatePenalties,
    CheckCellMetadata,
    ClearHiddenTests,
    ClearMarkScheme,
    ClearOutput,
    ComputeChecksums,
    IgnorePattern,
    LimitOutput,
    LockCells,
    OverwriteKernelspec,
)
from nbgrader.validator import Validator

from torchcourse.tools.build.preprocessors import ClearSolutionLines, CloseGaps, Stamp
from torchcourse.tools.classroom.late import LatePenalty
from torchcourse.tools.classroom.lesson_cells import SaveCellsAtOnce
from torchcourse.tools.classroom.preprocessors import (
    CapOutput,
    ForgetDuplicates,
    HarmlessPages,
    HideTests,
    PersonalChecks,
    ReadGrades,
    RecoverMetadata,
    RestoreCells,
    RunInSandbox,
    SaveClampedGrades,
    ShowModelAnswers,
    StderrIsNoError,
)

c = get_config()  # noqa: F821 (nbgrader provides it)

c.CourseDirectory.course_id = "torchcourse"
c.CourseDirectory.source_directory = "solutions"
c.CourseDirectory.release_directory = "notebooks"
# Everything in a source folder that is no notebook would be copied into the release: the lesson sources too.
c.CourseDirectory.ignore = ["*.py", "*.pyc", "*.md", "__pycache__", ".ipynb_checkpoints", ".DS_Store"]
# Nor what a run of a lesson in its own folder leaves behind.
c.CourseDirectory.ignore += ["journal.jsonl", "journal.torn", "retrospectives"]

c.ClearSolutions.code_stub = {"python": 'raise NotImplementedError("Write your code here, then run this cell again.")'}
c.ClearSolutions.text_stub = "*Write your answer here.*"

c.GenerateAssignment.preprocessors = [
    LockCells,
    ClearSolutionLines,
    ClearOutput,
    CheckCellMetadata,
    ComputeChecksums,
    SaveCellsAtOnce,
    ClearHiddenTests,
    ClearMarkScheme,
    CloseGaps,
    ComputeChecksums,
    CheckCellMetadata,
    Stamp,
]

c.RestoreCells.add_missing_cells = True
c.RunInSandbox.timeout = 300  # where nothing can be isolated, and a kernel runs the notebook

c.AssignLatePenalties.plugin_class = LatePenalty

c.Autograde.sanitize_preprocessors = [
    ClearOutput,
    RecoverMetadata,
    ForgetDuplicates,
    OverwriteKernelspec,
    RestoreCells,
    PersonalChecks,
    CheckCellMetadata,
]
c.Autograde.autograde_preprocessors = [
    RunInSandbox,
    IgnorePattern,
    StderrIsNoError,
    CapOutput,
    LimitOutput,
    SaveClampedGrades,
    AssignLatePenalties,
    CheckCellMetadata,
    HarmlessPages,
    ShowModelAnswers,
]
c.GenerateFeedback.preprocessors = [ReadGrades, HideTests, CSSHTMLHeaderPreprocessor]
# What `nbgrader validate` and the button Validate run is no setting of nbgrader's. traitlets finds defaults by name.
Validator._preprocessors_default = lambda _: [CheckCellMetadata, ClearOutput, RunInSandbox]
