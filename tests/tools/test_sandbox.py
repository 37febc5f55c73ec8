"""What handed-in code may try, and what comes of it: the grader goes on, and nothing outside has changed."""

import contextlib
import errno
import os
import socket
import subprocess
import sys
import tempfile
import textwrap
import time
from pathlib import Path
from types import SimpleNamespace

import nbformat
import psutil
import pytest
from nbgrader.utils import determine_grade

from torchcourse.tools.classroom import execution, literal_answers
from torchcourse.tools.classroom.grader import Runs, Work
from torchcourse.tools.classroom.preprocessors import SaveClampedGrades, StderrIsNoError
from torchcourse.tools.classroom.sandbox import box as sandbox
from torchcourse.tools.classroom.sandbox import bubblewrap, inherited, processes
from torchcourse.tools.classroom.sandbox import warm as warm_script
from torchcourse.tools.classroom.sandbox.box import Box, Died, Forged, Lost, Warm
from torchcourse.tools.repository import ROOT

pytestmark = pytest.mark.skipif(not sandbox.POSSIBLE, reason="needs Linux, whose namespaces the sandbox is made of")


@pytest.fixture(scope="module")
def warm(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TEACHERS_TOKEN", "a password")
        patch.setenv("TMPDIR", str(tmp_path_factory.mktemp("of-the-grader")))
        begun = Warm()
    with begun as warm:
        if not warm.isolated:
            pytest.skip(f"this machine allows no namespaces: {warm.reason}")
        yield warm


@pytest.fixture(autouse=True)
def little_memory(monkeypatch):
    monkeypatch.setattr(sandbox, "MEMORY", 2**30)
    monkeypatch.setattr(sandbox, "_GRACE", 20.0)  # a slow machine takes its time to write the traceback


def run(warm, source, processor=2.0, wall=20.0):
    """Run a cell, then one that shows whether the sandbox still works; return both cells' outputs, or why it ended."""
    with Box(warm) as box:
        try:
            return box.run(textwrap.dedent(source), processor, wall), box.run("40 + 2", processor, wall)
        except Died as died:
            return died, None


def error(outputs):
    return next((one["ename"] for one in outputs if one["output_type"] == "error"), None)


def text(outputs):
    return "".join(one.get("text", one.get("data", {}).get("text/plain", "")) for one in outputs)


def test_a_temporary_file_lies_where_the_sandbox_can_write(warm):
    where, after = run(warm, "import tempfile; print(tempfile.mkdtemp())")
    assert error(where) is None
    assert text(where).startswith("/tmp/tmp")
    assert text(after) == "42"


UNREACHABLE = {
    "the solutions": f"import os; os.listdir({str(ROOT / 'solutions')!r})",
    "the question banks": f"import os; os.listdir({str(ROOT / 'quizzes')!r})",
    "the teacher's keys": f"import os; os.listdir({str(Path.home() / '.ssh')!r})",
    "passwords": "open('/etc/shadow')",
    "a link out": f"import os; os.symlink({str(ROOT)!r}, '/tmp/out'); os.listdir('/tmp/out/solutions')",
    "the course's code": "import torchcourse; open(torchcourse.__file__, 'a')",
    "a package": "import torch; open(torch.__file__, 'a')",
    "the network": "import socket; socket.create_connection(('192.0.2.1', 80), 2)",
    "names of hosts": "import socket; socket.gethostbyname('example.org')",
    "a mount": "import subprocess; subprocess.run(['mount', '-t', 'tmpfs', 'x', '/tmp'], check=True)",
    "namespaces of its own making": "import os, subprocess; subprocess.run(['unshare', '-rm', 'true'], check=True)",
    "memory that nobody counts": "import os; os.memfd_create('x')",
    "a file system beside this one": "open('/proc/1/root/etc/shadow')",
    "what the system starts as root": "open('/proc/sys/kernel/core_pattern', 'r+')",
    "settings of the machine": "open('/proc/sys/vm/overcommit_memory', 'r+')",
    "the grader's environment": "assert 'a password' in open('/proc/self/environ').read()",
    "the host of a virtual machine": "import socket; socket.socket(40, socket.SOCK_STREAM)",
    "memory that is shared without a file": "import mmap; mmap.mmap(-1, 4096)",
    "memory of a device": "import mmap; mmap.mmap(open('/dev/zero', 'r+b').fileno(), 4096)",
    "semaphores of System V": "import ctypes; assert ctypes.CDLL(None).semget(0, 32000, 0o1600) >= 0",
    "queues of System V": "import ctypes; assert ctypes.CDLL(None).msgget(0, 0o1600) >= 0",
}


@pytest.mark.slow
@pytest.mark.parametrize("source", UNREACHABLE.values(), ids=UNREACHABLE)
def test_what_is_outside_cannot_be_reached(warm, source):
    outputs, after = run(warm, source)
    assert error(outputs)
    assert text(after) == "42"


@pytest.mark.slow
def test_what_is_written_stays_inside(warm):
    """A course below /tmp lies where the sandbox has a folder of its own, which can be written to."""
    book = ROOT / "written-by-the-sandbox.db"
    run(warm, f"open({str(book)!r}, 'w').write('99')")
    assert not book.exists()


SURVIVED = {
    "much output": "for _ in range(500): print('x' * 100_000)",
    "outputs in turn": "import sys\nfor _ in range(15_000): print('x'); print('y', file=sys.stderr)",
    "much on stderr": "import sys\nfor _ in range(500): sys.stderr.write('x' * 100_000)",
    "output past Python": "import os\nfor _ in range(50): os.write(1, b'x' * 100_000)",
    "no end of recursion": "def again(): return again()\nagain()",
    "one big array": "b'x' * 10**11",
    "a big file": "f = open('/tmp/big', 'wb')\nwhile True: f.write(b'x' * 2**20)",
    "many files": "for n in range(99):\n  f = open(f'/tmp/{n}', 'wb')\n  for _ in range(200): f.write(b'x' * 2**20)",
    "no end of threads": "import threading, time\nwhile True: threading.Thread(target=time.sleep, args=(99,)).start()",
    "no end of tiny files": "import itertools\nfor n in itertools.count(): open(f'/tmp/{n}', 'w').close()",
    "metadata without end": "display({'text/plain': 'x'}, raw=True, metadata={'a': ['x' * 2**20] * 9})",
    "no end of open files": "kept = []\nwhile True: kept.append(open('/dev/null'))",
    "half a character": r"print('\ud800')",
    "an object instead of data": "class A:\n  def _repr_mimebundle_(self, **_): return {'x/y': object(), 3: b''}\nA()",
    "a name that ends": "class A:\n  def __repr__(self): raise SystemExit\nA()",
    "an exit": "raise SystemExit(3)",
    "an error of the bottom": "raise BaseException('x')",
    "closed output": "import sys; sys.stdout.close(); sys.stderr.close()",
    "no output": "import sys; sys.stdout = sys.stderr = None",
    "no environment": "import os; os.environ.clear()",
    "a folder that is gone": "import os; os.mkdir('/tmp/a'); os.chdir('/tmp/a'); os.rmdir('/tmp/a')",
    "a question": "input('?')",
    "a copy of itself": "import os\nif os.fork() == 0: raise KeyError",
    "kill all": "import os; os.kill(-1, 9)",
    "top-level await": "import asyncio; await asyncio.sleep(0.01)",
}


@pytest.mark.parametrize("source", SURVIVED.values(), ids=SURVIVED)
def test_what_goes_wrong_in_a_cell_stays_in_it(warm, source):
    outputs, after = run(warm, source)
    assert not isinstance(outputs, Died), outputs
    assert len(text(outputs)) <= 2**20
    assert text(after) == "42"


AS_IN_A_KERNEL = {
    "pictures in the notebook": "%matplotlib inline\n42",
    "a loop of events": "%gui\n42",
    "saving by itself": "%autosave 60\n42",
    "a store": "%store\n42",
    "changed modules": "%load_ext autoreload\n%autoreload 2\n42",
    "a pager": "%less /etc/hosts\n42",
    "a task of the loop": "import asyncio\ntask = asyncio.create_task(asyncio.sleep(0, 42))\n42",
    "its result": "await task",
    "a stream's number": "import faulthandler\nfaulthandler.enable()\n42",
    "a program's output": "import subprocess, sys\nsubprocess.run(['echo', 'x'], stdout=sys.stdout, check=True)\n42",
}


def test_what_works_in_a_kernel_works_here(warm):
    with Box(warm) as box:
        outputs = {name: box.run(source, 20, 60) for name, source in AS_IN_A_KERNEL.items()}
    last = {name: one[-1].get("data", one[-1]) for name, one in outputs.items()}
    assert last == {name: {"text/plain": "42"} for name in AS_IN_A_KERNEL}


ENDED = {
    "an exit past Python": ("import os; os._exit(0)", "ended in the middle"),
    "a fault of the machine": ("import ctypes; ctypes.string_at(0)", "ended in the middle"),
    "a closed channel": ("import os; os.closerange(3, 99)", "ended in the middle"),
    "memory of one": ("x = bytearray(2 * 2**30)\nfor n in range(0, len(x), 4096): x[n] = 1", "memory"),
    "memory of many": (
        """
        import os, time
        for _ in range(5):
            if os.fork() == 0:
                x = bytearray(400 * 2**20)
                for n in range(0, len(x), 4096): x[n] = 1
                time.sleep(99)
        time.sleep(99)
        """,
        "memory",
    ),
    "a loop that will not stop": (
        "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)\nwhile True: pass",
        "did not end",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize(("source", "reason"), ENDED.values(), ids=ENDED)
def test_what_ends_a_sandbox_is_named(warm, monkeypatch, source, reason):
    if reason == "did not end":
        monkeypatch.setattr(sandbox, "_GRACE", 0.5)
    died, _ = run(warm, source, processor=1.0)
    assert isinstance(died, Died)
    assert not isinstance(died, Forged)
    assert reason in str(died)


UNCOUNTED = {
    "tables of pages": (
        """
        import ctypes, mmap
        libc = ctypes.CDLL(None)
        libc.mmap.restype = ctypes.c_void_p
        size = 2**40
        begin = libc.mmap(None, ctypes.c_size_t(size), mmap.PROT_READ, 0x4022, -1, 0)
        libc.madvise(ctypes.c_void_p(begin), ctypes.c_size_t(size), 15)
        for place in range(begin, begin + size, 2**21): ctypes.c_char.from_address(place).value
        """,
        "memory",
    ),
    "small threads": (
        """
        import threading, time
        threading.stack_size(2**15)
        for _ in range(150): threading.Thread(target=time.sleep, args=(99,), daemon=True).start()
        time.sleep(9)
        """,
        "100 threads",
    ),
    "full sockets": (
        "import socket, time\nkept = [socket.socketpair() for _ in range(60)]\ntime.sleep(9)",
        "100 sockets",
    ),
}


@pytest.mark.parametrize(("source", "reason"), UNCOUNTED.values(), ids=UNCOUNTED)
def test_memory_that_is_in_no_process_is_counted(warm, monkeypatch, source, reason):
    for name in ("_THREADS", "_SOCKETS"):
        monkeypatch.setattr(sandbox, name, 100)
    died, _ = run(warm, source, processor=20.0)
    assert isinstance(died, Died)
    assert reason in str(died)


def test_where_memory_runs_out_the_system_ends_the_sandbox_first(warm):
    assert text(run(warm, "print(open('/proc/self/oom_score_adj').read())")[0]).strip() == "1000"


@pytest.mark.parametrize(("source", "is_lost"), [("import os; os._exit(9)", True), ("1 / 0", True), ("1", False)])
def test_what_fails_while_the_machine_has_no_memory_is_not_to_blame(warm, monkeypatch, source, is_lost):
    with Box(warm) as box:
        monkeypatch.setattr(processes, "killed_for_memory", iter(range(9)).__next__)
        with pytest.raises(Lost, match="no memory left") if is_lost else contextlib.nullcontext():
            box.run(source, 5, 20)


def test_zeros_are_read(warm):
    assert text(run(warm, "open('/dev/zero', 'rb').read(3)")[0]) == repr(bytes(3))


@pytest.mark.slow
def test_memory_is_watched_without_namespaces_too(warm, monkeypatch):
    monkeypatch.setattr(warm, "kind", "limits")
    died, _ = run(warm, *ENDED["memory of one"][:1])
    assert isinstance(died, Died)
    assert "memory" in str(died)


def test_memory_that_is_shared_counts_once(monkeypatch):
    monkeypatch.setattr(processes, "_MUCH", 2**24)
    program = """
        import mmap, os, time
        shared = mmap.mmap(-1, 2**26)
        shared.write(bytes(2**26))
        if os.fork() == 0: shared[::4096]
        print(flush=True)
        time.sleep(99)
        """
    holder = psutil.Popen([sys.executable, "-c", textwrap.dedent(program)], stdout=-1)
    try:
        holder.stdout.readline(), holder.stdout.readline()
        assert 2**26 <= sum(map(processes._shared, [holder, *holder.children()])) < 1.5 * 2**26
        assert processes.usage(psutil.Process()).memory > 2**26
    finally:
        processes.end(holder)


FORGED = {
    "every channel written to": """
        import os
        for fd in range(3, 60):
            try: os.write(fd, bytes([0, 0, 0, 2]) + b"{}")
            except OSError: pass
        """,
    "a result made up": """
        import gc, json, socket, struct
        data = json.dumps({"nonce": "?", "outputs": []}).encode()
        for one in gc.get_objects():
            if isinstance(one, socket.socket): one.sendall(struct.pack("!I", len(data)) + data)
        """,
    "a message without end": """
        import gc, socket, struct
        for one in gc.get_objects():
            if isinstance(one, socket.socket): one.sendall(struct.pack("!I", 2**32 - 1))
        """,
    "no JSON": """
        import gc, socket, struct
        for one in gc.get_objects():
            if isinstance(one, socket.socket): one.sendall(struct.pack("!I", 3) + b"abc")
        """,
    "outputs of no kind": """
        from torchcourse.tools.classroom.sandbox import frames
        send = frames.send
        frames.send = lambda channel, message: send(channel, message | {"outputs": [{"output_type": 7}]})
        """,
    "an answer without a bottom": """
        import json, struct
        from torchcourse.tools.classroom.sandbox import frames
        def deep(channel, message):
            data = json.dumps(message).encode()[:-1] + b', "x":' + b"[" * 100_000 + b"]" * 100_000 + b"}"
            channel.sendall(struct.pack("!I", len(data)) + data)
        frames.send = deep
        """,
    "an answer of too many parts": """
        import json, struct
        from torchcourse.tools.classroom.sandbox import frames
        def many(channel, message):
            data = json.dumps(message).encode()[:-1] + b', "x": [' + b"[]," * 3_000_000 + b"[]]}"
            channel.sendall(struct.pack("!I", len(data)) + data)
        frames.send = many
        """,
    "more than a cell may put out": """
        from torchcourse.tools.classroom.sandbox import cells
        get_ipython()._outputs._left = 2**30
        print("x" * 17 * 2**20)
        """,
    "outputs without number": """
        from torchcourse.tools.classroom.sandbox import frames
        send = frames.send
        nothing = [{"output_type": "stream", "name": "stdout", "text": ""}]
        frames.send = lambda channel, message: send(channel, message | {"outputs": nothing * 30_000})
        """,
    "each answer twice": """
        from torchcourse.tools.classroom.sandbox import frames
        send = frames.send
        frames.send = lambda *message: (send(*message), send(*message))
        """,
}


@pytest.mark.parametrize("told", [True, False])
def test_a_process_that_has_just_begun_is_counted(monkeypatch, told):
    if not told:  # by the system, how many have begun
        monkeypatch.setattr(processes, "_begun", lambda: 0)
    me = psutil.Process()
    assert processes.usage(me).seconds > 0  # a look, whose list the next one may believe
    with subprocess.Popen(["sleep", "60"]) as child:
        assert child.pid in [process.pid for process in processes._known_below(me)]
        child.kill()
    assert (processes._begun() > 0) == told


@pytest.mark.parametrize("source", FORGED.values(), ids=FORGED)
def test_an_answer_that_the_sandbox_did_not_give_is_noticed(warm, source):
    died, _ = run(warm, source)
    assert isinstance(died, Forged)


@pytest.mark.slow
@pytest.mark.parametrize("source", ["while True: pass", "import time\ntime.sleep(99)"], ids=["busy", "asleep"])
def test_a_cell_that_takes_too_long_is_interrupted_and_the_next_one_runs(warm, source):
    outputs, after = run(warm, source, processor=0.5, wall=2.0)
    assert outputs[-1]["ename"] == "TimeLimit"
    assert text(after) == "42"


def test_without_namespaces_a_cell_runs_with_limits_in_a_folder_that_goes(warm, monkeypatch):
    monkeypatch.setattr(warm, "kind", "limits")
    with Box(warm) as box:
        folder = Path(text(box.run("import os\nopen('note', 'w').write('x')\nos.getcwd()", 5, 20)).strip("'"))
        assert (folder / "note").exists()
    assert not folder.parent.exists()


LEFT_BEHIND = """
    import os, subprocess, time
    subprocess.Popen(["sleep", "4321"], start_new_session=True)
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0: time.sleep(4321)
        os._exit(0)
    """


@pytest.mark.parametrize("kind", ["namespaces", "limits"])
def test_nothing_is_left_behind(warm, monkeypatch, kind):
    monkeypatch.setattr(warm, "kind", kind)
    with Box(warm) as box:
        box.run(textwrap.dedent(LEFT_BEHIND), 5, 20)
        inside = processes.below(box._process)
        assert [one.name() for one in inside].count("sleep") == 1
        assert len(inside) >= 3
    assert [*filter(processes.is_alive, inside)] == []


def test_a_grader_that_is_killed_leaves_no_folder_of_what_is_isolated(warm, monkeypatch, tmp_path):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with Box(warm):
        assert [*tmp_path.iterdir()] == []


def is_running(pid):
    try:
        return processes.is_alive(psutil.Process(pid))
    except psutil.NoSuchProcess:
        return False


def test_nothing_is_left_behind_by_what_ends_itself_where_nothing_is_isolated(warm, monkeypatch, tmp_path):
    monkeypatch.setattr(warm, "kind", "limits")
    note = tmp_path / "pid"
    leaver = f"""
        import os, subprocess
        open({str(note)!r}, "w").write(str(subprocess.Popen(["sleep", "4321"], start_new_session=True).pid))
        os._exit(0)
        """
    died, _ = run(warm, leaver)
    assert "ended in the middle" in str(died)
    assert not is_running(int(note.read_text()))


def test_a_sandbox_ends_where_linux_cannot_wait_for_a_process_whose_session_lives(warm, monkeypatch):
    def refuse(*_):
        raise OSError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr(os, "pidfd_open", refuse)
    with Box(warm) as box:
        inside = [box._process, *processes.below(box._process)]
    assert [*filter(processes.is_alive, inside)] == []


@pytest.mark.slow
def test_a_long_cell_for_a_sandbox_that_takes_nothing_in_does_not_hold_the_grader(warm, monkeypatch):
    monkeypatch.setattr(sandbox, "_SEND", 0.2)
    monkeypatch.setattr(sandbox, "_GRACE", 0.5)
    stops = "import os, signal, threading\nthreading.Timer(0.2, os.kill, (os.getpid(), signal.SIGSTOP)).start()"
    monkeypatch.setattr(warm, "kind", "limits")  # where the first process can stop itself
    with Box(warm) as box:
        box.run(stops, 2, 20)
        time.sleep(0.4)
        with pytest.raises(Died, match="nor when it was interrupted"):
            box.run("#" * 2**21, 2, 0.5)


def test_a_grader_with_many_open_files_is_one_too(warm):
    opened = [os.dup(0) for _ in range(1100)]
    try:
        assert text(run(warm, "40 + 2")[0]) == "42"
    finally:
        for fd in opened:
            os.close(fd)


def test_too_many_processes_are_named_where_the_system_does_not_count_them(warm, monkeypatch):
    monkeypatch.setattr(sandbox, "_PROCESSES", 8)
    died, _ = run(warm, "import subprocess as s\nfor one in [s.Popen(['sleep', '99']) for _ in range(9)]: one.wait()")
    assert "8 processes at a time" in str(died)


def one_cell(source="6 * 7"):
    return nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source)])


