"""Quizzes drawn for each student: released, graded by the student's own keys, and worth nothing to a neighbor."""

import itertools
import json
import shutil

import nbformat
import pytest

import example_bank
import small_course
from torchcourse.quiz import answers, bank
from torchcourse.tools.classroom import class_final, course_folder, grade, late, per_student

LESSON = example_bank.LESSON
ROSTER = ["ann", "bob", "cat", "dan", "eve", "fay", "gus"]
MOST = 6
"""Points of the example's quiz without its open question."""
REAL = bank.folder


def example() -> dict:
    """The example bank with choices that may be moved, and five of them, so that orders differ."""
    made = example_bank.bank()
    for question in made["questions"][:2]:
        del question["fixed_order"]
        question["choices"] += [example_bank.choice(f"more {number}", "odd") for number in range(3)]
    return made


def solved(folder, student, drawn_for=None):
    """Return the notebook that a student was given, with the answers that are right for somebody."""
    own = folder / "personal" / student / LESSON / "quiz.ipynb"
    notebook = nbformat.read(own, as_version=4)
    drawn = per_student.read(folder, LESSON)["quiz"][drawn_for or student]
    cells = {cell.id: cell for cell in notebook.cells}
    for place, one in enumerate(drawn, start=1):
        key = one.question.key
        right = key[0] if isinstance(key, list) else key
        cells[f"q{place}"].source = f"answer_q{place} = {right!r}" if right is not None else "Because of this."
    return notebook


def hand_in(folder, student, notebook, name="quiz.ipynb"):
    target = folder / "submitted" / student / LESSON / name
    target.parent.mkdir(parents=True)
    nbformat.write(notebook, target)


@pytest.fixture(scope="module")
def course(tmp_path_factory):
    root = small_course.make(tmp_path_factory.mktemp("course"))
    shutil.rmtree(root / "solutions" / small_course.LESSON_NAME)
    example_bank.write(root / "quizzes", example())
    final = root / "solutions" / class_final.LESSON / "1_final.py"
    final.parent.mkdir()
    final.write_text("# %% written: why, 1 point [markdown]\n# Because the model answer says so.\n", encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bank, "folder", lambda: root / "quizzes")
        yield root


@pytest.fixture(scope="module")
def folder(course, tmp_path_factory):
    folder = tmp_path_factory.mktemp("class") / "algo"
    roster = folder.parent / "students.csv"
    roster.write_text("id,first_name,last_name,email\n" + "".join(f"{name},,,\n" for name in ROSTER), encoding="utf-8")
    course_folder.make(folder, roster, course)
    assert not (folder / per_student.FOLDER).exists()  # off unless it is wanted
    assert (folder / "notebooks" / LESSON / "quiz.ipynb").exists()
    rules = folder / late.NAME
    rules.write_text(rules.read_text(encoding="utf-8").replace('quizzes = "the same"', 'quizzes = "per student"'))
    (folder / per_student.SEED).write_text("spring\n", encoding="utf-8")
    course_folder.make(folder, root=course)
    return folder


@pytest.fixture(scope="module")
def grades(folder, course):
    hand_in(folder, "ann", solved(folder, "ann"))
    hand_in(folder, "bob", solved(folder, "bob"))
    hand_in(folder, "cat", solved(folder, "cat", drawn_for="ann"))
    hand_in(folder, "dan", solved(folder, "ann"))
    renamed = solved(folder, "eve")
    for cell in renamed.cells:
        cell.metadata.pop("nbgrader", None)
    hand_in(folder, "eve", renamed, "quiz (1).ipynb")
    computed = solved(folder, "fay")
    first = next(cell for cell in computed.cells if cell.id == "q1")
    first.source = first.source.replace(" = ", " = str() + ")  # no literal, so it has to be run
    hand_in(folder, "fay", computed)
    hand_in(folder, "teacher", nbformat.read(folder / "solutions" / LESSON / "quiz.ipynb", as_version=4))
    return {row.student: row for row in grade.grade_class(folder, root=course)}


@pytest.mark.parametrize("student", ["ann", "bob", "eve", "fay", "teacher"])
def test_all_right_answers_earn_all_points_whoever_hands_them_in(grades, student):
    assert grades[student].score == MOST
    assert grades[student].state == "needs manual grading"


def test_the_letters_of_a_neighbor_earn_only_what_is_the_same_for_both(grades, folder):
    drawn = per_student.read(folder, LESSON)["quiz"]
    assert all(drawn["ann"][place].order != drawn["cat"][place].order for place in (0, 1))
    assert 3 <= grades["cat"].score < MOST  # number, text and order are worth a point each


def test_a_file_of_a_neighbor_is_named_and_graded_by_ones_own_questions(grades):
    assert "quiz.ipynb asks questions that are those of ann, and was graded by those of dan" in grades["dan"].note
    assert grades["dan"].score < MOST
    assert not any("asks questions" in grades[name].note for name in ("ann", "bob", "cat", "eve", "fay", "teacher"))


def test_feedback_holds_the_students_own_key(grades, folder):
    for student in ("ann", "bob"):
        page = (folder / "feedback" / student / LESSON / "quiz.html").read_text(encoding="utf-8")
        first = per_student.read(folder, LESSON)["quiz"][student][0]
        assert first.wording in page
    # Who handed in nothing is in the list as ever.
    assert grades["gus"].state == "not handed in"


