"""The journal keeps every line, whatever happens to the last one, and never stops a learner's cell."""

import contextlib
import errno
import io
import json
import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from torchcourse import journal

FIELDS = st.dictionaries(
    st.text(min_size=1, max_size=8).filter(lambda name: name not in ("time", "kind")),
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.lists(st.text()),
    max_size=4,
)
same_folder = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40, deadline=None)


def test_an_entry_says_what_and_when_in_one_readable_line(work: Path) -> None:
    before = datetime.now(UTC) - timedelta(seconds=1)
    journal.record("quiz", question="mean", answer="기울기의 평균")
    text = (work / "journal.jsonl").read_text(encoding="utf-8")
    assert "기울기의 평균" in text
    assert text.endswith("}\n")
    assert text.count("\n") == 1
    [entry] = journal.read()
    assert entry["kind"] == "quiz"
    assert before <= journal.when(entry) <= datetime.now(UTC)


@pytest.mark.slow
@same_folder
@given(st.lists(FIELDS, max_size=6))
def test_what_is_recorded_is_read_back(work: Path, many: list[dict]) -> None:
    journal.path().unlink(missing_ok=True)
    for fields in many:
        journal.record("x", **fields)
    read = [{name: entry[name] for name in fields} for entry, fields in zip(journal.read(), many, strict=True)]
    assert read == many
    assert journal.problems() == []


def test_values_that_json_does_not_know_are_kept_as_text() -> None:
    journal.record("x", folder=Path("a"), half="\udc80")
    [entry] = journal.read()
    assert entry["folder"] == "a"
    assert entry["half"] == "\udc80"


@pytest.mark.parametrize(
    ("value", "kept"),
    [
        (np.float32(0.5), 0.5),
        (np.int64(3), 3),
        (np.bool_(True), True),
        (np.zeros(2), "[0. 0.]"),
        ({(1, 2): "tuple key"}, "{(1, 2): 'tuple key'}"),
    ],
)
def test_a_number_stays_a_number_and_the_rest_becomes_text(value: Any, kept: Any) -> None:
    journal.record("x", value=value)
    [entry] = journal.read()
    assert entry["value"] == kept
    assert type(entry["value"]) is type(kept)
    assert json.loads(journal.path().read_text(encoding="utf-8"))["value"] == kept


def test_a_value_that_holds_itself_or_has_no_text_costs_no_answer() -> None:
    class Silent:
        def __str__(self) -> str:
            raise RuntimeError

    ring: list = []
    ring.append(ring)
    journal.record("x", ring=ring, silent=Silent(), answer="A")
    [entry] = [json.loads(line) for line in journal.path().read_text(encoding="utf-8").splitlines()]
    assert (entry["ring"], entry["answer"]) == ("[[...]]", "A")
    assert "Silent" in entry["silent"]


@pytest.mark.parametrize("name", ["time", "kind"])
def test_a_field_that_would_hide_the_time_or_the_kind_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"has a {name} already"):
        journal.record("x", **{name: 5})
    assert journal.read() == []


def test_a_last_line_torn_at_any_byte_costs_only_itself(work: Path) -> None:
    for number in range(3):
        journal.record("x", number=number, text="줄\u2028 바꿈")
    whole = journal.path().read_bytes()
    first_two = whole[: whole.rindex(b"\n", 0, -1) + 1]
    for cut in range(len(first_two) + 1, len(whole) + 1):
        journal.path().write_bytes(whole[:cut])
        (work / "journal.torn").unlink(missing_ok=True)
        journal.record("x", number=9)
        complete = cut >= len(whole) - 1  # only the newline is missing, or nothing
        assert [entry["number"] for entry in journal.read()] == ([0, 1, 2, 9] if complete else [0, 1, 9])
        assert journal.path().read_bytes().startswith(first_two)
        assert journal.problems() == []
        if not complete:
            assert (work / "journal.torn").read_bytes() == whole[len(first_two) : cut] + b"\n"