@pytest.fixture
def again_at_once(monkeypatch):
    monkeypatch.setattr(execution, "_PAUSES", (0.01, 0.01, 0.01))


def test_a_machine_without_room_for_a_sandbox_is_asked_again_and_costs_no_points(warm, monkeypatch, again_at_once):
    refused = [OSError(errno.EAGAIN, "Resource temporarily unavailable")] * 2
    fork = warm.fork

    def sometimes(request):
        if refused:
            raise Lost("no sandbox could be begun") from refused.pop()
        return fork(request)

    monkeypatch.setattr(warm, "fork", sometimes)
    monkeypatch.setattr(execution, "_warm", warm)
    notebook = one_cell()
    assert execution.execute(notebook) == execution.Note()
    assert text(notebook.cells[0].outputs) == "42"
    refused += [OSError()] * 9
    with pytest.raises(Lost, match="could be begun"):
        execution.execute(notebook)


@pytest.mark.slow
def test_work_that_was_lost_with_the_warm_process_is_done_again_and_stopped_work_is_not(monkeypatch, again_at_once):
    """As when a system without memory ends the largest process: no cell is to blame."""
    monkeypatch.setattr(execution, "_warm", None)
    killed, real = [], Box.run

    def kill_once(box, source, *limits):
        if "* 7" in source and not killed:
            killed.append(box._warm)
            box._warm._process.kill()
        return real(box, source, *limits)

    monkeypatch.setattr(Box, "run", kill_once)
    notebook = one_cell("import time; time.sleep(0.3)\n6 * 7")
    assert execution.execute(notebook) == execution.Note()
    assert text(notebook.cells[0].outputs) == "42"
    assert not killed[0].lives
    begun = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        stop_a_grading()
    assert time.monotonic() - begun < 50
    assert not execution._warm.lives
    assert not execution.is_stopped()


