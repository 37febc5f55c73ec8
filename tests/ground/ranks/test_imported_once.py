"""What ranks need of the course is imported once, before they are forked; the learner's own modules in each rank."""

import atexit
import gc
import importlib
import sys
from pathlib import Path
from types import ModuleType

import pytest

from torchcourse import error_bars
from torchcourse.ranks import run_ranks, start

pytestmark = pytest.mark.skipif(start.start_method() == "spawn", reason="nothing is forked here")


def came_with_the_fork(module: ModuleType) -> bool:
    """Whether the rank server had imported a module: it freezes what it has, and the collector does not list that."""
    return all(each is not vars(module) for each in gc.get_objects())


def test_modules_of_the_course_come_with_the_fork(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_module_of_ranks.py").write_text("value = 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    mine = importlib.import_module("my_module_of_ranks")
    try:
        found = run_ranks(lambda: [came_with_the_fork(error_bars), came_with_the_fork(mine), mine.value])
        (tmp_path / "my_module_of_ranks.py").write_text("value = 22\n")
        again = run_ranks(lambda: [came_with_the_fork(error_bars), came_with_the_fork(mine), mine.value])
    finally:
        del sys.modules["my_module_of_ranks"]
    assert found == [[True, False, 1]] * 2
    assert again == [[True, False, 22]] * 2


def test_a_module_that_cannot_be_imported_is_the_ranks_own_matter() -> None:
    server = start._server()
    with server._lock:
        server._wait_until_ready(lambda: None)
        server._ask_to_import(["torchcourse.there_is_no_such_module"])
    assert run_ranks(lambda: 1) == [1, 1]


def test_a_rank_imports_nothing_when_it_ends() -> None:
    def imported_at_the_end() -> list[str]:
        before = set(sys.modules)
        atexit._run_exitfuncs()
        return sorted(set(sys.modules) - before)

    assert run_ranks(imported_at_the_end) == [[], []]
