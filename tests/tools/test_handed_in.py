"""What classes really hand in: renamed, doubled, marked, cut off, hostile to whoever looks at it; and twice."""

import csv
import errno
import html
import inspect
import json
import os
import re
import shutil
import subprocess
import sys
import textwrap
from html.parser import HTMLParser
from pathlib import Path

import nbformat
import pytest
from nbgrader.api import Gradebook

import small_course
from small_course import LESSON_NAME, hand_in
from torchcourse.tools.classroom import elsewhere, execution, grade, own_time, plain_notebook, staging
from torchcourse.tools.classroom.grade import grade_class
from torchcourse.tools.classroom.preprocessors import HarmlessPages
from torchcourse.tools.repository import ROOT, nbgrader_config


@pytest.fixture(scope="module")
def course(tmp_path_factory) -> Path:
    return small_course.released(tmp_path_factory.mktemp("course"))


@pytest.fixture(scope="module")
def known(course):
    return {"1_lesson": small_course.notebook(course, solved=True)}


def other_cells(_cells, notebook):
    """As if every id and every trace of the build were lost."""
    notebook.cells = [nbformat.v4.new_code_cell(cell.source) for cell in notebook.cells]
    notebook.metadata = nbformat.NotebookNode()


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("1_lesson.ipynb", None),
        ("1_lesson (1).ipynb", None),
        ("Kim_1_lesson-final2.ipynb", None),
        ("Untitled.ipynb", None),
        ("1_Lesson (2).ipynb", other_cells),
        ("1_lesson-Copy1.ipynb", other_cells),
        ("1_lesson - copy.ipynb", other_cells),
    ],
)
def test_a_notebook_is_known_under_any_name(course, known, tmp_path, name, change):
    source = hand_in(course, tmp_path, "ada", change, solved=True, name=name).parent
    staged = staging.stage(source, known)
    assert [*staged.notebooks] == ["1_lesson"]
    assert bool(staged.notes) == (name != "1_lesson.ipynb")


def wrapped(place):
    (place / "homework").mkdir()
    (place / "homework" / "helper.py").touch()
    (place / "timestamp.txt").touch()
    (place / "__MACOSX").mkdir()
    (place / "1_lesson.ipynb").rename(place / "homework" / "1_lesson.ipynb")


def beside_a_file(place):
    wrapped(place)
    (place / "utils.py").touch()


def with_marks_of_macos(place):
    (place / "._1_lesson.ipynb").write_bytes(b"\0\5\26\7")


@pytest.mark.parametrize(
    ("change", "notes"),
    [
        (wrapped, []),
        (beside_a_file, ["the notebooks ran without utils.py, outside their folder homework"]),
        (with_marks_of_macos, []),
        (lambda place: (place / "1_lesson.ipynb").rename(place / "1_LESSON.IPYNB"), ["1_LESSON.IPYNB was taken for"]),
        (lambda place: (place / "1_lesson.ipynb").rename(place / "1_lesson.ipynb.txt"), ["ipynb.txt was taken for"]),
        (lambda place: (place / "1_lesson.ipynb").rename(place / "1.ipynb.json"), ["1.ipynb.json was taken for"]),
    ],
    ids=["in a folder", "in a folder beside a file", "with marks of macOS", "in capitals", "as text", "as JSON"],
)
def test_a_notebook_is_found_where_programs_put_it(course, known, tmp_path, change, notes):
    source = hand_in(course, tmp_path, "ada", solved=True).parent
    before = staging.digest(source, "")
    change(source)
    staged = staging.stage(source, known)
    assert [*staged.notebooks] == ["1_lesson"]
    assert all(part in note for part, note in zip(notes, staged.notes, strict=True)), staged.notes
    assert [*staged.files] == ["helper.py"] * (change in (wrapped, beside_a_file))
    (path,) = (one for one in source.rglob("*1*") if not one.name.startswith("._"))
    path.write_text("{}")
    assert staging.digest(source, "") != before


def test_what_lies_elsewhere_is_named(course, known, tmp_path):
    source = hand_in(course, tmp_path, "ada", solved=True).parent
    (source / "hw").mkdir()
    (source / "hw" / "2_more.ipynb").write_text("{}")
    assert "hw/2_more.ipynb was not read" in staging.stage(source, known).notes[0]
    (source / "1_lesson.ipynb").unlink()
    shutil.rmtree(source / "hw")
    (source / "work.zip").touch()
    assert staging.stage(source, known).notes == ["there is no notebook in the folder, but work.zip"]