def stop_a_grading():
    sleeping = one_cell("import time; time.sleep(60)")
    grader = SimpleNamespace(prepare=lambda student, lesson: Work(student, lesson, {"one": sleeping}))
    with Runs(grader, [("ann", "lesson")] * 2) as runs:
        runs.take(0)
        while not processes.below(psutil.Process(execution._warm._process.pid)):
            time.sleep(0.1)
        raise KeyboardInterrupt


def test_a_machine_that_protects_less_than_before_runs_nothing(monkeypatch):
    class Dead:
        kind, lives, reason = "namespaces", False, "no room"
        end = staticmethod(lambda: None)

    monkeypatch.setattr(execution, "_warm", Dead())
    monkeypatch.setattr(execution, "Warm", lambda kinds: type("Less", (Dead,), {"kind": "limits"})())
    with pytest.raises(Lost, match="allows no namespaces any more: no room"):
        execution.warm()


@pytest.mark.parametrize(("number", "isolated"), [(errno.ENOMEM, True), (errno.EAGAIN, True), (errno.EPERM, False)])
def test_less_protection_is_chosen_only_where_more_is_forbidden(monkeypatch, number, isolated):
    answers = [{"isolated": False, "reason": "?", "number": number}, {}, {"isolated": True, "reason": "yes"}]
    monkeypatch.setattr(warm_script, "_tried", lambda: answers.pop(0))
    monkeypatch.setattr(warm_script.time, "sleep", lambda _seconds: None)
    assert warm_script._possible()["isolated"] is isolated


