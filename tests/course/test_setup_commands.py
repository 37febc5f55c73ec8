"""course.py: its commands, what an old Python is told, and that it never overwrites the learner's work."""

import ast
import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from setup import python_problem

import course

SOURCES = [Path(course.__file__), *(course.ROOT / "setup").glob("*.py")]


@pytest.fixture
def ready(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[tuple[list[str], dict[str, str]]]:
    """The environment is up to date, Chromium is there, and what would run is noted: commands with their variables."""
    ran: list[tuple[list[str], dict[str, str]]] = []

    def run(command, environment):
        ran.append((command, environment))
        return 0

    monkeypatch.setattr(course, "WORK", tmp_path / "work")
    monkeypatch.setattr(course, "prepare", lambda extras: Path(sys.executable))
    monkeypatch.setattr(course, "find_chromium", lambda: "/usr/bin/chromium")
    monkeypatch.setattr(course, "run", run)
    return ran


# ------------------------------------------------------------------------------------------------------------ Python


@pytest.mark.parametrize(("version", "refused"), [((3, 10, 12), True), ((2, 7, 18), True), ((3, 11, 0), False)])
def test_an_old_python_is_refused_in_one_sentence(version, refused):
    sentence = python_problem(version)
    assert bool(sentence) is refused
    if refused:
        assert "3.11" in sentence
        assert f"{version[0]}.{version[1]}" in sentence
        assert "\n" not in sentence


def test_an_old_python_gets_as_far_as_the_sentence():
    for source in [*SOURCES[:1], course.ROOT / "setup" / "__init__.py"]:
        ast.parse(source.read_text(encoding="utf-8"), feature_version=(3, 6))
    script = "import sys, runpy; sys.version_info = (3, 9, 1); runpy.run_path(sys.argv[1], run_name='__main__')"
    command = [sys.executable, "-c", script, course.__file__]
    result = subprocess.run(command, cwd=course.ROOT, capture_output=True, text=True)
    assert result.returncode == 1
    assert result.stderr.strip() == python_problem((3, 9, 1))


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.name)
def test_the_set_up_needs_the_standard_library_only(source):
    nodes = list(ast.walk(ast.parse(source.read_text(encoding="utf-8"))))
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)}
    assert {name.split(".")[0] for name in names} <= sys.stdlib_module_names | {"setup"}


# ---------------------------------------------------------------------------------------------------------- commands


def test_every_make_target_is_one_line_that_calls_course_py():
    makefile = (course.ROOT / "Makefile").read_text(encoding="utf-8")
    lines = [line for line in makefile.splitlines() if re.match(r"[\w-]+:", line)]
    assert len(lines) == 14
    for line in lines:
        target = line.partition(":")[0]
        assert re.fullmatch(rf"{target}: ; @\$\(PYTHON\) course\.py {target}( \$\(ARGS\))?", line)


def test_help_names_the_commands_and_what_they_do(capsys):
    assert course.main([]) == 0
    said = capsys.readouterr().out
    for command in ("lab", "test", "solve", *course.MODULES):
        assert re.search(rf"^  {command} +[A-Z].*\.$", said, re.MULTILINE)


@pytest.mark.parametrize("module", course.MODULES.values())
def test_every_command_that_is_a_module_has_it(module):
    spec = importlib.util.find_spec(module)
    assert spec is not None
    if spec.submodule_search_locations is not None:
        assert importlib.util.find_spec(module + ".__main__") is not None


def test_an_unknown_command_is_one_sentence(capsys):
    assert course.main(["lba"]) == 1
    assert capsys.readouterr().err.startswith("There is no command 'lba'; choose one of: lab, test,")


def test_arguments_reach_pytest(ready):
    assert course.main(["test", "--", "-k", "ranks"]) == 0
    command, environment = ready[0]
    assert command[1:3] == ["-m", "pytest"]
    assert command[-2:] == ["-k", "ranks"]  # last, so that what the user says (-n 0, say) wins
    assert environment["TORCHCOURSE_CHROMIUM"] == "/usr/bin/chromium"


def test_quick_leaves_out_whole_notebooks_the_browser_and_what_is_slow(ready):
    assert course.main(["test", "--quick", "-x"]) == 0
    command, _ = ready[0]
    assert command[-3:] == ["-m", "not notebook and not browser and not slow", "-x"]
    assert "--quick" not in command


def test_gpu_check_runs_on_every_machine_and_takes_its_options(ready):
    assert course.main(["gpu-check", "ranks", "--notebooks", "none"]) == 0
    command, _ = ready[0]
    assert command[1:] == ["-m", "torchcourse.tools.gpu_check", "ranks", "--notebooks", "none"]


