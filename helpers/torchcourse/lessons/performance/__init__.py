"""Lesson 09: where the time of a training step goes, and what makes it shorter.

`step_clock` breaks a step into parts by the clock. `roofline` measures what this machine can do at best, and where each
layer stands. `graphs` counts what `torch.compile` made of a function. `speed` compares two functions by their time in
one run. What draws is beside the module whose numbers it shows.
"""

LESSON = 9