def test_a_folder_without_a_notebook_below_it_stays_what_was_handed_in(known, tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "digits.csv").touch()
    (tmp_path / "answers.pdf").touch()
    staged = staging.stage(tmp_path, known)
    assert staged.notes == ["there is no notebook in the folder, but answers.pdf, data/digits.csv"]
    before = staging.digest(tmp_path, "")
    (tmp_path / "answers.pdf").write_text("more")
    assert staging.digest(tmp_path, "") != before


@pytest.mark.slow
@pytest.mark.parametrize("role", [None, 5, [], {"grade_id": None}])
def test_a_role_that_is_none_keeps_nothing_from_being_graded(course, tmp_path, role):
    path = hand_in(course, tmp_path, "ada", solved=True)
    path.write_bytes(changed(path.read_text(), {"metadata": {"nbgrader": role}}))
    (row,) = grade_class(tmp_path, root=course)
    assert (row.score, row.state) == (3, "needs manual grading"), row.note


def answer_in_the_check(cells, _notebook):
    cells["check-double"].source = "def double(number):\n    return 2 * number\n\n\n" + cells["check-double"].source


def check_and_next_exercise_merged(cells, notebook):
    cells["check-double"].source += '\n\nanswer = "green"'
    notebook.cells.remove(cells["color"])


def second_copy_filled_in(cells, notebook):
    copies = [nbformat.from_dict(cells[name]) for name in ("double", "check-double")]
    for copy in copies:
        copy.id += "-copy"
    copies[0].source = "def double(number):\n    return 2 * number"
    notebook.cells += copies


def answer_in_a_cell_below(_cells, notebook):
    notebook.cells.append(nbformat.v4.new_markdown_cell("Because I say so."))


TYPED_ELSEWHERE = {
    answer_in_the_check: "the check cell check-double defines double, which did not run",
    check_and_next_exercise_merged: "the check cell check-double defines answer, which did not run",
    second_copy_filled_in: "the cell double stands there 2 times with different texts",
    answer_in_a_cell_below: "the answer why is empty, but cells of the student's own are below it",
}


@pytest.mark.parametrize("change", TYPED_ELSEWHERE, ids=lambda change: change.__name__)
def test_what_is_typed_where_it_does_not_count_is_named(course, known, change):
    empty = nbgrader_config(ROOT, ROOT).ClearSolutions.text_stub
    for edited, wanted in ((change, 1), (None, 0)):
        found = elsewhere.notes(small_course.notebook(course, edited, solved=False), known["1_lesson"], empty)
        assert len(found) == wanted
    assert (
        TYPED_ELSEWHERE[change]
        in elsewhere.notes(small_course.notebook(course, change, solved=False), known["1_lesson"], empty)[0]
    )


@pytest.mark.slow
def test_what_is_typed_elsewhere_is_in_the_table(course, tmp_path):
    hand_in(course, tmp_path, "ada", answer_in_the_check, solved=False)
    hand_in(course, tmp_path, "bob", solved=True)
    ada, bob = grade_class(tmp_path, root=course)
    assert "1_lesson.ipynb: the check cell check-double defines double" in ada.note
    assert not bob.note


def test_what_belongs_elsewhere_is_named(course, known, tmp_path):
    source = hand_in(course, tmp_path, "ada", other_cells, solved=True, name="diary.ipynb").parent
    staged = staging.stage(source, known)
    assert staged.notebooks == {}
    assert staged.notes == ["diary.ipynb is no notebook of this lesson, and was ignored"]


def test_of_two_the_one_with_the_right_name_counts(course, known, tmp_path):
    hand_in(course, tmp_path, "ada", solved=False, name="1_lesson (1).ipynb")
    source = hand_in(course, tmp_path, "ada", solved=True).parent
    staged = staging.stage(source, known)
    assert [*staged.notebooks] == ["1_lesson"]
    assert "and not 1_lesson (1).ipynb" in staged.notes[0]


