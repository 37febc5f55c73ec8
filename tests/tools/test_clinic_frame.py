"""The clinic's frame: what a patient and a repair become in the notebook, and what a wrong marking says."""

import pytest
from nbformat.notebooknode import NotebookNode

from torchcourse.tools.build.source import Origin, SourceError, to_notebook

ORIGIN = Origin("solutions/05_small/3_clinic.py")
SLUG = "loss_with_a_floor"
REPAIR = """
class DigitNet(nn.Module):
    pass


def loss_of(outputs, labels):
    return 0
"""
HELP = "# %% [markdown]\n# <details><summary>Help</summary>\n# </details>\n"


def built(source: str) -> list[NotebookNode]:
    return to_notebook(source, ORIGIN).cells


def test_a_patient_becomes_three_cells():
    cells = built(f"# %% patient: {SLUG}\n\n# %% [markdown]\n# A text.\n")
    shown = [f'clinic.{step}("{SLUG}")' for step in ("admit", "evidence", "hints")]
    assert [cell.source for cell in cells] == [*shown, "A text."]
    assert [cell.id for cell in cells] == ["cell-000", "cell-001", "cell-002", "cell-003"]
    assert all("nbgrader" not in cell.metadata for cell in cells)


def test_a_repair_brings_its_check_and_its_hidden_test_and_discharges_after_the_help():
    repair, check, first, second, discharge, after = built(
        f"# %% repair: {SLUG}{REPAIR}\n\n{HELP}\n{HELP}\n# %% [markdown]\n# Next.\n"
    )
    assert repair.source == REPAIR.strip()
    assert repair.metadata["nbgrader"]["solution"]
    assert "softmax" in repair.metadata["torchcourse"]["broken"]
    assert check.source == (
        "# @title Check\n"
        f'checked = check.repair("{SLUG}", DigitNet, loss_of, points=1)\n'
        "### BEGIN HIDDEN TESTS\n"
        "for _seed in (7, 12):\n"
        f'    assert clinic.symptom("{SLUG}", DigitNet, loss_of, seed=_seed) is None\n'
        "### END HIDDEN TESTS\n"
        "checked"
    )
    role = check.metadata["nbgrader"]
    assert [role[name] for name in ("grade_id", "grade", "locked", "points")] == [f"check-{SLUG}", True, True, 1]
    assert first.source.startswith("<details>")
    assert second.source.startswith("<details>")
    assert discharge.source == f'clinic.discharge("{SLUG}")'
    assert after.source == "Next."


def test_a_repair_without_help_at_the_end_is_discharged_too_and_may_be_worth_more():
    _, check, discharge = built(f"# %% repair: {SLUG}, 2 points{REPAIR}")
    assert check.metadata["nbgrader"]["points"] == 2
    assert "points=2)" in check.source
    assert discharge.source == f'clinic.discharge("{SLUG}")'


@pytest.mark.parametrize(
    ("source", "part"),
    [
        ("# %% patient: nobody\n", "cell 1: 'patient: nobody' has no broken program; write programs/nobody.py"),
        (f"# %% patient: {SLUG}\nprint(1)\n", "makes three cells; put its text into a cell after it"),
        (f"# %% patient: {SLUG} [markdown]\n# Text.\n", "makes three cells; put its text"),
        (f"# %% patient: {SLUG}\n\n# %% patient: {SLUG}\n", "cell 2: .* is here twice; remove one"),
        ("# %% patient: a b\n", "is not understood; write .*'patient: SLUG', 'repair: SLUG'"),
        ("# %% patients: a\n", "is not understood; write .*'patient: SLUG', 'repair: SLUG'"),
        (f"# %% repair: {SLUG}, half{REPAIR}", "is not understood"),
        ("# %% repair: nobody\ndef f():\n    pass\n", "has no broken program; write programs/nobody.py"),
        (f"# %% repair: {SLUG}\ndef f():\n    pass\n", "must define functions or classes that its program has too"),
        (f"# %% repair: {SLUG}\nx = 1\n", "must define functions or classes that its program has too"),
        (f"# %% repair: {SLUG}\ndef loss_of(:\n    pass\n", "is not Python; mend line 1"),
        (f"# %% repair: {SLUG}{REPAIR}\n\n# %% check: {SLUG}\nx  # points=1\n", "used twice; .*it brings its own"),
        (f"# %% patient: {SLUG}\n\n# %% check: a\nx\n", "cell 2: the check 'a' has no points"),
    ],
)
def test_a_wrong_marking_is_one_sentence_with_file_cell_and_remedy(source: str, part: str):
    with pytest.raises(SourceError, match=part) as error:
        built(source)
    message = str(error.value)
    assert message.startswith(f"{ORIGIN.path}, cell ")
    assert message.count("\n") == 0
    assert message.endswith(".")
