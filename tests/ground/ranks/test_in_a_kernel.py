"""run_ranks where it is used: in a real IPython kernel, with functions defined in cells, interrupts and kills."""

import contextlib
import os
import queue
import re
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest
from jupyter_client.manager import KernelManager

pytestmark = pytest.mark.slow  # all of them: slow tests run first, and the one that kills their kernel comes last

PATIENCE = 120  # seconds for anything that should be quick; the machine may be crowded


@dataclass
class Cell:
    """What one cell showed."""

    printed: list[tuple[float, str]] = field(default_factory=list)  # seconds after the start, text
    lines: dict[str, list[str]] = field(default_factory=dict)  # what each output that moves has shown, by its id
    error: str = ""
    error_name: str = ""
    seconds: float = 0.0

    @property
    def text(self) -> str:
        return "".join(text for _, text in self.printed)


class Kernel:
    def __init__(self) -> None:
        self.manager = KernelManager(kernel_name="python3")
        self.manager.start_kernel()
        self.client = self.manager.client()
        self.client.start_channels()
        self.client.wait_for_ready(timeout=PATIENCE)
        self.pid = int(self.run("import os; print(os.getpid())").text)

    def run(self, code: str, interrupt_when: str | None = None) -> Cell:
        """Run a cell; interrupt it once it has printed `interrupt_when`. `seconds` then counts from the interrupt."""
        sent, start, cell = self.client.execute(code), time.monotonic(), Cell()
        while time.monotonic() < start + PATIENCE:
            try:
                message = self.client.get_iopub_msg(timeout=1)
            except queue.Empty:
                continue
            if message["parent_header"].get("msg_id") != sent:
                continue
            content = message["content"]
            match message["msg_type"]:
                case "stream":
                    cell.printed.append((time.monotonic() - start, content["text"]))
                case "display_data" | "update_display_data":
                    cell.lines.setdefault(content["transient"]["display_id"], []).append(content["data"]["text/plain"])
                case "error":
                    cell.error, cell.error_name = "\n".join(content["traceback"]), content["ename"]
                case "status" if content["execution_state"] == "idle":
                    cell.seconds = time.monotonic() - start
                    return cell
            if interrupt_when and interrupt_when in cell.text:
                time.sleep(0.5)
                self.manager.interrupt_kernel()
                interrupt_when, start = None, time.monotonic()
        raise TimeoutError(f"the cell did not end: {cell}")

    def children(self) -> list[psutil.Process]:
        return psutil.Process(self.pid).children(recursive=True)

    def stop(self) -> None:
        self.client.stop_channels()
        self.manager.shutdown_kernel(now=True)


@pytest.fixture(scope="module")
def kernel() -> Iterator[Kernel]:
    kernel = Kernel()
    cell = kernel.run(
        "import os, time, torch, torch.distributed as dist\n"
        "from torchcourse.ranks import run_ranks, RankError, device\n"
        "a = torch.randn(800, 800); (a @ a).sum()  # a pool of threads, after which a fork of the kernel would hang"
    )
    assert not cell.error
    yield kernel
    kernel.stop()


def survivors(processes: list[psutil.Process]) -> list[psutil.Process]:
    """Those that still run after three seconds. A process that has ended, and that nobody has asked for, does not."""
    _, left = psutil.wait_procs(processes, timeout=3)
    alive = []
    for process in left:
        with contextlib.suppress(psutil.NoSuchProcess):
            if process.status() != psutil.STATUS_ZOMBIE:
                alive.append(process)
    return alive


def test_nothing_survives_a_kernel_that_is_killed_while_the_ranks_starter_imports_torch(tmp_path: Path) -> None:
    begun = tmp_path / "begun"
    slow_torch = f"import pathlib, time\npathlib.Path({str(begun)!r}).touch()\ntime.sleep({PATIENCE})\n"
    (tmp_path / "torch.py").write_text(slow_torch)  # an import that is still under way whenever the kernel is killed
    kernel = Kernel()
    assert not kernel.run(f"import sys; sys.path.insert(0, {str(tmp_path)!r})").error
    assert not kernel.run("from torchcourse.ranks import start; start.warm_up()").error
    start = time.monotonic()
    while not begun.exists():
        assert time.monotonic() < start + PATIENCE
        time.sleep(0.05)
    children = kernel.children()
    assert len(children) == 1
    os.kill(kernel.pid, signal.SIGKILL)
    alive = survivors(children)
    kernel.stop()
    assert not alive