ENCODED = {
    "a byte-order mark": lambda text: text.encode("utf-8-sig"),
    "UTF-16": lambda text: text.encode("utf-16"),
    "Korean Windows": lambda text: text.replace("Some text.", "글").encode("cp949"),
    "old format": lambda text: nbformat.writes(nbformat.reads(text, as_version=3), version=3).encode(),
    "lines in lists": lambda text: text.encode(),
    "no ids": lambda text: without(text, "id").encode(),
    "no outputs": lambda text: without(text, "outputs").encode(),
    "no metadata": lambda text: changed(text, metadata=None),
    "cells without metadata": lambda text: changed(text, {"metadata": None}),
    "a title that is no text": lambda text: changed(text, metadata={"title": 5, "authors": "me"}),
    "a language that is none": lambda text: changed(text, metadata={"language_info": "python", "kernelspec": None}),
    "tags in one text": lambda text: changed(text, {"metadata": {"tags": "a, b", "name": 4, "collapsed": "yes"}}),
    "outputs that are none": lambda text: changed(text, {"outputs": [{"output_type": "pyout"}, 5, None]}),
    "an attachment that is none": lambda text: changed(text, {"attachments": 5}),
    "a version with a point": lambda text: changed(text, nbformat=4.0, nbformat_minor="5"),
    "no version": lambda text: changed(text, nbformat=None),
    "half a character": lambda text: changed(
        text, {"metadata": {"x": "\ud83d"}}, metadata={"torchcourse": {"\ud83d": ""}}
    ),
    "metadata of a wrong kind": lambda text: text.replace('"grade_id": "double"', '"grade_id": 7').encode(),
}


def without(text, part):
    content = json.loads(text)
    for cell in content["cells"]:
        cell.pop(part, None)
    return json.dumps(content, ensure_ascii=False)


def changed(text, cells=(), **notebook):
    """With entries of the notebook and of each cell changed; None takes an entry away where the format needs it."""
    content = json.loads(text) | notebook
    content["cells"] = [cell | dict(cells) for cell in content["cells"]]
    return json.dumps(
        {name: value for name, value in content.items() if value is not None or name == "metadata"}
    ).encode()


def test_half_a_character_costs_no_more_than_itself(course, tmp_path):
    path = hand_in(course, tmp_path, "ada", solved=True)
    content = json.loads(path.read_text())
    for cell in content["cells"]:
        cell["source"] = {"setup": "# \ud83d", "why": "because \ude00"}.get(cell["id"], cell["source"])
    path.write_text(json.dumps(content))
    (row,) = grade_class(tmp_path, root=course)
    assert (row.score, row.state) == (3, "needs manual grading"), row.note


@pytest.mark.parametrize("encoded", ENCODED.values(), ids=ENCODED)
def test_whatever_program_wrote_it_is_read(course, known, tmp_path, encoded):
    path = hand_in(course, tmp_path, "ada", solved=True)
    path.write_bytes(encoded(path.read_text(encoding="utf-8")))
    staged = staging.stage(path.parent, known)
    assert [*staged.notebooks] == ["1_lesson"]
    assert not any("could not be read" in note for note in staged.notes)


DAMAGED = {
    "empty": b"",
    "a page": b"<html>not found</html>",
    "cut off": b'{"cells": [{"cell_type": "code", "source": "x',
    "a list": b"[]",
    "a number": b"1e999",
    "deep": b"[" * 100_000,
    "no cells": b'{"nbformat": 4, "nbformat_minor": 5, "metadata": {}}',
    "cells that are none": b'{"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": [1, null]}',
    "a cell of a new kind": b'{"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": [{"cell_type": "x"}]}',
    "a format to come": b'{"nbformat": 99, "nbformat_minor": 0, "metadata": {}, "cells": []}',
    "bytes": bytes(range(256)) * 9,
    "a number without end": b'{"cells": [], "x": ' + b"9" * 5000 + b"}",
}


@pytest.mark.parametrize("data", DAMAGED.values(), ids=DAMAGED)
def test_what_is_no_notebook_is_named_and_costs_only_itself(course, known, tmp_path, data):
    source = hand_in(course, tmp_path, "ada", solved=True).parent
    (source / "quiz.ipynb").write_bytes(data)
    staged = staging.stage(source, known)
    assert [*staged.notebooks] == ["1_lesson"]
    assert re.match("quiz.ipynb (could not be read: |is no notebook of this lesson)", staged.notes[0])
    assert len(staged.notes[0]) < 200