def test_a_torn_line_longer_than_a_block_is_moved_aside(work: Path) -> None:
    journal.record("x", number=1)
    with journal.path().open("ab") as file:
        file.write(b'{"time": "' + b"z" * 20_000)
    journal.record("x", number=2)
    assert [entry["number"] for entry in journal.read()] == [1, 2]
    assert (work / "journal.torn").stat().st_size == 20_011


def test_a_corrupt_line_in_the_middle_is_named_and_the_rest_is_read() -> None:
    journal.record("x", number=1)
    with journal.path().open("ab") as file:
        file.write(b'\x00\x00\xff not json\n[1, 2]\n{"kind": "x"}\n{"time": "2026-01-01T00:00:00", "kind": "x"}\n\n')
    journal.record("x", number=2)
    assert [entry["number"] for entry in journal.read()] == [1, 2]
    problems = journal.problems()
    assert [sentence.split(" of ")[0] for sentence in problems] == ["Line 2", "Line 3", "Line 4", "Line 5"]
    assert str(journal.path()) in problems[0]


def test_a_file_touched_by_a_windows_editor_is_read() -> None:
    journal.record("x", number=1)
    journal.path().write_bytes(b"\xef\xbb\xbf" + journal.path().read_bytes().replace(b"\n", b"\r\n"))
    journal.record("x", number=2)
    assert [entry["number"] for entry in journal.read()] == [1, 2]
    assert journal.problems() == []


@pytest.mark.slow
def test_two_processes_write_at_once_and_no_line_is_lost(work: Path) -> None:
    program = (
        "import sys\nfrom torchcourse import journal\n"
        "for i in range(200): journal.record('x', who=sys.argv[1], number=i, text='글' * (i % 50))\n"
    )
    running = [subprocess.Popen([sys.executable, "-c", program, who]) for who in "ab"]
    assert [process.wait(timeout=120) for process in running] == [0, 0]
    assert journal.problems() == []
    entries = journal.read()
    for who in "ab":
        assert [entry["number"] for entry in entries if entry["who"] == who] == list(range(200))
    assert not (work / "journal.torn").exists()


def test_without_the_lock_a_line_is_still_added_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_locks(_descriptor: int) -> None:
        raise OSError(errno.ENOLCK, "no locks available")

    monkeypatch.setattr(journal, "_lock", no_locks)
    journal.record("x", number=1)
    with journal.path().open("ab") as file:
        file.write(b'{"torn')
    journal.record("x", number=2)
    assert [entry["number"] for entry in journal.read()] == [1, 2]
    assert len(journal.problems()) == 1


def test_somebody_else_holding_the_lock_does_not_stop_the_learner(monkeypatch: pytest.MonkeyPatch) -> None:
    journal.record("x", number=1)
    monkeypatch.setattr(journal, "LOCK_SECONDS", 0.05)
    with journal.path().open("ab") as other:
        journal._lock(other.fileno())
        journal.record("x", number=2)
    assert [entry["number"] for entry in journal.read()] == [1, 2]


