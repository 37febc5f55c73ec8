"""Full solutions that were designed differently pass all checks; the course's own runs as a notebook."""

from functools import partial

import pytest

import capstone_by_hand
import capstone_sparing
from torchcourse.lessons.capstone.checks import milestones as check
from verdicts import accepted

SOLUTIONS = pytest.mark.parametrize("solution", [capstone_by_hand, capstone_sparing], ids=["by hand", "sparing"])


@pytest.mark.slow
@SOLUTIONS
def test_dataset_diagnosis_and_report(solution):
    accepted(check.dataset(solution.open_part))
    accepted(check.diagnosis(("reference", "same order", solution.shows)))
    accepted(check.report(solution.write_report))


@pytest.mark.slow
@SOLUTIONS
def test_a_search_that_is_killed(solution):
    accepted(check.study(solution.search))


@pytest.mark.slow
@SOLUTIONS
def test_training_on_two_ranks_and_its_checkpoint(solution):
    train = partial(solution.train, solution.SETTINGS)
    accepted(check.ddp_run(train))
    accepted(check.one_device((train, solution.load)))
