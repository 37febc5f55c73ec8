"""The clinic: every patient is complete, the lesson's repairs heal, and what it shows is what happened."""

import ast
import inspect
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from clinic_repairs import broken, parts, reference
from torchcourse.checks import Wrong
from torchcourse.checks.kit import one_thread
from torchcourse.lessons.troubleshooting import clinic
from torchcourse.lessons.troubleshooting.checks.clinic import repair
from torchcourse.lessons.troubleshooting.clinic import comparisons, judging, softmax_twice, softmax_twice_picture
from torchcourse.lessons.troubleshooting.clinic.observed_loader import ObservedLoader
from torchcourse.tools.repository import ROOT

CLINIC = Path(clinic.__file__).parent
SLUGS = [slug for slugs in clinic.WARDS.values() for slug in slugs]


@pytest.mark.slow
@pytest.mark.parametrize("slug", SLUGS)
def test_the_lessons_repair_heals_on_every_data(slug):
    given = reference(slug)
    for seed in (1, 7, 12):  # the hidden tests of the notebooks ask with 7 and 12
        assert clinic.examine(slug, *given, seed=seed).startswith("Healed")


@pytest.mark.parametrize("slug", SLUGS)
def test_the_judge_refuses_the_broken_program_and_the_check_says_that_nothing_was_done(slug):
    program = clinic.Program(slug)
    with program.lend_names(), one_thread(), pytest.raises(Wrong) as caught:
        clinic.find(slug).judge(program, 0)
    assert caught.value.symptom == ("left_alone" if slug == "closed_connection" else "still_there")
    assert repair(slug, *broken(slug)).state == "not done"


def test_only_comments_and_layout_leave_a_part_untouched():
    def changed(old, new):
        return clinic.Program("learns_then_forgets", *broken("learns_then_forgets", (old, new))).is_untouched

    assert changed("    model.train()\n", "    # in training mode\n\n    model.train( )\n")
    assert not changed("    model.train()\n", "    model.eval()\n")
    assert not changed("def train_epoch", "@torch.no_grad()\ndef train_epoch")


@pytest.mark.parametrize("slug", SLUGS)
def test_a_case_is_complete(slug):
    case, program = clinic.find(slug), clinic.Program(slug)
    assert case.slug == slug
    assert 25 <= program.source.count("\n") <= 95  # of lines of at most 88 characters
    assert all(len(hint) > 40 for hint in case.hints)
    assert not re.search(r"\d\.\d", case.complaint)  # the log brings the numbers


def test_no_two_patients_share_the_name_of_a_part():
    names = Counter(name for slug in SLUGS for name in clinic.find(slug).parts)
    assert [name for name, count in names.items() if count > 1] == []


def test_admit_shows_a_fresh_log_and_the_numbered_program():
    sheet = clinic.admit("learns_then_forgets")
    assert "epoch 5: loss" in repr(sheet)
    assert "  1  " in repr(sheet)
    assert "<details>" in sheet._repr_html_()


def test_a_repair_from_another_module_finds_the_programs_functions_and_leaves_no_trace():
    text = "def train_epoch(model, loader, optimizer):\n    optimizer.zero_grad()\n    return accuracy(model)\n"
    namespace: dict[str, Any] = {"__name__": "a_notebook", "accuracy": "its own"}
    exec(text, namespace)
    program = clinic.Program("learns_then_forgets", namespace["train_epoch"])
    with program.lend_names():
        assert namespace["accuracy"] is program.accuracy
        assert namespace["make_loader"] is program.make_loader
    assert namespace["accuracy"] == "its own"
    assert "make_loader" not in namespace


def test_run_uses_the_repaired_part():
    log = repr(clinic.run("learns_then_forgets", *reference("learns_then_forgets"), epochs=2))
    first, second = (float(loss) for loss in re.findall(r"loss ([\d.]+)", log))
    assert second < first / 2


