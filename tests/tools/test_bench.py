"""The bench: one Markdown report of tables. What it measures is no test."""

import pytest
from nbformat.v4 import new_code_cell, new_notebook

from torchcourse.tools.bench import __main__ as bench
from torchcourse.tools.bench import ranks
from torchcourse.tools.bench.notebooks import Listener
from torchcourse.tools.bench.report import Table, machine


def test_a_table_is_markdown():
    table = Table("Title", ["way", "time"], [["a", "1 s"], ["b", "2 s"]], "How.", ["A note."])
    assert table.to_markdown().splitlines() == [
        *("## Title", "", "How.", "", "| way | time |", "| --- | --- |", "| a | 1 s |", "| b | 2 s |", "", "A note."),
    ]


def test_the_machine_is_described_without_its_name():
    import platform

    assert "torch" in machine()
    assert platform.node() not in machine()


def test_an_unknown_table_is_named(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["bench", "speed"])
    assert bench.main() == 1
    assert "There is no table speed" in capsys.readouterr().err


def test_a_report_is_written_and_a_missing_peer_leaves_its_table_out(monkeypatch, tmp_path, capsys):
    class Good:
        @staticmethod
        def table():
            return Table("Fine", ["x"], [["1"]], "How.")

    def load(name):
        if name.endswith(".loop"):
            raise ImportError("No module named 'lightning'")
        return Good

    monkeypatch.setattr("sys.argv", ["bench", "ranks", "loop", "--out", str(tmp_path / "report.md")])
    monkeypatch.setattr(bench.importlib, "import_module", load)
    assert bench.main() == 0
    report = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert "## Fine" in report
    assert "Left out loop: No module named 'lightning'" in capsys.readouterr().err


@pytest.mark.slow
def test_the_longest_silence_of_a_notebook_is_found(tmp_path):
    speaks = "import time\nfor _ in range(4):\n    time.sleep(0.3)\n    print('on', flush=True)"
    cells = [("speaks", speaks), ("silent", "time.sleep(1.2)"), ("quick", "1")]
    notebook = new_notebook(cells=[new_code_cell(source, id=name) for name, source in cells])
    listener = Listener(notebook, str(tmp_path), timeout=60)
    listener.execute()
    assert listener.silent_cell == "silent"
    assert listener.silence > 1.1


@pytest.mark.slow
def test_ways_to_start_ranks_do_the_same_work():
    assert ranks.one_all_reduce.__module__ == "torchcourse.tools.bench.ranks"
    seconds = ranks._measure("`run_ranks`", 2)
    assert len(seconds) == ranks.CALLS
    assert min(seconds) > 0


def test_a_way_that_fails_is_reported_as_failed(monkeypatch, tmp_path):
    program = tmp_path / "program.py"
    program.write_text("import sys\nraise KeyError(sys.argv[2])", encoding="utf-8")
    monkeypatch.setattr(ranks, "__file__", str(program))
    assert ranks._measure("nothing like it", 2) == "failed: KeyError: 'nothing like it'"
