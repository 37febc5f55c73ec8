"""What a user sees in the log: each broken program shows its symptom, and the lesson's repair takes it away."""

import re
from collections.abc import Callable

import pytest

from clinic_repairs import reference
from torchcourse.lessons.troubleshooting import clinic

LOSS, MEGABYTES = r"loss ([\d.]+)", r"([\d.]+) MB"
Numbers = list[float]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("slug", "pattern", "ill", "healthy"),
    [
        ("learns_then_forgets", LOSS, lambda ill: ill[-1] > ill[0], lambda ill, now: now[-1] < now[0] / 3),
        (
            "big_batch_diverges",
            r"(?m)×.* ([\d.]+)$",
            lambda ill: ill[0] < 0.5 < ill[1] < ill[2],
            lambda ill, now: now == pytest.approx([now[0]] * 3, abs=0.01),
        ),
        ("loss_with_a_floor", LOSS, lambda ill: ill[-1] > 1.4612, lambda ill, now: now[-1] < 0.1),  # log(e + 9) - 1
        ("head_that_sleeps", LOSS, lambda ill: ill[-1] > 0.1, lambda ill, now: now[-1] < ill[-1] / 2),
        ("loss_that_stands_still", LOSS, lambda ill: len(set(ill)) == 1, lambda ill, now: now[-1] < now[0] / 2),
        (
            "moody_score",
            r"batches of +\d+: ([\d.]+)%",
            lambda ill: len(ill) == 4 and max(ill) - min(ill) > 5,
            lambda ill, now: len(set(now)) == 1,
        ),
        ("hungry_validation", MEGABYTES, lambda ill: ill[1] > 2 * ill[0], lambda ill, now: now[1] < 0.8 * ill[1]),
        (
            "swelling_run",
            MEGABYTES,
            lambda ill: ill[-1] > 2 * ill[0],
            lambda ill, now: now[-1] == pytest.approx(now[0], abs=0.11),
        ),
        ("sawtooth", MEGABYTES, lambda ill: ill[0] > 1, lambda ill, now: min(ill) > 5 * max(now)),
        ("idle_since_tuesday", r"training loss ([\d.]+)", lambda ill: ill[-1] > 1.5, lambda ill, now: now[-1] < 0.3),
        ("good_only_in_crowds", r"([\d.]+)% right", lambda ill: ill[-1] < 20, lambda ill, now: min(now) > 85),
        ("nan_since_new_scanner", r"(nan|[\d.]+)\n", lambda ill: ill[1] != ill[1], lambda ill, now: now[-1] < 0.1),
        ("images_nobody_sees", r"(\d+) different", lambda ill: max(ill) < 110, lambda ill, now: set(now) == {128}),
        ("closed_connection", r"(\d+)\] epochs", lambda ill: ill == [], lambda ill, now: len(now) == 1),
        (
            "resumes_elsewhere",
            LOSS,
            lambda ill: abs(ill[1] - ill[0]) > 0.01,
            lambda ill, now: abs(now[1] - now[0]) < 1e-4,
        ),
        ("promised_more", r"([\d.]+)%", lambda ill: ill[0] > ill[1] + 8, lambda ill, now: abs(now[0] - now[1]) < 8),
        ("details_are_lost", r"worker \(pid\S* (\d+)\) exited unexpectedly", len, lambda ill, now: now == []),
        (
            "augmentation_adds_nothing",
            r"brightness ([\d.]+)",
            lambda ill: len(set(ill)) == len(ill) / 4,
            lambda ill, now: len(set(now)) == len(now) == 8,
        ),
    ],
)
def test_the_broken_program_shows_its_symptom_and_the_repaired_one_does_not(
    slug: str, pattern: str, ill: Callable[[Numbers], bool], healthy: Callable[[Numbers, Numbers], bool]
):
    def numbers(*parts: Callable) -> Numbers:
        return [float(found) for found in re.findall(pattern, clinic.find(slug).log(clinic.Program(slug, *parts)))]

    broken = numbers()
    assert ill(broken)
    assert healthy(broken, numbers(*reference(slug)))


def test_every_patient_is_seen():
    marks = test_the_broken_program_shows_its_symptom_and_the_repaired_one_does_not.pytestmark
    (mark,) = [mark for mark in marks if mark.name == "parametrize"]
    assert [row[0] for row in mark.args[1]] == [slug for ward in clinic.WARDS.values() for slug in ward]
