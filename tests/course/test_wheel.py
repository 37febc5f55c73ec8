"""The built wheel works where the repository is not: it brings its data, its question banks and its licenses."""

import re
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> Path:
    """A folder with nothing but the wheel installed into it."""
    target = tmp_path_factory.mktemp("installed")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--target", target, wheel]
    subprocess.run([str(part) for part in command], check=True)
    return target


def run_there(installed: Path, code: str, cwd: Path) -> str:
    """Run code with the installed package and this environment's other packages, but without the repository.

    `-I -S` leaves out the current folder, the variables and the .pth files, one of which points to the repository.
    """
    setup = f"import sys; sys.path[:0] = [{str(installed)!r}, {sysconfig.get_paths()['purelib']!r}]\n"
    result = subprocess.run([sys.executable, "-I", "-S", "-c", setup + code], cwd=cwd, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


@pytest.mark.slow
def test_the_package_is_the_installed_one(installed, tmp_path):
    assert Path(run_there(installed, "import torchcourse; print(torchcourse.__file__)", tmp_path)).is_relative_to(
        installed
    )


def test_every_file_of_the_package_is_in_the_wheel(wheel):
    """That each module can be imported where no notebook runs is seen in the repository (test_imports.py)."""
    package = ROOT / "helpers"
    files = [path.relative_to(package) for path in (package / "torchcourse").rglob("*") if path.is_file()]
    names = {path.as_posix() for path in files if path.suffix != ".pyc" and not any(p[0] == "." for p in path.parts)}
    assert "torchcourse/ranks/run.py" in names
    assert names - set(zipfile.ZipFile(wheel).namelist()) == set()


@pytest.mark.slow
def test_all_question_banks_load(installed, tmp_path):
    code = """
from torchcourse.quiz import bank
assert "torch" not in __import__("sys").modules
for name in bank.lessons():
    print(name, len(bank.lesson(name).questions))
"""
    counts = dict(line.split() for line in run_there(installed, code, tmp_path).splitlines())
    assert set(counts) == {path.stem for path in (ROOT / "quizzes").glob("*.yaml")}
    assert all(int(count) > 0 for count in counts.values())


def test_the_cards_find_their_sentences(installed, tmp_path):
    code = "from torchcourse.quiz import texts; print(texts.say('check', 'en'))"
    assert run_there(installed, code, tmp_path) == "Check"


@pytest.mark.slow
def test_the_images_load(installed, tmp_path):
    code = "from torchcourse.data import mnist; print(len(mnist('train')), len(mnist('test')))"
    assert run_there(installed, code, tmp_path) == "4000 1000"


def test_the_wheel_holds_licences_and_no_lesson(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    assert any(name.endswith("licenses/LICENSE") for name in names)
    data = [name for name in names if re.search("/(data/files|weights)/", name) and not name.endswith(".md")]
    assert data
    for name in data:
        assert name.rpartition(".")[0] + ".LICENSE.md" in names, f"{name} has no license beside it"
    assert [name for name in names if not name.startswith(("torchcourse/", "torchcourse-"))] == []
    assert [name for name in names if name.endswith(".ipynb")] == []
