"""constraints.txt is whole, and every version in it can be had with every Python that the course promises."""

import importlib.metadata
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
PINS = [
    Requirement(line)
    for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    if not line.startswith("#")
]


def applies(requirement: Requirement, python: str = "", extra: str = "") -> bool:
    """Whether a requirement's marker holds on this kind of machine, with a Python like '3.11.2', else with this one."""
    version = {"python_version": python.rpartition(".")[0], "python_full_version": python} if python else {}
    return requirement.marker is None or requirement.marker.evaluate(version | {"extra": extra})


def installed(name: str) -> importlib.metadata.Distribution | None:
    try:
        return importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError:
        return None


@pytest.mark.slow
@pytest.mark.parametrize("python", ["3.11.0", "3.11.2", "3.12.0", "3.13.0", "3.14.0"])
def test_every_pin_admits_every_python(python):
    refused, asked = [], 0
    for pin in PINS:
        package = installed(pin.name)
        if package is None or package.version not in pin.specifier or not applies(pin, python):
            continue
        asked += 1
        needed = str(package.metadata.json.get("requires_python", ""))
        if python not in SpecifierSet(needed):
            refused.append(f"{pin} needs Python {needed}")
    assert refused == []
    assert asked > 100  # the others are for different systems, or were installed in a different version


def test_a_pin_is_one_version_without_the_label_of_a_build():
    for pin in PINS:
        assert [specifier.operator for specifier in pin.specifier] == ["=="], pin
        assert "+" not in str(pin.specifier), pin


@pytest.mark.slow
def test_all_that_lab_and_test_install_is_pinned():
    pinned = {canonicalize_name(pin.name) for pin in PINS if applies(pin)}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    waiting = [Requirement(line) for line in project["dependencies"] + extras["lab"] + extras["test"]]
    waiting += [Requirement(name) for name in ("uv", "hatchling", "editables")]
    seen: set[tuple[str, str]] = set()
    while waiting:
        requirement = waiting.pop()
        for extra in ["", *requirement.extras]:
            name = canonicalize_name(requirement.name)
            package = installed(name)
            if (name, extra) in seen:
                continue
            seen.add((name, extra))
            below = map(Requirement, (package.requires or []) if package else [])
            waiting += [needed for needed in below if applies(needed, extra=extra)]
    assert {name for name, _ in seen} - pinned == set()
    assert len(seen) > 100
