"""export_script: what it writes gives under torchrun what the notebook gave; what it cannot write it refuses."""

import ast
import functools
import itertools
import linecache
import re
import shlex
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributed.run import parse_args

from torchcourse.ranks import export_script

_numbers = itertools.count()


def cell(code: str, namespace: dict[str, Any] | None = None) -> dict[str, Any]:
    """Run code as IPython runs a cell: without a file, its text known to linecache."""
    code, name = textwrap.dedent(code), f"/nowhere/ipykernel_1/{next(_numbers)}.py"
    linecache.cache[name] = (len(code), None, code.splitlines(keepends=True), name)
    namespace = {"__name__": "__main__"} if namespace is None else namespace
    exec(compile(code, name, "exec"), namespace)
    return namespace


ODD_NAME = "내 train's 연습.py"


def printed_commands(text: str) -> list[str]:
    """The command lines of what is printed or stands in the script: one machine, then several."""
    return [line.strip() for line in text.splitlines() if "--nproc-per-node" in line]


@pytest.fixture(autouse=True)
def in_tmp_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.slow
def test_a_cells_function_runs_under_torchrun_as_in_the_notebook(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "tools.py").write_text("def third(x):\n    return x / 3\n")
    sys.path.insert(0, str(tmp_path))
    try:
        notebook = cell("""
            from dataclasses import dataclass
            import functools, torch, torch.distributed as dist, torch.utils.tensorboard
            import torch.nn.functional as F
            import tools
            from torch import relu
            from torchcourse.ranks import device

            STEPS, NAMES = 5, {"a": [1, (2,)], "b": float("inf"), "type": torch.float64}
            dist_rank = "a name that the function uses for itself"

            @dataclass
            class Config:
                rate: float = 0.1

            class Base(torch.nn.Module):
                def __init__(self):
                    super().__init__()
                    self.layer = torch.nn.Linear(3, 1)

            class Net(Base):
                def forward(self, x): return relu(self.layer(x))

            def logged(function):
                @functools.wraps(function)
                def call(*args):
                    return function(*args)
                return call

            @logged
            def helper(x: torch.Tensor, depth=2) -> torch.Tensor:
                return x * STEPS if depth == 0 else helper(x, depth - 1)

            @functools.cache
            def tripled(number):
                return 3 * number

            def make(factor):
                def train(scale, name="x"):
                    dist_rank = dist.get_rank()
                    out = Net().to(device())(torch.ones(2, 3, device=device()))
                    total = helper(torch.ones(2, device=device())) * scale * factor * (dist_rank + 1)
                    dist.all_reduce(total)
                    assert torch.utils.tensorboard.SummaryWriter
                    sizes = [F.relu(out).shape[0] for _ in range(2)]
                    with open("/dev/null") as file:
                        file.read()
                    return tools.third(tripled(1) * total / 3).tolist(), sizes, NAMES, name, Config().rate
                return train
        """)
        cell("train = make(10)", notebook)
        path = export_script(functools.partial(notebook["train"], name="é"), ODD_NAME, 2)
    finally:
        sys.path.remove(str(tmp_path))
        sys.modules.pop("tools")
    assert path == Path(ODD_NAME)
    command = printed_commands(capsys.readouterr().out)[0]
    assert "import torch.utils.tensorboard\n" in path.read_text()
    assert "dist_rank = 'a name" not in path.read_text()
    done = subprocess.run(command, shell=True, capture_output=True, text=True, timeout=250)
    assert done.returncode == 0, done.stderr
    result = ([100.0, 100.0], [2, 2], {"a": [1, (2,)], "b": float("inf"), "type": torch.float64}, "é", 0.1)
    assert sorted(done.stdout.splitlines()) == [f"rank 0 returned {result}", f"rank 1 returned {result}"]