def test_a_sandbox_that_ends_as_it_begins_is_no_cell_that_failed(warm, monkeypatch):
    monkeypatch.setattr(warm, "fork", _ended_at_once)
    with pytest.raises(Lost):
        Box(warm)


def _ended_at_once(_request):
    ours, theirs = socket.socketpair()
    theirs.close()
    return psutil.Popen([sys.executable, "-c", ""]), ours


@pytest.mark.slow
def test_a_grader_that_is_killed_takes_its_sandboxes_with_it(tmp_path):
    program = """
        import time
        from torchcourse.tools.classroom.sandbox import processes
        from torchcourse.tools.classroom.sandbox.box import Box, Warm
        box = Box(Warm())
        box.run("1", 9, 99)
        print(*(one.pid for one in [box._process, *processes.below(box._process)]), flush=True)
        time.sleep(99)
        """
    command = [sys.executable, "-c", textwrap.dedent(program)]
    with psutil.Popen(command, stdout=-1, cwd=tmp_path, text=True) as grader:
        pids = list(map(int, grader.stdout.readline().split()))
        assert len(pids) >= 2
        grader.kill()
    end = time.monotonic() + 20
    while any(map(psutil.pid_exists, pids)) and time.monotonic() < end:
        time.sleep(0.05)
    assert [pid for pid in pids if psutil.pid_exists(pid)] == []


