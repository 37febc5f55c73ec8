"""Checks of lesson 04, notebook 3: a run that goes on after a restart as if unbroken, noise that can be drawn again."""

import copy
import random
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from torchcourse.checks import Wrong, check
from torchcourse.checks.kit import on_ranks, result_of, same, tensor_of
from torchcourse.lessons.monitoring import by_hand
from torchcourse.lessons.monitoring.by_hand import Run
from torchcourse.training import CheckpointError, checkpoint


@check
def resume(learner: tuple[Callable[[Run], dict], Callable[[Run, dict], Any]]) -> str:
    """Stop in two places, build everything again, restore, and compare each piece and all later losses."""
    capture, restore = learner
    for stop in (7, 27):
        run = Run(seed=5)
        run.train(stop)
        random, before = torch.get_rng_state(), copy.deepcopy(by_hand.capture(run))
        loaded = _through_a_file(capture(run))
        for piece, now in by_hand.capture(run).items():
            if not same(now, before[piece], tolerance=0):
                raise Wrong(
                    "inputs_changed",
                    f"Your capture changes the run: its piece “{piece}” is different afterwards. A run that is saved "
                    "would go on differently from one that is not. Read each state, and draw, seed or step nothing.",
                )
        other = Run(seed=99)
        other.train(1)
        capture(other)  # now what it keeps beside the dict is another run's
        again = Run(seed=stop)
        restore(again, loaded)
        if same(again.model.state_dict(), other.model.state_dict(), tolerance=0):
            raise Wrong(
                "kept_elsewhere",
                "A different run was captured in between, and restore brought back that one. What you keep beside the "
                "dict is lost with the process: restore from `state` alone.",
            )
        _judge_pieces(again, run, random, f"After step {stop} and a restart")
        torch.set_rng_state(random)
        after = run.train(13)
        torch.set_rng_state(random)
        if again.train(13) != after:
            raise Wrong(
                "other_run",
                f"After step {stop} and a restart every piece looks right, and the losses still differ. Does the new "
                "run train the model, the optimizer and the schedule that you restored?",
            )
    return "Stopped within the first and the second epoch: all losses after the restart are those of the unbroken run."


def _through_a_file(state: Any) -> dict[str, Any]:
    if not isinstance(state, dict):
        raise Wrong(
            "wrong_type", f"capture() should return a dict of all pieces. It returned a {type(state).__name__}."
        )
    with tempfile.TemporaryDirectory() as folder:
        try:
            checkpoint.save(state, Path(folder) / "state.pt")
            return checkpoint.load(Path(folder) / "state.pt")
        except TypeError as error:
            raise Wrong(
                "unsavable", f"{error} Put states into the dict, not objects: most objects have a method for that."
            ) from None
        except CheckpointError as error:
            raise Wrong("unsavable", str(error)) from None


def _judge_pieces(again: Run, run: Run, random: torch.Tensor, when: str) -> None:
    """Compare a restored run with the one that was stopped, piece by piece; `random` is PyTorch's state at the stop."""
    drawn = torch.get_rng_state()
    parameters = dict(run.model.named_parameters())
    right = run.model.state_dict()
    for name, tensor in again.model.state_dict().items():
        if not torch.equal(tensor, right[name]):
            if name in parameters:
                raise Wrong("model", f"{when}, {name} is not as it was: the model begins with other weights.")
            raise Wrong(
                "buffers",
                f"{when}, {name} is not as it was. The parameters are not all of a model: BatchNorm also keeps "
                "statistics.",
            )
    ours, theirs = run.optimizer.state_dict(), again.optimizer.state_dict()
    (step, rate), (new_step, new_rate) = (
        (one.scheduler.last_epoch, one.optimizer.param_groups[0]["lr"]) for one in (run, again)
    )
    for symptom, equal, hint in (
        (
            "position",
            (again.epoch, again.batch) == (run.epoch, run.batch),
            f"training goes on at epoch {again.epoch}, batch {again.batch}; it had come to epoch {run.epoch}, batch "
            f"{run.batch}. Some samples come twice, or never.",
        ),
        (
            "unlinked",
            again.scheduler.optimizer is again.optimizer,
            "the schedule still steers the optimizer that was there before: the one that trains keeps its rate.",
        ),
        (
            "optimizer",
            same(theirs["state"], ours["state"], tolerance=0),
            f"the optimizer has forgotten: AdamW keeps two running means for each weight, and yours has "
            f"{len(theirs['state'])} of {len(ours['state'])} entries, or others. The first steps will be of a "
            "different length.",
        ),
        (
            "scheduler",
            step == new_step,
            f"the schedule is at step {new_step}; it had come to step {step}. The learning rates to come are those of "
            "other steps.",
        ),
        ("rate", rate == new_rate, f"the learning rate is {new_rate:.6f}; it was {rate:.6f}."),
        (
            "random",
            torch.equal(drawn, random),
            "all else is right, but dropout will draw other numbers: the state of PyTorch's generator is not the one "
            "of the moment of saving.",
        ),
    ):
        if not equal:
            raise Wrong(symptom, f"{when}, {hint}")


Noisy = Callable[[torch.Tensor, int, int, int], torch.Tensor]


