"""The workflow for those who fork the course: it parses, and calls only what exists."""

import re
from pathlib import Path

import yaml

import course

ROOT = Path(__file__).parents[2]
WORKFLOW = yaml.safe_load((ROOT / ".github" / "workflows" / "test.yml").read_text(encoding="utf-8"))
(JOB,) = WORKFLOW["jobs"].values()


def test_the_three_systems_are_tested():
    systems = {name.partition("-")[0] for name in JOB["strategy"]["matrix"]["os"]}
    assert systems == {"ubuntu", "macos", "windows"}
    # YAML reads the bare word `on` as true.
    assert {"push", "pull_request"} <= set(WORKFLOW[True])


def test_it_calls_only_what_exists(capsys):
    course.main(["help"])
    commands = re.findall(r"^  ([\w-]+) ", capsys.readouterr().out, re.MULTILINE)
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    calls = [step["run"] for step in JOB["steps"] if "run" in step]
    for call in calls:
        make, script = re.fullmatch(r"make (\w+)", call), re.fullmatch(r"python course\.py (\w+)", call)
        assert (make and make[1] in targets) or (script and script[1] in commands), call
    assert len(calls) == 2


def test_the_pythons_are_the_oldest_and_newest_that_the_course_promises():
    assert JOB["strategy"]["matrix"]["python"][0] == "3.11"
    assert f'requires-python = ">={JOB["strategy"]["matrix"]["python"][0]}"' in (ROOT / "pyproject.toml").read_text()