def test_a_cell_that_computes_without_a_word_says_that_it_runs_and_the_saved_notebook_does_not(kernel: Kernel) -> None:
    """Here, because it needs a kernel: an import, a long sum. In a notebook that a program runs there is no line."""
    watch = "from torchcourse import still_running\nstill_running.watch()\nstill_running.QUIET_SECONDS = 0.3"
    assert not kernel.run(watch).error
    assert kernel.run("time.sleep(0.8)").lines == {}
    assert not kernel.run(f"os.environ['JPY_SESSION_NAME'] = 'lesson.ipynb'\n{watch}").error
    cell = kernel.run("time.sleep(1.8)")
    assert not kernel.run("still_running.QUIET_SECONDS = 1e6").error  # the other tests count lines
    (line,) = cell.lines.values()
    assert line[-1] == ""
    assert len(line) >= 2
    assert all(text.startswith("This cell is still running: ") for text in line[:-1])


def test_a_bar_of_a_rank_is_an_output_that_moves_and_a_silent_rank_says_that_it_runs(kernel: Kernel) -> None:
    assert not kernel.run("run_ranks(device, world_size=1)").error  # the server has imported PyTorch
    cell = kernel.run(
        "from torchcourse.progress_bars import bar\n"
        "from torchcourse.ranks import report\n"
        "report.QUIET_SECONDS, standard = 0.5, report.QUIET_SECONDS\n"
        "def train():\n"
        "    print('begins')\n"
        "    with bar(3) as shown:\n"
        "        shown.update(3)\n"
        "    print('ends')\n"
        "    time.sleep(1.6)\n"
        "run_ranks(train, world_size=1)\n"
        "report.QUIET_SECONDS = standard\n"
    )
    assert not cell.error
    assert cell.text == "[rank 0] begins\n[rank 0] ends\n"
    bar, note = cell.lines.values()
    assert bar[-1].startswith("[rank 0] 100%|██████████| 3/3 [00:0")
    assert re.fullmatch(r"run_ranks is running: \d+ s", note[1])
    assert re.fullmatch(r"run_ranks took \d+ s\.", note[-1])


def test_a_cells_closure_and_class_travel_both_ways(kernel: Kernel) -> None:
    cell = kernel.run(
        "class Answer:\n"
        "    def __init__(self, value): self.value = value\n"
        "def scaled(factor):\n"
        "    def work(x):\n"
        "        total = (x @ x).sum() * factor * (dist.get_rank() + 1)\n"
        "        dist.all_reduce(total)\n"
        "        return Answer(total)\n"
        "    return work\n"
        "answers = run_ranks(scaled(10), torch.ones(100, 100), world_size=2)\n"
        "print([isinstance(answer, Answer) for answer in answers], [answer.value.item() for answer in answers])"
    )
    assert cell.text == "[True, True] [30000000.0, 30000000.0]\n", cell


def test_plain_pickle_in_a_rank_knows_the_cells_classes(kernel: Kernel) -> None:
    cell = kernel.run(
        "from dataclasses import dataclass\n"
        "@dataclass\n"
        "class Sample:\n"
        "    x: int\n"
        "def gather(sample):\n"
        "    loader = torch.utils.data.DataLoader([1, 2], num_workers=1, collate_fn=lambda batch: Sample(batch[0]))\n"
        "    everybodys = [None] * dist.get_world_size()\n"
        "    dist.all_gather_object(everybodys, sample)\n"
        "    return [s.x for s in loader], [s.x for s in everybodys]\n"
        "print(run_ranks(gather, Sample(5), world_size=2))"
    )
    assert cell.text == "[([1, 2], [5, 5]), ([1, 2], [5, 5])]\n", cell


