"""run_ranks: results, errors, output, limits, and what must never happen. (In a kernel: test_in_a_kernel.py.)

The functions that run in ranks are written inside the tests, so that they travel by value, as those of a cell do.
"""

import contextlib
import ctypes
import functools
import io
import os
import pickle
import re
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
import torch.distributed as dist
from torch.distributed.tensor import distribute_tensor, init_device_mesh
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, Dataset

from torchcourse import progress_bars
from torchcourse.ranks import RankError, RankTimeout, default_world_size, device, run, run_ranks, start
from torchcourse.ranks.report import LinePrinter


@pytest.fixture
def spawned(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ranks start as on Windows."""
    monkeypatch.setattr(start, "start_method", lambda: "spawn")


# Results


@pytest.mark.slow
def test_results_come_in_rank_order_from_two_ranks_by_default() -> None:
    def slow_first(x: int) -> tuple[int, int, int]:
        time.sleep(0.2 * (1 - dist.get_rank()))
        return dist.get_rank(), dist.get_world_size(), x

    assert run_ranks(slow_first, 7) == [(0, default_world_size(), 7), (1, default_world_size(), 7)]
    assert run_ranks(dist.get_rank, world_size=3) == [0, 1, 2]
    assert run_ranks(dist.get_rank, world_size=1) == [0]


def test_collectives_work_and_keyword_arguments_travel_in_a_partial() -> None:
    def total(start: float, *, factor: float) -> float:
        tensor = torch.tensor(start + dist.get_rank(), device=device())
        dist.all_reduce(tensor)
        return tensor.item() * factor

    assert run_ranks(functools.partial(total, factor=10.0), 1.0, world_size=4) == [100.0] * 4


def test_a_rank_looks_like_one_that_torchrun_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SET_AFTER_THE_IMPORT", "yes")
    (tmp_path / "written_a_moment_ago.py").write_text("value = 5")
    monkeypatch.syspath_prepend(tmp_path)

    def look() -> dict:
        import written_a_moment_ago

        names = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "SET_AFTER_THE_IMPORT", "ONLY_IN_RANKS")
        return {
            "env": [os.environ[name] for name in names],
            "folder": os.getcwd(),
            "module": written_a_moment_ago.value,
            "threads": torch.get_num_threads(),
            "backend": dist.get_backend(),
            "device": device(),
            "input": sys.stdin.read(),
            "debug": dist.get_debug_level(),
        }

    first, second = run_ranks(look, env={"ONLY_IN_RANKS": "1", "TORCH_DISTRIBUTED_DEBUG": "DETAIL"}, world_size=2)
    assert first["env"] == ["0", "0", "2", "2", "yes", "1"]
    assert second["env"] == ["1", "1", "2", "2", "yes", "1"]
    for seen in (first, second):
        assert seen["folder"] == str(tmp_path)
        assert (seen["module"], seen["input"]) == (5, "")
        assert seen["debug"] == dist.DebugLevel.DETAIL
        if not torch.cuda.is_available():
            assert (seen["threads"], seen["backend"], seen["device"]) == (1, "gloo", torch.device("cpu"))
    assert "ONLY_IN_RANKS" not in os.environ


def test_ranks_start_with_fresh_random_generators() -> None:
    def draw() -> tuple[float, float]:
        return torch.rand(1).item(), np.random.rand()

    draws = run_ranks(draw) + run_ranks(draw)
    assert len({of_torch for of_torch, _ in draws}) == 4  # from the system, not the state of the rank server
    assert len({of_numpy for _, of_numpy in draws}) == 4


@pytest.mark.slow
def test_tensors_arrive_as_copies_without_graph() -> None:
    weight = torch.ones(3, requires_grad=True)
    graph = weight * 2
    large = torch.zeros(12_500_000)  # 50 MB

    def work(leaf: torch.Tensor, inner: torch.Tensor, view: torch.Tensor) -> dict:
        large[dist.get_rank()] = 1
        return {
            "large": large,
            "flags": (leaf.requires_grad, inner.requires_grad, view.untyped_storage().nbytes()),
            "loss": (leaf * 3).sum(),
            "slice": large[:2],
            "parameter": torch.nn.Parameter(torch.ones(2)),
            "model": torch.nn.Linear(2, 2),
        }

    for rank, result in enumerate(run_ranks(work, weight, graph, large[:4])):
        assert result["large"].sum() == 1
        assert result["large"][rank] == 1
        assert result["flags"] == (True, False, 16)
        assert not result["loss"].requires_grad
        assert result["slice"].untyped_storage().nbytes() == 8
        assert isinstance(result["parameter"], torch.nn.Parameter)
        result["model"](torch.ones(1, 2)).sum().backward()
    assert large.sum() == 0


def test_dataloader_workers_run_inside_a_rank() -> None:
    class Squares(Dataset):
        def __len__(self) -> int:
            return 8

        def __getitem__(self, index: int) -> int:
            return index * index

    def load() -> list[int]:
        loader = DataLoader(Squares(), batch_size=4, num_workers=2, persistent_workers=True)
        return [int(batch.sum()) for _ in range(2) for batch in loader]

    assert run_ranks(load) == [[14, 126, 14, 126]] * 2


def test_calls_from_two_threads_do_not_mix() -> None:
    def total(value: int) -> int:
        tensor = torch.tensor(value)
        dist.all_reduce(tensor)
        return int(tensor)

    found: dict[int, list[int]] = {}
    threads = [
        threading.Thread(target=lambda n=n: found.update({n: run_ranks(total, n, world_size=2)})) for n in (1, 2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {1: [2, 2], 2: [4, 4]}


# Errors


def test_the_error_names_the_rank_and_shows_the_learners_line() -> None:
    def train() -> None:
        if dist.get_rank() == 1:
            torch.nn.Linear(3, 4)(torch.ones(2, 2))  # the wrong shape
        dist.barrier()

    with pytest.raises(RankError) as caught:
        run_ranks(train)
    error = caught.value
    assert (error.rank, error.kind) == (1, "RuntimeError")
    assert error.message.startswith("mat1 and mat2 shapes cannot be multiplied")
    assert "torch.nn.Linear(3, 4)(torch.ones(2, 2))  # the wrong shape" in error.traceback
    assert "linear.py" in error.traceback  # where it was raised
    assert "_call_impl" not in error.traceback  # the way there is torch's affair
    assert "_worker" not in error.traceback
    assert str(error).startswith("rank 1: RuntimeError: mat1 and mat2")
    again = pickle.loads(pickle.dumps(error))
    assert (again.rank, again.kind, str(again)) == (1, "RuntimeError", str(error))


@pytest.mark.slow
def test_the_root_cause_wins_even_if_its_victims_report_first() -> None:
    def train() -> None:
        if dist.get_rank() == 0:
            try:
                dist.destroy_process_group()  # the others see a closed connection at once
                time.sleep(0.5)
            finally:
                raise KeyError("the cause")
        dist.barrier()

    with pytest.raises(RankError) as caught:
        run_ranks(train, world_size=3)
    assert (caught.value.rank, caught.value.kind, caught.value.message) == (0, "KeyError", "'the cause'")


def test_ranks_that_fail_together_are_reported_together() -> None:
    def alike() -> None:
        dist.barrier()  # on a busy machine ranks may start far apart
        raise NotImplementedError("Write your code here")

    with pytest.raises(RankError) as caught:
        run_ranks(alike, world_size=3)
    assert caught.value.kind == "NotImplementedError"
    others = sorted({0, 1, 2} - {caught.value.rank})
    assert caught.value.note == f"(ranks {others[0]}, {others[1]} failed in the same way.)"

    def different() -> None:
        dist.barrier()
        raise (ValueError if dist.get_rank() else KeyError)(dist.get_rank())

    with pytest.raises(RankError, match=r"failed too: (ValueError: 1|KeyError: 0)"):
        run_ranks(different)


def test_chained_errors_and_exits_are_told() -> None:
    def chained() -> None:
        try:
            {"here": 1}["missing"]
        except KeyError as error:
            raise RuntimeError("second") from error

    with pytest.raises(RankError) as caught:
        run_ranks(chained, world_size=1)
    assert "KeyError: 'missing'" in caught.value.traceback
    assert "direct cause" in caught.value.traceback

    with pytest.raises(RankError) as caught:
        run_ranks(lambda: sys.exit(4), world_size=1)
    assert (caught.value.kind, caught.value.message) == ("SystemExit", "4")


@pytest.mark.slow
def test_a_rank_that_waits_for_one_that_has_returned() -> None:
    def only_rank_0() -> None:
        if dist.get_rank() == 0:
            dist.all_reduce(torch.ones(1))

    with pytest.raises(RankError) as caught:
        run_ranks(only_rank_0)
    assert caught.value.rank == 0
    assert "rank 1 had already returned" in caught.value.note
    assert "dist.all_reduce(torch.ones(1))" in caught.value.traceback


@pytest.mark.parametrize(
    ("end", "expected"),
    [
        (lambda: os._exit(3), "exit code 3"),
        (lambda: ctypes.string_at(0), "SIGSEGV"),
        (lambda: os.kill(os.getpid(), signal.SIGKILL), "SIGKILL .* memory"),
    ],
    ids=["exit", "segfault", "killed"],
)
def test_a_rank_that_dies_is_named_with_its_exit_code_or_signal(end, expected: str) -> None:
    def train() -> None:
        if dist.get_rank() == 1:
            end()
        dist.barrier()

    with pytest.raises(RankError, match=f"^rank 1: the process .*{expected}") as caught:
        run_ranks(train)
    assert (caught.value.rank, caught.value.kind) == (1, "ProcessDied")
    if expected == "SIGSEGV":
        assert "ctypes.string_at(0)" in caught.value.traceback
    assert run_ranks(dist.get_rank) == [0, 1]


@pytest.mark.slow
def test_a_deadlock_ends_at_the_time_limit_with_every_ranks_stack() -> None:
    def deadlock() -> None:
        if dist.get_rank() == 0:
            dist.recv(torch.ones(1), src=1)
        else:
            dist.recv(torch.ones(1), src=0)

    with pytest.raises(TimeoutError) as caught:
        run_ranks(deadlock, timeout=1)
    assert isinstance(caught.value, RankTimeout)
    assert isinstance(caught.value, RankError)
    first, second = str(caught.value).split("rank 1 was here:")
    assert "ranks 0, 1 had not finished after 1 s" in first
    assert "dist.recv(torch.ones(1), src=1)" in first
    assert "dist.recv(torch.ones(1), src=0)" in second
    assert run_ranks(dist.get_rank) == [0, 1]


class SlowToRebuild:
    """An argument that keeps a rank busy before it can call the function."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def __reduce__(self) -> tuple:
        return time.sleep, (self.seconds,)


@pytest.mark.slow
def test_the_time_limit_begins_when_all_ranks_have_started() -> None:
    assert run_ranks(lambda _: dist.get_rank(), SlowToRebuild(4), timeout=3) == [0, 1]


@pytest.mark.slow
def test_ranks_that_do_not_start_are_ended_and_named(monkeypatch) -> None:
    monkeypatch.setattr("torchcourse.ranks.supervisor._START", 1.0)
    with pytest.raises(RankTimeout, match="ranks 0, 1 had not started after 1 s"):
        run_ranks(lambda _: None, SlowToRebuild(100), timeout=0.5)
    monkeypatch.undo()
    assert run_ranks(dist.get_rank) == [0, 1]


@pytest.mark.slow
def test_no_rank_is_left_after_a_failure() -> None:
    def train() -> None:
        if dist.get_rank() == 1:
            raise ValueError
        while True:
            with contextlib.suppress(BaseException):
                time.sleep(1)

    run_ranks(dist.get_rank)
    before = psutil.Process().children(recursive=True)
    with pytest.raises(RankError):
        run_ranks(train)
    assert psutil.Process().children(recursive=True) == before


@pytest.mark.slow
def test_the_next_call_works_after_the_server_was_killed() -> None:
    run_ranks(dist.get_rank)
    (server,) = (p for p in psutil.Process().children() if any("server.py" in word for word in p.cmdline()))
    pid = server.pid

    def kill_it() -> None:
        if dist.get_rank() == 0:
            os.kill(pid, signal.SIGKILL)
        time.sleep(60)

    with pytest.raises(RankError, match="the process disappeared"):
        run_ranks(kill_it)
    assert run_ranks(dist.get_rank) == [0, 1]


# What run_ranks refuses before it starts anything


@pytest.mark.parametrize("world_size", [0, -1, 2.0, "2", True])
def test_a_world_size_that_is_no_number_of_ranks_is_refused(world_size) -> None:
    with pytest.raises(ValueError, match="world_size is the number of ranks") as caught:
        run_ranks(dist.get_rank, world_size=world_size)
    assert repr(world_size) in str(caught.value)


def test_other_wrong_arguments_are_refused() -> None:
    wrong: Any = 3
    with pytest.raises(TypeError, match=r"got an object of type int.*run_ranks\(train\)"):
        run_ranks(wrong)

    def step() -> None: ...

    with pytest.raises(TypeError, match=r"step\(\) cannot be called.*too many positional.*world_size"):
        run_ranks(step, 2)
    for wrong in (0, -1, "60", float("nan")):
        with pytest.raises(ValueError, match="timeout is the number of seconds"):
            run_ranks(dist.get_rank, timeout=wrong)
    wrong = {"A": 1}
    with pytest.raises(TypeError, match="env maps names to texts"):
        run_ranks(dist.get_rank, env=wrong)


def test_more_ranks_than_memory_allows_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "free_memory", lambda: 350 * 2**20)
    monkeypatch.setattr(start, "start_ranks", lambda *_: pytest.fail("started"))
    with pytest.raises(
        MemoryError, match=r"4 ranks need about 400\.0 MiB of memory \(100\.0 MiB per rank\), and 350\.0 MiB"
    ):
        run_ranks(dist.get_rank, world_size=4)
    with pytest.raises(MemoryError, match=r"2 ranks need about 400\.0 MiB of memory \(200\.0 MiB per rank\)"):
        run_ranks(len, bytes(50 * 2**20), world_size=2)