@pytest.mark.parametrize(
    "name", ["train.py", "runs/train.py", ODD_NAME, "-x.py", 'a"""b\\N.py', "$HOME & `ls`.py", "새 폴더/훈련.py"]
)
def test_the_commands_name_the_script_as_a_shell_reads_it(name: str, capsys: pytest.CaptureFixture) -> None:
    Path(name).parent.mkdir(exist_ok=True)
    path = export_script(cell("def train(): return 1")["train"], name)
    one, several = printed_commands(capsys.readouterr().out)
    read = parse_args(shlex.split(one)[-3:])
    assert (Path(read.training_script), read.standalone) == (path, True)
    read = parse_args(shlex.split(several)[-6:])
    assert (Path(read.training_script), read.nnodes, read.rdzv_backend) == (path, "2", "c10d")
    assert read.rdzv_endpoint == "FIRST_MACHINE:29500"
    assert re.fullmatch(r"[A-Za-z0-9_-]+", read.rdzv_id)
    inside = ast.get_docstring(ast.parse(path.read_text()))
    assert inside is not None
    for line in printed_commands(inside):  # from the folder of the script, on whatever machine it lies then
        assert line.startswith("torchrun ")
        assert Path(parse_args(shlex.split(line)[1:]).training_script) == Path(path.name)