def test_ranks_and_workers_run_inside(warm, monkeypatch):
    monkeypatch.setattr(sandbox, "MEMORY", 4 * 2**30)
    program = """
        import torch, torch.distributed as dist
        from torch.utils.data import DataLoader
        from torchcourse.ranks import run_ranks
        def added():
            total = torch.ones(1); dist.all_reduce(total); return total.item()
        run_ranks(added, world_size=2), len(list(DataLoader(torch.arange(6), 2, num_workers=2)))
        """
    outputs, after = run(warm, program, processor=60, wall=120)
    assert text(outputs) == "([2.0, 2.0], 3)"
    assert text(after) == "42"


def notebook(*sources, points=2):
    """A notebook whose cells named by "check:" are graded."""
    cells = []
    for number, source in enumerate(sources):
        cell = nbformat.v4.new_code_cell(source.removeprefix("check:"))
        if source.startswith("check:"):
            role = {"grade": True, "solution": False, "grade_id": f"c{number}", "points": points, "locked": True}
            cell.metadata.nbgrader = nbformat.from_dict({**role, "schema_version": 3, "task": False})
        cells.append(cell)
    return nbformat.v4.new_notebook(cells=cells)


@pytest.fixture
def executed(warm, monkeypatch):
    monkeypatch.setattr(execution, "_warm", warm)

    def execute(*sources):
        made = notebook(*sources)
        note = execution.execute(made)
        nbformat.validate(made)
        return [points(cell) for cell in made.cells if "nbgrader" in cell.metadata], note

    return execute


