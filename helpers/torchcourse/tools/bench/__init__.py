"""Speed tables, each measured side by side in one run: `python -m torchcourse.tools.bench`, or `make bench`.

Timings on a busy machine are noisy. So a table never compares two runs of different minutes: the candidates take
turns, round after round, and the median of each is set against the median of the first. Nothing here is a test.
"""
