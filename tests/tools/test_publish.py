"""`make publish`: one address, from which all links to hosts come; without it there is none."""

import ast
import importlib.util
import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from types import SimpleNamespace

import nbformat
import pytest

import small_course
from torchcourse import still_running
from torchcourse.tools import publish as publish_module
from torchcourse.tools.build.hosts import NEEDS, badges, setup_lines
from torchcourse.tools.build.notebooks import solutions
from torchcourse.tools.publish import MARK, checked, set_address
from torchcourse.tools.repository import ROOT

ADDRESS = "https://github.com/some-one/the.course"


@pytest.fixture
def course(tmp_path: Path) -> Path:
    root = small_course.make(tmp_path)
    (root / "README.md").write_text(f"# Title\n\n{MARK}\n\nText\n", encoding="utf-8")
    return root


def written(root: Path) -> str:
    return tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["torchcourse"]["repository"]


@pytest.mark.parametrize(
    "given",
    [
        ADDRESS,
        ADDRESS + "/",
        ADDRESS + ".git",
        " http://www.github.com/some-one/the.course ",
        "github.com/some-one/the.course",
        "git@github.com:some-one/the.course.git",
        "ssh://git@github.com/some-one/the.course.git",
    ],
)
def test_each_form_of_an_address_of_github_becomes_the_one(given):
    assert checked(given) == ADDRESS


@pytest.mark.parametrize(
    "given",
    [
        "some-one/course",
        "https://gitlab.com/some-one/course",
        "https://github.com/some-one",
        "https://github.com/some-one/course/tree/main",
        "https://github.com.evil.example/some-one/course",
        "https://github.com/some one/course",
        'https://github.com/some-one/"course',
        "https://github.com/-one/course",
        "https://github.com/some-one/..",
    ],
)
def test_any_other_address_is_refused_in_one_sentence_and_nothing_is_written(given, monkeypatch, capsys, course):
    monkeypatch.setattr(sys, "argv", ["publish", "--repository", given])
    before = (course / "pyproject.toml").read_bytes()
    monkeypatch.setattr(publish_module, "ROOT", course)
    assert publish_module.main() == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith(f"'{given}' is not the address")
    assert len(said.err.splitlines()) == 1
    assert (course / "pyproject.toml").read_bytes() == before


def test_the_links_come_with_the_address_and_go_with_it(course):
    before = {name: (course / name).read_bytes() for name in ("pyproject.toml", "README.md")}
    nowhere = solutions(course)
    assert set_address(ADDRESS + ".git", course) == written(course) == ADDRESS
    page = (course / "README.md").read_text(encoding="utf-8")
    assert f"{MARK} [Open in Colab](https://colab.research.google.com/github/some-one/the.course/blob/main/" in page
    for text in solutions(course).values():
        cells = nbformat.reads(text, as_version=4).cells
        assert "kaggle.com/kernels/welcome?src=https://github.com/some-one/the.course/blob/main/" in cells[0].source
    set_address(ADDRESS, course)
    assert (course / "README.md").read_text(encoding="utf-8") == page
    set_address("", course)
    assert {name: (course / name).read_bytes() for name in before} == before
    assert solutions(course) == nowhere
    assert not any("Colab](" in text for text in nowhere.values())


def test_the_course_itself_has_a_place_for_both():
    assert (ROOT / "README.md").read_text(encoding="utf-8").count(MARK) == 1
    assert (ROOT / "pyproject.toml").read_text(encoding="utf-8").count("\nrepository = ") == 1
    assert (ROOT / publish_module.FIRST_NOTEBOOK).exists()
    assert badges(ADDRESS, "notebooks/a.ipynb").count("blob/main/notebooks/a.ipynb") == 2