def points(cell):
    """As the gradebook gets them."""
    saver = SaveClampedGrades()
    saver._add_score = lambda *_: None
    for step in (StderrIsNoError(), saver):
        cell, _ = step.preprocess_cell(cell, {}, 0)
    return determine_grade(cell)[0]


def test_a_crash_keeps_what_was_earned_before_it(executed):
    earned, note = executed("x = 1", "check:2 if x == 1 else 0", "import os; os._exit(0)", "check:2", "check:1")
    assert earned == [2, 0, 0]
    assert "ended in code cell 3 of 5" in note.text
    assert not note.needs_person


@pytest.mark.parametrize(
    ("source", "earned"),
    [
        ("check:1", 1),
        ("check:2.5e3", 2),
        ("check:-1", 0),
        ("check:None", 0),
        ("check:'2'", 0),
        ("check:print(2)", 0),
        ("check:assert False", 0),
        ("check:from IPython.display import display\ndisplay(2)\n1", 1),
        ("check:get_ipython().displayhook(2)\n1", 1),
        ("check:get_ipython().displayhook(2)\nassert False", 0),
        ("check:float('nan')", 0),
        ("check:import sys; print('careful', file=sys.stderr)\n2", 2),
    ],
)
def test_the_last_result_of_a_check_counts_and_an_error_is_nothing(executed, source, earned):
    found, note = executed(source)
    assert found == [earned]
    assert not note.text


def test_a_notebook_that_puts_out_much_keeps_its_points(executed, monkeypatch):
    monkeypatch.setattr(execution, "MOST_OUTPUT", 1000)
    earned, note = executed("print('x' * 2000)", "check:print('y' * 2000)\n2", "check:assert False, 'z' * 2000")
    assert (earned, note.text) == ([2, 0], "")


def test_who_sleeps_in_each_cell_ends_too(executed, monkeypatch):
    clock = iter([0.0, 0.0, execution.CLOCK + 1])
    monkeypatch.setattr(execution, "time", SimpleNamespace(monotonic=clock.__next__))
    earned, note = executed("check:2", "check:2")
    assert earned == [2, 0]
    assert "on the clock" in note.text


