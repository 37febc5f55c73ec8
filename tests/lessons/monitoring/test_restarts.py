"""Restarts: what a story tells, which samples are in the weights, and averages after local steps."""

import os

import pytest
import torch

from torchcourse import figures
from torchcourse.lessons.monitoring import local_sgd, two_machines
from torchcourse.lessons.monitoring.elastic_digits import BATCH, SAMPLES, samples_of
from torchcourse.lessons.monitoring.local_sgd_picture import waiting_and_accuracy
from torchcourse.lessons.monitoring.seen_samples import Part, audit, deal_by_batches, deal_by_samples
from torchcourse.lessons.monitoring.seen_samples_picture import losses_picture, seen_picture
from torchcourse.lessons.monitoring.two_machines import Story, play
from torchcourse.lessons.monitoring.two_machines_picture import story_picture
from torchcourse.ranks.run import RankError, RankTimeout


@pytest.fixture
def shown(monkeypatch):
    alts: list[str] = []
    monkeypatch.setattr(figures, "show", lambda figure, alt: alts.append(alt))
    return alts


def a_story():
    rows = []
    for start, (machines, first, last) in enumerate((("AB", 1, 3), ("A", 3, 6))):
        for step in range(first, last + 1):
            for rank, machine in enumerate(machines):
                process = 10 * start + rank
                row = {"machine": machine, "rank": rank, "ranks": len(machines), "process": process, "step": step}
                rows.append(row | {"time": 100 + 10 * start + step})
    return Story(torch.zeros(2), rows, {"machine": 104.0})


def test_a_story_knows_its_starts():
    assert a_story().starts() == [(2, 1, 3), (1, 3, 6)]
    assert a_story().processes() == 3


def test_the_picture_counts_what_was_done_twice(shown):
    story_picture(a_story())
    assert shown == [
        "Steps over time. 2 starts in 15.0 s, and 1 step was done twice: 2 ranks did steps 1 to 3, then 1 rank did "
        "steps 3 to 6."
    ]
    story_picture(None)
    assert len(shown) == 1


def test_one_sentence_says_why_nothing_was_played(monkeypatch, capsys):
    def refuse(*_, **__):
        raise RankError(0, "PermissionError", "Operation not permitted", "")

    monkeypatch.setattr(two_machines, "run_ranks", refuse)
    assert play("unused") is None
    assert "refuses a process or a port (Operation not permitted)" in capsys.readouterr().out

    def late(*_, **__):
        raise RankTimeout(0, "RankTimeout", "still running", "")

    monkeypatch.setattr(two_machines, "run_ranks", late)
    assert play("unused") is None
    assert "had not finished after 90 s" in capsys.readouterr().out
    monkeypatch.delattr(os, "killpg")
    assert play("unused") is None
    assert "which Windows lacks" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "killpg"), reason="needs groups of processes")
def test_two_agents_start_their_ranks_again_after_a_death(tmp_path):
    """The lesson goes on without the scene where a machine cannot play it; this one can, if not at the first go."""
    tries = (play(str(tmp_path / name), rank_dies_at=13) for name in ("first", "second"))
    story = next(filter(None, tries))
    assert story.starts() == [(4, 1, 12), (4, 11, 30)]
    assert story.processes() == 8
    assert [*story.deaths] == ["rank"]


def test_an_error_of_the_agents_is_raised(monkeypatch):
    def fail(*_, **__):
        raise RankError(0, "RuntimeError", "The agents gave up.", "")

    monkeypatch.setattr(two_machines, "run_ranks", fail)
    with pytest.raises(RankError, match="gave up"):
        play("unused")


def test_agents_that_give_up_begin_again_in_an_empty_folder(monkeypatch, tmp_path, capsys):
    def give_up(*_, **__):
        (tmp_path / "story").mkdir()
        return ["no sign of life"]

    monkeypatch.setattr(two_machines, "run_ranks", give_up)
    assert play(str(tmp_path / "story")) is None
    said = capsys.readouterr().out
    assert "gave up 3 times" in said
    assert "no sign of life" in said


def test_an_epoch_has_each_sample_once_and_the_next_a_new_order():
    steps = SAMPLES // BATCH
    first, second = (torch.cat([samples_of(step + shift) for step in range(steps)]) for shift in (0, steps))
    assert sorted(first.tolist()) == sorted(second.tolist()) == list(range(SAMPLES))
    assert not torch.equal(first, second)


def resumed(deal, ranks, position, further_ranks):
    """The rows of an epoch that was saved after step 8, did two more, and went on at `position`."""
    order = list(range(SAMPLES))
    counts = deal is deal_by_samples
    rows = [
        (0, step, deal(order, (step - 1) * (BATCH if counts else 1), rank, ranks))
        for step in range(1, 11)
        for rank in range(ranks)
    ]
    step = 9
    while any(taken := [deal(order, position, rank, further_ranks) for rank in range(further_ranks)]):
        rows += [(1, step, part) for part in taken]
        step, position = step + 1, position + (sum(map(len, taken)) if counts else 1)
    return rows


@pytest.mark.parametrize(("ranks", "further", "twice", "never"), [(4, 2, 256, 0), (2, 4, 0, 256), (4, 4, 0, 0)])
def test_a_position_in_batches_holds_on_the_same_number_of_ranks_only(ranks, further, twice, never):
    found = audit(resumed(deal_by_batches, ranks, 8, further), SAMPLES)
    assert tuple(map(len, found)) == (twice, never)


@pytest.mark.parametrize("further", [1, 2, 3, 4, 5])
def test_a_position_in_samples_holds_on_every_number(further):
    assert audit(resumed(deal_by_samples, 4, 8 * BATCH, further), SAMPLES) == ([], [])


def test_the_pictures_say_what_was_counted(shown):
    parts = [Part([(0, 1, range(SAMPLES - 2))], [2.5]), Part([(1, 2, [0, 1])], [2.0])]
    seen_picture({"a run": parts})
    losses_picture(parts)
    assert "a run: 2 samples never, 2 more than once" in shown[0]
    assert "It falls from 2.50 to 2.00" in shown[1]


def test_averaging_every_step_is_one_large_batch():
    """With the same weights at the start, the mean of the ranks' weights is a step with the mean of their gradients."""
    apart = local_sgd.accuracies(1, [3, 4], ranks=2, steps=4)
    assert apart == pytest.approx([local_sgd.accuracies(1, [seed], ranks=2, steps=4)[0] for seed in (3, 4)], abs=2e-3)
    assert local_sgd.accuracies(4, [3], steps=4) == local_sgd.accuracies(9, [3], steps=4)
    assert local_sgd.accuracies(1, [3], steps=4) != local_sgd.accuracies(4, [3], steps=4)


def test_the_picture_of_local_steps_says_both(shown):
    waited = {"now and then": {1: 0.5, 24: 0.2}, "always rank 0": {1: 0.6, 24: 0.59}}
    waiting_and_accuracy(waited, {1: [0.9, 0.91, 0.92], 8: [0.91, 0.92, 0.94]})
    assert "from 50% to 20% where ranks are slow now and then, and goes from 60% to 59% with one slow rank" in shown[0]
    assert "H = 8: +1.3 points" in shown[0]