def test_a_system_that_gives_no_more_processes_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    fork = start._Server._fork

    def fork_one_only(self: start._Server, rank: int) -> start.RankProcess:
        if rank:
            raise OSError(11, "Resource temporarily unavailable")
        return fork(self, rank)

    monkeypatch.setattr(start._Server, "_fork", fork_one_only)
    with pytest.raises(RuntimeError, match=r"no room for 2 ranks \(Resource temporarily unavailable\)"):
        run_ranks(dist.get_rank)


class Holder:
    def __init__(self, held: object) -> None:
        self.held = held

    def work(self) -> None: ...


def test_what_cannot_travel_is_named(tmp_path: Path) -> None:
    lock = threading.Lock()
    log = (tmp_path / "log").open("w")
    source = Path(__file__).open()  # noqa: SIM115 (it has to be open)
    settings = {"writers": [1, Holder(lock)]}

    def uses_file() -> None:
        print("x", file=log)

    def uses_settings() -> object:
        return settings

    def uses_inside() -> None:
        def inner() -> None:
            source.read()

        inner()

    def has_default(number: object = iter(())) -> None: ...

    def plain(*args: object) -> None: ...

    calls: list[tuple[tuple[Any, ...], str]] = [
        ((uses_file,), "^`log`, which uses_file() uses, .* an open file (TextIOWrapper).*inside the function"),
        ((uses_settings,), "^`settings['writers'][1].held`, which uses_settings() uses, .* a lock (lock)"),
        ((uses_inside,), "^`source`, which uses_inside() uses,.* an open file"),
        ((plain, 1, {"a": (n for n in [0])}), "^argument 2['a'] cannot be sent .* a generator (generator)"),
        ((plain, {lock}), "^an element of argument 1 cannot be sent .* a lock (lock)"),
        ((functools.partial(plain, lock),), "^argument 1 of functools.partial cannot be sent .* a lock"),
        ((Holder(lock).work,), "^`self.held` of work() cannot be sent .* a lock"),
    ]
    for call, expected in calls:
        with pytest.raises(TypeError) as caught:
            run_ranks(*call)
        pattern = expected.translate({ord(sign): f"\\{sign}" for sign in "()[]"})
        assert re.search(pattern, str(caught.value)), (expected, str(caught.value))
    log.close()
    source.close()


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda: {"n": [threading.Lock()]}, r"the result\['n'\]\[0\] cannot be sent .* a lock.* Return tensors"),
        (lambda: (n for n in [0]), "the result cannot be sent .* a generator"),
        (
            lambda: DistributedDataParallel(torch.nn.Linear(1, 1)),
            r"the result is .* Use its \.module",
        ),
        (
            lambda: {"w": distribute_tensor(torch.ones(2), init_device_mesh("cpu", (2,)))},
            r"the result\['w'\] is a DTensor.* \.full_tensor\(\)",
        ),
    ],
    ids=["lock", "generator", "ddp", "dtensor"],
)
def test_a_result_that_cannot_travel_is_named(make, expected: str) -> None:
    with pytest.raises(RankError, match=f"rank [01]: TypeError: {expected}"):
        run_ranks(make)


