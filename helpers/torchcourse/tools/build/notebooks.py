"""Build every notebook from its one source: `python -m torchcourse.tools.build`, or `make build`.

    solutions/NN_name/*.py   →  the .ipynb beside it  →  notebooks/NN_name/*.ipynb   (nbgrader's generate step)
    quizzes/NN_name.yaml     →  solutions/NN_name/quiz.ipynb  →  notebooks/NN_name/quiz.ipynb

The result depends on the sources alone, not on the day or the machine. Only files whose text changes are written. A
generated file that was edited by hand is left as it is and named; `--force` overwrites it.
"""

import argparse
import sys
import tempfile
import tomllib
from dataclasses import dataclass, field
from pathlib import Path

import nbformat
from traitlets.config import Config
from traitlets.config.loader import PyFileConfigLoader

from torchcourse.tools.build.source import Origin, to_notebook
from torchcourse.tools.build.stamp import is_untouched, stamp

ROOT = Path(__file__).parents[4]
"""The repository. The build is for those who have one; an installed package has no lesson sources."""


@dataclass
class Report:
    """What a build did, as paths relative to the repository."""

    written: list[str] = field(default_factory=list)
    unchanged: list[str] = field(default_factory=list)
    edited: list[str] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)


def build(root: Path = ROOT, *, force: bool = False) -> Report:
    """Bring the notebooks of the repository at `root` up to date with their sources.

    Raises:
        torchcourse.tools.build.source.SourceError: for a lesson source that cannot be built.
        torchcourse.quiz.bank.BankError: for a question bank that cannot be read.
    """
    return _write(root, render(root), force)


def render(root: Path = ROOT) -> dict[str, str]:
    """Return the text of every generated notebook by its path relative to `root`, without writing anything there."""
    solutions = _solutions(root)
    return solutions | _release(root, solutions)


def _solutions(root: Path) -> dict[str, str]:
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))
    repository = project["tool"]["torchcourse"]["repository"]
    lessons = [path.relative_to(root).as_posix() for path in sorted((root / "solutions").glob("*/*.py"))]
    sources = {path: (root / path).read_text(encoding="utf-8") for path in lessons}
    origins = {path: Origin(path, repository) for path in lessons}
    for path in sorted((root / "quizzes").glob("*.yaml")):
        from torchcourse.quiz import bank
        from torchcourse.tools.build import quiz_notebook

        quiz = f"solutions/{path.stem}/quiz.py"
        sources[quiz] = quiz_notebook.quiz_source(bank.load(path))
        origins[quiz] = Origin(quiz, repository)
    result = {}
    for path, text in sources.items():
        made_from = f"quizzes/{Path(path).parent.name}.yaml" if path.endswith("/quiz.py") else path
        result[path.removesuffix(".py") + ".ipynb"] = _text(stamp(to_notebook(text, origins[path]), made_from))
    return result


def _text(notebook: nbformat.NotebookNode) -> str:
    return nbformat.writes(notebook, version=4) + "\n"


def _release(root: Path, solutions: dict[str, str]) -> dict[str, str]:
    """Run nbgrader's generate step on the solution notebooks in a temporary folder, and collect what it made."""
    from nbgrader.converters import GenerateAssignment
    from nbgrader.coursedir import CourseDirectory
    from nbgrader.preprocessors import SaveCells

    with tempfile.TemporaryDirectory() as folder:
        for path, text in solutions.items():
            target = Path(folder, path)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(text, encoding="utf-8", newline="\n")
        for lesson in sorted({Path(path).parent.name for path in solutions}):
            config = nbgrader_config(root, folder)
            config.CourseDirectory.assignment_id = lesson
            # A release for everybody belongs to no class: nothing is kept in a gradebook.
            steps = config.GenerateAssignment.preprocessors
            config.GenerateAssignment.preprocessors = [step for step in steps if step is not SaveCells]
            course = CourseDirectory(config=config)
            GenerateAssignment(coursedir=course, config=config, no_database=True).start()
        made = sorted(Path(folder, "notebooks").rglob("*.ipynb"))
        return {
            path.relative_to(folder).as_posix(): path.read_text(encoding="utf-8").rstrip("\n") + "\n" for path in made
        }


def nbgrader_config(root: Path, course_folder: str | Path) -> Config:
    """Load the course's nbgrader_config.py, for a course folder that may be elsewhere."""
    config = PyFileConfigLoader("nbgrader_config.py", path=str(root)).load_config()
    config.CourseDirectory.root = str(Path(course_folder).resolve())
    config.NbGrader.log_level = "ERROR"
    return config


def _write(root: Path, texts: dict[str, str], force: bool) -> Report:
    report = Report()
    for path, text in texts.items():
        target = root / path
        old = target.read_text(encoding="utf-8") if target.exists() else None
        if old == text:
            report.unchanged.append(path)
        elif old is not None and not force and not is_untouched(old):
            report.edited.append(path)
        else:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(text, encoding="utf-8", newline="\n")
            report.written.append(path)
    for folder in ("solutions", "notebooks"):
        for target in sorted((root / folder).glob("*/*.ipynb")):
            path = target.relative_to(root).as_posix()
            if path in texts:
                continue
            if is_untouched(target.read_text(encoding="utf-8")):
                target.unlink()
                report.removed.append(path)
            else:
                report.edited.append(path)
    return report


def main() -> int:
    parser = argparse.ArgumentParser(description="Build the notebooks from lesson sources and question banks.")
    parser.add_argument("--force", action="store_true", help="overwrite generated notebooks that were edited by hand")
    arguments = parser.parse_args()
    try:
        report = build(force=arguments.force)
    except ValueError as error:  # a SourceError, or a BankError
        print(f"Not built: {error}", file=sys.stderr)
        return 1
    for word, paths in (("wrote", report.written), ("removed", report.removed)):
        for path in paths:
            print(f"{word:8} {path}")
    print(f"{len(report.written)} written, {len(report.unchanged)} unchanged.")
    for path in report.edited:
        print(
            f"Left alone: {path} was edited by hand. Put the change into its source, or run the build with --force.",
            file=sys.stderr,
        )
    return 1 if report.edited else 0


if __name__ == "__main__":
    sys.exit(main())
