"""The model of workers: a clock that gives the formula, and no batch before it is made."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from torchcourse.lessons.datasets.waiting import batch_time, best_workers, simulate, timeline_finding
from torchcourse.lessons.datasets.waiting_picture import draw_timeline

times = st.integers(1, 60)


@settings(deadline=None, derandomize=True)
@given(times, times, st.integers(0, 8), st.integers(0, 5), st.integers(1, 4))
def test_the_formula_is_what_the_clock_shows(load, step, workers, send, prefetch):
    run = simulate(load, step, workers, send=send, prefetch=prefetch, batches=max(40, 40 * workers))
    # With prefetch 1, a worker gets its next batch only when the last one is taken: some loading is not hidden.
    if prefetch > 1 or workers == 0:
        assert run.batch_time() == pytest.approx(batch_time(load, step, workers, send), rel=0.1)
    assert run.batch_time() >= batch_time(load, step, workers, send) * 0.9


@settings(deadline=None, derandomize=True)
@given(times, times, st.integers(1, 6), st.integers(0, 5))
def test_nothing_is_used_before_it_is_made_and_no_worker_does_two_things(load, step, workers, send):
    run = simulate(load, step, workers, send=send)
    assert len(run.made) == len(run.waits) == len(run.steps) == 24
    for (_, _, made), (_, ready), (begin, end) in zip(run.made, run.waits, run.steps, strict=True):
        assert made <= ready == begin == end - step
    for worker in range(workers):
        own = [interval for who, *interval in run.made if who == worker]
        assert all(before[1] <= after[0] for before, after in itertools.pairwise(own))


def test_how_many_workers_pay():
    assert best_workers(load=40, step=10, cores=8) == 4
    assert best_workers(load=40, step=9, cores=8, send=1) == 4
    assert best_workers(load=40, step=10, cores=3) == 3  # still too few, and all that there are
    assert best_workers(load=1, step=10, cores=8, send=2) == 0  # to receive takes longer than to load


def test_the_picture_says_what_it_shows():
    figure = draw_timeline(2, 25)
    assert figure.axes[0].get_title() == timeline_finding(2, 25)
    assert timeline_finding(2, 25) == "2 workers: 12.5 ms per batch, and the loop waits 20% of the time"
    assert len(figure.axes[0].patches) == 24
    assert len(draw_timeline(0, 25).axes[0].patches) == 24