def test_hints_open_one_by_one_and_are_kept():
    case = clinic.find("learns_then_forgets")
    widget = clinic.hints("learns_then_forgets").widget()
    button, opened = widget.children
    assert button.description == "Open hint 1 of 3"
    assert opened.value == ""
    button.click()
    assert "Hint 1." in opened.value
    assert "Hint 2." not in opened.value
    assert clinic.hint("learns_then_forgets").startswith("Hint 2 of 3")
    assert "Hint 2." in clinic.hints("learns_then_forgets").widget().children[1].value
    button.click()
    assert button.disabled
    assert clinic.hint("learns_then_forgets").startswith("Hint 3 of 3")
    assert clinic.board("loop")._text.count(f"{case.title} · waiting · 3") == 1


def test_the_board_knows_who_is_healed():
    assert "0 of" in repr(clinic.board())
    repair("learns_then_forgets", *broken("learns_then_forgets", ("total / count", "total")))
    assert "not yet" in repr(clinic.board("loop"))
    repair("learns_then_forgets", *reference("learns_then_forgets"))
    repair("learns_then_forgets", *broken("learns_then_forgets", ("total / count", "total")))
    assert repr(clinic.board()).startswith("1 of")
    with pytest.raises(ValueError, match=r"no ward 'loops'\. It has: loop, "):
        clinic.board("loops")


def test_discharge_tells_the_diagnosis_to_the_healed_only():
    case = clinic.find("learns_then_forgets")
    assert "Still in the ward" in repr(clinic.discharge("learns_then_forgets"))
    repair("learns_then_forgets", *reference("learns_then_forgets"))
    assert case.diagnosis[-40:] in repr(clinic.discharge("learns_then_forgets"))


def test_the_floor_of_the_picture_is_what_the_loss_comes_to():
    for classes in (2, 10, 100):
        sure = torch.tensor([60.0])
        assert softmax_twice.losses(classes, sure, twice=True)[0].item() == pytest.approx(
            softmax_twice.floor(classes), abs=1e-5
        )
        assert softmax_twice.losses(classes, sure, twice=False)[0].item() == pytest.approx(0, abs=1e-5)
    wrong = torch.tensor([-5.0])
    assert softmax_twice.losses(10, wrong, twice=False)[1] > 100 * softmax_twice.losses(10, wrong, twice=True)[1]


@pytest.mark.slow
def test_the_picture_follows_its_sliders():
    box = softmax_twice_picture.explore_floor()
    classes, _, picture = box.children
    assert "stays above 1.46" in picture.value
    classes.value = 100
    assert "stays above 3.62" in picture.value


def test_an_observed_loader_calls_before_each_batch_and_after_the_last():
    seen: list[Any] = []
    numbers = DataLoader(TensorDataset(torch.tensor([1, 2])))
    loader = ObservedLoader(numbers, lambda: seen.append("call"))
    assert len(loader) == 2
    for (batch,) in loader:
        seen.append(batch.item())
    assert seen == ["call", 1, "call", 2, "call"]


def test_wrong_names_are_one_sentence():
    with pytest.raises(ValueError, match="no patient 'nobody'"):
        clinic.admit("nobody")
    with pytest.raises(ValueError, match="To be repaired: train_epoch"):
        clinic.examine("learns_then_forgets")
    with pytest.raises(ValueError, match="is not a part of the program"):
        clinic.Program("learns_then_forgets", repair)


def test_an_endless_repair_is_ended(monkeypatch):
    monkeypatch.setattr(judging, "TIME_LIMIT", 0.2)
    change = ("    for images", "    while True:\n        pass\n    for images")
    endless = broken("learns_then_forgets", change)
    assert clinic.symptom("learns_then_forgets", *endless, seed=0) == "endless"


@pytest.mark.parametrize("slug", [slug for slug in SLUGS if slug not in clinic.WARDS["workers"]])  # these are shown
def test_an_error_of_a_part_comes_with_its_line_and_with_what_the_part_was_given(slug):
    text = "".join(f"def {name}(*_, **__):\n    raise LookupError('mine')\n" for name in clinic.find(slug).parts)
    checked = repair(slug, *parts(slug, text))
    assert (checked.state, checked.symptom) == ("wrong", "raised_LookupError")
    what, line, *_, given = checked.message.splitlines()
    assert what == "Your code stopped with LookupError: mine"
    assert line.endswith("raise LookupError('mine')") or line.startswith("It happened in rank ")
    assert re.fullmatch(r"The check called it with .*\d.*\.|.* parts backbone, head\.", given)


