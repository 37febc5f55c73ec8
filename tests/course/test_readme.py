"""The README promises what is there: links lead somewhere, and the lesson table has the lessons that exist."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
LINKS = re.findall(r"\]\(([^)#]+)[^)]*\)", README)


def test_links_lead_to_files_of_the_project():
    local = [link for link in LINKS if "://" not in link]
    assert local
    assert [link for link in local if not (ROOT / link).exists()] == []


def test_every_notebook_is_in_the_lesson_table_and_no_other():
    notebooks = {path.relative_to(ROOT).as_posix() for path in (ROOT / "notebooks").glob("*/*.ipynb")}
    assert {link for link in LINKS if link.endswith(".ipynb")} == notebooks


def test_every_make_command_exists():
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    assert set(re.findall(r"(?:^|`)make ([a-z][\w-]*)", README, re.MULTILINE)) <= targets