SAID = {
    "a merge of git's": b'<<<<<<< HEAD\n{"cells": []}\n=======\n>>>>>>> ada\n',
    "more than 500,000 parts": b'{"cells": [], "metadata": {"x": [' + b"{}," * 500_000 + b"{}]}}",
    "it has 5001 cells": b'{"worksheets": [{"cells": [' + b'{"cell_type": "code", "input": ""},' * 5000 + b"{}]}]}",
}


@pytest.mark.parametrize("said", SAID)
def test_it_is_said_why_a_notebook_is_not_read(course, known, tmp_path, said):
    source = hand_in(course, tmp_path, "ada", solved=True).parent
    (source / "quiz.ipynb").write_bytes(SAID[said])
    assert said in staging.stage(source, known).notes[0]


def test_brackets_in_texts_are_no_parts(monkeypatch):
    monkeypatch.setattr(plain_notebook, "MOST_PARTS", 3)
    assert not plain_notebook.has_too_many_parts(json.dumps({"a": ["[[[[{{{{", '\\\\"[[[[', "\\"]}))
    assert plain_notebook.has_too_many_parts('{"a": [[[]]]}')


def folders_without_end(place):
    (place / Path(*["f"] * 150)).mkdir(parents=True)


def files_without_end(place):
    for number in range(60):
        (place / f"{number}.ipynb").write_text("{}")
        with (place / f"{number}.bin").open("wb") as file:
            file.truncate(staging.MOST)


def links_in_circles(place):
    (place / "circle").symlink_to("circle")
    (place / "back").symlink_to(".")
    (place / "helper.py").write_text("")


@pytest.mark.parametrize(
    ("fill", "notes"),
    [
        (folders_without_end, []),
        (files_without_end, ["61 notebooks are in the folder, and 50 of them were read", "without 0.bin"]),
        (links_in_circles, []),
    ],
    ids=["folders", "files", "links"],
)
def test_a_folder_without_end_is_read_to_where_it_is_looked_at(course, known, tmp_path, fill, notes):
    source = hand_in(course, tmp_path, "ada", solved=True).parent
    fill(source)
    before = sys.getrecursionlimit()
    sys.setrecursionlimit(len(inspect.stack()) + 120)  # of folders as deep as 1000, pytest could not clean up
    try:
        digest = staging.digest(source, "")
    finally:
        sys.setrecursionlimit(before)
    staged = staging.stage(source, known)
    assert [*staged.notebooks] == ["1_lesson"]
    assert [*staged.files] == ["helper.py"] * (fill is links_in_circles)
    assert [note for note in notes if note not in "; ".join(staged.notes)] == []
    assert staging.digest(source, "") == digest
    (source / "1_lesson.ipynb").write_text("{}")
    assert staging.digest(source, "") != digest


def test_folders_that_may_not_be_read_are_named_and_the_others_graded(course, known, tmp_path, monkeypatch, capsys):
    for student in ("ada", "bob", "cid"):
        hand_in(course, tmp_path, student, solved=True)
    (tmp_path / "submitted" / "a file").touch()
    listed = Path.iterdir

    def list_it(path):
        if path.name == "bob":
            raise PermissionError(errno.EACCES, "Permission denied")
        return listed(path)

    monkeypatch.setattr(Path, "iterdir", list_it)  # as for anybody but root
    assert grade.find_submissions(tmp_path, None, course) == [("ada", LESSON_NAME), ("cid", LESSON_NAME)]
    assert "submitted/bob was not graded: it cannot be read (Permission denied). Give" in capsys.readouterr().out
    monkeypatch.setattr(os, "access", lambda path, _mode: path.parent.name != "cid")
    for student, reason in (("cid", "the folder cannot be read"), ("link", "the folder is a link")):
        if student == "link":
            (tmp_path / "submitted" / "link").symlink_to("ada")
        with pytest.raises(staging.Refused, match=reason):
            staging.stage(tmp_path / "submitted" / student / LESSON_NAME, known)


def test_a_notebook_that_takes_too_long_to_read_is_not_called_damaged(course, tmp_path, monkeypatch):
    """Nor does it leave the next one without a limit."""

    def validate(*_notebook, **_named):
        while True:
            pass

    for name in ("1_lesson.ipynb", "copy.ipynb"):
        hand_in(course, tmp_path, "ada", solved=True, name=name)
    monkeypatch.setattr(nbformat, "validate", validate)
    monkeypatch.setattr(own_time, "MOST", 0.1)
    with pytest.raises(own_time.TooLong), own_time.limited():
        staging.stage(tmp_path / "submitted" / "ada" / LESSON_NAME, {})


