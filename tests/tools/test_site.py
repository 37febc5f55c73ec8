"""The pages of the site: all of a notebook, each choice explained, links that lead somewhere, no request elsewhere."""

import json
import re
import runpy
import time
from pathlib import Path

import nbformat
import pytest
from nbclient.exceptions import CellTimeoutError, DeadKernelError
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

import torchcourse
from torchcourse import figures
from torchcourse.live import VIEW
from torchcourse.quiz import bank
from torchcourse.tools.repository import ROOT
from torchcourse.tools.site import docstrings, execution, explorer_picture
from torchcourse.tools.site.api_pages import modules_of, pages_of
from torchcourse.tools.site.lesson_pages import lesson_page
from torchcourse.tools.site.links import mend_hrefs, mend_links
from torchcourse.tools.site.question_pages import question_page
from torchcourse.tools.site.requests import foreign_requests, requests_of_page
from torchcourse.tools.site.source_tree import pictures, write_pages

PAGES = {"index.md", "README.md", "notebooks/00_a/1_b.ipynb", "notebooks/00_a/quiz.md", "notebooks/01_c/1_d.ipynb"}
HERE = "notebooks/00_a/1_b.ipynb"

# ------------------------------------------------------------------------------------------------------------- links


@pytest.mark.parametrize(
    ("link", "mended"),
    [
        ("[next](../01_c/1_d.ipynb)", "[next](../01_c/1_d.ipynb)"),
        ("[part](../01_c/1_d.ipynb#part-two)", "[part](../01_c/1_d.ipynb#part-two)"),
        ("[quiz](quiz.ipynb)", "[quiz](quiz.md)"),
        ("[Where was I?](../start.ipynb)", "[Where was I?](../../index.md)"),
        ("[below](#below)", "[below](#below)"),
        ("[paper](https://arxiv.org/abs/1)", "[paper](https://arxiv.org/abs/1)"),
        ("[code](../../helpers/x.py)", "code"),
        ("![badge](https://host.org/badge.svg)", "[badge](https://host.org/badge.svg)"),
        ("[![badge](https://host.org/b.svg)](https://host.org/x)", "[badge](https://host.org/x)"),
        ("`a[i](j)`", "`a[i](j)`"),
        ("```python\nf[i](x)\n```", "```python\nf[i](x)\n```"),
    ],
)
def test_a_link_leads_somewhere(link: str, mended: str) -> None:
    assert mend_links(link, HERE, PAGES) == mended


def test_a_link_to_a_file_leads_to_the_repository_where_the_course_is_published() -> None:
    text = mend_links("[code](../../helpers/x.py)", HERE, PAGES, "https://github.com/o/n")
    assert text == "[code](https://github.com/o/n/blob/main/helpers/x.py)"


def test_the_guides_keep_their_pictures() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    shown = re.findall(r"!\[[^\]]*\]\(([^)]*)\)", mend_links(readme, "README.md", {"README.md"} | pictures(ROOT)))
    assert shown == re.findall(r"!\[[^\]]*\]\(([^)]*)\)", readme)
    assert shown


def test_a_link_of_an_output_leads_to_the_page() -> None:
    html = '<a href="../01_c/1_d.ipynb">on</a> <a class="x" href="gone.ipynb">gone</a> <a href="#y">y</a>'
    assert mend_hrefs(html, HERE, PAGES) == '<a href="../01_c/1_d.html">on</a> gone <a href="#y">y</a>'


# ---------------------------------------------------------------------------------------------------------- notebooks


@pytest.fixture
def page():
    """The page of a notebook with one of each kind of output."""
    folded = new_code_cell("# @title Check\ncheck.share(share)", metadata={"jupyter": {"source_hidden": True}})
    widget = new_output("display_data", data={VIEW: {"model_id": "1"}, "text/html": "", "text/plain": ""})
    style = "<style>.tc-card {color: red}</style>"
    hides = "<style>body:has(.tc-live-1) [data-tc-static] {display: none}</style>"
    cards = [
        new_output("display_data", data={"text/html": f"{hides}{style}<b>card</b>", "text/plain": "card"})
        for _ in range(2)
    ]
    trace = ["\x1b[0;31mNotImplementedError\x1b[0m", "cell <1>"]
    error = new_output("error", ename="NotImplementedError", evalue="share", traceback=trace)
    words = new_output("stream", name="stdout", text="2 ranks\n")
    cells = [
        new_markdown_cell("# Title\n\nMinutes [next](../01_c/1_d.ipynb)"),
        new_code_cell("print(ranks)", outputs=[words, error]),
        *(new_code_cell("card()", outputs=[widget, card]) for card in cards),
        folded,
    ]
    return lesson_page(new_notebook(cells=cells), HERE, PAGES, "")