def test_a_card_is_not_drawn_for_a_grader(executed):
    card = "from torchcourse import quiz\nquiz.card('04_monitoring_and_checkpoints', 'manage-training')"
    earned, note = executed(card, f"check:shown = {card.splitlines()[1]}\nshown.answer('A', sure=1)\n2")
    assert earned == [2]
    assert not note.text


PATCHES = {
    "cells that do not run": "get_ipython().run_cell = lambda *_, **__: None",
    "errors that do not show": "get_ipython().showtraceback = lambda *_, **__: None",
    "cells with their errors cut off": """
        import ast
        class Quiet(ast.NodeTransformer):
            def visit_Raise(self, node): return ast.Pass()
        get_ipython().ast_transformers.append(Quiet())
        """,
    "every cell replaced": "get_ipython().input_transformers_cleanup.append(lambda lines: ['2\\n'])",
}


@pytest.mark.parametrize("patch", PATCHES.values(), ids=PATCHES)
def test_a_notebook_in_which_nothing_can_fail_earns_nothing(executed, patch):
    earned, note = executed(textwrap.dedent(patch), "check:assert False", "check:2")
    assert earned == [0, 0]
    assert note.needs_person


JUDGED = """check:from torchcourse.checks.values import judged
found = check(double)
@judged(double)
def _on_drawn_numbers(double, draw):
    for _ in range(3):
        number = draw.randrange(10, 10**6)
        assert double(number) == 2 * number
found"""
GIVEN = """
from torchcourse.checks import Checked
def check(function):
    return Checked("double", "right", "", 2.0) if function(3) == 6 else Checked("double", "wrong", "", 2.0)
"""
UNJUSTLY = {
    "a value for the visible test alone": "double = lambda number: 6",
    "an object equal to all": """
        class Number(int):
            __hash__ = int.__hash__
            def __eq__(self, other): return True
            def __radd__(self, other): return self
        double = lambda number: Number(6)
        """,
    "a patched Checked": "Checked.__repr__ = lambda self: '2'\ndouble = lambda number: 0",
    "an overwritten check": "check = lambda function: 2\ndouble = lambda number: 0",
    "replaced modules": """
        import sys, types
        import torchcourse.checks.values as values, torchcourse.tools.classroom.sandbox.judging as judging
        fake = types.ModuleType("judging")
        fake.answer = lambda *_: 2
        sys.modules[judging.__name__] = fake
        sys.modules[values.__name__] = types.SimpleNamespace(judged=lambda *_: lambda test: test)
        double = lambda number: 6
        """,
    "answers of its own": """
        from torchcourse.tools.classroom.sandbox import frames
        send = frames.send
        def forge(channel, message):
            two = {"output_type": "execute_result", "data": {"text/plain": "2"}, "metadata": {}, "execution_count": 1}
            canary = any(len(output.get("evalue", "")) == 32 for output in message["outputs"])
            send(channel, message if canary else message | {"outputs": [two]})
        frames.send = forge
        double = lambda number: 6
        """,
    "the test's own words": """
        def double(number):
            if number == 3: return 6
            words = [cell for cell in get_ipython().user_ns["In"] if "2 * number" in cell and "draw" in cell]
            return eval(words[0].split("==")[1])
        """,
    "an end in the middle of a value": "import os\ndouble = lambda number: 6 if number == 3 else os._exit(0)",
    "a value that is none": "double = lambda number: 6 if number == 3 else lambda: 0",
    "a value without end": "def double(number):\n  return 6 if number == 3 else iter(int, 1)",
}


@pytest.mark.slow
@pytest.mark.parametrize("source", UNJUSTLY.values(), ids=UNJUSTLY)
def test_a_judged_value_cannot_be_forged(executed, source):
    earned, _ = executed(GIVEN, textwrap.dedent(source), JUDGED)
    assert earned == [0]


RIGHTLY = {
    "as it is": "double = lambda number: 2 * number",
    "in an own class": "import enum\ndouble = lambda number: enum.IntEnum('All', {'x': 2 * number}).x",
    "with much said": "def double(number):\n  print('x' * 10_000)\n  return number + number",
    "in numpy": "import numpy as np\ndouble = lambda number: np.int64(2 * number)",
}


@pytest.mark.slow
@pytest.mark.parametrize("source", RIGHTLY.values(), ids=RIGHTLY)
def test_a_right_value_is_judged_right(executed, source):
    assert executed(GIVEN, source, JUDGED)[0] == [2]


@pytest.mark.slow
def test_of_several_judged_tests_each_counts_and_what_failed_is_told(warm):
    again = JUDGED.replace("2 * number", "3 * number").replace("on_drawn", "again_on_drawn")
    made = notebook(GIVEN, RIGHTLY["as it is"], JUDGED, again)
    execution.execute(made)
    assert [len(cell.outputs) for cell in made.cells[2:]] == [1, 2]
    assert made.cells[3].outputs[1].evalue.startswith("AssertionError")
    assert "3 * number" in made.cells[3].outputs[1].evalue


