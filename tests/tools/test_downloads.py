"""Downloads of Moodle and Canvas, sorted into the folder of a class; and archives that try to get out of it."""

import zipfile
from pathlib import Path

import pytest

import small_course
from torchcourse.tools.classroom import course_folder, downloads, staging
from torchcourse.tools.classroom.downloads import Member, parse

LESSON = small_course.LESSON_NAME
ROSTER = """id,first_name,last_name,email
ada,Ada,Lovelace,ada@b.example
kim,민수,김,kim@b.example
kim1,Jo,Kim,jo@b.example
kim2,Jo,Kim,jo2@b.example
oneill,Sean,O'Neill,sean@b.example
"""


@pytest.mark.parametrize(
    ("path", "member"),
    [
        ("Ada Lovelace_4711_assignsubmission_file_/quiz.ipynb", Member("Ada Lovelace", "4711", "quiz.ipynb")),
        ("Ada Lovelace_4711_assignsubmission_file_quiz.ipynb", Member("Ada Lovelace", "4711", "quiz.ipynb")),
        ("Week 1/Ada Lovelace_4711_assignsubmission_file_/a/quiz.ipynb", Member("Ada Lovelace", "4711", "quiz.ipynb")),
        ("lovelaceada_311_9001_quiz-1.ipynb", Member("lovelaceada", "311", "quiz-1.ipynb")),
        ("lovelaceada_LATE_311_9001_1_start_here.ipynb", Member("lovelaceada", "311", "1_start_here.ipynb")),
        ("민수 김_12_assignsubmission_file_/quiz.ipynb", Member("민수 김", "12", "quiz.ipynb")),
        ("lovelaceada_311_9001_notes.pdf", None),
        ("quiz.ipynb", None),
        ("__MACOSX/Ada Lovelace_4711_assignsubmission_file_/._quiz.ipynb", None),
    ],
)
def test_whose_a_file_is(path, member):
    assert parse(path) == member


@pytest.fixture(scope="module")
def course(tmp_path_factory) -> Path:
    return small_course.released(tmp_path_factory.mktemp("course"))


@pytest.fixture(scope="module")
def made(course, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("class")
    (folder / "students.csv").write_text(ROSTER, encoding="utf-8")
    course_folder.make(folder, folder / "students.csv", course)
    return folder


def archive(folder: Path, names: list[str], data: bytes = b"{}") -> Path:
    path = folder / "downloads.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name in names:
            file.writestr(name, data)
    return path


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("Ada Lovelace_4711_assignsubmission_file_/quiz.ipynb", "ada"),
        ("lovelaceada_311_9001_quiz.ipynb", "ada"),
        ("김민수_LATE_12_9_quiz.ipynb", "kim"),
        ("Sean O'Neill_13_assignsubmission_file_/quiz.ipynb", "oneill"),
        ("Jo Kim_14_assignsubmission_file_/quiz.ipynb", "Jo Kim-14"),
        ("Eve_15_assignsubmission_file_/quiz.ipynb", "Eve-15"),
        ("../../Eve_16_assignsubmission_file_/quiz.ipynb", "Eve-16"),
        ("..\\..\\Eve_17_assignsubmission_file_/quiz.ipynb", "Eve-17"),
        ("/etc/Eve_18_assignsubmission_file_/quiz.ipynb", "Eve-18"),
    ],
)
def test_each_notebook_lands_with_its_student(course, made, tmp_path, name, place):
    (line,) = downloads.collect(archive(tmp_path, [name]), LESSON, made, course)
    assert f"is {place}'s" in line
    assert (made / "submitted" / place / LESSON / "quiz.ipynb").read_bytes() == b"{}"
    assert sorted(tmp_path.iterdir()) == [tmp_path / "downloads.zip"]


def contents(place: Path) -> dict[str, bytes]:
    return {path.relative_to(place).as_posix(): path.read_bytes() for path in place.rglob("*") if path.is_file()}