def test_the_page_begins_with_its_title_and_offers_the_notebook(page) -> None:
    first = page.cells[0].source
    assert first.startswith("# Title\n")
    assert '<a href="1_b.ipynb" download>' in first
    assert "nothing solved" in first


def test_outputs_stay_and_errors_are_folded(page) -> None:
    words, error = page.cells[1].outputs
    assert words.text == "2 ranks\n"
    folded = error.data["text/html"]
    assert re.match(r"<details[^>]*><summary>NotImplementedError: share</summary>", folded)
    assert "cell &lt;1&gt;" in folded
    assert "\x1b" not in folded


def test_a_widget_gives_way_to_its_static_form_which_shows(page) -> None:
    for cell in page.cells[2:4]:
        (card,) = cell.outputs
        assert "<b>card</b>" in card.data["text/html"]
        assert "display: none" not in card.data["text/html"]
    styles = [cell.outputs[0].data["text/html"].count("<style>") for cell in page.cells[2:4]]
    assert styles == [1, 0]


def test_a_frame_that_a_server_beside_the_kernel_fills_gives_way_to_the_last_values() -> None:
    frame = (
        "<iframe src='http://127.0.0.1:6006/'></iframe><details>Empty?<table><tr><td>0.25</td></tr></table></details>"
    )
    cells = [
        new_markdown_cell("# Title"),
        new_code_cell("show", outputs=[new_output("display_data", {"text/html": frame})]),
    ]
    (output,) = lesson_page(new_notebook(cells=cells), HERE, PAGES, "").cells[1].outputs
    shown = output.data["text/html"]
    assert requests_of_page(shown) == []
    assert re.fullmatch(r"<p class='tc-note'>.*TensorBoard.*</p><table><tr><td>0.25</td></tr></table>", shown)


def test_what_the_notebook_folds_is_folded_under_its_title(page) -> None:
    folded = page.cells[4]
    assert folded.source == "check.share(share)"
    assert folded.metadata["tags"] == ["hide-input"]
    assert folded.metadata["mystnb"]["code_prompt_show"] == "Check · show the code"


class _Client:
    """Stands in for nbclient's client: prints the folder that it runs in, or raises an error."""

    error: Exception | None = None

    def __init__(self, notebook, timeout, allow_errors, resources, extra_arguments) -> None:
        self.notebook, self.folder = notebook, resources["metadata"]["path"]
        assert allow_errors

    def execute(self, env: dict[str, str]) -> None:
        if self.error:
            raise self.error
        assert env["TORCHCOURSE_WORK"] == self.folder
        self.notebook.metadata["language_info"] = {"name": "python", "pygments_lexer": "ipython3"}
        for cell in self.notebook.cells:
            cell.metadata["execution"] = {"iopub.status.busy": f"{time.time()}"}  # as nbclient does
            cell.outputs = [new_output("stream", text=f"kept in {self.folder}/journal.jsonl")]
        loaded = [str(Path(torchcourse.__file__)), str(Path(figures.__file__))]
        self.notebook.cells[-1].outputs = [new_output("stream", text=json.dumps(loaded))]


def test_a_run_leaves_the_code_as_it_is_and_names_no_folder_of_the_machine(monkeypatch) -> None:
    monkeypatch.setattr("nbclient.NotebookClient", _Client)
    notebook = new_notebook(cells=[new_code_cell("1")])
    assert execution._run(notebook, "00_a/1_b.ipynb") == ["__init__.py", "figures.py"]
    (cell,) = notebook.cells
    assert (cell.source, cell.outputs[0].text) == ("1", "kept in work/journal.jsonl")


