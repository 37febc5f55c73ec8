"""A journal that is kept in a folder that stays: two put together lose nothing and double nothing."""

import itertools
import json
import os
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from torchcourse import journal
from torchcourse.journal_copies import keep_in, merged

START = datetime(2026, 3, 1, 9, tzinfo=UTC)


def line(minute: int, name: str = "x", **more) -> bytes:
    entry = {"time": (START + timedelta(minutes=minute)).isoformat(), "kind": "quiz", "question": name, **more}
    return json.dumps(entry, ensure_ascii=False).encode() + b"\n"


def minutes(content: bytes) -> list[int]:
    entries = [json.loads(text) for text in content.splitlines()]
    return [int((datetime.fromisoformat(entry["time"]) - START).total_seconds()) // 60 for entry in entries]


def counted(content: bytes) -> Counter:
    return Counter(content.splitlines())


def test_two_sessions_after_one_beginning_are_put_into_the_order_of_time():
    begin = line(0) + line(1)
    monday, tuesday = begin + line(2) + line(5) + line(7), begin + line(3) + line(6)
    assert minutes(merged(monday, tuesday)) == minutes(merged(tuesday, monday)) == [0, 1, 2, 3, 5, 6, 7]


@pytest.mark.parametrize("other", [b"", line(0), line(0) + line(1) + line(1) + line(2)])
def test_equal_and_contained_journals_change_nothing(other):
    whole = line(0) + line(1) + line(1) + line(2)
    assert merged(whole, other) == merged(other, whole) == whole


def test_the_same_entry_written_in_different_ways_is_one():
    entry = json.loads(line(1, "평균"))
    ways = [
        json.dumps(entry, ensure_ascii=True).encode() + b"\r\n",
        json.dumps(dict(reversed(entry.items())), separators=(",", ":")).encode() + b"\n",
        b"\xef\xbb\xbf" + line(1, "평균"),
        b"\n" + line(1, "평균").rstrip(),
    ]
    for one, other in itertools.combinations(ways, 2):
        assert len(merged(one, other).splitlines()) == 1


def test_entries_that_differ_in_one_field_are_two():
    assert len(merged(line(1, right=True), line(1, right=False)).splitlines()) == 2


def test_a_line_torn_at_any_byte_goes_when_its_entry_is_there_and_else_stays():
    last = line(2, "기울기")
    whole = line(0) + line(1) + last
    for size in range(len(last) - 1):
        torn = line(0) + line(1) + last[:size]
        assert merged(whole, torn) == merged(torn, whole) == whole
        later = line(0) + line(1) + line(3)
        told = not line(3).startswith(last[:size])  # up to there, it is the beginning of any entry
        assert counted(merged(later, torn)) == counted(later) + Counter([last[:size]] if told else [])
        assert merged(torn, torn) == (torn + b"\n" if told else line(0) + line(1))


def test_lines_of_another_version_and_lines_that_nobody_can_read_stay_as_they_are():
    other = b'{"time": "2026-03-01T09:01:00+00:00", "kind": "hologram", "v": 2, "deep": {"a": [1, null]}}\n'
    broken = b"\xff\xfe not JSON\n"
    one, two = line(0) + broken + other, line(0) + other + line(4)
    assert merged(one, two) == line(0) + broken + other + line(4)
    assert merged(merged(one, two), two) == merged(one, two)


def test_zones_are_compared_as_moments_not_as_text():
    seoul = b'{"time": "2026-03-01T18:02:00+09:00", "kind": "x"}\n'  # two minutes after START
    assert minutes(merged(line(1) + line(3), seoul)) == [1, 2, 3]


def test_journals_that_disagree_in_order_still_keep_every_entry_once():
    one, two = line(0) + line(1) + line(2), line(2) + line(1) + line(0)
    assert counted(merged(one, two)) == counted(one)


JOURNALS = st.lists(st.tuples(st.integers(0, 6), st.sampled_from("ab")), max_size=8)


@settings(max_examples=60, deadline=None)
@given(JOURNALS, JOURNALS, JOURNALS)
def test_nothing_is_lost_or_doubled(begin, one, two):
    journals = [b"".join(line(minute, name) for minute, name in begin + rest) for rest in (one, two)]
    both = merged(*journals)
    assert counted(both) == counted(journals[0]) | counted(journals[1])  # of each entry, as many as where it is most
    for single in journals:
        assert merged(both, single) == both
    assert counted(merged(*reversed(journals))) == counted(both)


# Keeping it in a folder


@pytest.fixture
def drive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TORCHCOURSE_WORK", str(tmp_path / "session"))
    (tmp_path / "drive").mkdir()
    return tmp_path / "drive" / "course"


def new_session(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv("TORCHCOURSE_WORK", str(tmp_path / name))


def test_the_same_call_saves_in_one_session_and_restores_in_the_next(drive, tmp_path, monkeypatch, capsys):
    journal.record("quiz", question="first")
    assert keep_in(drive) == drive / "journal.jsonl" == journal.path()
    assert "Entries: 1, new there: 1." in capsys.readouterr().out
    journal.record("quiz", question="second")  # no further call: it is there at once
    assert len((drive / "journal.jsonl").read_bytes().splitlines()) == 2
    assert len((tmp_path / "session" / "journal.jsonl").read_bytes().splitlines()) == 1  # that of before stays

    new_session(tmp_path, monkeypatch, "tomorrow")
    journal.record("quiz", question="third")
    for _ in range(3):
        keep_in(drive)
    assert [entry["question"] for entry in journal.read()] == ["first", "second", "third"]


def test_two_sessions_at_once_lose_nothing(drive, tmp_path, monkeypatch):
    for name in ("one", "two", "one"):
        new_session(tmp_path, monkeypatch, name)
        journal.record("quiz", question=name)
        keep_in(drive)
        journal.record("quiz", question="later " + name)
    assert Counter(entry["question"] for entry in journal.read()) == Counter(
        {"one": 2, "later one": 2, "two": 1, "later two": 1}
    )


def test_a_drive_that_is_not_mounted_is_named_and_nothing_moves(drive, tmp_path):
    before = journal.path()
    with pytest.raises(FileNotFoundError, match="mount the drive first") as error:
        keep_in(tmp_path / "content" / "drive" / "course")
    assert len(str(error.value).splitlines()) == 1
    assert journal.path() == before
    assert not (tmp_path / "content").exists()
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError, match="is a file"):
        keep_in(tmp_path / "file")
    assert journal.path() == before


def test_entries_that_could_not_be_written_before_are_kept_too(drive, tmp_path, monkeypatch, capsys):
    (tmp_path / "session").write_text("a file where the folder should be")
    journal.record("quiz", question="waiting")
    capsys.readouterr()
    keep_in(drive)
    assert [entry["question"] for entry in journal.read()] == ["waiting"]
    journal.record("quiz", question="next")
    assert [entry["question"] for entry in journal.read()] == ["waiting", "next"]


def test_a_merge_that_is_cut_off_loses_nothing(drive, tmp_path, monkeypatch):
    drive.mkdir()
    (drive / "journal.jsonl").write_bytes(line(0, "a") + line(2, "c"))
    journal.record("quiz", question="today")
    before = journal.path().read_bytes()

    def stop(descriptor: int) -> None:
        if os.fstat(descriptor).st_ino == os.stat(drive / "journal.jsonl").st_ino:
            os.ftruncate(descriptor, 30)
            raise OSError(5, "the drive has gone")

    monkeypatch.setattr(os, "fsync", stop)
    with pytest.raises(OSError, match="the drive has gone"):
        keep_in(drive)
    monkeypatch.undo()
    new_session(tmp_path, monkeypatch, "later")
    keep_in(drive)
    names = [entry["question"] for entry in journal.read()]
    assert names == ["a", "c", "today"]
    assert before in (drive / "journal.jsonl").read_bytes()
    assert journal.problems() == []
    assert not (drive / "journal.draft").exists()
