"""The repository that holds the lessons: where it is, and its configuration of nbgrader.

Build and grading are for those who have the repository; an installed package has no lesson sources.
"""

from pathlib import Path

from traitlets.config import Config
from traitlets.config.loader import PyFileConfigLoader

ROOT = Path(__file__).parents[3]
"""The folder with solutions/, quizzes/ and notebooks/."""


def nbgrader_config(root: Path, course_folder: str | Path) -> Config:
    """Load the course's nbgrader_config.py from `root`, for a course folder that may be elsewhere."""
    config = PyFileConfigLoader("nbgrader_config.py", path=str(root)).load_config()
    config.CourseDirectory.root = str(Path(course_folder).resolve())
    config.NbGrader.log_level = "ERROR"
    return config
