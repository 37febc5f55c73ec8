"""Patient: a checkpoint written before `step`, which counts a step whose update it does not hold."""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from torchcourse import figures
from torchcourse.checks import Wrong
from torchcourse.lessons.troubleshooting.clinic.comparisons import called_with
from torchcourse.lessons.troubleshooting.clinic.program import Program

State = tuple[torch.Tensor, float]
"""All weights of a run in one vector, and its learning rate."""


class RecordedBatches:
    """A run's batches; each time it asks for one, its state is kept by the number of the step."""

    def __init__(self, run: dict[str, Any], batch_of: Callable[[int], Any]) -> None:
        self.run, self.batch_of = run, batch_of
        self.states: dict[int, State] = {}

    def __call__(self, step: int) -> Any:
        batch = self.batch_of(step)
        self.states[step] = _state(self.run)
        return batch


def _state(run: dict[str, Any]) -> State:
    weights = torch.cat([parameter.detach().flatten() for parameter in run["model"].parameters()])
    return weights, run["optimizer"].param_groups[0]["lr"]


def evidence(program: Program) -> None:
    with tempfile.TemporaryDirectory() as folder:
        whole, resumed = (RecordedBatches(program.new_run(), program.batches()) for _ in range(2))
        program.train_resumably(whole.run, whole, 40, Path(folder, "whole.pt"))
        _until_cut(program, program.new_run(), program.batches(cut=27), 40, Path(folder, "cut.pt"))
        program.train_resumably(resumed.run, resumed, 40, Path(folder, "cut.pt"))
    steps = sorted(resumed.states)
    apart = [(resumed.states[step][0] - whole.states[step][0]).norm().item() for step in steps]
    stride = (whole.states[steps[0]][0] - whole.states[steps[0] - 1][0]).norm().item()
    figure, axis = figures.new()
    axis.plot(steps, apart, marker="o", markersize=3, label="distance of the resumed weights from the right ones")
    axis.axhline(
        stride, linestyle="--", color=figures.COLORS["gray"], label=f"length of the update of step {steps[0] - 1}"
    )
    axis.set(xlabel="step, before its update", ylabel="distance", ylim=(0, None))
    axis.xaxis.get_major_locator().set_params(integer=True)
    axis.legend()
    finding = f"At step {steps[0]}, the first after the resume, the weights are {apart[0]:.3f} apart already"
    axis.set_title(finding)
    figures.show(figure, f"{finding}; one update has the length {stride:.3f}. At step {steps[-1]}: {apart[-1]:.3f}.")


def _until_cut(
    program: Program, run: dict[str, Any], batch_of: Callable[[int], Any], steps: int, path: Path, **options: int
) -> None:
    try:
        program.train_resumably(run, batch_of, steps, path, **options)
    except program.PowerCut:
        return
    raise Wrong("no_cut", "The power went, and your program did not notice: it should end there.")


def judge(program: Program, seed: int) -> str:
    """Train in one go, and with power cuts at several steps; compare with a plain loop, step by step."""
    steps, every = 25 + seed % 3, 4 + seed % 3  # no checkpoint at the very end: one that is taken away is missed
    right = _plain(program, steps, seed)
    with tempfile.TemporaryDirectory() as folder:
        whole = RecordedBatches(program.new_run(seed), program.batches(seed))
        with called_with(f"{steps} steps and a checkpoint every {every}, without a power cut"):
            program.train_resumably(whole.run, whole, steps, Path(folder, "whole.pt"), every=every)
        if list(whole.states) != list(range(steps)) or not _same(_state(whole.run), right[steps]):
            raise Wrong("training_changed", "Without any power cut, the training is not what it was.")
        for number, cut in enumerate((2 * every + 1, 3 * every, steps - 1)):
            path = Path(folder, f"cut{number}.pt")
            with called_with(f"{steps} steps and a checkpoint every {every}, up to the power cut in step {cut}"):
                _until_cut(program, program.new_run(seed), program.batches(seed, cut=cut), steps, path, every=every)
            _judge_resumed(program, path, right, cut, every, seed)
    return f"Healed: cut at three places, resumed each time, and after {steps} steps exactly the weights of one go."


