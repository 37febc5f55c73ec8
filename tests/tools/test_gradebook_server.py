"""A class whose gradebook is in PostgreSQL: the same points, and no gradebook.db in the folder."""

import importlib.util
import os
import shutil
import subprocess
from pathlib import Path

import pytest

import small_course
from lab_in_browser import free_port
from torchcourse.tools.classroom import course_folder, grade, gradebook, late

PROGRAMS = [Path(found).parent for found in [shutil.which("initdb")] if found]
PROGRAMS += sorted(Path("/usr/lib/postgresql").glob("*/bin"))
DRIVER = importlib.util.find_spec("psycopg")

pytestmark = [
    pytest.mark.skipif(not PROGRAMS, reason="PostgreSQL's server (initdb) is not installed"),
    pytest.mark.skipif(DRIVER is None, reason="PostgreSQL's driver psycopg is not installed"),
    pytest.mark.timeout(300),
]


@pytest.fixture
def server(tmp_path_factory):
    """The address of an empty database on a server of the test's own."""
    home = tmp_path_factory.mktemp("server")
    whom = {}
    if os.geteuid() == 0:  # as whom PostgreSQL does not run
        home = Path("/tmp") / f"{home.parent.name}-{home.name}"
        home.mkdir(mode=0o700)
        shutil.chown(home, "nobody")
        whom = {"user": "nobody"}
    port = free_port()

    def program(name, *options):
        command = [PROGRAMS[-1] / name, *options]
        subprocess.run(command, check=True, cwd=home, stdout=subprocess.DEVNULL, timeout=200, **whom)

    program("initdb", "-D", home / "data", "-U", "teacher", "-A", "trust", "--no-sync")
    settings = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories='' -c fsync=off"
    program("pg_ctl", "-D", home / "data", "-l", home / "log", "-w", "-o", settings, "start")
    try:
        yield f"postgresql://teacher@127.0.0.1:{port}/postgres"
    finally:
        program("pg_ctl", "-D", home / "data", "-m", "immediate", "stop")
        shutil.rmtree(home)


def test_points_are_the_same_in_postgresql(server, tmp_path):
    course = small_course.released(tmp_path / "course")
    folder = tmp_path / "algo"
    folder.mkdir()
    (folder / late.NAME).write_text(f'gradebook = "{server}"\n', encoding="utf-8")
    course_folder.make(folder, root=course)
    small_course.hand_in(course, folder, "ann", solved=True)
    (row,) = grade.grade_class(folder, root=course)
    assert (row.score, row.max_score, row.state) == (3, 6, "needs manual grading")
    with gradebook.opened(folder) as book:
        assert book.db.get_bind().dialect.name == "postgresql"
        assert book.find_submission(small_course.LESSON_NAME, "ann").score == 3
    assert not (folder / gradebook.NAME).exists()
