"""Grading on a cluster: each submission counts once, whatever becomes of the machines; nothing but it is sent."""

import importlib.util
import shutil
import sys
from concurrent.futures import Future

import nbformat
import pytest
from nbformat.v4 import new_output

import small_course
from torchcourse.tools.classroom import cluster, execution, grade
from torchcourse.tools.classroom.cluster import Answer, Cluster

LESSON = small_course.LESSON_NAME
STUDENTS = ["ann", "bob", "cat"]


@pytest.fixture(scope="module")
def course(tmp_path_factory):
    return small_course.released(tmp_path_factory.mktemp("course"))


@pytest.fixture(scope="module")
def class_folder(course, tmp_path_factory):
    folder = tmp_path_factory.mktemp("class")
    for student in STUDENTS:
        note = f"# by {student}"

        def sign(cells, _notebook, note=note):
            cells["double"].source += f"\n{note}"

        small_course.hand_in(course, folder, student, sign, solved=True)
    return folder


@pytest.fixture
def ran(monkeypatch) -> list[str]:
    """Who was executed here, by `execution.execute`, which only pretends to."""
    names: list[str] = []

    def execute(notebook, _trusted=True, seed=""):
        text = "\n".join(cell.source for cell in notebook.cells)
        names.append(next(name for name in STUDENTS if f"# by {name}" in text))
        for cell in notebook.cells:
            if cell.get("id") == "check-double":
                cell.outputs = [new_output("execute_result", {"text/plain": "2"}, execution_count=1)]
        return execution.Note()

    monkeypatch.setattr(execution, "execute", execute)
    monkeypatch.setattr(execution, "is_isolated", lambda: True)
    return names


class Machines:
    """Stands for a cluster: answers at once, or loses what `loses` says."""

    def __init__(self, loses=(), course=None):
        self.sent, self.loses, self.course = [], set(loses), course or cluster.course_digest()

    def submit(self, text, seed) -> Future:
        self.sent.append((text, seed))
        future: Future = Future()
        name = next(name for name in STUDENTS if f"# by {name}" in text)
        if name in self.loses:
            future.set_exception(ConnectionError("The node died.\nA long story follows."))
            return future
        notebook = nbformat.reads(text, as_version=4)
        for cell in notebook.cells:
            if cell.get("id") == "check-double":
                cell.outputs = [new_output("execute_result", {"text/plain": "2"}, execution_count=1)]
        future.set_result(Answer(nbformat.writes(notebook), execution.Note(), self.course, "namespaces"))
        return future


def graded(folder, course, machines, again=False):
    clustered = Cluster(machines.submit, workers=2)
    rows = grade.grade_class(folder, root=course, cluster=clustered, again=again)
    return {row.student: row.score for row in rows}, clustered


@pytest.mark.slow
def test_each_is_sent_alone_and_once_and_what_was_lost_is_executed_here(class_folder, course, ran):
    machines = Machines(loses=["bob"])
    scores, clustered = graded(class_folder, course, machines)
    assert scores == dict.fromkeys(STUDENTS, 2)
    assert ran == ["bob"]
    assert len(machines.sent) == len(STUDENTS)
    for text, seed in machines.sent:
        assert sum(f"# by {name}" in text for name in STUDENTS) == 1
        assert str(class_folder) not in text
        assert seed == execution.SEED  # so that all get the same inputs
    assert clustered.report() == [
        execution.PROTECTION["namespaces"],
        "The cluster lost work (ConnectionError: The node died.). What it had was executed here.",
    ]


def test_a_machine_with_a_different_course_grades_nobody(class_folder, course, ran):
    scores, clustered = graded(class_folder, course, Machines(course="old"), again=True)
    assert scores == dict.fromkeys(STUDENTS, 2)
    assert sorted(ran) == STUDENTS
    assert "different version of the course" in clustered.report()[0]


class Gone(ConnectionError):
    """As Ray tells what a worker raised."""

    cause = MemoryError("No room.")


def test_what_a_cluster_without_machines_will_never_answer_is_executed_here(class_folder, course, ran):
    never = Cluster(lambda _text, _seed: Future(), workers=2, lives=lambda: False)
    rows = grade.grade_class(class_folder, root=course, cluster=never, again=True)
    assert {row.student: row.score for row in rows} == dict.fromkeys(STUDENTS, 2)
    assert sorted(ran) == STUDENTS
    assert "has no machine any more" in never.report()[0]


def test_the_reason_of_a_worker_is_told_and_not_where_it_ran():
    told = cluster._reason(Gone("\x1b[36mray::on_worker()\x1b[39m (pid=1)\n  File ...\nMemoryError: No room."))
    assert told == "MemoryError: No room."


@pytest.mark.slow
def test_a_grading_that_was_killed_goes_on_with_what_is_left(class_folder, course, ran, tmp_path, monkeypatch):
    shutil.copytree(class_folder / "submitted", tmp_path / "submitted")
    done = []
    real = grade.Grader.grade

    def killed(self, work):
        if done:
            raise KeyboardInterrupt
        done.append(work.student)
        return real(self, work)

    monkeypatch.setattr(grade.Grader, "grade", killed)
    with pytest.raises(KeyboardInterrupt):
        graded(tmp_path, course, Machines())
    monkeypatch.setattr(grade.Grader, "grade", real)
    machines = Machines()
    scores, _ = graded(tmp_path, course, machines)
    assert scores == dict.fromkeys(STUDENTS, 2)
    assert len(machines.sent) == len(STUDENTS) - len(done)
    assert ran == []


def test_without_ray_a_sentence_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ValueError, match=r'pip install -e "\.\[ray\]"'):
        cluster.RayCluster("auto")


@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray, the extra [ray], is not installed")
@pytest.mark.timeout(300)
def test_a_machine_of_a_ray_cluster_that_dies_loses_nothing(class_folder, course, monkeypatch):
    from ray.cluster_utils import Cluster as RayMachines

    machines = RayMachines(initialize_head=True, head_node_args={"num_cpus": 0})
    dying, graded_so_far = machines.add_node(num_cpus=1), []
    machines.add_node(num_cpus=1)
    real = grade.Grader.grade

    def killing(self, work):
        if not graded_so_far:
            machines.remove_node(dying, allow_graceful=False)
        graded_so_far.append(work.student)
        return real(self, work)

    monkeypatch.setattr(grade.Grader, "grade", killing)
    try:
        with cluster.RayCluster(machines.address) as clustered:
            rows = grade.grade_class(class_folder, root=course, cluster=clustered, again=True)
            assert clustered.troubles == set()
    finally:
        machines.shutdown()
    assert {row.student: row.score for row in rows} == dict.fromkeys(STUDENTS, 3)
    assert graded_so_far == STUDENTS
