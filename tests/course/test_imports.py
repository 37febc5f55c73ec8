"""The plan of the house, held by its imports: ground floor, wings in the lessons' order, tools; no circle; no start.

The rules stand in CONTRIBUTING.md. Imports count wherever they stand, in functions and for type hints too.
"""

import ast
import functools
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import torchcourse

PACKAGE = Path(torchcourse.__file__).parent
WINGS = [
    "start_here",
    "data_parallelism",
    "model_parallelism",
    "tuning",
    "monitoring",
    "troubleshooting",
    "datasets",
    "transfer",
    "convolution",
    "performance",
    "capstone",
    "final",
]


def modules(package: Path) -> dict[str, Path]:
    """The modules of a package by name. The clinic's programs are scripts that nobody imports."""
    names = {}
    for file in sorted(package.rglob("*.py")):
        parts = file.relative_to(package.parent).with_suffix("").parts
        if "programs" not in parts or file.name == "__init__.py":
            names[".".join(parts).removesuffix(".__init__")] = file
    return names


@functools.cache
def named(file: Path) -> list[tuple[str, str]]:
    """What a file names in imports, at any depth: pairs of a module and what it takes from it, or "" if all of it."""
    names = []
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names += [(alias.name, "") for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: write imports in full, not relative to the file"
            names += [(str(node.module), alias.name) for alias in node.names]
    return names


def imports(file: Path, known: dict[str, Path], top: str) -> Iterator[str]:
    """The modules of one package that a file imports: `from package import module` counts as the module."""
    for module, name in named(file):
        if module.split(".")[0] == top:
            yield f"{module}.{name}" if f"{module}.{name}" in known else module


def graph(package: Path) -> dict[str, set[str]]:
    known = modules(package)
    return {name: set(imports(file, known, package.name)) - {name} for name, file in known.items()}


def room(module: str) -> tuple[str, int]:
    """The part of the house that a module is in, and for a wing its number."""
    _, part, wing, *_ = [*module.split("."), "", ""]
    if part == "lessons":
        return "lessons", WINGS.index(wing) if wing else -1
    return ("tools", 0) if part == "tools" else ("ground", 0)


def wrong_way(arrows: dict[str, set[str]]) -> list[str]:
    """The arrows that no rule allows."""
    wrong = []
    for module, targets in arrows.items():
        part, number = room(module)
        for target in targets:
            other, other_number = room(target)
            upward = part == "ground" and other != "ground"
            later = part == other == "lessons" and other_number > number
            if upward or later or (part == "lessons" and other == "tools"):
                wrong.append(f"{module} imports {target}")
    return wrong


def circles(arrows: dict[str, set[str]]) -> list[list[str]]:
    """Groups of modules that import each other in a circle (Tarjan's strongly connected components)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(module: str) -> None:
        index[module] = low[module] = len(index)
        stack.append(module)
        for target in arrows.get(module, ()):
            if target not in index:
                visit(target)
                low[module] = min(low[module], low[target])
            elif target in stack:
                low[module] = min(low[module], index[target])
        if low[module] == index[module]:
            group = stack[stack.index(module) :]
            del stack[stack.index(module) :]
            if len(group) > 1:
                found.append(sorted(group))

    for module in arrows:
        if module not in index:
            visit(module)
    return found


def hidden_modules(package: Path) -> list[str]:
    """Functions and classes that have the name of a module beside them: importing one would hide the other."""
    hidden = []
    for name, file in modules(package).items():
        folder = file.parent
        beside = {path.stem for path in folder.glob("*.py")} | {
            path.parent.name for path in folder.glob("*/__init__.py")
        }
        for node in ast.parse(file.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name in beside:
                hidden.append(f"{name}.{node.name}")
    return hidden


DRAWERS = ["torchcourse.figures", "torchcourse.lessons.troubleshooting.clinic.cases."]
# A page for the learner, into which `front_page_picture` puts its pictures.
DRAWERS.append("torchcourse.lessons.start_here.front_page")
# The command that puts a picture beside its report.
DRAWERS.append("torchcourse.tools.gpu_check.__main__")


def draws(file: Path) -> bool:
    """Whether a file imports the plotting style or Matplotlib, whose `matplotlib.image` only reads images."""
    for module, name in named(file):
        full = f"{module}.{name}".rstrip(".")
        plots = module.split(".")[0] == "matplotlib" and not full.startswith("matplotlib.image")
        if plots or f"{full}.".startswith("torchcourse.figures."):
            return True
    return False


def out_of_frame(package: Path) -> list[str]:
    """Modules that draw without being a picture, or that import a picture without being one: numbers stay apart."""
    found, known = [], modules(package)
    for name, file in known.items():
        pictures = [target for target in imports(file, known, package.name) if target.endswith("_picture")]
        if not name.endswith("_picture") and not name.startswith(tuple(DRAWERS)) and (draws(file) or pictures):
            found.append(name)
    return found


@pytest.mark.slow
def test_ground_imports_nothing_above_it_and_wings_only_earlier_wings():
    assert wrong_way(graph(PACKAGE)) == []


@pytest.mark.slow
def test_no_circle():
    assert circles(graph(PACKAGE)) == []


@pytest.mark.slow
def test_no_function_has_the_name_of_a_module_beside_it():
    assert hidden_modules(PACKAGE) == []


def test_only_pictures_draw():
    assert out_of_frame(PACKAGE) == []


def test_every_folder_of_lessons_is_a_wing_in_the_order_of_the_lessons():
    folders = {path.parent.name for path in PACKAGE.glob("lessons/*/__init__.py")}
    assert folders == set(WINGS)


def test_neither_quiz_nor_pages_import_torch():
    """The pages are all of these wings but the checks and what asks torch about the machine."""
    arrows, seen, wings = graph(PACKAGE), set(), ("torchcourse.lessons.start_here", "torchcourse.lessons.final")
    others = {name for name in arrows if ".checks" in name or name.endswith(".machine_report")}
    todo = [name for name in arrows if name.startswith(("torchcourse.quiz", *wings)) and name not in others]
    while todo:
        module = todo.pop()
        if module not in seen:
            seen.add(module)
            todo += arrows.get(module, ())
    known = modules(PACKAGE)
    tops = {name.split(".")[0] for module in seen & set(arrows) for name, _ in named(known[module])}
    assert "torch" not in tops


ROOMS = ["ranks.who", "ranks.run", "training", "data", "quiz", "journal", "checks", "figures", "models", "error_bars"]
ROOMS += ["environment", *(f"lessons.{wing}" for wing in WINGS)]


NEED_WIDGETS = ["torchcourse.quiz.form", "torchcourse.quiz.widget"]
"""Modules whose import needs ipywidgets. They are imported where one is drawn; the others live without."""


@pytest.mark.slow
def test_importing_anything_but_run_ranks_starts_no_process_nor_thread_and_needs_no_widgets():
    """No thread: the rank server imports what its ranks need, and forks."""
    names = [
        name
        for name in modules(PACKAGE)
        if not name.startswith("torchcourse.tools") and not name.endswith("__main__") and "programs" not in name
    ]
    assert all(f"torchcourse.{room}" in names for room in ROOMS)
    code = (
        "import importlib, sys, psutil\n"
        "sys.modules.update(ipywidgets=None, anywidget=None)\n"
        "for name in sys.argv[1:]:\n"
        "    try:\n"
        "        importlib.import_module(name)\n"
        "    except ImportError as error:\n"
        "        print(name, error.name)\n"
        "    children = psutil.Process().children()\n"
        "    assert not children, (name, children)\n"
        "    assert psutil.Process().num_threads() == 1, name\n"
        "from torchcourse.ranks import run_ranks\n"
        "assert psutil.Process().children()\n"
        "print('none, then the server')\n"
    )
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    ran = subprocess.run([sys.executable, "-c", code, *names], capture_output=True, text=True, env=environment)
    *refused, last = ran.stdout.splitlines()
    assert last == "none, then the server", ran.stderr
    assert refused == [f"{name} anywidget" for name in NEED_WIDGETS]


def planted(folder: Path, files: dict[str, str]) -> Path:
    """A small house of the same shape, with faults in it."""
    package = folder / "torchcourse"
    for name, text in files.items():
        file = package / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return package


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("training/a.py", "from torchcourse.lessons.tuning import study"),
        ("checks.py", "def f():\n    from torchcourse.tools import bench"),
        ("lessons/tuning/a.py", "import torchcourse.lessons.transfer.lora"),
        ("lessons/tuning/a.py", "from torchcourse.tools.bench import loop"),
        (
            "data/a.py",
            "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from torchcourse.lessons import datasets",
        ),
    ],
)
def test_an_arrow_the_wrong_way_is_found(tmp_path, file, text):
    assert len(wrong_way(graph(planted(tmp_path, {file: text})))) == 1


def test_a_circle_for_type_hints_and_a_hidden_module_are_found(tmp_path):
    hint = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from torchcourse.data.b import B\n"
    files = {
        "data/a.py": hint,
        "data/b.py": "from torchcourse.data import a\n\n\nclass B: ...\n",
        "data/c.py": "def a(): ...",
    }
    package = planted(tmp_path, files)
    assert circles(graph(package)) == [["torchcourse.data.a", "torchcourse.data.b"]]
    assert hidden_modules(package) == ["torchcourse.data.c.a"]


@pytest.mark.parametrize(
    "text",
    [
        "from matplotlib.figure import Figure",
        "def f():\n    import matplotlib.pyplot as plt",
        "from torchcourse import figures, models",
        "from torchcourse.figures import new",
        "from torchcourse.lessons.datasets.waiting_picture import draw",
        "from torchcourse.lessons.datasets import waiting_picture",
    ],
)
def test_drawing_outside_a_picture_is_found(tmp_path, text):
    files = {
        "lessons/datasets/waiting.py": text,
        "lessons/datasets/waiting_picture.py": "from torchcourse import figures",
        "lessons/troubleshooting/clinic/cases/sawtooth.py": "from torchcourse import figures",
        "data/datasets.py": "from matplotlib.image import imread",
    }
    assert out_of_frame(planted(tmp_path, files)) == ["torchcourse.lessons.datasets.waiting"]


@pytest.mark.slow
def test_a_rank_that_trains_imports_nothing_that_draws():
    """Each rank imports by itself: with matplotlib it took half a second of processor time more."""
    code = "import sys, torchcourse.training, torchcourse.lessons.model_parallelism.checks\n"
    code += "print('matplotlib' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False"]