def test_a_result_that_cannot_be_rebuilt_here_is_explained() -> None:
    def only_there() -> object:
        class Fragile:
            def __reduce__(self):
                return int, ("not a number",)

        return Fragile()

    with pytest.raises(TypeError, match=r"result of rank 0 cannot be rebuilt in the notebook \(ValueError"):
        run_ranks(only_there)


def test_ranks_start_no_ranks() -> None:
    with pytest.raises(RankError, match="called inside a rank"):
        run_ranks(lambda: run_ranks(dist.get_rank))


# Output


def test_every_line_has_its_rank_and_none_is_torn(capsys: pytest.CaptureFixture) -> None:
    def talk() -> None:
        rank = dist.get_rank()

        def count(name: str) -> None:
            for number in range(200):
                print(name, "says", end=" ")
                time.sleep(0)  # the other thread's turn, in the middle of a line
                print(number, "and " + "x" * 50)

        threads = [threading.Thread(target=count, args=(f"thread {rank}{name}",)) for name in "ab"]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        print("to stderr", file=sys.stderr)
        ctypes.CDLL(None).puts("from C: 안녕".encode())
        subprocess.run(["echo", "from a program"], check=True)
        print("unfinished", end="")

    run_ranks(talk)
    lines = capsys.readouterr().out.splitlines()
    for rank in (0, 1):
        own = [line.removeprefix(f"[rank {rank}] ") for line in lines if line.startswith(f"[rank {rank}] ")]
        for name in "ab":
            said = [line for line in own if line.startswith(f"thread {rank}{name}")]
            assert said == [f"thread {rank}{name} says {number} and {'x' * 50}" for number in range(200)]
        assert own[400:] == ["to stderr", "from C: 안녕", "from a program", "unfinished"]
    assert len(lines) == 2 * 404