@pytest.mark.parametrize("notebook", ["", *NEEDS])
@pytest.mark.parametrize(("repository", "source"), [("", ""), ("", "./no-wheel.whl"), (ADDRESS, "")])
def test_where_the_course_is_missing_the_set_up_cell_installs_it_or_says_what_to_do(
    repository, source, notebook, monkeypatch, capsys
):
    asked = []

    def run(command, **_):
        assert command[1:5] == ["-m", "pip", "install", "--quiet"]
        asked.append(command[5:])
        assert f"Installing {' and '.join(command[5:])}." in capsys.readouterr().out
        return subprocess.CompletedProcess(command, returncode=1, stdout="no matching distribution")

    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setattr("subprocess.run", run)
    monkeypatch.setitem(os.environ, "TORCHCOURSE_SOURCE", source)
    if not source:
        monkeypatch.delenv("TORCHCOURSE_SOURCE")
    with pytest.raises(AssertionError) as error:
        exec(setup_lines(repository, notebook), {})
    course = source or (repository and f"git+{repository}")
    wanted = [course, *NEEDS.get(notebook, ())]
    assert asked == ([wanted] if course else [])
    said = f"could not install {' and '.join(wanted)}, and says why" if course else "%env TORCHCOURSE_SOURCE="
    assert said in str(error.value)
    assert len(str(error.value).splitlines()) == 1
    # Not every kernel passes on what a program inside it writes: ipykernel before 6, and none on Windows.
    assert ("no matching distribution" in capsys.readouterr().out) is bool(course)


@pytest.mark.parametrize("notebook", ["", *NEEDS])
def test_where_the_course_is_there_the_set_up_cell_installs_nothing_and_lets_silent_cells_speak(notebook, monkeypatch):
    watched = []
    monkeypatch.setattr("subprocess.run", pytest.fail)
    monkeypatch.setattr(still_running, "watch", lambda: watched.append(True))
    exec(setup_lines(ADDRESS, notebook), {})
    assert watched == [True]


@pytest.mark.parametrize(("installed", "is_older"), [("0.3.12", True), ("0.3.9.dev1", True), ("10.0", False)])
def test_a_set_up_cell_says_when_the_installed_course_is_older_than_its_notebook(
    installed, is_older, monkeypatch, capsys
):
    found = SimpleNamespace(version=installed)
    monkeypatch.setattr("importlib.metadata.distributions", lambda name: [found])
    monkeypatch.setattr(still_running, "watch", lambda: None)
    exec(setup_lines(ADDRESS), {})
    assert (f"and {installed} is here" in capsys.readouterr().out) is is_older


def test_a_set_up_cell_installs_alone_what_its_notebook_alone_needs(monkeypatch, capsys):
    asked, there = [], importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "optuna" else there(name))
    monkeypatch.setattr(
        "subprocess.run", lambda command, **_: asked.append(command[5:]) or subprocess.CompletedProcess(command, 0)
    )
    monkeypatch.setattr(still_running, "watch", lambda: None)
    for notebook in ("", *NEEDS):
        exec(setup_lines("", notebook), {})
    assert asked == [["optuna>=4.0"]] * len(NEEDS)


@pytest.mark.slow
def test_only_some_notebooks_need_more_than_the_course_brings():
    """All imports of all other notebooks, in one process that has nothing but the dependencies of the course."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extra = project["optional-dependencies"]["tuning"]
    assert all(list(needs) == extra for needs in NEEDS.values())
    lines: dict[str, list[str]] = {}
    for path in sorted((ROOT / "notebooks").rglob("*.ipynb")):
        cells = [cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
        code = re.sub(r"^\s*[%!].*$", "pass", "\n".join(cells), flags=re.MULTILINE)
        imports = [node for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Import | ast.ImportFrom)]
        lines[path.relative_to(ROOT).as_posix()] = list(map(ast.unparse, imports))
    assert all(any("torchcourse" in line for line in imports) for imports in lines.values())
    names = [requirement.partition(">")[0] for requirement in extra]
    program = (
        f"import json, sys\nsys.modules.update(dict.fromkeys({names}))\n"
        "failed = []\n"
        "for notebook, lines in json.load(sys.stdin).items():\n"
        "    try:\n        exec('\\n'.join(lines), {})\n"
        "    except ImportError as error:\n        failed.append(notebook)\n"
        "print(json.dumps(failed))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], input=json.dumps(lines), capture_output=True, text=True, check=True
    )
    assert json.loads(done.stdout.splitlines()[-1]) == sorted(NEEDS)
