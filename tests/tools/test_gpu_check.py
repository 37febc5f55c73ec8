"""gpu-check: whatever fails becomes a row, what a machine lacks is said, and the report says what was measured."""

import re
import threading
from types import SimpleNamespace

import nbformat
import pytest
import torch
from nbclient.exceptions import CellExecutionError
from nbformat.v4 import new_code_cell, new_output

from torchcourse.ranks.errors import RankError
from torchcourse.tools.gpu_check import __main__ as gpu_check
from torchcourse.tools.gpu_check import memory, notebooks, overhead, precision, ranks, report, scaling
from torchcourse.tools.gpu_check.parts import Case, Finding, NotRun, Part, Row, require_close, row_of, rows_of
from torchcourse.tools.repository import ROOT


def returns(value):
    return lambda *arguments, **options: value


def raises(error):
    def measure(*arguments, **options):
        raise error

    return measure


@pytest.fixture
def no_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", returns(0))
    monkeypatch.setattr(torch.cuda, "is_available", returns(False))


@pytest.fixture
def two_gpus(monkeypatch):
    """A machine with two GPUs, as far as questions about them go."""
    gpu = SimpleNamespace(name="Some GPU", total_memory=80 * 2**30, major=9, minor=0)
    monkeypatch.setattr(torch.cuda, "device_count", returns(2))
    monkeypatch.setattr(torch.cuda, "is_available", returns(True))
    monkeypatch.setattr(torch.cuda, "get_device_properties", returns(gpu))
    monkeypatch.setattr(torch.cuda, "get_device_name", returns("Some GPU"))
    monkeypatch.setattr(torch.cuda.nccl, "version", returns((2, 27, 5)))
    monkeypatch.setattr(torch.distributed, "is_nccl_available", returns(True))
    monkeypatch.setattr(torch.version, "cuda", "13.0")


FAILURES = {
    "an error": (ValueError("too small\nsecond line"), "ValueError: too small"),
    "without a text": (RuntimeError(), "RuntimeError"),
    "of a rank": (
        RankError(1, "OutOfMemoryError", "CUDA out of memory.\nTried to allocate", "Traceback …"),
        "rank 1: OutOfMemoryError: CUDA out of memory.",
    ),
    "of a process": (RankError(0, "ProcessDied", "killed by SIGKILL"), "rank 0: killed by SIGKILL"),
}


@pytest.mark.parametrize(("error", "reason"), FAILURES.values(), ids=FAILURES)
def test_a_failure_is_a_row_with_its_reason_in_one_line(error, reason):
    assert row_of(Case("x", raises(error))) == Row("x", "FAILED", reason)


@pytest.mark.parametrize("found", [95.0, float("nan"), float("inf"), 106.0])
def test_a_number_too_far_off_fails(found):
    with pytest.raises(ArithmeticError, match=r"It is .* instead of 100"):
        require_close(found, 100.0, 0.04, "It")
    require_close(97.0, 100.0, 0.04, "It")


def run_with(monkeypatch, folder, *cases):
    part = Part("Scaling of DDP and FSDP2", "How.", cases)
    monkeypatch.setattr(gpu_check, "PARTS", {"broken": raises(OSError("no driver")), "scaling": lambda: part})
    status = gpu_check.main(["scaling", "--out", str(folder)])
    return status, (folder / "report.md").read_text(encoding="utf-8")


def test_what_fails_is_named_first_and_the_rest_goes_on(monkeypatch, tmp_path, capsys):
    numbers = {"ranks": 1, "rate": 10.0, "states": 2.0**21, "expected": 2.0**21}
    status, text = run_with(
        monkeypatch,
        tmp_path / "new" / "folder",
        Case("DDP, 1 rank", returns(Finding("10 | samples/s", numbers))),
        Case("DDP, 2 ranks", raises(ValueError("no luck"))),
        Case("FSDP2, 2 ranks", raises(NotRun("needs 2 GPUs"))),
        Case("last", returns(Finding("fine"))),
    )
    assert status == 1
    assert "2 done, 1 not run, 1 failed." in text
    assert text.index("- **DDP, 2 ranks** failed: ValueError: no luck") < text.index("## Scaling")
    assert "| DDP, 1 rank | done | 10 \\| samples/s |" in text
    assert "| FSDP2, 2 ranks | not run | needs 2 GPUs |" in text
    assert "| last | done | fine |" in text
    assert "](scaling.png)" in text
    assert (tmp_path / "new" / "folder" / "scaling.png").stat().st_size > 1000
    assert str(tmp_path / "new" / "folder" / "report.md") in capsys.readouterr().out


def test_nothing_failed_is_status_0(monkeypatch, tmp_path):
    status, text = run_with(monkeypatch, tmp_path, Case("a", returns(Finding("fine"))), Case("b", raises(NotRun("no"))))
    assert status == 0
    assert "scaling.png" not in text


