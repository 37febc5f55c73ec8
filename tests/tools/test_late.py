"""Late work: due dates and a rule in the folder of a class, and the same points in every output."""

import time as clock
from datetime import UTC, datetime

import pytest

import small_course
from torchcourse.tools.classroom import gradebook, late
from torchcourse.tools.classroom.grade import grade_class

LESSON = small_course.LESSON_NAME


@pytest.mark.parametrize(
    ("rule", "hours", "lost"),
    [
        *(("none", 99, 0), ("zero", 0.01, 8), ("zero", 0, 0), ("zero", -5, 0)),
        *(("25% per day", 1, 2), ("25 % per day", 24, 2), ("25% per day", 24.1, 4), ("25% per day", 999, 8)),
    ],
)
def test_what_late_work_costs(tmp_path, rule, hours, lost):
    (tmp_path / late.NAME).write_text(f'late = "{rule}"\n', encoding="utf-8")
    assert late.read(tmp_path).penalty(8.0, hours * 3600) == pytest.approx(lost)


def test_a_date_has_a_zone_and_the_whole_of_its_day(tmp_path):
    text = "[due]\na = 2027-04-01T23:59:00+02:00\nb = 2027-04-01\n"
    (tmp_path / late.NAME).write_text(text, encoding="utf-8")
    due = late.read(tmp_path, ["a", "b"]).due
    assert due["a"] == datetime(2027, 4, 1, 21, 59, tzinfo=UTC)
    assert due["b"] == datetime(2027, 4, 1, 23, 59, 59).astimezone()


@pytest.mark.skipif(not hasattr(clock, "tzset"), reason="Windows has no zone of its own for a process")
@pytest.mark.parametrize("zone", [" UTC", " +0900", " +09:00", "+0900", "Z", "", " Asia/Seoul", " KST"])
def test_a_timestamp_is_read_with_its_zone(zone, monkeypatch):
    """nbgrader itself writes KST where its exchange is set to Seoul, and would read it as UTC: nine hours late."""
    monkeypatch.setenv("TZ", "KST-9")
    clock.tzset()
    seoul = zone not in (" UTC", "Z", "")
    text = "2027-04-02 06:59:00.5" if seoul else "2027-04-01 21:59:00.5"
    try:
        assert late.handed_in(text + zone) == datetime(2027, 4, 1, 21, 59, 0, 500_000)
    finally:
        monkeypatch.undo()
        clock.tzset()


@pytest.mark.parametrize("text", ["2027-04-02 06:59 XYZ", "soon", "9" * 900, "9999-12-31 23:59 -1200", "", "0 0 +9999"])
def test_what_is_no_time_or_of_an_unknown_zone_is_none(text):
    with pytest.raises(ValueError, match=r"\w"):
        late.handed_in(text)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('late = "half"', "the rule 'half'"),
        ("late = 10", "the rule 10"),
        ("[due]\nb = 2027-04-01", "no such lesson"),
        ("[due]\na = 'tomorrow'", "the date 'tomorrow'"),
        ("due = 3", "no table"),
        ("lates = 'zero'", "has lates"),
        ("late = ", "cannot be read"),
    ],
)
def test_what_is_no_rule_is_named(tmp_path, text, words):
    (tmp_path / late.NAME).write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=words):
        late.read(tmp_path, ["a"])


def test_the_template_is_a_file_without_rules(tmp_path):
    (tmp_path / late.NAME).write_text(late.TEMPLATE, encoding="utf-8")
    assert late.read(tmp_path, []) == late.Rules()
    assert late.read(tmp_path / "nowhere") is None


@pytest.mark.slow
def test_lateness_counts_in_table_and_gradebook_also_for_points_given_by_hand(tmp_path):
    course = small_course.released(tmp_path / "course")
    folder = tmp_path / "class"
    for student, stamp in (("early", "2027-03-01 09:00:00 UTC"), ("late", "2027-03-02 22:00:00 UTC")):
        place = small_course.hand_in(course, folder, student, solved=True).parent
        (place / "timestamp.txt").write_text(stamp, encoding="utf-8")
    rules = f'late = "25% per day"\n[due]\n{LESSON} = 2027-03-01T23:00:00+01:00\n'
    (folder / late.NAME).write_text(rules, encoding="utf-8")
    grades = {grade.student: grade for grade in grade_class(folder, root=course)}
    assert grades["early"].score == 3
    assert grades["late"].score == 2.25
    assert grades["late"].note == "24.0 h late"
    with gradebook.opened(folder) as book:
        by_hand = book.find_grade("why", "1_lesson", LESSON, "late")
        by_hand.manual_score, by_hand.needs_manual_grade = 3.0, False
        book.db.commit()
    grades = {grade.student: grade for grade in grade_class(folder, root=course)}
    assert grades["late"].score == 4.5
    with gradebook.opened(folder) as book:
        (part,) = book.find_submission(LESSON, "late").notebooks
        assert part.score - part.late_submission_penalty == 4.5
    (folder / late.NAME).write_text(rules.replace("25% per day", "zero"), encoding="utf-8")
    grades = {grade.student: grade for grade in grade_class(folder, root=course)}
    assert grades["late"].score == 0


def test_a_lesson_that_changed_after_work_was_graded_is_named(tmp_path):
    course = small_course.released(tmp_path / "course")
    folder = tmp_path / "class"
    (folder / "submitted" / "kim" / LESSON).mkdir(parents=True)
    with gradebook.at_work(), gradebook.at_once(folder) as book:
        book.add_assignment(LESSON)
        book.add_notebook("0_before", LESSON)
        book.add_student("kim")
        book.add_submission(LESSON, "kim")
    with pytest.raises(ValueError, match=r"01_small was graded by a different version of the course: .* 0_before"):
        grade_class(folder, root=course)
    with gradebook.opened(folder) as book:
        assert [part.name for part in book.find_submission(LESSON, "kim").notebooks] == ["0_before"]