def test_a_folder_that_cannot_be_written_costs_one_sentence(
    work: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    work.write_text("a file where the folder should be")
    journal.record("x", number=1)
    journal.record("x", number=2)
    said = capsys.readouterr()
    assert said.err == ""
    assert said.out.count("\n") == 1
    assert str(work / "journal.jsonl") in said.out
    assert "TORCHCOURSE_WORK" in said.out
    assert [entry["number"] for entry in journal.read()] == [1, 2]
    work.unlink()
    journal.record("x", number=3)
    assert [entry["number"] for entry in journal.read()] == [1, 2, 3]
    assert len((work / "journal.jsonl").read_bytes().splitlines()) == 3


def test_a_console_without_korean_costs_no_entry(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocked = work / "작업"
    blocked.parent.mkdir(parents=True, exist_ok=True)
    blocked.write_text("a file where the folder should be")
    monkeypatch.setenv("TORCHCOURSE_WORK", str(blocked))
    raw = io.BytesIO()
    with contextlib.redirect_stdout(io.TextIOWrapper(raw, encoding="ascii")) as console:
        journal.record("x")
        console.flush()
    assert "Your answers are not kept on disk" in raw.getvalue().decode()
    assert len(journal.read()) == 1


def test_a_full_disk_leaves_no_half_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    journal.record("x", number=1)
    before = journal.path().read_bytes()
    real = os.write
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", lambda descriptor, data: real(descriptor, data[:10]))
        journal.record("x", number=2)
    assert journal.path().read_bytes() == before
    assert "full" in capsys.readouterr().out
    journal.record("x", number=3)
    assert [json.loads(line)["number"] for line in journal.path().read_bytes().splitlines()] == [1, 2, 3]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's home folder, on a machine where nothing says where the journal lies."""
    folder = tmp_path / "home"
    folder.mkdir()
    for variable in ("TORCHCOURSE_WORK", "NBGRADER_EXECUTION", *journal.HOSTS):
        monkeypatch.delenv(variable, raising=False)
    for variable in ("HOME", "USERPROFILE"):
        monkeypatch.setenv(variable, str(folder))
    return folder


def folder_for(notebook: Path) -> Path:
    """The journal's folder for a notebook that runs in this folder."""
    notebook.mkdir(parents=True, exist_ok=True)
    with contextlib.chdir(notebook):
        return journal.path().parent


def copy_of_the_course(folder: Path) -> Path:
    (folder / "helpers" / "torchcourse").mkdir(parents=True)
    (folder / "course.py").touch()
    return folder


def existing_journal(folder: Path) -> Path:
    """Make a folder that holds a journal with one entry."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "journal.jsonl").write_text('{"time": "2026-01-01T00:00:00+09:00", "kind": "x", "old": true}\n')
    return folder


def test_any_folder_of_the_user_called_work_is_left_alone(home: Path) -> None:
    for notebook in (home / "work" / "anything", home / "work", home / "elsewhere"):
        assert folder_for(notebook) == home / "torchcourse-work"
        with contextlib.chdir(notebook):
            journal.record("x")
    assert sorted(path.name for path in home.rglob("*.jsonl")) == ["journal.jsonl"]
    assert len((home / "torchcourse-work" / "journal.jsonl").read_bytes().splitlines()) == 3


@pytest.mark.parametrize("place", ["work", "mine", "work/01_lesson", "."])
def test_an_existing_journal_above_the_notebook_is_found_and_kept(home: Path, place: str) -> None:
    kept = existing_journal(home / place)
    notebook = kept / "01_lesson" / "deep"
    assert folder_for(notebook) == kept
    with contextlib.chdir(notebook):
        journal.record("x", old=False)
        assert [entry["old"] for entry in journal.read()] == [True, False]


def test_the_nearest_of_two_journals_is_taken(home: Path) -> None:
    existing_journal(home)
    near = existing_journal(home / "work")
    assert folder_for(near / "01_lesson") == near


def test_an_empty_or_torn_journal_is_still_one_and_another_programs_file_is_not(home: Path) -> None:
    file = existing_journal(home / "mine") / "journal.jsonl"
    entry = file.read_bytes()
    for content in (b"", entry[:20] + b"\n" + entry, b"\xef\xbb\xbf" + entry):
        file.write_bytes(content)
        assert folder_for(home / "mine" / "01_lesson") == home / "mine"
    for content in (b'{"op_code": 0, "worker_id": "a"}\n' * 3, b"\x00\xff"):
        file.write_bytes(content)
        assert folder_for(home / "mine" / "01_lesson") == home / "torchcourse-work"


@pytest.mark.parametrize("notebook", ["work/01_lesson", "notebooks/01_lesson", "solutions/01_lesson", "."])
def test_in_the_courses_repository_it_lies_in_its_work_folder(home: Path, notebook: str) -> None:
    existing_journal(home)
    repository = copy_of_the_course(home / "work" / "a course")
    assert folder_for(repository / notebook) == repository / "work"


def test_this_repository_is_known(home: Path) -> None:
    repository = Path(__file__).parents[2]
    with contextlib.chdir(repository / "notebooks"):
        assert journal.path().parent == repository / "work"


@pytest.mark.parametrize("variable", journal.HOSTS)
def test_on_a_lent_machine_it_lies_where_the_host_shows_it(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    monkeypatch.setenv(variable, "x")
    assert folder_for(tmp_path / "content") == tmp_path / "content"
    repository = copy_of_the_course(tmp_path / "content" / "course")
    assert folder_for(repository / "notebooks") == repository / "work"


def test_what_nbgrader_runs_is_not_the_teachers_own_work(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NBGRADER_EXECUTION", "autograde")
    repository = copy_of_the_course(home / "course")
    existing_journal(repository / "work")
    submission = repository / "autograded" / "ada" / "01_lesson"
    found = folder_for(submission)
    assert found.is_dir()
    assert home not in found.parents
    assert folder_for(submission) == found  # one journal in the whole process


def test_the_variable_goes_before_everything(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHCOURSE_WORK", "~/chosen")
    monkeypatch.setenv("NBGRADER_EXECUTION", "validate")
    assert folder_for(existing_journal(home / "work") / "01_lesson") == home / "chosen"


def test_a_notebook_in_a_read_only_place_keeps_its_answers(home: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    place = home / "shared"
    place.mkdir()
    real = os.open

    def read_only(path: Any, flags: int, *rest: Any, **named: Any) -> int:
        if flags & os.O_CREAT and place in Path(path).parents:
            raise OSError(errno.EROFS, "Read-only file system", str(path))
        return real(path, flags, *rest, **named)

    monkeypatch.setattr(os, "open", read_only)
    with contextlib.chdir(place):
        journal.record("x", number=1)
        assert capsys.readouterr().out == ""
        assert [entry["number"] for entry in journal.read()] == [1]
    existing_journal(place)
    with contextlib.chdir(place):
        journal.record("x", number=2)
        said = capsys.readouterr().out
        assert f"{place / 'journal.jsonl'} cannot be written (Read-only file system)" in said
        assert said.count("\n") == 1
        assert [entry.get("number") for entry in journal.read()] == [None, 2]


def test_a_notebook_whose_folder_was_deleted_keeps_its_journal(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    course, notebook = copy_of_the_course(home / "course"), home / "course" / "work" / "lesson"
    notebook.mkdir(parents=True)
    monkeypatch.chdir(notebook)
    before = journal.path()
    notebook.rmdir()
    journal.record("note")
    assert (journal.path(), len(journal.read())) == (before, 1)
    assert course in before.parents


def test_a_folder_that_was_gone_from_the_start_costs_nothing(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = home / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    monkeypatch.setattr(journal, "_last_here", [], raising=False)
    gone.rmdir()
    journal.record("note")
    assert len(journal.read()) == 1
    monkeypatch.setenv("TORCHCOURSE_WORK", "~nobody-is-called-so/work")
    assert journal.path().name == journal.NAME


def test_a_wrong_clock_is_told_in_one_sentence() -> None:
    path = journal.path()
    path.parent.mkdir(parents=True, exist_ok=True)
    ahead = (datetime.now(UTC) + timedelta(days=3000)).isoformat(timespec="seconds")
    path.write_text("".join(f'{{"time": "{ahead}", "kind": "x"}}\n' for _ in range(3)), encoding="utf-8")
    journal.record("y")
    assert [entry["kind"] for entry in journal.read()] == ["x", "x", "x", "y"]
    assert journal.problems() == [
        f"3 entries were written by a wrong clock ({ahead}), and dated by the entries around."
    ]
