"""Build every notebook from its one source: `python -m torchcourse.tools.build`, or `make build`.

    solutions/NN_name/*.py   →  the .ipynb beside it  →  notebooks/NN_name/*.ipynb   (nbgrader's generate step)
    quizzes/NN_name.yaml     →  solutions/NN_name/quiz.ipynb  →  notebooks/NN_name/quiz.ipynb
    the glossaries at the end of notebooks  →  docs/GLOSSARY.md
    the links of notebooks to outside       →  docs/LINKS.md

notebooks/ is committed. The notebooks in solutions/ are not: they are for nbgrader's own commands, run by hand.
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
from nbformat.v4 import new_markdown_cell

from torchcourse.tools.build import glossary, links
from torchcourse.tools.build.seal import is_untouched, stamp
from torchcourse.tools.build.source import Origin, to_notebook
from torchcourse.tools.repository import ROOT, nbgrader_config

WAY_BACK = (
    "[Where was I?](../start.ipynb) (어디까지 했나요?) is the page that says what comes next and what is due today."
)
"""The end of each notebook. `make lab` makes the page that it leads to."""


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
        ValueError: for a line of a glossary that cannot be read, or a link that leads to no primary source.
        torchcourse.quiz.bank.BankError: for a question bank that cannot be read.
    """
    texts = solutions(root)
    report = _write(root, texts | release(texts, root), force)
    if terms := glossary.terms(root):
        _write_page(root, glossary.PATH, glossary.glossary_page(terms), report)
    if addresses := links.links_to_outside(root):
        _write_page(root, links.PATH, links.links_page(addresses), report)
    return report


def lessons(root: Path = ROOT) -> list[str]:
    """Return the names of all lessons, such as "00_start_here": those that have a source or a question bank."""
    sources = {path.parent.name for path in (root / "solutions").glob("*/*.py")}
    return sorted(sources | {path.stem for path in (root / "quizzes").glob("*.yaml")})


def solutions(root: Path = ROOT, lesson: str = "*") -> dict[str, str]:
    """Return the text of each solution notebook by its path relative to `root`: of one lesson, or of all."""
    result = {}
    for source in sorted((root / "solutions").glob(f"{lesson}/*.py")):
        path = source.relative_to(root).with_suffix(".ipynb").as_posix()
        text = source.read_text(encoding="utf-8")
        result[path] = solution_text(text, path, source.relative_to(root).as_posix(), root)
    for questions in sorted((root / "quizzes").glob(f"{lesson}.yaml")):
        from torchcourse.quiz import bank
        from torchcourse.tools.build.quiz_notebook import quiz_source

        path = f"solutions/{questions.stem}/quiz.ipynb"
        result[path] = solution_text(quiz_source(bank.load(questions)), path, f"quizzes/{questions.name}", root)
    return result


def solution_text(source: str, path: str, made_from: str, root: Path = ROOT, published: bool = True) -> str:
    """Return the text of the solution notebook that goes to `path`.

    Args:
        source: in percent format. made_from: the file of the repository that it comes from.
        published: whether the course publishes its release, so that its title may link there.
    """
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))
    repository = project["tool"]["torchcourse"]["repository"]
    origin = Origin(path.removesuffix(".ipynb") + ".py", repository, published)
    notebook = to_notebook(source, origin)
    back = new_markdown_cell(WAY_BACK)
    back.id = "way-back"
    notebook.cells.append(back)
    return nbformat.writes(stamp(notebook, made_from), version=4) + "\n"


def release(solutions: dict[str, str], root: Path = ROOT) -> dict[str, str]:
    """Run nbgrader's generate step on solution notebooks in a temporary folder.

    Args:
        solutions: what `solutions` returns.
        root: the repository, for its nbgrader_config.py.

    Returns:
        The text of each release notebook by its path relative to the repository: notebooks/NN_name/title.ipynb.
    """
    from nbgrader.converters import GenerateAssignment
    from nbgrader.coursedir import CourseDirectory
    from nbgrader.preprocessors import SaveCells

    with tempfile.TemporaryDirectory() as folder:
        for path, text in solutions.items():
            write_text(Path(folder, path), text)
        for lesson in sorted({Path(path).parent.name for path in solutions}):
            config = nbgrader_config(root, folder)
            config.CourseDirectory.assignment_id = lesson
            # A release for everybody belongs to no class: nothing is kept in a gradebook.
            steps = config.GenerateAssignment.preprocessors
            config.GenerateAssignment.preprocessors = [step for step in steps if not issubclass(step, SaveCells)]
            course = CourseDirectory(config=config)
            GenerateAssignment(coursedir=course, config=config, no_database=True).start()
        made = sorted(Path(folder, "notebooks").rglob("*.ipynb"))
        return {
            path.relative_to(folder).as_posix(): path.read_text(encoding="utf-8").rstrip("\n") + "\n" for path in made
        }


def write_text(path: Path, text: str) -> None:
    """Write a generated file, with its folder: the same bytes on every system."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8", newline="\n")


def _write_page(root: Path, path: str, page: str, report: Report) -> None:
    new = not (root / path).exists() or (root / path).read_text(encoding="utf-8") != page
    (report.written if new else report.unchanged).append(path)
    if new:
        write_text(root / path, page)


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
            write_text(target, text)
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
