"""The workflows for those who fork the course: they parse, and call only what exists."""

import re
from pathlib import Path

import pytest
import yaml

import course
from torchcourse.tools.site import CACHE, HTML

ROOT = Path(__file__).parents[2]
WORKFLOWS = {
    path.stem: yaml.safe_load(path.read_text(encoding="utf-8"))
    for path in (ROOT / ".github" / "workflows").glob("*.yml")
}
WORKFLOW = WORKFLOWS["test"]
(JOB,) = WORKFLOW["jobs"].values()


def test_the_three_systems_are_tested():
    systems = {name.partition("-")[0] for name in JOB["strategy"]["matrix"]["os"]}
    assert systems == {"ubuntu", "macos", "windows"}
    # YAML reads the bare word `on` as true.
    assert {"push", "pull_request"} <= set(WORKFLOW[True])


@pytest.mark.parametrize(("name", "count"), [("test", 2), ("site", 1)])
def test_it_calls_only_what_exists(name, count, capsys):
    course.main(["help"])
    commands = re.findall(r"^  ([\w-]+) ", capsys.readouterr().out, re.MULTILINE)
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    (job,) = WORKFLOWS[name]["jobs"].values()
    calls = [step["run"] for step in job["steps"] if "run" in step]
    for call in calls:
        make, script = re.fullmatch(r"make (\w+)", call), re.fullmatch(r"python course\.py (\w+)", call)
        assert (make and make[1] in targets) or (script and script[1] in commands), call
    assert len(calls) == count


def test_the_site_that_make_site_builds_is_what_is_published():
    workflow = WORKFLOWS["site"]
    assert workflow[True]["push"]["branches"] == ["main"]
    assert workflow["permissions"] == {"contents": "read", "pages": "write", "id-token": "write"}
    (job,) = workflow["jobs"].values()
    steps = {step["uses"].partition("@")[0]: step for step in job["steps"] if "uses" in step}
    assert steps["actions/upload-pages-artifact"]["with"]["path"] == HTML.relative_to(ROOT).as_posix()
    assert steps["actions/cache"]["with"]["path"] == CACHE.relative_to(ROOT).as_posix()
    assert list(steps)[-1] == "actions/deploy-pages"
    assert job["environment"]["name"] == "github-pages"
    assert "/_site/" in (ROOT / ".gitignore").read_text(encoding="utf-8").splitlines()


def test_the_pythons_are_the_oldest_and_newest_that_the_course_promises():
    assert JOB["strategy"]["matrix"]["python"][0] == "3.11"
    assert f'requires-python = ">={JOB["strategy"]["matrix"]["python"][0]}"' in (ROOT / "pyproject.toml").read_text()