@pytest.mark.slow
def test_a_notebook_that_ran_comes_out_of_the_cache_as_it_was(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("nbclient.NotebookClient", _Client)
    path = tmp_path / "00_a" / "1_b.ipynb"
    path.parent.mkdir()
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(new_notebook(cells=[new_code_cell("1")], metadata={"kernelspec": kernel}), path)
    first = execution.with_outputs(path, tmp_path / "cache")
    monkeypatch.setattr(execution, "_run", None)
    again = execution.with_outputs(path, tmp_path / "cache")
    assert again.cells[0].outputs
    assert nbformat.writes(lesson_page(again, HERE, PAGES, "")) == nbformat.writes(lesson_page(first, HERE, PAGES, ""))


@pytest.mark.parametrize("error", [DeadKernelError("died"), CellTimeoutError("late")])
def test_a_notebook_that_cannot_run_is_named(error: Exception, monkeypatch) -> None:
    monkeypatch.setattr("nbclient.NotebookClient", type("Client", (_Client,), {"error": error}))
    with pytest.raises(execution.NotRun, match=r"00_a/1_b\.ipynb: .*(Try|Then try) again"):
        execution._run(new_notebook(cells=[new_code_cell("1")]), "00_a/1_b.ipynb")


class _WithoutPictures(_Client):
    def execute(self, env: dict[str, str]) -> None:
        self.notebook.cells[0].outputs = [new_output("error", ename="ImportError", evalue="no name x", traceback=[])]


def test_outputs_of_a_different_copy_of_the_course_are_not_kept(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("nbclient.NotebookClient", _Client)
    monkeypatch.setattr(execution, "_PACKAGE", tmp_path)
    with pytest.raises(execution.NotRun, match="a different copy of the course"):
        execution._run(new_notebook(cells=[new_code_cell("1")]), "00_a/1_b.ipynb")


def test_explorers_without_pictures_are_not_kept_in_silence(monkeypatch) -> None:
    monkeypatch.setattr("nbclient.NotebookClient", _WithoutPictures)
    with pytest.raises(execution.NotRun, match="explorers cannot be made into pictures: no name x"):
        execution._run(new_notebook(cells=[new_code_cell("1")]), "00_a/1_b.ipynb")


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("a * b | c, and w_ of `x_ * y`s", ["a \\* b \\| c, and w\\_ of `x_ * y`\\ s"]),
        ("one   first\ntwo   second", ["::", "", "    one   first", "    two   second"]),
        ("| a | b |\n|---|---|", ["::", "", "    | a | b |", "    |---|---|"]),
        ("first\n  further in", ["::", "", "    first", "      further in"]),
        ("So::\n\n    x * y\n\nand on", ["So::", "", "    x * y", "", "and on"]),
        ("Args:\n    x: a * b\n\n    y: c|d\n\nEnd_", ["Args:", "    x: a \\* b", "", "    y: c\\|d", "", "End\\_"]),
        ("Args:\n    *rest: x", ["Args:", "    *rest: x"]),
    ],
)
def test_a_docstring_shows_what_its_source_shows(written: str, read: list[str]) -> None:
    assert docstrings.readable(written.split("\n")) == read


