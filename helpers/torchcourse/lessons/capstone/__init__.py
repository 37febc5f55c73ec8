"""Lesson 10, capstone (종합 과제): a project from a folder of files to a report, on two ranks.

delivery   the customer's files: photographs of digits on cards, with a label table, and what is wrong with them
sizes      the one setting of the project: how much data, how many trials, epochs and seeds
budget     CPU-seconds of a function, of its ranks too
colleague  a training run with a planted failure, a different one for each learner
_planted   the program of that run, packed, and the runs that a diagnosis is checked on
records    what that run leaves behind, step by step
measured   accuracies card by card: what the report is about
checks     of the milestones
"""

LESSON = 10