def test_ctrl_c_is_one_sentence(monkeypatch, capsys):
    def interrupt(extras):
        raise KeyboardInterrupt

    monkeypatch.setattr(course, "prepare", interrupt)
    assert course.main(["lab"]) == 130
    assert "Stopped" in capsys.readouterr().err


def test_a_folder_that_cannot_be_written_to_is_one_sentence(ready, tmp_path, capsys):
    (tmp_path / "work").write_text("a file where the folder should be")
    assert course.main(["lab"]) == 1
    said = capsys.readouterr().err
    assert str(tmp_path / "work") in said
    assert "copy the course to a folder of your own" in said
    assert said.count("\n") == 1


def test_solving_keeps_to_the_index_where_no_version_has_the_label_of_a_build(tmp_path, monkeypatch):
    monkeypatch.setattr(course.shutil, "which", lambda name: "uv")
    settings = {"find-links": "/wheels", "extra-index-url": "https://a.example", "index-url": "https://b.example"}
    monkeypatch.setattr(course, "pip_settings", lambda python, variables: settings)
    for name in ("UV_FIND_LINKS", "UV_EXTRA_INDEX_URL", "UV_INDEX_URL"):
        monkeypatch.delenv(name, raising=False)
    ran = []

    def run(command, **options):
        ran.append((command, options))
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(course.subprocess, "run", run)
    assert course.main(["solve", "--upgrade"]) == 0
    command, options = ran[0]
    assert command[:4] == ["uv", "pip", "compile", "--universal"]
    assert command[command.index("--python-version") + 1] == "3.11"
    assert command[-1] == "--upgrade"
    assert "UV_FIND_LINKS" not in options["env"]
    assert "UV_EXTRA_INDEX_URL" not in options["env"]
    assert options["env"]["UV_INDEX_URL"] == "https://b.example"


# ---------------------------------------------------------------------------------------------- the learner's copies


@pytest.fixture
def release(tmp_path) -> Path:
    folder = tmp_path / "notebooks"
    (folder / "00_start" / ".ipynb_checkpoints").mkdir(parents=True)
    (folder / "00_start" / "1_start.ipynb").write_text("release")
    (folder / "00_start" / ".ipynb_checkpoints" / "1_start-checkpoint.ipynb").write_text("stray")
    return folder


def test_lessons_are_copied_once(release, tmp_path):
    work = tmp_path / "work"
    lines = course.copy_lessons(release, work)
    assert (work / "00_start" / "1_start.ipynb").read_text() == "release"
    assert not (work / "00_start" / ".ipynb_checkpoints").exists()
    assert lines == [f"Copied into {work}: 1 files, of 00_start."]
    assert course.copy_lessons(release, work) == []


def test_what_the_learner_wrote_is_never_overwritten(release, tmp_path):
    work = tmp_path / "work"
    course.copy_lessons(release, work)
    mine = work / "00_start" / "1_start.ipynb"
    mine.write_text("my answers")
    assert course.copy_lessons(release, work) == []
    (release / "00_start" / "1_start.ipynb").write_text("a newer release")
    lines = course.copy_lessons(release, work)
    assert mine.read_text() == "my answers"
    assert len(lines) == 1
    assert "00_start/1_start.ipynb" in lines[0]
    assert "stay as they are" in lines[0]


def test_a_renamed_copy_makes_room_for_the_new_one(release, tmp_path):
    work = tmp_path / "work"
    course.copy_lessons(release, work)
    (release / "00_start" / "1_start.ipynb").write_text("a newer release")
    (work / "00_start" / "1_start.ipynb").rename(work / "00_start" / "mine.ipynb")
    course.copy_lessons(release, work)
    assert (work / "00_start" / "1_start.ipynb").read_text() == "a newer release"
    assert (work / "00_start" / "mine.ipynb").read_text() == "release"
    assert course.copy_lessons(release, work) == []


def test_a_file_of_the_same_name_that_was_never_copied_is_left_alone(release, tmp_path):
    work = tmp_path / "work"
    (work / "00_start").mkdir(parents=True)
    (work / "00_start" / "1_start.ipynb").write_text("mine before")
    (work / ".copied.json").write_text("not JSON")
    assert course.copy_lessons(release, work) == []
    assert (work / "00_start" / "1_start.ipynb").read_text() == "mine before"
    assert json.loads((work / ".copied.json").read_text()) == {}


def test_without_lessons_there_is_nothing_to_copy(tmp_path):
    assert course.copy_lessons(tmp_path / "notebooks", tmp_path / "work") == []
    assert (tmp_path / "work").is_dir()