CELL = '{"cell_type": "raw", "metadata": {}, "source": "all my work"'
TWICE = {
    "cells": f'"cells": [{CELL}}}], "cells": []',
    "source": f'"cells": [{CELL}, "source": ""}}]',
    "xxxxx": f'"cells": [], "{"x" * 999}\\udc80": 1, "{"x" * 999}\\udc80": 2',
}


@pytest.mark.parametrize("entry", TWICE)
def test_what_stands_twice_is_named_and_not_left_out(course, known, tmp_path, entry):
    source = hand_in(course, tmp_path, "ada", solved=True).parent
    (source / "quiz.ipynb").write_text(f'{{"nbformat": 4, "nbformat_minor": 2, "metadata": {{}}, {TWICE[entry]}}}')
    staged = staging.stage(source, known)
    assert re.search(f"quiz.ipynb could not be read: it has '{entry}x*' twice in one place", staged.notes[0])
    assert len(staged.notes[0]) < 200


def test_a_link_is_not_followed(course, known, tmp_path):
    secret = hand_in(course, tmp_path, "bob", solved=True)
    source = tmp_path / "submitted" / "ada" / LESSON_NAME
    source.mkdir(parents=True)
    (source / "1_lesson.ipynb").symlink_to(secret)
    staged = staging.stage(source, known)
    assert staged.notebooks == {}
    assert "could not be read: it is no file" in staged.notes[0]


def test_a_file_that_is_too_large_is_not_read(course, known, tmp_path, monkeypatch):
    path = hand_in(course, tmp_path, "ada", solved=True)
    monkeypatch.setattr(staging, "MOST", 1000)
    assert "at most" in staging.stage(path.parent, known).notes[0]


SCRIPTS = [
    "<script>window.ran = 1</script>",
    "<img src=x onerror='window.ran = 1'>",
    "<svg onload='window.ran = 1'></svg>",
    "<iframe srcdoc='&lt;script&gt;window.ran = 1&lt;/script&gt;'></iframe>",
    "<a href='javascript:window.ran = 1'>look</a>",
    "[look](javascript:window.ran=1)",
    "[look]( JavaScript&colon;window.ran=1)",
    "[look](&#106;avascript:window.ran=1)",
    "[look](java&Tab;script:window.ran=1)",
    "[look][1]\n\n[1]: <javascript:window.ran=1>",
    "[look][2]\n\n[2]:\n javascript:window.ran=1",
    "[look](data:text/html,<script>window.ran=1</script>)",
    "<javascript:window.ran=1>",
    "<div style='background: url(javascript:window.ran)' onclick='window.ran = 1'>x</div>",
    "<details open ontoggle='window.ran = 1'><summary>x</summary></details>",
]


def dangerous(cells, notebook):
    cells["why"].source = "\n\n".join(SCRIPTS)
    cells["setup"].source += "\nfrom IPython.display import HTML, SVG, Javascript, Markdown, display\n" + "\n".join(
        [f"display(HTML({one!r}), Markdown({one!r}))" for one in SCRIPTS]
        + ["display(Javascript('window.ran = 1'))", "print('<script>window.ran = 1</script>')"]
        + ["display(SVG('<svg xmlns=\"http://www.w3.org/2000/svg\"><script>window.ran = 1</script></svg>'))"]
        + ["display({'image/png': '\"><script>window.ran = 1</script>'}, raw=True)"]
        + ["display({'text/plain': 'x'}, raw=True, metadata={'image/png': {'alt': '\"><script>window.ran</script>'}})"]
    )
    notebook.metadata["title"] = "</title><script>window.ran = 1</script>"
    notebook.cells[0].metadata["tags"] = ['"><script>window.ran = 1</script>']


def warned(cells, _notebook):
    cells["double"].source += "\nraise ValueError('<script>window.ran = 1</script>')"


class Running(HTMLParser):
    """Collects what a page would run."""

    def __init__(self):
        super().__init__()
        self.found, self._in_script = [], False

    def handle_starttag(self, tag, attrs):
        self._in_script = tag == "script"
        for name, value in attrs:
            plain = re.sub(r"\s", "", value or "").lower()
            if name.startswith("on") or "javascript:" in plain or plain.startswith("data:text") or name == "srcdoc":
                self.found.append((tag, name, value))

    def handle_endtag(self, tag):
        self._in_script = False

    def handle_data(self, data):
        if self._in_script and "window.ran" in data:
            self.found.append(("script", data))


