"""Scores on their way into Moodle and Canvas: into the right rows, nothing else, and only those that are finished."""

import csv

import pytest

from torchcourse.tools.classroom import gradebook, roster, scores
from torchcourse.tools.classroom.roster import Grade

LESSON = "04_monitoring_and_checkpoints"
MOODLE = """\
\ufeffIdentifier,"Full name","Email address",Status,Grade,"Maximum grade","Grade can be changed",\
"Last modified (submission)","Last modified (grade)","Feedback comments"
"Participant 4711","Ada Lovelace",ada@example.org,"Submitted for grading - ",-,100.00,Yes,"Monday, 1 March 2027",-,
"Participant 4712","민 Kim",kim@example.org,"Submitted for grading - ",-,100.00,Yes,"Monday, 1 March 2027",-,
"Participant 4713","Grace Hopper",grace@example.org,"No submission",-,100.00,Yes,-,-,"said ""well"", on paper"
"Participant 4714","Who Else",else@example.org,"No submission",7.00,100.00,Yes,-,-,
"""
CANVAS = """\
Student,ID,SIS User ID,SIS Login ID,Section,Start here (310),Monitoring and checkpoints (311),Current Score
,,,,,Manual Posting,,(read only)
    Points Possible,,,,,29,10,(read only)
"Lovelace, Ada",901,,ada,Algorithms,20,,69
"Kim, 민",902,kim,,Algorithms,,5,0
"Hopper, Grace",903,grace,grace,Algorithms,1,2,3
"Else, Who",904,,else,Algorithms,,,
"Student, Test",905,,,Algorithms,,,
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("class")
    grades = [
        Grade("ada", LESSON, "graded", 15.0, 20.0),
        Grade("kim", LESSON, "graded", 0.0, 20.0),
        Grade("grace", LESSON, "needs manual grading", 9.0, 20.0),
        Grade("turing", LESSON, "not handed in", None, None),
        Grade("else", "00_start_here", "graded", 1.0, 2.0),
    ]
    roster.write(folder / "grades.csv", {(grade.student, grade.lesson): grade for grade in grades})
    with gradebook.at_work(), gradebook.opened(folder) as book:
        for student, first, last in (("ada", "Ada", "Lovelace"), ("kim", "민", "Kim"), ("grace", "Grace", "Hopper")):
            book.add_student(student, first_name=first, last_name=last, email=f"{student}@example.org")
    return folder


def filled(folder, tmp_path, text, **options):
    table = tmp_path / "table.csv"
    table.write_bytes(text.encode())
    lines = scores.fill(table, LESSON, folder, **options)
    assert table.read_bytes() == text.encode()
    made = (folder / "scores" / "table.csv").read_text(encoding="utf-8")
    return made, list(csv.reader(made.splitlines())), lines


def test_moodles_worksheet_gets_finished_scores_on_its_own_scale(folder, tmp_path):
    text, rows, lines = filled(folder, tmp_path, MOODLE)
    before = list(csv.reader(MOODLE.splitlines()))
    assert text.startswith("\ufeff")
    assert [row[4] for row in rows[1:]] == ["75.00", "0.00", "-", "7.00"]
    assert [row[:4] + row[5:] for row in rows] == [row[:4] + row[5:] for row in before]
    assert "grace was left as it is: needs manual grading" in lines
    assert "Who Else is not in the class, and was left as it is" in lines
    assert "turing is not in table.csv" in lines


def test_canvas_gradebook_gets_them_in_the_column_of_the_assignment(folder, tmp_path):
    _, rows, _ = filled(folder, tmp_path, CANVAS)
    before = list(csv.reader(CANVAS.splitlines()))
    assert [row[6] for row in rows[1:]] == ["", "10", "7.50", "0.00", "2", "", ""]
    assert [row[:6] + row[7:] for row in rows] == [row[:6] + row[7:] for row in before]
    assert filled(folder, tmp_path, CANVAS, column="311")[1] == rows


def test_a_table_with_commas_in_its_numbers_keeps_them(folder, tmp_path):
    text = MOODLE.replace("100.00", '"100,00"').replace("\n", "\r\n")
    made, rows, _ = filled(folder, tmp_path, text)
    assert [row[4] for row in rows[1:3]] == ["75,00", "0,00"]
    assert len(made.splitlines()) == len(text.splitlines())


def test_names_find_students_where_nothing_else_does_unless_two_share_one(folder, tmp_path):
    text = MOODLE.replace('"Email address",', "").replace("ada@example.org,", "").replace("@example.org,", "x,")
    text = text.replace('"민 Kim",kimx,', '"Kim 민",').replace("gracex,", "").replace("elsex,", "")
    _, rows, _ = filled(folder, tmp_path, text)
    assert [row[3] for row in rows[1:3]] == ["75.00", "0.00"]


@pytest.mark.parametrize(
    ("text", "column", "words"),
    [
        ("a,b\n1,2\n", None, "neither Moodle's"),
        ("", None, "is empty"),
        (CANVAS, "3", "not clear; name one with --column. The table has 'Start here (310)'"),
        (CANVAS, "final", "not clear"),
    ],
)
def test_a_table_that_cannot_be_filled_is_named(folder, tmp_path, text, column, words):
    with pytest.raises(ValueError) as error:
        filled(folder, tmp_path, text, column=column)
    assert words in str(error.value)