def test_an_error_shows_the_rank_and_the_line_of_the_cell_only(kernel: Kernel) -> None:
    cell = kernel.run(
        "def train():\n"
        "    if dist.get_rank() == 1:\n"
        "        torch.nn.Linear(3, 4)(torch.ones(2, 2))  # the wrong shape\n"
        "    dist.barrier()\n"
        "run_ranks(train)"
    )
    assert cell.error_name == "RankError"
    assert cell.error.startswith("RankError: rank 1: RuntimeError: mat1 and mat2 shapes cannot be multiplied")
    assert "Cell In[" in cell.error
    assert "line 3, in train" in cell.error
    assert "torch.nn.Linear(3, 4)(torch.ones(2, 2))  # the wrong shape" in cell.error
    for machinery in ("ipykernel", "worker.py", "run.py", "supervisor.py", "module.py"):
        assert machinery not in cell.error


def test_a_function_of_a_timed_cell_is_written_into_a_script(kernel: Kernel, tmp_path: Path) -> None:
    """`%%time` compiles its cell under a name of its own, whose text nobody keeps."""
    kernel.run("from __future__ import annotations")  # which holds for all later cells
    kernel.run("%%time\ndef timed(): return 'before'")
    kernel.run("%%time\n%env A=1\nif True:\n    def timed():\n        return 'after'")
    cell = kernel.run(
        "from torchcourse.ranks import export_script\n"
        f"text = export_script(timed, {str(tmp_path / 'run.py')!r}).read_text()\n"
        "print(text)"
    )
    assert "\ndef timed():\n    return 'after'\n" in cell.text, cell
    assert "before" not in cell.text


def test_a_function_that_keeps_its_results_reaches_the_ranks(kernel: Kernel) -> None:
    kernel.run("import functools\n@functools.lru_cache(maxsize=7)\ndef kept(n): return n + 1")
    cell = kernel.run("def calls(): return kept(1), kept(1), kept.cache_info()[:3]\nprint(run_ranks(calls)[1])")
    assert cell.text.strip() == "(2, 2, (1, 1, 7))", cell


def test_prints_arrive_while_the_ranks_run(kernel: Kernel) -> None:
    cell = kernel.run("def slow():\n    print('first')\n    time.sleep(2.5)\n    print('second')\nrun_ranks(slow)")
    assert sorted(cell.text.splitlines()) == ["[rank 0] first", "[rank 0] second", "[rank 1] first", "[rank 1] second"]
    (first, *_), (last, _) = [at for at, text in cell.printed if "first" in text], cell.printed[-1]
    assert last - first > 1, cell.printed


def test_an_interrupt_ends_the_ranks_and_says_where_they_were(kernel: Kernel) -> None:
    kernel.run("run_ranks(dist.get_rank)")
    before = len(kernel.children())
    cell = kernel.run(
        "def stuck():\n"
        "    dist.barrier()\n"
        "    print('started')\n"
        "    if dist.get_rank() == 0:\n"
        "        dist.barrier()  # rank 1 never comes\n"
        "    time.sleep(100)\n"
        "run_ranks(stuck)",
        interrupt_when="[rank 1] started\n",
    )
    assert cell.error_name == "KeyboardInterrupt"
    assert cell.seconds < 50  # about one on a machine of one's own
    assert "rank 0 was here:" in cell.error
    assert "dist.barrier()  # rank 1 never comes" in cell.error
    assert "rank 1 was here:" in cell.error
    assert "time.sleep(100)" in cell.error
    assert len(kernel.children()) == before
    assert kernel.run("print(run_ranks(dist.get_rank))").text == "[0, 1]\n"


def test_nothing_survives_a_killed_kernel(kernel: Kernel) -> None:
    """The last test with this kernel."""
    kernel.client.execute(
        "class Slow(torch.utils.data.Dataset):\n"
        "    def __len__(self): return 1000\n"
        "    def __getitem__(self, i):\n"
        "        time.sleep(1)\n"
        "        return i\n"
        "def train():\n"
        "    for batch in torch.utils.data.DataLoader(Slow(), num_workers=2): print('batch')\n"
        "run_ranks(train)"
    )
    start = time.monotonic()
    while len(children := kernel.children()) < 1 + 2 + 4:  # the server, two ranks, two workers each
        assert time.monotonic() < start + PATIENCE, children
        time.sleep(0.1)
    os.kill(kernel.pid, signal.SIGKILL)
    assert survivors(children) == []