@pytest.fixture(scope="module")
def class_folder(course, tmp_path_factory):
    """A class of one lesson, graded once, and once more after a student was enrolled."""
    folder = tmp_path_factory.mktemp("class")
    hand_in(course, folder, "ada", solved=True, name="1_lesson (1).ipynb")
    hand_in(course, folder, "x[1]", solved=True)
    hand_in(course, folder, "hostile", dangerous, solved=True)
    hand_in(course, folder, "error", warned, solved=True)
    hand_in(course, folder, "=cmd()", solved=False)
    hand_in(course, folder, "lost", solved=True, lesson="01_smal")
    grade_class(folder, root=course)
    with Gradebook(f"sqlite:///{folder}/gradebook.db", "torchcourse") as book:
        book.add_student("absent")
    grade_class(folder, root=course)
    return folder


def rows(folder):
    with (folder / "grades.csv").open(encoding="utf-8", newline="") as file:
        return {row["student"]: row for row in csv.DictReader(file)}


@pytest.mark.slow
def test_odd_names_of_files_and_students_cost_no_point(class_folder):
    found = rows(class_folder)
    assert [found[name]["score"] for name in ("ada", "x[1]", "hostile")] == ["3.0"] * 3
    assert "was taken for 1_lesson.ipynb" in found["ada"]["note"]


@pytest.mark.slow
def test_who_handed_in_nothing_is_in_the_table(class_folder):
    assert rows(class_folder)["absent"]["state"] == "not handed in"
    assert rows(class_folder)["absent"]["score"] == ""


def test_a_name_is_no_formula_for_a_spreadsheet(class_folder):
    assert "'=cmd()" in rows(class_folder)


@pytest.mark.parametrize("student", ["hostile", "error"])
def test_nothing_handed_in_runs_in_a_browser(class_folder, student):
    page = Running()
    (path,) = (class_folder / "feedback" / student).rglob("*.html")
    page.feed(path.read_text(encoding="utf-8"))
    assert page.found == []


def six(cells, _notebook):
    cells["double"].source = "def double(number):\n    return 6"


def test_pages_for_students_keep_the_hidden_tests(course, tmp_path):
    hand_in(course, tmp_path, "ada", six, solved=True)
    grade_class(tmp_path, root=course)
    (page,) = (tmp_path / "feedback").rglob("*.html")
    text = html.unescape(re.sub(r"<[^>]+>", "", page.read_text(encoding="utf-8")))
    assert "score = 2 * (double(3) == 6)" in text
    assert "This check ended with AssertionError: hidden words" in text
    secrets = ("HIDDEN", "twice(-1)", 'answer == "green"')
    assert [secret for secret in secrets if secret in text] == []
    (teachers,) = (tmp_path / "autograded").rglob("*.ipynb")
    cells = "".join(cell.source for cell in nbformat.read(teachers, as_version=4).cells)
    assert [secret for secret in secrets if secret not in cells] == []


def test_links_to_pages_stay():
    text = "[a](https://pytorch.org/x_(y)) and [b](page.html#part), [c]: mailto:a@b.example `x[1](2)`"
    cell = nbformat.v4.new_markdown_cell(text)
    assert HarmlessPages().preprocess_cell(cell, {}, 0)[0].source == text


def test_a_folder_that_is_no_lesson_is_named(class_folder, course, capsys):
    grade.find_submissions(class_folder, None, course)
    assert "submitted/lost/01_smal was not graded: the course has no such lesson. Did you mean 01_small?" in (
        capsys.readouterr().out
    )


@pytest.fixture
def counted(monkeypatch):
    """How many notebooks are run."""
    ran = []
    execute = execution.execute
    monkeypatch.setattr(execution, "execute", lambda notebook: (ran.append(1), execute(notebook))[1])
    return ran


@pytest.mark.slow
def test_only_what_changed_is_graded_again(class_folder, course, counted):
    before = rows(class_folder)
    grade_class(class_folder, root=course)
    assert counted == []
    hand_in(course, class_folder, "ada", solved=False, name="1_lesson (1).ipynb")
    grade_class(class_folder, root=course)
    assert len(counted) == 1
    after = rows(class_folder)
    assert after["ada"]["score"] == "0.0"
    assert {name: row for name, row in after.items() if name != "ada"} == {
        name: row for name, row in before.items() if name != "ada"
    }


