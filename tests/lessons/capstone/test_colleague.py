"""The planted run: somebody draws each failure, it leaves evidence of its own, and no text on the way tells it."""

import inspect
import itertools
import json
import zlib
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

import torchcourse
from torchcourse.lessons.capstone import _planted, colleague
from torchcourse.lessons.capstone.checks import failure
from torchcourse.lessons.capstone.records import Records, from_ranks
from torchcourse.tools.make_data import capstone_failures, capstone_planted

RUNS = [
    (cause, from_ranks(ranks)) for cause, ranks in json.loads(zlib.decompress(_planted.PLANTED.read_bytes()))["runs"]
]


def each_epoch(records: Records) -> int:
    return records.steps_per_epoch


def share_of_right_labels(records: Records) -> float:
    pairs = [
        records.table[file] == label
        for files, labels in zip(records.files, records.labels, strict=True)
        for of_step, labels_of_step in zip(files, labels, strict=True)
        for file, label in zip(of_step, labels_of_step, strict=True)
    ]
    return sum(pairs) / len(pairs)


def trained_on(records: Records) -> set[str]:
    return {file for files in records.files for of_step in files for file in of_step}


EVIDENCE = {
    "same data": lambda r: r.files[0] == r.files[1],
    "same order": lambda r: r.files[0][: each_epoch(r)] == r.files[0][each_epoch(r) : 2 * each_epoch(r)],
    "not averaged": lambda r: np.abs(r.head_norm[0] - r.head_norm[1]).max() > 1e-4,
    "gradients kept": lambda r: r.gradient_norm[0, -5:].mean() > 4 * r.gradient_norm[0, :3].mean(),
    "body left out": lambda r: np.ptp(r.body_norm[0]) == 0,
    "pixels not scaled": lambda r: r.picture_deviation.mean() < 0.4,
    "labels moved": lambda r: share_of_right_labels(r) < 1,
    "rate gone": lambda r: (r.rate == 0).mean() > 0.5,
    "validation seen": lambda r: bool(trained_on(r) & set(r.val_files)),
}


def test_each_failure_has_evidence_that_no_other_run_has():
    assert set(EVIDENCE) == set(capstone_planted.FAILURES) <= set(colleague.CAUSES)
    for cause, shows in EVIDENCE.items():
        assert {other for other, records in RUNS if shows(records)} == {cause}


def test_somebody_draws_each_failure_and_a_name_always_the_same():
    drawn = [_planted.drawn(f"student {number}") for number in range(60)]
    assert set(drawn) == set(capstone_planted.FAILURES)
    assert _planted.drawn("  Kim   minji ") == _planted.drawn("KIM MINJI")


def test_the_planted_program_is_the_one_in_the_tools():
    packed = json.loads(zlib.decompress(_planted.PLANTED.read_bytes()))["program"]
    assert packed == capstone_failures.PROGRAM.read_text(encoding="utf-8")


def test_no_text_of_the_lesson_tells_a_failure_from_the_causes_that_are_not_planted():
    """What a learner may read on the way names all causes alike."""
    wing = Path(torchcourse.__file__).parent / "lessons" / "capstone"
    assert b"def train" not in _planted.PLANTED.read_bytes()
    for file in wing.rglob("*.py"):
        text = file.read_text(encoding="utf-8").replace("checks are", "")
        named = {cause for cause in colleague.CAUSES if f'"{cause}"' in text}
        assert named in (set(), set(colleague.CAUSES)), file.name


@pytest.mark.slow
def test_an_incident_is_the_failure_that_the_name_draws(tmp_path):
    name = next(name for name in map(str, range(99)) if _planted.drawn(name) == "not averaged")
    of_an_earlier_call = tmp_path / "incident" / "log" / "events.out.tfevents.1"
    of_an_earlier_call.parent.mkdir(parents=True)
    of_an_earlier_call.touch()
    records = colleague.incident(name, tmp_path / "incident", seed=5)
    assert [cause for cause, shows in EVIDENCE.items() if shows(records)] == ["not averaged"]
    assert len(list(of_an_earlier_call.parent.glob("*tfevents*"))) == 1


def test_known_runs_are_sorted_by_what_the_name_draws():
    kinds = Counter(kind for kind, _ in _planted.known_runs("somebody"))
    assert kinds == {"own": 2, "healthy": 3, "other": 16}


def test_no_public_function_tells_whether_a_name_is_right():
    """A learner who asks the course for the answer finds the run and the check of M4, and nothing else."""
    own = [
        (module.__name__.rpartition(".")[2], name)
        for module in (colleague, failure, capstone_planted)
        for name, value in vars(module).items()
        if inspect.isfunction(value) and value.__module__ == module.__name__ and not name.startswith("_")
    ]
    assert own == [("colleague", "incident"), ("failure", "diagnosis"), ("capstone_planted", "train")]


@pytest.mark.slow
def test_the_check_says_nothing_of_a_name_without_evidence():
    """Each cause of the list gets the same answer, right or wrong, until a test tells the run from all others."""

    def answers(shows):
        return {failure.diagnosis(("reference", cause, shows)).message for cause in colleague.CAUSES}

    assert len(answers(lambda records: True)) == 1
    assert len(answers(lambda records: False)) == 1
    assert len(answers(EVIDENCE["same order"])) > 1


def test_a_test_that_counts_its_calls_is_refused():
    """The runs come in a new order each time, so that the place of a run tells nothing."""
    own = [place for place, (kind, _) in enumerate(_planted.known_runs("reference")) if kind == "own"]

    def counting():
        calls = itertools.count()
        return lambda records: next(calls) in own

    assert "wrong" in [failure.diagnosis(("reference", "same order", counting())).state for _ in range(3)]