def _plain(program: Program, steps: int, seed: int) -> list[State]:
    """Return the state before each step, and after the last one."""
    run, batch_of = program.new_run(seed), program.batches(seed)
    states = []
    for step in range(steps):
        states.append(_state(run))
        images, labels = batch_of(step)
        run["optimizer"].zero_grad()
        F.cross_entropy(run["model"](images), labels).backward()
        run["optimizer"].step()
        run["scheduler"].step()
    return [*states, _state(run)]


def _same(one: State, other: State) -> bool:
    return _close(one[0], other[0]) and abs(one[1] - other[1]) < 1e-9


def _close(one: torch.Tensor, other: torch.Tensor) -> bool:
    return torch.allclose(one, other, rtol=1e-4, atol=1e-6)


def _judge_resumed(program: Program, path: Path, right: list[State], cut: int, every: int, seed: int) -> None:
    steps = len(right) - 1
    if not path.exists():
        raise Wrong(
            "no_checkpoint",
            f"Cut in step {cut}, with a checkpoint every {every} steps, there is no file at `path` to go on from. When "
            "is it written, and where?",
        )
    resumed = RecordedBatches(program.new_run(seed), program.batches(seed))
    with called_with(f"{steps} steps and a checkpoint every {every}, again after the power cut in step {cut}"):
        program.train_resumably(resumed.run, resumed, steps, path, every=every)
    case = f"Cut in step {cut}, with a checkpoint every {every} steps, the second start begins with step"
    asked = sorted(resumed.states)
    _judge_steps(asked, cut, every, steps, case)
    first = asked[0]
    weights = resumed.states[first][0]
    case = f"{case} {first}, where the weights should be those after {first} updates"
    if not _close(weights, right[first][0]):
        others = [count for count in range(len(right)) if _close(weights, right[count][0])]
        if others == [first - 1]:
            raise Wrong(
                "still_there", f"{case}; they are those after {first - 1}. The update of one step is in no file."
            )
        if others == [first + 1]:
            raise Wrong("step_twice", f"{case}; they are those after {first + 1}. One batch is trained on twice.")
        raise Wrong("not_restored", f"{case}; they are those of no step at all.")
    for step in asked:
        rate, wanted = resumed.states[step][1], right[step][1]
        if abs(rate - wanted) > 1e-9 and _close(resumed.states[step][0], right[step][0]):
            raise Wrong(
                "rate_off",
                f"{case}, and they are. But at step {step} the learning rate is {rate:.6f} instead of {wanted:.6f}. "
                "Who sets it, and does all that is saved and loaded belong to the same moment?",
            )
    if not _same(_state(resumed.run), right[steps]):
        raise Wrong(
            "drifts",
            f"{case}, and they are, and so is the learning rate. Yet the run ends elsewhere. What else does an "
            "optimizer with momentum remember from step to step?",
        )
    if not path.exists():
        raise Wrong(
            "no_checkpoint",
            "The resumed run ends with the right weights, and takes its checkpoint away: whoever starts the program "
            "once more begins with step 0. It stayed where it was before.",
        )


def _judge_steps(asked: list[int], cut: int, every: int, steps: int, case: str) -> None:
    """Refuse a second start that begins at a different step than the newest checkpoint's, or that goes on too long."""
    newest = cut // every * every
    if not asked or asked[0] == 0:
        raise Wrong(
            "starts_over",
            f"{case} {asked[0] if asked else 'none'}: no use is made of a checkpoint. The weights may be right in the "
            "end, after all the work was done twice.",
        )
    if asked[-1] >= steps:
        raise Wrong(
            "training_changed", f"{case} {asked[0]} and goes on to step {asked[-1]}; {steps - 1} was to be the last."
        )
    # A file that is written when the next batch has arrived does not exist yet if the power goes while it comes.
    expected = {newest, newest - 1} | ({newest - every, newest - every - 1} if cut == newest else set())
    if asked[0] not in expected:
        raise Wrong(
            "other_interval",
            f"{case} {asked[0]}; {newest} or the step before was to be expected. When is it saved, and how often?",
        )
