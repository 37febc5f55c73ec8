"""The clinic's wards "ranks" and "checkpoints": right repairs built in other ways, and wrong ones that people make."""

import contextlib

import pytest
from torch.utils.data import DistributedSampler

from clinic_repairs import broken
from torchcourse.checks import Wrong
from torchcourse.lessons.troubleshooting.checks.clinic import repair
from torchcourse.lessons.troubleshooting.clinic import Program
from torchcourse.lessons.troubleshooting.clinic.cases import closed_connection, images_nobody_sees
from verdicts import accepted, refused

# images_nobody_sees: another epoch number on each rank

SAMPLED = "images_nobody_sees"
EPOCH = "epoch * dist.get_world_size() + dist.get_rank()"
SET = f"        sampler.set_epoch({EPOCH})"
BATCHES = "        for images, labels in loader:\n"


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        [(EPOCH, "epoch * dist.get_world_size()")],
        [
            (
                "    sampler = DistributedSampler(data, seed=seed)\n"
                "    loader = DataLoader(data, batch_size=16, sampler=sampler)\n",
                "",
            ),
            (
                f"        sampler.set_epoch({EPOCH})",
                "        order = torch.randperm(len(data), "
                "generator=torch.Generator().manual_seed(100 * seed + epoch)).tolist()\n"
                "        order = (order + order)[: -(-len(data) // dist.get_world_size()) * dist.get_world_size()]\n"
                "        loader = DataLoader(data, batch_size=16, "
                "sampler=order[dist.get_rank() :: dist.get_world_size()])",
            ),
        ],
    ],
)
def test_images_nobody_sees_accepts(changes):
    accepted(repair(SAMPLED, *broken(SAMPLED, *changes)))


@pytest.mark.parametrize(
    ("changes", "symptom"),
    [
        ([(SET, "        pass")], "order_repeats"),
        ([(EPOCH, "seed")], "order_repeats"),
        (
            [
                (SET, "        pass"),
                ("            optimizer.step()\n", "            optimizer.step()\n        sampler.set_epoch(epoch)\n"),
            ],
            "order_repeats",
        ),
        ([(EPOCH, "epoch + dist.get_rank()")], "still_there"),
        ([(EPOCH, "epoch"), ("seed=seed", "seed=seed + dist.get_rank()")], "still_there"),
        ([("seed=seed", "shuffle=False")], "no_shuffle"),
        ([("sampler=sampler", "shuffle=True")], "whole_set"),
        ([(EPOCH, "epoch"), ("data, seed=seed", "data")], "seed_ignored"),
        ([(EPOCH, "epoch"), ("lr=lr", "lr=lr / 10")], "training_changed"),
        ([(EPOCH, "epoch"), ("            average_gradients(model)\n", "")], "training_changed"),
    ],
)
def test_images_nobody_sees_refuses(changes, symptom):
    refused(repair(SAMPLED, *broken(SAMPLED, *changes)), symptom)


def fetched(ranks, count, epochs=images_nobody_sees.EPOCHS, **settings):
    """What each of the ranks fetches with a DistributedSampler."""
    samplers = [DistributedSampler(range(count), ranks, rank, **settings) for rank in range(ranks)]
    orders = []
    for sampler in samplers:
        orders.append([])
        for epoch in range(epochs):
            sampler.set_epoch(epoch)
            orders[-1] += list(sampler)
    return orders


@pytest.mark.parametrize(
    ("orders", "symptom", "says"),
    [
        (fetched(3, 70, drop_last=True), "left_out", "none is fetched twice, and 1 of them by nobody"),
        (fetched(2, 64, epochs=6), "count", "fetch 192, 192 images in 3 epochs"),
        (
            [order[:length] for order, length in zip(fetched(3, 70), (72, 69, 69), strict=True)],
            "unequal_shares",
            "72, 69, 69",
        ),
    ],
)
def test_images_nobody_sees_says_what_is_true_of_shares_that_fit_together(orders, symptom, says):
    with pytest.raises(Wrong) as refusal:
        images_nobody_sees._judge_orders(orders, len(orders), 70 if len(orders) == 3 else 64)
    assert refusal.value.symptom == symptom
    assert says in refusal.value.hint