def test_what_comes_later_takes_the_place_of_what_came_before_and_nothing_is_lost(course, made, tmp_path):
    """Canvas numbers what is handed in again, and browsers and people have their own ways to name it."""
    lesson = (course / "notebooks" / LESSON / "1_lesson.ipynb").read_bytes()
    numbered = {"1_lesson.ipynb": b"\n", "1_lesson-1.ipynb": b"\n\n", "my work.ipynb": b"\n\n\n"}
    said = []
    for name, more in [*numbered.items(), ("my work.ipynb", b"\n\n\n")]:
        path = archive(tmp_path, [f"zoe_311_9001_{name}"], lesson + more)
        said += downloads.collect(path, LESSON, made, course)
    assert contents(made / "submitted" / "zoe-311" / LESSON) == {
        "my work.ipynb": lesson + b"\n\n\n",
        ".earlier/1_lesson.ipynb": lesson + b"\n",
        ".earlier/1_lesson-1.ipynb": lesson + b"\n\n",
    }
    assert [line.partition("roster")[2] for line in said] == [
        "",
        ", in the place of 1_lesson.ipynb, which is in .earlier now",
        ", in the place of 1_lesson-1.ipynb, which is in .earlier now",
        "",
    ]


def test_what_cannot_be_read_gives_way_by_its_name_alone(course, made, tmp_path):
    for name, data in [("1_lesson", b"{}"), ("other", b"{}"), ("1_lesson", b"[]"), ("1_lesson", b"")]:
        downloads.collect(archive(tmp_path, [f"yun_12_9_{name}.ipynb"], data), LESSON, made, course)
    assert contents(made / "submitted" / "yun-12" / LESSON) == {
        "1_lesson.ipynb": b"",
        "other.ipynb": b"{}",
        ".earlier/1_lesson.ipynb": b"{}",
        ".earlier/1_lesson (2).ipynb": b"[]",
    }


def test_two_notebooks_that_have_one_name_are_both_graded(course, made, tmp_path):
    lesson = (course / "notebooks" / LESSON / "1_lesson.ipynb").read_bytes()
    for data in (lesson, b"{}"):
        downloads.collect(archive(tmp_path, ["xu_12_9_mine.ipynb"], data), LESSON, made, course)
    assert contents(made / "submitted" / "xu-12" / LESSON) == {"mine.ipynb": lesson, "mine (2).ipynb": b"{}"}


def test_two_of_one_name_in_an_archive_are_both_kept(course, made, tmp_path):
    names = [f"Will_13_assignsubmission_file_/{folder}/1_lesson.ipynb" for folder in "ab"]
    said = downloads.collect(archive(tmp_path, names, b"{}"), LESSON, made, course)
    assert said[1].endswith(", kept as 1_lesson (2).ipynb beside a file of the same name")
    assert {"1_lesson.ipynb", "1_lesson (2).ipynb"} == contents(made / "submitted" / "Will-13" / LESSON).keys()


def test_a_file_that_unpacks_without_end_is_left_out(course, made, tmp_path, monkeypatch):
    monkeypatch.setattr(staging, "MOST", 1000)
    path = archive(tmp_path, ["Bomb_1_assignsubmission_file_/quiz.ipynb"], b"0" * 10**6)
    assert "more than" in downloads.collect(path, LESSON, made, course)[0]
    assert not (made / "submitted" / "Bomb-1").exists()


def test_too_many_files_are_refused(course, made, tmp_path, monkeypatch):
    monkeypatch.setattr(downloads, "MOST_FILES", 1)
    with pytest.raises(ValueError, match="holds 2 files, and at most 1"):
        downloads.collect(archive(tmp_path, ["a", "b"]), LESSON, made, course)


@pytest.mark.parametrize("data", [b"", b"PK\x03\x04cut off", b"<html>"])
def test_what_is_no_archive_is_one_sentence(course, made, tmp_path, data):
    (tmp_path / "downloads.zip").write_bytes(data)
    with pytest.raises(ValueError, match="cannot be read as a zip file"):
        downloads.collect(tmp_path / "downloads.zip", LESSON, made, course)


def test_a_lesson_that_does_not_exist_is_named(course, made, tmp_path):
    with pytest.raises(ValueError, match="no lesson '01_smal'"):
        downloads.collect(archive(tmp_path, []), "01_smal", made, course)
