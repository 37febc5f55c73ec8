"""nbgrader's own way of running a notebook, with a kernel: in the sandbox too, with no line of nbgrader's changed."""

import textwrap
import tomllib
from importlib.metadata import EntryPoint

import nbformat
import pytest
from jupyter_client.provisioning import KernelProvisionerFactory
from nbgrader.api import Gradebook
from nbgrader.converters import Autograde
from nbgrader.coursedir import CourseDirectory
from nbgrader.validator import Validator
from traitlets.config import Config

import small_course
from torchcourse.tools.classroom import course_folder, gradebook, provisioner, staging
from torchcourse.tools.classroom.sandbox import box as sandbox
from torchcourse.tools.repository import ROOT, nbgrader_config

pytestmark = pytest.mark.skipif(not sandbox.POSSIBLE, reason="needs Linux, whose namespaces the sandbox is made of")

GROUP, NAME = KernelProvisionerFactory.GROUP_NAME, "torchcourse-sandbox"
HOSTILE = """
import os
from pathlib import Path
folder, root = map(Path, {places})
secrets = [root / "solutions", folder / "solutions", folder / "gradebook.db", folder / "submitted"]
reached = [str(path) for path in secrets if path.exists()]
try:
    (folder / "gradebook.db").write_text("99")
    reached.append("the gradebook was written")
except OSError:
    pass
print("reached:", reached)
from own_module import double
"""


def entry_point() -> EntryPoint:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return EntryPoint(NAME, project["entry-points"][GROUP][NAME], GROUP)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    root = small_course.make(tmp_path_factory.mktemp("course"))
    folder = tmp_path_factory.mktemp("class")
    course_folder.make(folder, root=root)

    def hostile(cells, _notebook):
        cells["double"].source = textwrap.dedent(HOSTILE).format(places=[str(folder), str(root)])

    small_course.hand_in(root, folder, "mallory", hostile, solved=True)
    module = folder / "submitted" / "mallory" / small_course.LESSON_NAME / "own_module.py"
    module.write_text("def double(number):\n    return number * 2\n", encoding="utf-8")
    return root, folder


@pytest.fixture
def by_default(monkeypatch):
    """Kernels start as they do where the package is installed and the environment names its provisioner."""
    monkeypatch.setenv(KernelProvisionerFactory.default_provisioner_name_env, NAME)
    monkeypatch.setitem(KernelProvisionerFactory.provisioners, NAME, entry_point())
    KernelProvisionerFactory.clear_instance()
    yield
    KernelProvisionerFactory.clear_instance()


def test_the_entry_point_leads_to_the_provisioner():
    assert entry_point().load() is provisioner.SandboxProvisioner


@pytest.mark.slow
def test_stock_autograde_runs_what_was_handed_in_where_it_reaches_nothing(made, by_default):
    _, folder = made
    config = Config()
    config.CourseDirectory.root = str(folder)
    config.CourseDirectory.course_id = "torchcourse"
    config.CourseDirectory.assignment_id = small_course.LESSON_NAME
    config.CourseDirectory.student_id = "mallory"
    with gradebook.at_work():
        Autograde(coursedir=CourseDirectory(config=config), config=config).start()
    path = folder / "autograded" / "mallory" / small_course.LESSON_NAME / "1_lesson.ipynb"
    cells = {cell.id: cell for cell in nbformat.read(path, as_version=4).cells}
    assert [output.text for output in cells["double"].outputs] == ["reached: []\n"]
    with Gradebook(gradebook.address(folder), "torchcourse") as book:
        found = book.find_submission(small_course.LESSON_NAME, "mallory")
        assert found.score == 3


@pytest.mark.slow
def test_validate_runs_it_there_too(made):
    root, folder = made
    path = folder / "submitted" / "mallory" / small_course.LESSON_NAME / "1_lesson.ipynb"
    notebook = nbformat.read(path, as_version=4)
    check = next(cell for cell in notebook.cells if cell.id == "check-double")
    check.source = f"from pathlib import Path\nassert not Path({str(folder)!r}).exists()\n{check.source}"
    nbformat.write(notebook, path)
    validator = Validator(config=nbgrader_config(root, folder), ignore_checksums=True)
    assert validator.validate(str(path)) == {}


def test_a_folder_of_a_version_control_hides_no_module(tmp_path, monkeypatch):
    monkeypatch.setattr(staging, "_MOST_SEEN", 3)
    for number in range(9):
        (tmp_path / ".git").mkdir(exist_ok=True)
        (tmp_path / ".git" / f"{number}").touch()
    (tmp_path / "own_module.py").write_text("x = 1")
    files, left = staging.beside(tmp_path)
    assert [*files] == ["own_module.py"]
    assert not left
    for number in range(3):
        (tmp_path / f"{number}.txt").touch()
    assert staging.beside(tmp_path)[1] == ["what comes after the first files"]