def test_images_nobody_sees_compares_orders_of_two_seeds_whatever_the_number_of_epochs(monkeypatch):
    runs = [images_nobody_sees.Run(order, order, []) for order in fetched(2, 64)]
    monkeypatch.setattr(images_nobody_sees, "on_ranks", lambda *_given, **_more: runs)
    with pytest.raises(Wrong, match="in the same order"):
        images_nobody_sees.judge(Program(SAMPLED), 0)


# closed_connection: each rank decides alone when to stop

STALE = "closed_connection"
ITEM = "        loss = validation_loss(model, *val).item()\n"
SUMMED = """\
        loss = validation_loss(model, *val)
        dist.all_reduce(loss)
        loss = loss.item()
"""
MEAN = SUMMED.replace("loss.item()", "loss.item() / dist.get_world_size()")
LEAVES = """\
            try:
                average_gradients(model)
            except RuntimeError:
                return losses
"""
STOP = "        if stale == patience:\n            break\n"


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        [  # rank 0 decides
            (
                STOP,
                "        done = torch.tensor([stale >= patience])\n        dist.broadcast(done, src=0)\n"
                "        if done:\n            break\n",
            )
        ],
        [  # one vote is enough
            (
                STOP,
                "        votes = torch.tensor(float(stale >= patience))\n"
                "        dist.all_reduce(votes, dist.ReduceOp.MAX)\n"
                "        if votes:\n            break\n",
            )
        ],
    ],
)
def test_closed_connection_accepts(changes):
    accepted(repair(STALE, *broken(STALE, *changes)))


@pytest.mark.slow
def test_closed_connection_asks_two_and_three_ranks_for_different_patience():
    for seed in (0, 7, 12):  # or a patience that is written down would be right in the notebook
        assert {closed_connection._disagreement(ranks, seed)[2] for ranks in (2, 3)} == {1, 3}


@pytest.mark.parametrize(
    ("seed", "count", "symptom"),
    [(15, 4, None), (15, 9, None), (15, 10, "patience"), (10, 7, None), (10, 6, "patience"), (10, 4, "patience")],
)
def test_closed_connection_knows_when_three_ranks_may_stop_together(seed, count, symptom):
    *_, expected = closed_connection._disagreement(3, seed)
    assert expected.own == {10: [8, 9, 5], 15: [5, 5, 4]}[seed]  # with 15, all want to stop at once after 9
    runs = [([row[0] for row in expected.losses[:count]], expected.weights[count - 1], 0)] * 3
    with contextlib.nullcontext() if symptom is None else pytest.raises(Wrong) as refusal:
        assert closed_connection._judge_runs(runs, expected) == count
    assert symptom is None or refusal.value.symptom == symptom


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "symptom"),
    [
        ([(STOP, "")], "never_stops"),
        ([("stale == patience", "stale == patience and dist.get_rank() == 0")], "left_alone"),
        (
            [
                (
                    "            average_gradients(model)\n",
                    "            try:\n                average_gradients(model)\n"
                    "            except RuntimeError:\n                pass\n",
                )
            ],
            "ranks_disagree",
        ),
        ([("            average_gradients(model)\n", LEAVES)], "error_swallowed"),
        ([(ITEM, MEAN), ("            average_gradients(model)\n", "")], "training_changed"),
        ([(ITEM, MEAN), ("stale == patience", "stale == 2")], "patience"),
        ([(ITEM, MEAN), ("        losses.append(loss)\n", "")], "wrong_value"),
        ([(ITEM, SUMMED)], "wrong_value"),
        ([(ITEM, SUMMED), ("    return losses\n", "    print(losses)\n")], "wrong_type"),
        ([(STOP, "        if epoch == 0:\n            break\n")], "patience"),
        ([(STOP, "        dist.barrier()\n" + STOP)], "left_alone"),
        ([(ITEM, SUMMED), ("lr=lr, momentum", "lr=0.05, momentum")], "training_changed"),
    ],
)
def test_closed_connection_refuses(changes, symptom):
    refused(repair(STALE, *broken(STALE, *changes)), symptom)


