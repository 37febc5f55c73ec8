"""The folder of a class: nbgrader finds all it needs there, students get no solutions, and a second run keeps all."""

import pytest
from nbgrader.api import Gradebook
from nbgrader.coursedir import CourseDirectory
from traitlets.config.loader import PyFileConfigLoader

import small_course
from torchcourse.lessons.final.final_draw import for_class
from torchcourse.quiz import bank, choice_order, markup
from torchcourse.tools.build.final_notebook import final_source
from torchcourse.tools.classroom import class_final, course_folder

ROSTER = "\ufeffid,first_name,last_name,email\nkim,Min,Kim,kim@example.org\nlee,,이,\n"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    root = small_course.make(tmp_path_factory.mktemp("course"))
    folder = tmp_path_factory.mktemp("class") / "algo 2027"
    roster = folder.parent / "students.csv"
    roster.write_text(ROSTER, encoding="utf-8")
    final = root / "solutions" / class_final.LESSON / "1_final.py"
    final.parent.mkdir()
    final.write_text("# %% written: why, 1 point [markdown]\n# Because the model answer says so.\n", encoding="utf-8")
    course_folder.make(folder, roster, root)
    return root, folder, roster


def book(folder):
    return Gradebook(f"sqlite:///{folder}/gradebook.db", "torchcourse")


def test_students_get_no_solutions_and_the_gradebook_knows_lessons_and_students(made):
    _, folder, _ = made
    text = (folder / "notebooks" / small_course.LESSON_NAME / "1_lesson.ipynb").read_text(encoding="utf-8")
    assert "def double" in text
    assert not any(secret in text for secret in ("number + number", "hidden words", "model answer", '\\"green\\"  #'))
    with book(folder) as gradebook:
        assert [(student.id, student.last_name) for student in gradebook.students] == [("kim", "Kim"), ("lee", "이")]
        assert gradebook.find_assignment(small_course.LESSON_NAME).max_score == 6


def test_nbgraders_own_commands_find_the_course_there(made, monkeypatch, tmp_path):
    _, folder, _ = made
    monkeypatch.chdir(tmp_path)
    config = PyFileConfigLoader("nbgrader_config.py", path=str(folder)).load_config()
    course = CourseDirectory(config=config)
    assert course.format_path(course.source_directory, ".", small_course.LESSON_NAME).startswith(str(folder))
    assert config.Autograde.autograde_preprocessors


def test_a_second_run_changes_nothing_that_is_there(made):
    root, folder, roster = made
    with book(folder) as gradebook:
        gradebook.update_or_create_student("kim", email="new@example.org")
    release = folder / "notebooks" / small_course.LESSON_NAME / "1_lesson.ipynb"
    for path in (release, folder / "nbgrader_config.py"):
        path.write_text(path.read_text(encoding="utf-8") + "\n", encoding="utf-8")
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.suffix in (".py", ".ipynb")}
    assert course_folder.make(folder, roster, root) == []
    assert before == {path: path.read_bytes() for path in before}
    with book(folder) as gradebook:
        assert gradebook.find_student("kim").email == "new@example.org"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("id,email\nkim,x\n", "lacks first_name, last_name"),
        ("id,first_name,last_name,email\n../kim,,,\n", "cannot name a folder"),
        ("id,first_name,last_name,email\nkim,,,\nkim,,,\n", "twice"),
        ("", "lacks id"),
    ],
)
def test_a_roster_that_cannot_be_used_is_named(tmp_path, text, words):
    path = tmp_path / "students.csv"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=words):
        course_folder.read_roster(path)


def test_the_course_itself_is_no_class(made):
    with pytest.raises(ValueError, match="outside the course"):
        course_folder.make(made[0], root=made[0])


def test_a_class_has_a_final_of_its_own(made):
    root, folder, _ = made
    seed = (folder / "final-seed.txt").read_text(encoding="utf-8").strip()
    text = (folder / "notebooks" / class_final.LESSON / "final.ipynb").read_text(encoding="utf-8")
    for place, asked in enumerate(for_class(seed), start=1):
        assert f'\\"{asked.lesson}\\", \\"{asked.wording}\\", answer_q{place}' in text
    assert "quiz.card" not in text
    assert "key=" not in text
    with book(folder) as gradebook:
        notebooks = {notebook.name: notebook for notebook in gradebook.find_assignment(class_final.LESSON).notebooks}
        assert notebooks.keys() == {"1_final", "final"}
        assert notebooks["final"].max_score == 10
    # What the grader renders is what the students have.
    path = f"solutions/{class_final.LESSON}/final.ipynb"
    assert class_final.solutions(folder, root, class_final.LESSON)[path] == (folder / path).read_text(encoding="utf-8")


def test_the_source_of_a_final_has_the_letters_of_its_draw():
    drawn = for_class("spring")
    source = final_source(drawn)
    for place, asked in enumerate(drawn, start=1):
        shown = choice_order.redrawn(bank.lesson(asked.lesson).question(asked.wording)[1], asked.draw)
        if shown.kind in ("one", "several"):
            assert f'answer_q{place} = "{shown.key}"' in source
            assert f"# - **A.** {markup.to_markdown(shown.options[0].en)}" in source
    assert source != final_source(for_class("autumn"))