def test_a_part_that_cannot_even_begin_is_a_failed_row(monkeypatch, tmp_path):
    monkeypatch.setattr(gpu_check, "PARTS", {"broken": raises(OSError("no driver"))})
    assert gpu_check.main(["broken", "--out", str(tmp_path)]) == 1
    assert "| broken | FAILED | OSError: no driver |" in (tmp_path / "report.md").read_text(encoding="utf-8")


def test_an_unknown_part_is_one_sentence(capsys):
    with pytest.raises(SystemExit, match="2"):
        gpu_check.main(["speed"])
    assert "there is no part speed; the parts are ranks, memory" in capsys.readouterr().err


def test_without_a_gpu_each_row_that_needs_one_says_so(no_gpu):
    for part in (ranks.part(), scaling.part(), precision.part(), notebooks.gpu_tests()):
        words = ("NCCL", "GPUs", "with GradScaler", "gpu")
        needing = [case for case in part.cases if any(word in case.what for word in words)]
        assert needing
        for case in needing:
            row = row_of(case)
            assert row.state == "not run"
            assert re.fullmatch(r"needs \d GPUs?; this machine has 0", row.result)
    assert "No GPU was found" in report.gpu_lines()[0]


def test_the_head_names_driver_libraries_and_gpus(two_gpus, monkeypatch):
    monkeypatch.setattr("pynvml.nvmlInit", returns(None))
    monkeypatch.setattr("pynvml.nvmlSystemGetDriverVersion", returns("580.1"))
    lines = report.gpu_lines()
    assert "NCCL 2.27.5" in lines[0]
    assert "driver 580.1" in lines[0]
    assert lines[1:] == [f"- GPU {index}: Some GPU, 80.0 GiB, compute capability 9.0" for index in (0, 1)]


def test_more_ranks_than_gpus_are_not_tried(two_gpus):
    states = {case.what: case for case in ranks.part().cases}
    assert row_of(states["4 NCCL ranks, GPU tensors"]).result == "needs 4 GPUs; this machine has 2"


def test_ranks_on_another_backend_are_a_failure(two_gpus, monkeypatch):
    monkeypatch.setattr(ranks, "run_ranks", returns([(1e9, "gloo")] * 2))
    with pytest.raises(ArithmeticError, match="The ranks used gloo instead of nccl"):
        ranks.collectives(2, "nccl")
    assert ranks.collectives(2, "gloo").text == "right; all_reduce 1.00 GB/s per rank"


@pytest.mark.slow
def test_ranks_on_the_cpu_train_like_one_process():
    assert ranks.same_training(2, "gloo").text.startswith("DDP differs by ")


def test_weights_that_differ_are_a_failure(monkeypatch):
    monkeypatch.setattr(ranks, "run_ranks", returns([{"DDP": 0.0, "FSDP2": 1e-17}, {"DDP": 0.0, "FSDP2": 1e-3}]))
    with pytest.raises(ArithmeticError, match="FSDP2 on 2 ranks ends in other weights"):
        ranks.same_training(2, "gloo")


def test_the_slowest_rank_is_the_speed_and_wrong_states_are_a_failure(no_gpu, monkeypatch):
    states = 16.0 * scaling.ON_CPU.parameters
    measured = {1: [scaling.Measured([0.1] * 3, states, 0)]}
    measured[2] = [scaling.Measured([0.1, 0.2, 0.1], states, 0), scaling.Measured([0.1, 0.1, 0.4], states, 0)]
    monkeypatch.setattr(scaling, "run_ranks", lambda *arguments, world_size, timeout: measured[world_size])
    alone: dict[str, float] = {}
    scaling.measured_case(scaling.ON_CPU, "DDP", 1, alone)
    found = scaling.measured_case(scaling.ON_CPU, "DDP", 2, alone)
    assert found.text.startswith("80 samples/s (40–160); 50% of 2 times one rank; states 1.5 MiB per rank")
    with pytest.raises(ArithmeticError, match="What each rank holds of FSDP2's states"):
        scaling.measured_case(scaling.ON_CPU, "FSDP2", 2, {})


def test_memory_is_compared_where_it_was_measured(no_gpu, monkeypatch):
    monkeypatch.setattr(memory, "run_ranks", returns([(2 * 2**30, None)]))
    with pytest.raises(NotRun, match=r"simulated 2\.0 GiB; not measured: this machine has no GPU"):
        memory.compare(0)
    monkeypatch.setattr(memory, "run_ranks", returns([(2 * 2**30, 2.5 * 2**30)]))
    assert memory.compare(0).text.endswith("the simulation says -20.0%")


