"""What only installs, imports, asks, draws, checks or grades is folded; the code of a lesson stays open."""

import pytest

from torchcourse.quiz import outcome
from torchcourse.tools.build.hidden_keys import hide_keys
from torchcourse.tools.build.source import Origin, SourceError, to_notebook


def built(text: str) -> list[tuple[str, bool]]:
    """Return (source, folded) of each code cell."""
    cells = to_notebook(text, Origin("solutions/01_x/1_y.py")).cells
    folded = [(cell.source, cell.metadata.get("jupyter", {}).get("source_hidden", False)) for cell in cells]
    assert all(
        (cell.metadata.get("cellView") == "form") is hidden for cell, (_, hidden) in zip(cells, folded, strict=True)
    )
    return folded


@pytest.mark.parametrize(
    ("cell", "title"),
    [
        ("# %% setup", "Install the course where it is missing"),
        ("# %%\nimport os\nimport torch\nfrom torch import nn\n\nprint(torch)", "Imports"),
        ('# %%\npredict("x", "?", ["a", "b"])', "Your prediction"),
        ('# %%\noutcome("x", "So.", right="a")', "What came out"),
        ('# %%\nquiz.card("04", "x")', "A question"),
        ('# %%\nfrom torchcourse.quiz import recall\n\nrecall("04")', "What do you still know?"),
        ("# %%\nfigures.explorer(draw, size=(1, 2, 1))", "A picture to play with"),
        ("# %%\nfigure, axes = figures.new()\naxes.plot(x)\nfigures.show(figure, alt)", "The picture"),
        ("# %%\ndef draw_x(n):\n    return n\n\n\nfigures.explorer(draw_x, n=(1, 2, 1))", "A picture to play with"),
        ("# %%\ndef draw_x(n):\n    return n\n\n\ndef describe_x(n):\n    return n", "How the picture is drawn"),
        ("# %% check: x\ncheck.x(x, points=1)\n### BEGIN HIDDEN TESTS\n1\n### END HIDDEN TESTS", "Check"),
    ],
)
def test_a_folded_cell_tells_nothing_but_its_title(cell, title):
    [(source, folded)] = built(cell)
    assert folded
    assert source.splitlines()[0] == f"# @title {title}"


@pytest.mark.parametrize(
    "cell",
    [
        "# %%\nloss = model(x)\nloss",
        "# %%\nimport torch",
        "# %%\nimport torch\nfrom torch import nn\n\nmodel = nn.Linear(1, 1)",
        "# %%\ndata = load()\nfigure, axes = figures.new()\nfigures.show(figure, alt)",
        "# %% exercise: x\ndef x():\n    ### BEGIN SOLUTION\n    return predict()\n    ### END SOLUTION",
        "# %%\n# %tensorboard --logdir logs",
        "# %%\nlabels = model.predict(x)",
        "# %%\ndef drawn(n):\n    return n\n\n\nfigures.explorer(drawn, n=(1, 2, 1))",
        "# %% exercise: draw_x\ndef draw_x():\n    ### BEGIN SOLUTION\n    return 1\n    ### END SOLUTION",
    ],
)
def test_the_code_of_a_lesson_stays_open(cell):
    [(source, folded)] = built(cell)
    assert not folded
    assert "@title" not in source


def test_code_before_an_outcome_stays_open_in_a_cell_of_its_own():
    text = (
        '# %%\nsizes = [3, 3]\nprint(sizes)\n\n# Both are used.\noutcome(\n    "x", f"{sizes}",\n    right="3 each"\n)'
    )
    assert built(text) == [
        ("sizes = [3, 3]\nprint(sizes)", False),
        ('# @title What came out\n# Both are used.\noutcome(\n    "x", f"{sizes}",\n    key="MyBlYWNo"\n)', True),
    ]


def test_an_outcome_among_code_gets_a_cell_of_its_own_or_would_not_show():
    text = (
        '# %%\nx = 1\noutcome("x", "So.")\nassert x\n\n\npredict("y", "?", ["a", "b"])\npredict("z", "?", ["a", "b"])'
    )
    assert built(text) == [
        ("x = 1", False),
        ('# @title What came out\noutcome("x", told="U28u")', True),
        ("assert x", False),
        ('# @title Your prediction\npredict("y", "?", ["a", "b"])', True),
        ('# @title Your prediction\npredict("z", "?", ["a", "b"])', True),
    ]


def test_an_outcome_that_would_not_show_is_refused():
    with pytest.raises(SourceError, match=r"cell 1: predict or outcome inside a block is not shown"):
        built('# %%\nif cells:\n    outcome("x", "So.")')
    [(_, folded)] = built('# %%\nif cells:\n    display(outcome("x", "So."))')
    assert not folded


@pytest.mark.parametrize(
    ("source", "hidden"),
    [
        ('outcome("x", "", right="a")', 'outcome("x", "", key="YQ==")'),
        (
            'outcome(\n    "x", "",\n    right="a"\n    "b",\n)\nquiz.outcome("y", "", right="가")',
            'outcome(\n    "x", "",\n    key="YWI=",\n)\nquiz.outcome("y", "", key="6rCA")',
        ),
        ('outcome("x", "", right="a" if b else None)', 'outcome("x", "", key="YQ==" if b else None)'),
        ('outcome("x", "So.", right=best)', 'outcome("x", told="U28u", right=best)'),
    ],
)
def test_what_an_outcome_says_is_hidden(source, hidden):
    assert hide_keys(source) == hidden
    assert hide_keys(hidden) == hidden


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ('"{1} of 2"', "{1} of 2"),
        ('f"{{}} {share:.1%} of {name!r:>{width}}"', "{} 25.0% of    'a'"),
        ('f"{name}: " + ", ".join(map(str, (1, 2))) + "."', "a: 1, 2."),
        ('f"{share=}"', "share=0.25"),
    ],
)
def test_a_hidden_text_says_what_it_said(text, shown):
    names = {"share": 0.25, "name": "a", "width": 6, "outcome": outcome}
    hidden = hide_keys(f'outcome("x", {text})')
    assert eval(hidden, names).text == shown
    assert "text" not in hidden
    assert " of " not in hidden


@pytest.mark.parametrize(
    "source",
    ['outcome("x", "", right=best)', 'f(right="a")', "%time outcome(", 'outcome("x", said)', 'outcome("x", f"{said}")'],
)
def test_a_computed_choice_or_text_and_all_other_code_stays(source):
    assert hide_keys(source) == source
