"""The minutes in a notebook's header are counted from its words, its code and its exercises."""

from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from torchcourse.tools.build.minutes import characters, counted_minutes, words, write_minutes

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*/[0-9]*.ipynb"))

MOST = 75
"""Minutes of a notebook: what fits into one sitting."""

TEXT = """\
# Title

Two `code` words, and a [link text](https://example.org/a-b) at 0.5.

| a | b |
|---|---|

```
not read
```
<details><summary>Help</summary>

not read either

</details>

### Glossary

looked up"""


def notebook(*cells) -> nbformat.NotebookNode:
    return new_notebook(cells=[new_markdown_cell("# T\n\n**{minutes} minutes** · one CPU"), *cells])


def test_words_are_those_that_are_read():
    assert words(TEXT) == len(["Title", "Two", "code", "words", "and", "a", "link", "text", "at", "0.5", "a", "b"])


def test_blanks_and_comments_are_no_code_and_a_broken_line_is_as_long_as_a_whole_one():
    assert characters("# a comment\n\nx = 1\nif x:\n    # why\n    y = 2\n") == len("x=1ifx:y=2")
    assert characters("f(a, b)") == characters("f(\n    a,\n    b)")


def test_an_exercise_counts_as_long_as_it_says_and_its_code_not_again():
    exercise = new_code_cell("\n".join(["x = 1"] * 150), metadata={"nbgrader": {"solution": True}})
    folded = new_code_cell("\n".join(["x = 1"] * 150), metadata={"jupyter": {"source_hidden": True}})
    text = new_markdown_cell("### Exercise\n\n●●○ · 20 minutes · good for: it")
    plain = counted_minutes(notebook(text))
    assert 20 < plain < 20.2
    assert counted_minutes(notebook(text, exercise, folded)) == plain
    assert counted_minutes(notebook(text, new_code_cell("x" * 1340))) == pytest.approx(plain + 2)


@pytest.mark.parametrize("header", ["**{minutes} minutes** · one CPU", "**10 minutes** · one CPU"])
def test_the_header_says_them_rounded_up_to_five(header):
    made = new_notebook(cells=[new_markdown_cell(header), new_markdown_cell("word " * 120 * 21)])
    write_minutes(made)
    assert made.cells[0].source == "**25 minutes** · one CPU"


def test_a_notebook_without_a_header_stays_as_it_is():
    made = new_notebook(cells=[new_markdown_cell("word " * 500)])
    write_minutes(made)
    assert "minutes" not in made.cells[0].source


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_a_notebook_is_done_in_one_sitting(path):
    assert counted_minutes(nbformat.read(path, 4)) <= MOST