@pytest.mark.slow
def test_closed_connection_refuses_ranks_that_wait_for_one_another(monkeypatch):
    monkeypatch.setattr("torchcourse.lessons.troubleshooting.clinic.cases.closed_connection.TIME_LIMIT", 3.0)
    waits = STOP.replace("            break", "            dist.barrier()\n            break")
    refused(repair(STALE, *broken(STALE, (STOP, waits))), "hang")


# resumes_elsewhere: a checkpoint that counts a step too many

RESUMED = "resumes_elsewhere"
SAVE = """\
        if (step + 1) % every == 0:
            torch.save(
                {"step": step + 1}
                | {name: part.state_dict() for name, part in run.items()},
                path,
            )
"""
STATE_FIRST = """\
        if (step + 1) % every == 0:
            state = {"step": step + 1} | {name: part.state_dict() for name, part in run.items()}
            torch.save(state, path)
"""
OPTIMIZER = '        run["optimizer"].step()\n'
SCHEDULER = '        run["scheduler"].step()\n'


def saved_after(line, save=SAVE):
    return [(SAVE, ""), (line, line + save)]


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        [('{"step": step + 1}', '{"step": step}')],  # the step is done again
        saved_after(SCHEDULER, STATE_FIRST),
        [
            (SAVE, ""),
            (
                "        images, labels = batch_of(step)\n",
                SAVE.replace("(step + 1) % every", "step and step % every").replace("step + 1", "step")
                + "        images, labels = batch_of(step)\n",
            ),
        ],
        [
            (SAVE, ""),
            (
                "        images, labels = batch_of(step)\n",
                "        images, labels = batch_of(step)\n"
                + SAVE.replace("(step + 1) % every", "step and step % every").replace("step + 1", "step"),
            ),
        ],
    ],
)
def test_resumes_elsewhere_accepts(changes):
    accepted(repair(RESUMED, *broken(RESUMED, *changes)))


@pytest.mark.parametrize(
    ("changes", "symptom"),
    [
        (saved_after(SCHEDULER, SAVE.replace('"step": step + 1', '"step": step')), "step_twice"),
        (saved_after(OPTIMIZER), "rate_off"),
        ([('start = saved.pop("step")', 'start = saved.pop("step") + 1')], "other_interval"),
        ([("if path.exists()", "if False")], "starts_over"),
        ([(SAVE, "")], "no_checkpoint"),
        (saved_after(SCHEDULER, SAVE.replace("% every", "% 10")), "no_checkpoint"),
        (saved_after(SCHEDULER, SAVE + "    path.unlink()\n"), "no_checkpoint"),
        (
            [*saved_after(SCHEDULER), ("        for name, state", "        path.unlink()\n        for name, state")],
            "no_checkpoint",
        ),
        ([*saved_after(SCHEDULER), ("range(start, steps)", "range(start, start + steps)")], "training_changed"),
        (saved_after(SCHEDULER, SAVE.replace("(step + 1) % every == 0", "True")), "other_interval"),
        (
            [
                *saved_after(SCHEDULER),
                ("run[name].load_state_dict(state)", "name == 'optimizer' or run[name].load_state_dict(state)"),
            ],
            "rate_off",
        ),
        (saved_after(SCHEDULER, SAVE.replace("run.items()}", "run.items() if name != 'scheduler'}")), "rate_off"),
        (
            [
                *saved_after(SCHEDULER),
                (
                    "run[name].load_state_dict(state)",
                    "state.get('state', {}).clear() if name == 'optimizer' else None\n"
                    "            run[name].load_state_dict(state)",
                ),
            ],
            "drifts",
        ),
        ([("(step + 1) % every == 0", "(step + 1) % every == 0 and step + 1 != every")], "still_there"),
        (
            [*saved_after(SCHEDULER), ("        loss.backward()\n", "        (loss / 2).backward()\n")],
            "training_changed",
        ),
    ],
)
def test_resumes_elsewhere_refuses(changes, symptom):
    refused(repair(RESUMED, *broken(RESUMED, *changes)), symptom)
