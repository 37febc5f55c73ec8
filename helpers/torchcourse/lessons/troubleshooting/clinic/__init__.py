"""The clinic: broken training programs, each with a real symptom, that a learner repairs and a judge examines.

    clinic.admit("learns_then_forgets")              # the complaint, the log of a run made now, the program
    clinic.evidence("learns_then_forgets")           # what else can be measured
    clinic.hints("learns_then_forgets")              # three hints, opened one by one
    clinic.run("learns_then_forgets", train_epoch)   # the whole program, with a repaired part in it
    clinic.discharge("learns_then_forgets")          # what it was, once it is healed
    clinic.board()                                   # who is healed

Every patient with its cause, for authors: README.md beside this file.

How to write a case
-------------------
A case is a script `programs/SLUG.py`, a module `cases/SLUG.py`, its texts in `cases/texts.yaml`, its name in
`cases.WARDS` and its row in README.md. Learners read the slug: it names the symptom, never the cause.

The program is a script as one really writes it, 25 to 60 lines: functions and a `main(...)` with defaults, whose seed
and data can be set, that prints what a user sees. It runs in about a second. It is never imported: each use
executes it in a fresh namespace (`Program`). The fault lies in one to three functions or classes, the *parts*. Their
names occur in no other case, so that a notebook can hold the parts of all patients.

The texts are title, complaint (as a user reports it; the log brings the numbers), three hints (where to look, what to
measure, what to look for), a diagnosis (shown when the patient is healed: what it was, where one meets it), and the
names of the parts. The docstring of the module is "Patient: " and the cause in one sentence. It defines two functions,
and `log` where the program runs in a process of its own:

* `evidence(program)` shows what can be measured on the broken program, with `torchcourse.figures`. It may return
  numbers by name for the lesson's `outcome`.
* `judge(program, seed)` looks at a program with the learner's parts in it. Like a check, it raises
  `torchcourse.checks.Wrong(symptom, hint)` or returns the sentence for success. `seed` sets the data and the sizes: the
  visible check takes 0, the hidden test others. It proves three things: the fault is gone; the rest still works (same
  steps, learning rate, data and result); none of the ways to mute the symptom was taken, and each such way has a
  symptom of its own. What is general has its name in `checks.symptoms`: the broken program is refused with
  `still_there`, or with `left_alone`. Compare with an oracle that the judge computes itself. `checks.kit` and
  `comparisons` compare, `training_step.TrainingRecorder` records optimizer steps and forward passes,
  `tracking.MemoryTracker` what is alive. Call a part inside `called_with(...)`: where it ends in an error, the learner
  reads which sizes it was given. Aim at half a second. What may hang or die runs in `checks.kit.on_ranks` or in
  `separate_process`.

In the lesson's source, the empty cell `# %% patient: SLUG` becomes three: admit, evidence, hints. The cell
`# %% repair: SLUG` holds the repaired parts; the release shows the parts of the program in its place. The build puts
the check after it (`check.repair("SLUG", part, ..., points=1)`, with a hidden test on two other seeds), then the texts
that begin with `<details>`, then discharge. A help text quotes the hint that it helps with, word for word. An untouched
part counts as "not done yet". Tests: `tests/lessons/troubleshooting/test_checks_clinic_loop.py` is the model.
"""

from torchcourse.lessons.troubleshooting.clinic.case import Case, find
from torchcourse.lessons.troubleshooting.clinic.cases import WARDS
from torchcourse.lessons.troubleshooting.clinic.display import admit, board, discharge, evidence, hint, hints, run
from torchcourse.lessons.troubleshooting.clinic.judging import examine, symptom
from torchcourse.lessons.troubleshooting.clinic.program import Program

__all__ = [
    "WARDS",
    "Case",
    "Program",
    "admit",
    "board",
    "discharge",
    "evidence",
    "examine",
    "find",
    "hint",
    "hints",
    "run",
    "symptom",
]