def test_one_student_alone_leaves_the_others_as_they_are(class_folder, course, counted):
    before = rows(class_folder)
    (found,) = grade_class(class_folder, root=course, student="x[1]", again=True)
    assert (found.student, found.score) == ("x[1]", 3.0)
    assert len(counted) == 1
    assert rows(class_folder) == before


@pytest.mark.slow
def test_the_model_answer_stands_below_an_answer_in_words_whatever_its_cells_are_called(course, tmp_path):
    def take_the_name(_cells, notebook):
        notebook.cells[0].id = "model-why"

    hand_in(course, tmp_path, "ada", take_the_name, solved=True)
    (row,) = grade_class(tmp_path, root=course)
    assert row.score == 3
    cells = nbformat.read(tmp_path / "autograded" / "ada" / LESSON_NAME / "1_lesson.ipynb", as_version=4).cells
    place = next(number for number, cell in enumerate(cells) if cell.id == "why")
    assert cells[place + 1].source == "**Model answer and points**\n\nBecause the model answer says so."
    assert (cells[0].id, cells[place + 1].id) == ("model-why", "model-why-again")


def test_what_is_graded_by_hand_follows_without_running_anything(class_folder, course, counted):
    with Gradebook(f"sqlite:///{class_folder}/gradebook.db", "torchcourse") as book:
        given = book.find_grade("why", "1_lesson", LESSON_NAME, "hostile")
        given.manual_score, given.needs_manual_grade = 2.5, False
        book.find_comment("why", "1_lesson", LESSON_NAME, "hostile").manual_comment = "Well argued."
        book.db.commit()
    grade_class(class_folder, root=course)
    assert counted == []
    row = rows(class_folder)["hostile"]
    assert (row["score"], row["state"]) == ("5.5", "graded")
    (page,) = (class_folder / "feedback" / "hostile").rglob("*.html")
    assert "Well argued." in page.read_text(encoding="utf-8")


def test_a_record_that_is_damaged_grades_all_again(class_folder, course, counted):
    before = rows(class_folder)
    (class_folder / "grading.json").write_text('{"ada/01_sm')
    grade_class(class_folder, root=course, student="x[1]")
    assert len(counted) == 1
    assert rows(class_folder) == before


@pytest.mark.slow
def test_a_grader_that_is_killed_goes_on_where_it_was(course, tmp_path):
    for number in range(4):
        hand_in(course, tmp_path, f"student-{number}", solved=True)
    program = f"""
        import os, pathlib
        from torchcourse.tools.classroom import grade, grader
        once = grader.Grader.grade
        done = []
        def killed(self, *key):
            if len(done) == 2: os.kill(os.getpid(), 9)
            done.append(key)
            return once(self, *key)
        grader.Grader.grade = killed
        grade.grade_class(pathlib.Path({str(tmp_path)!r}), root=pathlib.Path({str(course)!r}))
        """
    ended = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], capture_output=True, env=os.environ.copy())
    assert ended.returncode == -9, ended.stderr
    states = [row["state"] for row in rows(tmp_path).values()]
    assert states == ["needs manual grading"] * 2 + ["not graded yet"] * 2
    again = []
    once = execution.execute
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(execution, "execute", lambda notebook: (again.append(1), once(notebook))[1])
        grade_class(tmp_path, root=course)
    assert len(again) == 2
    assert [row["score"] for row in rows(tmp_path).values()] == ["3.0"] * 4


def stamp_that_is_a_link(place):
    (place.parents[2] / "secret.txt").write_text("the teacher's own")
    (place / "timestamp.txt").symlink_to(place.parents[2] / "secret.txt")


def stamp_without_end(place):
    with (place / "timestamp.txt").open("wb") as file:
        file.truncate(2**40)


def file_without_end(place):
    with (place / "data.bin").open("wb") as file:
        file.truncate(2**40)


def odd_names(place):
    for name in (b"caf\xe9.ipynb", b"\x1b]0;x\x07.ipynb", b"a\nb.ipynb", "\u202e.ipynb".encode()):
        Path(os.fsdecode(os.fsencode(place) + b"/" + name)).write_text("{}")