def test_outputs_depend_on_the_rooms_that_a_notebook_loads_and_on_its_questions(tmp_path, monkeypatch) -> None:
    for name in (
        "a.py",
        "b/c.py",
        "b/d.py",
        "lessons/e/f.py",
        "lessons/e/programs/g.py",
        "lessons/h/i.py",
        "tools/site/j.py",
        "tools/site/k.py",
        "00_x.yaml",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    monkeypatch.setattr(execution, "_PACKAGE", tmp_path)
    monkeypatch.setattr(bank, "folder", lambda: tmp_path)
    loaded = ["a.py", "b/c.py", "lessons/e/f.py", "tools/site/j.py"]
    kept = execution.made_by(loaded, "00_x")
    counted = ["a.py", "b/d.py", "lessons/e/programs/g.py", "tools/site/j.py", "00_x.yaml"]
    for name in counted:
        (tmp_path / name).write_text("changed")
        assert execution.made_by(kept, "00_x") != kept, name
        (tmp_path / name).write_text(name)
    for name in ("lessons/h/i.py", "tools/site/k.py"):
        (tmp_path / name).write_text("changed")
    assert execution.made_by(kept, "00_x") == kept
    (tmp_path / "b/new.py").touch()
    assert execution.made_by(kept, "00_x") != kept


# ---------------------------------------------------------------------------------------------------------- questions


@pytest.mark.parametrize("lesson", bank.lessons())
def test_each_choice_has_its_explanation_folded_under_it_in_both_languages(lesson: str) -> None:
    questions = bank.lesson(lesson)
    text = question_page(questions, f"notebooks/{lesson}/quiz.ipynb")
    assert text.count("\n## Question ") == len(questions.questions)
    assert text.count("<details") == text.count("</details>")
    korean = len(re.findall(r"<details lang='ko'>", text))
    assert korean == len(questions.questions)
    choices = sum(len(getattr(question, "choices", [])) for question in questions.questions)
    assert len(re.findall(r"<summary><b>[A-H]\.</b>", text)) == 2 * choices
    assert "{idea}" not in text


def test_the_explanation_of_a_choice_says_what_the_bank_says() -> None:
    questions = bank.lesson("00_start_here")
    text = question_page(questions, "notebooks/00_start_here/quiz.ipynb")
    question = next(question for question in questions.questions if question.kind == "one")
    for letter, choice in zip(question.letters, question.choices, strict=True):
        under = text[text.index(question.text.en[:20]) :].split(f"<summary><b>{letter}.</b>")[1].split("</details>")[0]
        assert ("**right**" in under) == choice.right
        assert choice.why.en.split()[0] in under


def test_a_quiz_opens_on_other_hosts_only_where_the_course_is_published() -> None:
    questions, path = bank.lesson("00_start_here"), "notebooks/00_start_here/quiz.ipynb"
    assert "colab" not in question_page(questions, path)
    published = question_page(questions, path, "https://github.com/o/n")
    assert "https://colab.research.google.com/github/o/n/blob/main/notebooks/00_start_here/quiz.ipynb" in published
    assert "kaggle.com" in published
    assert '<a href="quiz.ipynb" download>' in published


# ---------------------------------------------------------------------------------------------------------- explorers


def test_an_explorer_becomes_the_pictures_along_its_first_slider() -> None:
    drawn = []

    def draw(kind: str, ranks: int) -> str:
        drawn.append(ranks)
        return f"<p>{kind} {ranks}</p>"

    explorer = figures.explorer(draw, alt="a", kind=["ring", "tree"], ranks=(2, 5, 3))
    html = explorer_picture.frames_of(explorer)
    assert re.findall(r'data-value="(\w+)"( hidden)?>', html) == [
        ("2", " hidden"),
        ("3", ""),
        ("4", " hidden"),
        ("5", " hidden"),
    ]
    assert re.findall(r"ring (\d)", html) == ["2", "3", "4", "5"]
    assert 'data-control="ranks"' in html
    assert "kind: move in the notebook" in html
    assert explorer.children[1].value == 3


@pytest.mark.parametrize(("low", "high", "start"), [(0, 100, 37), (1, 1000, 1), (0, 13, 13), (5, 6, 5)])
def test_a_long_slider_has_few_pictures_with_both_ends_and_the_start(low: int, high: int, start: int) -> None:
    explorer = figures.explorer(lambda step: f"<p>{step}</p>", alt="a", step=(low, high, start))
    shown = [int(value) for value in re.findall(r'data-value="(\d+)"', explorer_picture.frames_of(explorer))]
    assert shown == sorted(set(shown))
    assert {low, high, start} <= set(shown)
    assert len(shown) <= explorer_picture.MOST


def test_a_slider_of_fractions_and_one_of_given_values() -> None:
    half = figures.explorer(lambda share: f"<p>{share:.2f}</p>", alt="a", share=(0.0, 1.0, 0.5, 0.25))
    assert re.findall(r"<p>(.*?)</p>", explorer_picture.frames_of(half))[:5] == ["0.00", "0.25", "0.50", "0.75", "1.00"]
    given = figures.explorer(lambda n: f"<p>{n}</p>", alt="a", n=figures.values("n", [1, 10, 100], 10))
    assert re.findall(r'data-value="(\d+)"( hidden)?>', explorer_picture.frames_of(given)) == [
        ("1", " hidden"),
        ("10", ""),
        ("100", " hidden"),
    ]


def test_pictures_get_small() -> None:
    figure, axis = figures.new(4, 2)
    axis.plot([1, 3, 2])
    large = figures.to_html(figure, "a line")
    small = explorer_picture._small(large)
    assert 'alt="a line"' in small
    assert len(small) < 0.6 * len(large)


# ------------------------------------------------------------------------------------------------------------ package


def test_the_package_has_a_page_per_room_without_checks_and_pictures() -> None:
    pages = pages_of(ROOT / "helpers" / "torchcourse")
    assert {"api/index.md", "api/ranks.md", "api/training.md", "api/figures.md", "api/tuning.md"} <= set(pages)
    assert not any("tools" in name for name in pages)
    for name in pages:
        assert name == "api/index.md" or name.removeprefix("api/").removesuffix(".md") in pages["api/index.md"]
    tuning = modules_of(ROOT / "helpers/torchcourse/lessons/tuning", ROOT / "helpers/torchcourse")
    assert tuning[0] == "torchcourse.lessons.tuning"
    assert "torchcourse.lessons.tuning.search" in tuning
    assert not [name for name in tuning if "checks" in name or name.endswith("_picture") or "._" in name]


# --------------------------------------------------------------------------------------------------------- other hosts


@pytest.mark.parametrize(
    "text",
    [
        '<script src="https://cdn.org/x.js"></script>',
        '<script async src="//cdn.org/x.js"></script>',
        '<link rel="stylesheet" href="http://cdn.org/x.css">',
        '<link rel="preconnect" href="https://cdn.org">',
        '<img alt="a" src="https://cdn.org/x.png">',
        '<img srcset="https://cdn.org/x.png 2x">',
        "<style>@import 'https://cdn.org/x.css';</style>",
        "<style>@font-face {src: url(https://cdn.org/x.woff)}</style>",
        '<p style="background: url(//cdn.org/x.png)">x</p>',
        '<iframe src="https://cdn.org"></iframe>',
        '<form action="https://cdn.org/s"></form>',
        '<svg><image xlink:href="https://cdn.org/x.png"></svg>',
    ],
)
def test_a_request_to_a_different_host_is_found(text: str, tmp_path) -> None:
    assert len(requests_of_page(text)) == 1
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "b.html").write_text(f"<html>{text}</html>", encoding="utf-8")
    (line,) = foreign_requests(tmp_path)
    assert line.startswith("a/b.html: ")


