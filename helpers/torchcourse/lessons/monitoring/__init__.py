"""Lesson 04, monitoring and checkpoints (모니터링과 체크포인트): what a log tells, and a run that a crash cannot cost.

sick_runs         training runs that fail on purpose, each in one way
diagnosis         the name of what is wrong with a run, and the evidence
count_waits       how often a program waits for its device
tensorboard_page  TensorBoard under a cell
by_hand           a run with every piece of its state in plain sight
save_interval     how often to save
foreign_examples  checkpoints as they are met in the wild
elastic_digits    a training run that goes on after its ranks died, also as a script for torchrun
two_machines      two agents of torchrun, of which a rank and a machine are killed
crash_costs       what crashes cost: exact, and simulated
seen_samples      which samples are in the weights of a run that was started again
resharding        saved on some ranks, resumed on others; what a step waits for
local_sgd         steps of one's own between averages: waiting and accuracy
checks            of the exercises

Pictures: `run_picture` (of a run's log), and those beside the module whose numbers they show.
"""

LESSON = 4