def a_module_of_ones_own(place):
    (place / "own").mkdir()
    (place / "own" / "twice.py").write_text("def double(number):\n    return 2 * number\n")
    (place / "green.txt").write_text("green")
    notebook = nbformat.read(place / "1_lesson.ipynb", as_version=4)
    cells = {cell.id: cell for cell in notebook.cells}
    cells["double"].source, cells["color"].source = "from own.twice import double", "answer = open('green.txt').read()"
    nbformat.write(notebook, place / "1_lesson.ipynb")


FOLDERS = {
    "a module of one's own": a_module_of_ones_own,
    "a pipe as timestamp": lambda place: os.mkfifo(place / "timestamp.txt"),
    "a folder as timestamp": lambda place: (place / "timestamp.txt").mkdir(),
    "a link as timestamp": stamp_that_is_a_link,
    "a timestamp of a terabyte": stamp_without_end,
    "a file of a terabyte": file_without_end,
    "a pipe as notebook": lambda place: os.mkfifo(place / "quiz.ipynb"),
    "names that a terminal obeys": odd_names,
}


@pytest.fixture(scope="module")
def odd_folders(course, tmp_path_factory):
    folder = tmp_path_factory.mktemp("odd")
    for name, change in FOLDERS.items():
        change(hand_in(course, folder, name, solved=True).parent)
    for name, change in ROLES.items():
        hand_in(course, folder, name, change, solved=True)
    (folder / "submitted" / "neighbor").mkdir()
    (folder / "submitted" / "neighbor" / LESSON_NAME).symlink_to(folder / "submitted" / "a file of a terabyte")
    nameless = Path(os.fsdecode(os.fsencode(folder) + b"/submitted/\xb1\xe8")) / LESSON_NAME  # as old archives have it
    nameless.mkdir(parents=True)
    for _ in range(2):
        found = {row.student: row for row in grade_class(folder, root=course)}
    return folder, found


def changed_role(**changes):
    def change(cells, _notebook):
        cells["check-double"].metadata.nbgrader.update(changes)

    return change


ROLES = {
    "a check that is no grade": changed_role(grade=False),
    "a check that is an answer": changed_role(grade=False, solution=True),
    "a check that a person grades": changed_role(solution=True, locked=False),
    "a check worth a thousand": changed_role(points=1000),
    "a check worth a word": changed_role(points="many"),
    "a check worth infinity": changed_role(points=float("inf")),
    "a check that is a task": changed_role(task=True),
    "a role of an old form": changed_role(schema_version=1),
    "a role of a form to come": changed_role(schema_version=99),
    "a grade id that is a list": lambda cells, _: cells["setup"].metadata.update(nbgrader={"grade_id": ["x"]}),
    "a cell id that is HTML": lambda _, notebook: notebook.cells[0].update(id="<b>"),
}


def test_a_notebook_of_too_many_cells_is_not_read(course, known, tmp_path, monkeypatch):
    path = hand_in(course, tmp_path, "ada", solved=True)
    monkeypatch.setattr(staging, "MOST_CELLS", 3)
    assert "cells, and at most 3 are read" in staging.stage(path.parent, known).notes[0]


@pytest.mark.parametrize("student", [*FOLDERS, *ROLES])
def test_an_odd_folder_or_role_costs_no_point(odd_folders, student):
    row = odd_folders[1][student]
    assert (row.score, row.max_score) == (3, 6), row.note
    assert row.note.isprintable()


def test_a_link_in_the_place_of_a_timestamp_shows_nothing(odd_folders):
    assert not [*odd_folders[0].glob("*/a link as timestamp/*/timestamp.txt")][1:]


@pytest.mark.parametrize(("student", "why"), [("neighbor", "a link"), (r"\udcb1\udce8", "in no encoding")])
def test_a_folder_that_cannot_be_taken_is_in_the_table_with_the_reason(odd_folders, student, why):
    folder, found = odd_folders
    assert found[student].state == rows(folder)[student]["state"] == "could not be graded"
    assert why in found[student].note


@pytest.mark.slow
def test_a_text_that_keeps_the_grader_busy_is_named(course, tmp_path, monkeypatch):
    def sanitize(*_):
        while True:
            pass

    monkeypatch.setattr(HarmlessPages, "sanitize_html_tags", sanitize)
    monkeypatch.setattr(own_time, "MOST", 0.2)
    hand_in(course, tmp_path, "ada", solved=True)
    (row,) = grade_class(tmp_path, root=course)
    assert row.state == "could not be graded"
    assert row.note.startswith("its texts kept the grader busy")