def test_a_scaler_skips_what_overflows(monkeypatch):
    before, skipped, scales, after = precision._overflow()
    assert (before, skipped, scales) == (1.0, 1.0, [2.0**120, 2.0**119])
    assert after == pytest.approx(0.9)
    monkeypatch.setattr(precision, "run_ranks", returns([(1.0, float("-inf"), scales, after)]))
    with pytest.raises(ArithmeticError, match="The step was not skipped"):
        precision.overflow()


@pytest.mark.slow
def test_the_trainings_of_precision_and_overhead_run(monkeypatch):
    monkeypatch.setattr(precision, "IMAGES", 100)
    for name, number in {"WIDTH": 64, "TOKENS": 4, "SAMPLES": 2, "BLOCKS": 1, "STEPS": 2}.items():
        monkeypatch.setattr(precision, name, number)
    for training in (precision.small, precision.wide):
        losses, seconds, _ = precision._train("bf16", training)
        assert losses[1] < losses[0]
        assert seconds > 0
    monkeypatch.setattr(overhead, "STEPS", 2)
    monkeypatch.setattr(overhead, "ROUNDS", 1)
    monkeypatch.setattr(overhead, "run_ranks", lambda function, **options: [function()])
    assert overhead.compare().text.startswith("raw step ")


def test_sixteen_bits_are_compared_with_float32(monkeypatch):
    seconds = iter([0.4, 0.1])
    monkeypatch.setattr(precision, "run_ranks", lambda *arguments, **options: [([2.0, 1.0], next(seconds), 0)])
    full: dict[str, float] = {}
    assert precision.measured("fp32", precision.small, full).text == "20.00 ms per step; loss 2, then 1"
    assert precision.measured("bf16", precision.small, full).text.startswith("5.00 ms per step, 4 times as fast")


def test_a_notebook_tells_what_it_used():
    cell = new_code_cell(outputs=[new_output("stream", text="hello\n2 ranks by default, 0 GPUs, PyTorch 2.13\n")])
    assert notebooks.used_hardware(nbformat.v4.new_notebook(cells=[cell])).startswith("2 ranks by default")
    assert notebooks.used_hardware(nbformat.v4.new_notebook(cells=[new_code_cell()])) == ""


def test_a_notebook_that_fails_names_the_cell_and_the_error(monkeypatch):
    def execute(notebook, timeout):
        notebook.cells[1].outputs = [new_output("error", ename="RankError", evalue="rank 1: no\nmore", traceback=[])]
        raise CellExecutionError("a long traceback", "RankError", "rank 1: no\nmore")

    monkeypatch.setattr(notebooks, "seconds_to_execute", execute)
    text = nbformat.writes(nbformat.v4.new_notebook(cells=[new_code_cell("a = 1"), new_code_cell("train()\nb = 2")]))
    row = row_of(Case("x", lambda: notebooks.execute(text)))
    assert (row.state, row.result) == ("FAILED", "RuntimeError: cell 2 (train()): RankError: rank 1: no")


def test_notebooks_are_chosen_by_the_beginning_of_their_names(monkeypatch):
    names = ("01_data/1_averaging", "01_data/2_ddp", "02_model/1_pipeline")
    monkeypatch.setattr(notebooks, "solutions", returns({f"solutions/{name}.ipynb": "{}" for name in names}))
    assert [case.what for case in notebooks.part(["01", "02_model/9"]).cases] == [*names[:2], "1 of 3 notebooks"]
    assert row_of(notebooks.part(["01"]).cases[-1]).result.startswith("not chosen; ")
    assert row_of(notebooks.part([]).cases[0]).state == "not run"
    assert gpu_check._patterns(["all"]) == ["*"]
    assert gpu_check._patterns(["none"]) == []


def test_the_page_for_real_machines_names_parts_that_exist():
    page = (ROOT / "docs" / "REAL_MACHINES.md").read_text(encoding="utf-8")
    commands = re.findall(r'make gpu-check ARGS="([^"]+)"', page)
    assert commands
    for words in commands:
        assert gpu_check._options(words.split()).parts


def test_cases_that_may_run_at_once_do_and_stay_in_order(monkeypatch, tmp_path):
    met = threading.Barrier(2, timeout=20)

    def meet():
        met.wait()
        return Finding("met")

    part = Part("Notebooks", "How.", [Case("a", meet), Case("b", meet)], at_once=2)
    assert [row.what for row, seconds in rows_of(part) if row.state == "done"] == ["a", "b"]


def test_only_files_with_tests_for_a_gpu_are_read(two_gpus, monkeypatch):
    asked = []
    done = SimpleNamespace(stdout="22 passed\n", stderr="", returncode=0)
    monkeypatch.setattr(notebooks.subprocess, "run", lambda command, **options: asked.extend(command) or done)
    assert notebooks.run_gpu_tests().text == "22 passed"
    files = [word for word in asked if word.endswith(".py")]
    assert any(file.endswith("test_on_gpu.py") for file in files)
    assert 10 < len(files) < 30
