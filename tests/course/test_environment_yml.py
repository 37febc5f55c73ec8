"""environment.yml gives conda users the same as pyproject.toml, and every spec in it is one that conda understands."""

import re
import tomllib
from pathlib import Path

import pytest
import rattler
import yaml
from rattler.exceptions import InvalidMatchSpecError

ROOT = Path(__file__).parents[2]
CONDA_NAMES = {"torch": "pytorch"}


def conda_specs(text: str) -> tuple[dict[str, str], list[str]]:
    """Return the conda specs as {name: version} and the lines of the pip section.

    Raises:
        InvalidMatchSpecError: for a spec that conda would refuse.
    """
    specs, pip = {}, []
    for entry in yaml.safe_load(text)["dependencies"]:
        if isinstance(entry, dict):
            pip += entry["pip"]
            continue
        spec = rattler.MatchSpec(entry, strict=True)
        specs[spec.name.normalized] = str(spec.version or "")
    return specs, pip


def requirements() -> dict[str, str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lines = project["dependencies"] + project["optional-dependencies"]["lab"]
    found = dict(re.fullmatch(r"([\w-]+)(.*)", line).groups() for line in lines)
    return found | {"python": project["requires-python"]}


def test_conda_and_pip_users_get_the_same():
    specs, pip = conda_specs((ROOT / "environment.yml").read_text(encoding="utf-8"))
    by_pip = dict(re.fullmatch(r"([\w-]+)(.*)", line).groups() for line in pip if not line.startswith("-"))
    wanted = {CONDA_NAMES.get(name, name): version for name, version in requirements().items()}
    assert specs | by_pip == wanted | {"pip": ""}
    assert not specs.keys() & by_pip.keys()


def test_the_course_itself_is_installed_from_this_folder():
    _, pip = conda_specs((ROOT / "environment.yml").read_text(encoding="utf-8"))
    assert "-e ." in pip


def test_only_one_channel_so_that_packages_fit_together():
    assert yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))["channels"] == ["conda-forge"]


@pytest.mark.parametrize("spec", ["numpy >=>1.26", "pytorch=>2.6", "a b c d e"])
def test_a_spec_that_conda_would_refuse_is_noticed(spec):
    with pytest.raises(InvalidMatchSpecError):
        conda_specs(f"dependencies: ['{spec}']")
