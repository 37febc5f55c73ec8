"""setup/environment.py: when it installs, when it makes the environment again, and what it refuses to begin."""

import importlib.metadata
import os
import sys
from collections import namedtuple
from pathlib import Path

import pytest
from setup import Problem, environment
from setup.environment import plan, prepare

Usage = namedtuple("Usage", "total used free")


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project of its own, so that no test touches the environment it runs in."""
    (tmp_path / "pyproject.toml").write_text("[project]\n")
    (tmp_path / "constraints.txt").write_text("torch==2.13.0\n")
    monkeypatch.setattr(environment, "has_nvidia_driver", lambda: False)
    return tmp_path


@pytest.fixture
def installs(project: Path, monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Instead of installing, note with which extras; the environment's Python then 'works' as version 3.11."""
    calls = []

    def install(venv, extras, create):
        calls.append(extras)
        environment.venv_python(venv).parent.mkdir(parents=True, exist_ok=True)
        environment.venv_python(venv).touch()

    monkeypatch.setattr(environment, "install", install)
    monkeypatch.setattr(environment, "python_version", lambda python: "3.11" if python.exists() else None)
    return calls


def test_a_second_run_installs_nothing(installs, project):
    prepare({"lab"}, project)
    prepare({"lab"}, project)
    assert installs == [["lab"]]


@pytest.mark.parametrize("name", ["pyproject.toml", "constraints.txt"])
def test_a_changed_requirement_is_installed_by_itself(installs, project, name):
    prepare({"lab"}, project)
    with open(project / name, "a") as file:
        file.write("# changed\n")
    prepare({"lab"}, project)
    prepare({"lab"}, project)
    assert len(installs) == 2


def test_extras_are_added_up_so_that_lab_and_test_do_not_take_turns(installs, project):
    prepare({"lab"}, project)
    prepare({"lab", "test"}, project)
    prepare({"lab"}, project)
    assert installs == [["lab"], ["lab", "test"]]


def test_an_environment_whose_folder_has_moved_is_made_afresh(installs, project, capsys):
    prepare({"lab"}, project)
    moved = project.rename(project.with_name("elsewhere"))
    (moved / ".venv" / "old").touch()
    prepare({"lab"}, moved)
    assert len(installs) == 2
    assert not (moved / ".venv" / "old").exists()
    assert "moved" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "interrupted", "step"),
    [
        ({}, False, "nothing"),
        ({}, True, "create"),
        ({"files": "other"}, False, "update"),
        ({"extras": ["lab", "test"]}, False, "update"),
        ({"python": "3.12"}, False, "create"),
        ({"python": None}, False, "create"),
        ({"folder": "/elsewhere"}, False, "create"),
    ],
)
def test_plan(change, interrupted, step):
    old = {"files": "abc", "folder": "/course", "python": "3.11", "extras": ["lab"]}
    todo, why = plan(old, old | change, interrupted)
    assert todo == step
    assert bool(why) is (step == "create")


def test_an_environment_that_somebody_made_by_hand_is_completed_not_deleted(installs, project):
    python = environment.venv_python(project / ".venv")
    python.parent.mkdir(parents=True)
    python.touch()
    (project / ".venv" / "mine").touch()
    prepare({"lab"}, project)
    assert (project / ".venv" / "mine").exists()
    assert installs == [["lab"]]


def test_a_removal_cut_short_leaves_no_half_environment(installs, project, monkeypatch):
    prepare({"lab"}, project)
    (project / ".venv" / "unfinished").touch()

    def cut_off(folder):
        raise KeyboardInterrupt

    whole = environment.shutil.rmtree
    monkeypatch.setattr(environment.shutil, "rmtree", cut_off)
    with pytest.raises(KeyboardInterrupt):
        prepare({"lab"}, project)
    assert not (project / ".venv").exists()
    monkeypatch.setattr(environment.shutil, "rmtree", whole)
    prepare({"lab"}, project)
    (project / ".venv" / "unfinished").touch()
    prepare({"lab"}, project)
    assert not (project / ".venv.old").exists()


def test_two_installations_at_once_are_refused(installs, project):
    (project / ".venv").mkdir()
    with open(project / ".venv" / "setup.lock", "w") as file:
        environment.lock(file)
        with pytest.raises(Problem, match="another window"):
            prepare({"lab"}, project)
    prepare({"lab"}, project)
    assert installs == [["lab"]]


def test_a_full_disk_is_one_sentence(installs, project, monkeypatch):
    monkeypatch.setattr(environment.shutil, "disk_usage", lambda path: Usage(0, 0, 3_200_000_000))
    with pytest.raises(Problem, match=r"needs about 4 GB of free disk, and 3\.2 GB are free") as problem:
        prepare({"lab"}, project)
    assert "\n" not in str(problem.value)
    assert installs == []


def test_a_folder_of_a_different_user_is_one_sentence(installs, project, monkeypatch):
    # Asked for in this way, since the tests may run as a user whom no permission keeps out.
    monkeypatch.setattr(environment.os, "access", lambda path, mode: (path, mode) != (project, os.W_OK))
    with pytest.raises(Problem, match="cannot be written to; copy the course to a folder of your own") as problem:
        prepare({"lab"}, project)
    assert str(project) in str(problem.value)
    assert not (project / ".venv").exists()


def test_who_may_not_write_still_opens_what_is_complete(installs, project, monkeypatch):
    prepare({"lab"}, project)
    monkeypatch.setattr(environment.os, "access", lambda path, mode: False)
    assert prepare({"lab"}, project) == environment.venv_python(project / ".venv")


def test_an_environment_of_conda_that_has_the_course_is_used(installs, project, monkeypatch):
    (project / "conda-meta").mkdir()
    monkeypatch.setattr(sys, "prefix", str(project))
    versions = {"torchcourse": "0.1.0"}

    def version(name):
        if name not in versions:
            raise importlib.metadata.PackageNotFoundError(name)
        return versions[name]

    monkeypatch.setattr(importlib.metadata, "version", version)
    assert prepare({"lab"}, project) == Path(sys.executable)
    assert installs == []
    versions.clear()
    assert prepare({"lab"}, project) == environment.venv_python(project / ".venv")


def test_programs_of_a_different_python_do_not_leak_in(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", "/another/python")
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    variables = environment.clean_environment(Path("/course/.venv/bin/python"))
    assert not {"PYTHONPATH", "PYTHONDONTWRITEBYTECODE"} & variables.keys()
    assert variables["PATH"].split(os.pathsep)[0] == str(Path("/course/.venv/bin"))