def test_a_part_that_ends_the_program_is_judged():
    text = "def evaluate(*_):\n    raise SystemExit(2)\n"
    checked = repair("moody_score", *parts("moody_score", text))
    assert (checked.state, checked.symptom) == ("wrong", "raised_SystemExit")
    assert checked.message.startswith("Your code stopped with SystemExit: 2\n")


def test_a_failing_program_shows_its_last_line():
    failing = broken("learns_then_forgets", ("        loss.backward()", "        loss.backwards()"))
    log = clinic.Program("learns_then_forgets", *failing).log()
    assert "AttributeError: 'Tensor' object has no attribute 'backwards'" in log
    assert re.search(r"in main\n    loss = train_epoch.*\n  Line \d+ of <repair .*>: loss.backwards\(\)\nAttr", log)
    ending = parts("learns_then_forgets", "def train_epoch(*_):\n    raise SystemExit(3)\n")
    assert clinic.Program("learns_then_forgets", *ending).log().endswith(": raise SystemExit(3)\nSystemExit: 3")
    with pytest.raises(ValueError, match="batch_size") as caught:
        clinic.Program("learns_then_forgets").make_loader(10, "two", 0)
    text = clinic.Program("learns_then_forgets").failure(caught.value)
    assert "program.py" in text
    assert "return DataLoader" in text


# What authors rely on


def source_of(slug: str) -> ast.Module:
    return ast.parse((CLINIC / "cases" / f"{slug}.py").read_text(encoding="utf-8"))


def texts(module: ast.Module) -> list[str]:
    """All strings of a module; a value that an f-string fills in reads as 0."""

    def text(node: ast.expr) -> str:
        if isinstance(node, ast.JoinedStr):
            return "".join(map(text, node.values))
        return str(node.value) if isinstance(node, ast.Constant) else "0"

    return [text(node) for node in ast.walk(module) if isinstance(node, ast.JoinedStr | ast.Constant)]


def repairs() -> dict[str, tuple[str, str]]:
    """The notebook of each patient, and its text from the repair to the next patient."""
    found = {}
    for path in sorted((ROOT / "solutions").glob("0[56]_*/*clinic*.py")):
        for slug, text in re.findall(r"(?ms)^# %% repair: (\w+)\n(.*?)(?=^# %% repair|\Z)", path.read_text("utf-8")):
            found[slug] = path.stem, text
    return found


def test_the_table_of_causes_is_that_of_the_cases():
    rows = ["| ward | patient | what is wrong | parts | notebook |", "|---|---|---|---|---|"]
    for ward, slugs in clinic.WARDS.items():
        for slug in slugs:
            cause = " ".join((ast.get_docstring(source_of(slug)) or "").split()).removeprefix("Patient: ")
            parts = ", ".join(f"`{name}`" for name in clinic.find(slug).parts)
            rows.append(f"| {ward} | [{slug}](cases/{slug}.py) | {cause} | {parts} | {repairs()[slug][0]} |")
    table = "\n".join(rows)
    text = (CLINIC / "README.md").read_text(encoding="utf-8")
    assert table in text, f"Put this table into {CLINIC / 'README.md'}:\n\n{table}"


def test_each_help_quotes_a_hint_of_the_judge():
    general = [text for module in (comparisons, judging) for text in texts(ast.parse(inspect.getsource(module)))]
    for slug, (_, lesson) in repairs().items():
        hints = [*texts(source_of(slug)), *general]
        for quoted in re.findall(r'Help – I get "(.*?)"</summary>', lesson):
            assert any(quoted in hint for hint in hints), f"no hint of '{slug}' says '{quoted}'"
