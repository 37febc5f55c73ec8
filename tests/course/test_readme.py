"""README and guides promise what is there: links lead somewhere, tables name the lessons and rooms that exist."""

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [
    "README.md",
    "TEACHING.md",
    "CONTRIBUTING.md",
    "solutions/README.md",
    "quizzes/README.md",
    "docs/GLOSSARY.md",
    "docs/REAL_MACHINES.md",
    "docs/LINKS.md",
]
PACKAGE = ROOT / "helpers" / "torchcourse"


def page(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def links(name: str) -> list[str]:
    return re.findall(r"\]\(([^)#]+)[^)]*\)", page(name))


@pytest.mark.parametrize("name", PAGES)
def test_links_lead_to_files_of_the_project(name):
    local = [link for link in links(name) if "://" not in link]
    assert local or name == "quizzes/README.md"
    assert [link for link in local if not (ROOT / name).parent.joinpath(link).exists()] == []


def test_every_notebook_is_in_the_lesson_table_and_no_other():
    notebooks = {path.relative_to(ROOT).as_posix() for path in (ROOT / "notebooks").glob("*/*.ipynb")}
    assert {link for link in links("README.md") if link.endswith(".ipynb")} == notebooks


@pytest.mark.parametrize("name", PAGES)
def test_every_make_command_exists(name):
    targets = set(re.findall(r"^([\w-]+):", page("Makefile"), re.MULTILINE))
    assert set(re.findall(r"(?:^|`)make ([a-z][\w-]*)", page(name), re.MULTILINE)) <= targets


def test_the_map_has_a_line_for_each_room_and_no_other():
    rooms = {f"{folder.name}/" for folder in PACKAGE.iterdir() if (folder / "__init__.py").exists()}
    rooms |= {file.name for file in PACKAGE.glob("*.py") if file.name != "__init__.py"}
    rooms -= {"lessons/", "tools/"}
    for part in ("lessons", "tools"):
        rooms |= {f"{part}/{file.parent.name}/" for file in PACKAGE.glob(f"{part}/*/__init__.py")}
    assert set(re.findall(r"^\| `([\w/.]+)` \|", page("CONTRIBUTING.md"), re.MULTILINE)) == rooms


def test_the_newest_entry_of_the_changes_is_the_version():
    versions = re.findall(r"^## (\d+\.\d+\.\d+) \(\d{4}-\d\d-\d\d\)$", page("CHANGELOG.md"), re.MULTILINE)
    numbers = [tuple(map(int, version.split("."))) for version in versions]
    assert versions[0] == tomllib.loads(page("pyproject.toml"))["project"]["version"]
    assert numbers == sorted(set(numbers), reverse=True)
