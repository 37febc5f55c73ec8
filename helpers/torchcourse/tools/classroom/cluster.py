"""Run submissions on the machines of a Ray cluster: `make grade ARGS="--ray ADDRESS"`.

A notebook goes out, and comes back executed. A worker gets this one notebook, in the sandbox of its machine, and sees
neither the gradebook nor other submissions. It needs the same course and the extra `[ray]`. Scores are written where
`make grade` runs, one submission at a time, so that work which a lost machine began is done again and counts once.

Ray is reached through one function, `submit`. What is done with its answers needs no Ray.
"""

import contextlib
import functools
import hashlib
import logging
import os
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import nbformat
from nbformat.notebooknode import NotebookNode

import torchcourse
from torchcourse.tools.classroom import execution, literal_answers
from torchcourse.tools.classroom.execution import Note
from torchcourse.tools.classroom.sandbox import isolation
from torchcourse.tools.classroom.sandbox.box import POSSIBLE, Kind, Lost

MISSING = 'Ray is not installed here. Install it in the course\'s folder: .venv/bin/pip install -e ".[ray]".'
_TRIES = 3
_READ = {".py", ".bin", ".csv", ".css", ".jpg", ".js", ".npz", ".safetensors", ".yaml"}
_LOOK = 2.0  # seconds from look to look whether the cluster is there


@dataclass(frozen=True)
class Answer:
    """What a worker sends back."""

    notebook: str
    """The executed notebook, as text."""
    note: Note
    course: str
    """A digest of the course on that machine."""
    kind: Kind
    """How the notebook was isolated there."""


Submit = Callable[[str, str], Future[Answer]]
"""Sends a notebook, as text, with the seed of judged tests; where the work is lost, the future raises."""


@dataclass
class Cluster:
    """Executes notebooks elsewhere, and here what cannot be done there.

    Args:
        submit: sends a notebook to a worker.
        workers: how many notebooks the machines run at a time.
    """

    submit: Submit
    workers: int
    lives: Callable[[], bool] = lambda: True
    """Whether there is a machine left that could do the work."""
    kinds: set[Kind] = field(default_factory=set)
    """How the workers isolated what they ran."""
    troubles: set[str] = field(default_factory=set)
    """Why notebooks were executed here, a sentence each."""

    def execute(self, notebook: NotebookNode) -> Note:
        """Fill in the outputs of a notebook as `execution.execute` does. Threads may call this."""
        if literal_answers.score(notebook):
            return Note()
        try:
            answer = self._answer(self.submit(nbformat.writes(notebook, version=4), execution.SEED))
        except Exception as error:  # whatever a cluster, or a machine of it, dies of
            self.troubles.add(f"The cluster lost work ({_reason(error)}).")
            return execution.execute(notebook)
        if answer.course != course_digest():
            self.troubles.add("A machine of the cluster has a different version of the course; install this one there.")
            return execution.execute(notebook)
        self.kinds.add(answer.kind)
        done = nbformat.reads(answer.notebook, as_version=4)
        for cell, executed in zip(notebook.cells, done.cells, strict=True):
            if cell.cell_type == "code":
                cell.outputs, cell.execution_count = executed.outputs, executed.execution_count
        return answer.note

    def _answer(self, work: Future[Answer]) -> Answer:
        """Wait for an answer, as long as there is somebody who could give it."""
        while not work.done():
            if execution.is_stopped():
                raise Lost("grading was stopped")
            if not self.lives():
                raise ConnectionError("it has no machine any more")
            with contextlib.suppress(TimeoutError):
                work.result(_LOOK)
        return work.result()

    def report(self) -> list[str]:
        """Return what a teacher has to know, a sentence each."""
        ladder: tuple[Kind, ...] = ("namespaces", "bubblewrap", "limits")
        lines = [execution.PROTECTION[kind] for kind in ladder if kind in self.kinds]
        return [*lines, *(f"{trouble} What it had was executed here." for trouble in sorted(self.troubles))]


class RayCluster(Cluster):
    """A Ray cluster that runs already, for a `with` block.

    Args:
        address: such as "auto", "10.0.0.1:6379" or "ray://10.0.0.1:10001".

    Raises:
        ValueError: in a sentence, when there is no Ray or no Linux here, or no cluster there.
    """

    def __init__(self, address: str) -> None:
        if not POSSIBLE:
            raise ValueError("With --ray, the machine that grades must run Linux, as the cluster's machines must.")
        os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", ".*")  # else Ray prints pages about a machine that died
        try:
            import ray
        except ImportError:
            raise ValueError(MISSING) from None
        try:
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
        except (ConnectionError, RuntimeError, ValueError, TimeoutError) as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise ValueError(f"There is no Ray cluster at {address}: {reason}") from None
        # Without a limit to its tries, a notebook that ends its worker would go round for ever.
        task = ray.remote(num_cpus=1, max_retries=_TRIES)(on_worker)
        workers = _processors(ray)
        if not workers:
            ray.shutdown()
            raise ValueError(f"The Ray cluster at {address} has no machine with a processor; start one there.")
        super().__init__(lambda text, seed: task.remote(text, seed).future(), workers, lambda: _processors(ray) > 0)
        self._ray: Any = ray

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self._ray.shutdown()


def _processors(ray: Any) -> int:
    """How many notebooks the machines of a cluster can run at a time."""
    return int(ray.cluster_resources().get("CPU", 0))


def _reason(error: BaseException) -> str:
    """Return what went wrong in one line. Ray tells what a worker raised as a report of many lines, with its cause."""
    error = getattr(error, "cause", None) or error
    first = (str(error).strip() or "no reason given").splitlines()[0]
    return f"{type(error).__name__}: {first[:200]}"


def on_worker(text: str, seed: str) -> Answer:
    """Execute a notebook in the sandbox of this machine."""
    notebook = nbformat.reads(text, as_version=4)
    note = execution.execute(notebook, seed=seed)
    return Answer(nbformat.writes(notebook, version=4), note, course_digest(), execution.warm().kind)


@functools.cache
def course_digest() -> str:
    """Return a digest of the course's programs and of the data that they read, the same where the course is the same.

    The question banks, which an installed course has among them, are used where `make grade` runs.
    """
    folder, digest = Path(torchcourse.__file__).parent, hashlib.blake2b(digest_size=16)
    for path in sorted(path for path in folder.rglob("*") if path.suffix in _READ):
        if not any(path.is_relative_to(hidden) for hidden in isolation.HIDDEN):
            digest.update(path.relative_to(folder).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()