def test_huge_output_without_a_newline_arrives_whole(capsys: pytest.CaptureFixture) -> None:
    def flood() -> None:
        sys.stdout.write("é" * 3_000_000)

    run_ranks(flood, world_size=1)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) > 1  # in pieces, so that memory stays bounded
    assert all(line.startswith("[rank 0] ") for line in lines)
    assert "".join(line.removeprefix("[rank 0] ") for line in lines) == "é" * 3_000_000


def test_what_a_rank_printed_before_it_died_is_shown(capsys: pytest.CaptureFixture) -> None:
    def train() -> None:
        print("last words", flush=True)
        os._exit(1)

    with pytest.raises(RankError):
        run_ranks(train, world_size=1)
    assert capsys.readouterr().out == "[rank 0] last words\n"


def test_a_progress_bar_rewrites_its_line() -> None:
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        printer = LinePrinter()
        printer.write(0, b"\r 10%")
        printer.write(0, b"\r 20%")
        printer.write(1, b"hello\n")
        printer.write(0, b"\r 100% done\n")
        printer.write(1, b"bye\r\n")
        printer.write(1, b"5\r")
        printer.write(1, b"6\r")
        printer.write(1, "안".encode()[:2])
        printer.write(1, "안".encode()[2:], final=True)
    assert out.getvalue() == (
        "[rank 0]  10%\r[rank 0]  20%\n[rank 1] hello\n[rank 0]  100% done\n[rank 1] bye\n"
        "[rank 1] 5\r[rank 1] 6\r[rank 1] 안\n"
    )