def test_what_is_handed_out_holds_no_key_and_the_shared_quiz_goes(folder):
    assert not (folder / "notebooks" / LESSON / "quiz.ipynb").exists()
    for student in ROSTER:
        text = (folder / "personal" / student / LESSON / "quiz.ipynb").read_text(encoding="utf-8")
        assert not any(secret in text for secret in ("key=", "HIDDEN", "### SOLUTION", "Because of this and that"))
        assert "colab" not in text
        assert '\\"type-number\\", number=3)' in text
        exam = (folder / "personal" / student / class_final.LESSON / "final.ipynb").read_text(encoding="utf-8")
        assert "quiz.card" not in exam
        assert "key=" not in exam


def test_a_quiz_for_all_that_was_edited_stays_and_is_named(folder, course, tmp_path, monkeypatch, capsys):
    later = tmp_path / "algo"
    shutil.copytree(folder, later)
    release, name = later / "notebooks" / LESSON / "quiz.ipynb", f"notebooks/{LESSON}/quiz.ipynb"
    release.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell("Mine.")]), release)
    monkeypatch.setattr(course_folder, "make", lambda *_: [per_student.hand_out(later, course, [])][:0])
    monkeypatch.setattr("sys.argv", ["class", str(later)])
    assert course_folder.main() == 0
    said = capsys.readouterr().out
    assert f"{name} was edited, so it stays" in said
    assert release.exists()
    release.unlink()
    course_folder.main()
    assert "was edited" not in capsys.readouterr().out


def test_a_draw_stays_when_the_bank_grows_and_a_newcomer_gets_one(folder, course, tmp_path):
    later = tmp_path / "algo"
    shutil.copytree(folder, later)
    before = per_student.read(later, LESSON)
    grown = example()
    variant = grown["questions"][2] | {"id": "type-number-again", "answer": 5}
    del variant["source"]
    grown["questions"][2]["variants"] = [variant]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bank, "folder", lambda: tmp_path)
        example_bank.write(tmp_path, grown)
        assert per_student.hand_out(later, course, ["ann", "new"]) == 2
    after = per_student.read(later, LESSON)
    assert after["quiz"]["ann"] == before["quiz"]["ann"]
    assert len(after["quiz"]["new"]) == 6


def test_a_second_grading_runs_nothing_unless_the_draw_changed(grades, folder, course, monkeypatch):
    ran = []
    monkeypatch.setattr(grade.Grader, "grade", lambda _self, work: ran.append(work.student) or grades[work.student])
    grade.grade_class(folder, root=course)
    assert ran == []
    path = folder / per_student.DRAWS / f"{LESSON}.json"
    text = path.read_text(encoding="utf-8")
    rows = json.loads(text)
    rows["quiz"]["bob"][0][2] = "".join(reversed(rows["quiz"]["bob"][0][2] or "ABCDE"[:2]))
    path.write_text(json.dumps(rows), encoding="utf-8")
    try:
        grade.grade_class(folder, root=course)
    finally:
        path.write_text(text, encoding="utf-8")
    assert ran == ["bob"]


def test_draws_that_cannot_be_read_stop_the_grading_in_a_sentence(tmp_path):
    path = tmp_path / per_student.DRAWS / f"{LESSON}.json"
    path.parent.mkdir()
    path.write_text('{"quiz": {"ann": [["one"', encoding="utf-8")
    with pytest.raises(ValueError, match="which questions each student has"):
        per_student.read(tmp_path, LESSON)


def test_nothing_is_drawn_from_an_empty_seed_or_a_bank_without_keys(folder, course, tmp_path, monkeypatch):
    stripped = tmp_path / "quizzes"
    stripped.mkdir()
    example_bank.write(stripped, bank.strip(bank.lesson(LESSON), variants=True))
    (tmp_path / per_student.SEED).write_text("spring\n", encoding="utf-8")
    monkeypatch.setattr(bank, "folder", lambda: stripped)
    with pytest.raises(ValueError, match="stripped of its keys"):
        per_student.hand_out(tmp_path, course, ["ann"])
    (tmp_path / per_student.SEED).write_text("\n", encoding="utf-8")
    with pytest.raises(ValueError, match="is empty"):
        per_student.hand_out(tmp_path, course, ["ann"])


def test_letters_of_a_neighbor_are_right_as_often_as_chance_gives(monkeypatch):
    monkeypatch.setattr(bank, "folder", REAL)
    lesson = "05_troubleshooting"
    questions = [(lesson, question) for question in bank.lesson(lesson).questions]
    draws = [per_student.draw(questions, "spring", f"student {number}") for number in range(60)]
    hits = expected = spread = 0.0
    for mine, neighbors in itertools.pairwise(draws):
        for own, theirs in zip(mine, neighbors, strict=True):
            question = own.question
            if question.kind != "one" or question.fixed_order or theirs.wording != own.wording:
                continue
            chance = 1 / len(question.choices)
            hits += answers.score("one", theirs.question.key, question.key, question.letters)
            expected += chance
            spread += chance * (1 - chance)
    assert expected > 30
    assert abs(hits - expected) < 4 * spread**0.5


def test_each_wording_is_as_likely_as_the_others(monkeypatch):
    monkeypatch.setattr(bank, "folder", REAL)
    first = bank.lesson("05_troubleshooting").questions[0]
    drawn = [per_student.draw([("05_troubleshooting", first)], "autumn", str(number))[0] for number in range(400)]
    wordings = [one for one in (first, *first.variants) if one.has_key]
    for wording in wordings:
        share = sum(one.wording == wording.id for one in drawn) / len(drawn)
        assert abs(share - 1 / len(wordings)) < 4 * (0.25 / len(drawn)) ** 0.5
