"""One answer to "whose file is this": cells, scripts and the course are the user's; Python and packages are not."""

import collections
import json
import sys
import types

import pytest
import torch

from torchcourse import checks, models, source_lines
from torchcourse.source_lines import Line, cell_name, hide, is_cell, is_library, is_users, name_of, user_lines


@pytest.mark.parametrize(
    "file", ["/tmp/ipykernel_7/123.py", "<ipython-input-3-abc>", __file__, models.__file__, checks.__file__]
)
def test_cells_scripts_and_the_course_are_the_users(file: str) -> None:
    assert is_users(file)


@pytest.mark.parametrize(
    "file",
    [
        torch.__file__,
        json.__file__,
        collections.__file__,
        pytest.__file__,
        "/somewhere/lib/python3.11/site-packages/numpy/random.py",
        "/usr/lib/python3/dist-packages/yaml/loader.py",
        "<frozen importlib._bootstrap>",
        "<string>",
        source_lines.__file__,
    ],
)
def test_python_packages_and_instruments_are_not(file: str) -> None:
    assert not is_users(file)
    assert is_library(file) is (file != source_lines.__file__)


def test_an_installed_course_is_still_the_users(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source_lines, "_COURSE", "/env/site-packages/torchcourse/")
    assert is_users("/env/site-packages/torchcourse/models.py")
    assert not is_users("/env/site-packages/torchcourse_plugin/models.py")


def test_what_is_hidden_is_left_out_and_the_callers_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source_lines, "_hidden", set(source_lines._hidden))
    namespace = {"look": lambda: user_lines(2)}
    exec(compile("def instrument():\n    return look()", "/lesson/instrument.py", "exec"), namespace)
    assert namespace["instrument"]()[1].file == "/lesson/instrument.py"
    hide("/lesson/instrument.py")
    first, second = namespace["instrument"]()
    assert (first.file, first.function) == (__file__, "<lambda>")
    assert (second.file, second.text) == (__file__, 'first, second = namespace["instrument"]()')


def test_a_line_says_its_file_its_number_and_its_text() -> None:
    line = user_lines(1)[0]
    assert line.text == "line = user_lines(1)[0]"
    assert line.function == "test_a_line_says_its_file_its_number_and_its_text"
    assert str(line) == f"line {line.number} of test_source_lines.py: line = user_lines(1)[0]"
    assert Line("/nowhere/a.py", 3).text == ""


class Compiler:
    """IPython's, as far as names of cells go."""

    def format_code_name(self, file: str) -> tuple[str, str] | None:
        return ("Cell", "In[3]") if file == "/tmp/ipykernel_7/4.py" else None


@pytest.mark.parametrize(
    ("compiler", "called"), [(Compiler(), "Cell In[3]"), (object(), None), (None, None)], ids=["8", "7", "none"]
)
def test_a_cell_has_ipythons_name_where_it_gives_one(
    monkeypatch: pytest.MonkeyPatch, compiler: object, called: str | None
) -> None:
    shell = types.SimpleNamespace(compile=compiler) if compiler else None
    monkeypatch.setitem(sys.modules, "IPython", types.SimpleNamespace(get_ipython=lambda: shell))
    assert cell_name("/tmp/ipykernel_7/4.py") == called
    assert name_of("/tmp/ipykernel_7/4.py") == (called or "4.py")
    assert name_of("/home/me/train.py") == "train.py"


@pytest.mark.parametrize(
    ("file", "cell"), [("/tmp/ipykernel_7/4.py", True), ("<ipython-input-1-a>", True), (__file__, False)]
)
def test_cells_are_known_by_their_names(file: str, cell: bool) -> None:
    assert is_cell(file) is cell
