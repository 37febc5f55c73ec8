"""Lesson 04, monitoring and checkpoints (모니터링과 체크포인트): what a log tells, and a run that a crash cannot cost.

sick_runs         training runs that fail on purpose, each in one way
diagnosis         the name of what is wrong with a run, and the evidence
count_waits       how often a program waits for its device
tensorboard_page  TensorBoard under a cell
by_hand           a run with every piece of its state in plain sight
save_interval     how often to save
foreign_examples  checkpoints as they are met in the wild
checks            of the exercises

Pictures: `run_picture` (of a run's log), and those beside the module whose numbers they show.
"""

LESSON = 4