class Watched(io.StringIO):
    """A terminal of 80 columns, or a notebook whose outputs that move are written down in the order they come in."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr("torchcourse.ranks.report.time.monotonic", lambda: now[0])
    monkeypatch.setattr(progress_bars.Line, "shown", 0.0)
    return now


def test_in_a_notebook_each_rank_has_a_line_of_its_own(monkeypatch: pytest.MonkeyPatch, clock: list[float]) -> None:
    out = io.StringIO()

    class Line:
        def __init__(self) -> None:
            out.write("<new>")

        def write(self, text: str) -> None:
            out.write(f"<{text}>")

    monkeypatch.setattr(progress_bars, "columns", lambda: 0)
    monkeypatch.setattr(progress_bars, "Line", Line)
    monkeypatch.setattr(progress_bars, "last_shown", lambda: 0.0)
    with contextlib.redirect_stdout(out):
        printer = LinePrinter()
        printer.write(0, b"hello\n\r 10%")
        printer.write(1, b"\r  5%")
        clock[0] += 1.4
        printer.waiting("run_ranks is running")
        printer.write(0, b"\r 20%")
        printer.write(0, b"\r 100%\nnext\n")
        clock[0] += 2.1
        printer.waiting("run_ranks is running")
        printer.waiting("run_ranks is running")
        printer.write(0, b"\r 1%")
        printer.write(1, b"", final=True)
        clock[0] += 1.1
        printer.waiting("run_ranks is running")
        printer.over()
    assert out.getvalue() == (
        "[rank 0] hello\n<new><[rank 0]  10%><new><[rank 1]   5%><[rank 0]  20%><[rank 0]  100%>[rank 0] next\n"
        "<new><run_ranks is running: 4 s><new><[rank 0]  1%><[rank 1]   5%>"
        "<run_ranks is running: 5 s><run_ranks took 5 s.>"
    )


def test_in_a_terminal_what_is_waited_for_gives_way_to_what_comes(clock: list[float]) -> None:
    out = Watched()
    with contextlib.redirect_stdout(out):
        printer = LinePrinter()
        clock[0] += 3
        printer.waiting("run_ranks is running")
        clock[0] += 0.5
        printer.waiting("run_ranks is running")
        printer.write(0, b"hello\n")
        clock[0] += 3
        printer.waiting("run_ranks is running")
        clock[0] += 1
        printer.waiting("run_ranks is running")
        printer.over()
    note = "run_ranks is running: "
    assert out.getvalue() == (f"{note}3 s\r{'[rank 0] hello':<25}\n{note}6 s\r{note}8 s\r{' ' * 25}\r"), (
        "hello stands over the note, and at the end there is none"
    )


def test_in_a_log_file_nothing_moves(clock: list[float], capsys: pytest.CaptureFixture) -> None:
    printer = LinePrinter()
    clock[0] += 60
    printer.waiting("run_ranks is running")
    printer.over()
    assert capsys.readouterr().out == ""


def test_a_rank_draws_its_bar_when_a_terminal_watches(monkeypatch: pytest.MonkeyPatch) -> None:
    def train() -> None:
        shown = progress_bars.bar(3)
        if shown is not None:
            shown.close()
        print(shown and shown.ncols)

    out = Watched()
    monkeypatch.setenv("COLUMNS", "80")
    with contextlib.redirect_stdout(out):
        run_ranks(train, world_size=1)
    assert "[rank 0] 71\n" in out.getvalue()
    assert "[rank 0]   0%|" in out.getvalue()
    silent = io.StringIO()
    with contextlib.redirect_stdout(silent):
        run_ranks(train, world_size=1)
    assert silent.getvalue() == "[rank 0] None\n"


@pytest.mark.parametrize("encoding", ["cp949", "ascii", "cp1252"])
def test_a_console_that_lacks_a_sign_shows_its_number(encoding: str) -> None:
    raw = io.BytesIO()
    console = io.TextIOWrapper(raw, encoding=encoding, newline="\n")
    with contextlib.redirect_stdout(console):
        printer = LinePrinter()
        printer.write(0, "✓ done\n".encode())
        printer.write(0, b"next\n")
    assert raw.getvalue().decode(encoding).splitlines() == [r"[rank 0] \u2713 done", "[rank 0] next"]


def test_a_console_that_is_gone_costs_no_result() -> None:
    class Gone(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError

    closed = io.StringIO()
    closed.close()
    for stream in (Gone(), closed, None):
        with contextlib.redirect_stdout(stream):
            LinePrinter().write(0, b"last words\n")


def test_a_folder_that_was_deleted_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    with pytest.raises(FileNotFoundError, match=r"current folder has been deleted.* os\.chdir"):
        run_ranks(device)


def test_an_abort_inside_a_collective_says_what_to_compare() -> None:
    with pytest.raises(RankError, match=r"SIGABRT .* the same number of batches"):
        run_ranks(os.abort, world_size=1)


@pytest.mark.slow
def test_log_writers_flush_at_the_end_and_children_end_with_their_rank(tmp_path: Path) -> None:
    def train() -> int:
        import atexit

        atexit.register(lambda: (tmp_path / f"flushed {dist.get_rank()}").touch())
        return subprocess.Popen(["sleep", "100"]).pid

    start = time.monotonic()
    children = run_ranks(train)
    assert time.monotonic() - start < 30  # and not 100
    assert sorted(path.name for path in tmp_path.iterdir()) == ["flushed 0", "flushed 1"]
    _, alive = psutil.wait_procs([psutil.Process(pid) for pid in children if psutil.pid_exists(pid)], timeout=5)
    assert not alive


def test_a_detached_child_does_not_hold_up_the_notebook() -> None:
    def train() -> int:
        return subprocess.Popen(["sleep", "100"], start_new_session=True).pid

    start = time.monotonic()
    (pid,) = run_ranks(train, world_size=1)
    assert time.monotonic() - start < 30
    os.kill(pid, signal.SIGKILL)


# Other ways to start


@pytest.mark.slow
@pytest.mark.usefixtures("spawned")
def test_spawned_ranks_behave_like_forked_ones(capsys: pytest.CaptureFixture) -> None:
    def work(mode: str) -> int:
        print("hello from", mode)
        total = torch.tensor(dist.get_rank() + 1)
        dist.all_reduce(total)
        if mode == "exit" and dist.get_rank() == 1:
            os._exit(3)
        return int(total)

    assert run_ranks(work, "work") == [3, 3]
    assert sorted(capsys.readouterr().out.splitlines()) == ["[rank 0] hello from work", "[rank 1] hello from work"]
    with pytest.raises(RankError, match="rank 1: the process ended with exit code 3"):
        run_ranks(work, "exit")


def test_windows_spawns_and_everything_else_forks(monkeypatch: pytest.MonkeyPatch) -> None:
    for platform, method in [("win32", "spawn"), ("linux", "forkserver"), ("darwin", "forkserver")]:
        monkeypatch.setattr(sys, "platform", platform)
        assert start.start_method() == method


@pytest.mark.slow
def test_a_plain_script_without_a_main_guard(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent("""
            import multiprocessing, multiprocessing.forkserver
            from torchcourse.ranks import run_ranks
            import torch, torch.distributed as dist
            print("ran")  # once, not in every rank again
            def rank(): return dist.get_rank(), __name__
            print(run_ranks(rank))
            # CUDA and the forkserver of multiprocessing are left to others.
            assert not torch.cuda.is_initialized()
            assert multiprocessing.get_start_method(allow_none=True) is None
            assert multiprocessing.forkserver._forkserver._forkserver_pid is None
        """)
    )
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=200)
    assert done.stdout.splitlines() == ["ran", "[(0, '__main__'), (1, '__main__')]"], done.stderr
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_under_torchrun_the_same_call_runs_in_place(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent("""
            import os, sys
            import torch, torch.distributed as dist
            from torchcourse.ranks import RankError, default_world_size, run_ranks

            def total(start):
                tensor = torch.tensor(start + dist.get_rank())
                dist.all_reduce(tensor)
                return dist.get_rank(), tensor.item(), os.getpid()

            first, second = run_ranks(total, 1), run_ranks(total, 10, world_size=2)
            assert [r[:2] for r in first] == [(0, 3), (1, 3)] and [r[:2] for r in second] == [(0, 21), (1, 21)]
            assert first[int(os.environ["RANK"])][2] == os.getpid()
            assert not dist.is_initialized() and default_world_size() == 2
            try:
                run_ranks(total, 1, world_size=4)
            except ValueError as error:
                assert "torchrun started 2 ranks" in str(error)
            try:
                run_ranks(lambda: 1 / 0)
            except RankError as error:
                assert (error.rank, error.kind) == (int(os.environ["RANK"]), "ZeroDivisionError")
            open(f"ok {os.environ['RANK']}", "w").close()
            sys.stdout.flush()
            os._exit(0)
        """)
    )
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(script)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=250)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "ok 0").exists()
    assert (tmp_path / "ok 1").exists()