@pytest.mark.parametrize(
    "text",
    [
        '<a href="https://arxiv.org/abs/1">paper</a>',
        '<script src="_static/x.js?v=https"></script>',
        '<img src="data:image/png;base64,//8=">',
        '<link rel="canonical" href="https://me.org/x.html">',
        "<pre>src=&quot;https://cdn.org&quot;</pre>",
        "<code>url(https://cdn.org)</code>",
        '<svg xmlns="http://www.w3.org/2000/svg"></svg>',
    ],
)
def test_what_asks_nobody_is_not_named(text: str) -> None:
    assert requests_of_page(text) == []


def test_the_style_of_the_site_and_its_configuration_ask_nobody(monkeypatch, tmp_path) -> None:
    assert foreign_requests(ROOT / "docs" / "site") == []
    monkeypatch.setenv("TORCHCOURSE_SITE", str(tmp_path))
    conf = runpy.run_path(str(ROOT / "docs" / "site" / "conf.py"))
    assert conf["nb_ipywidgets_js"] == {}
    assert conf["html_math_renderer"] == "mathml"
    assert conf["nb_execution_mode"] == "off"


# ---------------------------------------------------------------------------------------------------------- the source


def test_only_pages_that_changed_are_written_and_old_ones_go(tmp_path) -> None:
    assert write_pages(tmp_path, {"a.md": "A", "b/c.md": "C"}) == 2
    before = (tmp_path / "a.md").stat().st_mtime_ns
    assert write_pages(tmp_path, {"a.md": "A", "b/d.md": "D"}) == 1
    assert (tmp_path / "a.md").stat().st_mtime_ns == before
    assert not (tmp_path / "b" / "c.md").exists()