@check
def noisy_image(learner: Noisy) -> str:
    """Draw the same sample after other draws, and compare samples that have to differ."""
    image = torch.linspace(0, 1, 3 * 28 * 20).view(3, 28, 20)  # not square, so that no size is taken for another
    torch.manual_seed(0)
    first = result_of(learner, image, 0, 1, 5, what="the image, which would carry this noise into the next epoch")
    first = tensor_of(first, image.shape, f"Return an image of shape {list(image.shape)}.", image.dtype)
    torch.manual_seed(1)
    torch.rand(())  # at the start of the stream, a seed that is put back looks like a state that is
    before = torch.get_rng_state()
    if not torch.equal(learner(image, 0, 1, 5), first):
        raise Wrong(
            "stream",
            "The same seed, epoch and index gave two different images, one after the other. The noise still comes "
            "from a stream, so it depends on what was drawn before: by this process, or by whichever worker got the "
            "sample.",
        )
    _judge_noise(first, image, learner(torch.zeros_like(image), 0, 1, 5))
    if not torch.equal(before, torch.get_rng_state()):
        raise Wrong("global", _GLOBAL.format("PyTorch's"))
    _refuse_seeding_others(learner, image)
    for key, symptom, hint in (
        ((0, 2, 5), "same_every_epoch", f"{_SAME_EVERY_EPOCH} {_LOWER_BITS}"),
        ((0, 1, 6), "same_for_all", f"Two different samples get the same noise. {_LOWER_BITS}"),
        ((7, 1, 5), "seed_ignored", f"{_SEED_IGNORED} {_LOWER_BITS}"),
    ):
        if torch.equal(learner(image, *key), first):
            raise Wrong(symptom, hint)
    keys = [(seed, epoch, index) for seed in (0, 1, 2) for epoch in range(4) for index in (*range(40), 100, 1000)]
    _refuse_collisions([tuple(learner(image, *key).flatten()[:4].tolist()) for key in keys], keys)
    there = on_ranks(learner, image, 0, 1, 5, world_size=1, seconds=TIME_LIMIT)[0]
    if not torch.equal(there, first):
        raise Wrong(
            "other_process",
            "In a different process the same three numbers give different noise: after a restart the run would not be "
            "the same. What goes into your seed? hash() of a text, for one, is different in each process.",
        )
    return f"{len(keys)} combinations of seed, epoch and index: each has its own noise, whatever was drawn before."


TIME_LIMIT = 20.0  # seconds for one call in a process of its own

_GLOBAL = (
    "Your function moves {} own random numbers, from which others draw, as dropout does: each sample would set them "
    "back to the same place. Draw from a generator of your own."
)
_SAME_EVERY_EPOCH = "In two epochs the image gets the same noise: it is augmented once for all."
_SEED_IGNORED = "Two runs with different seeds get the same noise: the seed does not count."
_LOWER_BITS = (
    "Are all three numbers in the one that you seed a generator with? One on the CPU reads the lower 32 bits of it, "
    "and no more."
)


def _refuse_collisions(noises: list[tuple[float, ...]], keys: list[tuple[int, int, int]]) -> None:
    """Refuse three numbers that are mixed up; name the first two keys that get the same."""
    first: dict[tuple[float, ...], tuple[int, int, int]] = {}
    for noise, key in zip(noises, keys, strict=True):
        if (other := first.setdefault(noise, key)) != key:
            raise Wrong(
                "collision",
                f"Of {len(keys)} different combinations of seed, epoch and index, only {len(set(noises))} get noise of "
                f"their own: {other} and {key}, say, get the same. How do your three numbers become one?",
            )


def _refuse_seeding_others(learner: Noisy, image: torch.Tensor) -> None:
    """Refuse noise that sets the generators that Python or NumPy has for everybody."""
    states = random.getstate(), np.random.get_state()
    drawn = []
    for seed in (1, 2):
        random.seed(seed)
        np.random.seed(seed)
        learner(image, 0, 1, 5)
        drawn.append({"Python's": random.random(), "NumPy's": np.random.random_sample()})
    random.setstate(states[0])
    np.random.set_state(states[1])
    for name, value in drawn[0].items():
        if value == drawn[1][name]:
            raise Wrong("global", _GLOBAL.format(name))


def _judge_noise(result: torch.Tensor, image: torch.Tensor, on_black: torch.Tensor) -> None:
    """Refuse noise that is not normal around 0 with a deviation of 0.1; `on_black` is the result for a black image."""
    noise = (result - image).double()
    deviation, mean, largest = float(noise.std()), float(noise.mean()), float(noise.abs().max())
    if deviation > 0 and torch.equal(result, on_black):
        raise Wrong("image_lost", "A different image gives the same result: the image itself is not in it.")
    if float(result.min()) >= 0 and float(result.max()) <= 1 and largest > 0:
        raise Wrong("clamped", "All values of your result are between 0 and 1: the noise beyond is cut off. Leave it.")
    pixels, different = on_black.numel(), len(on_black.unique())
    if different < pixels / 2 and on_black.any():
        share = f"share {different} values" if different > 1 else "have one value"
        raise Wrong("repeated", f"The {pixels} pixels {share} of noise. Each needs one of its own.")
    if deviation > 0 and not torch.allclose(noise, on_black.double(), atol=1e-5):
        raise Wrong(
            "depends_on_image",
            "Two images get different noise for the same three numbers. The noise is added, and depends on seed, epoch "
            "and index alone.",
        )
    if not 0.09 < deviation < 0.11 or abs(mean) > 0.02 or largest < 0.2:
        raise Wrong(
            "other_noise",
            "The noise should be normal, with a mean of 0 and a standard deviation of 0.1. Yours has a mean of "
            f"{mean:.3g} and a standard deviation of {deviation:.3g}, and the largest of its {noise.numel()} values is "
            f"{largest:.3g}.",
        )