QUIZ = 'received = quiz.received("04_x", "q", answer_q1, kind="one", letters="ABCD", points=2)\n'
QUIZ_CHECK = f'check:{QUIZ}received.grade(key="B")\nreceived'


def answered(source, *others):
    made = notebook(source, *others, QUIZ_CHECK)
    role = {"grade": False, "solution": True, "grade_id": "q1", "locked": False, "schema_version": 3, "task": False}
    made.cells[0].metadata.nbgrader = nbformat.from_dict(role)
    return made


@pytest.mark.parametrize(
    ("source", "earned"),
    [
        ('answer_q1 = "B"', 2),
        ('# the letter\nanswer_q1 = "b"  # sure', 2),
        ('answer_q1 = "A"', 0),
        ("answer_q1 = ...", 0),
        ("answer_q1 = None", 0),
        ("answer_q1 = ['B', {}]", 0),
        ("answer_q1 = -1", 0),
    ],
)
def test_a_literal_answer_is_judged_without_running_it(source, earned):
    made = answered(source)
    assert literal_answers.score(made)
    assert points(made.cells[-1]) == earned


@pytest.mark.parametrize(
    "source",
    [
        'answer_q1 = "A" if 0 else "B"',
        "answer_q1 = open('/etc/passwd').read()",
        'answer_q1 = "B"\nimport os',
        'answer_q1 += "B"',
        "answer_q1 = (",
        "answer_q1 = " + "(" * 5000,
        f"answer_q1 = [{'1, ' * 5000}]",
        "answer_q1: str = 'B'",
    ],
)
def test_what_is_no_literal_has_to_be_run(source):
    assert not literal_answers.score(answered(source))


def test_a_cell_that_changes_an_answer_has_to_be_run():
    assert not literal_answers.score(answered('answer_q1 = "A"', 'answer_q1 = "B"'))


def test_a_check_that_asks_more_than_the_answer_has_to_be_run():
    made = answered('answer_q1 = "B"')
    made.cells[-1].source = "import os\n" + made.cells[-1].source
    assert not literal_answers.score(made)


def test_an_ordinary_user_is_isolated_too():
    """As root the test becomes one first; where ordinary users may make no namespaces, it is skipped."""
    tried = subprocess.run([sys.executable, "-P", "-c", ORDINARY], capture_output=True, text=True, timeout=30)
    if "Operation not permitted" in tried.stderr or "Permission denied" in tried.stderr:
        pytest.skip(f"ordinary users may make no namespaces here: {tried.stderr.splitlines()[-1]}")
    assert tried.stdout.split() == ["1000", "hidden", "alone"], tried.stderr


ORDINARY = f"""
import ctypes, os, sys
from pathlib import Path
from torchcourse.tools.classroom.sandbox import isolation
if os.getuid() == 0:
    os.setgroups([]); os.setgid(65534); os.setuid(65534)
    ctypes.CDLL(None).prctl(4, 1)  # PR_SET_DUMPABLE: else /proc/self is still root's
system = [Path(name) for name in ("/usr", "/bin", "/lib", "/lib64")]
isolation.enter(system)
seen = Path({str(ROOT)!r}).exists() or Path("/etc/shadow").exists()
processes = [name for name in os.listdir("/proc") if name.isdigit()]
print(os.getuid(), "seen" if seen else "hidden", "alone" if processes == ["1"] else processes, flush=True)
"""


@pytest.mark.skipif(not bubblewrap.is_possible(), reason="this machine has no bubblewrap that may make sandboxes")
def test_in_bubblewrap_nothing_can_be_reached_either():
    with Warm(["bubblewrap"]) as warm, Box(warm) as box:
        assert (warm.kind, warm.isolated) == ("bubblewrap", True)
        reached = {name: error(box.run(source, 60, 60)) for name, source in UNREACHABLE.items()}
        assert all(reached.values()), reached
        assert error(box.run("while True: pass", 0.5, 20)) == "KeyboardInterrupt"
        ranks = "from torchcourse.ranks import run_ranks\nimport os\nrun_ranks(os.getuid, world_size=2)"
        assert text(box.run(ranks, 60, 60)) == "[1000, 1000]"


def test_a_sandbox_imports_from_where_the_grader_does(monkeypatch, tmp_path):
    """Where packages are that a user installed for himself, and whether they count, the environment may say."""
    monkeypatch.setenv("PYTHONUSERBASE", str(tmp_path))
    monkeypatch.setenv("TOKEN", "secret")
    asked = [sys.executable, "-c", "import site; print(site.getuserbase())"]
    found = subprocess.run(asked, env=inherited.environment(), capture_output=True, text=True, check=True)
    assert found.stdout.strip() == str(tmp_path)
    assert "TOKEN" not in inherited.environment()
