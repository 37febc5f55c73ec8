"""Importing the quiz is cheap: it brings neither torch nor a widget library, nor reads a bank."""

import json
import subprocess
import sys

import pytest

HEAVY = ["torch", "numpy", "ipywidgets", "anywidget", "IPython", "matplotlib"]


def python(program: str) -> dict:
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def test_importing_the_quiz_imports_nothing_heavy() -> None:
    program = (
        f"import json, sys, torchcourse.quiz\nprint(json.dumps([name for name in {HEAVY} if name in sys.modules]))"
    )
    assert python(program) == []


@pytest.mark.slow
def test_using_all_of_the_quiz_and_the_pages_under_their_old_names_never_imports_torch() -> None:
    program = (
        "import json, sys\n"
        "from torchcourse.tools.build import quiz_notebook\n"
        "from torchcourse.quiz import bank, card, completion, final, outcome, placement, predict, progress, recall\n"
        "from torchcourse.quiz import retrospective, review\n"
        "lesson = '04_monitoring_and_checkpoints'\n"
        "card(lesson, 'manage-training').answer('ACD', sure=2, reasoning='x')\n"
        "shown = [card(lesson, 'manage-training'), predict('x', '?', ['a', 'b']), review(), recall('09_x')]\n"
        "forms = [part.widget() for part in shown[:2]], [part._repr_html_() for part in shown]\n"
        "[part._repr_html_() for part in (final(), placement())], outcome('x', '?'), progress()._repr_html_()\n"
        "retrospective(), completion(), quiz_notebook.quiz_source(bank.lesson(lesson))\n"
        "print(json.dumps({'torch': 'torch' in sys.modules, 'widget': 'anywidget' in sys.modules}))"
    )
    assert python(program) == {"torch": False, "widget": True}


@pytest.mark.slow
def test_functions_are_functions_and_modules_are_modules() -> None:
    program = (
        "import json, types\n"
        "from torchcourse import quiz\n"
        "from torchcourse.quiz.cards import Card\n"
        "from torchcourse.quiz import widget\n"
        "functions = [quiz.card, quiz.predict, quiz.outcome, quiz.recall, quiz.review, quiz.received,\n"
        "             quiz.final_elsewhere, quiz.final_result, quiz.where_was_i]\n"
        "modules = [quiz.bank, quiz.cards, quiz.reviews]\n"
        "print(json.dumps([all(isinstance(f, types.FunctionType) for f in functions),\n"
        "                  all(isinstance(m, types.ModuleType) for m in modules), hasattr(quiz, 'nothing')]))"
    )
    assert python(program) == [True, True, False]