@pytest.mark.parametrize("elsewhere", [True, False])
def test_a_torchrun_of_a_different_environment_is_not_meant(
    elsewhere: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    folder = tmp_path if elsewhere else Path(sys.executable).parent
    monkeypatch.setattr("shutil.which", lambda name: str(folder / name))
    export_script(cell("def train(): return 1")["train"], "train.py")
    words = shlex.split(printed_commands(capsys.readouterr().out)[0])
    assert words[:-3] == ([sys.executable, "-m", "torch.distributed.run"] if elsewhere else ["torchrun"])


def test_a_modules_function_is_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine.py").write_text("def work(a, b=None): return a\n")
    monkeypatch.syspath_prepend(tmp_path)
    mine = __import__("mine")
    text = export_script(mine.work, "run.py", [1.5, None, Path("x"), torch.device("cpu")]).read_text()
    assert "from mine import work\n" in text
    assert "run_ranks(work, [1.5, None, Path('x'), torch.device(\"cpu\")])" in text
    assert "from torchcourse.ranks import run_ranks\n" in text
    assert "def work" not in text
    compile(text, "run.py", "exec")

    (tmp_path / "elsewhere").mkdir()
    with pytest.raises(TypeError, match=rf"does not find the module mine .* Write the script into {tmp_path}"):
        export_script(mine.work, "elsewhere/run.py", 1)
    assert not Path("elsewhere/run.py").exists()


REFUSED = {
    "model": ("model = torch.nn.Linear(1, 1)\ndef train(): return model", "`model`, which train uses, .* type Linear"),
    "nested": (
        "data = torch.ones(3)\ndef train():\n    def step(): return data\n    return step()",
        "`data`, which train uses, is a live object of type Tensor.* Build it inside train",
    ),
    "helper": (
        "log = open('/dev/null')\ndef note(): log.read()\ndef train(): note()",
        "`log`, which note uses, is a live object of type TextIOWrapper",
    ),
    "closure": (
        "def make(t):\n    def train(): return t\n    return train\ntrain = make(torch.ones(1))",
        "`t`, which train uses, is a live object of type Tensor",
    ),
    "instance": ("class A:\n    def f(self): pass\na = A()\ndef train(): return a", "`a`, which train .* type A"),
    "lambda": ("train = lambda: 3", "needs a function that is written with def"),
    "builtin": ("train = torch.relu", "needs a function that is written with def"),
    "nonlocal": (
        "def make(n):\n    def train():\n        nonlocal n\n        n += 1\n    return train\ntrain = make(1)",
        r"changes a variable of the function around it \(nonlocal\)",
    ),
    "two": (
        "def make(n):\n    def f(): return n\n    return f\nf, g = make(1), make(2)\ndef train(): f(), g()",
        "Two different objects are called `n`",
    ),
    "taken": ("os = 3\ndef train(): return os", "Two different objects are called `os`"),
    "hidden": (
        "def twice(f):\n    def both(): f(), f()\n    return both\n@twice\ndef train(): pass",
        "train is hidden by its decorator",
    ),
    "unknown": ("exec('def f(): pass')\ndef train(): f()", "The source of f is not known"),
}


@pytest.mark.parametrize(("code", "expected"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_written_faithfully_is_refused(code: str, expected: str) -> None:
    notebook = cell("import torch\n" + code)
    with pytest.raises(TypeError, match=expected):
        export_script(notebook["train"], "train.py")
    assert not Path("train.py").exists()


def test_a_class_of_which_two_versions_are_known_is_refused() -> None:
    notebook = cell("class Settings:\n    rate = 1\ndef train(): return Settings.rate")
    assert "rate = 1" in export_script(notebook["train"], "train.py").read_text()
    cell("class Settings:\n    rate = 2", notebook)
    with pytest.raises(TypeError, match="source of the class Settings cannot be told: 2 cells define that name"):
        export_script(notebook["train"], "train.py", overwrite=True)


def test_arguments_that_are_no_plain_values_are_refused() -> None:
    notebook = cell("def train(x, y=0): return x")
    with pytest.raises(TypeError, match="argument 1 is an object of type Tensor, which cannot be written"):
        export_script(notebook["train"], "train.py", torch.ones(1))
    with pytest.raises(TypeError, match="argument y is an object of type dict"):
        export_script(functools.partial(notebook["train"], y={"a": object()}), "train.py", 1)
    with pytest.raises(TypeError, match=r"train\(\) cannot be called with these arguments: missing"):
        export_script(notebook["train"], "train.py")


def test_another_file_is_not_overwritten() -> None:
    notebook = cell("def train(x): return x")
    Path("train.py").write_text("precious")
    with pytest.raises(FileExistsError, match=r"train\.py exists and differs"):
        export_script(notebook["train"], "train.py", 1)
    assert Path("train.py").read_text() == "precious"
    export_script(notebook["train"], "train.py", 1, overwrite=True)
    export_script(notebook["train"], "train.py", 1)  # the same again
    Path("train.py").write_bytes("# 학습".encode("cp949"))
    with pytest.raises(FileExistsError, match=r"train\.py exists and differs"):
        export_script(notebook["train"], "train.py", 1)


TEXTS = {
    "indented": "if True:\n    def f():\n        return len('''x\n    y''')\n",
    "at the margin": (
        "def make():\n    def f():\n        t = '''\nat margin\n'''\n        return len(t)\n    return f\nf = make()"
    ),
    "formatted": "if True:\n    def f():\n        n = 3\n        return f'''{n}\n    {\n    n}'''\n",
    "bytes": 'if True:\n    def f():\n        return b"""\n      x\n"""\n',
    "docstring": "if True:\n    def f():\n        '''Say.\n\n          More.\n        '''\n        return f.__doc__\n",
    "comment at the margin": "if True:\n    def f(a=(1,\n2)):\n# aside\n        return [\n1, a]\n",
    "tabs": "if True:\n\tdef f():\n\t\treturn '''\n\t\tx'''\n",
    "decorated": "import functools\nif True:\n    @functools.cache\n    def f():\n        return '''\n    x'''\n",
    "in a class": (
        "if True:\n    class A:\n        def g(self):\n            return '''a\n            b'''\n"
        "    def f():\n        return A().g()\n"
    ),
    "continued": "if True:\n    def f():\n        return 1 + \\\n    2\n",
}


@pytest.mark.parametrize("code", TEXTS.values(), ids=TEXTS)
def test_a_text_over_several_lines_is_copied_as_it_is(code: str) -> None:
    """Moving a function to the margin must not move what stands inside its texts."""
    here = cell(code)["f"]
    text = export_script(getattr(here, "__wrapped__", here), "train.py").read_text(encoding="utf-8")
    copied: dict[str, Any] = {"__name__": "elsewhere"}
    exec(compile(text, "train.py", "exec"), copied)
    assert copied["f"]() == here()


def test_a_cell_whose_lines_python_counts_otherwise_is_refused() -> None:
    """IPython keeps a cell by splitlines(), which also splits at signs that are no line ends for Python."""
    notebook = cell("def train():\n    return 'a\u2028b'")
    name = notebook["train"].__code__.co_filename
    lines = [line + "\n" for line in "".join(linecache.getlines(name)).splitlines()]
    linecache.cache[name] = (1, None, lines, name)
    with pytest.raises(TypeError, match="The source of train is not known exactly"):
        export_script(notebook["train"], "train.py")
